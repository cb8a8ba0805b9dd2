//! An ACME account as seen from outside of the operator: its key signs a few reads, so that a story can look at what the CA
//! holds (RFC 8555 §6.2, §6.3).

use anyhow::{Context, Result, bail};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use evercert_api::{Issuer, keys};
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::ca::TestCa;
use crate::curl;

/// An account at a CA.
pub struct Account<'a> {
    ca: &'a TestCa,
    uri: String,
    key: EcdsaKeyPair,
}

impl<'a> Account<'a> {
    /// The account that `issuer` names, with the key in `secret`.
    ///
    /// # Errors
    /// The issuer has no account, or the Secret no P-256 key.
    pub fn of(ca: &'a TestCa, issuer: &Issuer, secret: &Secret) -> Result<Self> {
        let status = issuer.status.as_ref();
        let uri = status.and_then(|status| status.account_uri.clone());
        let data = secret.data.as_ref().and_then(|d| d.get(keys::TLS_KEY));
        let der = PrivatePkcs8KeyDer::from_pem_slice(&data.context("no tls.key")?.0)
            .context("reading the account's key")?;
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der())
                .context("the account's key is not P-256")?;
        Ok(Self {
            ca,
            uri: uri.context("the Issuer has no account")?,
            key,
        })
    }

    /// The JSON at `url`, by POST-as-GET. A nonce that is refused is replaced, some times.
    ///
    /// # Errors
    /// The CA refuses the request: its problem document.
    pub fn read(&self, url: &str) -> Result<Value> {
        let mut last = Value::Null;
        for _ in 0..20 {
            last = self.post(url)?;
            if last["type"] != "urn:ietf:params:acme:error:badNonce" {
                break;
            }
        }
        if last["type"].is_string() && last["detail"].is_string() {
            bail!("{url}: {last}");
        }
        Ok(last)
    }

    /// The states of an order and of its authorizations: `("invalid", ["deactivated"])`, say.
    ///
    /// # Errors
    /// The CA refuses a request.
    pub fn order(&self, url: &str) -> Result<(String, Vec<String>)> {
        let state = |object: &Value| object["status"].as_str().unwrap_or_default().to_owned();
        let order = self.read(url)?;
        let authorizations = order["authorizations"].as_array().into_iter().flatten();
        let states = authorizations
            .filter_map(Value::as_str)
            .map(|url| Ok(state(&self.read(url)?)))
            .collect::<Result<_>>()?;
        Ok((state(&order), states))
    }

    fn post(&self, url: &str) -> Result<Value> {
        let base = self.ca.directory();
        let base = base.trim_end_matches("/dir");
        let roots = self.ca.endpoint_roots();
        let nonce = curl::header(&format!("{base}/nonce-plz"), roots, "replay-nonce")?;
        let protected = json!({"alg": "ES256", "kid": self.uri, "nonce": nonce, "url": url});
        let protected = URL_SAFE_NO_PAD.encode(protected.to_string());
        let signature = self
            .key
            .sign(&SystemRandom::new(), format!("{protected}.").as_bytes())
            .context("signing")?;
        let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
        let body = json!({"protected": protected, "payload": "", "signature": signature});
        let answer = curl::post_jose(url, roots, &body.to_string())?;
        serde_json::from_str(&answer).with_context(|| format!("{url}: {answer}"))
    }
}

impl std::fmt::Debug for Account<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Account").field(&self.uri).finish()
    }
}
