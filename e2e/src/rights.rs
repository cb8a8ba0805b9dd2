//! What the operator and its solver may do by the roles of the chart, beside what they did by the API server's audit log: the roles
//! should hold that and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use evercert_core::rights::{self, FORWARDERS, Scope};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};

use crate::audit::{Audit, Call};
use crate::chart::MANIFESTS;
use crate::manifest::{parse, repository};
use crate::operator::{NAMESPACE, SERVICE_ACCOUNT, user_of};

/// The solver's ServiceAccount.
pub const SOLVER_ACCOUNT: &str = "evercert-solver";

/// Where a right holds, or was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// In the operator's own namespace.
    Own,
    /// In other namespaces, in all of them at once, or for what is in none.
    Elsewhere,
}

/// A verb on a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Right {
    /// The ServiceAccount.
    pub account: String,
    /// Where.
    pub place: Place,
    /// The API group, empty for the core.
    pub group: String,
    /// `resource` or `resource/subresource`.
    pub resource: String,
    /// What is done.
    pub verb: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::Own => "in its own namespace",
            Place::Elsewhere => "in all namespaces",
        };
        let group = Some(&self.group).filter(|group| !group.is_empty());
        let resource = group.map_or_else(
            || self.resource.clone(),
            |g| format!("{}.{g}", self.resource),
        );
        write!(f, "{}: {} {resource} {place}", self.account, self.verb)
    }
}

/// How often which right was used.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    used: Vec<(Right, usize)>,
    /// Asked for and not granted at that moment.
    refused: Vec<Right>,
    /// For each right, by its words, the first request that needed it.
    examples: BTreeMap<String, String>,
}

impl Usage {
    /// What is in an audit log.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(log: &Path) -> Result<Self> {
        let audit = Audit::from_start(log);
        let mut usage = Self::default();
        for account in [SERVICE_ACCOUNT, SOLVER_ACCOUNT] {
            usage.add(&Self::of(account, &audit.calls(&user_of(account))?));
        }
        Ok(usage)
    }

    fn of(account: &str, calls: &[Call]) -> Self {
        let mut counts: BTreeMap<Right, usize> = BTreeMap::new();
        let mut refused = BTreeSet::new();
        let mut examples = BTreeMap::new();
        // What is about no resource, such as discovery, and reviews may be asked by everybody.
        let calls = calls
            .iter()
            .filter(|call| !call.resource().is_empty() && !call.is_review());
        for call in calls {
            for verb in verbs(call) {
                let right = Right {
                    account: account.to_owned(),
                    place: match call.namespace() {
                        NAMESPACE => Place::Own,
                        _ => Place::Elsewhere,
                    },
                    group: call.group().to_owned(),
                    resource: call.resource(),
                    verb: verb.to_owned(),
                };
                examples.entry(right.to_string()).or_insert_with(|| {
                    format!("{} by {}: {}", call.uri, call.user_agent(), call.code())
                });
                if call.was_authorized() {
                    *counts.entry(right).or_default() += 1;
                } else {
                    refused.insert(right);
                }
            }
        }
        Self {
            used: counts.into_iter().collect(),
            refused: refused.into_iter().collect(),
            examples,
        }
    }

    /// This and that.
    pub fn add(&mut self, other: &Self) {
        let mut counts: BTreeMap<Right, usize> =
            std::mem::take(&mut self.used).into_iter().collect();
        for (right, count) in &other.used {
            *counts.entry(right.clone()).or_default() += count;
        }
        self.used = counts.into_iter().collect();
        let refused = self.refused.iter().chain(&other.refused).cloned();
        self.refused = refused.collect::<BTreeSet<_>>().into_iter().collect();
        for (right, example) in &other.examples {
            let known = self.examples.entry(right.clone());
            known.or_insert_with(|| example.clone());
        }
    }

    fn count(&self, right: &Right) -> usize {
        let found = self.used.iter().find(|(used, _)| used == right);
        found.map_or(0, |(_, count)| *count)
    }

    /// A request that needed `right`, for a person.
    #[must_use]
    pub fn example(&self, right: &Right) -> &str {
        let example = self.examples.get(&right.to_string());
        example.map_or("no request", String::as_str)
    }

    /// What was asked for and is not granted by the roles.
    #[must_use]
    pub fn missing(&self, granted: &BTreeSet<Right>) -> Vec<Right> {
        let asked = self
            .used
            .iter()
            .map(|(right, _)| right)
            .chain(&self.refused);
        let missing = asked.filter(|right| {
            let elsewhere = Right {
                place: Place::Elsewhere,
                ..(*right).clone()
            };
            !granted.contains(*right) && !granted.contains(&elsewhere)
        });
        missing.cloned().collect()
    }

    /// What is granted and was never used where it is granted.
    #[must_use]
    pub fn idle(&self, granted: &BTreeSet<Right>) -> Vec<Right> {
        let idle = granted.iter().filter(|right| self.count(right) == 0);
        idle.cloned().collect()
    }

    /// For a person: each right that is granted, a line for each resource, with how often each verb was used.
    #[must_use]
    pub fn table(&self, granted: &BTreeSet<Right>) -> String {
        let mut rows: BTreeMap<Right, Vec<String>> = BTreeMap::new();
        for right in granted {
            let count = self.count(right);
            let row = Right {
                verb: String::new(),
                ..right.clone()
            };
            let verbs = rows.entry(row).or_default();
            verbs.push(format!("{} {count}", right.verb));
        }
        let mut text = "Rights that the chart grants, and how often they were used\n".to_owned();
        for (row, verbs) in rows {
            let place = match row.place {
                Place::Own => "own",
                Place::Elsewhere => "all",
            };
            let what = format!("{} {place} {}", row.account, row.resource);
            let _ = writeln!(text, "  {what:<48}{}", verbs.join(", "));
        }
        text
    }
}

/// The verbs that a call needs. An apply that makes the object, were it a dry run, is looked at as a creation, too.
fn verbs(call: &Call) -> impl Iterator<Item = &str> {
    let made = call.verb() == "patch" && call.code() == 201;
    std::iter::once(call.verb()).chain(made.then_some("create"))
}

/// What the chart grants to those who ask for everything: the roles of the plain manifests, which are rendered from it, and what it adds
/// where forwarders may run.
///
/// # Errors
/// They cannot be read.
pub fn granted() -> Result<BTreeSet<Right>> {
    let mut granted = granted_by(MANIFESTS)?;
    granted.extend(needed(SERVICE_ACCOUNT, &FORWARDERS));
    Ok(granted)
}

fn granted_by(file: &str) -> Result<BTreeSet<Right>> {
    let file = repository().join(file);
    let yaml =
        std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    grants(&yaml)
}

/// What the program's own table says of a ServiceAccount.
fn needed(account: &str, rows: &[rights::Right]) -> BTreeSet<Right> {
    let each = rows.iter().flat_map(|row| {
        row.verbs.iter().map(|verb| Right {
            account: account.to_owned(),
            place: match row.scope {
                Scope::Namespaces | Scope::Cluster => Place::Elsewhere,
                Scope::Own => Place::Own,
            },
            group: row.group.to_owned(),
            resource: row.resource.to_owned(),
            verb: (*verb).to_owned(),
        })
    });
    each.collect()
}

/// What the roles in `yaml` grant to the ServiceAccounts that they are bound to.
///
/// # Errors
/// It is not YAML, or a binding has no role there.
fn grants(yaml: &str) -> Result<BTreeSet<Right>> {
    grants_of(&parse(yaml)?)
}

fn grants_of(objects: &[DynamicObject]) -> Result<BTreeSet<Right>> {
    let mut granted = BTreeSet::new();
    for object in objects {
        let namespace = object.metadata.namespace.as_deref();
        let (place, role, subjects) = match kind(object) {
            "ClusterRoleBinding" => {
                let binding: ClusterRoleBinding = read(object)?;
                (Place::Elsewhere, binding.role_ref, binding.subjects)
            }
            "RoleBinding" => {
                let binding: RoleBinding = read(object)?;
                let place = match namespace {
                    None | Some(NAMESPACE) => Place::Own,
                    Some(_) => Place::Elsewhere,
                };
                (place, binding.role_ref, binding.subjects)
            }
            _ => continue,
        };
        let found = objects.iter().find(|object| {
            let is_there =
                role.kind == "ClusterRole" || object.metadata.namespace.as_deref() == namespace;
            is_there
                && kind(object) == role.kind
                && object.metadata.name.as_deref() == Some(&role.name)
        });
        let found = found.with_context(|| format!("there is no {} {}", role.kind, role.name))?;
        for rule in rules(found)? {
            for subject in subjects.iter().flatten() {
                granted.extend(of_rule(&subject.name, place, &rule)?);
            }
        }
    }
    Ok(granted)
}

fn kind(object: &DynamicObject) -> &str {
    object
        .types
        .as_ref()
        .map_or("", |types| types.kind.as_str())
}

fn read<K: serde::de::DeserializeOwned>(object: &DynamicObject) -> Result<K> {
    Ok(serde_json::from_value(serde_json::to_value(object)?)?)
}

fn rules(role: &DynamicObject) -> Result<Vec<PolicyRule>> {
    let rules = match kind(role) {
        "ClusterRole" => read::<ClusterRole>(role)?.rules,
        "Role" => read::<Role>(role)?.rules,
        other => bail!("{other} is no role"),
    };
    Ok(rules.unwrap_or_default())
}

fn of_rule(account: &str, place: Place, rule: &PolicyRule) -> Result<Vec<Right>> {
    let mut rights = Vec::new();
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                ensure!(
                    ![group, resource, verb].contains(&&"*".to_owned()),
                    "a rule for {group}/{resource} grants everything: {verb}"
                );
                rights.push(Right {
                    account: account.to_owned(),
                    place,
                    group: group.clone(),
                    resource: resource.clone(),
                    verb: verb.clone(),
                });
            }
        }
    }
    Ok(rights)
}

#[cfg(test)]
mod tests {
    use evercert_core::rights::{CONFINED, OPERATOR, SOLVER};

    use super::*;
    use crate::audit;

    fn right(place: Place, resource: &str, verb: &str) -> Right {
        Right {
            account: SERVICE_ACCOUNT.to_owned(),
            place,
            group: String::new(),
            resource: resource.to_owned(),
            verb: verb.to_owned(),
        }
    }

    #[test]
    fn the_roles_of_the_chart_grant_what_the_table_of_rights_names_and_nothing_more() {
        let mut table = needed(SERVICE_ACCOUNT, &OPERATOR);
        table.extend(needed(SOLVER_ACCOUNT, &SOLVER));
        is_granted(&table, &granted_by(MANIFESTS).unwrap());
    }

    #[test]
    fn with_forwarders_the_chart_grants_what_they_need_and_nothing_more() {
        let mut table = needed("certs", &OPERATOR);
        table.extend(needed("certs", &FORWARDERS));
        table.extend(needed("certs-solver", &SOLVER));
        let golden = "e2e/tests/chart/goldens/everything.yaml";
        is_granted(&table, &granted_by(golden).unwrap());
    }

    #[test]
    fn for_some_namespaces_the_chart_grants_in_each_what_the_table_names_and_nothing_in_the_cluster()
     {
        let golden = repository().join("e2e/tests/chart/goldens/namespaces.yaml");
        let objects = parse(&std::fs::read_to_string(golden).unwrap()).unwrap();
        let of_cluster = objects
            .iter()
            .filter(|o| kind(o).starts_with("ClusterRole"));
        assert_eq!(of_cluster.count(), 0);
        let in_namespace = |namespace: &str| {
            let there = |o: &&DynamicObject| o.metadata.namespace.as_deref() == Some(namespace);
            let there: Vec<_> = objects.iter().filter(there).cloned().collect();
            grants_of(&there).unwrap()
        };
        let rows = |scope| {
            let rows = OPERATOR.into_iter().filter(|row| row.scope == scope);
            needed(SERVICE_ACCOUNT, &rows.collect::<Vec<_>>())
        };
        for namespace in ["blog", "shop"] {
            is_granted(&rows(Scope::Namespaces), &in_namespace(namespace));
        }
        let mut own = rows(Scope::Own);
        own.extend(needed(SERVICE_ACCOUNT, &CONFINED));
        own.extend(needed(SOLVER_ACCOUNT, &SOLVER));
        is_granted(&own, &in_namespace(NAMESPACE));
    }

    fn is_granted(table: &BTreeSet<Right>, chart: &BTreeSet<Right>) {
        let say = |rights: Vec<&Right>| rights.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            say(table.difference(chart).collect()),
            Vec::<String>::new(),
            "the chart lacks"
        );
        assert_eq!(
            say(chart.difference(table).collect()),
            Vec::<String>::new(),
            "the chart grants in vain"
        );
    }

    #[test]
    fn the_solver_may_read_one_object_by_its_name() {
        let yaml = std::fs::read_to_string(repository().join(MANIFESTS)).unwrap();
        let roles: Vec<Role> = parse(&yaml)
            .unwrap()
            .iter()
            .filter(|object| kind(object) == "Role")
            .map(|object| read(object).unwrap())
            .collect();
        let of_solver = roles
            .iter()
            .find(|role| role.metadata.name.as_deref() == Some(SOLVER_ACCOUNT));
        let [rule] = of_solver.unwrap().rules.as_deref().unwrap() else {
            panic!("more than one rule")
        };
        let names = rule.resource_names.as_deref().unwrap();
        assert_eq!(names, [SOLVER[0].name.unwrap()]);
    }

    const ROLES: &str = "
kind: ClusterRole
apiVersion: rbac.authorization.k8s.io/v1
metadata: {name: a}
rules: [{apiGroups: [''], resources: [secrets, configmaps], verbs: [get, patch, create]}]
---
kind: ClusterRoleBinding
apiVersion: rbac.authorization.k8s.io/v1
metadata: {name: a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: a}
subjects: [{kind: ServiceAccount, name: evercert, namespace: evercert-system}]
---
kind: Role
apiVersion: rbac.authorization.k8s.io/v1
metadata: {name: b}
rules: [{apiGroups: [''], resources: [pods], verbs: [list]}]
---
kind: RoleBinding
apiVersion: rbac.authorization.k8s.io/v1
metadata: {name: b}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: b}
subjects: [{kind: ServiceAccount, name: evercert, namespace: evercert-system}]
";

    fn call(verb: &str, namespace: &str, resource: &str, decision: &str, code: u16) -> Call {
        let line = format!(
            r#"{{"verb":"{verb}","requestURI":"/x","user":{{"username":"op"}},"objectRef":{{"resource":"{resource}","namespace":"{namespace}"}},"responseStatus":{{"code":{code}}},"annotations":{{"authorization.k8s.io/decision":"{decision}"}}}}"#
        );
        audit::parse(std::iter::once(line.as_str())).next().unwrap()
    }

    #[test]
    fn what_is_used_is_counted_where_it_was_used_and_an_apply_that_makes_something_as_both() {
        let granted = grants(ROLES).unwrap();
        assert_eq!(granted.len(), 7);
        let usage = Usage::of(
            SERVICE_ACCOUNT,
            &[
                call("get", "shop", "secrets", "allow", 200),
                call("get", "shop", "secrets", "allow", 404),
                call("patch", "shop", "configmaps", "allow", 201),
                // In its own namespace: not what a right in all of them is for.
                call("get", NAMESPACE, "configmaps", "allow", 200),
                call("list", NAMESPACE, "pods", "allow", 200),
            ],
        );
        assert_eq!(usage.missing(&granted), []);
        assert_eq!(
            usage.idle(&granted),
            [
                right(Place::Elsewhere, "configmaps", "get"),
                right(Place::Elsewhere, "secrets", "create"),
                right(Place::Elsewhere, "secrets", "patch"),
            ]
        );
        let table = usage.table(&granted);
        assert!(table.contains("create 0, get 2, patch 0"), "{table}");
        let mut twice = usage.clone();
        twice.add(&usage);
        assert_eq!(twice.count(&right(Place::Elsewhere, "secrets", "get")), 4);
        let kept = serde_json::to_string(&usage).unwrap();
        assert_eq!(serde_json::from_str::<Usage>(&kept).unwrap(), usage);
    }

    #[test]
    fn what_is_asked_for_in_vain_is_missing_unless_a_test_took_it_away() {
        let granted = grants(ROLES).unwrap();
        let usage = Usage::of(
            SERVICE_ACCOUNT,
            &[
                call("delete", "shop", "secrets", "forbid", 403),
                call("get", "shop", "secrets", "forbid", 403),
                call("list", "shop", "pods", "allow", 200),
            ],
        );
        assert_eq!(
            usage.missing(&granted),
            [
                right(Place::Elsewhere, "pods", "list"),
                right(Place::Elsewhere, "secrets", "delete"),
            ]
        );
        assert_eq!(
            usage.example(&right(Place::Elsewhere, "pods", "list")),
            "/x by : 200"
        );
        assert_eq!(usage.idle(&granted).len(), granted.len());
    }

    #[test]
    fn a_rule_that_grants_everything_is_refused() {
        assert!(grants(&ROLES.replace("verbs: [list]", "verbs: ['*']")).is_err());
        assert!(grants(&ROLES.replace("kind: Role, name: b", "kind: Role, name: c")).is_err());
    }
}
