//! What the CA makes of CAA records (RFC 8659) with the parameters of RFC 8657, as the settings have them.

use std::collections::BTreeMap;

use super::problem::Problem;

/// Who asks for what, and how it is proved.
pub(super) struct Asked<'a> {
    /// The domains that the CA recognizes itself by.
    pub(super) identities: &'a [String],
    /// The account's URL.
    pub(super) account: &'a str,
    /// The challenge's type.
    pub(super) method: &'a str,
}

/// Whether the records of the closest ancestor of `name` that has any allow it (RFC 8659 §3). `records` are values of `issue` by
/// domain; no value at all forbids everybody.
pub(super) fn check(
    records: &BTreeMap<String, Vec<String>>,
    name: &str,
    asked: &Asked<'_>,
) -> Result<(), Problem> {
    let labels = name.match_indices('.').map(|(at, _)| at + 1);
    let mut climb = std::iter::once(0).chain(labels);
    let found = climb.find_map(|from| records.get_key_value(name.get(from..)?));
    match found {
        Some((domain, issue)) if !issue.iter().any(|value| allows(value, asked)) => {
            let detail = format!("CAA record for {domain} prevents issuance");
            Err(Problem::new(403, "caa", detail))
        }
        Some(_) | None => Ok(()),
    }
}

/// `domain; name=value; …`: each parameter that is known must fit.
fn allows(value: &str, asked: &Asked<'_>) -> bool {
    let mut parts = value.split(';').map(str::trim);
    let domain = parts.next().unwrap_or_default();
    let fits = |parameter: &str| match parameter.split_once('=') {
        Some(("accounturi", account)) => account.trim() == asked.account,
        Some(("validationmethods", methods)) => methods
            .split(',')
            .any(|method| method.trim() == asked.method),
        Some(_) | None => true,
    };
    asked.identities.iter().any(|identity| identity == domain) && parts.all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(records: &[(&str, &[&str])], name: &str) -> Result<(), Problem> {
        let records = records.iter().map(|(domain, values)| {
            let values = values.iter().map(|value| (*value).to_owned());
            ((*domain).to_owned(), values.collect())
        });
        let asked = Asked {
            identities: &["ca.test".into(), "other.test".into()],
            account: "https://ca.test/account/1",
            method: "http-01",
        };
        check(&records.collect(), name, &asked)
    }

    #[test]
    fn the_closest_ancestor_with_records_decides() {
        let forbids: &[&str] = &["elsewhere.test"];
        assert_eq!(checked(&[], "www.a.test"), Ok(()));
        assert_eq!(checked(&[("b.test", forbids)], "www.a.test"), Ok(()));
        let refused = checked(&[("a.test", forbids)], "www.a.test").unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("CAA record for a.test prevents issuance"),
            "{refused}"
        );
        assert_eq!(
            checked(
                &[("a.test", forbids), ("www.a.test", &["ca.test"])],
                "www.a.test"
            ),
            Ok(())
        );
        assert!(checked(&[("a.test", &[";"])], "a.test").is_err());
        assert!(checked(&[("a.test", &[])], "a.test").is_err());
        assert_eq!(
            checked(&[("a.test", &["elsewhere.test", "other.test"])], "a.test"),
            Ok(())
        );
    }

    #[test]
    fn account_and_method_must_fit_where_they_are_named() {
        let of = |value: &str| checked(&[("a.test", &[value])], "a.test").is_ok();
        assert!(of("ca.test; accounturi=https://ca.test/account/1"));
        assert!(!of("ca.test; accounturi=https://ca.test/account/2"));
        assert!(of("ca.test; validationmethods=dns-01,http-01"));
        assert!(!of("ca.test; validationmethods=dns-01"));
        assert!(of("ca.test; unknown=x"));
    }
}
