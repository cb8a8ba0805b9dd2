//! Chains, revocation, renewal information.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::client::{Client, believing, encode, started};
use crate::leaf::{Leaf, hex};
use crate::scripted::answer::Reply;
use crate::scripted::{Advice, RetryAfter, ScriptedCa, Settings};

/// The identifier of the newest certificate's renewal information.
fn newest(ca: &ScriptedCa) -> (String, Vec<u8>) {
    let state = ca.shared.lock();
    let (_, certificate) = state.certificates.last_key_value().unwrap();
    (certificate.renewal_id.clone(), certificate.der.clone())
}

fn advice(client: &Client<'_>, id: &str) -> Reply {
    let url = client.ca.url(&format!("/renewal-info/{id}"));
    client.ca.handle(&client.request("GET", &url, ""))
}

fn window(reply: &Reply) -> (Timestamp, Timestamp) {
    let instant = |name: &str| -> Timestamp {
        let text = &reply.content()["suggestedWindow"][name];
        text.as_str().unwrap().parse().unwrap()
    };
    (instant("start"), instant("end"))
}

fn issuers(pem: &str) -> Vec<String> {
    let chain = Leaf::parse_chain(pem.as_bytes()).unwrap();
    chain.into_iter().map(|leaf| leaf.issuer).collect()
}

#[tokio::test]
async fn alternate_chains_have_the_same_leaf_and_another_root() {
    let ca = started(Settings {
        alternate_chains: 2,
        ..Settings::default()
    })
    .await;
    let client = Client::of(&ca);
    let order = client.issue(&["a.test"], &json!({})).await;
    let default = client.download(&order);
    let links: Vec<String> = default
        .headers
        .iter()
        .filter(|(name, value)| name == "link" && value.ends_with("rel=\"alternate\""))
        .map(|(_, value)| value[1..value.find('>').unwrap()].to_owned())
        .collect();
    assert_eq!(links.len(), 2);
    let mut roots = vec![issuers(&default.text())[1].clone()];
    for link in &links {
        let other = client.get(link).text();
        let leaf = |pem: &str| Leaf::parse_chain(pem.as_bytes()).unwrap()[0].clone();
        assert_eq!(leaf(&other), leaf(&default.text()));
        roots.push(issuers(&other)[1].clone());
    }
    let subjects: Vec<String> = ca
        .roots()
        .iter()
        .map(|pem| {
            Leaf::parse_chain(pem.as_bytes()).unwrap()[0]
                .subject
                .clone()
        })
        .collect();
    assert_eq!(roots, subjects);
    assert_eq!(
        roots
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        3
    );

    ca.script().change_intermediate().unwrap();
    let order = client.issue(&["a.test"], &json!({})).await;
    let later = issuers(&client.download(&order).text());
    assert_ne!(later[0], issuers(&default.text())[0]);
    assert_eq!(later[1], roots[0]);
    ca.script().change_hierarchy(0).unwrap();
    let order = client.issue(&["a.test"], &json!({})).await;
    let last = client.download(&order);
    assert!(!roots.contains(&issuers(&last.text())[1]));
    assert!(
        !last
            .headers
            .iter()
            .any(|(_, value)| value.contains("alternate"))
    );
}

#[tokio::test]
async fn a_certificate_is_revoked_once_and_by_those_who_may() {
    let ca = believing().await;
    let (owner, other) = (Client::of(&ca), Client::of(&ca));
    owner.issue(&["a.test"], &json!({})).await;
    let (id, der) = newest(&ca);
    let revoke = |client: &Client<'_>, reason: u64| {
        let payload = json!({"certificate": encode(&der), "reason": reason}).to_string();
        client.post(&ca.url("/revoke-cert"), &payload)
    };
    assert_eq!(revoke(&other, 1).refusal(), (403, "unauthorized".into()));
    assert_eq!(
        revoke(&Client::stranger(&ca), 1).refusal(),
        (403, "unauthorized".into())
    );
    assert_eq!(
        revoke(&owner, 7).refusal(),
        (400, "badRevocationReason".into())
    );
    assert_eq!(revoke(&owner, 4).status, 200);
    assert_eq!(revoke(&owner, 4).refusal(), (400, "alreadyRevoked".into()));
    // Renewal information says so, too.
    assert!(window(&advice(&owner, &id)).1 <= Timestamp::now());
}

#[tokio::test]
async fn who_controls_the_names_may_revoke() {
    let ca = believing().await;
    let (owner, heir) = (Client::of(&ca), Client::of(&ca));
    owner.issue(&["a.test"], &json!({})).await;
    let (_, der) = newest(&ca);
    heir.issue(&["a.test", "b.test"], &json!({})).await;
    let payload = json!({"certificate": encode(&der)}).to_string();
    assert_eq!(heir.post(&ca.url("/revoke-cert"), &payload).status, 200);
}

#[tokio::test]
async fn renewal_information_is_found_by_key_identifier_and_serial_number() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let mut with_sign = 0;
    // A serial number keeps the octet that makes it positive: half of them have one.
    while with_sign == 0 {
        client.issue(&["a.test"], &json!({})).await;
        let (id, der) = newest(&ca);
        let serial = BASE64_URL_SAFE_NO_PAD
            .decode(id.split_once('.').unwrap().1)
            .unwrap();
        assert_eq!(hex(&serial), Leaf::parse_der(&der).unwrap().serial);
        if serial[0] == 0 {
            assert!(serial[1] >= 0x80);
            with_sign += 1;
        }
        let (start, end) = window(&advice(&client, &id));
        let leaf = Leaf::parse_der(&der).unwrap();
        assert!(leaf.not_before < start && start < end && end < leaf.not_after);
    }
    let unknown = advice(&client, "AAAA.AAAA");
    assert_eq!(unknown.refusal(), (404, "malformed".into()));
}

#[tokio::test]
async fn renewal_information_says_what_the_script_says() {
    let ca = believing().await;
    let client = Client::of(&ca);
    client.issue(&["a.test"], &json!({})).await;
    let (id, _) = newest(&ca);
    let usual = advice(&client, &id);
    assert_eq!(usual.header_value("retry-after").as_deref(), Some("21600"));
    assert_eq!(usual.content()["explanationURL"], Value::Null);

    let now: Timestamp = "2026-08-05T10:00:00Z".parse().unwrap();
    let hour = SignedDuration::from_hours(1);
    let page = "https://scripted.example/incident";
    let absurd = Advice::window(now, now - hour).retry_after(None);
    ca.script().renewal(absurd);
    assert_eq!(window(&advice(&client, &id)), (now, now - hour));
    assert_eq!(advice(&client, &id).header_value("retry-after"), None);
    let at_once = Advice::at_once(Timestamp::now())
        .explained(page)
        .retry_after(Some(RetryAfter::Seconds(60)));
    ca.script().renewal_of("a.test", at_once);
    let reply = advice(&client, &id);
    assert!(window(&reply).1 < Timestamp::now());
    assert_eq!(reply.content()["explanationURL"], page);
    assert_eq!(reply.header_value("retry-after").as_deref(), Some("60"));
}

#[tokio::test]
async fn a_certificate_is_replaced_once_and_by_its_own_account() {
    let ca = believing().await;
    let client = Client::of(&ca);
    client.issue(&["a.test"], &json!({})).await;
    let replaces = json!({"replaces": newest(&ca).0});
    let stranger = Client::of(&ca).order_with(&["a.test"], &replaces);
    assert_eq!(stranger.refusal(), (403, "unauthorized".into()));
    let unrelated = client.order_with(&["b.test"], &replaces);
    assert_eq!(unrelated.refusal(), (400, "malformed".into()));
    let unknown = client.order_with(&["a.test"], &json!({"replaces": "AAAA.AAAA"}));
    assert_eq!(unknown.refusal(), (404, "malformed".into()));

    let first = client.order_with(&["a.test", "b.test"], &replaces);
    assert_eq!(first.content()["replaces"], replaces["replaces"]);
    let second = client.order_with(&["a.test"], &replaces);
    assert_eq!(second.refusal(), (409, "alreadyReplaced".into()));
    // What came to nothing replaces nothing.
    let authorization = first.content()["authorizations"][0]
        .as_str()
        .unwrap()
        .to_owned();
    client.post(&authorization, r#"{"status": "deactivated"}"#);
    assert_eq!(client.leaves(&first, &[]).await["status"], "invalid");
    client.issue(&["a.test"], &replaces).await;
    assert_eq!(
        client.order_with(&["a.test"], &replaces).refusal(),
        (409, "alreadyReplaced".into())
    );
}
