//! What a route looks like for each controller: annotations of each Ingress, and the path type.

use super::*;

/// The annotations of each Ingress for a class of `controller`, external-dns's left out, and the path type.
fn route(controller: &str, annotations: &[(&str, &str)]) -> (Vec<Value>, String) {
    let class: IngressClass = serde_json::from_value(json!({
        "metadata": { "name": "c" }, "spec": { "controller": controller },
    }))
    .unwrap();
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let mut certificate = of_class("c", certificate("shop/web", &[("www.example.com", "t")]));
    certificate.annotations = annotations.iter().map(owned).collect();
    look(&plan(&[certificate], &[], &[class]))
}

/// The only ones.
fn routes_of(plan: &RoutePlan) -> &NamespaceRoutes {
    let routes = plan.namespaces.get("shop");
    routes.unwrap_or_else(|| &plan.forwarded["shop"])
}

fn look(plan: &RoutePlan) -> (Vec<Value>, String) {
    let ingresses = routes_of(plan).owned_by("u").1;
    let mut types = BTreeSet::new();
    let mut found = Vec::new();
    for ingress in &ingresses {
        let content = serde_json::to_value(ingress).unwrap();
        let mut annotations = content["metadata"]["annotations"].clone();
        let map = annotations.as_object_mut().unwrap();
        for key in [
            "external-dns.alpha.kubernetes.io/controller",
            "external-dns.kubernetes.io/controller",
        ] {
            assert_eq!(map.remove(key), Some(json!("none")), "{content}");
        }
        found.push(annotations);
        let path = content
            .pointer("/spec/rules/0/http/paths/0/pathType")
            .unwrap();
        types.insert(path.as_str().unwrap().to_owned());
    }
    assert_eq!(types.len(), 1);
    (found, types.pop_first().unwrap())
}

#[test]
fn ingress_nginx_neither_redirects_nor_asks_who_it_is_and_takes_a_path_with_a_dot() {
    let nginx = |key: &str| format!("nginx.ingress.kubernetes.io/{key}");
    let want = json!({
        nginx("ssl-redirect"): "false", nginx("force-ssl-redirect"): "false",
        nginx("enable-global-auth"): "false", nginx("whitelist-source-range"): "0.0.0.0/0,::/0",
    });
    let got = route("k8s.io/ingress-nginx", &[]);
    assert_eq!(got, (vec![want], "ImplementationSpecific".to_owned()));
}

#[test]
fn traefik_has_the_highest_priority_and_a_twin_behind_the_redirect_of_an_entry_point() {
    let (sets, path_type) = route("traefik.io/ingress-controller", &[]);
    let priority = (
        "traefik.ingress.kubernetes.io/router.priority",
        "2147482647",
    );
    assert_eq!(
        sets,
        [
            json!({ priority.0: priority.1 }),
            json!({ priority.0: priority.1, "traefik.ingress.kubernetes.io/router.tls": "true" }),
        ]
    );
    assert_eq!(path_type, "Exact");
}

#[test]
fn haproxys_two_neither_redirect_nor_keep_addresses_out() {
    let got = route("haproxy.org/ingress-controller/blue", &[]);
    let want =
        json!({ "haproxy.org/ssl-redirect": "false", "haproxy.org/allow-list": "0.0.0.0/0,::/0" });
    assert_eq!(got, (vec![want], "Exact".to_owned()));
    let got = route("haproxy-ingress.github.io/controller", &[]);
    let want = json!({
        "haproxy-ingress.github.io/ssl-redirect": "false",
        "haproxy-ingress.github.io/allowlist-source-range": "0.0.0.0/0,::/0",
    });
    assert_eq!(got, (vec![want], "Exact".to_owned()));
}

#[test]
fn contour_istio_and_what_is_not_known_have_a_plain_ingress() {
    for controller in [
        "projectcontour.io/ingress-controller",
        "istio.io/ingress-controller",
        "example.com/mine",
        "",
    ] {
        let got = route(controller, &[]);
        assert_eq!(got, (vec![json!({})], "Exact".to_owned()), "{controller}");
    }
}

#[test]
fn f5_nginx_does_not_redirect() {
    let want = json!({ "nginx.org/ssl-redirect": "false", "nginx.org/redirect-to-https": "false" });
    let got = route("nginx.org/ingress-controller", &[]);
    assert_eq!(got, (vec![want], "Exact".to_owned()));
}

#[test]
fn the_aws_load_balancer_does_not_ask_who_it_is() {
    let want = json!({ "alb.ingress.kubernetes.io/auth-type": "none" });
    assert_eq!(
        route("ingress.k8s.aws/alb", &[]),
        (vec![want], "Exact".to_owned())
    );
}

#[test]
fn the_application_gateway_does_not_redirect() {
    let want = json!({ "appgw.ingress.kubernetes.io/ssl-redirect": "false" });
    assert_eq!(
        route("azure/application-gateway", &[]),
        (vec![want], "Exact".to_owned())
    );
}

#[test]
fn kong_takes_both_protocols_and_leaves_path_and_host_alone() {
    let want = json!({
        "konghq.com/protocols": "http,https", "konghq.com/strip-path": "false",
        "konghq.com/preserve-host": "true", "konghq.com/regex-priority": "1000000",
    });
    let got = route("ingress-controllers.konghq.com/kong", &[]);
    assert_eq!(got, (vec![want], "Exact".to_owned()));
}

#[test]
fn gce_is_known_by_the_annotation_of_the_users_ingress() {
    let user: Ingress = serde_json::from_value(json!({
        "metadata": { "name": "site", "namespace": "blog", "annotations": { "kubernetes.io/ingress.class": "gce" } },
        "spec": { "rules": [{ "host": "www.example.com" }] },
    }))
    .unwrap();
    let open = [certificate("shop/web", &[("www.example.com", "t")])];
    let (sets, path_type) = look(&plan(&open, &[user], &[]));
    assert_eq!(sets, [json!({ "kubernetes.io/ingress.class": "gce" })]);
    assert_eq!(path_type, "ImplementationSpecific");
}

#[test]
fn what_the_issuer_says_goes_before_the_preset() {
    let own = [
        ("haproxy.org/allow-list", "192.0.2.0/24"),
        ("example.com/more", "x"),
    ];
    let want = json!({
        "haproxy.org/ssl-redirect": "false", "haproxy.org/allow-list": "192.0.2.0/24", "example.com/more": "x",
    });
    assert_eq!(route("haproxy.org/ingress-controller", &own).0, [want]);
}

#[test]
fn another_set_of_annotations_is_another_ingress_and_a_shared_challenge_has_one_route_all_the_same()
{
    let mut open = [
        certificate(
            "shop/a",
            &[("a.example.com", "t"), ("s.example.com", "shared")],
        ),
        certificate(
            "shop/b",
            &[("b.example.com", "u"), ("s.example.com", "shared")],
        ),
        certificate("shop/c", &[("c.example.com", "v")]),
    ]
    .map(|c| of_class("contour", c));
    open[1].annotations = BTreeMap::from([("example.com/x".to_owned(), "1".to_owned())]);
    let plan = plan(&open, &[], &[class("contour", false)]);
    let ingress = |name: &str, path: usize| {
        let routes = &plan.certificates[&ObjectKey::new("shop", name)];
        routes.paths[path].ingress.name.clone()
    };
    assert_eq!(ingress("a", 0), ingress("c", 0));
    assert_ne!(ingress("a", 0), ingress("b", 0));
    assert_eq!(ingress("a", 1), ingress("b", 1), "one challenge, one path");
    assert_eq!(plan.namespaces["shop"].owned_by("u").1.len(), 2);
    assert_eq!(rules(&plan).len(), 4);
}

#[test]
fn a_controller_that_takes_own_pods_only_has_a_forwarder_unless_the_issuer_says_otherwise() {
    let is_forwarded = |controller: Option<&str>, class: &str, placement| {
        let classes = controller.map(|controller| {
            let class =
                json!({ "metadata": { "name": class }, "spec": { "controller": controller } });
            serde_json::from_value(class).unwrap()
        });
        let mut open = of_class(class, certificate("shop/web", &[("www.example.com", "t")]));
        open.placement = placement;
        let plan = plan(&[open], &[], classes.as_slice());
        let there = (
            plan.forwarded.contains_key("shop"),
            plan.namespaces.contains_key("shop"),
        );
        assert_ne!(there.0, there.1, "{class}: one way or the other");
        there.0
    };
    for (controller, class, by_itself) in [
        (Some("ingress.k8s.aws/alb"), "c", true),
        (None, "gce", true),
        (Some("projectcontour.io/contour"), "c", false),
    ] {
        assert_eq!(is_forwarded(controller, class, None), by_itself, "{class}");
        assert!(is_forwarded(controller, class, Some(Placement::Namespace)));
        assert!(!is_forwarded(controller, class, Some(Placement::Operator)));
    }
}
