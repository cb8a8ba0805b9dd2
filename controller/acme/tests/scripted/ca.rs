//! A CA on loopback that answers as it is told, and writes down what it was asked.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use evercert_acme::{Acme, Clock, Directory, DirectoryConfig, SystemClock};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::pki::Pki;
use crate::support::{account_key, now};

/// One answer.
#[derive(Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    nonce: bool,
    hangs: bool,
}

impl Reply {
    /// JSON of status 200.
    pub(crate) fn json(body: &Value) -> Self {
        Self::text(200, "application/json", &body.to_string())
    }

    /// A problem document.
    pub(crate) fn problem(status: u16, kind: &str, detail: &str) -> Self {
        let body = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail});
        Self::text(status, "application/problem+json", &body.to_string())
    }

    /// Anything.
    pub(crate) fn text(status: u16, kind: &str, body: &str) -> Self {
        let headers = vec![("content-type".to_owned(), kind.to_owned())];
        Self {
            status,
            headers,
            body: Bytes::copy_from_slice(body.as_bytes()),
            nonce: true,
            hangs: false,
        }
    }

    /// No answer, ever.
    pub(crate) fn hang() -> Self {
        Self {
            hangs: true,
            ..Self::text(200, "text/plain", "")
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn without_nonce(mut self) -> Self {
        self.nonce = false;
        self
    }
}

/// One request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) user_agent: String,
    /// The JWS's protected header; null for a request without a body.
    pub(crate) protected: Value,
    /// The JWS's payload.
    pub(crate) payload: String,
}

/// The CA.
pub(crate) struct ScriptedCa {
    pub(crate) base: String,
    pub(crate) pki: Pki,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    replies: Mutex<HashMap<String, VecDeque<Reply>>>,
    asked: Mutex<Vec<Asked>>,
    nonces: AtomicU64,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    /// With a gate, requests to these paths wait until that many are under way.
    gate: Mutex<Option<(String, Arc<tokio::sync::Barrier>)>>,
}

impl ScriptedCa {
    /// Starts one with a directory, nonces and an account that exists.
    pub(crate) async fn start() -> Self {
        let pki = Pki::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!(
            "https://127.0.0.1:{}",
            listener.local_addr().unwrap().port()
        );
        let chain = vec![CertificateDer::from_pem_slice(pki.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pki.key.as_bytes()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let shared = Arc::new(Shared::default());
        let for_connections = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&for_connections));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        let ca = Self { base, pki, shared };
        let directory = json!({
            "newNonce": ca.url("/nonce"), "newAccount": ca.url("/new-account"), "newOrder": ca.url("/new-order"),
            "meta": {"termsOfService": "https://ca.example/terms", "caaIdentities": ["ca.example"]},
        });
        ca.on("/dir", Reply::json(&directory));
        ca.on("/nonce", Reply::text(200, "text/plain", ""));
        ca.on(
            "/new-account",
            Reply::json(&json!({"status": "valid"})).header("location", &ca.url("/account/1")),
        );
        ca
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// From now on, `path` is answered so.
    pub(crate) fn on(&self, path: &str, reply: Reply) {
        self.on_in_turn(path, [reply]);
    }

    /// From now on, `path` is answered so, one after another, and by the last for ever.
    pub(crate) fn on_in_turn(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        self.shared
            .replies
            .lock()
            .unwrap()
            .insert(path.to_owned(), replies.into_iter().collect());
    }

    /// From now on, a request to a path that starts so waits until `count` of them are under way.
    pub(crate) fn gate(&self, prefix: &str, count: usize) {
        *self.shared.gate.lock().unwrap() = Some((
            prefix.to_owned(),
            Arc::new(tokio::sync::Barrier::new(count)),
        ));
    }

    /// Most gated requests that were under way at a time.
    pub(crate) fn most_under_way(&self) -> usize {
        self.shared.most_under_way.load(Ordering::SeqCst)
    }

    /// What was asked since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }

    /// Method and path of what was asked since the last call.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked()
            .iter()
            .map(|a| format!("{} {}", a.method, a.path))
            .collect()
    }

    pub(crate) fn config(&self) -> DirectoryConfig {
        let mut config = DirectoryConfig::new(self.url("/dir"), "evercert/test");
        config.ca_bundle = Some(self.pki.root.clone().into_bytes());
        config
    }

    pub(crate) async fn directory(&self) -> Arc<Directory> {
        Directory::connect(self.config(), now()).await.unwrap()
    }

    /// An account at it, nothing asked for but the directory.
    pub(crate) async fn account(&self) -> Arc<dyn Acme> {
        self.account_by(Arc::new(SystemClock)).await
    }

    /// The same by a clock of the test's.
    pub(crate) async fn account_by(&self, clock: Arc<dyn Clock>) -> Arc<dyn Acme> {
        let config = DirectoryConfig {
            clock,
            ..self.config()
        };
        let directory = Directory::connect(config, now()).await.unwrap();
        directory
            .account(&account_key(), Some(&self.url("/account/1")), now())
            .await
            .unwrap()
            .into_acme()
    }

    /// An order's JSON at `/order/1`, with one authorization for each name.
    pub(crate) fn order(&self, status: &str, names: &[&str]) -> Value {
        let identifiers: Vec<Value> = names
            .iter()
            .map(|n| json!({"type": "dns", "value": n}))
            .collect();
        let authorizations: Vec<String> = (0..names.len())
            .map(|i| self.url(&format!("/authz/{i}")))
            .collect();
        json!({
            "status": status, "expires": "2126-01-01T00:00:00Z", "identifiers": identifiers,
            "authorizations": authorizations, "finalize": self.url("/order/1/finalize"),
        })
    }

    /// A pending authorization's JSON with an http-01 challenge at `/challenge/1`.
    pub(crate) fn authorization(&self, name: &str) -> Value {
        json!({
            "status": "pending", "identifier": {"type": "dns", "value": name},
            "challenges": [
                {"type": "dns-01", "url": self.url("/challenge/2"), "status": "pending", "token": "dns"},
                {"type": "http-01", "url": self.url("/challenge/1"), "status": "pending", "token": "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"},
            ],
        })
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let jws: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let part = |name: &str| {
        BASE64_URL_SAFE_NO_PAD
            .decode(jws[name].as_str().unwrap_or_default())
            .unwrap()
    };
    let path = parts.uri.path().to_owned();
    shared.asked.lock().unwrap().push(Asked {
        method: parts.method.to_string(),
        path: path.clone(),
        user_agent: parts
            .headers
            .get("user-agent")
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        protected: serde_json::from_slice(&part("protected")).unwrap_or(Value::Null),
        payload: String::from_utf8(part("payload")).unwrap(),
    });
    let gate = shared.gate.lock().unwrap().clone();
    if let Some((_, barrier)) = gate.filter(|(prefix, _)| path.starts_with(prefix.as_str())) {
        let count = shared.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_under_way.fetch_max(count, Ordering::SeqCst);
        barrier.wait().await;
        shared.under_way.fetch_sub(1, Ordering::SeqCst);
    }
    let reply = {
        let mut replies = shared.replies.lock().unwrap();
        let queue = replies.get_mut(&path).filter(|q| !q.is_empty());
        match queue {
            Some(queue) if queue.len() > 1 => queue.pop_front().unwrap(),
            Some(queue) => queue[0].clone(),
            None => Reply::text(404, "text/plain", ""),
        }
    };
    if reply.hangs {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    if reply.nonce {
        response = response.header(
            "replay-nonce",
            format!("nonce-{}", shared.nonces.fetch_add(1, Ordering::SeqCst)),
        );
    }
    Ok(response.body(Full::new(reply.body)).unwrap())
}
