use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::memory::Memory;

#[test]
fn what_was_read_serves_again_until_the_watch_knows_better() {
    let certificate = |generation, renew: Option<&str>| {
        let spec = serde_json::from_value(serde_json::json!({
            "secretName": "s", "dnsNames": ["a.example"], "issuerRef": {"name": "ca"},
        }));
        let mut certificate = Certificate::new("c", spec.unwrap());
        certificate.metadata.generation = Some(generation);
        certificate.metadata.annotations =
            renew.map(|at| [("evercert.dev/renew-at".to_owned(), at.to_owned())].into());
        certificate
    };
    let reads = |read_at| Reads {
        certificate: certificate(2, None),
        secret: None,
        companion: None,
        own_fallback: None,
        claim: None,
        read_at,
    };
    let now = reads(Instant::now());
    assert!(now.are_current(&certificate(2, None)));
    assert!(now.are_current(&certificate(1, None)), "the watch is late");
    assert!(!now.are_current(&certificate(3, None)));
    assert!(!now.are_current(&certificate(2, Some("now"))));
    let old = Instant::now().checked_sub(CURRENT).unwrap();
    assert!(!reads(old).are_current(&certificate(2, None)));
}

#[test]
fn what_was_read_is_dropped_when_a_secret_is_there_in_another_version_or_gone() {
    let secret = |name: &str| {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.to_owned());
        secret.metadata.resource_version = Some("5".to_owned());
        secret
    };
    let (memory, key) = (Memory::default(), ObjectKey::new("n", "c"));
    let is_kept_after = |name: &str, version| {
        let spec = serde_json::from_value(serde_json::json!({
            "secretName": "s", "dnsNames": ["a.example"], "issuerRef": {"name": "ca"},
        }));
        let reads = Reads {
            certificate: Certificate::new("c", spec.unwrap()),
            secret: Some(secret("s")),
            companion: Some(secret("s-companion")),
            own_fallback: None,
            claim: None,
            read_at: Instant::now(),
        };
        memory.keep_reads(&key, reads);
        memory.note_secret(&key, name, version);
        memory.take_reads(&key).is_some()
    };
    assert!(is_kept_after("s", Some("5")), "the echo of what was read");
    assert!(is_kept_after("s-companion", Some("5")));
    assert!(!is_kept_after("s", Some("6")));
    assert!(!is_kept_after("s-companion", None), "gone");
    assert!(!is_kept_after("other", Some("5")), "it was not there");
}

#[test]
fn an_intent_of_a_predecessor_of_the_same_name_is_not_the_certificates() {
    let created = Timestamp::from_second(100).unwrap();
    let at = |ms| Timestamp::from_millisecond(ms).unwrap();
    assert!(!is_of(created, at(99_999)));
    assert!(is_of(created, at(100_000)));
}

/// Another may put the key into the companion, place the order and write its status between two reads of this process.
#[tokio::test(start_paused = true)]
async fn the_key_of_an_order_is_looked_for_after_the_order_was_seen() {
    let events: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = events.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let events = told.clone();
        async move {
            let path = request.uri().path().to_owned();
            events.lock().unwrap().push(format!("asked {path}"));
            let answer = if path.contains("/certificates/") {
                tokio::time::sleep(Duration::from_secs(1)).await;
                json!({
                    "apiVersion": "evercert.dev/v1", "kind": "Certificate", "metadata": { "name": "c", "namespace": "n" },
                    "spec": { "secretName": "s", "dnsNames": ["a.example"], "issuerRef": { "name": "ca" } },
                })
            } else {
                json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s", "namespace": "n" } })
            };
            events.lock().unwrap().push(format!("answered {path}"));
            Ok::<_, Infallible>(Response::new(Body::from(answer.to_string().into_bytes())))
        }
    });
    let client = Client::new(service, "default");
    let read = Reads::read(&ObjectKey::new("n", "c"), &client)
        .await
        .unwrap();
    assert!(read.is_some());
    let events = events.lock().unwrap();
    let at = |wanted: &str| events.iter().position(|e| e.starts_with(wanted)).unwrap();
    assert!(
        at("answered /apis/evercert.dev/") < at("asked /api/v1/namespaces/n/secrets/"),
        "{events:?}"
    );
}
