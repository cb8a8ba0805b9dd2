//! Private keys: made, and read from what people keep in Secrets.

use std::fmt;

use evercert_api::certificate::PrivateKey;
use evercert_core::facts::KeyKind;
use rcgen::{KeyPair, RsaKeySize};

use crate::pem;

/// A private key as PEM (PKCS #8, RFC 5958). `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKeyPem(String);

/// Why a key cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No PEM private key in it, or one of no use.
    #[error(
        "the private key cannot be read: it must be PEM of an ECDSA, RSA (2048 bits at least) or Ed25519 key, not encrypted"
    )]
    Unreadable,
    /// The spec asks for a size that does not go with the algorithm.
    #[error("there is no {0} key of this size: ECDSA has 256 and 384, RSA 2048, 3072 and 4096")]
    UnsupportedSize(&'static str),
    /// The crypto library failed.
    #[error("the private key cannot be generated: {0}")]
    Generation(String),
}

impl PrivateKeyPem {
    /// The PEM text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The PEM text as bytes, as a Secret holds it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The PEM text, given away.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

impl fmt::Debug for PrivateKeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKeyPem(…)")
    }
}

/// Makes a new key of the kind that `wanted` asks for. RSA takes up to seconds of computing: call it where blocking is fine.
///
/// # Errors
/// [`KeyError::UnsupportedSize`], or [`KeyError::Generation`] when the crypto library fails.
pub fn generate_key(wanted: &PrivateKey) -> Result<PrivateKeyPem, KeyError> {
    let pair = match KeyKind::wanted(wanted) {
        KeyKind::Ecdsa(256) => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyKind::Ecdsa(384) => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyKind::Rsa(2048) => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        KeyKind::Rsa(3072) => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072),
        KeyKind::Rsa(4096) => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096),
        KeyKind::Ecdsa(_) => return Err(KeyError::UnsupportedSize("ECDSA")),
        KeyKind::Rsa(_) | KeyKind::Other => return Err(KeyError::UnsupportedSize("RSA")),
    };
    pair.map(|pair| PrivateKeyPem(pair.serialize_pem()))
        .map_err(|e| KeyError::Generation(e.to_string()))
}

/// The kind of the private key in `key_pem` (PKCS #8, PKCS #1 or SEC 1).
///
/// # Errors
/// [`KeyError::Unreadable`].
pub fn key_kind(key_pem: &[u8]) -> Result<KeyKind, KeyError> {
    let pair = read(key_pem)?;
    let algorithm = pair.algorithm();
    Ok(if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
        KeyKind::Ecdsa(256)
    } else if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
        KeyKind::Ecdsa(384)
    } else if algorithm == &rcgen::PKCS_ECDSA_P521_SHA512 {
        KeyKind::Ecdsa(521)
    } else if algorithm == &rcgen::PKCS_RSA_SHA256 {
        crate::leaf::rsa_bits(pair.public_key_raw()).map_or(KeyKind::Other, KeyKind::Rsa)
    } else {
        KeyKind::Other
    })
}

/// Whether two private keys are the same, however they are written. What cannot be read is no key.
#[must_use]
pub fn is_same_key(a: &[u8], b: &[u8]) -> bool {
    match (read(a), read(b)) {
        (Ok(a), Ok(b)) => a.public_key_raw() == b.public_key_raw(),
        _ => false,
    }
}

/// The key pair in `key_pem`, ready to sign.
pub(crate) fn read(key_pem: &[u8]) -> Result<KeyPair, KeyError> {
    let der = pem::private_key(key_pem).ok_or(KeyError::Unreadable)?;
    KeyPair::try_from(&der).map_err(|_| KeyError::Unreadable)
}
