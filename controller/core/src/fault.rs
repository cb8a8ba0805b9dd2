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
    /// What was attempted and what happened, one sentence, never with a key or a token in it.
    pub detail: String,
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
fn severity(class: FaultClass) -> u8 {
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
        "connection" | "dns" | "tls" | "incorrectResponse" => FaultClass::Validation,
        "unauthorized" => match place {
            Place::Challenge => FaultClass::Validation,
            Place::Read => FaultClass::Gone,
            Place::Directory | Place::Account | Place::NewOrder | Place::Finalize => {
                FaultClass::Account
            }
        },
        "accountDoesNotExist"
        | "externalAccountRequired"
        | "invalidContact"
        | "unsupportedContact"
        | "userActionRequired" => FaultClass::Account,
        "caa" => FaultClass::Validation,
        "malformed" => match place {
            Place::Read => FaultClass::Gone,
            Place::Directory
            | Place::Account
            | Place::NewOrder
            | Place::Challenge
            | Place::Finalize => FaultClass::Permanent,
        },
        "orderNotReady" => FaultClass::NotReady,
        // The request is repeated without `replaces`, or with a fresh nonce.
        "alreadyReplaced" | "badNonce" => FaultClass::Transient,
        "alreadyRevoked"
        | "badCSR"
        | "badPublicKey"
        | "badSignatureAlgorithm"
        | "badRevocationReason"
        | "invalidProfile"
        | "rejectedIdentifier"
        | "unsupportedIdentifier" => FaultClass::Permanent,
        "serverInternal" => FaultClass::Unavailable,
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
