//! Every rule of a schema, found by walking it.

use std::fmt;

use anyhow::{Context, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value};

/// One thing that a schema asks of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The kind whose schema it is.
    pub kind: String,
    /// Where it stands, such as `spec.dnsNames[]`.
    pub path: String,
    /// The schema's keyword; `required` has the field's name after it.
    pub keyword: String,
    /// The sentence of a rule in CEL.
    pub sentence: Option<String>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.path, self.keyword)?;
        self.sentence
            .iter()
            .try_for_each(|sentence| write!(f, " ({sentence})"))
    }
}

/// Keywords that refuse a value by themselves.
const BOUNDS: &[&str] = &[
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
];

/// Keywords that refuse nothing, or that the walk follows. A wrong `type` is refused before any rule, with Kubernetes' own words.
const PLAIN: &[&str] = &[
    "type",
    "title",
    "description",
    "default",
    "properties",
    "items",
    "additionalProperties",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
];

/// Every rule that the schema of `crd` has for what its users write. The status is left out: only the controller writes it.
///
/// # Errors
/// The schema holds a keyword that this walk does not know, or a rule in CEL that has no sentence.
pub fn list_rules(crd: &CustomResourceDefinition) -> Result<Vec<Rule>> {
    let kind = &crd.spec.names.kind;
    let version = crd.spec.versions.first().context("no version")?;
    let schema = version
        .schema
        .as_ref()
        .and_then(|schema| schema.open_api_v3_schema.as_ref())
        .context("no schema")?;
    let mut rules = Vec::new();
    walk(kind, "", &serde_json::to_value(schema)?, &mut rules)?;
    Ok(rules)
}

fn walk(kind: &str, path: &str, schema: &Value, rules: &mut Vec<Rule>) -> Result<()> {
    if path == "status" {
        return Ok(());
    }
    let keywords = schema
        .as_object()
        .with_context(|| format!("{path} is no schema"))?;
    for (keyword, value) in keywords {
        rules.extend(rules_of(kind, path, keyword, value)?);
    }
    for (name, inner) in object(keywords, "properties") {
        let inner_path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        walk(kind, &inner_path, inner, rules)?;
    }
    if let Some(items) = keywords.get("items") {
        walk(kind, &format!("{path}[]"), items, rules)?;
    }
    match keywords.get("additionalProperties") {
        Some(values @ Value::Object(_)) => walk(kind, &format!("{path}{{}}"), values, rules),
        _ => Ok(()),
    }
}

fn rules_of(kind: &str, path: &str, keyword: &str, value: &Value) -> Result<Vec<Rule>> {
    let rule = |keyword: String, sentence| Rule {
        kind: kind.to_owned(),
        path: path.to_owned(),
        keyword,
        sentence,
    };
    Ok(match keyword {
        "required" => texts(value)
            .map(|field| rule(format!("required {field}"), None))
            .collect(),
        "x-kubernetes-validations" => value
            .as_array()
            .into_iter()
            .flatten()
            .map(|cel| {
                let sentence = cel["message"]
                    .as_str()
                    .with_context(|| format!("{path}: a rule without a sentence: {cel}"))?;
                Ok(rule(keyword.to_owned(), Some(sentence.to_owned())))
            })
            .collect::<Result<_>>()?,
        "x-kubernetes-list-type" if value == "atomic" => Vec::new(),
        "x-kubernetes-list-type" => vec![rule(keyword.to_owned(), None)],
        // Widths of integers; every other format refuses values.
        "format" if value == "int32" || value == "int64" => Vec::new(),
        known if BOUNDS.contains(&known) => vec![rule(keyword.to_owned(), None)],
        known if PLAIN.contains(&known) => Vec::new(),
        other => bail!("{kind} {path}: the walk does not know the keyword {other}: {value}"),
    })
}

fn object<'a>(
    keywords: &'a Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    keywords
        .get(name)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}
