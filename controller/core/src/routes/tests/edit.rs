//! Routes in the users' own Ingresses: which path goes where, and the patch that brings it there and takes it away.

use evercert_api::keys::CHALLENGE_PATH;

use super::*;

fn site(namespace: &str, name: &str, created: &str, hosts: &[&str]) -> Ingress {
    let rule = |host: &&str| {
        json!({ "host": host, "http": { "paths": [{
            "path": "/", "pathType": "Prefix", "backend": { "service": { "name": "shop", "port": { "number": 80 } } },
        }] } })
    };
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": namespace, "resourceVersion": "7", "creationTimestamp": created },
        "spec": { "ingressClassName": "c", "rules": hosts.iter().map(rule).collect::<Vec<_>>() },
    }))
    .unwrap()
}

fn of(controller: &str) -> IngressClass {
    serde_json::from_value(
        json!({ "metadata": { "name": "c" }, "spec": { "controller": controller } }),
    )
    .unwrap()
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-02-01T00:00:00Z";

/// What an API server makes of a patch.
fn patched(ingress: &Ingress, edit: &Edit) -> Ingress {
    let mut content = serde_json::to_value(ingress).unwrap();
    for op in build_patch(ingress, edit) {
        let path = op["path"].as_str().unwrap();
        let (parent, step) = path.rsplit_once('/').unwrap();
        let parent = content.pointer_mut(parent).unwrap();
        match (op["op"].as_str().unwrap(), parent) {
            ("add", Value::Array(list)) if step == "-" => list.push(op["value"].clone()),
            ("add", Value::Array(list)) => list.insert(step.parse().unwrap(), op["value"].clone()),
            ("remove", Value::Array(list)) => drop(list.remove(step.parse().unwrap())),
            ("add" | "replace", Value::Object(map)) => {
                drop(map.insert(step.to_owned(), op["value"].clone()));
            }
            other => panic!("{other:?}"),
        }
    }
    serde_json::from_value(content).unwrap()
}

#[test]
fn a_controller_with_one_address_for_each_ingress_has_the_path_in_the_users_own() {
    let open = [certificate(
        "shop/web",
        &[("www.example.com", "t"), ("api.example.com", "u")],
    )];
    let young = site("shop", "young", NEW, &["www.example.com"]);
    let old = site("shop", "old", OLD, &["www.example.com"]);
    let plan = plan(
        &open,
        &[young, old],
        &[of("ingress.k8s.aws/alb"), class("other", true)],
    );
    let routes = &plan.certificates[&ObjectKey::new("shop", "web")];
    let got: Vec<_> = routes
        .paths
        .iter()
        .map(|p| (p.ingress.name.as_str(), p.is_edit))
        .collect();
    assert_eq!(got[0], ("old", true), "the oldest, and one of them only");
    assert!(!got[1].1, "nobody's Ingress serves it: {got:?}");
    let edit = &plan.edits[&ObjectKey::new("shop", "old")];
    let want = (
        Some("www.example.com".to_owned()),
        "/.well-known/acme-challenge/t".to_owned(),
    );
    assert_eq!(edit.paths, BTreeSet::from([want]));
    assert_eq!(plan.edits.len(), 1);
    assert!(plan.namespaces.contains_key("shop"));
}

#[test]
fn an_issuer_may_want_it_and_may_not_and_another_namespaces_ingress_is_left_alone() {
    let mut open = [certificate("shop/web", &[("www.example.com", "t")])];
    let sites = [site("shop", "site", OLD, &["*.example.com"])];
    let edits = |open: &[CertificateChallenges], sites: &[Ingress], controller: &str| {
        plan(open, sites, &[of(controller)]).edits.len()
    };
    let contour = "projectcontour.io/ingress-controller";
    assert_eq!(edits(&open, &sites, contour), 0);
    assert_eq!(edits(&open, &sites, "nginx.org/ingress-controller"), 1);
    open[0].edit_in_place = Some(true);
    assert_eq!(edits(&open, &sites, contour), 1);
    let elsewhere = [site("blog", "site", OLD, &["www.example.com"])];
    assert_eq!(edits(&open, &elsewhere, contour), 0);
    open[0].edit_in_place = Some(false);
    assert_eq!(edits(&open, &sites, "nginx.org/ingress-controller"), 0);
}

#[test]
fn a_path_goes_before_the_users_own_and_out_again_and_the_rest_is_as_it_was() {
    let before = site("shop", "site", OLD, &["a.example.com", "b.example.com"]);
    let path = |host: Option<&str>, token: &str| {
        (
            host.map(ToOwned::to_owned),
            format!("/.well-known/acme-challenge/{token}"),
        )
    };
    let edit = Edit {
        forwarded: BTreeSet::new(),
        paths: BTreeSet::from([
            path(Some("b.example.com"), "t"),
            path(Some("b.example.com"), "u"),
            path(None, "v"),
        ]),
        path_type: Some(PathType::Prefix),
    };
    let amid = patched(&before, &edit);
    assert_eq!(read_edit(&amid), edit.paths);
    let content = serde_json::to_value(&amid).unwrap();
    let first = content.pointer("/spec/rules/1/http/paths/0").unwrap();
    assert_eq!(first["pathType"], "Prefix");
    assert_eq!(first["backend"]["service"]["name"], service_name("shop"));
    assert_eq!(
        build_patch(&amid, &edit),
        Vec::<Value>::new(),
        "done once is done"
    );
    assert_eq!(
        build_patch(&amid, &Edit::default())[0]["path"],
        "/metadata/resourceVersion"
    );
    // One is over, another begins.
    let next = Edit {
        paths: BTreeSet::from([path(Some("a.example.com"), "w"), path(None, "v")]),
        ..edit
    };
    let later = patched(&amid, &next);
    assert_eq!(read_edit(&later), next.paths);
    assert_eq!(patched(&later, &Edit::default()).spec, before.spec);
    assert_eq!(build_patch(&before, &Edit::default()), Vec::<Value>::new());
}

#[test]
fn an_ingress_of_a_default_backend_alone_gets_a_rule_and_loses_it() {
    let before: Ingress = serde_json::from_value(json!({
        "metadata": { "name": "site", "namespace": "shop", "resourceVersion": "7" },
        "spec": { "defaultBackend": { "service": { "name": "shop", "port": { "number": 80 } } } },
    }))
    .unwrap();
    let paths = BTreeSet::from([
        (None, "/.well-known/acme-challenge/t".to_owned()),
        (None, "/.well-known/acme-challenge/u".to_owned()),
    ]);
    let edit = Edit {
        forwarded: BTreeSet::new(),
        paths,
        path_type: None,
    };
    let amid = patched(&before, &edit);
    assert_eq!(read_edit(&amid), edit.paths);
    assert_eq!(amid.spec.as_ref().unwrap().rules.as_ref().unwrap().len(), 1);
    assert_eq!(
        read_edit(&patched(&amid, &Edit::default())),
        BTreeSet::new()
    );
}

#[test]
fn a_path_of_the_users_that_only_looks_like_ours_stays() {
    let mut own = site("shop", "site", OLD, &["a.example.com"]);
    let path = &mut own.spec.as_mut().unwrap().rules.as_mut().unwrap()[0]
        .http
        .as_mut()
        .unwrap()
        .paths[0];
    path.path = Some("/.well-known/acme-challenge/mine".to_owned());
    assert_eq!(read_edit(&own), BTreeSet::new());
    assert_eq!(build_patch(&own, &Edit::default()), Vec::<Value>::new());
}

#[test]
fn our_path_in_an_ingress_is_no_change_of_its_users() {
    let before = site("shop", "site", OLD, &["a.example.com"]);
    let path = (
        Some("a.example.com".to_owned()),
        "/.well-known/acme-challenge/t".to_owned(),
    );
    let edit = Edit {
        forwarded: BTreeSet::new(),
        paths: BTreeSet::from([path]),
        path_type: None,
    };
    let mark = |ingress: &Ingress| IngressIndex::new([ingress], []).mark(["a.example.com"]);
    let amid = patched(&before, &edit);
    assert_eq!(mark(&before), mark(&amid));
    let mut other = before.clone();
    other.spec.as_mut().unwrap().rules = None;
    assert_ne!(mark(&before), mark(&other));
}

#[test]
fn a_path_that_leads_another_way_is_put_in_anew_and_the_site_stays_as_it_is() {
    let shop = site("shop", "web", OLD, &["www.example.com"]);
    let path: RulePath = (
        Some("www.example.com".to_owned()),
        format!("{CHALLENGE_PATH}t"),
    );
    let edit = |is_forwarded: bool| Edit {
        paths: BTreeSet::from([path.clone()]),
        forwarded: BTreeSet::from([path.clone()])
            .into_iter()
            .filter(|_| is_forwarded)
            .collect(),
        ..Edit::default()
    };
    let mut there = patched(&shop, &edit(false));
    for is_forwarded in [true, false] {
        there = patched(&there, &edit(is_forwarded));
        assert_eq!(read_rules(&there), Some(edit(is_forwarded).as_rules()));
        assert!(build_patch(&there, &edit(is_forwarded)).is_empty());
    }
    assert_eq!(patched(&there, &Edit::default()), shop);
}
