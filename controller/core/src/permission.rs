//! Who may have a name (design §3): the policy of a ClusterIssuer, and names that another namespace holds.

use std::collections::BTreeMap;
use std::net::IpAddr;

use evercert_api::Reason;
use evercert_api::issuer::PolicyRule;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::observe::Refusal;

/// Whether `policy` lets a namespace with `labels` have all of `names`. `others` is the number of Certificates that the
/// namespace already has with this issuer, this one left out. An empty policy allows everything.
#[must_use]
pub fn check_policy(
    policy: &[PolicyRule],
    namespace: &str,
    labels: &BTreeMap<String, String>,
    names: &[String],
    others: usize,
) -> Option<Refusal> {
    if policy.is_empty() {
        return None;
    }
    let refuse = |message| {
        Some(Refusal {
            reason: Reason::NameNotAllowed,
            message,
        })
    };
    let selecting: Vec<&PolicyRule> = policy
        .iter()
        .filter(|r| {
            r.namespace_selector
                .as_ref()
                .is_none_or(|s| selects(s, labels))
        })
        .collect();
    if selecting.is_empty() {
        return refuse(format!(
            "the ClusterIssuer's policy has no rule for namespace {namespace}: ask its owner for one, or use an Issuer of your own"
        ));
    }
    for name in names {
        let matching: Vec<&&PolicyRule> = selecting.iter().filter(|r| allows(r, name)).collect();
        if matching.is_empty() {
            return refuse(format!(
                "the ClusterIssuer's policy does not allow {name} in namespace {namespace}: remove the name, or ask the issuer's owner \
                 to add it to allowedNames"
            ));
        }
        let room = |r: &&&PolicyRule| {
            r.max_certificates
                .is_none_or(|most| others < usize::try_from(most).unwrap_or(usize::MAX))
        };
        if !matching.iter().any(room) {
            return refuse(format!(
                "the ClusterIssuer's policy allows namespace {namespace} no more Certificates (maxCertificates): delete one, or ask the \
                 issuer's owner"
            ));
        }
    }
    None
}

/// Whether `selector` selects `labels` (all of matchLabels and matchExpressions). An unknown operator selects nothing.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let by_label = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v));
    by_label
        && selector.match_expressions.iter().flatten().all(|e| {
            let value = labels.get(&e.key);
            let listed = || value.is_some_and(|v| e.values.iter().flatten().any(|x| x == v));
            match e.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// An address is allowed by itself or by its network, never by a suffix.
fn allows(rule: &PolicyRule, name: &str) -> bool {
    if let Ok(address) = name.parse::<IpAddr>() {
        let holds = |allowed: &String| {
            allowed.parse() == Ok(address) || is_in_network(address, allowed) == Some(true)
        };
        return rule.allowed_names.is_empty() || rule.allowed_names.iter().any(holds);
    }
    rule.allowed_names.is_empty()
        || rule.allowed_names.iter().any(|allowed| {
            allowed == name
                || allowed
                    .strip_prefix('*')
                    .is_some_and(|suffix| name.ends_with(suffix) && name.len() > suffix.len())
        })
}

/// Whether a network such as `192.0.2.0/24` holds an address; `None` when it is none.
fn is_in_network(address: IpAddr, network: &str) -> Option<bool> {
    let (base, length) = network.split_once('/')?;
    let (base, length): (IpAddr, u32) = (base.parse().ok()?, length.parse().ok()?);
    let (base, address, width) = match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => (
            u128::from(base.to_bits()),
            u128::from(address.to_bits()),
            32,
        ),
        (IpAddr::V6(base), IpAddr::V6(address)) => (base.to_bits(), address.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return Some(false),
    };
    let free = u32::checked_sub(width, length)?;
    // All bits are free in a network of every address.
    let prefix = |bits: u128| bits.checked_shr(free).unwrap_or(0);
    Some(prefix(base) == prefix(address))
}

/// Who holds a host name: an Ingress or a Certificate of some namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The host name, exact.
    pub host: &'a str,
    /// When a Certificate that holds it was created; `None` for an Ingress.
    pub certificate_since: Option<Timestamp>,
    /// Whether the namespace shares its names.
    pub sharing: Sharing,
}

/// Whether a namespace shares its names, by the annotation `evercert.dev/name-sharing: allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// It does.
    Allowed,
    /// It does not say so.
    Refused,
    /// The operator may not read it.
    Unread,
}

impl Sharing {
    /// As the annotation says.
    #[must_use]
    pub fn of(annotation: Option<&String>) -> Self {
        match annotation.map(String::as_str) {
            Some("allow") => Self::Allowed,
            Some(_) | None => Self::Refused,
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Allowed | Self::Refused => {
                "let that namespace share its names with the annotation evercert.dev/name-sharing: allow"
            }
            Self::Unread => {
                "have the operator started with --name-sharing=allow (value nameSharing): it is confined to some namespaces, and may \
                 not read what is annotated on them"
            }
        }
    }
}

/// Whether another namespace holds one of `names`: an Ingress there, or a Certificate older than `created_at`.
#[must_use]
pub fn check_holders<'a>(
    holders: impl IntoIterator<Item = Holder<'a>>,
    namespace: &str,
    created_at: Timestamp,
    names: &[String],
) -> Option<Refusal> {
    holders
        .into_iter()
        .find(|h| {
            h.namespace != namespace
                && h.sharing != Sharing::Allowed
                && h.certificate_since
                    .is_none_or(|since| (since, h.namespace) < (created_at, namespace))
                && names.iter().any(|n| n == h.host)
        })
        .map(|h| Refusal {
            reason: Reason::NameHeldElsewhere,
            message: format!(
                "{} is held by {} in namespace {}: remove it there, or {}",
                h.host,
                if h.certificate_since.is_some() {
                    "an older Certificate"
                } else {
                    "an Ingress"
                },
                h.namespace,
                h.sharing.remedy()
            ),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &[(&str, &str)]) -> BTreeMap<String, String> {
        text.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn rule(team: Option<&str>, names: &[&str], most: Option<u32>) -> PolicyRule {
        PolicyRule {
            namespace_selector: team.map(|t| LabelSelector {
                match_labels: Some(labels(&[("team", t)])),
                ..Default::default()
            }),
            allowed_names: names.iter().map(|n| (*n).to_owned()).collect(),
            max_certificates: most,
        }
    }

    #[test]
    fn address_is_allowed_by_itself_or_its_network_and_never_by_a_suffix() {
        let allowed =
            |names: &[&str], name: &str| check(&[rule(None, names, None)], name, 0).is_none();
        assert!(allowed(&[], "198.18.0.2"));
        assert!(allowed(&["198.18.0.2"], "198.18.0.2"));
        assert!(allowed(&["198.18.0.0/15"], "198.19.255.255"));
        assert!(allowed(&["0.0.0.0/0"], "198.18.0.2"));
        assert!(allowed(&["2001:db8::/32"], "2001:db8:1::1"));
        assert!(
            allowed(&["2001:DB8:0::1"], "2001:db8::1"),
            "however it is written"
        );
        for names in [
            "*.18.0.2",
            "198.18.0.3",
            "198.18.0.0/31",
            "::/0",
            "198.18.0.2/33",
            "a/8",
        ] {
            assert!(!allowed(&[names], "198.18.0.2"), "{names}");
        }
        assert!(!allowed(&["2001:db8::/32"], "2001:db9::1"));
    }

    fn check(policy: &[PolicyRule], name: &str, others: usize) -> Option<String> {
        check_policy(
            policy,
            "shop",
            &labels(&[("team", "a")]),
            &[name.to_owned()],
            others,
        )
        .map(|r| r.message)
    }

    #[test]
    fn no_rule_allows_every_namespace_every_name() {
        assert_eq!(check(&[], "x.y", 99), None);
    }

    #[test]
    fn a_name_must_match_a_rule_that_selects_its_namespace() {
        let policy = [
            rule(Some("b"), &["x.y"], None),
            rule(Some("a"), &["*.shop.example", "shop.example"], None),
        ];
        assert_eq!(check(&policy, "shop.example", 0), None);
        assert_eq!(check(&policy, "a.b.shop.example", 0), None);
        assert!(check(&policy, "x.y", 0).is_some_and(|m| m.contains("does not allow x.y")));
        assert!(check(&policy, "evilshop.example", 0).is_some());
        assert!(check(&policy, ".shop.example", 0).is_some());
    }

    #[test]
    fn a_namespace_that_no_rule_selects_is_told_so() {
        assert!(
            check(&[rule(Some("b"), &[], None)], "x.y", 0)
                .is_some_and(|m| m.contains("no rule for namespace shop"))
        );
    }

    #[test]
    fn the_number_of_certificates_is_bounded() {
        assert_eq!(check(&[rule(None, &[], Some(2))], "x.y", 1), None);
        assert!(
            check(&[rule(None, &[], Some(2))], "x.y", 2)
                .is_some_and(|m| m.contains("maxCertificates"))
        );
    }

    #[test]
    fn an_ingress_or_an_older_certificate_of_another_namespace_holds_a_name() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let holder = |namespace, since, sharing| Holder {
            namespace,
            host: "x.y",
            certificate_since: since,
            sharing,
        };
        let check = |h| check_holders([h], "mine", at(10), &["x.y".to_owned()]).is_some();
        let (refused, allow) = (Sharing::of(None), "allow".to_owned());
        assert!(check(holder("other", None, refused)));
        assert!(check(holder("other", Some(at(5)), refused)));
        assert!(!check(holder("other", Some(at(15)), refused)));
        assert!(!check(holder("other", None, Sharing::of(Some(&allow)))));
        assert!(!check(holder("mine", None, refused)));
        // What cannot be read is no permission, and an annotation no remedy.
        let unread = [holder("other", None, Sharing::Unread)];
        let refusal = check_holders(unread, "mine", at(10), &["x.y".to_owned()]).unwrap();
        assert!(
            refusal.message.contains("--name-sharing=allow")
                && !refusal.message.contains("evercert.dev/name-sharing"),
            "{}",
            refusal.message
        );
    }
}
