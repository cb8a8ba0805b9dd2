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
