//! What `spec.secretTemplate` puts on a Secret, kept in step both ways. Pure, and never more than the API server takes: one key
//! that it refuses would keep every certificate out of the Secret.

use std::collections::BTreeMap;

use evercert_api::certificate::SecretTemplate;
use evercert_api::{DnsName, keys};

/// Labels or annotations.
type Pairs = BTreeMap<String, String>;

/// Puts `template` in step, of which `before` says what an earlier one left there; gives the same for the next time, `None`
/// when there is nothing.
pub fn put_in_step(
    template: Option<&SecretTemplate>,
    labels: &mut Pairs,
    annotations: &mut Pairs,
    before: Option<&str>,
) -> Option<String> {
    let none = SecretTemplate::default();
    let template = template.unwrap_or(&none);
    for entry in before.unwrap_or_default().split(',') {
        match entry.split_once(' ') {
            Some(("label", key)) if !is_ours(key) => drop(labels.remove(key)),
            Some(("annotation", key)) if !is_ours(key) => drop(annotations.remove(key)),
            Some(_) | None => {}
        }
    }
    let mut entries = Vec::new();
    for (kind, wanted, there) in [
        ("label", &template.labels, labels),
        ("annotation", &template.annotations, annotations),
    ] {
        for (key, value) in wanted.iter().filter(|(key, _)| is_key(key)) {
            there.insert(key.clone(), value.clone());
            entries.push(format!("{kind} {key}"));
        }
    }
    (!entries.is_empty()).then(|| entries.join(","))
}

/// A key of the template that is left out, since no object can have it.
#[must_use]
pub fn find_bad_key(template: &SecretTemplate) -> Option<&str> {
    let mut keys = template.labels.keys().chain(template.annotations.keys());
    keys.find(|key| !is_key(key)).map(String::as_str)
}

fn is_ours(key: &str) -> bool {
    key.split_once('/')
        .is_some_and(|(prefix, _)| prefix == keys::GROUP)
}

/// A qualified name: 63 characters of letters, digits, `-`, `_` and `.`, and before it, with a slash, a DNS name.
fn is_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let alphanumeric = |end: Option<char>| end.is_some_and(|c| c.is_ascii_alphanumeric());
    let is_prefix = |prefix: &str| {
        // A DNS name of one label is one, too.
        DnsName::parse(prefix).is_ok() || DnsName::parse(&format!("{prefix}.x")).is_ok()
    };
    name.len() <= 63
        && alphanumeric(name.chars().next())
        && alphanumeric(name.chars().last())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && prefix.is_none_or(is_prefix)
        && !is_ours(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(of: &[(&str, &str)]) -> Pairs {
        of.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn template(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> SecretTemplate {
        SecretTemplate {
            labels: pairs(labels),
            annotations: pairs(annotations),
        }
    }

    #[test]
    fn keys_come_change_and_go_with_the_template_and_other_peoples_keys_stay() {
        let (mut labels, mut annotations) = (pairs(&[("team", "x")]), pairs(&[("a/own", "y")]));
        let first = template(&[("tier", "web")], &[("example.com/note", "1"), ("b", "2")]);
        let left = put_in_step(Some(&first), &mut labels, &mut annotations, None);
        assert_eq!(labels, pairs(&[("team", "x"), ("tier", "web")]));
        assert_eq!(
            annotations,
            pairs(&[("a/own", "y"), ("b", "2"), ("example.com/note", "1")])
        );
        assert_eq!(
            left.as_deref(),
            Some("label tier,annotation b,annotation example.com/note")
        );
        let second = template(&[], &[("b", "3")]);
        let left = put_in_step(
            Some(&second),
            &mut labels,
            &mut annotations,
            left.as_deref(),
        );
        assert_eq!(labels, pairs(&[("team", "x")]));
        assert_eq!(annotations, pairs(&[("a/own", "y"), ("b", "3")]));
        let left = put_in_step(None, &mut labels, &mut annotations, left.as_deref());
        assert_eq!(left, None);
        assert_eq!(annotations, pairs(&[("a/own", "y")]));
    }

    #[test]
    fn forged_record_takes_nothing_away_that_is_evercerts() {
        let (mut labels, mut annotations) =
            (pairs(&[]), pairs(&[(keys::CERTIFICATE_NAME, "site")]));
        let forged = format!("annotation {},label,nonsense x", keys::CERTIFICATE_NAME);
        put_in_step(None, &mut labels, &mut annotations, Some(&forged));
        assert_eq!(annotations.len(), 1);
    }

    #[test]
    fn key_that_no_object_can_have_is_left_out_and_named() {
        let long = "x".repeat(64);
        for bad in [
            "",
            "-a",
            "a b",
            "/a",
            "a/",
            "A.b/c",
            "a/b/c",
            "ümlaut",
            &long,
            "evercert.dev/x",
        ] {
            let wrong = template(&[], &[("good", "1"), (bad, "2")]);
            assert_eq!(find_bad_key(&wrong), Some(bad));
            let mut annotations = Pairs::new();
            put_in_step(Some(&wrong), &mut Pairs::new(), &mut annotations, None);
            assert_eq!(annotations, pairs(&[("good", "1")]), "{bad}");
        }
        for good in [
            "a",
            "A_b.c-9",
            "team/x",
            "example.com/note",
            "my.evercert.dev/x",
        ] {
            assert_eq!(find_bad_key(&template(&[(good, "")], &[])), None, "{good}");
        }
    }
}
