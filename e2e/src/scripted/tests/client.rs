//! A client that can also do wrong, without HTTP in between.

use std::net::{IpAddr, Ipv4Addr};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::scripted::answer::Reply;
use crate::scripted::request::Request;
use crate::scripted::{ScriptedCa, Settings, Validation};

pub(super) struct Client<'a> {
    pub(super) ca: &'a ScriptedCa,
    pub(super) key: EcdsaKeyPair,
    pub(super) kid: Option<String>,
    /// Where its requests come from.
    pub(super) address: IpAddr,
}

/// A CA that believes everybody.
pub(super) async fn believing() -> ScriptedCa {
    started(Settings::default()).await
}

/// The same with other settings.
pub(super) async fn started(settings: Settings) -> ScriptedCa {
    let validation = Validation::Believing;
    ScriptedCa::start(Settings {
        validation,
        ..settings
    })
    .await
    .unwrap()
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn key() -> EcdsaKeyPair {
    let pair = KeyPair::generate().unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der()).unwrap()
}

pub(super) fn jwk(key: &EcdsaKeyPair) -> Value {
    let point = key.public_key().as_ref();
    json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])})
}

/// A flattened JWS, whatever the header says.
pub(super) fn sign(key: &EcdsaKeyPair, header: &Value, payload: &str) -> Value {
    let (protected, payload) = (encode(header.to_string()), encode(payload));
    let signed = format!("{protected}.{payload}");
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    json!({"protected": protected, "payload": payload, "signature": encode(signature)})
}

/// A request for names by a key of its own, in base64url.
pub(super) fn csr(names: &[&str]) -> String {
    csr_of(&KeyPair::generate().unwrap(), names)
}

pub(super) fn csr_of(key: &KeyPair, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = CertificateParams::new(names).unwrap();
    encode(params.serialize_request(key).unwrap().der())
}

impl<'a> Client<'a> {
    /// One without an account.
    pub(super) fn stranger(ca: &'a ScriptedCa) -> Self {
        Self {
            ca,
            key: key(),
            kid: None,
            address: Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// One with an account.
    pub(super) fn of(ca: &'a ScriptedCa) -> Self {
        let mut client = Self::stranger(ca);
        let reply = client.register(&json!({"termsOfServiceAgreed": true}));
        assert_eq!(reply.status, 201, "{}", reply.text());
        client.kid = Some(reply.location());
        client
    }

    pub(super) fn register(&self, payload: &Value) -> Reply {
        self.post(&self.ca.url("/new-account"), &payload.to_string())
    }

    /// As the RFC wants it.
    pub(super) fn post(&self, url: &str, payload: &str) -> Reply {
        self.send(url, &sign(&self.key, &self.header(url), payload))
    }

    /// A POST-as-GET.
    pub(super) fn get(&self, url: &str) -> Reply {
        self.post(url, "")
    }

    /// The header that the RFC wants.
    pub(super) fn header(&self, url: &str) -> Value {
        let mut header = json!({"alg": "ES256", "nonce": self.nonce(), "url": url});
        match &self.kid {
            Some(kid) => header["kid"] = json!(kid),
            None => header["jwk"] = jwk(&self.key),
        }
        header
    }

    pub(super) fn nonce(&self) -> String {
        let request = self.request("HEAD", &self.ca.url("/new-nonce"), "");
        self.ca
            .handle(&request)
            .header_value("replay-nonce")
            .unwrap()
    }

    pub(super) fn send(&self, url: &str, body: &Value) -> Reply {
        self.ca
            .handle(&self.request("POST", url, &body.to_string()))
    }

    pub(super) fn request(&self, method: &str, url: &str, body: &str) -> Request {
        Request {
            method: method.into(),
            path: url.strip_prefix(&self.ca.url("")).unwrap().into(),
            content_type: "application/jose+json".into(),
            user_agent: "test".into(),
            body: body.into(),
            client: self.address,
        }
    }

    pub(super) fn order(&self, names: &[&str]) -> Reply {
        self.order_with(names, &json!({}))
    }

    pub(super) fn order_with(&self, names: &[&str], more: &Value) -> Reply {
        let mut payload = more.clone();
        payload["identifiers"] = names
            .iter()
            .map(|name| json!({"type": "dns", "value": name}))
            .collect();
        self.post(&self.ca.url("/new-order"), &payload.to_string())
    }

    /// Accepts every http-01 challenge of an order.
    pub(super) fn accept(&self, order: &Reply) {
        for url in order.content()["authorizations"].as_array().unwrap() {
            let challenge = self.challenge(url.as_str().unwrap());
            let reply = self.post(challenge["url"].as_str().unwrap(), "{}");
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    }

    pub(super) fn challenge(&self, authorization: &str) -> Value {
        let authorization = self.get(authorization).content();
        let mut challenges = authorization["challenges"].as_array().unwrap().iter();
        challenges.find(|c| c["type"] == "http-01").unwrap().clone()
    }

    pub(super) fn finalize(&self, order: &Reply, names: &[&str]) -> Reply {
        let payload = json!({"csr": csr(names)}).to_string();
        self.post(order.content()["finalize"].as_str().unwrap(), &payload)
    }

    /// The order's state, when it is none of these any more.
    pub(super) async fn leaves(&self, order: &Reply, states: &[&str]) -> Value {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let now = self.get(&order.location()).content();
            if !states.contains(&now["status"].as_str().unwrap()) {
                return now;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{}",
                self.ca.journal()
            );
            tokio::task::yield_now().await;
        }
    }

    /// From the names to the order of a certificate; with the order's answers on the way.
    pub(super) async fn issue(&self, names: &[&str], more: &Value) -> Value {
        let order = self.order_with(names, more);
        assert_eq!(order.status, 201, "{}", order.text());
        self.accept(&order);
        assert_eq!(self.leaves(&order, &["pending"]).await["status"], "ready");
        assert_eq!(self.finalize(&order, names).status, 200);
        let done = self.leaves(&order, &["processing"]).await;
        assert_eq!(done["status"], "valid", "{}", self.ca.journal());
        done
    }

    /// The default chain of a valid order.
    pub(super) fn download(&self, order: &Value) -> Reply {
        self.get(order["certificate"].as_str().unwrap())
    }
}

impl ScriptedCa {
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.shared.lock().base)
    }

    pub(super) fn handle(&self, request: &Request) -> Reply {
        let served = self.shared.lock().serve(request);
        self.shared.begin_validations();
        served.reply
    }
}

impl Reply {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub(super) fn content(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn header_value(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.clone())
    }

    pub(super) fn location(&self) -> String {
        self.header_value("location").unwrap()
    }

    /// Status and problem type.
    pub(super) fn refusal(&self) -> (u16, String) {
        let kind = self
            .problem_kind()
            .unwrap_or_else(|| panic!("{}", self.text()));
        (self.status, kind)
    }

    /// The problem's words.
    pub(super) fn detail(&self) -> String {
        self.content()["detail"].as_str().unwrap().to_owned()
    }
}
