//! Health and metrics: alive as long as it answers, ready once the caches are filled and the Lease was seen, whoever holds it. Neither depends
//! on a CA.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use jiff::Timestamp;

use crate::context::Context;
use crate::metrics::render;

/// What this process is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Role {
    /// It cannot act yet: its caches are being filled, or the Lease was not seen.
    #[default]
    Starting,
    /// It could act, and another does.
    Standby,
    /// It acts.
    Leader,
}

/// Says what this process is.
#[derive(Clone, Default)]
pub(crate) struct Health(Arc<Mutex<Present>>);

#[derive(Default)]
struct Present {
    role: Role,
    /// While it acts: what it knows.
    context: Weak<Context>,
}

impl Health {
    /// From now on it is this.
    pub(crate) fn set(&self, role: Role) {
        self.lock().role = role;
    }

    /// From now on it acts, with `context`, until that is dropped.
    pub(crate) fn acts(&self, context: &Arc<Context>) {
        let mut state = self.lock();
        state.role = Role::Leader;
        state.context = Arc::downgrade(context);
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        // What is kept here is whole after each statement, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves `/healthz`, `/readyz` and `/metrics` at `listen`.
pub(crate) async fn serve(listen: SocketAddr) -> Result<Health, std::io::Error> {
    let health = Health::default();
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health.clone());
    let listener = tokio::net::TcpListener::bind(listen).await?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "health checks are no longer answered");
        }
    });
    Ok(health)
}

async fn readyz(State(health): State<Health>) -> (StatusCode, &'static str) {
    let role = health.lock().role;
    match role {
        Role::Leader => (StatusCode::OK, "leader\n"),
        Role::Standby => (StatusCode::OK, "standby\n"),
        Role::Starting => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the caches are being filled, and the Lease is looked for\n",
        ),
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let context = health.lock().context.upgrade();
    let text = render(context.as_deref(), Timestamp::now());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text)
}
