//! The forwarder: passes challenges on to the solver, and nothing else. It has no credentials, reads nothing and decides nothing: what
//! is answered is the solver's.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use evercert_api::keys::CHALLENGE_PATH;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::router::{PLAIN, refuse};
use crate::{RunError, listen, serve};

/// How long the solver may take for all of its answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long a look may take whether the solver listens: a kubelet waits for a second.
const LOOK_TIME: Duration = Duration::from_millis(800);
/// The most that is passed back, in bytes: a key authorization is far shorter.
const ANSWER_CAP: usize = 4 << 10;
/// The longest token that is passed on.
const TOKEN_CAP: usize = 512;

/// What the forwarder needs to know.
#[derive(Debug, Clone, Copy)]
pub struct ForwarderConfig {
    /// Where challenges are taken, and `/healthz` and `/readyz` are answered.
    pub listen: SocketAddr,
    /// Where the solver answers.
    pub solver: SocketAddr,
}

/// Passes challenges on until `shutdown` completes, then lets the connections under way end (10 s at most).
///
/// # Errors
/// [`RunError`] when it cannot begin; never later.
pub async fn run_forwarder(
    config: ForwarderConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), RunError> {
    let listener = listen(config.listen).await?;
    tracing::info!(listen = %config.listen, solver = %config.solver, "passing challenges on");
    let (stop, stopped) = watch::channel(false);
    let stopping = async {
        shutdown.await;
        // The server holds a receiver as long as it runs.
        let _ = stop.send(true);
    };
    let serving = serve::serve(listener, forwarder_router(config.solver), stopped);
    tokio::join!(stopping, serving);
    Ok(())
}

/// GET and HEAD of a challenge go to the solver at `solver`, with the Host that they came with; everything else is 404. `/healthz`: 200
/// as long as the process answers. `/readyz`: 200 while the solver listens, else 503.
pub fn forwarder_router(solver: SocketAddr) -> Router {
    Router::new()
        .route(&format!("{CHALLENGE_PATH}{{token}}"), get(pass_on))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(answer_ready))
        .method_not_allowed_fallback(async || refuse())
        .fallback(async || refuse())
        .with_state(solver)
}

async fn pass_on(
    State(solver): State<SocketAddr>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let token = uri.path().strip_prefix(CHALLENGE_PATH).unwrap_or_default();
    let (true, Some(host)) = (is_token(token), find_host(&uri, &headers)) else {
        return refuse();
    };
    match timeout(ANSWER_TIME, ask(solver, method, uri.path(), host)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => is_unreachable(solver, &error.to_string()),
        Err(_) => is_unreachable(solver, "no answer in time"),
    }
}

async fn answer_ready(State(solver): State<SocketAddr>) -> Response {
    if let Ok(Ok(_)) = timeout(LOOK_TIME, TcpStream::connect(solver)).await {
        return (PLAIN, "ready\n").into_response();
    }
    let text = "the solver cannot be reached from here\n";
    (StatusCode::SERVICE_UNAVAILABLE, PLAIN, text).into_response()
}

/// Asks the solver, on a connection of its own.
async fn ask(
    solver: SocketAddr,
    method: Method,
    path: &str,
    host: HeaderValue,
) -> Result<Response, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(solver).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .body(Empty::<Bytes>::new())?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_CAP).collect().await?.to_bytes();
        let mut response = (head.status, PLAIN, body).into_response();
        // That of a HEAD, which has no body.
        if let Some(length) = head.headers.get(header::CONTENT_LENGTH) {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_LENGTH, length.clone());
        }
        Ok(response)
    };
    tokio::pin!(asking);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut asking => answer,
        ended = &mut connection => {
            ended?;
            asking.await
        }
    }
}

fn is_unreachable(solver: SocketAddr, error: &str) -> Response {
    tracing::warn!(%solver, error, "a challenge could not be passed on");
    let text = "the solver cannot be reached from here\n";
    (StatusCode::BAD_GATEWAY, PLAIN, Body::from(text)).into_response()
}

/// Whether it is made of what a token is (RFC 8555 §8.3), and not too long.
fn is_token(token: &str) -> bool {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=TOKEN_CAP).contains(&token.len()) && token.bytes().all(is_good)
}

/// The host asked for (RFC 9112 §3.2: the target's own host goes first, and two Host headers are none).
fn find_host(uri: &Uri, headers: &HeaderMap) -> Option<HeaderValue> {
    let mut given = headers.get_all(header::HOST).iter();
    match (uri.authority(), given.next(), given.next()) {
        (Some(authority), _, None) => HeaderValue::from_str(authority.as_str()).ok(),
        (None, Some(host), None) => Some(host.clone()),
        _ => None,
    }
}
