//! Every right that the program needs, in one table: the roles of the chart are checked against it, the API server is asked about it
//! at the start, and a test compares it with what was really asked for. Pure.
//!
//! An apply that makes an object needs `patch` and `create`; `update` is what a replacement needs, conditional on a version.

use std::collections::BTreeSet;

use evercert_api::keys::{CHALLENGES_NAME, GROUP};

/// Where a right has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// In every namespace: by a `ClusterRole`, or where the program is confined to some by a Role in each of them.
    Namespaces,
    /// For what is in no namespace: by a `ClusterRole`. One that is confined does without.
    Cluster,
    /// In the program's own namespace: by a Role.
    Own,
}

/// What is missing without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The process never gets ready.
    Start,
    /// It gets ready, and what the right is for fails.
    Work,
    /// A part is left out.
    Part,
}

/// A row of the table: some verbs on one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// The API group, empty for the core.
    pub group: &'static str,
    /// `resource`, or `resource/subresource`.
    pub resource: &'static str,
    /// The one object that it is about; all of them without.
    pub name: Option<&'static str>,
    /// What is done to it.
    pub verbs: &'static [&'static str],
    /// Where.
    pub scope: Scope,
    /// When it is needed.
    pub need: Need,
    /// What for: the end of a sentence that says what cannot be done without it.
    pub purpose: &'static str,
}

const fn right(
    (group, resource): (&'static str, &'static str),
    verbs: &'static [&'static str],
    scope: Scope,
    need: Need,
    purpose: &'static str,
) -> Right {
    Right {
        group,
        resource,
        name: None,
        verbs,
        scope,
        need,
        purpose,
    }
}

/// What the operator needs, whatever its options.
pub const OPERATOR: [Right; 23] = [
    right(
        (GROUP, "certificates"),
        &["list", "watch"],
        Scope::Namespaces,
        Need::Start,
        "to know the Certificates",
    ),
    right(
        (GROUP, "issuers"),
        &["list", "watch"],
        Scope::Namespaces,
        Need::Start,
        "to know the Issuers",
    ),
    right(
        (GROUP, "clusterissuers"),
        &["list", "watch"],
        Scope::Cluster,
        Need::Start,
        "to know the ClusterIssuers",
    ),
    right(
        ("", "namespaces"),
        &["list", "watch"],
        Scope::Cluster,
        Need::Start,
        "to know which namespace a policy selects, and which one shares its names",
    ),
    right(
        ("networking.k8s.io", "ingresses"),
        &["list", "watch"],
        Scope::Namespaces,
        Need::Start,
        "to know what names Ingresses hold",
    ),
    right(
        ("coordination.k8s.io", "leases"),
        &["get", "list", "watch", "create", "update"],
        Scope::Own,
        Need::Start,
        "to be the one replica that acts",
    ),
    right(
        (GROUP, "certificates"),
        &["get"],
        Scope::Namespaces,
        Need::Work,
        "to look at a Certificate once more before an order",
    ),
    right(
        (GROUP, "issuers"),
        &["get"],
        Scope::Namespaces,
        Need::Work,
        "to look at an Issuer once more before an order",
    ),
    right(
        (GROUP, "clusterissuers"),
        &["get"],
        Scope::Cluster,
        Need::Work,
        "to look at a ClusterIssuer once more before an order",
    ),
    right(
        (GROUP, "certificates/status"),
        &["update"],
        Scope::Namespaces,
        Need::Work,
        "to keep an order, and to say what becomes of a Certificate",
    ),
    right(
        (GROUP, "issuers/status"),
        &["update"],
        Scope::Namespaces,
        Need::Work,
        "to say what becomes of an Issuer",
    ),
    right(
        (GROUP, "clusterissuers/status"),
        &["update"],
        Scope::Cluster,
        Need::Work,
        "to say what becomes of a ClusterIssuer",
    ),
    right(
        ("", "secrets"),
        &["get", "list", "watch", "create", "update", "delete"],
        Scope::Namespaces,
        Need::Work,
        "to keep certificates, their companions and the keys of accounts",
    ),
    right(
        ("", "configmaps"),
        &["list", "watch", "create", "update", "patch"],
        Scope::Own,
        Need::Work,
        "to keep the ledger and the open challenges",
    ),
    right(
        ("networking.k8s.io", "ingresses"),
        &["get", "create", "patch", "delete"],
        Scope::Namespaces,
        Need::Work,
        "to lead a challenge to the solver",
    ),
    right(
        ("", "services"),
        &["list", "watch", "create", "patch", "delete"],
        Scope::Namespaces,
        Need::Work,
        "to lead a challenge to the solver, and to reach the solver",
    ),
    right(
        ("discovery.k8s.io", "endpointslices"),
        &["list", "watch", "create", "patch", "delete"],
        Scope::Namespaces,
        Need::Work,
        "to lead a challenge to the solver in another namespace",
    ),
    right(
        ("networking.k8s.io", "ingressclasses"),
        &["list", "watch"],
        Scope::Cluster,
        Need::Work,
        "to choose the class of a route, and what its ingress controller needs",
    ),
    right(
        ("apps", "deployments"),
        &["list", "watch", "create", "patch", "delete"],
        Scope::Own,
        Need::Work,
        "to run the solver",
    ),
    right(
        ("", "pods"),
        &["list", "watch"],
        Scope::Own,
        Need::Part,
        "to say why the solver does not start",
    ),
    right(
        (GROUP, "certificates"),
        &["create", "patch", "delete"],
        Scope::Namespaces,
        Need::Part,
        "to write the Certificates that annotated Ingresses ask for",
    ),
    right(
        ("", "events"),
        &["create"],
        Scope::Namespaces,
        Need::Part,
        "to write events",
    ),
    right(
        ("cert-manager.io", "certificates"),
        &["get"],
        Scope::Namespaces,
        Need::Part,
        "to tell whether a Secret or an Ingress still belongs to cert-manager",
    ),
];

/// What the operator needs as well where forwarders may run in the namespaces of Certificates.
pub const FORWARDERS: [Right; 2] = [
    right(
        ("apps", "deployments"),
        &["list", "watch", "create", "patch"],
        Scope::Namespaces,
        Need::Work,
        "to run forwarders (value solver.namespacePlacement: true)",
    ),
    right(
        ("", "limitranges"),
        &["list", "watch"],
        Scope::Namespaces,
        Need::Work,
        "to fit forwarders to what a namespace takes (value solver.namespacePlacement: true)",
    ),
];

/// What the operator needs as well in its own namespace where it is confined to others: in the whole cluster it has these anyway.
pub const CONFINED: [Right; 2] = [
    right(
        ("", "services"),
        &["list", "watch", "create", "patch", "delete"],
        Scope::Own,
        Need::Work,
        "to reach the solver",
    ),
    right(
        ("discovery.k8s.io", "endpointslices"),
        &["list", "watch"],
        Scope::Own,
        Need::Work,
        "to reach the solver",
    ),
];

/// What the solver needs, the only part that faces the internet: it reads one object.
pub const SOLVER: [Right; 1] = [Right {
    name: Some(CHALLENGES_NAME),
    ..right(
        ("", "configmaps"),
        &["list", "watch"],
        Scope::Own,
        Need::Start,
        "to know the open challenges",
    )
}];

/// All that the operator needs, and in which namespace: `None` is the whole cluster. It is confined to the namespaces `only`, if there
/// are any.
#[must_use]
pub fn find_needed(
    own: &str,
    only: &BTreeSet<String>,
    with_forwarders: bool,
) -> Vec<(Right, Option<String>)> {
    let is_confined = !only.is_empty();
    let forwarders = with_forwarders.then_some(FORWARDERS);
    let confined = (is_confined && !only.contains(own)).then_some(CONFINED);
    let all = OPERATOR
        .into_iter()
        .chain(forwarders.into_iter().flatten())
        .chain(confined.into_iter().flatten());
    all.flat_map(|right| {
        let places = match right.scope {
            Scope::Own => vec![Some(own.to_owned())],
            Scope::Namespaces if is_confined => only.iter().cloned().map(Some).collect(),
            Scope::Cluster if is_confined => Vec::new(),
            Scope::Namespaces | Scope::Cluster => vec![None],
        };
        places.into_iter().map(move |place| (right, place))
    })
    .collect()
}

impl Right {
    /// Resource and subresource, which is empty where there is none.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.resource.split_once('/').unwrap_or((self.resource, ""))
    }

    /// What is said where `missing` of its verbs are not granted in `place`, a namespace or the whole cluster: verbs, resource, where,
    /// what for, and what to do.
    #[must_use]
    pub fn build_sentence(&self, missing: &[&str], place: Option<&str>) -> String {
        let verbs = join(missing);
        let resource = match self.group {
            "" => self.resource.to_owned(),
            group => format!("{} of {group}", self.resource),
        };
        let (place, role) = match place {
            None => ("in all namespaces".to_owned(), "ClusterRole"),
            Some(namespace) => (format!("in namespace {namespace}"), "Role"),
        };
        let consequence = match (self.need, self.scope) {
            (Need::Start, Scope::Namespaces) if role == "Role" => {
                "nothing that is in that namespace is seen without"
            }
            (Need::Start, _) => "it does not get ready without",
            (Need::Work, _) => "what needs it fails",
            (Need::Part, _) => "that is left out, all else works",
        };
        format!(
            "the operator may not {verbs} {resource} {place}, which it needs {}: {consequence}; the chart's {role} grants it in its rule \
             for {} (value rbac.create: true): add it there, or to the role that you wrote instead",
            self.purpose, self.resource
        )
    }
}

/// `get`, `get and list`, `get, list and watch`.
fn join(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(resource: &str, verb: &str) -> Right {
        let mut rights = OPERATOR.iter().filter(|r| r.group != "cert-manager.io");
        let found = rights.find(|r| r.resource == resource && r.verbs.contains(&verb));
        *found.unwrap()
    }

    #[test]
    fn a_missing_right_is_named_by_verb_resource_namespace_and_rule() {
        assert_eq!(
            of("ingresses", "watch").build_sentence(&["list", "watch"], None),
            "the operator may not list and watch ingresses of networking.k8s.io in all namespaces, which it needs to know what names \
             Ingresses hold: it does not get ready without; the chart's ClusterRole grants it in its rule for ingresses (value \
             rbac.create: true): add it there, or to the role that you wrote instead"
        );
        assert_eq!(
            of("configmaps", "update").build_sentence(&["update"], Some("certs")),
            "the operator may not update configmaps in namespace certs, which it needs to keep the ledger and the open challenges: what \
             needs it fails; the chart's Role grants it in its rule for configmaps (value rbac.create: true): add it there, or to the \
             role that you wrote instead"
        );
        let optional =
            of("certificates", "delete").build_sentence(&["create", "patch", "delete"], None);
        assert!(
            optional.contains(
                "may not create, patch and delete certificates of evercert.dev in all namespaces"
            ) && optional.contains("that is left out, all else works"),
            "{optional}"
        );
    }

    #[test]
    fn one_that_is_confined_needs_each_right_in_each_of_its_namespaces_and_none_in_the_cluster() {
        let only = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let needed = find_needed("certs", &only, false);
        assert!(needed.iter().all(|(_, place)| place.is_some()));
        let places = |resource: &str, verb: &str| -> Vec<&str> {
            let of = needed
                .iter()
                .filter(|(right, _)| right.resource == resource && right.verbs.contains(&verb));
            of.filter_map(|(_, place)| place.as_deref()).collect()
        };
        assert_eq!(places("secrets", "get"), ["a", "b"]);
        assert_eq!(places("services", "create"), ["a", "b", "certs"]);
        assert_eq!(places("leases", "update"), ["certs"]);
        for resource in ["clusterissuers", "namespaces", "ingressclasses"] {
            assert_eq!(places(resource, "list"), Vec::<&str>::new());
        }
        assert_eq!(
            of("issuers", "list").build_sentence(&["list", "watch"], Some("b")),
            "the operator may not list and watch issuers of evercert.dev in namespace b, which it needs to know the Issuers: nothing \
             that is in that namespace is seen without; the chart's Role grants it in its rule for issuers (value rbac.create: true): \
             add it there, or to the role that you wrote instead"
        );
        // In its own namespace as in any other, and once.
        let own = find_needed("a", &only, false);
        let services = own
            .iter()
            .filter(|(right, place)| right.resource == "services" && place.as_deref() == Some("a"));
        assert_eq!(services.count(), 1);
        let everywhere = find_needed("certs", &BTreeSet::new(), true);
        assert_eq!(everywhere.len(), OPERATOR.len() + FORWARDERS.len());
    }

    #[test]
    fn no_right_stands_twice() {
        let mut seen = BTreeSet::new();
        for right in OPERATOR {
            assert!(!right.verbs.is_empty(), "{right:?}");
            for verb in right.verbs {
                let key = (right.scope, right.group, right.resource, verb);
                assert!(seen.insert(key), "{key:?}");
            }
        }
    }

    #[test]
    fn a_subresource_is_apart_from_its_resource() {
        assert_eq!(
            of("certificates/status", "update").parts(),
            ("certificates", "status")
        );
        assert_eq!(of("secrets", "get").parts(), ("secrets", ""));
    }

    #[test]
    fn nothing_outside_of_its_own_namespace_touches_pods_or_rights() {
        for right in OPERATOR.iter().filter(|r| r.scope != Scope::Own) {
            let (resource, _) = right.parts();
            let is_grave = [
                "pods",
                "deployments",
                "roles",
                "rolebindings",
                "clusterroles",
                "clusterrolebindings",
                "serviceaccounts",
            ]
            .contains(&resource);
            assert!(!is_grave && !right.verbs.contains(&"*"), "{right:?}");
        }
    }
}
