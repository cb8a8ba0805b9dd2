//! Certificates of somebody else: from a CA that Evercert knows nothing of.

use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The chain, PEM, leaf first.
    pub chain: String,
    /// The key, PEM.
    pub key: String,
}

impl Pair {
    /// A certificate for `names` from a CA of its own, made an hour ago, good for so many seconds from now on.
    ///
    /// # Errors
    /// A name is none.
    pub fn issue(names: &[String], seconds: i64) -> Result<Self> {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name
            .push(DnType::CommonName, "Somebody else's CA");
        let mut leaf = CertificateParams::new(names.to_vec())?;
        let since_epoch = |seconds| {
            let at = Timestamp::now() + SignedDuration::from_secs(seconds);
            Duration::from_secs(at.as_second().unsigned_abs())
        };
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        leaf.not_before = epoch + since_epoch(-3600);
        leaf.not_after = epoch + since_epoch(seconds);
        let key = KeyPair::generate()?;
        let issued = leaf.signed_by(&key, &Issuer::new(ca, KeyPair::generate()?))?;
        Ok(Self {
            chain: issued.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A TLS Secret that holds it, with `metadata` beside the name.
    #[must_use]
    pub fn secret(&self, name: &str, metadata: &Value) -> Value {
        let mut meta = metadata.clone();
        meta["name"] = json!(name);
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": meta,
            "stringData": {"tls.crt": self.chain, "tls.key": self.key},
        })
    }
}
