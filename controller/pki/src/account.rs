//! The key of an ACME account: always ECDSA P-256 (RFC 8555 §6.2, ES256), since that is what every CA takes.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use evercert_api::certificate::PrivateKey;

use crate::key::{KeyError, PrivateKeyPem, generate_key};
use crate::pem;

/// Why an account's key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountKeyError {
    /// No PEM private key in it.
    #[error("not PEM of a private key")]
    NotPem,
    /// A private key of another kind.
    #[error(
        "not an ECDSA P-256 key: an account made with another kind of key cannot be taken over"
    )]
    NotP256,
}

/// Makes a new account key.
///
/// # Errors
/// [`KeyError::Generation`] when the crypto library fails.
pub fn generate_account_key() -> Result<PrivateKeyPem, KeyError> {
    generate_key(&PrivateKey::default())
}

/// The account's key as DER (PKCS #8), from PEM of PKCS #8 or SEC 1.
///
/// # Errors
/// [`AccountKeyError`], never with anything of the key in it.
pub fn account_key_der(key_pem: &[u8]) -> Result<Vec<u8>, AccountKeyError> {
    let der = pem::private_key(key_pem).ok_or(AccountKeyError::NotPem)?;
    let pair =
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der())
            .map_err(|_| AccountKeyError::NotP256)?;
    let document = pair.to_pkcs8v1().map_err(|_| AccountKeyError::NotP256)?;
    Ok(document.as_ref().to_vec())
}
