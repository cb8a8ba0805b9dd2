//! A private CA for the HTTPS endpoint of a test.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

/// A root, and a TLS certificate of it for 127.0.0.1.
pub(crate) struct Pki {
    /// The root's certificate.
    pub(crate) root: String,
    /// The server's certificate.
    pub(crate) certificate: String,
    /// The server's key.
    pub(crate) key: String,
}

impl Pki {
    /// Makes both.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])
            .unwrap()
            .signed_by(&key, &root)
            .unwrap();
        Self {
            root: root.pem(),
            certificate: server.pem(),
            key: key.serialize_pem(),
        }
    }
}
