//! Signed requests (RFC 7515, RFC 8555 §6.2): read, and verified with ES256; the binding to an external account with HS256,
//! HS384 or HS512 (§7.3.4).

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::problem::Problem;

/// The flattened serialization.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flattened {
    protected: String,
    payload: String,
    signature: String,
}

/// A request's envelope, read and not yet verified.
#[derive(Debug)]
pub(super) struct Jws {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    signed: String,
    signature: Vec<u8>,
}

/// The protected header.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    alg: String,
    pub(super) nonce: Option<String>,
    pub(super) url: Option<String>,
    pub(super) kid: Option<String>,
    pub(super) jwk: Option<Value>,
    crit: Option<Value>,
}

impl Jws {
    /// # Errors
    /// `malformed`: it is no flattened JWS with everything in its protected header.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let bad = |what: &str| Problem::malformed(format!("the request is no JWS: {what}"));
        let flat: Flattened = serde_json::from_slice(body).map_err(|e| bad(&e.to_string()))?;
        let decode = |text: &str| {
            BASE64_URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| bad("it is not of base64url"))
        };
        let header: Header = serde_json::from_slice(&decode(&flat.protected)?)
            .map_err(|e| bad(&format!("its header: {e}")))?;
        if header.crit.is_some() {
            return Err(bad("its header has critical extensions"));
        }
        if header.jwk.is_some() == header.kid.is_some() {
            return Err(bad("its header must have jwk or kid, and not both"));
        }
        Ok(Self {
            header,
            payload: decode(&flat.payload)?,
            signature: decode(&flat.signature)?,
            signed: format!("{}.{}", flat.protected, flat.payload),
        })
    }

    /// # Errors
    /// `badSignatureAlgorithm` for any but ES256, `malformed` for a signature of another key.
    pub(super) fn verify(&self, key: &AccountKey) -> Result<(), Problem> {
        self.check_algorithm()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.point())
            .verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_| Problem::malformed("the JWS is not signed by this key"))
    }

    pub(super) fn check_algorithm(&self) -> Result<(), Problem> {
        if self.header.alg == "ES256" {
            return Ok(());
        }
        let detail = format!("{} is not supported, ES256 is", self.header.alg);
        Err(Problem::new(400, "badSignatureAlgorithm", detail))
    }

    /// # Errors
    /// `malformed` for another algorithm, `unauthorized` for a MAC of another key.
    pub(super) fn verify_mac(&self, key: &[u8]) -> Result<(), Problem> {
        let algorithm = match self.header.alg.as_str() {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            other => {
                let detail = format!("the external account binding is by {other}, no MAC");
                return Err(Problem::malformed(detail));
            }
        };
        let key = hmac::Key::new(algorithm, key);
        hmac::verify(&key, self.signed.as_bytes(), &self.signature)
            .map_err(|_| Problem::unauthorized("the external account binding's MAC is wrong"))
    }

    /// # Errors
    /// `malformed`: the payload is not what this request has.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.payload)
            .map_err(|e| Problem::malformed(format!("the payload cannot be read: {e}")))
    }

    /// A POST-as-GET (RFC 8555 §6.3).
    pub(super) fn is_get(&self) -> bool {
        self.payload.is_empty()
    }
}

/// The public key of an account, P-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AccountKey {
    x: String,
    y: String,
    point: Vec<u8>,
}

impl AccountKey {
    /// # Errors
    /// `badPublicKey`: it is no P-256 key.
    pub(super) fn parse(jwk: &Value) -> Result<Self, Problem> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str).unwrap_or_default();
        let (x, y) = (text("x"), text("y"));
        let coordinate = |text| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        // The uncompressed form (SEC 1 §2.3.3).
        let point = [vec![4], coordinate(x), coordinate(y)].concat();
        if (text("kty"), text("crv"), point.len()) != ("EC", "P-256", 65) {
            return Err(Problem::new(400, "badPublicKey", "the key is not of P-256"));
        }
        Ok(Self {
            x: x.to_owned(),
            y: y.to_owned(),
            point,
        })
    }

    /// As a certificate's SubjectPublicKeyInfo holds it.
    pub(super) fn point(&self) -> &[u8] {
        &self.point
    }

    pub(super) fn to_jwk(&self) -> Value {
        json!({"crv": "P-256", "kty": "EC", "x": self.x, "y": self.y})
    }

    /// RFC 7638.
    pub(super) fn thumbprint(&self) -> String {
        let canonical = format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
            self.x, self.y
        );
        let hash = digest::digest(&digest::SHA256, canonical.as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(hash.as_ref())
    }
}

/// Random text of the base64url alphabet.
pub(super) fn random_token() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(random_bytes::<24>())
}

/// Random bytes; zeros where the machine has no randomness, which fails at the first use twice.
pub(super) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        tracing::error!("no randomness");
    }
    bytes
}
