mod others;

use evercert_api::CertificateSpec;
use evercert_api::certificate::{FallbackMode, IssuerKind, KeyAlgorithm};
use serde_json::{Value, json};

use super::*;

fn ingress(name: &str, second: u32, annotations: &Value, tls: &Value) -> Ingress {
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "annotations": annotations,
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        },
        "spec": {"ingressClassName": "inner", "tls": tls},
    }))
    .unwrap()
}

/// A `tls` entry.
fn entry(secret: &str, hosts: &[&str]) -> Value {
    json!({"secretName": secret, "hosts": hosts})
}

fn issuer() -> Value {
    json!({"evercert.dev/issuer": "ca"})
}

/// The annotations of [`issuer`] and more.
fn with(more: &Value) -> Value {
    let mut all = issuer();
    let more = more.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(more);
    all
}

fn plan(ingresses: &[Ingress], certificates: &[Certificate], config: &SourceConfig) -> SourcePlan {
    plan_in(&BTreeMap::new(), ingresses, certificates, config)
}

fn plan_in(
    labels: &BTreeMap<String, String>,
    ingresses: &[Ingress],
    certificates: &[Certificate],
    config: &SourceConfig,
) -> SourcePlan {
    let facts = NamespaceFacts {
        labels: Some(labels),
        ingresses: ingresses.iter().collect(),
        certificates: certificates.iter().collect(),
        default_class: None,
        cert_managers: &BTreeMap::new(),
    };
    plan_source("shop", &facts, config)
}

/// What one Ingress with one entry leads to.
fn one(annotations: &Value) -> SourcePlan {
    let ingress = ingress("site", 1, annotations, &json!([entry("tls", &["a.b"])]));
    plan(&[ingress], &[], &SourceConfig::default())
}

fn spec(plan: &SourcePlan, secret: &str) -> CertificateSpec {
    let named = |w: &&Wish| w.certificate.metadata.name.as_deref() == Some(secret);
    plan.apply
        .iter()
        .find(named)
        .unwrap()
        .certificate
        .spec
        .clone()
}

/// As the API server has it once a wish is applied.
fn applied(wish: &Wish) -> Certificate {
    let mut certificate = wish.certificate.clone();
    let name = certificate.metadata.name.clone().unwrap();
    certificate.metadata.uid = Some(format!("uid-of-{name}"));
    certificate.metadata.managed_fields = serde_json::from_value(json!([
        {"manager": SOURCE_MANAGER, "operation": "Apply"},
    ]))
    .unwrap();
    certificate
}

fn all_applied(plan: &SourcePlan) -> Vec<Certificate> {
    plan.apply.iter().map(applied).collect()
}

/// One that a person made.
fn strange(name: &str, secret: &str) -> Certificate {
    let mut spec = annotations::blank(IssuerRef {
        name: "ca".into(),
        kind: IssuerKind::Issuer,
    });
    spec.secret_name = secret.to_owned();
    spec.dns_names = vec!["a.b".into()];
    let mut certificate = Certificate::new(name, spec);
    certificate.metadata.uid = Some("uid-of-a-person".into());
    certificate
}

fn names(plan: &SourcePlan) -> Vec<String> {
    plan.apply
        .iter()
        .filter_map(|w| w.certificate.metadata.name.clone())
        .collect()
}

fn said(plan: &SourcePlan) -> Vec<(&str, Reason)> {
    plan.findings
        .iter()
        .map(|f| (f.ingress.as_str(), f.reason))
        .collect()
}

fn sentence(plan: &SourcePlan, reason: Reason) -> &str {
    let found = plan.findings.iter().find(|f| f.reason == reason);
    found.map_or("", |f| f.sentence.as_str())
}

#[test]
fn each_entry_of_an_annotated_ingress_is_a_certificate_named_after_its_secret_and_owned() {
    let tls = json!([entry("one", &["b.x.y", "a.x.y"]), entry("two", &["c.x.y"])]);
    let plan = plan(
        &[ingress("site", 1, &issuer(), &tls)],
        &[],
        &SourceConfig::default(),
    );
    assert_eq!(names(&plan), ["one", "two"]);
    let one = spec(&plan, "one");
    assert_eq!(
        (one.secret_name.as_str(), one.dns_names),
        ("one", vec!["a.x.y".to_owned(), "b.x.y".to_owned()])
    );
    assert_eq!(
        (one.issuer_ref.name.as_str(), one.issuer_ref.kind),
        ("ca", IssuerKind::Issuer)
    );
    let owner = &plan.apply[0]
        .certificate
        .metadata
        .owner_references
        .clone()
        .unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.uid.as_str(), owner.controller),
        ("Ingress", "uid-site", Some(true))
    );
    assert_eq!(plan.findings, []);
    assert_eq!(plan.remove, []);
}

#[test]
fn an_ingress_that_names_no_issuer_asks_for_nothing_and_is_told_only_if_it_seems_to_mean_us() {
    assert_eq!(one(&json!({})), SourcePlan::default());
    assert_eq!(
        one(&json!({"evercert.dev/issuer": " "})),
        SourcePlan::default()
    );
    assert_eq!(
        one(&json!({"kubernetes.io/tls-acme": "true"})),
        SourcePlan::default()
    );
    let homeless = one(&json!({"evercert.dev/profile": "tlsserver"}));
    assert_eq!(
        (names(&homeless), said(&homeless)),
        (vec![], vec![("site", Reason::NoIssuerNamed)])
    );
    let misspelt = one(&json!({"evercert.dev/isuer": "ca"}));
    let words = "evercert.dev/isuer is not known: did you mean evercert.dev/issuer?";
    assert_eq!(sentence(&misspelt, Reason::AnnotationUnknown), words);
}

#[test]
fn every_field_is_set_by_its_annotation() {
    let plan = one(&json!({
        "evercert.dev/cluster-issuer": "le",
        "evercert.dev/alternate-issuers": "Issuer/spare, ClusterIssuer/last",
        "evercert.dev/private-key-algorithm": "RSA",
        "evercert.dev/private-key-size": "3072",
        "evercert.dev/private-key-rotation-policy": "Never",
        "evercert.dev/renew-before": "720h",
        "evercert.dev/profile": "tlsserver",
        "evercert.dev/profile-policy": "Required",
        "evercert.dev/fallback-mode": "Secret",
        "evercert.dev/fallback-secret": "wildcard",
        "evercert.dev/fallback-trigger": "Immediately",
        "evercert.dev/secret-template": r#"{"labels": {"team": "a"}, "annotations": {"note": "b"}}"#,
        "evercert.dev/output-formats": "CombinedPEM",
        "evercert.dev/deletion-policy": "Delete",
        "evercert.dev/suspend": "true",
    }));
    assert_eq!(plan.findings, []);
    let expected = json!({
        "secretName": "tls", "dnsNames": ["a.b"],
        "issuerRef": {"name": "le", "kind": "ClusterIssuer"},
        "alternateIssuerRefs": [{"name": "spare", "kind": "Issuer"}, {"name": "last", "kind": "ClusterIssuer"}],
        "privateKey": {"algorithm": "RSA", "size": 3072, "rotationPolicy": "Never"},
        "renewBefore": "720h",
        "profile": {"name": "tlsserver", "policy": "Required"},
        "fallback": {"mode": "Secret", "secretRef": {"name": "wildcard"}, "trigger": "Immediately"},
        "secretTemplate": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
        "outputFormats": ["CombinedPEM"],
        "deletionPolicy": "Delete",
        "suspend": true,
    });
    assert_eq!(serde_json::to_value(spec(&plan, "tls")).unwrap(), expected);
    let percentage = one(&with(
        &json!({"evercert.dev/renew-before-percentage": "25"}),
    ));
    assert_eq!(spec(&percentage, "tls").renew_before_percentage, Some(25));
}

#[test]
fn every_annotation_of_the_table_refuses_what_it_cannot_read_with_what_to_write() {
    for annotation in ANNOTATIONS {
        let key = format!("evercert.dev/{}", annotation.name);
        let free = ["profile"].contains(&annotation.name);
        let bad = if free { "two words" } else { "No\u{a0}Such" };
        let plan = one(&with(&json!({key.clone(): bad})));
        assert!(
            !sentence(&plan, Reason::AnnotationInvalid).is_empty(),
            "{key}: {:?}",
            plan.findings
        );
    }
}

#[test]
fn an_annotation_that_cannot_be_read_leaves_its_field_as_it_is() {
    let good = with(
        &json!({"evercert.dev/private-key-algorithm": "RSA", "evercert.dev/private-key-size": "4096"}),
    );
    let there = all_applied(&one(&good));
    let bad = with(
        &json!({"evercert.dev/private-key-algorithm": "RSA", "evercert.dev/private-key-size": "4097"}),
    );
    let tls = json!([entry("tls", &["a.b"])]);
    let after = plan(
        &[ingress("site", 1, &bad, &tls)],
        &there,
        &SourceConfig::default(),
    );
    assert_eq!(
        (names(&after), said(&after)),
        (vec![], vec![("site", Reason::AnnotationInvalid)])
    );
    let fresh = one(&bad);
    assert_eq!(spec(&fresh, "tls").private_key, None, "nothing was there");
}

#[test]
fn what_does_not_go_together_is_said_with_the_remedy() {
    let cases = [
        (
            json!({"evercert.dev/private-key-size": "2048"}),
            "private-key-algorithm: RSA",
        ),
        (
            json!({"evercert.dev/renew-before": "1h", "evercert.dev/renew-before-percentage": "5"}),
            "keep one of them",
        ),
        (json!({"evercert.dev/profile-policy": "Required"}), "add it"),
        (
            json!({"evercert.dev/fallback-mode": "Secret"}),
            "name it by evercert.dev/fallback-secret",
        ),
        (
            json!({"evercert.dev/fallback-secret": "x"}),
            "fallback-mode: Secret",
        ),
    ];
    for (annotations, remedy) in cases {
        let plan = one(&with(&annotations));
        let said = sentence(&plan, Reason::AnnotationInvalid);
        assert!(said.contains(remedy), "{annotations}: {said}");
        assert_eq!(
            spec(&plan, "tls"),
            spec(&one(&issuer()), "tls"),
            "{annotations}"
        );
    }
    let both = one(&with(&json!({"evercert.dev/cluster-issuer": "le"})));
    assert!(names(&both).is_empty());
    assert!(sentence(&both, Reason::AnnotationInvalid).contains("keep one of them"));
}

#[test]
fn what_is_in_step_is_not_written_again_and_what_somebody_changed_is() {
    let tls = json!([entry("tls", &["a.b", "c.d"])]);
    let ingresses = [ingress("site", 1, &issuer(), &tls)];
    let config = SourceConfig::default();
    let mut there = all_applied(&plan(&ingresses, &[], &config));
    there[0].spec.dns_names.reverse();
    assert_eq!(
        plan(&ingresses, &there, &config),
        SourcePlan::default(),
        "a set has no order"
    );
    there[0].spec.issuer_ref.name = "other".into();
    let again = plan(&ingresses, &there, &config);
    assert_eq!(again.apply[0].replaces.as_deref(), Some("uid-of-tls"));
}

#[test]
fn hosts_that_cannot_be_certified_are_left_out_and_the_others_are_not() {
    let tls = json!([
        entry("good", &["a.b"]),
        entry("partly", &["*.a.b", "c.d"]),
        entry("wild", &["*.a.b"]),
        entry("short", &["localhost"]),
        json!({"secretName": "empty"}),
        json!({"hosts": ["e.f"]}),
    ]);
    let plan = plan(
        &[ingress("site", 1, &issuer(), &tls)],
        &[],
        &SourceConfig::default(),
    );
    assert_eq!(names(&plan), ["good", "partly"]);
    assert_eq!(spec(&plan, "partly").dns_names, ["c.d"]);
    let left_out = sentence(&plan, Reason::HostLeftOut);
    for words in ["Secret partly: \"*.a.b\"", "Secret wild", "localhost"] {
        assert!(left_out.contains(words), "{words}: {left_out}");
    }
    let incomplete = sentence(&plan, Reason::EntryIncomplete);
    for words in [
        "Secret empty lists no hosts",
        "entry for e.f names no Secret",
    ] {
        assert!(incomplete.contains(words), "{words}: {incomplete}");
    }
}

#[test]
fn hosts_that_are_addresses_are_addresses_of_the_certificate() {
    let tls = json!([
        entry("both", &["a.b", "198.18.0.7", "2001:DB8::1"]),
        entry("alone", &["198.18.0.8"]),
    ]);
    let ingresses = [ingress("site", 1, &issuer(), &tls)];
    let config = SourceConfig::default();
    let made = plan(&ingresses, &[], &config);
    let both = spec(&made, "both");
    assert_eq!(both.dns_names, ["a.b"]);
    assert_eq!(both.ip_addresses, ["198.18.0.7", "2001:db8::1"]);
    let alone = spec(&made, "alone");
    assert!(alone.dns_names.is_empty() && alone.ip_addresses == ["198.18.0.8"]);
    let mut there = all_applied(&made);
    for certificate in &mut there {
        certificate.spec.ip_addresses.reverse();
    }
    assert_eq!(
        plan(&ingresses, &there, &config),
        SourcePlan::default(),
        "a set has no order"
    );
}

#[test]
fn an_option_that_falls_away_takes_no_certificate_away() {
    let tls = json!([entry("tls", &["a.b"])]);
    let options = SourceConfig {
        dialects: [Dialect::CertManager].into(),
        default_issuer: Some(IssuerRef {
            name: "ca".into(),
            kind: IssuerKind::Issuer,
        }),
        ..SourceConfig::default()
    };
    for asks in [
        json!({"cert-manager.io/issuer": "ca"}),
        json!({"cert-manager.io/cluster-issuer": "ca"}),
        json!({"kubernetes.io/tls-acme": "true"}),
    ] {
        let ingresses = [ingress("site", 1, &asks, &tls)];
        let made = plan(&ingresses, &[], &options);
        assert_eq!(names(&made), ["tls"], "{asks}");
        let without = plan(&ingresses, &all_applied(&made), &SourceConfig::default());
        assert_eq!(without, SourcePlan::default(), "{asks}");
        let silent = [ingress("site", 1, &json!({}), &tls)];
        let gone = plan(&silent, &all_applied(&made), &SourceConfig::default());
        assert_eq!(gone.remove.len(), 1, "a person took it away");
    }
}

#[test]
fn an_entry_that_has_become_unusable_keeps_its_certificate() {
    let config = SourceConfig::default();
    let good = json!([entry("tls", &["a.b"])]);
    let there = all_applied(&plan(&[ingress("site", 1, &issuer(), &good)], &[], &config));
    let wild = json!([entry("tls", &["*.b"])]);
    let after = plan(&[ingress("site", 1, &issuer(), &wild)], &there, &config);
    assert_eq!((names(&after), after.remove.len()), (vec![], 0));
    let unclear = with(&json!({"evercert.dev/cluster-issuer": "le"}));
    let after = plan(&[ingress("site", 1, &unclear, &good)], &there, &config);
    assert_eq!((names(&after), after.remove.len()), (vec![], 0));
}

#[test]
fn what_no_entry_asks_for_is_removed_while_its_ingress_is_there() {
    let config = SourceConfig::default();
    let tls = json!([entry("tls", &["a.b"])]);
    let there = all_applied(&plan(&[ingress("site", 1, &issuer(), &tls)], &[], &config));
    let removal = Removal {
        name: "tls".into(),
        uid: "uid-of-tls".into(),
    };
    let emptied = [ingress("site", 1, &issuer(), &json!([]))];
    assert_eq!(
        plan(&emptied, &there, &config).remove,
        std::slice::from_ref(&removal)
    );
    let silent = [ingress("site", 1, &json!({}), &tls)];
    assert_eq!(plan(&silent, &there, &config).remove, [removal]);
    // Deleted: the garbage collector's, or kept on purpose.
    assert_eq!(plan(&[], &there, &config).remove, []);
    let mut going = ingress("site", 1, &issuer(), &tls);
    going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
    assert_eq!(plan(&[going], &there, &config), SourcePlan::default());
    // A copy of it is somebody's own.
    let mut copy = there[0].clone();
    copy.metadata.managed_fields = None;
    assert_eq!(plan(&emptied, &[copy], &config).remove, []);
}

#[test]
fn a_certificate_of_somebody_else_is_left_alone_and_said() {
    let tls = json!([entry("tls", &["a.b"]), entry("other", &["c.d"])]);
    let ingresses = [ingress("site", 1, &issuer(), &tls)];
    for theirs in [
        strange("tls", "tls"),
        strange("tls", "elsewhere"),
        strange("mine", "tls"),
    ] {
        let plan = plan(&ingresses, &[theirs], &SourceConfig::default());
        assert_eq!(
            (names(&plan), plan.remove.len()),
            (vec!["other".to_owned()], 0)
        );
        assert_eq!(said(&plan), [("site", Reason::CertificateNotOurs)]);
    }
}

#[test]
fn what_stalls_a_certificate_is_said_on_its_ingress_once_for_each_reason() {
    let tls = json!([entry("tls", &["a.b"])]);
    let ingresses = [ingress("site", 1, &issuer(), &tls)];
    let config = SourceConfig::default();
    let mut there = all_applied(&plan(&ingresses, &[], &config));
    let mut stall = |message: &str| {
        there[0].status = serde_json::from_value(json!({"conditions": [{
            "type": "Stalled", "status": "True", "reason": "SecretNotOurs", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}))
        .unwrap();
        plan(&ingresses, &there, &config).findings
    };
    let (first, second) = (
        stall("it is Bob's, next look at 12:00"),
        stall("it is Bob's, next look at 12:30"),
    );
    assert_eq!(first[0].reason, Reason::SecretNotOurs);
    assert!(first[0].sentence.contains("Certificate tls: it is Bob's"));
    assert_eq!((&first[0].identity, first.len()), (&second[0].identity, 1));
}

#[test]
fn nothing_is_done_in_a_namespace_whose_labels_are_not_known_yet() {
    let ingress = ingress(
        "site",
        1,
        &json!({"evercert.dev/issuer": "ca"}),
        &json!([entry("tls", &["a.b"])]),
    );
    let plan_with = |labels: Option<&BTreeMap<String, String>>| {
        let facts = NamespaceFacts {
            labels,
            ingresses: vec![&ingress],
            certificates: Vec::new(),
            default_class: None,
            cert_managers: &BTreeMap::new(),
        };
        plan_source("shop", &facts, &SourceConfig::default())
    };
    assert_eq!(plan_with(None), SourcePlan::default());
    let unlabelled = BTreeMap::new();
    assert_eq!(names(&plan_with(Some(&unlabelled))), ["tls"]);
}
