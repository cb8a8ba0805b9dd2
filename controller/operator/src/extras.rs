//! What the TLS Secret has beside the certificate and its marks, as the spec wants it: template, formats, what becomes of it. Pure.

use evercert_api::certificate::{CertificateSpec, DeletionPolicy, OutputFormat};
use evercert_api::{Certificate, keys};
use evercert_core::template;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;

use crate::secrets::data;

/// What [`keys::FORMATS`] says of a Secret with [`keys::TLS_COMBINED`] in it.
const COMBINED: &str = "CombinedPEM";

/// What [`keys::DELETE_WITH`] says of a Secret that is owned by its Certificate, since it has no UID yet by which it can be marked.
const OWNED: &str = "owned";

/// Lets the garbage collector take a new Secret that is to go with its Certificate, until it is marked: its Certificate may be gone
/// before there is a second write, or already. Then nobody would know that it is meant.
pub(crate) fn own_until_marked(secret: &mut Secret, certificate: &Certificate) {
    let is_new = secret.metadata.uid.is_none();
    if !is_new || certificate.spec.deletion_policy != DeletionPolicy::Delete {
        return;
    }
    if let Some(mut owner) = certificate.owner_ref(&()) {
        owner.block_owner_deletion = Some(false);
        secret.metadata.owner_references = Some(vec![owner]);
        annotate(secret, keys::DELETE_WITH, Some(OWNED.to_owned()));
    }
}

/// Takes back what [`own_until_marked`] did, once there is a UID; nobody else's owners.
fn disown(secret: &mut Secret) {
    let annotations = secret.metadata.annotations.as_ref();
    let is_owned = annotations
        .and_then(|a| a.get(keys::DELETE_WITH))
        .is_some_and(|v| v == OWNED);
    if let Some(owners) = secret
        .metadata
        .owner_references
        .as_mut()
        .filter(|_| is_owned)
    {
        owners.retain(|o| {
            o.kind != Certificate::kind(&()) || o.api_version != Certificate::api_version(&())
        });
    }
}

/// Puts all of it in step on `secret`, whose certificate is in place already. Idempotent; what other people put there stays.
pub(crate) fn put_extras(secret: &mut Secret, spec: &CertificateSpec) {
    put_template(secret, spec);
    put_combined(secret, spec);
    disown(secret);
    let uid = secret.metadata.uid.clone();
    let wanted = uid.filter(|_| spec.deletion_policy == DeletionPolicy::Delete);
    annotate(secret, keys::DELETE_WITH, wanted);
}

fn put_template(secret: &mut Secret, spec: &CertificateSpec) {
    let before = secret
        .metadata
        .annotations
        .get_or_insert_default()
        .remove(keys::TEMPLATE);
    let mut labels = secret.metadata.labels.take().unwrap_or_default();
    let annotations = secret.metadata.annotations.get_or_insert_default();
    let left = template::put_in_step(
        spec.secret_template.as_ref(),
        &mut labels,
        annotations,
        before.as_deref(),
    );
    secret.metadata.labels = Some(labels);
    annotate(secret, keys::TEMPLATE, left);
}

/// The key, then the chain: what programs like `HAProxy` read. Nothing is made of half a pair.
fn put_combined(secret: &mut Secret, spec: &CertificateSpec) {
    let wanted = spec.output_formats.contains(&OutputFormat::CombinedPem);
    let annotations = secret.metadata.annotations.as_ref();
    let is_there = annotations.is_some_and(|a| a.get(keys::FORMATS).is_some_and(|f| f == COMBINED));
    if !wanted {
        if is_there {
            secret
                .data
                .get_or_insert_default()
                .remove(keys::TLS_COMBINED);
            annotate(secret, keys::FORMATS, None);
        }
        return;
    }
    let (key, chain) = (data(secret, keys::TLS_KEY), data(secret, keys::TLS_CRT));
    if key.is_empty() || chain.is_empty() {
        return;
    }
    let newline: &[u8] = if key.ends_with(b"\n") { b"" } else { b"\n" };
    let combined = ByteString([key, newline, chain].concat());
    let data = secret.data.get_or_insert_default();
    data.insert(keys::TLS_COMBINED.to_owned(), combined);
    annotate(secret, keys::FORMATS, Some(COMBINED.to_owned()));
}

fn annotate(secret: &mut Secret, key: &str, value: Option<String>) {
    let annotations = secret.metadata.annotations.get_or_insert_default();
    match value {
        Some(value) => {
            annotations.insert(key.to_owned(), value);
        }
        None => {
            annotations.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(more: &serde_json::Value) -> CertificateSpec {
        let mut spec =
            json!({"secretName": "tls", "dnsNames": ["a.example"], "issuerRef": {"name": "ca"}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    fn secret() -> Secret {
        let mut secret = Secret::default();
        secret.metadata.uid = Some("u1".into());
        let data = secret.data.get_or_insert_default();
        data.insert("tls.key".into(), ByteString(b"KEY".to_vec()));
        data.insert("tls.crt".into(), ByteString(b"CHAIN\n".to_vec()));
        data.insert("theirs".into(), ByteString(b"x".to_vec()));
        secret
    }

    #[test]
    fn combined_pem_follows_the_certificate_and_goes_with_the_format() {
        let (with, without) = (
            spec(&json!({"outputFormats": ["CombinedPEM"]})),
            spec(&json!({})),
        );
        let mut secret = secret();
        put_extras(&mut secret, &with);
        assert_eq!(data(&secret, keys::TLS_COMBINED), b"KEY\nCHAIN\n");
        let chain = ByteString(b"NEXT\n".to_vec());
        secret
            .data
            .get_or_insert_default()
            .insert("tls.crt".into(), chain);
        put_extras(&mut secret, &with);
        assert_eq!(data(&secret, keys::TLS_COMBINED), b"KEY\nNEXT\n");
        put_extras(&mut secret, &without);
        assert_eq!(data(&secret, keys::TLS_COMBINED), b"");
        assert_eq!(data(&secret, "theirs"), b"x");
        assert_eq!(secret.metadata.annotations, Some([].into()));
    }

    #[test]
    fn file_of_that_name_that_somebody_else_put_there_stays() {
        let mut secret = secret();
        let theirs = ByteString(b"y".to_vec());
        secret
            .data
            .get_or_insert_default()
            .insert(keys::TLS_COMBINED.into(), theirs);
        put_extras(&mut secret, &spec(&json!({})));
        assert_eq!(data(&secret, keys::TLS_COMBINED), b"y");
    }

    #[test]
    fn a_new_secret_that_goes_with_its_certificate_is_owned_until_it_can_be_marked() {
        let certificate = |policy: &str| {
            let mut certificate =
                Certificate::new("site", spec(&json!({"deletionPolicy": policy})));
            certificate.metadata.uid = Some("c1".into());
            certificate
        };
        let owners = |s: &Secret| -> Vec<String> {
            let owners = s.metadata.owner_references.iter().flatten();
            owners.map(|o| o.uid.clone()).collect()
        };
        let mut stays = Secret::default();
        own_until_marked(&mut stays, &certificate("Retain"));
        assert!(owners(&stays).is_empty());

        let going = certificate("Delete");
        let mut new = Secret::default();
        put_extras(&mut new, &going.spec);
        own_until_marked(&mut new, &going);
        assert_eq!(owners(&new), ["c1"]);

        let mut other = new.metadata.owner_references.clone().unwrap().remove(0);
        (other.kind, other.uid) = ("ConfigMap".into(), "x".into());
        new.metadata.owner_references.as_mut().unwrap().push(other);
        new.metadata.uid = Some("u1".into());
        for policy in ["Delete", "Retain"] {
            let mut there = new.clone();
            own_until_marked(&mut there, &going);
            put_extras(&mut there, &certificate(policy).spec);
            assert_eq!(owners(&there), ["x"], "{policy}");
            let mark = there
                .metadata
                .annotations
                .unwrap()
                .remove(keys::DELETE_WITH);
            assert_eq!(mark.is_some_and(|m| m == "u1"), policy == "Delete");
        }

        // Whoever else lets a Certificate own its Secret knows why.
        let mut theirs = secret();
        theirs.metadata.owner_references = going.owner_ref(&()).map(|o| vec![o]);
        put_extras(&mut theirs, &going.spec);
        assert_eq!(owners(&theirs), ["c1"]);
    }

    #[test]
    fn mark_of_deletion_is_of_this_very_secret_and_comes_and_goes() {
        let (delete, retain) = (spec(&json!({"deletionPolicy": "Delete"})), spec(&json!({})));
        let mut secret = secret();
        put_extras(&mut secret, &delete);
        let mark = |s: &Secret| {
            s.metadata
                .annotations
                .as_ref()?
                .get(keys::DELETE_WITH)
                .cloned()
        };
        assert_eq!(mark(&secret).as_deref(), Some("u1"));
        secret.metadata.uid = Some("u2".into());
        put_extras(&mut secret, &delete);
        assert_eq!(mark(&secret).as_deref(), Some("u2"), "a copy gets its own");
        put_extras(&mut secret, &retain);
        assert_eq!(mark(&secret), None);
        secret.metadata.uid = None;
        put_extras(&mut secret, &delete);
        assert_eq!(mark(&secret), None, "one that is not there yet has none");
    }
}
