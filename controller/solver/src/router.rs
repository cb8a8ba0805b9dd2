//! Which request gets which answer.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use evercert_api::keys::CHALLENGE_PATH;
use evercert_api::names;

use crate::answers::Answers;

/// Answers challenges (RFC 8555 §8.3): 200 with the key authorization when host and token match an open one, else 404.
pub fn router(answers: Answers) -> Router {
    Router::new()
        .route(&format!("{CHALLENGE_PATH}{{token}}"), get(answer_challenge))
        .fallback(async || refuse())
        .with_state(answers)
}

/// `/healthz`: 200 as long as the process answers. `/readyz`: 200 once the open challenges have been read, else 503.
pub fn health_router(answers: Answers) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(answer_ready))
        .with_state(answers)
}

async fn answer_challenge(
    State(answers): State<Answers>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    // The path as it came, not decoded: a token needs no escapes.
    let token = uri.path().strip_prefix(CHALLENGE_PATH).unwrap_or_default();
    let Some(host) = find_host(&uri, &headers) else {
        return refuse();
    };
    let Some(key_authorization) = answers.find(&host, token) else {
        tracing::debug!(host, "asked for a challenge that is not open");
        return refuse();
    };
    tracing::info!(host, "challenge answered");
    (PLAIN, key_authorization).into_response()
}

async fn answer_ready(State(answers): State<Answers>) -> Response {
    if answers.is_synced() {
        (PLAIN, "ready\n").into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            PLAIN,
            "the open challenges have not been read yet\n",
        )
            .into_response()
    }
}

pub(crate) fn refuse() -> Response {
    (
        StatusCode::NOT_FOUND,
        PLAIN,
        "no challenge is open at this address\n",
    )
        .into_response()
}

/// What no answer may go without: nothing is cached, nothing is taken for a page.
pub(crate) const PLAIN: [(header::HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// The host asked for, a name or an address, as its challenge has it (RFC 9112 §3.2: the target's own host goes first, and two
/// Host headers are none).
fn find_host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let mut given = headers.get_all(header::HOST).iter();
    let authority = match (uri.authority(), given.next(), given.next()) {
        (Some(authority), _, None) => authority.as_str(),
        (None, Some(host), None) => host.to_str().ok()?,
        _ => return None,
    };
    names::parse_host(authority)
}
