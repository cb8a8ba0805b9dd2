//! Rules of the schema that several fields share. Each has a sentence that says what to write instead.
//!
//! The API server checks a rule's cost from the bounds of the field, so every text and list of a spec has a bound.

use kube_core::{Reason, Rule};
use schemars::Schema;
use serde_json::{Value, json};

/// Labels of a host name (RFC 1123 §2.1), lower case.
const LABELS: &str = r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";

/// The text names a Kubernetes object (a DNS subdomain, RFC 1123).
pub(crate) fn object_name() -> Rule {
    Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')")
        .message("must be an object's name: lower case letters, digits, '-' and '.', beginning and ending with a letter or digit")
        .reason(Reason::FieldValueInvalid)
}

/// The text names a CA's profile.
pub(crate) fn profile_name() -> Rule {
    Rule::new("self.matches('^[!-~]+$')")
        .message("must be the name of a profile that the CA offers, such as tlsserver: the issuer's status.profiles lists them")
        .reason(Reason::FieldValueInvalid)
}

/// The text is a key of a Secret's data.
pub(crate) fn data_key() -> Rule {
    Rule::new("self.matches('^[-._a-zA-Z0-9]+$')")
        .message("must be a key of a Secret's data: letters, digits, '-', '_' and '.'")
        .reason(Reason::FieldValueInvalid)
}

/// Each item is a host name that HTTP-01 can prove. A bad item breaks one rule only, so that its user reads one sentence.
pub(crate) fn host_names(list: &mut Schema) {
    let rules = [
        Rule::new("!self.contains('*')")
            .message("is a wildcard, and HTTP-01, the only challenge there is, cannot prove one: list the host names themselves"),
        Rule::new("self.contains('*') || self == self.lowerAscii()").message("has upper-case letters: write it in lower case"),
        Rule::new("self.matches('^[ -~]*$')").message("is not in its ASCII form: write the IDNA A-labels (xn--...)"),
        Rule::new(r"!self.contains(':') && !self.matches('\\.[0-9]+$')")
            .message("is an IP address or ends like one: dnsNames takes host names only, write an address into ipAddresses"),
        Rule::new("self.contains('.') || self.matches('[*:]')")
            .message("has one label only, and no CA signs that: write the full name, such as www.example.com"),
        // What the rules above refuse passes here.
        Rule::new(format!(r"!self.contains('.') || self.matches('[*:A-Z]|[^ -~]') || self.matches('^{}$')", cel(LABELS))).message(
            "is not a host name: labels of letters, digits and inner hyphens, 63 at most each, joined by single dots, none at the end",
        ),
    ];
    check_items(list, 253, rules);
}

/// Each item is an IP address in its canonical form, so that a set has each address once.
pub(crate) fn addresses(list: &mut Schema) {
    let rules = [
        Rule::new("isIP(self)").message(
            "is not an IP address: write one such as 192.0.2.1 or 2001:db8::1, without port, brackets, zone or network",
        ),
        Rule::new("!isIP(self) || ip.isCanonical(self)")
            .message("is not in its canonical form: write it in lower case, with '::' for the longest run of zeros and no zero in front"),
    ];
    check_items(list, 39, rules);
}

/// Each item is a host name, an IP address or network, or `*.suffix` for every name below a suffix.
pub(crate) fn allowed_names(list: &mut Schema) {
    let rule = Rule::new(format!(r"self.matches('^(\\*\\.)?{}$') || isIP(self) || isCIDR(self)", cel(LABELS))).message(
        "must be a host name in lower case, *.suffix for every name below a suffix, an IP address, or a network such as 192.0.2.0/24; to \
         allow every name, leave allowedNames out",
    );
    check_items(list, 255, [rule]);
}

/// Labels of a Secret: 32 at most, with values that Kubernetes takes.
pub(crate) fn template_labels(map: &mut Schema) {
    let value = Rule::new(r"self.matches('^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$')")
        .message("is no label's value: letters, digits, '-', '_' and '.', 63 at most, beginning and ending with a letter or digit")
        .reason(Reason::FieldValueInvalid);
    check_values(map, 63, &[value]);
}

/// Annotations of a Secret: 32 at most, of 4,096 characters each.
pub(crate) fn template_annotations(map: &mut Schema) {
    check_values(map, 4096, &[]);
}

/// Annotations of a route: as those of a Secret, without the one that names a class.
pub(crate) fn route_annotations(map: &mut Schema) {
    template_annotations(map);
    let class = Rule::new("!('kubernetes.io/ingress.class' in self)")
        .message("has kubernetes.io/ingress.class: name the class in ingressClassName")
        .reason(Reason::FieldValueForbidden);
    if let Some(rules) = map
        .get_mut("x-kubernetes-validations")
        .and_then(Value::as_array_mut)
    {
        rules.push(json!(class));
    }
}

/// What a key is made of cannot be checked here: a rule over keys of any length is too dear for the API server.
fn check_values(map: &mut Schema, length: u32, rules: &[Rule]) {
    let ours = Rule::new("self.all(key, !key.startsWith('evercert.dev/'))")
        .message(
            "has a key under evercert.dev/, and these are Evercert's own: choose another prefix",
        )
        .reason(Reason::FieldValueForbidden);
    map.insert("maxProperties".to_owned(), json!(32));
    map.insert("x-kubernetes-validations".to_owned(), json!([ours]));
    if let Some(values) = map
        .get_mut("additionalProperties")
        .and_then(Value::as_object_mut)
    {
        values.insert("maxLength".to_owned(), json!(length));
        if !rules.is_empty() {
            values.insert("x-kubernetes-validations".to_owned(), json!(rules));
        }
    }
}

/// Takes away the bounds that come from the width of a Rust integer: the field's own rule says more, in a sentence.
pub(crate) fn own_bounds(number: &mut Schema) {
    number.remove("minimum");
    number.remove("maximum");
}

fn check_items(list: &mut Schema, length: u32, rules: impl IntoIterator<Item = Rule>) {
    let rules: Vec<Rule> = rules
        .into_iter()
        .map(|rule| rule.reason(Reason::FieldValueInvalid))
        .collect();
    if let Some(items) = list.get_mut("items").and_then(Value::as_object_mut) {
        items.insert("maxLength".to_owned(), json!(length));
        items.insert("x-kubernetes-validations".to_owned(), json!(rules));
    }
}

/// A regular expression as the inside of a CEL string literal.
fn cel(pattern: &str) -> String {
    pattern.replace('\\', r"\\")
}
