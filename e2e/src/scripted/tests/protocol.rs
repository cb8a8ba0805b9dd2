//! What every request has to have (RFC 8555 §6).

use serde_json::{Value, json};

use super::client::{Client, believing, jwk, key, sign, started};
use crate::scripted::Settings;

fn refused(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}

#[tokio::test]
async fn a_nonce_is_good_once_and_a_refusal_brings_a_good_one() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let url = ca.url("/new-order");
    let payload = json!({"identifiers": [{"type": "dns", "value": "a.test"}]}).to_string();
    let header = client.header(&url);
    let once = sign(&client.key, &header, &payload);
    assert_eq!(client.send(&url, &once).status, 201);
    let twice = client.send(&url, &once);
    assert_eq!(twice.refusal(), refused(400, "badNonce"));
    for nonce in ["", "never-given"] {
        let mut header = client.header(&url);
        header["nonce"] = json!(nonce);
        let reply = client.send(&url, &sign(&client.key, &header, &payload));
        assert_eq!(reply.refusal(), refused(400, "badNonce"));
    }
    let mut header = client.header(&url);
    header["nonce"] = json!(twice.header_value("replay-nonce").unwrap());
    assert_eq!(
        client
            .send(&url, &sign(&client.key, &header, &payload))
            .status,
        201
    );
    let count = ca.count();
    let counted = (count.placed, count.orders, count.turned_away);
    assert_eq!(counted, (2, 5, 3), "{}", ca.journal());
}

#[tokio::test]
async fn good_nonces_are_refused_as_often_as_the_settings_say() {
    let nonce_refusals_percent = 50;
    let ca = started(Settings {
        nonce_refusals_percent,
        ..Settings::default()
    })
    .await;
    let client = Client::stranger(&ca);
    let answers: Vec<_> = (0..400)
        .map(|_| {
            client
                .register(&json!({"onlyReturnExisting": true}))
                .refusal()
                .1
        })
        .collect();
    let bad = answers.iter().filter(|kind| *kind == "badNonce").count();
    // 200 are expected, with a deviation of 10.
    assert!((130..270).contains(&bad), "{bad} of 400");
}

#[tokio::test]
async fn a_signature_of_another_key_is_refused() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let url = ca.url("/new-order");
    let payload = json!({"identifiers": [{"type": "dns", "value": "a.test"}]}).to_string();
    let forged = sign(&key(), &client.header(&url), &payload);
    assert_eq!(
        client.send(&url, &forged).refusal(),
        refused(400, "malformed")
    );

    // Signed, and then changed.
    let mut changed = sign(&client.key, &client.header(&url), &payload);
    changed["payload"] = sign(&client.key, &json!({}), "{}")["payload"].clone();
    assert_eq!(
        client.send(&url, &changed).refusal(),
        refused(400, "malformed")
    );
    assert_eq!(ca.count().placed, 0);
}

#[tokio::test]
async fn a_header_for_another_url_is_unauthorized() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let url = ca.url("/new-order");
    for other in [
        ca.url("/new-account"),
        "https://elsewhere.test/new-order".into(),
    ] {
        let body = sign(&client.key, &client.header(&other), "{}");
        assert_eq!(
            client.send(&url, &body).refusal(),
            refused(403, "unauthorized")
        );
    }
}

#[tokio::test]
async fn a_header_that_the_rfc_forbids_is_malformed() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let url = ca.url("/new-order");
    let jwk = jwk(&client.key);
    let changes: [(&str, Value, &str); 5] = [
        ("jwk", jwk.clone(), "malformed"),
        ("kid", Value::Null, "malformed"),
        ("crit", json!(["exp"]), "malformed"),
        ("alg", json!("RS256"), "badSignatureAlgorithm"),
        ("kid", json!(ca.url("/account/999")), "accountDoesNotExist"),
    ];
    for (field, value, kind) in changes {
        let mut header = client.header(&url);
        header[field] = value;
        let reply = client.send(&url, &sign(&client.key, &header, "{}"));
        assert_eq!(reply.refusal(), refused(400, kind), "{field}");
    }
    // The key instead of the account, where the account is wanted, and the other way round.
    let mut header = client.header(&url);
    header.as_object_mut().unwrap().remove("kid");
    header["jwk"] = jwk;
    let reply = client.send(&url, &sign(&client.key, &header, "{}"));
    assert_eq!(reply.refusal(), refused(400, "malformed"));
    let reply = client.register(&json!({}));
    assert_eq!(reply.refusal(), refused(400, "malformed"));
}

#[tokio::test]
async fn method_content_type_and_user_agent_are_looked_at() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let order = client.order(&["a.test"]).location();
    let get = client.request("GET", &order, "");
    let reply = ca.handle(&get);
    assert_eq!(reply.refusal(), refused(405, "malformed"));
    assert_eq!(reply.header_value("allow").as_deref(), Some("POST"));

    let body = sign(&client.key, &client.header(&order), "").to_string();
    let mut request = client.request("POST", &order, &body);
    request.content_type = "application/json".into();
    assert_eq!(ca.handle(&request).refusal(), refused(415, "malformed"));
    let mut request = client.request("POST", &order, &body);
    request.user_agent = String::new();
    assert_eq!(ca.handle(&request).refusal(), refused(400, "malformed"));
    assert_eq!(
        ca.handle(&client.request("POST", &order, &body)).status,
        200
    );

    // A read is a POST-as-GET, with nothing in it.
    assert_eq!(
        client.post(&order, "{}").refusal(),
        refused(400, "malformed")
    );
    assert_eq!(
        client.post(&ca.url("/nothing"), "").refusal(),
        refused(404, "malformed")
    );
}

#[tokio::test]
async fn nonces_are_given_by_head_and_get_and_never_cached() {
    let ca = believing().await;
    let client = Client::stranger(&ca);
    for (method, status) in [("HEAD", 200), ("GET", 204)] {
        let reply = ca.handle(&client.request(method, &ca.url("/new-nonce"), ""));
        assert_eq!(reply.status, status);
        assert!(reply.header_value("replay-nonce").is_some());
        assert_eq!(
            reply.header_value("cache-control").as_deref(),
            Some("no-store")
        );
        let index = format!("<{}>;rel=\"index\"", ca.directory());
        assert_eq!(reply.header_value("link"), Some(index));
    }
}
