//! What both test targets need: a private CA, an account key, a request for a certificate.

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A root, and a TLS certificate of it for 127.0.0.1.
pub struct Pki {
    /// The root's certificate.
    pub root_pem: String,
    /// The server's certificate.
    pub server_pem: String,
    /// The server's key.
    pub server_key_pem: String,
}

impl Pki {
    /// Makes both.
    pub fn new() -> Self {
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
            root_pem: root.pem(),
            server_pem: server.pem(),
            server_key_pem: key.serialize_pem(),
        }
    }
}

/// A new account key, PKCS#8 DER.
pub fn account_key() -> Vec<u8> {
    KeyPair::generate().unwrap().serialize_der()
}

/// A request for `names` with a key of its own, DER.
pub fn csr(names: &[&str]) -> Vec<u8> {
    let mut params =
        CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

/// The instant that the tests call now.
pub fn now() -> Timestamp {
    Timestamp::now()
}
