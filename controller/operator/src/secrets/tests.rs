use super::*;
use evercert_api::Identifier;
use evercert_api::certificate::PrivateKey;
use evercert_pki::Marking;

fn pair() -> KeyPairPem {
    pair_of(Marking::Fallback)
}

fn pair_of(marking: Marking) -> KeyPairPem {
    let key = evercert_pki::generate_key(&PrivateKey::default()).unwrap();
    let names = [Identifier::parse("a.example").unwrap()];
    let (from, to) = (
        "2026-01-01T00:00:00Z".parse().unwrap(),
        "2027-01-01T00:00:00Z".parse().unwrap(),
    );
    let chain = evercert_pki::self_signed(key.as_bytes(), &names, from, to, marking).unwrap();
    KeyPairPem {
        chain: chain.into_bytes(),
        key: key.into_bytes(),
    }
}

fn spec() -> CertificateSpec {
    serde_json::from_value(serde_json::json!({
        "secretName": "tls", "dnsNames": ["a.example"], "issuerRef": {"name": "ca"},
    }))
    .unwrap()
}

fn key() -> ObjectKey {
    ObjectKey::new("shop", "site")
}

#[test]
fn the_mark_of_a_fallback_is_in_step_only_while_it_equals_the_leaf() {
    let pair = pair();
    let leaf = evercert_pki::read_leaf(&pair.chain).unwrap().fingerprint;
    let observed = |mark: &str| {
        let secret = build_tls(&key(), &spec(), None, &Content::Fallback(&pair, mark));
        match observe_secret(
            &key(),
            &spec(),
            Some(&secret),
            &Companion::default(),
            &OwnFallback::Missing,
            None,
        ) {
            SecretObservation::Ours(s) => (s.fallback, s.marks_in_step),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(observed(&leaf), (true, true));
    assert_eq!(
        observed("00"),
        (true, false),
        "its name tells, and the mark is put back"
    );
}

#[test]
fn a_good_certificate_put_over_a_fallback_is_none_and_loses_the_mark() {
    let fallback = pair();
    let leaf = evercert_pki::read_leaf(&fallback.chain)
        .unwrap()
        .fingerprint;
    let mut secret = build_tls(&key(), &spec(), None, &Content::Fallback(&fallback, &leaf));
    let own = pair_of(Marking::SelfSignedIssuer);
    let data = secret.data.get_or_insert_default();
    data.insert(keys::TLS_CRT.to_owned(), ByteString(own.chain));
    data.insert(keys::TLS_KEY.to_owned(), ByteString(own.key));
    let SecretObservation::Ours(seen) = observe_secret(
        &key(),
        &spec(),
        Some(&secret),
        &Companion::default(),
        &OwnFallback::Missing,
        None,
    ) else {
        panic!("it is ours");
    };
    assert_eq!((seen.fallback, seen.marks_in_step), (false, false));
    let mended = build_tls(
        &key(),
        &spec(),
        Some(&secret),
        &Content::Marks(&seen.marks, None),
    );
    assert_eq!(annotation(&mended, keys::FALLBACK), None);
    assert_eq!(mended.data, secret.data);
}

#[test]
fn an_issued_certificate_takes_the_mark_of_the_fallback_away_and_keeps_foreign_keys() {
    let pair = pair();
    let mut before = build_tls(&key(), &spec(), None, &Content::Fallback(&pair, "ab"));
    before
        .metadata
        .annotations
        .get_or_insert_default()
        .insert("team".into(), "x".into());
    before
        .data
        .get_or_insert_default()
        .insert("extra".into(), ByteString(vec![1]));
    let marks = Marks {
        issuer: Some("Issuer/ca".into()),
        ..Marks::default()
    };
    let after = build_tls(
        &key(),
        &spec(),
        Some(&before),
        &Content::Issued(&pair, &marks),
    );
    let annotations = after.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(annotations.get(keys::FALLBACK), None);
    assert_eq!(annotations.get("team").map(String::as_str), Some("x"));
    assert_eq!(data(&after, "extra"), [1]);
}

#[test]
fn a_secret_without_our_annotation_and_leaf_is_foreign_and_one_of_another_type_is_named_so() {
    let pair = pair();
    let mut secret = build_tls(&key(), &spec(), None, &Content::Fallback(&pair, "ab"));
    secret.metadata.annotations = None;
    assert!(matches!(
        observe_secret(&key(), &spec(), Some(&secret), &Companion::default(), &OwnFallback::Missing, None),
        SecretObservation::Foreign(foreign) if foreign.content.is_ok() && foreign.fallback
    ));
    secret.type_ = Some("Opaque".into());
    let wrong = SecretObservation::WrongType("Opaque".into());
    assert_eq!(
        observe_secret(
            &key(),
            &spec(),
            Some(&secret),
            &Companion::default(),
            &OwnFallback::Missing,
            None
        ),
        wrong
    );
}

#[test]
fn a_companion_from_a_copy_has_strayed_until_its_owner_is_this_very_certificate() {
    let mut certificate = Certificate::new("site", spec());
    certificate.metadata.uid = Some("old".into());
    let mut companion = build_companion(&certificate, None, &Change::PendingKey(b"x"));
    assert!(!observe_companion(Some(&companion), Some("old")).strayed);
    assert!(observe_companion(Some(&companion), Some("new")).strayed);
    companion.metadata.owner_references = None;
    assert!(observe_companion(Some(&companion), Some("new")).strayed);
    certificate.metadata.uid = Some("new".into());
    let mended = build_companion(&certificate, Some(&companion), &Change::Owner);
    assert!(!observe_companion(Some(&mended), Some("new")).strayed);
    assert_eq!(mended.data, companion.data);
}

#[test]
fn what_is_to_be_revoked_is_believed_only_with_its_key_and_what_was_revoked_is_known_without_marks()
{
    let certificate = Certificate::new("site", spec());
    let (old, other) = (pair(), pair());
    let marks = Marks {
        issuer: Some("Issuer/b".into()),
        directory: Some("https://ca.example/dir".into()),
        ..Marks::default()
    };
    let noted = Change::ToRevoke(&old, "keyCompromise now", &marks);
    let mut companion = build_companion(&certificate, None, &Change::PendingKey(&old.key));
    companion = build_companion(&certificate, Some(&companion), &noted);
    let seen = observe_companion(Some(&companion), None);
    let revocation = seen.revocation.unwrap();
    assert_eq!(revocation.reason, RevocationReason::KeyCompromise);
    assert!(revocation.key_is_pending && !revocation.key_is_last_good);
    for (last, is_same) in [(&old, true), (&other, false)] {
        let kept = Change::LastGood(last, &marks);
        let kept = build_companion(&certificate, Some(&companion), &kept);
        let seen = observe_companion(Some(&kept), None).revocation.unwrap();
        assert_eq!(seen.key_is_last_good, is_same);
    }
    assert_eq!(
        (revocation.issuer.as_deref(), revocation.directory.as_str()),
        (Some("Issuer/b"), "https://ca.example/dir")
    );
    for heeded in [false, true] {
        let other = Change::OtherReason("superseded", heeded);
        let changed = build_companion(&certificate, Some(&companion), &other);
        assert_eq!(changed.data, companion.data);
        let mark = annotation(&changed, keys::REVOKE_HEEDED);
        assert_eq!(mark, heeded.then_some("superseded"));
        let seen = observe_companion(Some(&changed), None).revocation.unwrap();
        assert_eq!(seen.reason, RevocationReason::Superseded);
        assert_eq!(
            (seen.value.as_str(), &seen.leaf),
            ("superseded", &revocation.leaf)
        );
    }

    let mut stolen = companion.clone();
    let theirs = ByteString(other.key.clone());
    stolen
        .data
        .get_or_insert_default()
        .insert(keys::REVOKE_KEY.to_owned(), theirs);
    assert_eq!(observe_companion(Some(&stolen), None).revocation, None);

    let leaf = revocation.leaf;
    let done = build_companion(
        &certificate,
        Some(&companion),
        &Change::NotToRevoke(Some(&leaf)),
    );
    let seen = observe_companion(Some(&done), None);
    assert_eq!(
        (seen.revocation.clone(), &seen.revoked),
        (None, &vec![leaf.fingerprint])
    );
    for key in [keys::REVOKE_CRT, keys::REVOKE_KEY] {
        assert!(data(&done, key).is_empty(), "{key}");
    }
    for key in [keys::REVOKE, keys::REVOKE_ISSUER, keys::REVOKE_DIRECTORY] {
        assert_eq!(annotation(&done, key), None, "{key}");
    }

    let is_ours = |pair: &KeyPairPem| {
        let content = Content::Issued(pair, &Marks::default());
        let mut secret = build_tls(&key(), &spec(), None, &content);
        secret.metadata.annotations = None;
        let own = OwnFallback::Missing;
        let observed = observe_secret(&key(), &spec(), Some(&secret), &seen, &own, None);
        matches!(observed, SecretObservation::Ours(_))
    };
    assert!(is_ours(&old) && !is_ours(&other));
}

#[test]
fn stripped_marks_are_completed_from_the_companion_by_the_leaf() {
    let pair = pair();
    let marks = Marks {
        issuer: Some("Issuer/ca".into()),
        ..Marks::default()
    };
    let facts = evercert_pki::read_pair(&pair.chain, &pair.key).unwrap();
    let companion = Companion {
        last_good: Some((facts, marks.clone())),
        ..Companion::default()
    };
    let mut secret = build_tls(&key(), &spec(), None, &Content::Issued(&pair, &marks));
    secret.metadata.annotations = None;
    match observe_secret(
        &key(),
        &spec(),
        Some(&secret),
        &companion,
        &OwnFallback::Missing,
        None,
    ) {
        SecretObservation::Ours(s) => assert_eq!((s.marks, s.marks_in_step), (marks, false)),
        other => panic!("{other:?}"),
    }
}
