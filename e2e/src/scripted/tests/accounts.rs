//! Accounts (RFC 8555 §7.3).

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::EcdsaKeyPair;
use serde_json::{Value, json};

use super::client::{Client, believing, encode, jwk, key, sign, started};
use crate::scripted::{ExternalAccounts, ScriptedCa, Settings};

const MAC_KEY: &[u8] = b"a key that both sides have had by another way";

/// An external account binding as the RFC wants it.
fn binding(ca: &ScriptedCa, key: &EcdsaKeyPair, kid: &str, mac_key: &[u8]) -> Value {
    let header = json!({"alg": "HS256", "kid": kid, "url": ca.url("/new-account")});
    let (protected, payload) = (encode(header.to_string()), encode(jwk(key).to_string()));
    let mac_key = hmac::Key::new(hmac::HMAC_SHA256, mac_key);
    let mac = hmac::sign(&mac_key, format!("{protected}.{payload}").as_bytes());
    json!({"protected": protected, "payload": payload, "signature": encode(mac)})
}

async fn with_external_accounts() -> ScriptedCa {
    started(Settings {
        external_accounts: ExternalAccounts {
            keys: BTreeMap::from([("kid-1".to_owned(), encode(MAC_KEY))]),
            required: true,
            once: true,
        },
        ..Settings::default()
    })
    .await
}

#[tokio::test]
async fn a_key_has_one_account_and_finds_it_again() {
    let ca = believing().await;
    let client = Client::stranger(&ca);
    let lookup = json!({"onlyReturnExisting": true});
    assert_eq!(
        client.register(&lookup).refusal(),
        (400, "accountDoesNotExist".into())
    );
    assert_eq!(
        client.register(&json!({})).refusal(),
        (400, "malformed".into())
    );
    let made = client
        .register(&json!({"termsOfServiceAgreed": true, "contact": ["mailto:a@example.test"]}));
    assert_eq!(
        (made.status, &made.content()["status"]),
        (201, &json!("valid"))
    );
    for payload in [lookup, json!({"termsOfServiceAgreed": true})] {
        let found = client.register(&payload);
        assert_eq!((found.status, found.location()), (200, made.location()));
        assert_eq!(found.content()["contact"], json!(["mailto:a@example.test"]));
    }
    assert_eq!(ca.count().registered, 1);
}

#[tokio::test]
async fn contacts_are_addresses() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let account = client.kid.clone().unwrap();
    let table = [
        ("tel:+1", "unsupportedContact"),
        ("mailto:no address", "invalidContact"),
        ("mailto:a@b@c.test", "invalidContact"),
        ("mailto:a@example.test?subject=x", "invalidContact"),
    ];
    for (contact, kind) in table {
        let reply = client.post(&account, &json!({"contact": [contact]}).to_string());
        assert_eq!(reply.refusal(), (400, kind.to_owned()), "{contact}");
    }
    let reply = client.post(&account, r#"{"contact": ["mailto:b@example.test"]}"#);
    assert_eq!(reply.content()["contact"], json!(["mailto:b@example.test"]));
}

#[tokio::test]
async fn a_deactivated_account_is_final() {
    let ca = believing().await;
    let mut client = Client::of(&ca);
    let account = client.kid.clone().unwrap();
    let reply = client.post(&account, r#"{"status": "deactivated"}"#);
    assert_eq!(reply.content()["status"], "deactivated");
    assert_eq!(
        client.order(&["a.test"]).refusal(),
        (403, "unauthorized".into())
    );
    client.kid = None;
    let again = client.register(&json!({"termsOfServiceAgreed": true}));
    assert_eq!(again.refusal(), (403, "unauthorized".into()));
}

#[tokio::test]
async fn an_external_account_is_bound_once() {
    let ca = with_external_accounts().await;
    let client = Client::stranger(&ca);
    let register = |binding: Option<Value>| {
        let mut payload = json!({"termsOfServiceAgreed": true});
        if let Some(binding) = binding {
            payload["externalAccountBinding"] = binding;
        }
        client.register(&payload)
    };
    assert_eq!(
        register(None).refusal(),
        (403, "externalAccountRequired".into())
    );
    let wrong = [
        (
            binding(&ca, &client.key, "kid-2", MAC_KEY),
            403,
            "unauthorized",
        ),
        (
            binding(&ca, &client.key, "kid-1", b"another key"),
            403,
            "unauthorized",
        ),
        (binding(&ca, &key(), "kid-1", MAC_KEY), 400, "malformed"),
    ];
    for (binding, status, kind) in wrong {
        assert_eq!(register(Some(binding)).refusal(), (status, kind.to_owned()));
    }
    assert_eq!(ca.count().registered, 0);
    let good = binding(&ca, &client.key, "kid-1", MAC_KEY);
    assert_eq!(register(Some(good.clone())).status, 201);
    // The account is there: nothing is bound.
    assert_eq!(register(Some(good)).status, 200);

    let other = Client::stranger(&ca);
    let used = binding(&ca, &other.key, "kid-1", MAC_KEY);
    let payload = json!({"termsOfServiceAgreed": true, "externalAccountBinding": used});
    let reply = other.register(&payload);
    assert_eq!(reply.refusal(), (403, "unauthorized".into()));
    assert!(
        reply
            .detail()
            .contains("not awaiting external account binding")
    );
    // Not even for the same key, once the account is forgotten.
    ca.script().forget_accounts();
    let again = binding(&ca, &client.key, "kid-1", MAC_KEY);
    assert_eq!(
        register(Some(again)).refusal(),
        (403, "unauthorized".into())
    );
}

#[tokio::test]
async fn a_key_is_changed_with_the_consent_of_both_keys() {
    let ca = believing().await;
    let mut client = Client::of(&ca);
    let url = ca.url("/key-change");
    let account = client.kid.clone().unwrap();
    let new = key();
    let inner = |signer: &EcdsaKeyPair, new: &EcdsaKeyPair, old: &EcdsaKeyPair, account: &str| {
        let header = json!({"alg": "ES256", "jwk": jwk(new), "url": url});
        let payload = json!({"account": account, "oldKey": jwk(old)});
        sign(signer, &header, &payload.to_string()).to_string()
    };
    for payload in [
        inner(&client.key, &new, &client.key, &account),
        inner(&new, &new, &new, &account),
        inner(&new, &new, &client.key, &ca.url("/account/999")),
    ] {
        assert_eq!(
            client.post(&url, &payload).refusal(),
            (400, "malformed".into())
        );
    }
    let other = Client::of(&ca);
    let taken = inner(&other.key, &other.key, &client.key, &account);
    let reply = client.post(&url, &taken);
    assert_eq!(reply.refusal(), (409, "malformed".into()));
    assert_eq!(reply.location(), other.kid.clone().unwrap());

    assert_eq!(
        client
            .post(&url, &inner(&new, &new, &client.key, &account))
            .status,
        200
    );
    assert_eq!(
        client.order(&["a.test"]).refusal(),
        (400, "malformed".into())
    );
    client.key = new;
    assert_eq!(client.order(&["a.test"]).status, 201);
}

#[tokio::test]
async fn changed_terms_stop_everything_until_a_person_has_agreed() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let terms = "https://scripted.example/terms/2";
    ca.script().change_terms(terms);
    let reply = client.order(&["a.test"]);
    assert_eq!(reply.refusal(), (403, "userActionRequired".into()));
    assert_eq!(reply.content()["instance"], terms);
    let links: Vec<_> = reply
        .headers
        .iter()
        .filter(|(name, _)| name == "link")
        .collect();
    assert!(
        links
            .iter()
            .any(|(_, link)| *link == format!("<{terms}>;rel=\"terms-of-service\""))
    );
    assert_eq!(client.get(&client.kid.clone().unwrap()).status, 200);
    ca.script().agree_to_terms();
    assert_eq!(client.order(&["a.test"]).status, 201);
    let directory = ca
        .handle(&client.request("GET", &ca.directory(), ""))
        .content();
    assert_eq!(directory["meta"]["termsOfService"], terms);
}
