//! Signed requests (RFC 7515, RFC 8555 §6.2): what instant-acme has no call for, since it reaches authorizations and challenges
//! only one after another through their order, and binds no account of a key that it has not made itself (ADR 5).

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;

/// Who signs: an account by its URL, or a key that may have none yet.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    /// `None`: the header holds the key itself (newAccount).
    account_uri: Option<String>,
}

/// An account at the CA's operator that a new ACME account is bound to (RFC 8555 §7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    /// The key identifier that the CA gave.
    pub key_id: String,
    /// The MAC key that the CA gave, decoded.
    pub mac_key: Vec<u8>,
}

/// Never with the MAC key in it.
impl std::fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ExternalAccount")
            .field(&self.key_id)
            .finish()
    }
}

impl ExternalAccount {
    /// Reads the MAC key as CAs give it: base64url (RFC 4648 §5), with or without padding, or plain base64. `None` for anything
    /// else, and for nothing.
    #[must_use]
    pub fn parse(key_id: &str, mac_key: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(mac_key).ok()?.trim();
        let text = text
            .trim_end_matches('=')
            .replace('+', "-")
            .replace('/', "_");
        let mac_key = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        (!mac_key.is_empty()).then(|| Self {
            key_id: key_id.to_owned(),
            mac_key,
        })
    }
}

#[derive(Serialize)]
struct Protected<'a> {
    alg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwk: Option<Jwk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
    url: &'a str,
}

/// The public half of a P-256 key (RFC 7518 §6.2.1).
#[derive(Serialize)]
pub(crate) struct Jwk {
    crv: &'static str,
    kty: &'static str,
    x: String,
    y: String,
}

/// A signed text (RFC 7515 §7.2.2).
#[derive(Serialize)]
pub(crate) struct FlattenedJws {
    protected: String,
    payload: String,
    signature: String,
}

impl Signer {
    /// Reads the P-256 key of an account; `None` for any other.
    pub(crate) fn parse(key_pkcs8_der: &[u8], account_uri: &str) -> Option<Self> {
        Some(Self {
            account_uri: Some(account_uri.to_owned()),
            ..Self::of_key(key_pkcs8_der)?
        })
    }

    /// Reads a P-256 key that signs for itself; `None` for any other.
    pub(crate) fn of_key(key_pkcs8_der: &[u8]) -> Option<Self> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key_pkcs8_der).ok()?;
        Some(Self {
            key,
            account_uri: None,
        })
    }

    /// The body of a POST (RFC 8555 §6.2); an empty payload makes it a POST-as-GET (§6.3). `None` only when the crypto library
    /// has no randomness.
    pub(crate) fn sign(&self, nonce: &str, url: &str, payload: &[u8]) -> Option<Vec<u8>> {
        let header = Protected {
            alg: "ES256",
            kid: self.account_uri.as_deref(),
            jwk: match self.account_uri {
                Some(_) => None,
                None => Some(self.jwk()?),
            },
            nonce: Some(nonce),
            url,
        };
        serde_json::to_vec(&self.seal(&header, payload)?).ok()
    }

    /// The key's binding to an external account, for newAccount at `url` (RFC 8555 §7.3.4): signed by HMAC SHA-256.
    pub(crate) fn bind(&self, external: &ExternalAccount, url: &str) -> Option<FlattenedJws> {
        let header = Protected {
            alg: "HS256",
            kid: Some(&external.key_id),
            jwk: None,
            nonce: None,
            url,
        };
        let payload = serde_json::to_vec(&self.jwk()?).ok()?;
        let mac_key = hmac::Key::new(hmac::HMAC_SHA256, &external.mac_key);
        join(&header, &payload, |text| {
            Some(hmac::sign(&mac_key, text).as_ref().to_vec())
        })
    }

    /// The request that the account of `self` gets the key of `next`, signed by that one (RFC 8555 §7.3.5); `url` is keyChange.
    /// It is signed by the account's present key like any other request.
    pub(crate) fn change_to(&self, next: &Self, url: &str) -> Option<Vec<u8>> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Change<'a> {
            account: &'a str,
            old_key: Jwk,
        }
        let header = Protected {
            alg: "ES256",
            kid: None,
            jwk: Some(next.jwk()?),
            nonce: None,
            url,
        };
        let change = Change {
            account: self.account_uri.as_deref()?,
            old_key: self.jwk()?,
        };
        let payload = serde_json::to_vec(&change).ok()?;
        serde_json::to_vec(&next.seal(&header, &payload)?).ok()
    }

    /// The key's public half.
    pub(crate) fn jwk(&self) -> Option<Jwk> {
        // An uncompressed point: 4, then 32 bytes of each coordinate.
        let (x, y) = self
            .key
            .public_key()
            .as_ref()
            .get(1..)?
            .split_at_checked(32)?;
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        Some(Jwk {
            crv: "P-256",
            kty: "EC",
            x: text(x),
            y: text(y),
        })
    }

    fn seal(&self, header: &Protected<'_>, payload: &[u8]) -> Option<FlattenedJws> {
        join(header, payload, |text| {
            let signed = self.key.sign(&SystemRandom::new(), text).ok()?;
            Some(signed.as_ref().to_vec())
        })
    }
}

/// Header and payload with the signature that `sign` gives for them.
fn join(
    header: &Protected<'_>,
    payload: &[u8],
    sign: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Option<FlattenedJws> {
    let protected = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(header).ok()?);
    let payload = BASE64_URL_SAFE_NO_PAD.encode(payload);
    let signature = sign(format!("{protected}.{payload}").as_bytes())?;
    Some(FlattenedJws {
        signature: BASE64_URL_SAFE_NO_PAD.encode(signature),
        protected,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_key_is_read_as_cas_give_it() {
        let read = |text: &str| ExternalAccount::parse("k", text.as_bytes()).map(|e| e.mac_key);
        let bytes = Some(vec![0xfb, 0xff, 0xfe, 1]);
        for text in ["-__-AQ", "-__-AQ==", "+//+AQ==", " -__-AQ\n"] {
            assert_eq!(read(text), bytes, "{text:?}");
        }
        for text in ["", "  ", "no key!", "-__-A"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_mac_key_is_not_told_by_debug() {
        let external = ExternalAccount::parse("kid-7", b"c2VjcmV0").unwrap();
        assert_eq!(format!("{external:?}"), r#"ExternalAccount("kid-7")"#);
    }
}
