//! What the API server refuses, and the sentence that its user then reads: one bad object for each rule of the schemas.
//!
//! This is data and a walk; it needs no cluster. [`missing`] finds the rules that no case breaks, so that a rule cannot come
//! into the schema without its sentence having been read.

mod certificate;
mod evolve;
mod issuer;
mod walk;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

pub use evolve::find_narrowings;
pub use walk::{Rule, list_rules};

const NOT_A_PROFILE: &str = "must be the name of a profile that the CA offers, such as tlsserver: the issuer's status.profiles lists them";

/// Name of the object in every case.
pub const NAME: &str = "case";

/// An object that breaks one rule.
#[derive(Debug, Clone)]
pub struct Case {
    /// The object's kind.
    pub kind: &'static str,
    /// Where the broken rule stands in the schema, such as `spec.dnsNames[]`.
    pub path: &'static str,
    /// The schema's keyword that is broken; `required` has the missing field's name after it.
    pub keyword: &'static str,
    /// The object's spec; null leaves it out.
    pub spec: Value,
    /// What the API server says about it.
    pub says: String,
}

impl Case {
    /// The whole object.
    #[must_use]
    pub fn object(&self) -> Value {
        object(self.kind, &self.spec)
    }

    /// Whether `message`, the message of the API server's Status, is this case's sentence and no other.
    #[must_use]
    pub fn is_told_by(&self, message: &str) -> bool {
        let says = &self.says;
        let object = format!("{}.evercert.dev {NAME:?} is invalid: ", self.kind);
        message
            .strip_prefix(object.as_str())
            .is_some_and(|told| told == says || told == format!("[{says}, {UNCHECKED}]"))
    }

    fn breaks(&self, rule: &Rule) -> bool {
        let same_sentence = rule
            .sentence
            .as_deref()
            .is_none_or(|sentence| self.says.ends_with(&format!(": {sentence}")));
        self.kind == rule.kind
            && self.path == rule.path
            && self.keyword == rule.keyword
            && same_sentence
    }
}

/// What the API server adds where a bound of the schema is broken.
const UNCHECKED: &str = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
                         correct the existing errors to complete validation";

/// Every bad object.
#[must_use]
pub fn bad() -> Vec<Case> {
    let mut cases = certificate::bad();
    cases.extend(
        ["Issuer", "ClusterIssuer"]
            .into_iter()
            .flat_map(issuer::bad),
    );
    cases.extend(issuer::bad_policies());
    cases
}

/// Objects at the edge of what is allowed: the API server takes each of them.
#[must_use]
pub fn good() -> Vec<Value> {
    let mut objects = certificate::good();
    objects.extend(
        ["Issuer", "ClusterIssuer"]
            .into_iter()
            .flat_map(issuer::good),
    );
    objects.extend(issuer::good_policies());
    objects
}

/// The rules of `crds` that no case breaks, and the cases that break no rule.
///
/// # Errors
/// A schema holds a keyword that the walk does not know.
pub fn missing(crds: &[CustomResourceDefinition]) -> anyhow::Result<Vec<String>> {
    let cases = bad();
    let mut rules = Vec::new();
    for crd in crds {
        rules.extend(list_rules(crd)?);
    }
    let untried = rules
        .iter()
        .filter(|rule| !cases.iter().any(|case| case.breaks(rule)));
    let idle = cases
        .iter()
        .filter(|case| !rules.iter().any(|rule| case.breaks(rule)));
    Ok(untried
        .map(|rule| format!("no case breaks {rule}"))
        .chain(idle.map(|case| {
            format!(
                "no rule for the case {} {} {}: {}",
                case.kind, case.path, case.keyword, case.says
            )
        }))
        .collect())
}

fn object(kind: &str, spec: &Value) -> Value {
    let mut object =
        json!({"apiVersion": "evercert.dev/v1", "kind": kind, "metadata": {"name": NAME}});
    if !spec.is_null() {
        object["spec"] = spec.clone();
    }
    object
}

/// `base` with `patch` merged into it (RFC 7396).
fn merged(base: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else {
        return patch.clone();
    };
    let mut fields = base.as_object().cloned().unwrap_or_default();
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            let before = fields.get(name).cloned().unwrap_or(Value::Null);
            fields.insert(name.clone(), merged(&before, change));
        }
    }
    Value::Object(fields)
}

/// `<beginning>aaa…` of `length` characters.
fn long(beginning: &str, length: usize) -> String {
    format!(
        "{beginning}{}",
        "a".repeat(length.saturating_sub(beginning.len()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> Vec<CustomResourceDefinition> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");
        let files = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path());
        files
            .map(|file| serde_yaml_ng::from_str(&std::fs::read_to_string(file).unwrap()).unwrap())
            .collect()
    }

    #[test]
    fn every_rule_of_the_committed_schemas_has_a_case() {
        assert_eq!(missing(&committed()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_new_rule_without_a_case_is_found() {
        let mut crds: Vec<Value> = committed()
            .iter()
            .map(|crd| serde_json::to_value(crd).unwrap())
            .collect();
        let name = crds.iter_mut().find_map(|crd| {
            crd.pointer_mut(
                "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/secretName",
            )
        });
        let name = name.unwrap();
        name["minLength"] = json!(3);
        name["x-kubernetes-validations"]
            .as_array_mut()
            .unwrap()
            .push(json!({"rule": "true", "message": "is a new rule"}));
        let crds: Vec<_> = crds
            .into_iter()
            .map(|crd| serde_json::from_value(crd).unwrap())
            .collect();
        let found = missing(&crds).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found.iter().any(|f| f.contains("minLength"))
                && found.iter().any(|f| f.contains("is a new rule")),
            "{found:?}"
        );
    }

    #[test]
    fn every_good_object_can_be_read_by_the_controller() {
        for object in good() {
            let read = match object["kind"].as_str().unwrap() {
                "Certificate" => {
                    serde_json::from_value::<evercert_api::Certificate>(object.clone()).map(drop)
                }
                "Issuer" => {
                    serde_json::from_value::<evercert_api::Issuer>(object.clone()).map(drop)
                }
                _ => {
                    serde_json::from_value::<evercert_api::ClusterIssuer>(object.clone()).map(drop)
                }
            };
            assert!(read.is_ok(), "{read:?}: {object}");
        }
    }
}
