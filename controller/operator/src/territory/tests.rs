use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::Status;

use super::*;

fn object(namespace: &str, name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

/// Two parts, and what they are told, as short words.
#[derive(Default)]
struct Two([Part<ConfigMap>; 2]);

impl Two {
    fn take(&mut self, number: usize, event: Event<ConfigMap>) -> Vec<String> {
        self.say(number, Ok(event))
    }

    fn say(&mut self, number: usize, event: watcher::Result<Event<ConfigMap>>) -> Vec<String> {
        let named = |kind: &str, o: &ConfigMap| {
            format!("{kind} {}/{}", o.namespace().unwrap(), o.name_any())
        };
        let said = merge(&mut self.0, number, event).into_iter();
        said.map(|event| match event {
            Ok(Event::Init) => "init".to_owned(),
            Ok(Event::InitApply(o)) => named("listed", &o),
            Ok(Event::InitDone) => "done".to_owned(),
            Ok(Event::Apply(o)) => named("changed", &o),
            Ok(Event::Delete(o)) => named("gone", &o),
            Err(_) => "error".to_owned(),
        })
        .collect()
    }

    fn list(&mut self, number: usize, namespace: &str, names: &[&str]) -> Vec<String> {
        let mut said = self.take(number, Event::Init);
        for name in names {
            said.extend(self.take(number, Event::InitApply(object(namespace, name))));
        }
        said.extend(self.take(number, Event::InitDone));
        said
    }
}

fn failed(code: u16) -> watcher::Error {
    let status = Status {
        code,
        ..Status::default()
    };
    watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()))
}

#[test]
fn there_is_one_listing_when_each_namespace_was_listed_and_what_changed_meanwhile_is_in_it() {
    let mut two = Two::default();
    assert!(two.list(0, "a", &["x", "y"]).is_empty());
    assert!(two.take(0, Event::Apply(object("a", "z"))).is_empty());
    assert!(two.take(0, Event::Delete(object("a", "x"))).is_empty());
    let all = ["init", "listed a/y", "listed a/z", "listed b/x", "done"];
    assert_eq!(two.list(1, "b", &["x"]), all);
    assert_eq!(two.take(1, Event::Apply(object("b", "w"))), ["changed b/w"]);
    assert_eq!(two.take(0, Event::Delete(object("a", "y"))), ["gone a/y"]);
}

#[test]
fn another_listing_of_one_namespace_is_one_of_all_so_that_what_it_lacks_is_gone_and_nothing_else() {
    let mut two = Two::default();
    two.list(0, "a", &["x", "y"]);
    two.list(1, "b", &["x"]);
    let all = ["init", "listed a/y", "listed b/x", "done"];
    assert_eq!(two.list(0, "a", &["y"]), all);
    assert_eq!(two.list(1, "b", &[]), ["init", "listed a/y", "done"]);
}

#[test]
fn a_namespace_that_is_refused_again_and_again_holds_the_others_back_no_longer_and_joins_them_later()
 {
    let mut two = Two::default();
    two.list(0, "a", &["x"]);
    assert_eq!(two.say(1, Err(failed(403))), ["error"]);
    // An API server in trouble is no refusal.
    assert_eq!(two.say(1, Err(failed(500))), ["error"]);
    assert_eq!(two.say(1, Err(failed(403))), ["error"]);
    assert_eq!(two.say(1, Err(failed(403))), ["error"]);
    let alone = ["error", "init", "listed a/x", "done"];
    assert_eq!(two.say(1, Err(failed(403))), alone);
    assert_eq!(two.say(1, Err(failed(403))), ["error"]);
    assert_eq!(two.take(0, Event::Apply(object("a", "y"))), ["changed a/y"]);
    let all = ["init", "listed a/x", "listed a/y", "listed b/z", "done"];
    assert_eq!(two.list(1, "b", &["z"]), all);
    // What is refused after that was there before.
    assert_eq!(two.say(1, Err(failed(403))), ["error"]);
}

#[test]
fn no_namespaces_are_the_whole_cluster_and_its_own_is_added_only_where_it_is_less() {
    let all = Territory::default();
    assert!(!all.is_confined() && !all.with("certs").is_confined());
    let some = Territory::new(["a".to_owned()]);
    assert!(some.is_confined());
    assert_eq!(some.with("certs").names().len(), 2);
    let issuer = |kind, namespace: Option<&str>| IssuerId {
        kind,
        namespace: namespace.map(ToOwned::to_owned),
        name: "ca".to_owned(),
    };
    assert!(some.leaves_out(&issuer(IssuerKind::ClusterIssuer, None)));
    assert!(!some.leaves_out(&issuer(IssuerKind::Issuer, Some("a"))));
    assert!(!all.leaves_out(&issuer(IssuerKind::ClusterIssuer, None)));
}
