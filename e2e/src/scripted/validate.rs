//! Validation by HTTP-01 (RFC 8555 §8.3) as Let's Encrypt does it: port 80 first, IPv6 before IPv4, at most ten redirects to
//! ports 80 and 443, no look at a certificate on the way.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::identifier::Identifier;
use super::problem::Problem;
use super::settings::Validation;

/// Far above what a key authorization has.
const BODY_CAP: usize = 4096;
const REDIRECTS: usize = 10;
const CONNECT: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(20);

/// A validation to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) authorization: u64,
    /// The challenge's type.
    pub(super) kind: String,
    pub(super) identifier: Identifier,
    pub(super) token: String,
    pub(super) thumbprint: String,
}

/// Asks the responder.
pub(super) async fn validate(job: &Job, how: &Validation) -> Result<(), Problem> {
    if job.kind != "http-01" {
        let detail = format!("{} is not validated here", job.kind);
        return Err(Problem::new(403, "incorrectResponse", detail));
    }
    let host = match job.identifier.address() {
        Some(IpAddr::V6(address)) => format!("[{address}]"),
        _ => job.identifier.value.clone(),
    };
    let url = format!("http://{host}/.well-known/acme-challenge/{}", job.token);
    let expected = format!("{}.{}", job.token, job.thumbprint);
    let url = Url::parse(&url).map_err(|error| Problem::malformed(error.to_string()))?;
    let asked = timeout(WHOLE, fetch(url.clone(), how)).await;
    let (body, from) = asked.unwrap_or_else(|_| Err(connection(&url, "Timeout after connect")))?;
    if body.trim_ascii_end() == expected.as_bytes() {
        return Ok(());
    }
    let got: String = String::from_utf8_lossy(&body).chars().take(100).collect();
    Err(Problem::unauthorized(format!(
        "{from}: The key authorization file from the server did not match this challenge. Expected {expected:?} (got {got:?})"
    )))
}

/// The body at a URL, wherever that leads, and the address that it came from.
async fn fetch(mut url: Url, how: &Validation) -> Result<(Vec<u8>, IpAddr), Problem> {
    for _ in 0..=REDIRECTS {
        let (stream, from) = connect(&url, how).await?;
        let answer = get(stream, &url)
            .await
            .map_err(|error| connection(&url, &format!("{from}: {error:#}")))?;
        let status = answer.status();
        let location = answer.headers().get(header::LOCATION);
        if let Some(location) = location.filter(|_| status.is_redirection()) {
            url = follow(&url, location.to_str().unwrap_or_default())?;
            continue;
        }
        if !status.is_success() {
            let detail = format!("{from}: Invalid response from {url}: {}", status.as_u16());
            return Err(Problem::unauthorized(detail));
        }
        let body = to_bytes(answer.into_body(), BODY_CAP).await;
        let body = body.map_err(|error| connection(&url, &format!("{from}: {error}")))?;
        return Ok((body.to_vec(), from));
    }
    Err(connection(&url, "Too many redirects"))
}

fn follow(from: &Url, location: &str) -> Result<Url, Problem> {
    let to = from
        .join(location)
        .map_err(|error| connection(from, &format!("Invalid redirect {location:?}: {error}")))?;
    match (to.scheme(), to.port_or_known_default()) {
        ("http" | "https", Some(80 | 443)) => Ok(to),
        _ => Err(connection(
            from,
            &format!("Invalid scheme or port in redirect target {to}"),
        )),
    }
}

async fn connect(url: &Url, how: &Validation) -> Result<(TcpStream, IpAddr), Problem> {
    let addresses = resolve(url, how).await?;
    let first = addresses
        .iter()
        .find(|a| a.is_ipv6())
        .or_else(|| addresses.first());
    let fallback = addresses.iter().find(|a| a.is_ipv4() && Some(*a) != first);
    for address in first.into_iter().chain(fallback) {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address.ip())),
            Ok(Err(error)) => {
                let what = if error.kind() == ErrorKind::ConnectionRefused {
                    "Connection refused".to_owned()
                } else {
                    error.to_string()
                };
                return Err(connection(url, &format!("{}: {what}", address.ip())));
            }
            // Only silence makes it try the other family.
            Err(_) => {}
        }
    }
    Err(connection(
        url,
        "Timeout during connect (likely firewall problem)",
    ))
}

async fn resolve(url: &Url, how: &Validation) -> Result<Vec<SocketAddr>, Problem> {
    let port = url.port_or_known_default().unwrap_or(80);
    let host = url.host_str().unwrap_or_default().to_owned();
    let not_found = |why: &str| {
        let detail = format!(
            "DNS problem: {why} looking up A for {host} - check that a DNS record exists for this domain"
        );
        Problem::new(400, "dns", detail)
    };
    if let Validation::At(places) = how {
        // Port 443, which only a redirect leads to, has an entry of its own.
        let place = match port {
            80 => places.get(&host),
            port => places.get(&format!("{host}:{port}")),
        };
        return match place {
            Some(place) => Ok(vec![*place]),
            None => Err(not_found("NXDOMAIN")),
        };
    }
    match url.host() {
        Some(Host::Ipv4(address)) => Ok(vec![(address, port).into()]),
        Some(Host::Ipv6(address)) => Ok(vec![(address, port).into()]),
        _ => match lookup_host((host.as_str(), port)).await {
            Ok(found) => Ok(found.collect()),
            Err(error) => Err(not_found(&error.to_string())),
        },
    }
}

async fn get(stream: TcpStream, url: &Url) -> anyhow::Result<Response<Body>> {
    if url.scheme() != "https" {
        return converse(stream, url).await;
    }
    let name = ServerName::try_from(url.host_str().unwrap_or_default().to_owned())
        .context("no name for TLS")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("TLS without versions")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Whatever(provider)))
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.context("TLS fails")?;
    converse(stream, url).await
}

async fn converse<S>(stream: S, url: &Url) -> anyhow::Result<Response<Body>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let path = url.query().map_or_else(
        || url.path().to_owned(),
        |query| format!("{}?{query}", url.path()),
    );
    let request = Request::get(path)
        .header(header::HOST, url.host_str().unwrap_or_default())
        .header(header::USER_AGENT, "scripted-ca validation")
        .header(header::CONNECTION, "close")
        .body(Body::empty())?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    // Read here, since the connection ends with this function.
    let body = to_bytes(Body::new(body), BODY_CAP).await?;
    Ok(Response::from_parts(parts, body.into()))
}

fn connection(url: &Url, what: &str) -> Problem {
    Problem::new(400, "connection", format!("Fetching {url}: {what}"))
}

/// The certificate on the way may be the one that is to be replaced. The probe has such a verifier, too; what tests a program
/// shares no eyes with it.
#[derive(Debug)]
struct Whatever(Arc<CryptoProvider>);

impl ServerCertVerifier for Whatever {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
