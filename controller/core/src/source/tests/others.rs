//! Several Ingresses, other people's objects and spellings, and what the operator was told.

use super::*;

#[test]
fn ingresses_that_share_a_secret_share_a_certificate_and_the_older_counts() {
    let old = with(&json!({"evercert.dev/renew-before": "1h"}));
    let young = json!({"evercert.dev/cluster-issuer": "le"});
    let ingresses = [
        ingress(
            "a-young",
            9,
            &young,
            &json!([entry("tls", &["a.b", "c.d"])]),
        ),
        ingress("b-old", 1, &old, &json!([entry("tls", &["a.b", "e.f"])])),
        ingress("c-same", 5, &old, &json!([entry("tls", &["g.h"])])),
    ];
    let config = SourceConfig::default();
    let found = plan(&ingresses, &[], &config);
    let wanted = spec(&found, "tls");
    assert_eq!(wanted.dns_names, ["a.b", "c.d", "e.f", "g.h"]);
    assert_eq!(
        (
            wanted.issuer_ref.name.as_str(),
            wanted.renew_before.as_deref()
        ),
        ("ca", Some("1h"))
    );
    let owners: Vec<_> = owners(&found.apply[0].certificate)
        .map(|o| (o.name.as_str(), o.controller))
        .collect();
    assert_eq!(
        owners,
        [
            ("b-old", Some(true)),
            ("c-same", Some(false)),
            ("a-young", Some(false))
        ]
    );
    assert_eq!(said(&found), [("a-young", Reason::SecretShared)]);
    let told = sentence(&found, Reason::SecretShared);
    assert!(
        told.contains("in the issuer, the time of renewal") && told.contains("older b-old"),
        "{told}"
    );
    // The order in which they come does not matter, and one that leaves takes its names along.
    let reversed: Vec<Ingress> = ingresses.iter().rev().cloned().collect();
    assert_eq!(plan(&reversed, &[], &config), found);
    let left = plan(&ingresses[..2], &all_applied(&found), &config);
    assert_eq!(spec(&left, "tls").dns_names, ["a.b", "c.d", "e.f"]);
}

#[test]
fn two_entries_of_one_ingress_for_one_secret_are_one_certificate_and_said() {
    let tls = json!([entry("tls", &["a.b"]), entry("tls", &["c.d"])]);
    let plan = plan(
        &[ingress("site", 1, &issuer(), &tls)],
        &[],
        &SourceConfig::default(),
    );
    assert_eq!(spec(&plan, "tls").dns_names, ["a.b", "c.d"]);
    assert_eq!(said(&plan), [("site", Reason::SecretShared)]);
}

#[test]
fn more_names_than_a_certificate_may_have_are_said() {
    let hosts: Vec<String> = (0..=MOST_NAMES).map(|n| format!("n{n}.a.b")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let plan = plan(
        &[ingress(
            "site",
            1,
            &issuer(),
            &json!([entry("tls", &hosts)]),
        )],
        &[],
        &SourceConfig::default(),
    );
    assert_eq!(
        (names(&plan), said(&plan)),
        (vec![], vec![("site", Reason::HostLeftOut)])
    );
}

#[test]
fn tls_acme_opts_in_where_there_is_a_default_issuer() {
    let config = SourceConfig {
        default_issuer: Some(IssuerRef {
            name: "house".into(),
            kind: IssuerKind::ClusterIssuer,
        }),
        ..SourceConfig::default()
    };
    let tls = json!([entry("tls", &["a.b"])]);
    let with = |annotations: Value| plan(&[ingress("site", 1, &annotations, &tls)], &[], &config);
    let asked = with(
        json!({"kubernetes.io/tls-acme": "true", "evercert.dev/private-key-algorithm": "RSA"}),
    );
    let wanted = spec(&asked, "tls");
    assert_eq!(
        (wanted.issuer_ref.name.as_str(), wanted.issuer_ref.kind),
        ("house", IssuerKind::ClusterIssuer)
    );
    assert_eq!(
        wanted.private_key.map(|k| k.algorithm),
        Some(KeyAlgorithm::Rsa)
    );
    assert_eq!(
        names(&with(json!({"kubernetes.io/tls-acme": "false"}))).len(),
        0
    );
    let own = with(json!({"kubernetes.io/tls-acme": "true", "evercert.dev/issuer": "ca"}));
    assert_eq!(spec(&own, "tls").issuer_ref.name, "ca");
}

#[test]
fn spellings_of_cert_manager_are_read_on_demand_and_what_has_no_equal_is_said() {
    let tls = json!([entry("tls", &["a.b"])]);
    let theirs = json!({
        "cert-manager.io/cluster-issuer": "le",
        "cert-manager.io/renew-before": "360h0m0s",
        "cert-manager.io/private-key-algorithm": "RSA",
        "cert-manager.io/duration": "2160h",
        "evercert.dev/private-key-algorithm": "ECDSA",
        "evercert.dev/fallback-mode": "None",
    });
    let read = |dialects: &[Dialect], annotations: &Value| {
        let config = SourceConfig {
            dialects: dialects.iter().copied().collect(),
            ..SourceConfig::default()
        };
        plan(&[ingress("site", 1, annotations, &tls)], &[], &config)
    };
    assert!(names(&read(&[], &theirs)).is_empty());
    let found = read(&[Dialect::CertManager], &theirs);
    let wanted = spec(&found, "tls");
    assert_eq!(
        (wanted.issuer_ref.name.as_str(), wanted.issuer_ref.kind),
        ("le", IssuerKind::ClusterIssuer)
    );
    assert_eq!(wanted.renew_before.as_deref(), Some("360h0m0s"));
    assert_eq!(
        wanted.private_key.map(|k| k.algorithm),
        Some(KeyAlgorithm::Ecdsa),
        "our own first"
    );
    assert_eq!(wanted.fallback.map(|f| f.mode), Some(FallbackMode::None));
    assert_eq!(said(&found), [("site", Reason::AnnotationIgnored)]);
    let kind =
        json!({"cert-manager.io/issuer": "le", "cert-manager.io/issuer-kind": "ClusterIssuer"});
    assert_eq!(
        spec(&read(&[Dialect::CertManager], &kind), "tls")
            .issuer_ref
            .kind,
        IssuerKind::ClusterIssuer
    );
    let other = json!({"cert-manager.io/issuer": "pca", "cert-manager.io/issuer-group": "awspca.cert-manager.io"});
    assert_eq!(read(&[Dialect::CertManager], &other), SourcePlan::default());
}

#[test]
fn the_ingress_of_kube_legos_solver_is_left_alone() {
    let mark = with(&json!({"kubernetes.io/tls-acme-challenge-endpoints": "true"}));
    let config = SourceConfig {
        dialects: [Dialect::KubeLego].into(),
        ..SourceConfig::default()
    };
    let tls = json!([entry("tls", &["a.b"])]);
    assert_eq!(
        plan(&[ingress("kube-lego", 1, &mark, &tls)], &[], &config),
        SourcePlan::default()
    );
}

#[test]
fn an_ingress_that_owns_a_certificate_of_cert_manager_is_left_alone_and_told() {
    let tls = json!([entry("tls", &["a.b"])]);
    let ingresses = [
        ingress("site", 1, &issuer(), &tls),
        ingress("own", 2, &issuer(), &json!([entry("own", &["c.d"])])),
    ];
    let config = SourceConfig::default();
    let there = all_applied(&plan(&ingresses, &[], &config));
    let (none, theirs) = (
        BTreeMap::new(),
        BTreeMap::from([("uid-site".to_owned(), "tls".to_owned())]),
    );
    let facts = |certificates| NamespaceFacts {
        labels: Some(&none),
        ingresses: ingresses.iter().collect(),
        certificates,
        default_class: None,
        cert_managers: &theirs,
    };
    let found = plan_source("shop", &facts(Vec::new()), &config);
    assert_eq!(
        (names(&found), said(&found)),
        (
            vec!["own".to_owned()],
            vec![("site", Reason::LeftToCertManager)]
        )
    );
    let found = plan_source("shop", &facts(there.iter().collect()), &config);
    assert_eq!(
        (names(&found), found.remove),
        (vec![], vec![]),
        "what is there stays"
    );
}

#[test]
fn what_is_not_looked_at_stays_as_it_is() {
    let tls = json!([entry("tls", &["a.b"])]);
    let ingresses = [ingress("site", 1, &issuer(), &tls)];
    let emptied = [ingress("site", 1, &issuer(), &json!([]))];
    let there = all_applied(&plan(&ingresses, &[], &SourceConfig::default()));
    let labelled = SourceConfig {
        only_labelled: true,
        ..SourceConfig::default()
    };
    let label = |value: &str| BTreeMap::from([(INGRESS_SOURCE.to_owned(), value.to_owned())]);
    let none = BTreeMap::new();
    let found = |labels: &BTreeMap<String, String>, config: &SourceConfig| {
        let (made, removed) = (
            plan_in(labels, &ingresses, &[], config),
            plan_in(labels, &emptied, &there, config),
        );
        (made.apply.len(), removed.remove.len(), made.findings.len())
    };
    assert_eq!(found(&none, &SourceConfig::default()), (1, 1, 0));
    assert_eq!(
        found(&label("disabled"), &SourceConfig::default()),
        (0, 0, 0)
    );
    assert_eq!(found(&none, &labelled), (0, 0, 0));
    assert_eq!(found(&label("enabled"), &labelled), (1, 1, 0));
    let of_class = |class: &str| SourceConfig {
        classes: [class.to_owned()].into(),
        ..SourceConfig::default()
    };
    assert_eq!(found(&none, &of_class("inner")), (1, 1, 0));
    assert_eq!(found(&none, &of_class("outer")), (0, 0, 0));
}

#[test]
fn an_ingress_without_a_class_is_of_the_default_class() {
    let mut plain = ingress("site", 1, &issuer(), &json!([entry("tls", &["a.b"])]));
    plain.spec.as_mut().unwrap().ingress_class_name = None;
    let config = SourceConfig {
        classes: ["inner".to_owned()].into(),
        ..SourceConfig::default()
    };
    let found = |default_class| {
        let facts = NamespaceFacts {
            labels: Some(&BTreeMap::new()),
            ingresses: vec![&plain],
            certificates: Vec::new(),
            default_class,
            cert_managers: &BTreeMap::new(),
        };
        plan_source("shop", &facts, &config).apply.len()
    };
    assert_eq!([None, Some("inner"), Some("outer")].map(found), [0, 1, 0]);
}

#[test]
fn one_certificate_for_each_host_leaves_the_entrys_own_as_it_is_until_the_entry_is_split() {
    let tls = json!([entry("tls", &["a.b", "c.d"]), entry("single", &["e.f"])]);
    let before = plan(
        &[ingress("site", 1, &issuer(), &tls)],
        &[],
        &SourceConfig::default(),
    );
    let split = with(&json!({"evercert.dev/certificate-per-host": "true"}));
    let found = plan(
        &[ingress("site", 1, &split, &tls)],
        &all_applied(&before),
        &SourceConfig::default(),
    );
    assert_eq!(
        (names(&found), found.remove.len()),
        (vec!["tls-a.b".to_owned(), "tls-c.d".to_owned()], 0)
    );
    assert_eq!(spec(&found, "tls-a.b").dns_names, ["a.b"]);
    assert!(sentence(&found, Reason::EntrySplit).contains("tls-a.b, tls-c.d"));
    // As the event says.
    let entries = json!([
        entry("tls-a.b", &["a.b"]),
        entry("tls-c.d", &["c.d"]),
        entry("single", &["e.f"])
    ]);
    let there: Vec<Certificate> = all_applied(&before)
        .into_iter()
        .chain(all_applied(&found))
        .collect();
    let after = plan(
        &[ingress("site", 1, &split, &entries)],
        &there,
        &SourceConfig::default(),
    );
    let removed: Vec<&str> = after.remove.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(
        (names(&after), removed, after.findings.len()),
        (vec![], vec!["tls"], 0)
    );
    // The operator may say so for all, and an Ingress otherwise.
    let for_all = SourceConfig {
        per_host: true,
        ..SourceConfig::default()
    };
    let not_here = with(&json!({"evercert.dev/certificate-per-host": "false"}));
    assert_eq!(
        plan(&[ingress("site", 1, &issuer(), &tls)], &[], &for_all)
            .apply
            .len(),
        3
    );
    assert_eq!(
        plan(&[ingress("site", 1, &not_here, &tls)], &[], &for_all)
            .apply
            .len(),
        2
    );
}

#[test]
fn the_class_of_a_names_route_is_that_of_its_source() {
    let tls = json!([entry("tls", &["a.b", "c.d"])]);
    let mut other = ingress(
        "other",
        2,
        &issuer(),
        &json!([entry("tls", &["c.d", "e.f"])]),
    );
    other.spec.as_mut().unwrap().ingress_class_name = Some("outer".into());
    let classes = source_classes([&ingress("site", 1, &issuer(), &tls), &other]);
    let expected = [("a.b", "inner"), ("c.d", "inner"), ("e.f", "outer")];
    assert_eq!(
        classes,
        expected.map(|(h, c)| (h.to_owned(), c.to_owned())).into()
    );
}

#[test]
fn the_page_tells_of_every_annotation() {
    let page = build_document();
    for annotation in ANNOTATIONS {
        assert!(page.contains(&format!("| `evercert.dev/{}` |", annotation.name)));
    }
}
