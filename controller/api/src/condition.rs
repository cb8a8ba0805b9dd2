//! Conditions: the transition time is kept unless the status changed, the generation is always there, the order is stable.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::reason::Reason;

/// Whether the TLS Secret holds an issued certificate that the spec asks for. Computed from the Secret.
pub const READY: &str = "Ready";
/// True while an order is under way or about to be placed.
pub const ISSUING: &str = "Issuing";
/// True while a fallback stands in for the certificate.
pub const FALLBACK_IN_USE: &str = "FallbackInUse";
/// True while nothing more happens until a person acts.
pub const STALLED: &str = "Stalled";
/// True while `renewBefore` is longer than two thirds of the certificate's lifetime, or shorter than a twentieth.
pub const RENEW_BEFORE_CLAMPED: &str = "RenewBeforeClamped";
/// There only while it is true: the next certificate comes from another profile than the one in place, or from none that is wanted.
pub const PROFILE_PENDING: &str = "ProfilePending";
/// There only while it is true: a certificate is to be revoked, and is not yet.
pub const REVOCATION_PENDING: &str = "RevocationPending";
/// There only while it is true: the CA's limits allow no order for these names now.
pub const RATE_LIMITED: &str = "RateLimited";
/// Whether the entry point really presents the certificate in the Secret; `Unknown` where that cannot be seen.
pub const SERVED: &str = "Served";
/// True while the CA issues nothing for a name until a person opens the page that the message names.
pub const PAUSED: &str = "Paused";

/// What a condition should say now; the transition time comes from what it said before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The condition's type, one of this module's constants.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// Why, as one word.
    pub reason: Reason,
    /// Why, as a sentence: cause, remedy, next attempt.
    pub message: String,
}

/// Sets `claim` among `conditions`: `lastTransitionTime` moves only when the status changes, and is cut to whole seconds, as
/// the API server stores it.
pub fn set(conditions: &mut Vec<Condition>, claim: &Claim, generation: i64, now: Timestamp) {
    let status = if claim.status { "True" } else { "False" };
    set_as(conditions, claim, status, generation, now);
}

/// The same with another `status` than the claim's: `Unknown`.
pub fn set_as(
    conditions: &mut Vec<Condition>,
    claim: &Claim,
    status: &str,
    generation: i64,
    now: Timestamp,
) {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let since = conditions
        .iter()
        .find(|c| c.type_ == claim.kind && c.status == status)
        .map_or(now, |c| c.last_transition_time.clone());
    let next = Condition {
        type_: claim.kind.to_owned(),
        status: status.to_owned(),
        reason: claim.reason.as_str().to_owned(),
        message: claim.message.clone(),
        observed_generation: Some(generation),
        last_transition_time: since,
    };
    match conditions.iter_mut().find(|c| c.type_ == claim.kind) {
        Some(place) => *place = next,
        None => conditions.push(next),
    }
}

/// Removes the condition of type `kind`, for those that exist only while they hold.
pub fn remove(conditions: &mut Vec<Condition>, kind: &str) {
    conditions.retain(|c| c.type_ != kind);
}

/// The condition of type `kind`, if it is there.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Whether the condition of type `kind` is there and `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|c| c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(status: bool, message: &str) -> Claim {
        Claim {
            kind: READY,
            status,
            reason: Reason::Issued,
            message: message.into(),
        }
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let mut conditions = Vec::new();
        set(&mut conditions, &claim(false, "a"), 1, at(10));
        set(&mut conditions, &claim(false, "b"), 2, at(20));
        assert_eq!(conditions[0].last_transition_time.0, at(10));
        assert_eq!(
            (
                conditions[0].message.as_str(),
                conditions[0].observed_generation
            ),
            ("b", Some(2))
        );
        set(&mut conditions, &claim(true, "c"), 2, at(30));
        assert_eq!(conditions[0].last_transition_time.0, at(30));
        assert_eq!(conditions.len(), 1);
    }
}
