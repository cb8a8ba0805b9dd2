//! Which of the issuers that a spec names is to sign: the first that has not refused for good.

use evercert_api::Reason;
use evercert_api::certificate::RefusalStatus;
use jiff::Timestamp;

use crate::caa::CaaAnswer;
use crate::fault::{FaultClass, LONGEST_WAIT, Place, classify};
use crate::need::whole;
use crate::observe::{Gate, IssuerObservation};
use crate::plan::{Failure, later};
use crate::sentence::quote;

/// An issuer that the spec names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatory {
    /// `Kind/name`.
    pub id: String,
    /// What is known of it.
    pub issuer: IssuerObservation,
    /// The fingerprint of spec and issuer.
    pub fingerprint: String,
    /// Why its policy does not let the Certificate have its names.
    pub policy: Option<String>,
    /// What CAA records say of its CA, where they were looked up.
    pub caa: Option<CaaAnswer>,
}

/// What was chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Its place in the spec, from 0.
    pub at: usize,
    /// Why it is not the first.
    pub because: Option<String>,
    /// Why others that stand before it, or all but the first, are not tried.
    pub passed_over: Option<String>,
    /// The first refused the order, and nobody else can sign: it is not asked again before.
    pub held: Option<Gate>,
}

/// Whether a failed attempt makes the issuer give way to the next one that the spec names. It does where this CA, and perhaps no
/// other, will not sign for good; it does not where the next one would say the same, where a person has only to act at this CA, or
/// where waiting helps (RFC 8555 §6.7):
///
/// | what the CA said | gives way | why |
/// |---|---|---|
/// | `rejectedIdentifier`, `unsupportedIdentifier` | yes | its own list of names, and kinds of names: another CA's differ. A name that no CA takes costs each of them a newOrder that makes no order, once a day |
/// | `unauthorized`, `externalAccountRequired` of an order | yes | it does not serve this account, which the issuer has looked up again meanwhile |
/// | `badPublicKey`, `badSignatureAlgorithm` of an order | yes | it is about the account's key, which the next issuer has another one of |
/// | no HTTP-01 challenge for a name, answers that break the protocol | yes | its own ways |
/// | `malformed`, `badCSR` | no | the name or the key that the spec asks for: the next one reads the same request |
/// | `invalidProfile` | no | the spec names the profile; a person writes another one, or lets go of it by `Preferred` |
/// | a paused name | no | its way has been broken for long, for any CA; a page of this CA's ends it |
/// | `userActionRequired` | no | a page of this CA's ends it, and the issuer says so |
/// | `accountDoesNotExist`, contacts | no | registered again with the same key, or the issuer's to mend |
/// | limits, validation, outages, all else | no | it passes, or the names' own way is broken |
///
/// A `compound` problem gives way if none of its permanent parts stays: with one name that no CA takes, no CA takes the order.
#[must_use]
pub fn gives_way(failure: &Failure) -> bool {
    let fault = &failure.fault;
    if fault.is_paused() || fault.wants_a_person() {
        return false;
    }
    match (&fault.problem, fault.class) {
        (Some(problem), FaultClass::Permanent | FaultClass::Account) => {
            if problem.kind != "compound" {
                return is_ca_s_own(&problem.kind);
            }
            let mut lasting = problem
                .subproblems
                .iter()
                .filter(|part| {
                    classify(&part.kind, fault.http_status, Place::NewOrder)
                        == FaultClass::Permanent
                })
                .peekable();
            lasting.peek().is_some() && lasting.all(|part| is_ca_s_own(&part.kind))
        }
        // What is wrong here, such as a key that makes no request, is none of these.
        (None, FaultClass::Permanent) => {
            [Reason::Rejected, Reason::BadAnswer].contains(&failure.reason)
        }
        (
            _,
            FaultClass::RateLimited
            | FaultClass::Validation
            | FaultClass::Unavailable
            | FaultClass::Account
            | FaultClass::Transient
            | FaultClass::Gone
            | FaultClass::NotReady,
        ) => false,
    }
}

/// Whether a problem of this type is between the CA and its account, or by its own rules.
fn is_ca_s_own(kind: &str) -> bool {
    [
        "badPublicKey",
        "badSignatureAlgorithm",
        "externalAccountRequired",
        "rejectedIdentifier",
        "unauthorized",
        "unsupportedIdentifier",
    ]
    .contains(&kind)
}

/// Why this issuer cannot sign for good: the CA refused its account, or the Certificate's order. A refusal of an order counts for
/// a day, until spec or issuer change, and until another issuer has signed, at `last_issue`: at the next renewal it is asked again.
#[must_use]
pub fn find_refusal(
    signatory: &Signatory,
    refusals: &[RefusalStatus],
    last_issue: Option<Timestamp>,
    now: Timestamp,
) -> Option<String> {
    if let IssuerObservation::NotReady {
        reason, message, ..
    } = &signatory.issuer
    {
        let for_good = [
            Reason::AccountDeactivated,
            Reason::AccountRefused,
            Reason::EABRejected,
            Reason::ExternalAccountRequired,
        ];
        if for_good.iter().any(|refused| refused.as_str() == reason) {
            return Some(format!("is not ready ({reason}): {}", quote(message)));
        }
    }
    find_refused_order(signatory, refusals, last_issue, now).map(build_refusal)
}

fn find_refused_order<'a>(
    signatory: &Signatory,
    refusals: &'a [RefusalStatus],
    last_issue: Option<Timestamp>,
    now: Timestamp,
) -> Option<&'a RefusalStatus> {
    refusals.iter().find(|refusal| {
        refusal.issuer == signatory.id
            && refusal.fingerprint == signatory.fingerprint
            && now.duration_since(refusal.time.0) < LONGEST_WAIT
            && last_issue.is_none_or(|issue| refusal.time.0 > issue)
    })
}

/// A refusal, as people read it.
#[must_use]
pub fn build_refusal(refusal: &RefusalStatus) -> String {
    let at = whole(refusal.time.0);
    format!("refused at {at}: {}", quote(&refusal.message))
}

/// The first that has not refused for good; one after the first only where it is ready, its policy lets the Certificate have its
/// names and no CAA record forbids it. An account that is missing or was refused, for an external account that is not bound say,
/// is one that is not ready. Where there is none, the first: its own state says what is waited for. An issuer that is down has not
/// refused.
#[must_use]
pub fn choose_issuer(
    all: &[Signatory],
    refusals: &[RefusalStatus],
    last_issue: Option<Timestamp>,
    now: Timestamp,
) -> Choice {
    let refusal = |signatory| find_refusal(signatory, refusals, last_issue, now);
    let Some((head, rest)) = all.split_first().filter(|(_, rest)| !rest.is_empty()) else {
        return Choice::default();
    };
    let Some(why) = refusal(head) else {
        return Choice::default();
    };
    let mut reasons = Vec::new();
    for (at, signatory) in (1..).zip(rest) {
        match find_hindrance(signatory, refusal(signatory)) {
            None => {
                return Choice {
                    at,
                    because: Some(format!("{} {why}", head.id)),
                    passed_over: join(&reasons),
                    held: None,
                };
            }
            Some(why) => reasons.push(format!("{} is not tried: {why}", signatory.id)),
        }
    }
    let refused = find_refused_order(head, refusals, last_issue, now).map(|refusal| Gate {
        until: later(refusal.time.0, LONGEST_WAIT),
        reason: Reason::BackingOff,
        message: format!("{} {}", head.id, build_refusal(refusal)),
    });
    Choice {
        passed_over: join(&reasons),
        held: refused,
        ..Choice::default()
    }
}

fn join(reasons: &[String]) -> Option<String> {
    (!reasons.is_empty()).then(|| reasons.join(". "))
}

fn find_hindrance(signatory: &Signatory, refusal: Option<String>) -> Option<String> {
    match &signatory.issuer {
        IssuerObservation::Missing => return Some("it does not exist".to_owned()),
        IssuerObservation::NotReady {
            reason, message, ..
        } => {
            return Some(format!("it is not ready ({reason}): {}", quote(message)));
        }
        IssuerObservation::Ready(_) => {}
    }
    if let Some(why) = refusal {
        return Some(format!("it has {why}"));
    }
    if let Some(why) = &signatory.policy {
        return Some(why.clone());
    }
    match &signatory.caa {
        Some(CaaAnswer::Forbidden(why)) => Some(why.clone()),
        Some(CaaAnswer::Allowed | CaaAnswer::Unknown(_)) | None => None,
    }
}

#[cfg(test)]
mod tests;
