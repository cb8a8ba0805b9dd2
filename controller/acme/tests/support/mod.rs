//! What both test targets need: a private CA, an account key, the time.

use std::sync::Arc;

use evercert_acme::{Acme, Directory};
use evercert_core::fault::Fault;
use jiff::Timestamp;
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

/// A new account key, PKCS#8 DER.
pub(crate) fn account_key() -> Vec<u8> {
    KeyPair::generate().unwrap().serialize_der()
}

/// The instant that the tests call now.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// Looks the account of `key` up, makes it when the CA does not know it, and gives it `contact` when it has another.
pub(crate) async fn ensure_account(
    directory: &Arc<Directory>,
    key: &[u8],
    contact: Option<&str>,
) -> Result<Arc<dyn Acme>, Fault> {
    let account = match directory.account(key, None, now()).await {
        Err(fault) if fault.is_unknown_account() => directory.new_account(key, now()).await?,
        found => found?,
    };
    if let Some(contact) = contact.filter(|c| !account.has_contact(c)) {
        account.update_contact(contact, now()).await?;
    }
    Ok(account.into_acme())
}
