//! What a pass reports: the status after it, computed from what was observed, planned and done.

use evercert_api::Reason;
use evercert_api::certificate::{
    CertificateStatus, FailureStatus, OrderStatus, RefusalStatus, whole_seconds,
};
use evercert_api::condition::{
    self, Claim, FALLBACK_IN_USE, ISSUING, PAUSED, RATE_LIMITED, READY, RENEW_BEFORE_CLAMPED,
    STALLED,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::backoff::next_attempt;
use crate::fault::FaultClass;
use crate::need::{find_need, whole, whole_up};
use crate::observe::{CHECKING_ACCOUNT, IssuerObservation, Observed, SecretObservation};
use crate::plan::{Failure, Plan, State};
use crate::renewal::plan_renewal_after;

/// What became of a step, as far as the status must know.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Nothing that the status records.
    None,
    /// An order was placed.
    Placed(OrderStatus),
    /// The order was given up, or its certificate was stored.
    Cleared,
    /// The attempt failed.
    Failed(Failure),
}

/// Merges what a step did onto `status`. Idempotent, so that it can be merged again after a conflict.
pub fn apply_change(o: &Observed, status: &mut CertificateStatus, change: &Change, now: Timestamp) {
    match change {
        Change::None => {}
        Change::Placed(order) => status.order = Some(order.clone()),
        Change::Cleared => status.order = None,
        // A write that went through unanswered: it is there already.
        Change::Failed(_)
            if o.status
                .last_failure
                .as_ref()
                .is_some_and(|f| f.time == whole_seconds(now)) =>
        {
            status.order = None;
        }
        Change::Failed(failure) => {
            let attempts = o.status.failed_attempts.unwrap_or(0).saturating_add(1);
            status.order = None;
            if failure.fault.class == FaultClass::Permanent
                && !o.spec.alternate_issuer_refs.is_empty()
            {
                let issuer = o.issuer_id();
                status.refusals.retain(|refusal| refusal.issuer != issuer);
                status.refusals.push(RefusalStatus {
                    issuer,
                    time: whole_seconds(now),
                    message: failure.message.clone(),
                    fingerprint: o.fingerprint(),
                });
            }
            status.failed_attempts = Some(attempts);
            status.next_attempt_time = Some(Time(whole_up(next_attempt(
                &o.key,
                attempts,
                &failure.fault,
                now,
            ))));
            status.last_failure = Some(FailureStatus {
                time: whole_seconds(now),
                reason: failure.reason.as_str().to_owned(),
                message: failure.message.clone(),
                fingerprint: Some(o.fingerprint()),
                permanent: failure.fault.class == FaultClass::Permanent,
            });
        }
    }
}

/// The status that says what was observed and is planned. `Ready` comes from the Secret, never from the row.
#[must_use]
pub fn build_status(o: &Observed, plan: &Plan, now: Timestamp) -> CertificateStatus {
    let mut status = o.status.clone();
    let need = find_need(o, now);
    let issued = o.issued();
    let good = issued.is_some() && need.as_ref().is_none_or(|n| n.still_good);

    status.not_before = issued.map(|c| whole_seconds(c.not_before));
    status.not_after = issued.map(|c| whole_seconds(c.not_after));
    status.serial_number = issued.map(|c| c.serial.clone());
    let renewal = issued.map(|c| plan_renewal_after(&o.spec, c, issued_at(o)));
    status.renewal_time = renewal.map(|r| whole_seconds(r.at));
    if good && need.is_none() {
        status.failed_attempts = None;
        status.next_attempt_time = None;
        status.last_failure = None;
        status.refusals.clear();
    }
    let claims = &mut status.conditions;
    let mut set = |claim: Claim| condition::set(claims, &claim, o.generation, now);
    set(build_ready(o, plan, now));
    let issuing = plan.say.state == State::Issuing;
    set(Claim {
        kind: ISSUING,
        status: issuing,
        reason: if issuing {
            plan.say.reason
        } else {
            Reason::Idle
        },
        message: if issuing {
            plan.say.message.clone()
        } else {
            "no order is under way".to_owned()
        },
    });
    let fallback =
        matches!(&o.secret, SecretObservation::Ours(s) if s.fallback && s.content.is_ok());
    set(Claim {
        kind: FALLBACK_IN_USE,
        status: fallback,
        reason: if fallback {
            Reason::FallbackInPlace
        } else {
            Reason::Idle
        },
        message: match (&o.status.last_failure, fallback) {
            (Some(failure), true) => format!(
                "a self-signed certificate stands in, since {}",
                failure.message
            ),
            (None, true) => format!("a self-signed certificate stands in: {}", plan.say.message),
            (_, false) => "no fallback is in use".to_owned(),
        },
    });
    let failed_for_good = o
        .status
        .last_failure
        .as_ref()
        .filter(|f| f.permanent && plan.say.reason == Reason::BackingOff);
    let stalled = plan.say.state == State::Stalled
        || failed_for_good.is_some()
        || matches!(
            plan.say.reason,
            Reason::NameNotAllowed | Reason::NameHeldElsewhere | Reason::NoIngressClass
        )
        || is_for_a_person(&o.issuer);
    set(Claim {
        kind: STALLED,
        status: stalled,
        reason: if stalled {
            plan.say.reason
        } else {
            Reason::Idle
        },
        message: if stalled {
            plan.say.message.clone()
        } else {
            match plan.say.state {
                State::Blocked => "Ready says what is waited for".to_owned(),
                State::Idle | State::Issuing | State::Stalled => {
                    "no action of a person is needed".to_owned()
                }
            }
        },
    });
    match renewal.filter(|r| r.clamped) {
        Some(r) => set(Claim {
            kind: RENEW_BEFORE_CLAMPED,
            status: true,
            reason: Reason::Clamped,
            message: format!(
                "spec asks for a renewal earlier than two thirds of the lifetime before expiry: the certificate is renewed at {} instead",
                whole(r.at)
            ),
        }),
        None => condition::remove(claims, RENEW_BEFORE_CLAMPED),
    }
    for (kind, reason, holds) in [
        (RATE_LIMITED, Reason::RateLimited, is_rate_limited(o, plan)),
        (PAUSED, Reason::Paused, failed_for(o, plan, Reason::Paused)),
    ] {
        if holds {
            set_while(claims, o, kind, reason, &plan.say.message, now);
        } else {
            condition::remove(claims, kind);
        }
    }
    status
}

/// A condition that is there only while it holds.
fn set_while(
    claims: &mut Vec<Condition>,
    o: &Observed,
    kind: &'static str,
    reason: Reason,
    message: &str,
    now: Timestamp,
) {
    let claim = Claim {
        kind,
        status: true,
        reason,
        message: message.to_owned(),
    };
    condition::set(claims, &claim, o.generation, now);
}

/// Whether a limit of the CA is what is waited for: by the ledger, or since the CA refused the last attempt for it.
fn is_rate_limited(o: &Observed, plan: &Plan) -> bool {
    plan.say.reason == Reason::RateLimited || failed_for(o, plan, Reason::RateLimited)
}

/// Whether the last attempt failed for `reason`, and the next one is waited for.
fn failed_for(o: &Observed, plan: &Plan, reason: Reason) -> bool {
    let failure = o.status.last_failure.as_ref();
    plan.say.reason == Reason::BackingOff && failure.is_some_and(|f| f.reason == reason.as_str())
}

fn issued_at(o: &Observed) -> Option<Timestamp> {
    match &o.secret {
        SecretObservation::Ours(secret) => secret.marks.issued_at,
        SecretObservation::Missing
        | SecretObservation::WrongType(_)
        | SecretObservation::Foreign => None,
    }
}

/// `Ready`: the Secret holds an issued certificate that the spec asks for and that is valid now.
fn build_ready(o: &Observed, plan: &Plan, now: Timestamp) -> Claim {
    let claim = |status, reason, message| Claim {
        kind: READY,
        status,
        reason,
        message,
    };
    let need = find_need(o, now);
    if let Some(facts) = o.issued() {
        if now < facts.not_before {
            let message = format!(
                "the certificate is valid from {} on, later than this machine's clock: it is kept, and the clock should be checked",
                facts.not_before
            );
            return claim(false, Reason::NotYetValid, message);
        }
        match &need {
            None => {
                let note = o.chain_note.as_ref().map(|note| format!("; {note}"));
                return claim(
                    true,
                    Reason::Issued,
                    format!(
                        "the certificate is valid until {}{}",
                        whole(facts.not_after),
                        note.unwrap_or_default()
                    ),
                );
            }
            Some(n) if n.still_good => {
                return claim(
                    true,
                    n.reason,
                    format!("{}; {}", n.message, plan.say.message),
                );
            }
            Some(_) => {}
        }
    }
    match need {
        Some(n) if plan.say.state == State::Stalled || n.message == plan.say.message => {
            claim(false, plan.say.reason, plan.say.message.clone())
        }
        Some(n) => {
            let reason = match plan.say.state {
                State::Blocked if n.reason != Reason::FallbackInPlace => block_reason(o, plan),
                State::Blocked | State::Idle | State::Issuing | State::Stalled => n.reason,
            };
            claim(
                false,
                reason,
                format!("{}; {}", n.message, plan.say.message),
            )
        }
        None => claim(false, plan.say.reason, plan.say.message.clone()),
    }
}

/// Whether the issuer waits for a person, and not for its CA or for this process.
fn is_for_a_person(issuer: &IssuerObservation) -> bool {
    match issuer {
        IssuerObservation::NotReady { reason, .. } => {
            let passing = [Reason::CAUnavailable, Reason::RateLimited];
            let ours = ["Starting", "Changed", CHECKING_ACCOUNT];
            !passing.iter().any(|r| r.as_str() == reason) && !ours.contains(&reason.as_str())
        }
        IssuerObservation::Missing | IssuerObservation::Ready(_) => false,
    }
}

/// What keeps the next attempt from beginning; after a failure, that failure.
fn block_reason(o: &Observed, plan: &Plan) -> Reason {
    let failure = o
        .status
        .last_failure
        .as_ref()
        .filter(|_| plan.say.reason == Reason::BackingOff);
    failure
        .and_then(|f| Reason::ALL.iter().find(|r| r.as_str() == f.reason))
        .copied()
        .unwrap_or(plan.say.reason)
}

/// Whether `new` is worth a write now: it differs, and not only in sentences within two seconds of the last write; else the
/// instant at which it is.
pub fn plan_write(
    old: &CertificateStatus,
    new: &CertificateStatus,
    last_write: Option<Timestamp>,
    now: Timestamp,
) -> Result<bool, Timestamp> {
    if old == new {
        return Ok(false);
    }
    if !differ_only_in_words(old, new) {
        return Ok(true);
    }
    let quiet = SignedDuration::from_secs(2);
    match last_write.map(|at| at + quiet).filter(|at| *at > now) {
        Some(at) => Err(at),
        None => Ok(true),
    }
}

fn differ_only_in_words(old: &CertificateStatus, new: &CertificateStatus) -> bool {
    let wordless = |status: &CertificateStatus| {
        let mut status = status.clone();
        let mut conditions: Vec<(String, String, Option<i64>)> = status
            .conditions
            .drain(..)
            .map(|c| (c.type_, c.status, c.observed_generation))
            .collect();
        conditions.sort();
        (status, conditions)
    };
    wordless(old) == wordless(new)
}

#[cfg(test)]
mod tests;
