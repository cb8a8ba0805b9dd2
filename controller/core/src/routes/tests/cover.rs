//! Which user's Ingress covers a name, and in which class.

use super::*;

#[test]
fn an_exact_host_of_the_user_keeps_its_exact_host() {
    let site = user_ingress(
        "other",
        Some("contour"),
        &[Some("*.example.com"), Some("a.example.com"), None],
    );
    let open = [of_class(
        "contour",
        certificate("shop/web", &[("a.example.com", "t")]),
    )];
    assert_eq!(
        hosts(&plan(&open, &[site], &[])),
        [Some("a.example.com".to_owned())]
    );
}

#[test]
fn a_site_under_a_wildcard_is_not_shadowed() {
    let site = user_ingress("other", Some("contour"), &[Some("*.example.com"), None]);
    let open = [of_class(
        "contour",
        certificate("shop/web", &[("a.example.com", "t")]),
    )];
    assert_eq!(
        hosts(&plan(&open, &[site], &[])),
        [Some("*.example.com".to_owned())]
    );
}

#[test]
fn the_mark_of_names_changes_with_what_a_person_writes_into_the_ingresses_that_cover_them() {
    let mark = |ingresses: &[Ingress], name| IngressIndex::new(ingresses, []).mark([name]);
    let site = user_ingress("web", None, &[Some("www.example.com")]);
    let other = user_ingress(
        "shop",
        None,
        &[Some("shop.example.com"), Some("*.example.com")],
    );
    let both = [site.clone(), other.clone()];
    let before = mark(&both, "www.example.com");
    let turned = [other.clone(), site.clone()];
    assert_eq!(mark(&turned, "www.example.com"), before, "in any order");
    let reached = [with_address(site.clone(), &["198.18.0.7"]), other.clone()];
    assert_eq!(mark(&reached, "www.example.com"), before, "a status");
    assert_eq!(
        mark(&both[..1], "www.example.com"),
        before,
        "of another name"
    );
    assert_ne!(mark(&both[1..], "www.example.com"), before, "it is gone");
    let mut mended = site;
    let annotations = mended.metadata.annotations.get_or_insert_default();
    annotations.insert("example.test/redirect".into(), "false".into());
    let mended = [mended, other];
    assert_ne!(mark(&mended, "www.example.com"), before);
    assert_eq!(
        mark(&mended, "api.example.com"),
        mark(&both, "api.example.com"),
        "behind the wildcard"
    );
}

#[test]
fn a_wildcard_covers_one_label_only() {
    let site = user_ingress("other", Some("contour"), &[Some("*.example.com")]);
    let open = [of_class(
        "contour",
        certificate(
            "shop/web",
            &[("a.b.example.com", "t"), ("example.com", "u")],
        ),
    )];
    let got: BTreeSet<_> = hosts(&plan(&open, &[site], &[])).into_iter().collect();
    let want = [
        Some("a.b.example.com".to_owned()),
        Some("example.com".to_owned()),
    ];
    assert_eq!(got, BTreeSet::from(want));
}

#[test]
fn a_site_behind_a_rule_without_host_is_not_shadowed() {
    let site = user_ingress("other", Some("contour"), &[None]);
    let open = [of_class(
        "contour",
        certificate("shop/web", &[("a.example.com", "t")]),
    )];
    assert_eq!(hosts(&plan(&open, &[site], &[])), [None]);
}

#[test]
fn a_site_behind_a_default_backend_is_not_shadowed() {
    let mut site = user_ingress("other", Some("contour"), &[]);
    site.spec.as_mut().unwrap().default_backend =
        Some(k8s_openapi::api::networking::v1::IngressBackend::default());
    let open = [of_class(
        "contour",
        certificate("shop/web", &[("a.example.com", "t")]),
    )];
    assert_eq!(hosts(&plan(&open, &[site], &[])), [None]);
}

#[test]
fn rules_of_another_class_do_not_cover_a_name() {
    let other = user_ingress("other", Some("nginx"), &[Some("*.example.com"), None]);
    let open = [of_class(
        "contour",
        certificate("shop/web", &[("a.example.com", "t")]),
    )];
    assert_eq!(
        hosts(&plan(&open, &[other], &[])),
        [Some("a.example.com".to_owned())]
    );
}

#[test]
fn an_ingress_without_class_counts_for_the_default_class_only() {
    let site = user_ingress("other", None, &[Some("*.example.com")]);
    let classes = [class("contour", true), class("nginx", false)];
    let ours = certificate("shop/web", &[("a.example.com", "t")]);
    let open = [of_class("nginx", ours.clone())];
    assert_eq!(
        hosts(&plan(&open, std::slice::from_ref(&site), &classes)),
        [Some("a.example.com".to_owned())]
    );
    let open = [of_class("contour", ours.clone())];
    assert_eq!(
        hosts(&plan(&open, std::slice::from_ref(&site), &classes)),
        [Some("*.example.com".to_owned())]
    );
    let open = [of_class("nginx", ours)];
    assert_eq!(
        hosts(&plan(&open, &[site], &[])),
        [Some("*.example.com".to_owned())],
        "no default: every class"
    );
}

#[test]
fn routes_of_our_own_cover_nothing_and_a_borrowed_label_hides_nothing() {
    let open = [of_class(
        "contour",
        certificate("shop/web", &[("a.example.com", "t")]),
    )];
    let mut ours = user_ingress("shop", Some("contour"), &[None]);
    ours.metadata.labels = Some([("evercert.dev/component".to_owned(), "route".to_owned())].into());
    assert_eq!(
        hosts(&plan(&open, std::slice::from_ref(&ours), &[])),
        [None],
        "label only"
    );
    let owner: Value = json!([{ "apiVersion": "v1", "kind": "Service", "name": service_name("shop"), "uid": "u" }]);
    ours.metadata.owner_references = Some(serde_json::from_value(owner).unwrap());
    assert_eq!(
        hosts(&plan(&open, &[ours], &[])),
        [Some("a.example.com".to_owned())]
    );
}

#[test]
fn a_class_that_does_not_exist_is_named_with_those_that_do() {
    let of = |classes: &[IngressClass]| {
        IngressIndex::new([], classes)
            .class_for(None, Some("nosuch"), "a.example.com")
            .err()
    };
    let known = of(&[class("contour", true), class("nginx", false)]);
    assert!(
        known.is_some_and(|why| why.contains("nosuch does not exist")
            && why.ends_with("there are: contour, nginx"))
    );
    assert_eq!(of(&[]), None, "classes by annotation only");
}

#[test]
fn the_class_is_the_issuers_then_that_of_the_site_then_the_default() {
    let site = user_ingress("shop", Some("nginx"), &[Some("a.example.com")]);
    let classes = [
        class("contour", true),
        class("nginx", false),
        class("traefik", false),
    ];
    let ours = certificate("shop/web", &[("a.example.com", "t")]);
    let class_of = |certificate: &CertificateChallenges, sites: &[Ingress]| {
        rules(&plan(std::slice::from_ref(certificate), sites, &classes))
            .pop()
            .unwrap()
            .1
    };
    assert_eq!(
        class_of(
            &of_class("traefik", ours.clone()),
            std::slice::from_ref(&site)
        ),
        "traefik"
    );
    assert_eq!(class_of(&ours, std::slice::from_ref(&site)), "nginx");
    assert_eq!(class_of(&ours, &[]), "contour");
    let second = user_ingress("shop", Some("traefik"), &[Some("a.example.com")]);
    assert_eq!(
        class_of(&ours, &[site, second]),
        "contour",
        "two classes serve the host"
    );
}

#[test]
fn without_any_class_the_sentence_names_the_remedy_and_other_names_go_on() {
    let site = user_ingress("shop", Some("nginx"), &[Some("b.example.com")]);
    let open = [certificate(
        "shop/web",
        &[("a.example.com", "t"), ("b.example.com", "u")],
    )];
    let plan = plan(&open, &[site], &[class("nginx", false)]);
    let routes = &plan.certificates[&ObjectKey::new("shop", "web")];
    assert_eq!(
        routes.refused.as_deref(),
        Some(
            "no ingress class: the issuer names none, no Ingress serves a.example.com, and the cluster has no default \
             IngressClass; set spec.acme.http01.ingressClassName on the issuer"
        )
    );
    assert_eq!(hosts(&plan), [Some("b.example.com".to_owned())]);
}

#[test]
fn of_two_default_classes_the_newest_wins() {
    let mut old = class("a-old", true);
    let mut new = class("z-new", true);
    let at = |t: &str| Some(serde_json::from_value(json!(t)).unwrap());
    old.metadata.creation_timestamp = at("2026-01-01T00:00:00Z");
    new.metadata.creation_timestamp = at("2026-02-01T00:00:00Z");
    let open = [certificate("shop/web", &[("a.example.com", "t")])];
    let got = rules(&plan(&open, &[], &[old, new]));
    assert_eq!(got[0].1, "z-new");
}

#[test]
fn a_class_that_is_only_an_annotation_stays_one() {
    let mut site = user_ingress("shop", None, &[Some("a.example.com")]);
    site.metadata.annotations = Some(
        [(
            "kubernetes.io/ingress.class".to_owned(),
            "Old_Nginx".to_owned(),
        )]
        .into(),
    );
    let open = [certificate("shop/web", &[("a.example.com", "t")])];
    let plan = plan(&open, &[site], &[]);
    let ingress = plan.namespaces["shop"].owned_by("u").1.remove(0);
    assert_eq!(
        ingress.metadata.annotations.unwrap()["kubernetes.io/ingress.class"],
        "Old_Nginx"
    );
    assert_eq!(ingress.spec.unwrap().ingress_class_name, None);
    assert!(ingress.metadata.name.unwrap().starts_with("old-nginx-"));
}
