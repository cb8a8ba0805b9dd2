//! One HTTP client for one directory: time-outs, our trust, our User-Agent, a cap on bodies, and for every failure a cause in
//! plain words.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use rustls::ClientConfig;
use tower::ServiceExt;
use tower::util::MapErr;

use crate::port::{Clock, Leave};

/// Largest body read: a chain is a few kilobytes, an order of a hundred names some ten.
const LARGEST_BODY: usize = 1024 * 1024;
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
    /// This process has no [`Leave`] to ask any more; nothing was sent.
    #[error("this process does not hold the Lease any more")]
    NoLeave,
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
    /// When it was all there.
    pub(crate) at: Timestamp,
    /// Whether only a nonce was asked for, and nothing yet of what it was for.
    pub(crate) is_for_nonce: bool,
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

    /// The targets of the `Link` headers of a relation (RFC 8288), in order.
    pub(crate) fn links(&self, relation: &str) -> Vec<String> {
        let headers = self.headers.get_all("link").iter();
        let wanted = format!("rel={relation}");
        headers
            .filter_map(|value| value.to_str().ok())
            .flat_map(|links| links.split(','))
            .filter_map(|link| {
                let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
                let mut parameters = parameters.split(';').map(|p| p.replace('"', ""));
                parameters
                    .any(|parameter| parameter.trim() == wanted)
                    .then(|| url.to_owned())
            })
            .collect()
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
    leave: Option<Arc<dyn Leave>>,
    clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
}

type Resolver = MapErr<GaiResolver, fn(io::Error) -> Unresolved>;

/// Marks the failure of a name look-up among the causes of an error.
#[derive(Debug, thiserror::Error)]
#[error("name not found")]
struct Unresolved;

impl Wire {
    pub(crate) fn new(
        tls: ClientConfig,
        user_agent: HeaderValue,
        leave: Option<Arc<dyn Leave>>,
        clock: Arc<dyn Clock>,
        limits: Limits,
    ) -> Self {
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
            leave,
            clock,
            limits,
        }
    }

    /// One request, and the whole answer within the time-out. Redirects are not followed: no CA sends one.
    pub(crate) async fn send(&self, method: Method, url: &str, body: Option<Bytes>) -> Outcome {
        // Here, and not where a call begins: a call can be several requests, and the process may have stood still in between.
        if self.leave.as_ref().is_some_and(|leave| !leave.is_given()) {
            return Err(WireError::NoLeave);
        }
        let mut request = Request::builder()
            .method(&method)
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
                at: self.clock.now(),
                is_for_nonce: false,
            })
        };
        let outcome = tokio::time::timeout(self.limits.request, whole)
            .await
            .unwrap_or(Err(WireError::TimedOut));
        let status = outcome.as_ref().map(|a| a.status.as_u16()).ok();
        tracing::debug!(%method, url, status, "asked the CA");
        outcome
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
    // The outermost only says that a request failed.
    let telling = texts.get(1..).filter(|t| !t.is_empty()).unwrap_or(&texts);
    WireError::Broken(telling.join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer<E: StdError + 'static>(#[source] E);

    #[test]
    fn causes_are_found_however_deep_they_are() {
        let wrapped = |e: io::Error| explain(&Outer(Outer(e)));
        assert_eq!(explain(&Outer(Unresolved)), WireError::NameNotFound);
        assert_eq!(
            wrapped(io::ErrorKind::ConnectionRefused.into()),
            WireError::Refused
        );
        assert_eq!(wrapped(io::ErrorKind::TimedOut.into()), WireError::TimedOut);
        let certificate =
            rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(matches!(
            wrapped(io::Error::other(certificate)),
            WireError::Untrusted(_)
        ));
        assert_eq!(
            wrapped(io::Error::other("cut off")),
            WireError::Broken("cut off".into())
        );
    }
}
