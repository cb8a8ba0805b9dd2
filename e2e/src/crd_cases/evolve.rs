//! Whether a newer custom resource takes every object that an older one took, and keeps all of it: schemas compared by their
//! structure. Pure; where it cannot tell it says that something is narrower.

use serde_json::{Map, Value};

/// Bounds that a value must not be above.
const UPPER: [&str; 4] = ["maximum", "maxLength", "maxItems", "maxProperties"];
/// Bounds that a value must not be below.
const LOWER: [&str; 4] = ["minimum", "minLength", "minItems", "minProperties"];
/// Keywords of which each other value may refuse, prune or mean something else.
const FIXED: [&str; 10] = [
    "type",
    "format",
    "pattern",
    "multipleOf",
    "nullable",
    "default",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-int-or-string",
    "x-kubernetes-map-type",
    "x-kubernetes-list-map-keys",
];

/// What `newer`, a `CustomResourceDefinition`, refuses, drops or takes otherwise of what `older` accepted; nothing where all is well.
#[must_use]
pub fn find_narrowings(older: &Value, newer: &Value) -> Vec<String> {
    let name = older["metadata"]["name"].as_str().unwrap_or_default();
    let mut found = Vec::new();
    for field in [
        "/spec/group",
        "/spec/scope",
        "/spec/names/kind",
        "/spec/names/plural",
    ] {
        if older.pointer(field) != newer.pointer(field) {
            found.push(format!("{name} {field} is another"));
        }
    }
    let versions = |crd: &Value| {
        crd["spec"]["versions"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let newer = versions(newer);
    for old in versions(older).iter().filter(|v| v["served"] == true) {
        let version = old["name"].as_str().unwrap_or_default();
        let place = format!("{name} {version}");
        let same = newer
            .iter()
            .find(|v| v["name"] == old["name"] && v["served"] == true);
        let Some(new) = same else {
            found.push(format!("{place} is no longer served"));
            continue;
        };
        if old["subresources"] != new["subresources"] {
            found.push(format!("{place} has other subresources"));
        }
        let schema = "/schema/openAPIV3Schema";
        let (old, new) = (old.pointer(schema), new.pointer(schema));
        compare(&place, &object(old), &object(new), &mut found);
    }
    found
}

fn object(schema: Option<&Value>) -> Map<String, Value> {
    schema
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default()
}

fn compare(
    place: &str,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    found: &mut Vec<String>,
) {
    keywords(place, old, new, found);
    let (before, after) = (object(old.get("properties")), object(new.get("properties")));
    rules(place, &before, old, new, found);
    for (field, schema) in before {
        let inside = format!("{place}.{field}");
        match after.get(&field) {
            Some(now) => compare(&inside, &object(Some(&schema)), &object(Some(now)), found),
            None => found.push(format!("{inside} is gone: what is stored in it is dropped")),
        }
    }
    for (keyword, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        match (old.get(keyword), new.get(keyword)) {
            (Some(was @ Value::Object(_)), Some(is @ Value::Object(_))) => {
                compare(
                    &format!("{place}{mark}"),
                    &object(Some(was)),
                    &object(Some(is)),
                    found,
                );
            }
            (was, is) if was != is => found.push(format!("{place}: {keyword} differs")),
            _ => {}
        }
    }
}

fn keywords(
    place: &str,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    found: &mut Vec<String>,
) {
    let number = |schema: &Map<String, Value>, key: &str| schema.get(key).and_then(Value::as_f64);
    for key in UPPER {
        let narrower = match (number(old, key), number(new, key)) {
            (Some(was), Some(is)) => is < was,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if narrower {
            found.push(format!("{place}: {key} is lower"));
        }
    }
    for key in LOWER {
        let narrower = match (number(old, key), number(new, key)) {
            (Some(was), Some(is)) => is > was,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if narrower {
            found.push(format!("{place}: {key} is higher"));
        }
    }
    for key in FIXED
        .into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
    {
        // A pattern or a format that went refuses less.
        let refuses_less =
            matches!(key, "pattern" | "format" | "multipleOf") && !new.contains_key(key);
        if !refuses_less {
            found.push(format!("{place}: {key} differs"));
        }
    }
    // A list that is a set or a map refuses duplicates, and two appliers meet in it otherwise.
    let list = "x-kubernetes-list-type";
    if old.get(list) != new.get(list) {
        found.push(format!("{place}: {list} differs"));
    }
    for field in values(new, "required") {
        if !values(old, "required").contains(&field) {
            found.push(format!("{place}: {field} has become required"));
        }
    }
    let allowed = values(new, "enum");
    let before = values(old, "enum");
    if !allowed.is_empty() && before.is_empty() {
        found.push(format!("{place}: an enum has come"));
    }
    for value in before.iter().filter(|_| !allowed.is_empty()) {
        if !allowed.contains(value) {
            found.push(format!("{place}: {value} is no longer in the enum"));
        }
    }
}

fn values(schema: &Map<String, Value>, key: &str) -> Vec<Value> {
    let list = schema.get(key).and_then(Value::as_array);
    list.cloned().unwrap_or_default()
}

/// A rule in CEL that was not there may refuse what was taken, unless it begins with `!has(self.FIELD) ||` for a new field, which
/// no older object has.
fn rules(
    place: &str,
    fields: &Map<String, Value>,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    found: &mut Vec<String>,
) {
    let texts = |schema| {
        let rules = values(schema, "x-kubernetes-validations").into_iter();
        rules
            .filter_map(|rule| Some(rule.get("rule")?.as_str()?.to_owned()))
            .collect::<Vec<_>>()
    };
    let before = texts(old);
    for rule in texts(new).iter().filter(|rule| !before.contains(rule)) {
        let guard = rule
            .strip_prefix("!has(self.")
            .and_then(|rest| rest.split_once(") ||"));
        let is_about_new = guard.is_some_and(|(field, rest)| {
            let is_word = field.chars().all(|c| c.is_ascii_alphanumeric());
            is_word && !fields.contains_key(field) && !rest.contains("&&")
        });
        if !is_about_new {
            found.push(format!("{place}: a rule has come: {rule}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn read(folder: &Path) -> Vec<Value> {
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        files
            .iter()
            .map(|file| serde_yaml_ng::from_str(&std::fs::read_to_string(file).unwrap()).unwrap())
            .collect()
    }

    fn released() -> Vec<Value> {
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/crd_cases/released"))
    }

    fn present() -> Vec<Value> {
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds"))
    }

    #[test]
    fn every_object_that_the_released_schemas_accept_is_accepted_and_kept_whole() {
        let (released, present) = (released(), present());
        assert_eq!(released.len(), 3);
        for old in &released {
            let same = |new: &&Value| new["metadata"]["name"] == old["metadata"]["name"];
            let new = present.iter().find(same);
            let new =
                new.unwrap_or_else(|| panic!("there is no {} any more", old["metadata"]["name"]));
            assert_eq!(find_narrowings(old, new), Vec::<String>::new());
        }
    }

    /// The objects at the edge of what is allowed have no field that the released schemas drop, so that comparing is about them, too.
    #[test]
    fn the_fields_of_the_good_cases_are_known_to_the_schemas() {
        let present = present();
        for object in crate::crd_cases::good() {
            let crd = present
                .iter()
                .find(|crd| crd["spec"]["names"]["kind"] == object["kind"]);
            let schema = crd
                .unwrap()
                .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
            let mut unknown = Vec::new();
            pruned("spec", &object["spec"], schema.unwrap(), &mut unknown);
            assert_eq!(unknown, Vec::<String>::new(), "{object}");
        }
        let mut unknown = Vec::new();
        pruned(
            "spec",
            &json!({"a": [{"b": 1}]}),
            &json!({"properties": {"a": {"items": {"properties": {}}}}}),
            &mut unknown,
        );
        assert_eq!(unknown, ["spec.a[].b"]);
    }

    fn pruned(place: &str, value: &Value, schema: &Value, unknown: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields {
                    let inside = format!("{place}.{name}");
                    match (
                        schema["properties"].get(name),
                        schema.get("additionalProperties"),
                    ) {
                        (Some(schema), _) | (None, Some(schema)) => {
                            pruned(&inside, inner, schema, unknown);
                        }
                        (None, None) if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
                        (None, None) => unknown.push(inside),
                    }
                }
            }
            Value::Array(items) => {
                for item in items {
                    pruned(&format!("{place}[]"), item, &schema["items"], unknown);
                }
            }
            _ => {}
        }
    }

    fn crd(spec: &Value) -> Value {
        json!({"metadata": {"name": "things"}, "spec": {"group": "g", "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things"},
            "versions": [{"name": "v1", "served": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]}})
    }

    fn base() -> Value {
        json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string", "maxLength": 10, "minLength": 1, "pattern": "^a", "enum": ["ab", "ac"]},
            "n": {"type": "integer", "minimum": 1.0, "maximum": 5.0},
            "l": {"type": "array", "maxItems": 3, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "m": {"type": "object", "additionalProperties": {"type": "string"}},
        }, "x-kubernetes-validations": [{"rule": "self.a != 'ad'", "message": "no"}]})
    }

    /// What is found when the part at `pointer` becomes `value`; null takes it away.
    fn changed(pointer: &str, value: Value) -> Vec<String> {
        let mut spec = base();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = spec.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            parent.remove(key);
        } else {
            parent.insert(key.to_owned(), value);
        }
        find_narrowings(&crd(&base()), &crd(&spec))
    }

    #[test]
    fn each_kind_of_narrowing_is_found() {
        let cases = [
            ("/properties/n", Value::Null, "spec.n is gone"),
            ("/required", json!(["a", "n"]), "\"n\" has become required"),
            (
                "/properties/a/enum",
                json!(["ab"]),
                "\"ac\" is no longer in the enum",
            ),
            ("/properties/n/enum", json!([1]), "an enum has come"),
            ("/properties/a/pattern", json!("^ab"), "pattern differs"),
            (
                "/properties/l/items/pattern",
                json!("^a"),
                "spec.l[]: pattern differs",
            ),
            ("/properties/a/maxLength", json!(9), "maxLength is lower"),
            ("/properties/a/minLength", json!(2), "minLength is higher"),
            ("/properties/n/maximum", json!(4), "maximum is lower"),
            ("/properties/n/minimum", json!(2), "minimum is higher"),
            ("/properties/l/maxItems", json!(2), "maxItems is lower"),
            ("/properties/l/minItems", json!(1), "minItems is higher"),
            (
                "/properties/m/maxProperties",
                json!(1),
                "maxProperties is lower",
            ),
            (
                "/properties/l/x-kubernetes-list-type",
                json!("map"),
                "list-type differs",
            ),
            ("/properties/n/type", json!("string"), "type differs"),
            ("/properties/a/format", json!("date-time"), "format differs"),
            ("/properties/a/default", json!("ab"), "default differs"),
            (
                "/properties/m/additionalProperties",
                Value::Null,
                "additionalProperties differs",
            ),
            (
                "/properties/m/additionalProperties/maxLength",
                json!(1),
                "spec.m{}: maxLength is lower",
            ),
            (
                "/x-kubernetes-validations",
                json!([{"rule": "self.a != 'ae'"}]),
                "a rule has come",
            ),
        ];
        for (pointer, value, says) in cases {
            let found = changed(pointer, value);
            assert!(
                found.len() == 1 && found[0].contains(says),
                "{pointer}: {found:?}"
            );
        }
    }

    #[test]
    fn what_is_wider_or_new_is_no_narrowing() {
        let cases = [
            (
                "/properties/b",
                json!({"type": "string", "pattern": "^b", "maxLength": 1}),
            ),
            ("/required", Value::Null),
            ("/properties/a/enum", json!(["ab", "ac", "ad"])),
            ("/properties/a/enum", Value::Null),
            ("/properties/a/pattern", Value::Null),
            ("/properties/a/maxLength", json!(11)),
            ("/properties/a/minLength", Value::Null),
            ("/properties/n/minimum", json!(0)),
            ("/x-kubernetes-validations", Value::Null),
            (
                "/x-kubernetes-validations",
                json!([{"rule": "!has(self.b) || self.b != self.a"}]),
            ),
            (
                "/x-kubernetes-validations",
                json!([{"rule": "self.a != 'ad'", "message": "not that"}]),
            ),
            ("/properties/a/description", json!("more words")),
        ];
        for (pointer, value) in cases {
            assert_eq!(changed(pointer, value), Vec::<String>::new(), "{pointer}");
        }
        let known = changed(
            "/x-kubernetes-validations",
            json!([{"rule": "!has(self.n) || self.n > 1"}]),
        );
        assert_eq!(
            known.len(),
            1,
            "a guard by a field that objects have: {known:?}"
        );
    }

    #[test]
    fn a_version_that_is_no_longer_served_and_another_scope_are_found() {
        let old = crd(&base());
        let mut new = old.clone();
        new["spec"]["versions"][0]["served"] = json!(false);
        new["spec"]["scope"] = json!("Cluster");
        let found = find_narrowings(&old, &new);
        assert_eq!(
            found,
            [
                "things /spec/scope is another",
                "things v1 is no longer served"
            ]
        );
        let mut new = old.clone();
        new["spec"]["versions"][0]["subresources"] = json!(null);
        assert_eq!(
            find_narrowings(&old, &new),
            ["things v1 has other subresources"]
        );
    }
}
