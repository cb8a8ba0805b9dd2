//! The TLS Secret and its companion: read into observations, built whole. Pure.

use std::collections::BTreeMap;

use evercert_api::keys;
use evercert_api::{Certificate, children};
use evercert_core::key::ObjectKey;
use evercert_core::observe::{Companion, Marks, SecretObservation, TlsSecret};
use evercert_core::ownership::is_ours;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The type of a TLS Secret.
const TLS_TYPE: &str = "kubernetes.io/tls";
/// The companion's annotation that says for which leaf the other marks are.
type Annotations = BTreeMap<String, String>;

/// What a Secret holds under `key`; empty when it holds nothing.
pub(crate) fn data<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    secret
        .data
        .as_ref()
        .and_then(|d| d.get(key))
        .map_or(&[], |ByteString(bytes)| bytes.as_slice())
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret
        .metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

fn marks(secret: &Secret) -> Marks {
    Marks {
        issuer: annotation(secret, keys::ISSUER).map(str::to_owned),
        directory: annotation(secret, keys::DIRECTORY).map(str::to_owned),
        names: annotation(secret, keys::NAMES).map(|n| {
            n.split(',')
                .filter(|n| !n.is_empty())
                .map(str::to_owned)
                .collect()
        }),
        profile: annotation(secret, keys::PROFILE).map(str::to_owned),
        issued_at: annotation(secret, keys::ISSUED_AT).and_then(|t| t.parse().ok()),
    }
}

/// What the companion of the Certificate with `uid` holds. An unreadable key or certificate counts as none.
pub(crate) fn observe_companion(secret: Option<&Secret>, uid: Option<&str>) -> Companion {
    let Some(secret) = secret else {
        return Companion::default();
    };
    Companion {
        pending_key: evercert_pki::key_kind(data(secret, keys::PENDING_KEY)).ok(),
        last_good: evercert_pki::read_pair(
            data(secret, keys::TLS_CRT),
            data(secret, keys::TLS_KEY),
        )
        .ok()
        .map(|facts| (facts, marks(secret))),
        strayed: !is_owned_by(secret, uid),
    }
}

/// Whether the Certificate with `uid` is an owner. What else is named beside it is the garbage collector's to mend.
fn is_owned_by(secret: &Secret, uid: Option<&str>) -> bool {
    let mut owners = secret.metadata.owner_references.iter().flatten();
    owners.any(|owner| Some(owner.uid.as_str()) == uid)
}

/// What the TLS Secret holds, and whose it is.
pub(crate) fn observe_secret(
    certificate: &str,
    secret: Option<&Secret>,
    companion: &Companion,
) -> SecretObservation {
    let Some(secret) = secret else {
        return SecretObservation::Missing;
    };
    let content = evercert_pki::read_pair(data(secret, keys::TLS_CRT), data(secret, keys::TLS_KEY));
    let leaf = evercert_pki::read_leaf(data(secret, keys::TLS_CRT)).ok();
    let stored = companion.last_good.as_ref();
    let owner = annotation(secret, keys::CERTIFICATE_NAME);
    if let Some(kind) = secret.type_.as_deref().filter(|kind| *kind != TLS_TYPE) {
        return SecretObservation::WrongType(kind.to_owned());
    }
    if !is_ours(
        certificate,
        owner,
        leaf.as_ref().map(|f| f.fingerprint.as_str()),
        stored.map(|(f, _)| f.fingerprint.as_str()),
    ) {
        return SecretObservation::Foreign;
    }
    let same = stored.filter(|(f, _)| {
        content
            .as_ref()
            .is_ok_and(|c| c.fingerprint == f.fingerprint)
    });
    let own = marks(secret);
    let fallback = content
        .as_ref()
        .is_ok_and(|facts| annotation(secret, keys::FALLBACK) == Some(facts.fingerprint.as_str()));
    let whole_marks = same.map_or_else(|| own.clone(), |(_, marks)| marks.clone());
    let label = secret
        .metadata
        .labels
        .as_ref()
        .and_then(|l| l.get(keys::SECRET_ROLE_LABEL))
        .map(String::as_str);
    SecretObservation::Ours(TlsSecret {
        marks_in_step: owner == Some(certificate)
            && label == Some(keys::ROLE_TLS)
            && own == whole_marks,
        marks: whole_marks,
        fallback,
        content,
    })
}

/// A certificate with its key, as it goes into a Secret.
#[derive(Debug, Clone)]
pub(crate) struct KeyPairPem {
    /// The chain, leaf first.
    pub(crate) chain: Vec<u8>,
    /// The private key.
    pub(crate) key: Vec<u8>,
}

fn mark_annotations(marks: &Marks) -> Annotations {
    let mut annotations = Annotations::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            annotations.insert(key.to_owned(), value);
        }
    };
    put(keys::ISSUER, marks.issuer.clone());
    put(keys::DIRECTORY, marks.directory.clone());
    put(keys::NAMES, marks.names.as_ref().map(|n| n.join(",")));
    put(keys::PROFILE, marks.profile.clone());
    put(keys::ISSUED_AT, marks.issued_at.map(|t| t.to_string()));
    annotations
}

/// What is written into the TLS Secret.
pub(crate) enum Content<'a> {
    /// An issued certificate.
    Issued(&'a KeyPairPem, &'a Marks),
    /// A fallback with the fingerprint of its leaf.
    Fallback(&'a KeyPairPem, &'a str),
    /// The marks alone are put in step.
    Marks(&'a Marks),
}

/// The TLS Secret with `content`: all that somebody else put on `existing` stays, our marks and keys are replaced.
pub(crate) fn build_tls(
    key: &ObjectKey,
    secret_name: &str,
    existing: Option<&Secret>,
    content: &Content<'_>,
) -> Secret {
    let mut secret = existing.cloned().unwrap_or_else(|| Secret {
        metadata: ObjectMeta {
            name: Some(secret_name.to_owned()),
            namespace: Some(key.namespace.clone()),
            ..ObjectMeta::default()
        },
        type_: Some(TLS_TYPE.to_owned()),
        ..Secret::default()
    });
    let labels = secret.metadata.labels.get_or_insert_default();
    labels.insert(
        keys::SECRET_ROLE_LABEL.to_owned(),
        keys::ROLE_TLS.to_owned(),
    );
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(keys::CERTIFICATE_NAME.to_owned(), key.name.clone());
    if !matches!(content, Content::Marks(_)) {
        annotations.remove(keys::FALLBACK);
    }
    for mark in [
        keys::ISSUER,
        keys::DIRECTORY,
        keys::NAMES,
        keys::PROFILE,
        keys::ISSUED_AT,
    ] {
        annotations.remove(mark);
    }
    let pair = match content {
        Content::Issued(pair, marks) => {
            annotations.extend(mark_annotations(marks));
            Some(*pair)
        }
        Content::Fallback(pair, leaf) => {
            annotations.insert(keys::FALLBACK.to_owned(), (*leaf).to_owned());
            Some(*pair)
        }
        Content::Marks(marks) => {
            annotations.extend(mark_annotations(marks));
            None
        }
    };
    if let Some(pair) = pair {
        let data = secret.data.get_or_insert_default();
        data.insert(keys::TLS_CRT.to_owned(), ByteString(pair.chain.clone()));
        data.insert(keys::TLS_KEY.to_owned(), ByteString(pair.key.clone()));
    }
    secret
}

/// A change of the companion.
pub(crate) enum Kept<'a> {
    /// The key of the next certificate.
    PendingKey(&'a [u8]),
    /// No key of a next certificate.
    NoPendingKey,
    /// Only the owner.
    Owner,
    /// The last good certificate.
    LastGood(&'a KeyPairPem, &'a Marks),
}

/// The companion Secret after `change`; it is owned by the Certificate.
pub(crate) fn build_companion(
    certificate: &Certificate,
    existing: Option<&Secret>,
    change: &Kept<'_>,
) -> Secret {
    let namespace = certificate.metadata.namespace.clone().unwrap_or_default();
    let name = certificate.metadata.name.clone().unwrap_or_default();
    let mut secret = existing.cloned().unwrap_or_else(|| Secret {
        metadata: ObjectMeta {
            name: Some(children::companion_name(&namespace, &name)),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    });
    secret.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "evercert.dev/v1".to_owned(),
        kind: "Certificate".to_owned(),
        name: name.clone(),
        uid: certificate.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    }]);
    let labels = secret.metadata.labels.get_or_insert_default();
    labels.insert(
        keys::SECRET_ROLE_LABEL.to_owned(),
        keys::ROLE_COMPANION.to_owned(),
    );
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(keys::CERTIFICATE_NAME.to_owned(), name);
    let data = secret.data.get_or_insert_default();
    match change {
        Kept::PendingKey(key) => {
            data.insert(keys::PENDING_KEY.to_owned(), ByteString(key.to_vec()));
        }
        Kept::NoPendingKey => {
            data.remove(keys::PENDING_KEY);
        }
        Kept::Owner => {}
        Kept::LastGood(pair, marks) => {
            annotations.remove(keys::PROFILE);
            annotations.extend(mark_annotations(marks));
            data.insert(keys::TLS_CRT.to_owned(), ByteString(pair.chain.clone()));
            data.insert(keys::TLS_KEY.to_owned(), ByteString(pair.key.clone()));
        }
    }
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use evercert_api::DnsName;
    use evercert_api::certificate::PrivateKey;
    use evercert_pki::Marking;

    fn pair() -> KeyPairPem {
        let key = evercert_pki::generate_key(&PrivateKey::default()).unwrap();
        let names = [DnsName::parse("a.example").unwrap()];
        let (from, to) = (
            "2026-01-01T00:00:00Z".parse().unwrap(),
            "2027-01-01T00:00:00Z".parse().unwrap(),
        );
        let chain =
            evercert_pki::self_signed(key.as_bytes(), &names, from, to, Marking::Fallback).unwrap();
        KeyPairPem {
            chain: chain.into_bytes(),
            key: key.into_bytes(),
        }
    }

    fn key() -> ObjectKey {
        ObjectKey::new("shop", "site")
    }

    #[test]
    fn the_mark_of_a_fallback_holds_only_while_it_equals_the_leaf() {
        let pair = pair();
        let leaf = evercert_pki::read_leaf(&pair.chain).unwrap().fingerprint;
        let is_fallback = |mark: &str| {
            let secret = build_tls(&key(), "tls", None, &Content::Fallback(&pair, mark));
            match observe_secret("site", Some(&secret), &Companion::default()) {
                SecretObservation::Ours(s) => s.fallback,
                other => panic!("{other:?}"),
            }
        };
        assert!(is_fallback(&leaf));
        assert!(!is_fallback("00"));
    }

    #[test]
    fn an_issued_certificate_takes_the_mark_of_the_fallback_away_and_keeps_foreign_keys() {
        let pair = pair();
        let mut before = build_tls(&key(), "tls", None, &Content::Fallback(&pair, "ab"));
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
            "tls",
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
        let mut secret = build_tls(&key(), "tls", None, &Content::Fallback(&pair, "ab"));
        secret.metadata.annotations = None;
        assert_eq!(
            observe_secret("site", Some(&secret), &Companion::default()),
            SecretObservation::Foreign
        );
        secret.type_ = Some("Opaque".into());
        let wrong = SecretObservation::WrongType("Opaque".into());
        assert_eq!(
            observe_secret("site", Some(&secret), &Companion::default()),
            wrong
        );
    }

    #[test]
    fn a_companion_from_a_copy_has_strayed_until_its_owner_is_this_very_certificate() {
        let mut certificate = Certificate::new(
            "site",
            serde_json::from_value(serde_json::json!({
                "secretName": "tls", "dnsNames": ["a.example"], "issuerRef": {"name": "ca"},
            }))
            .unwrap(),
        );
        certificate.metadata.uid = Some("old".into());
        let mut companion = build_companion(&certificate, None, &Kept::PendingKey(b"x"));
        assert!(!observe_companion(Some(&companion), Some("old")).strayed);
        assert!(observe_companion(Some(&companion), Some("new")).strayed);
        companion.metadata.owner_references = None;
        assert!(observe_companion(Some(&companion), Some("new")).strayed);
        certificate.metadata.uid = Some("new".into());
        let mended = build_companion(&certificate, Some(&companion), &Kept::Owner);
        assert!(!observe_companion(Some(&mended), Some("new")).strayed);
        assert_eq!(mended.data, companion.data);
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
        let mut secret = build_tls(&key(), "tls", None, &Content::Issued(&pair, &marks));
        secret.metadata.annotations = None;
        match observe_secret("site", Some(&secret), &companion) {
            SecretObservation::Ours(s) => assert_eq!((s.marks, s.marks_in_step), (marks, false)),
            other => panic!("{other:?}"),
        }
    }
}
