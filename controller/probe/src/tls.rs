//! TLS as a CA uses it on a redirect: encrypted, and no look at the certificate, since that may be the one to be replaced.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Speaks TLS to `host` over `stream`. `None` when the other side does not, or `host` is no name.
pub(crate) async fn connect(stream: TcpStream, host: &str) -> Option<TlsStream<TcpStream>> {
    static CONFIG: LazyLock<Option<Arc<ClientConfig>>> = LazyLock::new(build_config);
    let name = ServerName::try_from(host.to_owned()).ok()?;
    TlsConnector::from(CONFIG.clone()?)
        .connect(name, stream)
        .await
        .ok()
}

/// The longest time to be shown a certificate.
const PER_LOOK: Duration = Duration::from_secs(3);

/// The leaf certificate, in DER, that is presented at `at` to who asks for `name`; `None` where nobody answers within 3 s, or not in
/// TLS. It is whatever anybody on the network can see, and nothing is checked; an IP address is asked for without a name
/// (RFC 6066 §3).
pub async fn find_leaf(at: SocketAddr, name: &str) -> Option<Vec<u8>> {
    let looking = async {
        let stream = TcpStream::connect(at).await.ok()?;
        let stream = connect(stream, name).await?;
        let (_, connection) = stream.get_ref();
        let leaf = connection.peer_certificates()?.first()?;
        Some(leaf.as_ref().to_vec())
    };
    timeout(PER_LOOK, looking).await.ok().flatten()
}

fn build_config() -> Option<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?;
    Some(Arc::new(
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth(),
    ))
}

/// Takes every certificate. Nothing secret is sent over such a connection, and nothing believed but the challenge's answer.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
