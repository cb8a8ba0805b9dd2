//! Signed requests to a resource by its URL (RFC 7515, RFC 8555 §6.2): what instant-acme has no call for, since it reaches
//! authorizations and challenges only one after another through their order.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;

/// The key of one account, and the account's URL.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    account_uri: String,
}

#[derive(Serialize)]
struct Protected<'a> {
    alg: &'static str,
    kid: &'a str,
    nonce: &'a str,
    url: &'a str,
}

#[derive(Serialize)]
struct FlattenedJws {
    protected: String,
    payload: String,
    signature: String,
}

impl Signer {
    /// Reads a P-256 key; `None` for any other.
    pub(crate) fn parse(key_pkcs8_der: &[u8], account_uri: &str) -> Option<Self> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key_pkcs8_der).ok()?;
        Some(Self {
            key,
            account_uri: account_uri.to_owned(),
        })
    }

    /// The body of a POST (RFC 8555 §6.2); an empty payload makes it a POST-as-GET (§6.3). `None` only when the crypto library
    /// has no randomness.
    pub(crate) fn sign(&self, nonce: &str, url: &str, payload: &[u8]) -> Option<Vec<u8>> {
        let protected = serde_json::to_vec(&Protected {
            alg: "ES256",
            kid: &self.account_uri,
            nonce,
            url,
        })
        .ok()?;
        let protected = BASE64_URL_SAFE_NO_PAD.encode(protected);
        let payload = BASE64_URL_SAFE_NO_PAD.encode(payload);
        let signed = self
            .key
            .sign(
                &SystemRandom::new(),
                format!("{protected}.{payload}").as_bytes(),
            )
            .ok()?;
        let signature = BASE64_URL_SAFE_NO_PAD.encode(signed.as_ref());
        serde_json::to_vec(&FlattenedJws {
            protected,
            payload,
            signature,
        })
        .ok()
    }
}
