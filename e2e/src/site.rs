//! A site of somebody else: an address of the world's where every host is answered as the story says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use evercert_cluster::address;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::wait_for;

/// How long one story waits for another that has the address.
const FREE: Duration = Duration::from_mins(2);

/// What the site answers, whatever the path.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The `Server` header.
    pub server: &'static str,
    /// The `Location` header.
    pub location: Option<String>,
}

/// Answers at port 80 of [`address::SITE`], and nowhere else, until this value is dropped.
#[derive(Debug)]
pub struct Site {
    hosts: Arc<Mutex<BTreeMap<String, Answer>>>,
    task: JoinHandle<()>,
}

impl Site {
    /// Listens, as soon as no other one does.
    ///
    /// # Errors
    /// Another one still does after two minutes.
    pub async fn start() -> Result<Self> {
        let hosts: Arc<Mutex<BTreeMap<String, Answer>>> = Arc::default();
        let known = Arc::clone(&hosts);
        let router = Router::new().fallback(async move |headers: HeaderMap| {
            let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            answer(host.and_then(|host| known.get(host)))
        });
        let what = format!("{} is free", address::SITE);
        let listener = wait_for(&what, FREE, async || {
            Ok(Some(TcpListener::bind((address::SITE, 80)).await?))
        })
        .await?;
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { hosts, task })
    }

    /// From now on `host` is answered so.
    pub fn answer(&self, host: &str, answer: Answer) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.insert(host.to_owned(), answer);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(known: Option<&Answer>) -> Response {
    let Some(known) = known else {
        return StatusCode::MISDIRECTED_REQUEST.into_response();
    };
    let status = StatusCode::from_u16(known.status).unwrap_or(StatusCode::IM_A_TEAPOT);
    let location = known.location.as_ref();
    let location = location.and_then(|l| l.parse().ok());
    let mut answer = (status, [(header::SERVER, known.server)], "welcome\n").into_response();
    if let Some(location) = location {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    answer
}
