//! HTTPS: bytes in, bytes out, and the faults that bytes can have on their way.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, HeaderName, Request, Response, header};
use futures::stream;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answer::{Delivery, Ending, Reply};
use super::request;
use super::state::State;
use super::validate::validate;

/// Far above an order of a hundred names.
const BODY_CAP: usize = 1024 * 1024;
/// In so many pieces does a trickling body come.
const PIECES: usize = 8;

/// What connections, validations and the script share.
pub(super) struct Shared {
    state: Mutex<State>,
    runtime: Handle,
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            runtime: Handle::current(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the validations that are to be made; each ends by itself.
    pub(super) fn begin_validations(self: &Arc<Self>) {
        let (jobs, how) = {
            let mut state = self.lock();
            (state.take_jobs(), state.settings.validation.clone())
        };
        for job in jobs {
            let (shared, how) = (Arc::clone(self), how.clone());
            self.runtime.spawn(async move {
                let verdict = validate(&job, &how).await;
                shared.lock().decided(&job, &verdict);
            });
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The keys of the HTTPS endpoint.
pub(super) struct Tls {
    /// The root that the endpoint is verified with, PEM.
    pub(super) bundle: String,
    acceptor: TlsAcceptor,
}

impl Tls {
    pub(super) fn new(address: IpAddr) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).context("a root without names")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().context("generating a key")?;
        let root = CertifiedIssuer::self_signed(params, key).context("signing a root")?;
        let key = KeyPair::generate().context("generating a key")?;
        let server = CertificateParams::new([address.to_string(), "localhost".to_owned()])
            .and_then(|params| params.signed_by(&key, &root))
            .context("signing the server's certificate")?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_no_client_auth()
                    .with_single_cert(vec![server.der().clone()], key)
            })
            .context("building the TLS configuration")?;
        Ok(Self {
            bundle: root.pem(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }
}

/// Serves until it is dropped; then every connection ends.
pub(super) async fn listen(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, from)) = accepted {
                    connections.spawn(converse(stream, from, tls.clone(), Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, from: SocketAddr, tls: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let service = service_fn(|request| answer(request, from.ip(), &shared));
    // An error is the client's going away, or a fault that was played.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// What ends a connection in the middle of an answer.
fn ended() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

async fn answer(
    request: Request<Incoming>,
    client: IpAddr,
    shared: &Arc<Shared>,
) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(Body::new(body), BODY_CAP)
        .await
        .map_err(io::Error::other)?;
    let request = request::Request {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        content_type: text(&parts.headers, &header::CONTENT_TYPE),
        user_agent: text(&parts.headers, &header::USER_AGENT),
        body: body.to_vec(),
        client,
    };
    let served = shared.lock().serve(&request);
    shared.begin_validations();
    tokio::time::sleep(served.delivery.delay).await;
    deliver(served.reply, &served.delivery).await
}

async fn deliver(reply: Reply, how: &Delivery) -> io::Result<Response<Body>> {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    let whole = reply.body.len();
    let body = match how.ending {
        Ending::Whole if how.trickle.is_zero() => Body::from(reply.body),
        Ending::Whole => pieces(&reply.body, whole, how.trickle, false),
        Ending::Cut => pieces(&reply.body, whole / 2, how.trickle, true),
        Ending::Lost => return Err(ended()),
        Ending::Never => return std::future::pending().await,
    };
    response
        .header(header::CONTENT_LENGTH, whole)
        .body(body)
        .map_err(io::Error::other)
}

/// The first `most` bytes of a body over some time, and then the end of the connection where it is to be cut.
fn pieces(body: &Bytes, most: usize, over: Duration, cut: bool) -> Body {
    let size = most.div_ceil(PIECES).max(1);
    let mut pieces: Vec<io::Result<Bytes>> = body
        .slice(..most.min(body.len()))
        .chunks(size)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    if cut {
        pieces.push(Err(ended()));
    }
    let pause = over / u32::try_from(PIECES).unwrap_or(1);
    Body::from_stream(stream::unfold(
        pieces.into_iter(),
        move |mut left| async move {
            let piece = left.next()?;
            // A pause of any length lets what was written before go out.
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
            Some((piece, left))
        },
    ))
}

fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

impl Tls {
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }
}
