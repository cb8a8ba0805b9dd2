//! What core knows of a certificate: facts that evercert-pki reads, never bytes.

use evercert_api::certificate::{KeyAlgorithm, PrivateKey};
use jiff::Timestamp;

/// A public key's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// ECDSA on the NIST curve of this many bits.
    Ecdsa(u16),
    /// RSA with a modulus of this many bits.
    Rsa(u16),
    /// Anything else.
    Other,
}

impl KeyKind {
    /// The kind that a Certificate's spec asks for, the default sizes (256, 2048) filled in.
    #[must_use]
    pub fn wanted(key: &PrivateKey) -> Self {
        match key.algorithm {
            KeyAlgorithm::Ecdsa => Self::Ecdsa(key.size.unwrap_or(256)),
            KeyAlgorithm::Rsa => Self::Rsa(key.size.unwrap_or(2048)),
        }
    }
}

/// The facts of a leaf certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Serial number, lower-case hexadecimal without separators.
    pub serial: String,
    /// The certificate's identifier for renewal information (RFC 9773 §4.1); `None` without an authority key identifier.
    pub renewal_id: Option<String>,
    /// SHA-256 of the DER, lower-case hexadecimal.
    pub fingerprint: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// The DNS names in lower case and the IP addresses in their canonical form of the subject alternative name extension, sorted.
    pub names: Vec<String>,
    /// The public key's kind.
    pub key: KeyKind,
    /// Whether it is signed by its own key.
    pub self_signed: bool,
    /// Whether it carries the name that only fallbacks carry.
    pub stands_in: bool,
}

/// Why a Secret's content is no certificate with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Damage {
    /// `tls.crt` or `tls.key` is missing or empty.
    MissingData,
    /// `tls.crt` cannot be read.
    InvalidCertificate,
    /// `tls.key` cannot be read, or does not belong to the leaf.
    InvalidKeyPair,
}

impl CertificateFacts {
    /// Whether the certificate is within its validity.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Whether the certificate covers every one of `names` (exact names, or a wildcard one label up, RFC 6125 §6.4.3).
    pub fn covers<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> bool {
        names.into_iter().all(|name| {
            // No wildcard stands for a part of an address.
            let is_name = name.parse::<std::net::IpAddr>().is_err();
            self.names.iter().any(|have| {
                have == name
                    || is_name
                        && have.strip_prefix("*.").is_some_and(|suffix| {
                            name.split_once('.').is_some_and(|(_, rest)| rest == suffix)
                        })
            })
        })
    }
}

impl std::fmt::Display for KeyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ecdsa(bits) => write!(f, "ECDSA {bits}"),
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
            Self::Other => f.write_str("of an unknown algorithm"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::fixtures::certificate;

    #[test]
    fn wildcard_covers_names_and_never_an_address() {
        let c = certificate("01", &["*.18.0.2", "198.18.0.3", "2001:db8::1"], 0, 1);
        assert!(c.covers(["198.18.0.3", "2001:db8::1", "a.18.0.2"]));
        assert!(!c.covers(["198.18.0.2"]));
        assert!(!c.covers(["2001:db8::2"]));
    }
}
