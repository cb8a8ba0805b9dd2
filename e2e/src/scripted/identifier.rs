//! Identifiers (RFC 8555 §9.7.7, RFC 8738) and what a CA's limits make of them.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Value, json};

/// A name or an address, as an order has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub(super) struct Identifier {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) value: String,
}

impl Identifier {
    /// The identifier that a text is: an IP address, else a DNS name.
    pub(super) fn of(text: &str) -> Self {
        let kind = if text.parse::<IpAddr>().is_ok() {
            "ip"
        } else {
            "dns"
        };
        Self {
            kind: kind.to_owned(),
            value: text.to_owned(),
        }
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        (self.kind == "ip")
            .then(|| self.value.parse().ok())
            .flatten()
    }

    /// The name that control is proved of: a wildcard's base (RFC 8555 §7.1.3).
    pub(super) fn base(&self) -> Self {
        Self {
            kind: self.kind.clone(),
            value: self.value.strip_prefix("*.").unwrap_or(&self.value).into(),
        }
    }

    pub(super) fn is_wildcard(&self) -> bool {
        self.value.starts_with("*.")
    }

    pub(super) fn to_json(&self) -> Value {
        json!({"type": self.kind, "value": self.value})
    }

    /// What the limit of certificates for a registered domain counts by: the domain below a public suffix, an IPv4 address, an
    /// IPv6 network of 64 bits. Every top-level domain is a public suffix, and so is each of `suffixes`.
    pub(super) fn registered_domain(&self, suffixes: &[String]) -> String {
        match self.address() {
            Some(IpAddr::V4(address)) => address.to_string(),
            Some(IpAddr::V6(address)) => {
                let network: Vec<String> = address
                    .segments()
                    .iter()
                    .take(4)
                    .map(|segment| format!("{segment:x}"))
                    .collect();
                format!("{}::/64", network.join(":"))
            }
            None => {
                let base = self.base().value;
                let suffix = suffixes
                    .iter()
                    .filter(|suffix| base.ends_with(&format!(".{suffix}")))
                    .map(|suffix| suffix.split('.').count())
                    .max()
                    .unwrap_or(1);
                let labels: Vec<&str> = base.rsplit('.').take(suffix + 1).collect();
                labels.into_iter().rev().collect::<Vec<_>>().join(".")
            }
        }
    }
}

/// Whether `name` is `domain` or below it.
pub(super) fn is_within(name: &str, domain: &str) -> bool {
    name == domain || name.ends_with(&format!(".{domain}"))
}

/// A set of identifiers as the key of a limit.
pub(super) fn set_key(identifiers: &[Identifier]) -> String {
    let mut names: Vec<&str> = identifiers.iter().map(|i| i.value.as_str()).collect();
    names.sort_unstable();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registered_domain_is_one_label_below_a_public_suffix() {
        let suffixes = ["co.test".to_owned(), "k12.co.test".to_owned()];
        for (name, domain) in [
            ("a.test", "a.test"),
            ("www.shop.a.test", "a.test"),
            ("*.a.test", "a.test"),
            ("www.a.co.test", "a.co.test"),
            ("www.a.k12.co.test", "a.k12.co.test"),
            ("198.18.0.1", "198.18.0.1"),
            ("2001:db8:1:2:3::1", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(Identifier::of(name).registered_domain(&suffixes), domain);
        }
    }

    #[test]
    fn below_a_name_is_only_what_ends_with_all_of_it() {
        assert!(is_within("bad.test", "bad.test") && is_within("a.bad.test", "bad.test"));
        assert!(!is_within("notbad.test", "bad.test"));
    }
}
