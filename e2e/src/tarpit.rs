//! An address that takes every connection and never says a word: what firewalls and dead machines look like from outside.

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Takes connections and keeps them, silent, until this value is dropped.
#[derive(Debug)]
pub struct Tarpit(JoinHandle<()>);

impl Tarpit {
    /// Listens at `address`, `ip:port`.
    ///
    /// # Errors
    /// Somebody listens there already, or the address is not the machine's own.
    pub async fn at(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listening at {address}"))?;
        Ok(Self(tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                kept.push(connection);
            }
        })))
    }
}

impl Drop for Tarpit {
    fn drop(&mut self) {
        self.0.abort();
    }
}
