//! What became of a step, merged onto the status.

use evercert_api::Reason;
use evercert_api::certificate::{
    AttemptOutcome, AttemptStatus, CertificateStatus, FailureStatus, OrderStatus, RefusalStatus,
    RenewalInfoStatus, whole_seconds,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::backoff::next_attempt;
use crate::choice::gives_way;
use crate::fault::FaultClass;
use crate::need::whole_up;
use crate::observe::Observed;
use crate::plan::Failure;

/// How many attempts the history holds.
const HISTORY: usize = 10;
/// The longest message of an attempt in the history, in characters.
const LONGEST_MESSAGE: usize = 1000;

/// What became of a step, as far as the status must know.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Nothing that the status records.
    None,
    /// An order was placed.
    Placed(OrderStatus),
    /// The order was given up, or its certificate was stored.
    Cleared(Ending),
    /// The attempt failed.
    Failed(Failure),
    /// The CA was asked when to renew.
    Polled(RenewalInfoStatus),
    /// A certificate was revoked; the sentence.
    Revoked(String),
}

/// How an attempt ended that did not fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// In which way.
    pub outcome: AttemptOutcome,
    /// The word.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
}

impl Ending {
    /// Its certificate was stored.
    #[must_use]
    pub fn issued(message: impl Into<String>) -> Self {
        Self {
            outcome: AttemptOutcome::Issued,
            reason: Reason::Issued,
            message: message.into(),
        }
    }

    /// It was given up.
    #[must_use]
    pub fn abandoned(message: impl Into<String>) -> Self {
        Self {
            outcome: AttemptOutcome::Abandoned,
            reason: Reason::OrderAbandoned,
            message: message.into(),
        }
    }
}

/// What a step was planned for, where it differs from what is observed when its outcome is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// What a person wanted: [`Observed::fingerprint`].
    fingerprint: String,
    /// The Ingresses that covered the names: [`Observed::ingresses`].
    ingresses: Option<String>,
    /// The issuer that was to sign.
    issuer: String,
    /// The URL of the order that was under way.
    order: Option<String>,
}

impl Basis {
    /// Of a step that is planned for `o`.
    #[must_use]
    pub fn of(o: &Observed) -> Self {
        Self {
            fingerprint: o.fingerprint(),
            ingresses: o.ingresses.clone(),
            issuer: o.issuer_id(),
            order: o.status.order.as_ref().map(|order| order.url.clone()),
        }
    }
}

/// Merges what a step did, which was planned for `o`, onto `status`. Idempotent, so that it can be merged again after a conflict.
pub fn apply_change(o: &Observed, status: &mut CertificateStatus, change: &Change, now: Timestamp) {
    merge(o, status, change, None, now);
}

/// Merges what a step did before `o` was observed. A failure is one of what was wanted then, and whatever a person has changed
/// since ends its wait; a refusal is that of the issuer that was asked; an order that was begun since, by another leader, stays.
pub fn apply_earlier_change(
    o: &Observed,
    status: &mut CertificateStatus,
    change: &Change,
    basis: &Basis,
    at: Timestamp,
) {
    let begun_since = status
        .order
        .take_if(|order| basis.order.as_ref() != Some(&order.url));
    merge(o, status, change, Some(basis), at);
    if begun_since.is_some() && !matches!(change, Change::Placed(_)) {
        status.order = begun_since;
    }
}

fn merge(
    o: &Observed,
    status: &mut CertificateStatus,
    change: &Change,
    basis: Option<&Basis>,
    now: Timestamp,
) {
    match change {
        Change::None => {}
        Change::Placed(order) => status.order = Some(order.clone()),
        Change::Cleared(Ending {
            outcome,
            reason,
            message,
        }) => {
            status.order = None;
            note_attempt(status, *outcome, *reason, message, now);
        }
        Change::Polled(info) => status.renewal_info = Some(info.clone()),
        Change::Revoked(message) => {
            note_attempt(
                status,
                AttemptOutcome::Revoked,
                Reason::Revoked,
                message,
                now,
            );
        }
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
            let (reason, message) = (failure.reason, &failure.message);
            note_attempt(status, AttemptOutcome::Failed, reason, message, now);
            status.order = None;
            let now_planned;
            let basis = if let Some(earlier) = basis {
                earlier
            } else {
                now_planned = Basis::of(o);
                &now_planned
            };
            if !o.spec.alternate_issuer_refs.is_empty() && gives_way(failure) {
                let issuer = &basis.issuer;
                status.refusals.retain(|refusal| refusal.issuer != *issuer);
                status.refusals.push(RefusalStatus {
                    issuer: issuer.clone(),
                    time: whole_seconds(now),
                    message: failure.message.clone(),
                    fingerprint: basis.fingerprint.clone(),
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
                fingerprint: Some(basis.fingerprint.clone()),
                ingresses: basis.ingresses.clone(),
                permanent: failure.fault.class == FaultClass::Permanent,
            });
        }
    }
}

/// Puts an attempt that has ended at the head of the history, once.
fn note_attempt(
    status: &mut CertificateStatus,
    outcome: AttemptOutcome,
    reason: Reason,
    message: &str,
    now: Timestamp,
) {
    let attempt = AttemptStatus {
        time: whole_seconds(now),
        outcome,
        reason: reason.as_str().to_owned(),
        message: cut(message),
    };
    if status.history.first() != Some(&attempt) {
        status.history.insert(0, attempt);
        status.history.truncate(HISTORY);
    }
}

/// At most so much of a sentence as ten of them may take in an object.
fn cut(message: &str) -> String {
    match message.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message.to_owned(),
    }
}
