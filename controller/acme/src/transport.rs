//! The HTTP client as held to one directory, under instant-acme and beside it: one store of nonces, no request to a foreign
//! origin, and a record of the last answer, so that no status or header is lost.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use url::{Origin, Url};

use crate::client::{Answer, Outcome, Wire, WireError};
use crate::jose::Signer;

/// Nonces kept: twice as many as requests run at a time.
const MOST_NONCES: usize = 16;
/// A CA forgets nonces; an older one would only be refused.
const OLDEST_NONCE: Duration = Duration::from_mins(2);
/// The header of a nonce (RFC 8555 §6.5.1).
const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");

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

    /// The same as a result.
    pub(crate) fn permit(&self, url: &str) -> Result<(), WireError> {
        if self.allows(url) {
            Ok(())
        } else {
            Err(WireError::ForeignOrigin(url.to_owned()))
        }
    }

    /// How often a request is signed anew after badNonce (RFC 8555 §6.5), the first time counted.
    pub(crate) fn nonce_attempts(&self) -> u32 {
        self.0.wire.limits.nonce_attempts
    }

    /// One signed request to `url`; an empty payload makes it a POST-as-GET.
    pub(crate) async fn post(&self, signer: &Signer, url: &str, payload: &[u8]) -> Outcome {
        let mut attempt = 1;
        loop {
            self.permit(url)?;
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
        self.permit(url)?;
        let mut answer = self.0.wire.send(method, url, body).await?;
        if answer.is_bad_nonce() {
            // A CA that restarted has forgotten them all.
            self.nonces(Vec::clear);
        }
        if let Some(nonce) = answer
            .headers
            .remove(REPLAY_NONCE)
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

    /// One request that is not signed.
    pub(crate) async fn get(&self, url: &str) -> Outcome {
        self.ask(Method::GET, url, None).await
    }

    /// Asks for a nonce, and keeps it.
    pub(crate) async fn ask_nonce(&self) -> Outcome {
        let answer = self.ask(Method::HEAD, &self.0.new_nonce, None).await?;
        Ok(Answer {
            is_for_nonce: true,
            ..answer
        })
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
        let answer = self.ask_nonce().await?;
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
                        HeaderMap::from_iter([(REPLAY_NONCE, nonce)]),
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
