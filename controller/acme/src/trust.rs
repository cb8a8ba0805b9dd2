//! Whom a directory's TLS certificate is trusted from: the public roots, the system's, and the issuer's own bundle.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Builds the TLS configuration. The system's roots are taken as far as they can be read: an image from scratch has none.
///
/// Errors: the sentence that says what is wrong with the bundle.
pub(crate) async fn build_client_config(ca_bundle: Option<&[u8]>) -> Result<ClientConfig, String> {
    let bundle = ca_bundle.map(parse_bundle).transpose()?.unwrap_or_default();
    // Some hundred small files: not on a thread that serves others.
    let system = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let roots = build_roots(system.map(|found| found.certs).unwrap_or_default(), bundle)?;
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())
        .map(|c| c.with_root_certificates(roots).with_no_client_auth())
}

/// The public roots, `system`'s and `bundle`'s.
fn build_roots(
    system: Vec<CertificateDer<'static>>,
    bundle: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    roots.add_parsable_certificates(system);
    for (at, certificate) in bundle.into_iter().enumerate() {
        roots
            .add(certificate)
            .map_err(|e| format!("certificate {} cannot be read: {e}", at + 1))?;
    }
    Ok(roots)
}

fn parse_bundle(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("it is not PEM: {e}"))?;
    if certificates.is_empty() {
        return Err("it holds no certificate".into());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::client::WebPkiServerVerifier;
    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;

    /// 2026-08-12, when the chain was served and good.
    const SERVED: Duration = Duration::from_secs(1_786_530_173);

    /// Whether `roots` lead to the leaf of a chain as the client of a directory would ask.
    fn verify(
        roots: RootCertStore,
        chain: &[CertificateDer<'_>],
        host: &str,
    ) -> Result<(), String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| e.to_string())?;
        let [leaf, intermediates @ ..] = chain else {
            return Err("no certificate".into());
        };
        let host = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let now = UnixTime::since_unix_epoch(SERVED);
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            leaf,
            intermediates,
            &host,
            &[],
            now,
        )
        .map(drop)
        .map_err(|e| e.to_string())
    }

    #[test]
    fn a_public_ca_is_trusted_where_the_system_has_no_roots() {
        let chain = parse_bundle(include_bytes!("../testdata/letsencrypt.org.pem")).unwrap();
        let roots = || build_roots(Vec::new(), Vec::new()).unwrap();
        assert_eq!(verify(roots(), &chain, "letsencrypt.org"), Ok(()));
        // And it is the roots that do it.
        let mut fewer = roots();
        fewer.roots.retain(|root| {
            let subject = String::from_utf8_lossy(&root.subject).into_owned();
            !subject.contains("Internet Security Research Group") && !subject.contains("ISRG")
        });
        assert!(fewer.len() < roots().len());
        let refusal = verify(fewer, &chain, "letsencrypt.org").unwrap_err();
        assert!(refusal.contains("UnknownIssuer"), "{refusal}");
    }

    #[test]
    fn a_bundle_that_is_no_certificate_is_refused_with_its_place() {
        let none = build_roots(Vec::new(), vec![CertificateDer::from(vec![1, 2, 3])]).unwrap_err();
        assert!(none.starts_with("certificate 1 cannot be read"), "{none}");
    }
}
