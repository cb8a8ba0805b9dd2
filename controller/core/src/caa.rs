//! Which CA may sign for a name, by its CAA records (RFC 8659, RFC 8657). Pure: finding the records is evercert-probe's.

use crate::sentence::quote;

/// One CAA record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaaRecord {
    /// Whether a CA that does not know the tag must refuse.
    pub critical: bool,
    /// Such as `issue`.
    pub tag: String,
    /// What the tag says.
    pub value: String,
}

/// Who would sign, and how it would be proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signing<'a> {
    /// The domains by which the CA recognizes itself; none: the CA does not say, and nothing is known.
    pub identities: &'a [String],
    /// The account's URL, where there is one yet.
    pub account: Option<&'a str>,
    /// The challenge, such as `http-01`.
    pub method: &'a str,
}

/// What the records of a name say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaaAnswer {
    /// The CA may sign.
    Allowed,
    /// It may not, and this is why.
    Forbidden(String),
    /// It is not known, and this is why: no reason to leave the CA alone, which looks for itself.
    Unknown(String),
}

/// An `issue` property (RFC 8659 §4.2).
struct Issue<'a> {
    domain: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

/// What the closest set of records says, `at` being the name that has it. For a name that is no wildcard: `issuewild` says
/// nothing about it.
#[must_use]
pub fn check_caa(at: &str, records: &[CaaRecord], signing: &Signing<'_>) -> CaaAnswer {
    let unknown = |r: &&CaaRecord| {
        let known = [
            "issue",
            "issuewild",
            "iodef",
            "contactemail",
            "contactphone",
            "issuemail",
            "issuevmc",
        ];
        r.critical && !known.iter().any(|tag| r.tag.eq_ignore_ascii_case(tag))
    };
    if let Some(record) = records.iter().find(unknown) {
        let why = format!(
            "the CAA records of {at} hold a critical property {:?} that no CA may pass over",
            quote(&record.tag)
        );
        return CaaAnswer::Forbidden(why);
    }
    let issues: Vec<&CaaRecord> = records
        .iter()
        .filter(|r| r.tag.eq_ignore_ascii_case("issue"))
        .collect();
    if issues.is_empty() {
        return CaaAnswer::Allowed;
    }
    if signing.identities.is_empty() {
        return CaaAnswer::Unknown(
            "the CA's directory does not say what CAA records name it by".to_owned(),
        );
    }
    let mut refusals: Vec<String> = Vec::new();
    for record in &issues {
        match check_issue(&record.value, signing) {
            Ok(()) => return CaaAnswer::Allowed,
            Err(Some(why)) => refusals.push(why),
            Err(None) => {}
        }
    }
    let why = refusals.first().cloned().unwrap_or_else(|| {
        let allowed: Vec<&str> = issues
            .iter()
            .filter_map(|r| parse_issue(&r.value).map(|i| i.domain))
            .filter(|domain| !domain.is_empty())
            .collect();
        if allowed.is_empty() {
            "no CA at all".to_owned()
        } else {
            format!("only {}", crate::sentence::list(&allowed))
        }
    });
    CaaAnswer::Forbidden(format!(
        "the CAA records of {at} allow {why}; add {:?} to allow this CA",
        format!(
            "0 issue \"{}\"",
            signing.identities.first().map_or("", String::as_str)
        )
    ))
}

/// Whether one property allows it; the inner text says what of a property that names the CA does not fit.
fn check_issue(value: &str, signing: &Signing<'_>) -> Result<(), Option<String>> {
    let issue = parse_issue(value).ok_or(None)?;
    if !signing
        .identities
        .iter()
        .any(|own| own.eq_ignore_ascii_case(issue.domain))
    {
        return Err(None);
    }
    let of = |tag: &str| -> Vec<&str> {
        issue
            .parameters
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(tag))
            .map(|(_, value)| *value)
            .collect()
    };
    let domain = quote(issue.domain);
    // More than one of a kind is unsatisfiable (RFC 8657 §3).
    match of("accounturi").as_slice() {
        [] => {}
        [uri] if signing.account.is_none_or(|own| own == *uri) => {}
        [uri] => {
            let uri = quote(uri);
            return Err(Some(format!("{domain} only for the account {uri}")));
        }
        _ => {
            return Err(Some(format!(
                "{domain} for several accounts at once, which is none"
            )));
        }
    }
    match of("validationmethods").as_slice() {
        [] => Ok(()),
        [methods] if methods.split(',').any(|m| m.trim() == signing.method) => Ok(()),
        [methods] => Err(Some(format!("{domain} only by {}", quote(methods)))),
        _ => Err(Some(format!(
            "{domain} by several lists of methods at once, which is none"
        ))),
    }
}

/// `None` for a value that breaks the grammar, which allows nobody.
fn parse_issue(value: &str) -> Option<Issue<'_>> {
    let mut parts = value.split(';').map(str::trim);
    let domain = parts.next()?;
    if domain.contains(char::is_whitespace) {
        return None;
    }
    let parameters = parts
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=')?;
            Some((name.trim(), value.trim()))
        })
        .collect::<Option<_>>()?;
    Some(Issue { domain, parameters })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "https://ca.example/acct/1";

    fn answer(records: &[(&str, &str)]) -> CaaAnswer {
        let records: Vec<CaaRecord> = records
            .iter()
            .map(|(tag, value)| CaaRecord {
                critical: tag.starts_with('!'),
                tag: tag.trim_start_matches('!').to_owned(),
                value: (*value).to_owned(),
            })
            .collect();
        let identities = ["ca.example".to_owned(), "old.example".to_owned()];
        let signing = Signing {
            identities: &identities,
            account: Some(ACCOUNT),
            method: "http-01",
        };
        check_caa("example.org", &records, &signing)
    }

    fn forbids(records: &[(&str, &str)], words: &str) {
        match answer(records) {
            CaaAnswer::Forbidden(why) => assert!(why.contains(words), "{why}"),
            other @ (CaaAnswer::Allowed | CaaAnswer::Unknown(_)) => {
                panic!("{records:?}: {other:?}")
            }
        }
    }

    #[test]
    fn whoever_is_named_may_sign_and_nobody_else() {
        let allowed: &[&[(&str, &str)]] = &[
            &[],
            &[("iodef", "mailto:a@example.org")],
            &[("issuewild", ";")],
            &[("issue", "ca.example")],
            &[("ISSUE", " CA.Example ; a=b")],
            &[("issue", "other.example"), ("issue", "old.example")],
            &[("issue", ";"), ("issue", "ca.example")],
            &[("!issue", "ca.example"), ("unknown", "x")],
        ];
        for records in allowed {
            assert_eq!(answer(records), CaaAnswer::Allowed, "{records:?}");
        }
        forbids(&[("issue", ";")], "allow no CA at all");
        forbids(&[("issue", "")], "allow no CA at all");
        forbids(&[("issue", "other.example")], "allow only other.example");
        forbids(&[("issue", "ca.example extra")], "allow no CA at all");
        forbids(&[("issue", "ca.example; nonsense")], "allow no CA at all");
        forbids(&[("issue", "other.example")], r#"0 issue \"ca.example\""#);
        forbids(
            &[("issue", "ca.example"), ("!new", "x")],
            "critical property \"new\"",
        );
    }

    #[test]
    fn account_and_method_must_fit_where_they_are_named() {
        let uri = |uri: &str| format!("ca.example; accounturi={uri}");
        assert_eq!(answer(&[("issue", &uri(ACCOUNT))]), CaaAnswer::Allowed);
        forbids(
            &[("issue", &uri("https://ca.example/acct/2"))],
            "only for the account https://ca.example/acct/2",
        );
        let twice = format!("ca.example; accounturi={ACCOUNT}; accounturi={ACCOUNT}");
        forbids(&[("issue", &twice)], "several accounts");
        let methods = |list: &str| format!("ca.example;validationmethods={list}");
        assert_eq!(
            answer(&[("issue", &methods("dns-01,http-01"))]),
            CaaAnswer::Allowed
        );
        forbids(&[("issue", &methods("dns-01"))], "only by dns-01");
        assert_eq!(
            answer(&[("issue", &methods("dns-01")), ("issue", &uri(ACCOUNT))]),
            CaaAnswer::Allowed
        );
    }

    #[test]
    fn what_a_record_says_is_quoted_whole_and_not_at_any_length() {
        let long = "x".repeat(100_000);
        let table = [
            format!("ca.example; accounturi=https://a\n\u{7}b{long}"),
            format!("ca.example; validationmethods=dns\u{1b}[31m-01{long}"),
            format!("other\u{0}.example{long}"),
        ];
        for value in &table {
            for tag in ["issue".to_owned(), format!("!new\n{long}")] {
                let CaaAnswer::Forbidden(why) = answer(&[(&tag, value)]) else {
                    panic!("{tag}")
                };
                assert!(!why.contains(char::is_control), "{why:?}");
                assert!(why.len() < 3_000, "{}", why.len());
            }
        }
    }

    #[test]
    fn a_ca_that_does_not_say_its_name_is_not_ruled_out() {
        let signing = Signing {
            identities: &[],
            account: None,
            method: "http-01",
        };
        let record = CaaRecord {
            critical: false,
            tag: "issue".into(),
            value: "ca.example".into(),
        };
        assert!(matches!(
            check_caa("a.example", &[record], &signing),
            CaaAnswer::Unknown(_)
        ));
        assert_eq!(check_caa("a.example", &[], &signing), CaaAnswer::Allowed);
    }
}
