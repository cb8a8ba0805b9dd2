//! The custom resource definitions as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::CustomResourceExt;
use serde_json::Value;

use crate::{Certificate, ClusterIssuer, Issuer};

/// Every resource of Evercert, in the order of installation.
///
/// # Errors
/// When a schema is not one that Kubernetes knows: a defect of this crate, found by its tests.
pub fn all() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [Certificate::crd(), Issuer::crd(), ClusterIssuer::crd()]
        .iter()
        .map(build_installed)
        .collect()
}

/// `derived` with what the API server does better without: `nullable` (a field written as null is then dropped, as if absent)
/// and the widths of Rust's integers (an unknown format is a warning at each install).
fn build_installed(
    derived: &CustomResourceDefinition,
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut crd = serde_json::to_value(derived)?;
    tidy(&mut crd);
    serde_json::from_value(crd)
}

fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("nullable");
            if map
                .get("format")
                .and_then(Value::as_str)
                .is_some_and(|f| f.starts_with("uint"))
            {
                map.remove("format");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(plural: &str) -> Value {
        let crds = all().unwrap();
        let crd = crds.iter().find(|c| c.spec.names.plural == plural).unwrap();
        serde_json::to_value(crd)
            .unwrap()
            .pointer("/spec/versions/0/schema/openAPIV3Schema/properties")
            .unwrap()
            .clone()
    }

    #[test]
    fn status_keeps_the_fields_of_later_versions() {
        for plural in ["certificates", "issuers", "clusterissuers"] {
            assert_eq!(
                schema(plural)["status"]["x-kubernetes-preserve-unknown-fields"],
                true,
                "{plural}"
            );
            assert!(
                schema(plural)["spec"]
                    .get("x-kubernetes-preserve-unknown-fields")
                    .is_none(),
                "{plural}"
            );
        }
    }

    #[test]
    fn nothing_is_nullable_and_no_format_is_unknown_to_kubernetes() {
        let text = serde_json::to_string(&all().unwrap()).unwrap();
        assert!(
            !text.contains("nullable") && !text.contains("\"uint"),
            "{text}"
        );
    }

    #[test]
    fn every_text_and_list_of_a_spec_has_a_bound() {
        fn unbounded(path: &str, schema: &Value, found: &mut Vec<String>) {
            let bounded = match schema["type"].as_str() {
                Some("string") => schema.get("maxLength").is_some() || schema.get("enum").is_some(),
                Some("array") => schema.get("maxItems").is_some(),
                _ => true,
            };
            // A label selector is Kubernetes' own type, and no rule looks into it.
            if path.ends_with("namespaceSelector") {
                return;
            }
            if !bounded {
                found.push(path.to_owned());
            }
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
                unbounded(&format!("{path}.{name}"), inner, found);
            }
            if let Some(items) = schema.get("items") {
                unbounded(&format!("{path}[]"), items, found);
            }
        }
        let mut found = Vec::new();
        for plural in ["certificates", "issuers", "clusterissuers"] {
            unbounded(
                &format!("{plural}: spec"),
                &schema(plural)["spec"],
                &mut found,
            );
        }
        assert_eq!(found, Vec::<String>::new());
    }
}
