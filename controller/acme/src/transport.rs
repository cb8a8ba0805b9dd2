//! One HTTP client for one directory, under instant-acme and beside it: time-outs, a cap on bodies, our User-Agent, one store
//! of nonces, no request to a foreign origin, and a record of the last answer, so that no status or header is lost.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::ClientConfig;
use tower::ServiceExt;
use tower::util::MapErr;
use url::{Origin, Url};

use crate::jose::Signer;

/// Largest body read: a chain is a few kilobytes, an order of a hundred names some ten.
const LARGEST_BODY: usize = 1024 * 1024;
/// Nonces kept: as many as requests run at a time.
const MOST_NONCES: usize = 16;
/// A CA forgets nonces; an older one would only be refused.
const OLDEST_NONCE: Duration = Duration::from_mins(2);
/// Below what proxies and CAs close idle connections at, so that a request seldom meets one that is just being closed.
const IDLE_CONNECTION: Duration = Duration::from_secs(15);

/// Why there was no answer. The texts finish the sentence "the CA could not be asked: …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The host name does not resolve.
    #[error("its host name is not found")]
    NameNotFound,
    /// Nobody listens there.
    #[error("the connection is refused")]
    Refused,
    /// No connection within the connect time-out, or no whole answer within the request time-out.
    #[error("it does not answer in time")]
    TimedOut,
    /// The server's TLS certificate is not trusted; the text says why.
    #[error("its TLS certificate is not trusted: {0}")]
    Untrusted(String),
    /// The answer is larger than 1 MiB.
    #[error("its answer is larger than 1 MiB")]
    TooLarge,
    /// The URL is not https, or not on an origin that the directory names; nothing was sent.
    #[error("the URL {0} is not on an origin of the directory")]
    ForeignOrigin(String),
    /// newNonce was answered without a nonce (RFC 8555 §7.2).
    #[error("it gives no nonce")]
    NoNonce,
    /// Anything else; the text is the chain of causes.
    #[error("{0}")]
    Broken(String),
}

/// A whole answer, of any status.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What one request came to.
pub(crate) type Outcome = Result<Answer, WireError>;

impl Answer {
    /// The value of a header, if it is there, is text and is not empty.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::trim)
            .filter(|v| !v.is_empty())
    }

    /// Whether only the nonce was refused (RFC 8555 §6.5).
    pub(crate) fn is_bad_nonce(&self) -> bool {
        #[derive(serde::Deserialize)]
        struct Kind {
            r#type: String,
        }
        self.status == StatusCode::BAD_REQUEST
            && serde_json::from_slice::<Kind>(&self.body)
                .is_ok_and(|k| k.r#type == "urn:ietf:params:acme:error:badNonce")
    }
}

/// The limits of time and of repetition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) request: Duration,
    pub(crate) nonce_attempts: u32,
}

/// The HTTP client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) struct Wire {
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    user_agent: HeaderValue,
    limits: Limits,
}

type Resolver = MapErr<GaiResolver, fn(io::Error) -> Unresolved>;

/// Marks the failure of a name look-up among the causes of an error.
#[derive(Debug, thiserror::Error)]
#[error("name not found")]
struct Unresolved;

impl Wire {
    pub(crate) fn new(tls: ClientConfig, user_agent: HeaderValue, limits: Limits) -> Self {
        let unresolved: fn(io::Error) -> Unresolved = |_| Unresolved;
        let mut tcp = HttpConnector::new_with_resolver(GaiResolver::new().map_err(unresolved));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(limits.connect));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .build(https);
        Self {
            client,
            user_agent,
            limits,
        }
    }

    /// One request, and the whole answer within the time-out. Redirects are not followed: no CA sends one.
    pub(crate) async fn send(&self, method: Method, url: &str, body: Option<Bytes>) -> Outcome {
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .header(USER_AGENT, &self.user_agent);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/jose+json");
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|e| WireError::Broken(e.to_string()))?;
        let whole = async {
            let (parts, body) = self
                .client
                .request(request)
                .await
                .map_err(|e| explain(&e))?
                .into_parts();
            let body = Limited::new(body, LARGEST_BODY)
                .collect()
                .await
                .map_err(|e| explain(e.as_ref()))?;
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                body: body.to_bytes(),
            })
        };
        tokio::time::timeout(self.limits.request, whole)
            .await
            .unwrap_or(Err(WireError::TimedOut))
    }
}

/// The first cause that says something to a person.
fn explain(error: &(dyn StdError + 'static)) -> WireError {
    let mut texts = Vec::new();
    let mut cause = Some(error);
    while let Some(e) = cause {
        if e.is::<Unresolved>() {
            return WireError::NameNotFound;
        }
        if e.is::<LengthLimitError>() {
            return WireError::TooLarge;
        }
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(why) => WireError::Untrusted(why.to_string()),
                other => WireError::Broken(format!("TLS fails: {other}")),
            };
        }
        let io = e.downcast_ref::<io::Error>();
        match io.map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => return WireError::Refused,
            Some(io::ErrorKind::TimedOut) => return WireError::TimedOut,
            _ => texts.push(e.to_string()),
        }
        // The source of an io::Error skips the error that it wraps.
        cause = match io.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => e.source(),
        };
    }
    texts.dedup();
    WireError::Broken(texts.join(": "))
}

/// The client as held to one directory.
#[derive(Clone)]
pub(crate) struct Transport(Arc<Held>);

struct Held {
    wire: Wire,
    directory_url: String,
    directory: Bytes,
    new_nonce: String,
    origins: Vec<Origin>,
    nonces: Mutex<Vec<(String, Instant)>>,
}

enum Nonce {
    Fresh(String),
    Refused(Answer),
}

tokio::task_local! {
    static LAST: RefCell<Option<Outcome>>;
}

/// Runs a call of instant-acme; beside its result, what its last request came to (`None`: it sent none).
pub(crate) async fn recorded<F: Future>(call: F) -> (F::Output, Option<Outcome>) {
    LAST.scope(RefCell::default(), async {
        let result = call.await;
        (result, LAST.with(RefCell::take))
    })
    .await
}

/// Runs a call of instant-acme as [`recorded`], again while the CA refuses its nonces, up to the directory's number of
/// attempts. A macro, since the future of an async closure is not known to be `Send`.
macro_rules! with_fresh_nonces {
    ($transport:expr, $call:expr) => {{
        let mut attempts = $crate::transport::ATTEMPTS_IN_A_CALL;
        loop {
            let (result, last) = $crate::transport::recorded($call).await;
            let refused = matches!(&last, Some(Ok(answer)) if answer.is_bad_nonce());
            if !refused || attempts >= $transport.nonce_attempts() {
                break (result, last);
            }
            attempts += $crate::transport::ATTEMPTS_IN_A_CALL;
        }
    }};
}
pub(crate) use with_fresh_nonces;

/// instant-acme's own attempts at a nonce within one call.
pub(crate) const ATTEMPTS_IN_A_CALL: u32 = 3;

impl Transport {
    /// `directory` is the directory's body as fetched from `directory_url`; instant-acme is given it from here, so that an
    /// account costs no further fetch.
    pub(crate) fn new(
        wire: Wire,
        directory_url: String,
        directory: Bytes,
        new_nonce: String,
        origins: Vec<Origin>,
    ) -> Self {
        Self(Arc::new(Held {
            wire,
            directory_url,
            directory,
            new_nonce,
            origins,
            nonces: Mutex::default(),
        }))
    }

    /// Whether `url` is https on an origin that the directory names.
    pub(crate) fn allows(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|u| u.scheme() == "https" && self.0.origins.contains(&u.origin()))
    }

    /// How often a request is signed anew after badNonce (RFC 8555 §6.5), the first time counted.
    pub(crate) fn nonce_attempts(&self) -> u32 {
        self.0.wire.limits.nonce_attempts
    }

    /// One signed request to `url`; an empty payload makes it a POST-as-GET.
    pub(crate) async fn post(&self, signer: &Signer, url: &str, payload: &[u8]) -> Outcome {
        let mut attempt = 1;
        loop {
            if !self.allows(url) {
                return Err(WireError::ForeignOrigin(url.to_owned()));
            }
            let nonce = match self.nonce().await? {
                Nonce::Fresh(nonce) => nonce,
                Nonce::Refused(answer) => return Ok(answer),
            };
            let Some(body) = signer.sign(&nonce, url, payload) else {
                return Err(WireError::Broken("the request cannot be signed".into()));
            };
            let answer = self.ask(Method::POST, url, Some(body.into())).await?;
            if answer.is_bad_nonce() && attempt < self.nonce_attempts() {
                attempt += 1;
                continue;
            }
            return Ok(answer);
        }
    }

    /// One request, and the nonce of its answer kept.
    async fn ask(&self, method: Method, url: &str, body: Option<Bytes>) -> Outcome {
        if !self.allows(url) {
            return Err(WireError::ForeignOrigin(url.to_owned()));
        }
        let mut answer = self.0.wire.send(method, url, body).await?;
        if answer.is_bad_nonce() {
            // A CA that restarted has forgotten them all.
            self.nonces(Vec::clear);
        }
        if let Some(nonce) = answer
            .headers
            .remove("replay-nonce")
            .and_then(|v| v.to_str().ok().map(str::to_owned))
        {
            // An empty nonce, as seen with some 429, would be refused.
            if is_base64url(&nonce) {
                self.nonces(|kept| {
                    kept.truncate(MOST_NONCES - 1);
                    kept.insert(0, (nonce, Instant::now()));
                });
            }
        }
        Ok(answer)
    }

    /// The newest nonce kept, else one from newNonce (RFC 8555 §7.2).
    async fn nonce(&self) -> Result<Nonce, WireError> {
        let take = || {
            self.nonces(|kept| {
                kept.retain(|(_, since)| since.elapsed() < OLDEST_NONCE);
                if kept.is_empty() {
                    None
                } else {
                    Some(kept.remove(0).0)
                }
            })
        };
        if let Some(nonce) = take() {
            return Ok(Nonce::Fresh(nonce));
        }
        let answer = self.ask(Method::HEAD, &self.0.new_nonce, None).await?;
        if !answer.status.is_success() {
            return Ok(Nonce::Refused(answer));
        }
        take().map(Nonce::Fresh).ok_or(WireError::NoNonce)
    }

    fn nonces<T>(&self, change: impl FnOnce(&mut Vec<(String, Instant)>) -> T) -> T {
        change(&mut self.0.nonces.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request of instant-acme, its answer recorded.
    async fn serve(
        self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<BytesResponse, instant_acme::Error> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        if parts.method == Method::GET && url == self.0.directory_url {
            return Ok(reply(
                StatusCode::OK,
                HeaderMap::new(),
                self.0.directory.clone(),
            ));
        }
        let outcome = if parts.method == Method::HEAD && url == self.0.new_nonce {
            match self.nonce().await {
                Ok(Nonce::Fresh(nonce)) => {
                    let nonce = HeaderValue::from_str(&nonce).map_err(http::Error::from)?;
                    return Ok(reply(
                        StatusCode::OK,
                        HeaderMap::from_iter([(
                            "replay-nonce".parse().map_err(http::Error::from)?,
                            nonce,
                        )]),
                        Bytes::new(),
                    ));
                }
                Ok(Nonce::Refused(answer)) => Ok(answer),
                Err(e) => Err(e),
            }
        } else {
            // Infallible: the body is in memory.
            let body = body
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            self.ask(parts.method, &url, Some(body)).await
        };
        // Outside of `recorded` nobody wants to know.
        let _ = LAST.try_with(|last| last.replace(Some(outcome.clone())));
        match outcome {
            Ok(answer) => Ok(reply(answer.status, answer.headers, answer.body)),
            Err(e) => Err(instant_acme::Error::Other(Box::new(e))),
        }
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        Box::pin(self.clone().serve(request))
    }
}

fn reply(status: StatusCode, headers: HeaderMap, body: Bytes) -> BytesResponse {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    BytesResponse::from(response)
}

/// Whether `text` is of the base64url alphabet without padding (RFC 8555 §6.5.1, §8.3), and not empty.
pub(crate) fn is_base64url(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
