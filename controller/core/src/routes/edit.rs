//! Routes in the users' own Ingresses (`editInPlace`): where one address belongs to each Ingress, or one Ingress to each host.
//!
//! What is ours in somebody else's Ingress is told by what it is, not by a memory: a path below the challenges' that leads to
//! the route Service of the namespace. So it is found and taken away after any crash.

use std::collections::BTreeSet;

use evercert_api::keys::{CHALLENGE_PATH, SOLVER_PORT_NAME};
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressRule};
use serde_json::{Value, json};

use super::build::backend_name;
use super::refusal::PathType;

/// The host of a rule, and a path in it.
pub type RulePath = (Option<String>, String);

/// The paths that an Ingress should have for challenges, beside its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// The paths.
    pub paths: BTreeSet<RulePath>,
    /// Those of them that lead to the namespace's forwarder.
    pub forwarded: BTreeSet<RulePath>,
    /// Whether all of them are compared as a whole, or as the controller likes.
    pub path_type: Option<PathType>,
}

impl Edit {
    /// As rules of an Ingress that has nothing else.
    #[must_use]
    pub fn as_rules(&self) -> Value {
        let with_way = |path: &RulePath| (path.clone(), self.forwarded.contains(path));
        build_rules(self.paths.iter().map(with_way))
    }

    /// Whether one of the paths leads to the solver's own pods.
    #[must_use]
    pub fn leads_to_solver(&self) -> bool {
        self.paths.len() > self.forwarded.len()
    }
}

/// The paths in an Ingress of somebody else that are ours.
#[must_use]
pub fn read_edit(ingress: &Ingress) -> BTreeSet<RulePath> {
    read_ways(ingress)
        .into_iter()
        .map(|(path, _)| path)
        .collect()
}

/// The same as rules of an Ingress that has nothing else; `None` where there are none.
#[must_use]
pub fn read_rules(ingress: &Ingress) -> Option<Value> {
    let ways = read_ways(ingress);
    (!ways.is_empty()).then(|| build_rules(ways.into_iter()))
}

/// The paths that are ours, and whether each leads to the forwarder.
fn read_ways(ingress: &Ingress) -> BTreeSet<(RulePath, bool)> {
    let services = Services::of(ingress);
    let rules = ingress.spec.iter().flat_map(|s| s.rules.iter().flatten());
    let ways = rules.flat_map(|rule| {
        let paths = rule.http.iter().flat_map(|http| &http.paths);
        paths.filter_map(|path| {
            let way = services.way(path)?;
            Some(((host_of(rule), path.path.clone()?), way))
        })
    });
    ways.collect()
}

/// The JSON patch (RFC 6902) after which `ingress` has exactly the paths of `edit` beside its own; empty when it has already. It
/// bears the resourceVersion that was read, so it is a conflict when somebody has written the Ingress since.
#[must_use]
pub fn build_patch(ingress: &Ingress, edit: &Edit) -> Vec<Value> {
    let services = Services::of(ingress);
    let mut rules: Vec<IngressRule> = ingress
        .spec
        .iter()
        .flat_map(|s| s.rules.iter().flatten().cloned())
        .collect();
    let has_rules = ingress.spec.as_ref().is_some_and(|s| s.rules.is_some());
    let mut operations = Vec::new();
    let mut there = BTreeSet::new();
    // From the end, so that each index is still right when its turn comes.
    for at in (0..rules.len()).rev() {
        let Some(rule) = rules.get_mut(at) else {
            continue;
        };
        let host = host_of(rule);
        let Some(http) = &mut rule.http else { continue };
        let gone = |path: &HTTPIngressPath| {
            let key = (host.clone(), path.path.clone().unwrap_or_default());
            services.way(path).is_some_and(|way| {
                !edit.paths.contains(&key) || way != edit.forwarded.contains(&key)
            })
        };
        if !http.paths.is_empty() && http.paths.iter().all(gone) {
            operations.push(json!({ "op": "remove", "path": format!("/spec/rules/{at}") }));
            rules.remove(at);
            continue;
        }
        for number in (0..http.paths.len()).rev() {
            let Some(path) = http.paths.get(number) else {
                continue;
            };
            if gone(path) {
                operations.push(json!({ "op": "remove", "path": format!("/spec/rules/{at}/http/paths/{number}") }));
                http.paths.remove(number);
            } else if services.way(path).is_some() {
                there.insert((host.clone(), path.path.clone().unwrap_or_default()));
            }
        }
    }
    let path_type = edit.path_type.unwrap_or(PathType::Exact);
    let mut new_rules: Vec<Option<String>> = Vec::new();
    for key in edit.paths.difference(&there) {
        let (host, path) = key;
        let service = services.name(edit.forwarded.contains(key));
        let value = json!({
            "path": path, "pathType": path_type.as_str(),
            "backend": { "service": { "name": service, "port": { "name": SOLVER_PORT_NAME } } },
        });
        let at = rules.iter().position(|rule| host_of(rule) == *host);
        let known = at.and_then(|at| rules.get(at).map(|rule| (at, rule.http.is_some())));
        let added = new_rules.iter().position(|h| h == host);
        let op = match (known, added) {
            (Some((at, true)), _) => {
                json!({ "op": "add", "path": format!("/spec/rules/{at}/http/paths/0"), "value": value })
            }
            (None, Some(after)) => {
                let at = rules.len() + after;
                json!({ "op": "add", "path": format!("/spec/rules/{at}/http/paths/0"), "value": value })
            }
            (Some((at, false)), _) => {
                if let Some(rule) = rules.get_mut(at) {
                    rule.http =
                        Some(k8s_openapi::api::networking::v1::HTTPIngressRuleValue::default());
                }
                json!({ "op": "add", "path": format!("/spec/rules/{at}/http"), "value": { "paths": [value] } })
            }
            (None, None) => {
                if !has_rules && new_rules.is_empty() {
                    operations.push(json!({ "op": "add", "path": "/spec/rules", "value": [] }));
                }
                new_rules.push(host.clone());
                let mut rule = json!({ "http": { "paths": [value] } });
                if let (Some(host), Some(rule)) = (host, rule.as_object_mut()) {
                    rule.insert("host".to_owned(), json!(host));
                }
                json!({ "op": "add", "path": "/spec/rules/-", "value": rule })
            }
        };
        operations.push(op);
    }
    if !operations.is_empty() {
        let version = ingress.metadata.resource_version.as_deref();
        operations.insert(
            0,
            json!({ "op": "replace", "path": "/metadata/resourceVersion", "value": version }),
        );
    }
    operations
}

/// Somebody else's Ingress as it would be without us.
pub(super) fn strip(ingress: &Ingress) -> Option<k8s_openapi::api::networking::v1::IngressSpec> {
    let services = Services::of(ingress);
    let mut spec = ingress.spec.clone()?;
    for rule in spec.rules.iter_mut().flatten() {
        if let Some(http) = &mut rule.http {
            http.paths.retain(|path| services.way(path).is_none());
        }
    }
    if let Some(rules) = &mut spec.rules {
        rules.retain(|rule| rule.http.as_ref().is_none_or(|http| !http.paths.is_empty()));
        if rules.is_empty() {
            spec.rules = None;
        }
    }
    Some(spec)
}

/// Where our paths in an Ingress lead.
struct Services {
    route: String,
    forwarder: String,
}

impl Services {
    fn of(ingress: &Ingress) -> Self {
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        Self {
            route: backend_name(namespace, false),
            forwarder: backend_name(namespace, true),
        }
    }

    fn name(&self, is_forwarded: bool) -> &str {
        if is_forwarded {
            &self.forwarder
        } else {
            &self.route
        }
    }

    /// Whether a path of ours leads to the forwarder; `None` where it is not ours.
    fn way(&self, path: &HTTPIngressPath) -> Option<bool> {
        let is_challenge = path
            .path
            .as_deref()
            .is_some_and(|p| p.starts_with(CHALLENGE_PATH));
        let leads_to = path.backend.service.as_ref().map(|s| s.name.as_str())?;
        let way = [false, true]
            .into_iter()
            .find(|way| self.name(*way) == leads_to);
        way.filter(|_| is_challenge)
    }
}

fn host_of(rule: &IngressRule) -> Option<String> {
    rule.host.clone().filter(|host| !host.is_empty())
}

fn build_rules(ways: impl Iterator<Item = (RulePath, bool)>) -> Value {
    let rules: Vec<Value> = ways
        .map(|((host, path), is_forwarded)| {
            let path = json!({ "path": path, "forwarded": is_forwarded });
            json!({ "host": host, "http": { "paths": [path] } })
        })
        .collect();
    json!({ "spec": { "rules": rules } })
}
