//! Health: alive as long as it answers, ready once the caches are filled. Neither depends on a CA.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

/// Says when the operator is ready.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health(Arc<AtomicBool>);

impl Health {
    /// The caches are filled.
    pub(crate) fn set_ready(&self) {
        self.0.store(true, Ordering::Relaxed);
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
    if health.0.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the caches are being filled\n",
        )
    }
}
