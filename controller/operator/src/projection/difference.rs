//! In what an object that was seen differs from how it should be.

use std::collections::BTreeSet;

use evercert_api::challenge::OpenChallenge;
use serde_json::Value;

use super::challenges::read_challenges;
use super::object::Kind;

/// The places where `seen` lacks what `desired` says, each with what stands there instead; empty when there are none. What
/// `seen` has beside it (defaults, other writers' fields) does not count, save in lists.
pub(super) fn differences(desired: &Value, seen: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", desired, seen, &mut found);
    found
}

fn compare(path: &str, desired: &Value, seen: &Value, found: &mut Vec<String>) {
    match (desired, seen) {
        (Value::Object(desired), Value::Object(seen)) => {
            for (key, value) in desired {
                let path = format!("{path}.{key}");
                match seen.get(key) {
                    Some(seen) => compare(&path, value, seen, found),
                    // The API server leaves empty lists and maps out.
                    None if is_empty(value) => {}
                    None => found.push(path),
                }
            }
        }
        (Value::Array(desired), Value::Array(seen)) if path.ends_with(".ownerReferences") => {
            let uids = |list: &[Value]| -> BTreeSet<String> {
                list.iter()
                    .filter_map(|o| o.get("uid")?.as_str().map(ToOwned::to_owned))
                    .collect()
            };
            let (desired, seen) = (uids(desired), uids(seen));
            if desired != seen {
                found.push(format!("{path}={seen:?}"));
            }
        }
        (Value::Array(desired), Value::Array(seen)) if desired.len() == seen.len() => {
            for (number, (desired, seen)) in desired.iter().zip(seen).enumerate() {
                compare(&format!("{path}[{number}]"), desired, seen, found);
            }
        }
        _ if desired == seen => {}
        _ => found.push(format!("{path}={seen}")),
    }
}

/// Whether the differences keep a challenge from being answered. The others (more than wanted, an owner) can wait for the
/// next write.
pub(super) fn is_urgent(kind: Kind, desired: &Value, seen: &Value, differences: &[String]) -> bool {
    let only = |prefix: &str| differences.iter().all(|d| d.starts_with(prefix));
    match kind {
        Kind::ConfigMap => {
            !only(".data") || !challenges_of(desired).is_subset(&challenges_of(seen))
        }
        Kind::Service => !only(".metadata.ownerReferences"),
        Kind::Ingress | Kind::Edit => {
            !only(".spec.rules") || !paths_of(desired).is_subset(&paths_of(seen))
        }
        Kind::EndpointSlice | Kind::Deployment => true,
    }
}

/// The challenges in a ConfigMap's JSON.
pub(super) fn challenges_of(config_map: &Value) -> BTreeSet<OpenChallenge> {
    read_challenges(config_map).into_iter().collect()
}

/// Host and path of every rule in an Ingress's JSON.
pub(super) fn paths_of(ingress: &Value) -> BTreeSet<(Option<&str>, &str)> {
    let rules = ingress.pointer("/spec/rules").and_then(Value::as_array);
    rules
        .into_iter()
        .flatten()
        .flat_map(|rule| {
            let host = rule.get("host").and_then(Value::as_str);
            let paths = rule.pointer("/http/paths").and_then(Value::as_array);
            let paths = paths.into_iter().flatten();
            paths.filter_map(move |p| Some((host, p.get("path")?.as_str()?)))
        })
        .collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_other_writers_fields_are_no_difference() {
        let desired = json!({ "spec": { "ports": [{ "name": "http" }], "list": [] }, "metadata": { "labels": { "a": "b" } } });
        let seen = json!({
            "spec": { "ports": [{ "name": "http", "protocol": "TCP" }], "clusterIP": "198.19.0.1" },
            "metadata": { "labels": { "a": "b", "c": "d" }, "uid": "u" },
        });
        assert_eq!(differences(&desired, &seen), Vec::<String>::new());
    }

    #[test]
    fn a_changed_a_missing_and_a_surplus_part_are_each_a_difference() {
        let desired = json!({ "a": 1, "b": { "c": 2 }, "l": [1, 2] });
        let seen = json!({ "a": 3, "b": {}, "l": [1] });
        assert_eq!(differences(&desired, &seen), [".a=3", ".b.c", ".l=[1]"]);
    }

    #[test]
    fn owners_are_a_set() {
        let owners = |uids: &[&str]| {
            let list: Vec<Value> = uids.iter().map(|u| json!({ "uid": u })).collect();
            json!({ "metadata": { "ownerReferences": list } })
        };
        assert!(differences(&owners(&["a", "b"]), &owners(&["b", "a"])).is_empty());
        let found = differences(&owners(&["a"]), &owners(&["b", "a"]));
        assert_eq!(found, [r#".metadata.ownerReferences={"a", "b"}"#]);
        assert!(!is_urgent(
            Kind::Service,
            &owners(&["a"]),
            &owners(&["b"]),
            &found
        ));
    }

    #[test]
    fn a_rule_too_many_can_wait_and_one_too_few_cannot() {
        let ingress = |paths: &[&str]| {
            let paths: Vec<Value> = paths.iter().map(|p| json!({ "path": p })).collect();
            json!({ "spec": { "rules": [{ "host": "a.example", "http": { "paths": paths } }] } })
        };
        let (one, two) = (ingress(&["/1"]), ingress(&["/1", "/2"]));
        assert!(!is_urgent(
            Kind::Ingress,
            &one,
            &two,
            &differences(&one, &two)
        ));
        assert!(is_urgent(
            Kind::Ingress,
            &two,
            &one,
            &differences(&two, &one)
        ));
    }
}
