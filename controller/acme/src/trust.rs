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
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    // Some hundred small files: not on a thread that serves others.
    if let Ok(system) = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await {
        roots.add_parsable_certificates(system.certs);
    }
    for (at, certificate) in bundle.into_iter().enumerate() {
        roots
            .add(certificate)
            .map_err(|e| format!("certificate {} cannot be read: {e}", at + 1))?;
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())
        .map(|c| c.with_root_certificates(roots).with_no_client_auth())
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
