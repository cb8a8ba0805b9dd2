//! What went wrong at a CA, classed by what to do next (design §6), never by text save what the CA says nowhere else.

use jiff::{SignedDuration, Timestamp};

/// What to do next after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultClass {
    /// The CA limits the rate: wait until the instant it names.
    RateLimited,
    /// The CA could not validate a name: mend the way to it; the next attempt follows the validation schedule.
    Validation,
    /// The CA does not answer, or not as a CA: counts against the directory, not against the certificate.
    Unavailable,
    /// The account is unknown, refused, or needs a person's action: the Issuer says what.
    Account,
    /// Nothing helps but a change of spec, issuer or name.
    Permanent,
    /// Unknown or passing: try again with a backoff.
    Transient,
    /// The order is gone at the CA (404, expired, malformed on a read).
    Gone,
    /// The order is not ready to be finalized: read it again.
    NotReady,
}

/// A fault with all that the CA said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What to do next.
    pub class: FaultClass,
    /// The problem document, where there was one (RFC 7807, RFC 8555 §6.7).
    pub problem: Option<Problem>,
    /// The HTTP status, where there was an answer.
    pub http_status: Option<u16>,
    /// The instant before which the CA wants no further request (`Retry-After`).
    pub retry_after: Option<Timestamp>,
    /// A page that a person should open (`instance`, or Link `terms-of-service`).
    pub help_url: Option<String>,
    /// Whether it is certain that nothing came of the request at the CA: it never got there, had no nonce, or was refused for it.
    pub unsent: bool,
    /// What was attempted and what happened, one sentence, never with a key or a token in it.
    pub detail: String,
}

impl Fault {
    /// Whether it counts against the directory, and not against the certificate: the CA does not answer as one, or takes no
    /// requests for now, whatever they are for (a limit at newNonce).
    #[must_use]
    pub fn is_directorys(&self) -> bool {
        match self.class {
            FaultClass::Unavailable => true,
            FaultClass::RateLimited => self.unsent,
            FaultClass::Validation
            | FaultClass::Account
            | FaultClass::Permanent
            | FaultClass::Transient
            | FaultClass::Gone
            | FaultClass::NotReady => false,
        }
    }

    /// Whether the CA wants a person to act first, such as agreeing to new terms (RFC 8555 §7.3.3).
    #[must_use]
    pub fn wants_a_person(&self) -> bool {
        self.problem
            .as_ref()
            .is_some_and(|p| p.kind == "userActionRequired")
    }

    /// Whether the CA has no account for the key that signed the request (RFC 8555 §7.3.1).
    #[must_use]
    pub fn is_unknown_account(&self) -> bool {
        self.problem
            .as_ref()
            .is_some_and(|p| p.kind == "accountDoesNotExist")
    }

    /// Whether the CA has paused a name until a person opens a page.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        let detail = self.problem.as_ref().map(|p| p.detail.as_str());
        let page = self.help_url.as_deref();
        detail
            .into_iter()
            .chain(page)
            .any(|text| unpause_url(text).is_some())
    }
}

/// A problem document, and the names it blames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The type without `urn:ietf:params:acme:error:`, such as `unauthorized`.
    pub kind: String,
    /// The CA's own words.
    pub detail: String,
    /// One entry for each name that the CA blames.
    pub subproblems: Vec<Subproblem>,
}

/// A problem of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subproblem {
    /// The name.
    pub identifier: Option<String>,
    /// The type without its prefix.
    pub kind: String,
    /// The CA's own words.
    pub detail: String,
}

/// Where in the protocol a problem was met; the same type means different things in different places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Reading the directory.
    Directory,
    /// newAccount, and reading or changing an account.
    Account,
    /// newOrder.
    NewOrder,
    /// Reading an order, an authorization or a certificate.
    Read,
    /// Telling the CA that a challenge is ready, or the problem inside an invalid challenge.
    Challenge,
    /// Finalize.
    Finalize,
    /// Revoking a certificate.
    Revoke,
}

/// Classes a whole problem document met at `place` (RFC 8555 §6.7, §6.7.1). A `compound` problem is as bad as the worst of its
/// subproblems. The words are read only for what a CA says nowhere else: a paused name (a person must open a page; probed
/// again like anything permanent), and a rate limit that is the CA's own load, not our quota. Total.
#[must_use]
pub fn classify_problem(problem: &Problem, http_status: Option<u16>, place: Place) -> FaultClass {
    if unpause_url(&problem.detail).is_some() {
        return FaultClass::Permanent;
    }
    match problem.kind.as_str() {
        "rateLimited" if problem.detail.contains("Service busy") => FaultClass::Unavailable,
        "compound" => problem
            .subproblems
            .iter()
            .map(|s| classify(&s.kind, http_status, place))
            .max_by_key(|class| severity(*class))
            .unwrap_or_else(|| classify_status(http_status, place)),
        kind => classify(kind, http_status, place),
    }
}

/// How much a class says about what must happen first, for a problem that is several.
pub(crate) fn severity(class: FaultClass) -> u8 {
    match class {
        FaultClass::Permanent => 7,
        FaultClass::Account => 6,
        FaultClass::RateLimited => 5,
        FaultClass::Validation => 4,
        FaultClass::Unavailable => 3,
        FaultClass::Gone => 2,
        FaultClass::Transient => 1,
        FaultClass::NotReady => 0,
    }
}

/// The instant in the detail of a `rateLimited` problem, "… retry after 2026-08-05 10:00:00 UTC …", which some answers give
/// without a `Retry-After`.
#[must_use]
pub fn rate_limit_instant(problem: &Problem) -> Option<Timestamp> {
    if problem.kind != "rateLimited" {
        return None;
    }
    let (_, after) = problem.detail.split_once("retry after ")?;
    let (text, _) = after.split_once(" UTC").or_else(|| after.split_once('Z'))?;
    format!("{}Z", text.replace(' ', "T")).parse().ok()
}

/// The page that a person must open before the CA issues for a paused name again, when `detail` names one.
#[must_use]
pub fn unpause_url(detail: &str) -> Option<&str> {
    detail
        .split_whitespace()
        .find(|word| word.starts_with("https://") && word.contains("/unpause"))
}

/// Classes a problem of type `kind` (without its URN prefix) met at `place` (acme.md §8). Total: unknown types are
/// [`FaultClass::Transient`], or [`FaultClass::Unavailable`] for a status of 500 and above.
#[must_use]
pub fn classify(kind: &str, http_status: Option<u16>, place: Place) -> FaultClass {
    match kind {
        "rateLimited" => FaultClass::RateLimited,
        "connection" | "dns" | "tls" | "incorrectResponse" | "caa" => FaultClass::Validation,
        "unauthorized" => match place {
            Place::Challenge => FaultClass::Validation,
            Place::Read => FaultClass::Gone,
            // The certificate is another account's.
            Place::Revoke => FaultClass::Permanent,
            Place::Directory | Place::Account | Place::NewOrder | Place::Finalize => {
                FaultClass::Account
            }
        },
        "accountDoesNotExist"
        | "externalAccountRequired"
        | "invalidContact"
        | "unsupportedContact"
        | "userActionRequired" => FaultClass::Account,
        "malformed" => match place {
            Place::Read => FaultClass::Gone,
            Place::Directory
            | Place::Account
            | Place::NewOrder
            | Place::Challenge
            | Place::Revoke
            | Place::Finalize => FaultClass::Permanent,
        },
        "orderNotReady" => FaultClass::NotReady,
        // The request is repeated without `replaces`.
        "alreadyReplaced" => FaultClass::Transient,
        "alreadyRevoked"
        | "badCSR"
        | "badPublicKey"
        | "badSignatureAlgorithm"
        | "badRevocationReason"
        | "invalidProfile"
        | "rejectedIdentifier"
        | "unsupportedIdentifier" => FaultClass::Permanent,
        // With badNonce, several fresh nonces in a row were refused.
        "serverInternal" | "badNonce" => FaultClass::Unavailable,
        _ => classify_status(http_status, place),
    }
}

/// Classes an answer without a usable problem document by its status (load balancers answer with HTML).
#[must_use]
pub fn classify_status(http_status: Option<u16>, place: Place) -> FaultClass {
    match http_status {
        None => FaultClass::Unavailable,
        Some(429) => FaultClass::RateLimited,
        Some(s) if s >= 500 => FaultClass::Unavailable,
        Some(404 | 410) if place == Place::Read => FaultClass::Gone,
        Some(404) if place == Place::Directory => FaultClass::Permanent,
        Some(_) => FaultClass::Transient,
    }
}

/// The longest time that a single `Retry-After` is believed for; after it the CA is asked again.
pub const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: [Place; 7] = [
        Place::Directory,
        Place::Account,
        Place::NewOrder,
        Place::Read,
        Place::Challenge,
        Place::Finalize,
        Place::Revoke,
    ];

    fn problem(kind: &str, detail: &str, subproblems: &[&str]) -> Problem {
        let sub = |kind: &&str| Subproblem {
            identifier: Some("a.example".into()),
            kind: (*kind).into(),
            detail: String::new(),
        };
        Problem {
            kind: kind.into(),
            detail: detail.into(),
            subproblems: subproblems.iter().map(sub).collect(),
        }
    }

    #[test]
    fn types_that_mean_the_same_everywhere_are_classed_the_same_everywhere() {
        use FaultClass::{
            Account, NotReady, Permanent, RateLimited, Transient, Unavailable, Validation,
        };
        let table = [
            ("accountDoesNotExist", Account),
            ("alreadyReplaced", Transient),
            ("alreadyRevoked", Permanent),
            ("badCSR", Permanent),
            ("badNonce", Unavailable),
            ("badPublicKey", Permanent),
            ("badRevocationReason", Permanent),
            ("badSignatureAlgorithm", Permanent),
            ("caa", Validation),
            ("connection", Validation),
            ("dns", Validation),
            ("externalAccountRequired", Account),
            ("incorrectResponse", Validation),
            ("invalidContact", Account),
            ("invalidProfile", Permanent),
            ("orderNotReady", NotReady),
            ("rateLimited", RateLimited),
            ("rejectedIdentifier", Permanent),
            ("serverInternal", Unavailable),
            ("tls", Validation),
            ("unsupportedContact", Account),
            ("unsupportedIdentifier", Permanent),
            ("userActionRequired", Account),
        ];
        for (kind, class) in table {
            for place in PLACES {
                assert_eq!(
                    classify(kind, Some(403), place),
                    class,
                    "{kind} at {place:?}"
                );
                assert_eq!(
                    classify_problem(&problem(kind, "words", &[]), Some(403), place),
                    class,
                    "{kind} at {place:?}"
                );
            }
        }
    }

    #[test]
    fn unauthorized_and_malformed_mean_what_the_place_makes_of_them() {
        use FaultClass::{Account, Gone, Permanent, Validation};
        let unauthorized = PLACES.map(|p| classify("unauthorized", Some(403), p));
        assert_eq!(
            unauthorized,
            [
                Account, Account, Account, Gone, Validation, Account, Permanent
            ]
        );
        let malformed = PLACES.map(|p| classify("malformed", Some(400), p));
        assert_eq!(
            malformed,
            [
                Permanent, Permanent, Permanent, Gone, Permanent, Permanent, Permanent
            ]
        );
    }

    #[test]
    fn unknown_types_and_bare_statuses_follow_the_status() {
        for kind in ["somethingNew", "", "about:blank"] {
            assert_eq!(
                classify(kind, Some(400), Place::NewOrder),
                FaultClass::Transient
            );
            assert_eq!(
                classify(kind, Some(500), Place::NewOrder),
                FaultClass::Unavailable
            );
            assert_eq!(classify(kind, Some(404), Place::Read), FaultClass::Gone);
        }
        assert_eq!(classify_status(None, Place::Read), FaultClass::Unavailable);
        assert_eq!(
            classify_status(Some(429), Place::NewOrder),
            FaultClass::RateLimited
        );
        assert_eq!(
            classify_status(Some(503), Place::Read),
            FaultClass::Unavailable
        );
        assert_eq!(classify_status(Some(410), Place::Read), FaultClass::Gone);
        assert_eq!(
            classify_status(Some(404), Place::Directory),
            FaultClass::Permanent
        );
        assert_eq!(
            classify_status(Some(404), Place::NewOrder),
            FaultClass::Transient
        );
    }

    #[test]
    fn compound_problem_is_as_bad_as_its_worst_part() {
        let class = |subs: &[&str]| {
            classify_problem(&problem("compound", "", subs), Some(400), Place::NewOrder)
        };
        assert_eq!(
            class(&["caa", "rejectedIdentifier", "dns"]),
            FaultClass::Permanent
        );
        assert_eq!(class(&["dns", "rateLimited"]), FaultClass::RateLimited);
        assert_eq!(class(&["serverInternal", "caa"]), FaultClass::Validation);
        assert_eq!(class(&[]), FaultClass::Transient);
    }

    #[test]
    fn paused_name_is_told_by_its_page_and_load_shedding_by_its_words() {
        let paused = "Your account is temporarily prevented from requesting certificates for a.example and possibly others. \
                      Please visit: https://portal.example/sfe/v1/unpause?jwt=abc";
        assert_eq!(
            unpause_url(paused),
            Some("https://portal.example/sfe/v1/unpause?jwt=abc")
        );
        assert_eq!(
            classify_problem(
                &problem("rateLimited", paused, &[]),
                Some(429),
                Place::NewOrder
            ),
            FaultClass::Permanent
        );
        let busy = problem("rateLimited", "Service busy; retry later.", &[]);
        assert_eq!(
            classify_problem(&busy, Some(429), Place::NewOrder),
            FaultClass::Unavailable
        );
        assert_eq!(unpause_url("see https://docs.example/limits"), None);
    }

    #[test]
    fn rate_limit_without_header_names_its_instant_in_words() {
        let words = "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, \
                     retry after 2026-08-05 10:11:12 UTC: see https://docs.example";
        let at = "2026-08-05T10:11:12Z".parse().ok();
        assert_eq!(rate_limit_instant(&problem("rateLimited", words, &[])), at);
        assert_eq!(
            rate_limit_instant(&problem(
                "rateLimited",
                "retry after 2026-08-05T10:11:12Z.",
                &[]
            )),
            at
        );
        assert_eq!(rate_limit_instant(&problem("malformed", words, &[])), None);
        assert_eq!(
            rate_limit_instant(&problem("rateLimited", "retry after lunch UTC", &[])),
            None
        );
        assert_eq!(
            rate_limit_instant(&problem("rateLimited", "too many", &[])),
            None
        );
    }
}
