//! What a limit is counted by: an account, a registered domain, a set of names, a name of an account.

use std::net::IpAddr;

use evercert_api::children::stable_hash;

use super::{Bucket, Limit, Model, NewOrder};

/// One bucket of a CA, by the key under which the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) key: String,
    pub(super) limit: Limit,
}

/// What a CA counts certificates for `name` by: the registered domain by the public suffix list, private suffixes included; a
/// public suffix itself; an IPv4 address; an IPv6 network of 64 bits.
#[must_use]
pub fn registered_domain(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.to_string(),
        Ok(IpAddr::V6(address)) => {
            let network = u128::from(address) >> 64 << 64;
            format!("{}/64", std::net::Ipv6Addr::from(network))
        }
        Err(_) => {
            let name = name.trim_start_matches("*.");
            psl::domain_str(name).unwrap_or(name).to_owned()
        }
    }
}

fn short_hash(text: &str) -> String {
    format!("{:016x}", stable_hash(&[text]))
}

pub(super) fn of_orders(account: &str) -> Scope {
    Scope {
        key: format!("orders/{}", short_hash(account)),
        limit: Limit::Orders,
    }
}

pub(super) fn of_domain(domain: String) -> Scope {
    Scope {
        key: format!("domain/{domain}"),
        limit: Limit::RegisteredDomain(domain),
    }
}

/// The registered domains of `names`, each once.
pub(super) fn of_domains(names: &[String]) -> Vec<Scope> {
    let mut domains: Vec<String> = names.iter().map(|name| registered_domain(name)).collect();
    domains.sort_unstable();
    domains.dedup();
    domains.into_iter().map(of_domain).collect()
}

/// The exact set of `names`, whatever their order.
pub(super) fn of_name_set(names: &[String]) -> Scope {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    Scope {
        key: format!("set/{:016x}", stable_hash(&names)),
        limit: Limit::NameSet,
    }
}

pub(super) fn of_failures(account: &str, name: &str) -> Scope {
    Scope {
        key: format!("failed/{}/{name}", short_hash(account)),
        limit: Limit::Failures(name.to_owned()),
    }
}

pub(super) fn of_streak(account: &str, name: &str) -> Scope {
    Scope {
        key: format!("streak/{}/{name}", short_hash(account)),
        limit: Limit::Streak(name.to_owned()),
    }
}

/// Every scope that an order is looked up in; those with `true` take a token when it is placed.
pub(super) fn of_order(
    model: &Model,
    order: &NewOrder,
    same_set: bool,
    due: bool,
) -> Vec<(Scope, bool)> {
    let replaces = order.replaces && model.replacement_exempt;
    let mut scopes = Vec::new();
    if !(replaces || (same_set && model.same_set_exempt)) {
        scopes.push((of_orders(&order.account), true));
        scopes.extend(of_domains(&order.names).into_iter().map(|s| (s, true)));
    }
    if !(replaces || (due && model.due_renewal_exempt)) {
        scopes.push((of_name_set(&order.names), true));
    }
    for name in &order.names {
        scopes.push((of_failures(&order.account, name), false));
        scopes.push((of_streak(&order.account, name), false));
    }
    scopes
}

/// The bucket that the entry `key` is of.
pub(super) fn bucket<'a>(model: &'a Model, key: &str) -> Option<&'a Bucket> {
    match key.split_once('/')?.0 {
        "orders" => model.orders.as_ref(),
        "domain" => model.domain.as_ref(),
        "set" => model.name_set.as_ref(),
        "failed" => model.failures.as_ref(),
        "streak" => model.streak.as_ref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registered_domain_is_told_by_the_public_suffix_list() {
        let table = [
            ("www.example.com", "example.com"),
            ("a.b.example.co.uk", "example.co.uk"),
            ("shop.user.github.io", "user.github.io"),
            ("github.io", "github.io"),
            ("*.example.com", "example.com"),
            ("a.b.site.test", "site.test"),
            ("198.18.3.4", "198.18.3.4"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ];
        for (name, domain) in table {
            assert_eq!(registered_domain(name), domain, "{name}");
        }
    }

    #[test]
    fn a_set_of_names_is_the_same_in_every_order() {
        let set = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            of_name_set(&names).key
        };
        assert_eq!(
            set(&["a.example", "b.example"]),
            set(&["b.example", "a.example", "b.example"])
        );
        assert_ne!(set(&["a.example", "b.example"]), set(&["a.example"]));
    }
}
