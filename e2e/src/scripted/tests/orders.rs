//! Orders and authorizations through their states (RFC 8555 §7.1.6).

use jiff::SignedDuration;
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::client::{Client, believing, csr_of, started};
use crate::scripted::{Problem, Profile, Settings, Signing, Verdict};

#[tokio::test]
async fn an_order_goes_through_its_states_and_gives_a_certificate_for_its_names() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let names = ["b.test", "a.test"];
    let order = client.order(&names);
    assert_eq!(
        (order.status, &order.content()["status"]),
        (201, &json!("pending"))
    );
    let early = client.finalize(&order, &names);
    assert_eq!(early.refusal(), (403, "orderNotReady".into()));

    client.accept(&order);
    assert_eq!(client.leaves(&order, &["pending"]).await["status"], "ready");
    ca.script().signing(Signing::Held);
    let processing = client.finalize(&order, &names);
    assert_eq!(
        (processing.status, &processing.content()["status"]),
        (200, &json!("processing"))
    );
    assert_eq!(processing.header_value("retry-after").as_deref(), Some("1"));
    let again = client.finalize(&order, &names);
    assert_eq!(again.refusal(), (403, "orderNotReady".into()));
    assert_eq!(ca.count().certificates, 0);
    ca.script().finish_processing();

    let done = client.leaves(&order, &["processing"]).await;
    let chain = crate::leaf::Leaf::parse_chain(client.download(&done).text().as_bytes()).unwrap();
    assert_eq!(
        (chain.len(), &chain[0].names),
        (2, &vec!["a.test".to_owned(), "b.test".to_owned()])
    );
    assert_eq!(chain[0].issuer, chain[1].subject);
    assert!(chain[0].is_valid_at(jiff::Timestamp::now()));
    let lifetime = chain[0].not_after.duration_since(chain[0].not_before);
    assert_eq!(lifetime, SignedDuration::from_hours(24 * 90));
    assert_eq!(ca.count().certificates, 1);
}

#[tokio::test]
async fn a_request_for_other_names_or_with_an_accounts_key_is_refused() {
    let ca = believing().await;
    let mut client = Client::stranger(&ca);
    let key = KeyPair::generate().unwrap();
    client.key = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &key.serialize_der(),
    )
    .unwrap();
    client.kid = Some(
        client
            .register(&json!({"termsOfServiceAgreed": true}))
            .location(),
    );
    let order = client.order(&["a.test"]);
    client.accept(&order);
    client.leaves(&order, &["pending"]).await;
    for names in [&["b.test"][..], &["a.test", "b.test"]] {
        assert_eq!(
            client.finalize(&order, names).refusal(),
            (403, "unauthorized".into())
        );
    }
    let finalize = order.content()["finalize"].as_str().unwrap().to_owned();
    for csr in [csr_of(&key, &["a.test"]), csr_of(&key, &[]), "AAAA".into()] {
        let reply = client.post(&finalize, &json!({"csr": csr}).to_string());
        assert_eq!(reply.refusal(), (400, "badCSR".into()));
    }
    // Nothing of this has ended the order.
    assert_eq!(client.finalize(&order, &["a.test"]).status, 200);
}

#[tokio::test]
async fn a_failed_validation_ends_authorization_and_order_and_says_why() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let caa = Problem::new(403, "caa", "CAA record for b.test prevents issuance");
    ca.script().validation("b.test", Verdict::Invalid(caa));
    let order = client.order(&["a.test", "b.test"]);
    client.accept(&order);
    assert_eq!(
        client.leaves(&order, &["pending"]).await["status"],
        "invalid"
    );
    let states: Vec<Value> = order.content()["authorizations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|url| client.challenge(url.as_str().unwrap()))
        .map(|challenge| json!([challenge["status"], challenge["error"]["type"]]))
        .collect();
    let caa = "urn:ietf:params:acme:error:caa";
    assert_eq!(states, [json!(["valid", null]), json!(["invalid", caa])]);
    let authorization = order.content()["authorizations"][1]
        .as_str()
        .unwrap()
        .to_owned();
    let url = client.challenge(&authorization)["url"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(client.post(&url, "{}").refusal(), (400, "malformed".into()));
}

#[tokio::test]
async fn a_challenge_that_is_accepted_twice_is_validated_once() {
    let ca = believing().await;
    let client = Client::of(&ca);
    ca.script().validation("a.test", Verdict::Held);
    let order = client.order(&["a.test"]);
    client.accept(&order);
    client.accept(&order);
    assert_eq!(client.leaves(&order, &[]).await["status"], "pending");
    ca.script().validation("a.test", Verdict::Valid);
    assert_eq!(client.leaves(&order, &["pending"]).await["status"], "ready");
    client.accept(&order);
    let validations = ca
        .journal()
        .filter(|entry| entry.note.contains("http-01 is valid"));
    assert_eq!(validations.len(), 1, "{}", ca.journal());
}

#[tokio::test]
async fn what_is_of_another_account_is_kept_from_it() {
    let ca = believing().await;
    let (owner, other) = (Client::of(&ca), Client::of(&ca));
    let order = owner.order(&["a.test"]);
    let authorization = order.content()["authorizations"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let challenge = owner.challenge(&authorization)["url"]
        .as_str()
        .unwrap()
        .to_owned();
    for url in [order.location(), authorization, owner.kid.clone().unwrap()] {
        assert_eq!(
            other.get(&url).refusal(),
            (403, "unauthorized".into()),
            "{url}"
        );
    }
    assert_eq!(
        other.post(&challenge, "{}").refusal(),
        (403, "unauthorized".into())
    );
    assert_eq!(
        other.finalize(&order, &["a.test"]).refusal(),
        (403, "unauthorized".into())
    );
    assert_eq!(owner.leaves(&order, &[]).await["status"], "pending");
}

#[tokio::test]
async fn an_order_whose_time_is_over_or_whose_authorization_was_given_back_is_invalid() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let order = client.order(&["a.test"]);
    let authorization = order.content()["authorizations"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let given_back = client.post(&authorization, r#"{"status": "deactivated"}"#);
    assert_eq!(given_back.content()["status"], "deactivated");
    assert_eq!(client.leaves(&order, &[]).await["status"], "invalid");
    let again = client.post(&authorization, r#"{"status": "deactivated"}"#);
    assert_eq!(again.refusal(), (400, "malformed".into()));

    let order = client.order(&["b.test"]);
    ca.script()
        .clock_ahead(SignedDuration::from_hours(24 * 7 - 1));
    assert_eq!(client.leaves(&order, &[]).await["status"], "pending");
    ca.script()
        .clock_ahead(SignedDuration::from_hours(24 * 7 + 1));
    assert_eq!(client.leaves(&order, &[]).await["status"], "invalid");
}

#[tokio::test]
async fn an_order_that_cannot_be_is_refused_with_the_names_that_are_to_blame() {
    let ca = started(Settings {
        refused_names: vec!["bad.test".into()],
        default_profile: Profile {
            most_names: 3,
            ..Profile::default()
        },
        ..Settings::default()
    })
    .await;
    let client = Client::of(&ca);
    let one = client.order(&["good.test", "www.bad.test"]);
    assert_eq!(one.refusal(), (400, "rejectedIdentifier".into()));
    assert!(one.detail().contains("www.bad.test"), "{}", one.detail());
    let two = client
        .order(&["good.test", "www.bad.test", "bad.test"])
        .content();
    let blamed: Vec<_> = two["subproblems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sub| sub["identifier"]["value"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(blamed, ["bad.test", "www.bad.test"]);

    assert_eq!(client.order(&[]).refusal(), (400, "malformed".into()));
    let many = client.order(&["a.test", "b.test", "c.test", "d.test"]);
    assert_eq!(many.refusal(), (400, "malformed".into()));
    let payload = json!({"identifiers": [{"type": "ip", "value": "198.18.0.1"}]}).to_string();
    let address = client.post(&ca.url("/new-order"), &payload);
    assert_eq!(address.refusal(), (400, "unsupportedIdentifier".into()));
    let unknown = client.order_with(&["a.test"], &json!({"profile": "none"}));
    assert_eq!(unknown.refusal(), (400, "invalidProfile".into()));
    assert_eq!(ca.count().placed, 0);
}

#[tokio::test]
async fn wildcards_are_not_proved_by_http() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let order = client.order(&["*.a.test"]).content();
    let authorization = client
        .get(order["authorizations"][0].as_str().unwrap())
        .content();
    assert_eq!(authorization["identifier"]["value"], "a.test");
    assert_eq!(authorization["wildcard"], true);
    let kinds: Vec<_> = authorization["challenges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["type"])
        .collect();
    assert_eq!(kinds, [&json!("dns-01")]);
}

#[tokio::test]
async fn lets_encrypt_gives_orders_and_authorizations_back_while_they_serve() {
    let ca = started(Settings::lets_encrypt()).await;
    let client = Client::of(&ca);
    let short = json!({"profile": "shortlived"});
    let first = client.order_with(&["a.test"], &short);
    assert_eq!(
        client.order_with(&["a.test"], &short).location(),
        first.location()
    );
    // Another profile is another order.
    assert_ne!(client.order(&["a.test"]).location(), first.location());
    client.accept(&first);
    assert_eq!(client.leaves(&first, &["pending"]).await["status"], "ready");
    assert_eq!(
        client.order_with(&["a.test"], &short).location(),
        first.location()
    );

    let second = client.order_with(&["a.test", "b.test"], &short).content();
    assert_eq!(
        second["authorizations"][0],
        first.content()["authorizations"][0]
    );
    assert_eq!(second["profile"], "shortlived");
    ca.script().clock_ahead(SignedDuration::from_hours(8));
    let third = client.order_with(&["a.test", "c.test"], &short).content();
    assert_ne!(
        third["authorizations"][0],
        first.content()["authorizations"][0]
    );
}
