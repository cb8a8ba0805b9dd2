//! The TLS Secret and its companion: read into observations, built whole. Pure.

use std::collections::BTreeMap;

use evercert_api::certificate::CertificateSpec;
use evercert_api::keys;
use evercert_api::{Certificate, children};
use evercert_core::facts::CertificateFacts;
use evercert_core::key::ObjectKey;
use evercert_core::observe::{
    Companion, ForeignSecret, Marks, OwnFallback, SecretObservation, TlsSecret,
};
use evercert_core::ownership::{is_fallback, is_ours};
use evercert_core::revocation::{MOST_REVOKED, Revocation, RevocationReason};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::extras::put_extras;

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
        revoke: annotation(secret, keys::REVOKE_HEEDED).map(str::to_owned),
    }
}

/// When a certificate was last issued, as the TLS Secret and the companion tell.
pub(crate) fn last_issue(secret: Option<&Secret>, companion: Option<&Secret>) -> Option<Timestamp> {
    let both = [secret, companion].into_iter().flatten();
    both.filter_map(|secret| marks(secret).issued_at).max()
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
        revocation: observe_revocation(secret),
        revoked: revoked(secret),
    }
}

/// The certificate that is to be revoked. Its key must be beside it: who has that may have it revoked, and a companion into which
/// somebody put the certificate of others asks for nothing.
fn observe_revocation(companion: &Secret) -> Option<Box<Revocation>> {
    let value = annotation(companion, keys::REVOKE)?;
    let key = data(companion, keys::REVOKE_KEY);
    Some(Box::new(Revocation {
        value: value.to_owned(),
        reason: RevocationReason::parse(value)?,
        leaf: evercert_pki::read_pair(data(companion, keys::REVOKE_CRT), key).ok()?,
        issuer: annotation(companion, keys::REVOKE_ISSUER).map(str::to_owned),
        directory: annotation(companion, keys::REVOKE_DIRECTORY)?.to_owned(),
        key_is_pending: evercert_pki::is_same_key(data(companion, keys::PENDING_KEY), key),
        key_is_last_good: evercert_pki::is_same_key(data(companion, keys::TLS_KEY), key),
    }))
}

/// The leaves that were revoked, the newest first.
fn revoked(companion: &Secret) -> Vec<String> {
    let all = annotation(companion, keys::REVOKED).unwrap_or_default();
    let all = all.split(',').filter(|leaf| !leaf.is_empty());
    all.map(str::to_owned).collect()
}

/// Whether the Certificate with `uid` is an owner. What else is named beside it is the garbage collector's to mend.
fn is_owned_by(secret: &Secret, uid: Option<&str>) -> bool {
    let mut owners = secret.metadata.owner_references.iter().flatten();
    owners.any(|owner| Some(owner.uid.as_str()) == uid)
}

/// What the Secret with the user's own certificate holds.
pub(crate) fn observe_own_fallback(secret: Option<&Secret>) -> OwnFallback {
    let Some(secret) = secret else {
        return OwnFallback::Missing;
    };
    match evercert_pki::read_pair(data(secret, keys::TLS_CRT), data(secret, keys::TLS_KEY)) {
        Ok(facts) => OwnFallback::There(facts),
        Err(damage) => OwnFallback::Damaged(damage),
    }
}

/// What the TLS Secret of the Certificate `key` holds, and whose it is; `claim` is the living controller that one of somebody
/// else belongs to.
pub(crate) fn observe_secret(
    key: &ObjectKey,
    spec: &CertificateSpec,
    secret: Option<&Secret>,
    companion: &Companion,
    own_fallback: &OwnFallback,
    claim: Option<&str>,
) -> SecretObservation {
    let Some(secret) = secret else {
        return SecretObservation::Missing;
    };
    if let Some(kind) = secret.type_.as_deref().filter(|kind| *kind != TLS_TYPE) {
        return SecretObservation::WrongType(kind.to_owned());
    }
    let content = evercert_pki::read_pair(data(secret, keys::TLS_CRT), data(secret, keys::TLS_KEY));
    let leaf = evercert_pki::read_leaf(data(secret, keys::TLS_CRT)).ok();
    let stored = companion.last_good.as_ref();
    let mark = annotation(secret, keys::FALLBACK);
    let own = match own_fallback {
        OwnFallback::There(facts) => Some(facts),
        OwnFallback::Missing | OwnFallback::Damaged(_) => None,
    };
    let fallback = content.as_ref().is_ok_and(|c| is_fallback(c, mark, own));
    if !is_ours(
        &key.name,
        annotation(secret, keys::CERTIFICATE_NAME),
        leaf.as_ref().map(|f| f.fingerprint.as_str()),
        stored.map(|(f, _)| f.fingerprint.as_str()),
    ) && !leaf.is_some_and(|f| companion.revoked.contains(&f.fingerprint))
    {
        return SecretObservation::Foreign(ForeignSecret {
            content,
            fallback,
            claim: claim.map(str::to_owned),
        });
    }
    let same = stored.filter(|(f, _)| {
        content
            .as_ref()
            .is_ok_and(|c| c.fingerprint == f.fingerprint)
    });
    let marks = same.map_or_else(|| marks(secret), |(_, marks)| marks.clone());
    let stands_in = content.as_ref().ok().filter(|_| fallback);
    let mended = build_tls(key, spec, Some(secret), &Content::Marks(&marks, stands_in));
    SecretObservation::Ours(TlsSecret {
        marks_in_step: is_same(secret, &mended),
        immutable: secret.immutable == Some(true),
        marks,
        fallback,
        content,
    })
}

/// Whether two versions of a Secret say and hold the same.
fn is_same(a: &Secret, b: &Secret) -> bool {
    let (x, y) = (&a.metadata, &b.metadata);
    x.labels == y.labels && x.annotations == y.annotations && a.data == b.data
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
    put(keys::REVOKE_HEEDED, marks.revoke.clone());
    annotations
}

/// What is written into the TLS Secret.
pub(crate) enum Content<'a> {
    /// An issued certificate.
    Issued(&'a KeyPairPem, &'a Marks),
    /// A fallback with the fingerprint of its leaf.
    Fallback(&'a KeyPairPem, &'a str),
    /// The marks alone are put in step, with the leaf in place if that is a fallback.
    Marks(&'a Marks, Option<&'a CertificateFacts>),
}

/// The TLS Secret with `content`: all that somebody else put on `existing` stays, our marks and keys are replaced.
pub(crate) fn build_tls(
    key: &ObjectKey,
    spec: &CertificateSpec,
    existing: Option<&Secret>,
    content: &Content<'_>,
) -> Secret {
    let mut secret = existing.cloned().unwrap_or_else(|| Secret {
        metadata: ObjectMeta {
            name: Some(spec.secret_name.clone()),
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
    for mark in [
        keys::FALLBACK,
        keys::ISSUER,
        keys::DIRECTORY,
        keys::NAMES,
        keys::PROFILE,
        keys::ISSUED_AT,
        keys::REVOKE_HEEDED,
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
        Content::Marks(marks, fallback) => {
            annotations.extend(mark_annotations(marks));
            let leaf = fallback.map(|facts| facts.fingerprint.clone());
            annotations.extend(leaf.map(|leaf| (keys::FALLBACK.to_owned(), leaf)));
            None
        }
    };
    if let Some(pair) = pair {
        let data = secret.data.get_or_insert_default();
        data.insert(keys::TLS_CRT.to_owned(), ByteString(pair.chain.clone()));
        data.insert(keys::TLS_KEY.to_owned(), ByteString(pair.key.clone()));
    }
    put_extras(&mut secret, spec);
    secret
}

/// A change of the companion.
pub(crate) enum Change<'a> {
    /// The key of the next certificate.
    PendingKey(&'a [u8]),
    /// No key of a next certificate.
    NoPendingKey,
    /// Only the owner.
    Owner,
    /// A certificate that is to be revoked: the value that asks for it, and its marks, which say who issued it.
    ToRevoke(&'a KeyPairPem, &'a str, &'a Marks),
    /// Another value asks for it; whether the last good certificate counts as issued after that, too.
    OtherReason(&'a str, bool),
    /// None is to be revoked any more; the leaf of one that was.
    NotToRevoke(Option<&'a CertificateFacts>),
    /// The last good certificate.
    LastGood(&'a KeyPairPem, &'a Marks),
}

/// The companion Secret after `change`; it is owned by the Certificate.
pub(crate) fn build_companion(
    certificate: &Certificate,
    existing: Option<&Secret>,
    change: &Change<'_>,
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
        Change::PendingKey(key) => {
            data.insert(keys::PENDING_KEY.to_owned(), ByteString(key.to_vec()));
        }
        Change::NoPendingKey => {
            data.remove(keys::PENDING_KEY);
        }
        Change::Owner => {}
        Change::ToRevoke(pair, value, marks) => {
            annotations.insert(keys::REVOKE.to_owned(), (*value).to_owned());
            for (key, mark) in [
                (keys::REVOKE_ISSUER, &marks.issuer),
                (keys::REVOKE_DIRECTORY, &marks.directory),
            ] {
                annotations.remove(key);
                annotations.extend(mark.clone().map(|mark| (key.to_owned(), mark)));
            }
            data.insert(keys::REVOKE_CRT.to_owned(), ByteString(pair.chain.clone()));
            data.insert(keys::REVOKE_KEY.to_owned(), ByteString(pair.key.clone()));
        }
        Change::OtherReason(value, heeded) => {
            annotations.insert(keys::REVOKE.to_owned(), (*value).to_owned());
            if *heeded {
                annotations.insert(keys::REVOKE_HEEDED.to_owned(), (*value).to_owned());
            }
        }
        Change::NotToRevoke(leaf) => {
            if let Some(leaf) = leaf {
                let before = annotations.get(keys::REVOKED).cloned().unwrap_or_default();
                let before = before
                    .split(',')
                    .filter(|l| !l.is_empty() && *l != leaf.fingerprint);
                let all: Vec<&str> = std::iter::once(leaf.fingerprint.as_str())
                    .chain(before)
                    .take(MOST_REVOKED)
                    .collect();
                annotations.insert(keys::REVOKED.to_owned(), all.join(","));
            }
            annotations.remove(keys::REVOKE);
            annotations.remove(keys::REVOKE_ISSUER);
            annotations.remove(keys::REVOKE_DIRECTORY);
            data.remove(keys::REVOKE_CRT);
            data.remove(keys::REVOKE_KEY);
        }
        Change::LastGood(pair, marks) => {
            annotations.remove(keys::PROFILE);
            annotations.remove(keys::REVOKE_HEEDED);
            annotations.extend(mark_annotations(marks));
            data.insert(keys::TLS_CRT.to_owned(), ByteString(pair.chain.clone()));
            data.insert(keys::TLS_KEY.to_owned(), ByteString(pair.key.clone()));
        }
    }
    secret
}

#[cfg(test)]
mod tests;
