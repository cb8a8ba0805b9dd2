mod cover;
mod edit;
mod presets;
mod refusal;

use std::collections::BTreeSet;

use evercert_api::Identifier;
use k8s_openapi::api::networking::v1::IngressClass;
use serde_json::{Value, json};

use super::*;

fn challenge(host: &str, token: &str) -> OpenChallenge {
    let key_authorization = format!("{token}.thumb");
    OpenChallenge::new(Identifier::parse(host).unwrap(), token, &key_authorization).unwrap()
}

fn certificate(key: &str, open: &[(&str, &str)]) -> CertificateChallenges {
    let (namespace, name) = key.split_once('/').unwrap();
    CertificateChallenges {
        key: ObjectKey::new(namespace, name),
        uid: format!("uid-of-{name}"),
        sources: BTreeMap::new(),
        class: None,
        annotations: BTreeMap::new(),
        edit_in_place: None,
        placement: None,
        challenges: open
            .iter()
            .map(|(host, token)| challenge(host, token))
            .collect(),
    }
}

fn of_class(class: &str, mut certificate: CertificateChallenges) -> CertificateChallenges {
    certificate.class = Some(class.to_owned());
    certificate
}

fn user_ingress(namespace: &str, class: Option<&str>, hosts: &[Option<&str>]) -> Ingress {
    serde_json::from_value(json!({
        "metadata": { "name": "site", "namespace": namespace },
        "spec": {
            "ingressClassName": class,
            "rules": hosts.iter().map(|h| json!({ "host": h })).collect::<Vec<_>>(),
        },
    }))
    .unwrap()
}

fn with_address(mut ingress: Ingress, addresses: &[&str]) -> Ingress {
    let status = json!({
        "loadBalancer": { "ingress": addresses.iter().map(|a| json!({ "ip": a })).collect::<Vec<_>>() }
    });
    ingress.status = Some(serde_json::from_value(status).unwrap());
    ingress
}

fn class(name: &str, default: bool) -> IngressClass {
    serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "annotations": { "ingressclass.kubernetes.io/is-default-class": default.to_string() },
        },
    }))
    .unwrap()
}

fn solver(addresses: &[&str]) -> SolverEndpoints {
    SolverEndpoints {
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        port: 8089,
    }
}

fn plan(
    open: &[CertificateChallenges],
    ingresses: &[Ingress],
    classes: &[IngressClass],
) -> RoutePlan {
    plan_routes(
        open,
        &IngressIndex::new(ingresses, classes),
        &solver(&["198.18.1.5"]),
        &Refusals::default(),
    )
}

/// The rules of every route Ingress: (namespace, class, host, path).
fn rules(plan: &RoutePlan) -> Vec<(String, String, Option<String>, String)> {
    let mut found = Vec::new();
    for (namespace, routes) in &plan.namespaces {
        for ingress in routes.owned_by("u").1 {
            let spec = ingress.spec.unwrap();
            for rule in spec.rules.unwrap() {
                for path in rule.http.unwrap().paths {
                    found.push((
                        namespace.clone(),
                        spec.ingress_class_name.clone().unwrap_or_default(),
                        rule.host.clone(),
                        path.path.unwrap(),
                    ));
                }
            }
        }
    }
    found
}

fn hosts(plan: &RoutePlan) -> Vec<Option<String>> {
    rules(plan)
        .into_iter()
        .map(|(_, _, host, _)| host)
        .collect()
}

#[test]
fn one_name_gets_one_service_one_slice_and_one_ingress() {
    let open = [certificate("shop/web", &[("www.example.com", "tok1")])];
    let plan = plan(&open, &[], &[class("contour", true)]);
    let routes = &plan.namespaces["shop"];
    let (slices, ingresses) = routes.owned_by("service-uid");
    let service = service_name("shop");

    let got = serde_json::to_value(&routes.service).unwrap();
    assert_eq!(
        got,
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": service,
                "namespace": "shop",
                "labels": { "evercert.dev/component": "route", "app.kubernetes.io/managed-by": "evercert" },
                "ownerReferences": [{
                    "apiVersion": "evercert.dev/v1", "kind": "Certificate", "name": "web", "uid": "uid-of-web",
                    "controller": false, "blockOwnerDeletion": false,
                }],
            },
            "spec": { "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8089 }] },
        })
    );

    assert_eq!(slices.len(), 1);
    let slice = serde_json::to_value(&slices[0]).unwrap();
    assert_eq!(
        slice["metadata"]["labels"]["kubernetes.io/service-name"],
        json!(service)
    );
    assert_eq!(
        slice["metadata"]["ownerReferences"][0]["uid"],
        "service-uid"
    );
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(
        slice["endpoints"],
        json!([{ "addresses": ["198.18.1.5"], "conditions": { "ready": true } }])
    );
    // Contour answers 503 where the names of the ports differ.
    assert_eq!(
        slice["ports"],
        json!([{ "name": "http", "port": 8089, "protocol": "TCP" }])
    );

    assert_eq!(ingresses.len(), 1);
    let ingress = serde_json::to_value(&ingresses[0]).unwrap();
    assert_eq!(ingress["metadata"]["ownerReferences"][0]["kind"], "Service");
    assert_eq!(
        ingress["metadata"]["annotations"],
        json!({
            "external-dns.alpha.kubernetes.io/controller": "none",
            "external-dns.kubernetes.io/controller": "none",
        }),
        "nothing for a controller that is not known"
    );
    assert_eq!(
        ingress["spec"],
        json!({
            "ingressClassName": "contour",
            "rules": [{
                "host": "www.example.com",
                "http": { "paths": [{
                    "path": "/.well-known/acme-challenge/tok1",
                    "pathType": "Exact",
                    "backend": { "service": { "name": service, "port": { "name": "http" } } },
                }] },
            }],
        })
    );
}

#[test]
fn ten_names_share_one_service_and_one_ingress() {
    let names: Vec<(String, String)> = (0..10)
        .map(|n| (format!("n{n}.example.com"), format!("t{n}")))
        .collect();
    let open: Vec<(&str, &str)> = names
        .iter()
        .map(|(h, t)| (h.as_str(), t.as_str()))
        .collect();
    let plan = plan(
        &[certificate("shop/web", &open)],
        &[],
        &[class("contour", true)],
    );
    assert_eq!(plan.namespaces.len(), 1);
    assert_eq!(plan.namespaces["shop"].owned_by("u").1.len(), 1);
    assert_eq!(hosts(&plan).into_iter().collect::<BTreeSet<_>>().len(), 10);
}

#[test]
fn a_challenge_that_two_certificates_wait_for_has_one_route() {
    let open = [
        of_class(
            "contour",
            certificate("b/second", &[("a.example.com", "same")]),
        ),
        of_class(
            "contour",
            certificate("a/first", &[("a.example.com", "same")]),
        ),
    ];
    let plan = plan(&open, &[], &[]);
    assert_eq!(rules(&plan).len(), 1);
    assert_eq!(plan.namespaces.keys().collect::<Vec<_>>(), ["a"]);
    let of = |ns: &str, name: &str| &plan.certificates[&ObjectKey::new(ns, name)].paths;
    assert_eq!(of("a", "first"), of("b", "second"));
    assert_eq!(of("b", "second")[0].ingress.namespace, "a");
}

#[test]
fn two_hundred_paths_fill_an_ingress_and_the_next_begins_a_second() {
    let tokens: Vec<String> = (0..201).map(|n| format!("t{n:03}")).collect();
    let open: Vec<(&str, &str)> = tokens
        .iter()
        .map(|t| ("a.example.com", t.as_str()))
        .collect();
    let plan = plan(
        &[of_class("contour", certificate("shop/web", &open))],
        &[],
        &[],
    );
    let sizes: Vec<usize> = plan.namespaces["shop"]
        .owned_by("u")
        .1
        .iter()
        .map(|i| {
            i.spec
                .iter()
                .flat_map(|s| s.rules.iter().flatten())
                .flat_map(|r| &r.http)
                .map(|h| h.paths.len())
                .sum()
        })
        .collect();
    assert_eq!(sizes, [200, 1]);
    let used: BTreeSet<&ObjectKey> = plan.certificates[&ObjectKey::new("shop", "web")]
        .paths
        .iter()
        .map(|p| &p.ingress)
        .collect();
    assert_eq!(used.len(), 2);
}

#[test]
fn each_class_has_its_own_ingress() {
    let open = [
        of_class("contour", certificate("shop/a", &[("a.example.com", "t")])),
        of_class("nginx", certificate("shop/b", &[("b.example.com", "u")])),
    ];
    let plan = plan(&open, &[], &[]);
    let names: BTreeSet<String> = plan.namespaces["shop"]
        .owned_by("u")
        .1
        .into_iter()
        .map(|i| i.metadata.name.unwrap())
        .collect();
    assert_eq!(names.len(), 2);
    let owners = plan.namespaces["shop"]
        .service
        .metadata
        .owner_references
        .as_ref()
        .unwrap();
    assert_eq!(
        owners.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[test]
fn each_address_family_has_its_own_slice() {
    let open = [of_class(
        "contour",
        certificate("shop/a", &[("a.example.com", "t")]),
    )];
    let families = |addresses: &[&str]| -> Vec<String> {
        let plan = plan_routes(
            &open,
            &IngressIndex::default(),
            &solver(addresses),
            &Refusals::default(),
        );
        plan.namespaces["shop"]
            .owned_by("u")
            .0
            .into_iter()
            .map(|s| s.address_type)
            .collect()
    };
    assert_eq!(
        families(&["198.18.1.5", "fd00::5", "198.18.1.6"]),
        ["IPv4", "IPv6"]
    );
    assert_eq!(families(&["fd00::5"]), ["IPv6"]);
    assert!(families(&[]).is_empty());
}

#[test]
fn entry_points_are_the_addresses_of_the_covering_ingress_up_to_four() {
    let many = [
        "198.18.0.1",
        "198.18.0.2",
        "198.18.0.3",
        "198.18.0.4",
        "198.18.0.5",
    ];
    let sites = [
        with_address(
            user_ingress("x", Some("contour"), &[Some("*.example.com")]),
            &many,
        ),
        with_address(
            user_ingress("y", Some("nginx"), &[Some("a.example.com")]),
            &["198.18.0.9"],
        ),
    ];
    let open = [of_class(
        "contour",
        certificate("shop/web", &[("a.example.com", "t")]),
    )];
    let plan = plan(&open, &sites, &[]);
    let path = &plan.certificates[&ObjectKey::new("shop", "web")].paths[0];
    let got: Vec<String> = path.entry_points.iter().map(ToString::to_string).collect();
    assert_eq!(got, &many[..4]);
}

#[test]
fn names_stay_the_same_over_restarts_and_releases() {
    assert_eq!(service_name("shop"), "evercert-6966465d-route");
    let plan = plan(
        &[of_class(
            "contour",
            certificate("shop/web", &[("a.example.com", "t")]),
        )],
        &[],
        &[],
    );
    let ingress = &plan.certificates[&ObjectKey::new("shop", "web")].paths[0].ingress;
    assert_eq!(ingress.to_string(), "shop/contour-519e3a3a-route");
    let long = "x".repeat(63);
    assert!(service_name(&long).len() + "-ipv6".len() <= 63);
}

#[test]
fn the_order_of_the_input_does_not_matter() {
    let mut open = vec![
        of_class(
            "contour",
            certificate("b/b", &[("b.example.com", "t"), ("a.example.com", "u")]),
        ),
        of_class("contour", certificate("a/a", &[("c.example.com", "v")])),
    ];
    let first = plan(&open, &[], &[]);
    open.reverse();
    open[1].challenges.reverse();
    assert_eq!(plan(&open, &[], &[]).namespaces, first.namespaces);
}

#[test]
fn address_gets_a_rule_without_host_for_its_one_path_only() {
    let open = [certificate(
        "shop/site",
        &[("198.18.0.2", "one"), ("2001:db8::1", "two")],
    )];
    let served = with_address(user_ingress("shop", Some("web"), &[None]), &["198.18.0.2"]);
    // A wildcard whose suffix looks like a part of an address, in another class.
    let other = user_ingress("shop", Some("other"), &[Some("*.18.0.2")]);
    let classes = [class("web", false), class("other", false)];
    let plan = plan(&open, &[served, other], &classes);
    let routes = &plan.certificates[&ObjectKey::new("shop", "site")];
    assert_eq!(routes.refused, None);
    let paths: Vec<_> = routes
        .paths
        .iter()
        .map(|p| (p.host.as_deref(), p.path.as_str()))
        .collect();
    assert_eq!(
        paths,
        [
            (None, "/.well-known/acme-challenge/one"),
            (None, "/.well-known/acme-challenge/two")
        ]
    );
    assert!(
        routes
            .paths
            .iter()
            .all(|p| p.entry_points == ["198.18.0.2".parse::<IpAddr>().unwrap()])
    );
    let ingress = &plan.namespaces["shop"].ingresses[0];
    let spec = ingress.spec.as_ref().unwrap();
    assert_eq!(spec.ingress_class_name.as_deref(), Some("web"));
    assert!(spec.default_backend.is_none());
    for rule in spec.rules.iter().flatten() {
        assert_eq!(rule.host, None);
        for path in &rule.http.as_ref().unwrap().paths {
            assert_eq!(path.path_type, "Exact");
        }
    }
}

#[test]
fn entry_points_of_an_address_are_those_of_every_ingress_of_the_class() {
    let served = |class, hosts: &[Option<&str>], at| {
        with_address(user_ingress("shop", Some(class), hosts), &[at])
    };
    let ingresses = [
        served("web", &[Some("a.example")], "198.18.0.2"),
        served("web", &[Some("*.example")], "2001:db8::2"),
        served("web", &[None], "198.18.0.2"),
        served("other", &[Some("a.example")], "198.18.0.3"),
    ];
    let index = IngressIndex::new(&ingresses, &[class("web", false), class("other", false)]);
    let of = |class: &str, name| {
        let found = index.entry_points(&RouteClass(class.to_owned()), name);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of("web", "198.18.0.9"), ["198.18.0.2", "2001:db8::2"]);
    assert_eq!(of("other", "2001:db8::9"), ["198.18.0.3"]);
    assert_eq!(of("web", "a.example"), ["198.18.0.2"]);
    assert!(of("none", "198.18.0.9").is_empty());
}
