//! Health: alive as long as it answers, ready once the caches are filled and the Lease was seen, whoever holds it. Neither depends
//! on a CA.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

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
#[derive(Debug, Clone, Default)]
pub(crate) struct Health(Arc<Mutex<Role>>);

impl Health {
    /// From now on it is this.
    pub(crate) fn set(&self, role: Role) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = role;
    }

    /// What it is.
    pub(crate) fn role(&self) -> Role {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves `/healthz` and `/readyz` at `listen`.
pub(crate) async fn serve(listen: SocketAddr) -> Result<Health, std::io::Error> {
    let health = Health::default();
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
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
    match health.role() {
        Role::Leader => (StatusCode::OK, "leader\n"),
        Role::Standby => (StatusCode::OK, "standby\n"),
        Role::Starting => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the caches are being filled, and the Lease is looked for\n",
        ),
    }
}
