//! Rows that keep the TLS Secret whole without an order: restore first, then the fallback.

use evercert_api::Reason;
use evercert_api::certificate::FallbackMode;
use evercert_api::condition;
use jiff::{SignedDuration, Timestamp};

use super::{Plan, Step, start};
use crate::observe::{Observed, SecretObservation};

/// How long a Certificate may be blocked before the fallback stands in.
const PATIENCE: SignedDuration = SignedDuration::from_secs(30);
/// How long before its end a fallback is made anew.
const FALLBACK_RENEWAL: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The Secret is missing, damaged, expired, a fallback, or lacks wanted names, and the companion's certificate is better.
pub(super) fn plan_restore(o: &Observed, now: Timestamp) -> Option<Plan> {
    let (good, _) = o.companion.last_good.as_ref()?;
    if !good.is_valid_at(now) {
        return None;
    }
    let wanted = o.wanted_names();
    let lacking = |have: &crate::facts::CertificateFacts| wanted.iter().filter(|n| !have.covers([n.as_str()])).count();
    let in_place = o.issued().filter(|c| c.is_valid_at(now));
    let worse = in_place.is_none_or(|c| c.fingerprint != good.fingerprint && lacking(c) > lacking(good));
    worse.then(|| {
        Plan::act(
            "restore",
            Step::Restore,
            Reason::SecretRestored,
            format!("Secret {} is missing or damaged: the last good certificate is put back", o.spec.secret_name),
            now,
        )
    })
}

/// No usable certificate is in the Secret, and an attempt has failed or none can begin for 30 s.
pub(super) fn plan_fallback(o: &Observed, now: Timestamp) -> Option<Plan> {
    if o.spec.fallback_mode() == FallbackMode::None || o.is_served_well(now) || is_fallback_in_step(o, now) {
        return None;
    }
    let failed = o.status.failed_attempts.unwrap_or(0) > 0;
    let cause = if failed {
        o.status.last_failure.as_ref().map_or_else(|| "the last attempt failed".to_owned(), |f| f.message.clone())
    } else {
        start::find_block(o, now).filter(|_| blocked_since(o) + PATIENCE <= now)?.say.message
    };
    let message = format!("no usable certificate: a marked self-signed fallback is put into Secret {}", o.spec.secret_name);
    Some(Plan::act("fallback due", Step::WriteFallback { cause }, Reason::FallbackWritten, message, now))
}

/// Since when there is no certificate: `Ready` turned false, or the Certificate was created.
fn blocked_since(o: &Observed) -> Timestamp {
    condition::find(&o.status.conditions, condition::READY)
        .filter(|c| c.status == "False")
        .map_or(o.created_at, |c| c.last_transition_time.0)
}

/// When a blocked Certificate gets its fallback, if it has none and may have one.
pub(super) fn fallback_time(o: &Observed, now: Timestamp) -> Option<Timestamp> {
    let due = o.spec.fallback_mode() != FallbackMode::None && !o.is_served_well(now) && !is_fallback_in_step(o, now);
    due.then(|| (blocked_since(o) + PATIENCE).max(now))
}

/// Whether the Secret holds a fallback for the wanted names that is good for a while.
fn is_fallback_in_step(o: &Observed, now: Timestamp) -> bool {
    let SecretObservation::Ours(secret) = &o.secret else { return false };
    secret.fallback
        && secret.content.as_ref().is_ok_and(|facts| {
            facts.covers(o.wanted_names().iter().map(String::as_str))
                && facts.names.len() == o.wanted_names().len()
                && facts.key == crate::facts::KeyKind::wanted(&o.spec.key())
                && facts.not_before <= now
                && now + FALLBACK_RENEWAL < facts.not_after
        })
}
