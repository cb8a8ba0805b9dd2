//! Rows that keep the TLS Secret whole without an order: restore first, then the fallback.

use evercert_api::Reason;
use evercert_api::certificate::{FallbackMode, FallbackTrigger};
use evercert_api::condition;
use jiff::{SignedDuration, Timestamp};

use super::{Plan, RECHECK, State, Step, later, order, start};
use crate::fallback;
use crate::need::{find_need, find_need_of};
use crate::observe::{Observed, SecretObservation, TlsSecret};

/// How long a Certificate may be blocked before the fallback stands in.
const PATIENCE: SignedDuration = SignedDuration::from_secs(30);

/// The Secret needs another content, and its own cannot be changed. An order under way goes on: its certificate is kept.
pub(super) fn plan_immutable(o: &Observed, now: Timestamp) -> Option<Plan> {
    let immutable = matches!(&o.secret, SecretObservation::Ours(secret) if secret.immutable);
    let need = find_need(o, now).filter(|_| immutable && o.status.order.is_none())?;
    let message = format!(
        "{}, but Secret {} is immutable, and its content cannot be changed: delete it, and it is made again. Looked at again \
         every 30 s",
        need.message, o.spec.secret_name
    );
    Some(Plan::wait(
        "immutable",
        State::Stalled,
        Reason::SecretImmutable,
        message,
        later(now, RECHECK),
    ))
}

/// The Secret is missing, damaged, expired, a fallback, or not what the spec asks for, and the companion's certificate is better.
pub(super) fn plan_restore(o: &Observed, now: Timestamp) -> Option<Plan> {
    if !is_restore_wanted(o, now) || refused_until(o, now).is_some() {
        return None;
    }
    let message = format!(
        "Secret {} is missing or damaged: the last good certificate is put back",
        o.spec.secret_name
    );
    let mut plan = Plan::act(
        "restore",
        Step::Restore,
        Reason::SecretRestored,
        message,
        now,
    );
    plan.say.state = state_beside(o);
    Some(plan)
}

/// No usable certificate is in the Secret, and an attempt has failed, or none can begin or go on for 30 s.
pub(super) fn plan_fallback(o: &Observed, now: Timestamp) -> Option<Plan> {
    fallback_due(o, now).filter(|due| *due <= now)?;
    let cause = if has_failed(o) {
        o.status.last_failure.as_ref().map_or_else(
            || "the last attempt failed".to_owned(),
            |f| f.message.clone(),
        )
    } else {
        let held = order::find_hold(o, now).or_else(|| start::find_block(o, now));
        let at_once = "no certificate has been issued yet";
        held.or_else(|| is_wanted_at_once(o).then(|| at_once.to_owned()))?
    };
    let message = format!(
        "no usable certificate: a marked fallback is put into Secret {}",
        o.spec.secret_name
    );
    let mut plan = Plan::act(
        "fallback due",
        Step::WriteFallback { cause },
        Reason::FallbackWritten,
        message,
        now,
    );
    plan.say.state = state_beside(o);
    Some(plan)
}

/// Somebody else's Secret holds a good certificate for the names, and nobody claims it.
pub(super) fn plan_adopt(o: &Observed, now: Timestamp) -> Option<Plan> {
    let SecretObservation::Foreign(foreign) = &o.secret else {
        return None;
    };
    if let Some(wait) = start::plan_unwritable_secret(o, now) {
        return Some(wait);
    }
    let message = format!(
        "Secret {} holds a good certificate for the names, and nobody claims it: it is taken over as it is",
        o.spec.secret_name
    );
    let kept = foreign.content.as_ref();
    let keep_copy = kept.is_ok_and(|facts| start::lacks_copy(o, facts, now));
    let mut plan = Plan::act(
        "adoptable",
        Step::Adopt { keep_copy },
        Reason::SecretAdopted,
        message,
        now,
    );
    plan.say.state = state_beside(o);
    Some(plan)
}

/// Label, annotations or what follows from the spec are not as they should be: somebody stripped them, or the spec changed.
pub(super) fn plan_mend(o: &Observed, now: Timestamp) -> Option<Plan> {
    let SecretObservation::Ours(secret) = &o.secret else {
        return None;
    };
    if secret.marks_in_step || refused_until(o, now).is_some() {
        return None;
    }
    let message = format!(
        "labels and annotations of Secret {} are put in step",
        o.spec.secret_name
    );
    let mut plan = Plan::act("out of step", Step::MendMarks, Reason::Idle, message, now);
    plan.say.state = state_beside(o);
    Some(plan)
}

/// The companion came back from a copy with an owner that is no longer there.
pub(super) fn plan_companion(o: &Observed, now: Timestamp) -> Option<Plan> {
    o.companion.strayed.then(|| {
        let message = "the companion Secret was made for an earlier Certificate of this name: it is taken over";
        let mut plan = Plan::act(
            "companion strayed",
            Step::MendCompanion,
            Reason::Idle,
            message,
            now,
        );
        plan.say.state = state_beside(o);
        plan
    })
}

/// When the Secret is written next, if it is to be written as soon as that is possible: what waits, waits no longer than that.
pub(super) fn next_write(o: &Observed, now: Timestamp) -> Option<Timestamp> {
    let restore = is_restore_wanted(o, now).then(|| refused_until(o, now).unwrap_or(now));
    restore.into_iter().chain(fallback_due(o, now)).min()
}

/// Until when the TLS Secret is not written.
pub(super) fn refused_until(o: &Observed, now: Timestamp) -> Option<Timestamp> {
    let gate = o.unwritable.as_ref()?;
    Some(gate.until).filter(|until| now < *until)
}

/// Whether the companion's certificate belongs into the Secret. One that is ahead of a slow clock counts where nothing better is:
/// clients with a right clock can use it.
fn is_restore_wanted(o: &Observed, now: Timestamp) -> bool {
    let Some((good, marks)) = &o.companion.last_good else {
        return false;
    };
    if now >= good.not_after || o.is_revoked(good) {
        return false;
    }
    let Some(in_place) = o.issued().filter(|c| now < c.not_after) else {
        return true;
    };
    if in_place.fingerprint == good.fingerprint || now < good.not_before {
        return false;
    }
    let wanted = o.wanted_names();
    let mut names = wanted.iter().map(String::as_str);
    let loses_none = names
        .clone()
        .all(|n| good.covers([n]) || !in_place.covers([n]));
    let wins_some = names.any(|n| good.covers([n]) && !in_place.covers([n]));
    let at_hand = TlsSecret {
        content: Ok(good.clone()),
        marks: marks.clone(),
        fallback: false,
        immutable: false,
        marks_in_step: true,
    };
    loses_none
        && (wins_some || (find_need(o, now).is_some() && find_need_of(o, &at_hand, now).is_none()))
}

fn is_wanted_at_once(o: &Observed) -> bool {
    o.spec.fallback_trigger() == FallbackTrigger::Immediately
}

fn has_failed(o: &Observed) -> bool {
    o.status.failed_attempts.unwrap_or(0) > 0
}

/// When the fallback is due, if nothing comes between; `None` while none is wanted. An issued certificate that has not expired
/// is never replaced, not even one that is ahead of a slow clock.
fn fallback_due(o: &Observed, now: Timestamp) -> Option<Timestamp> {
    if o.spec.fallback_mode() == FallbackMode::None
        || o.issued().is_some_and(|c| now < c.not_after)
        || fallback::is_in_step(o, now)
    {
        return None;
    }
    let due = if has_failed(o) || is_wanted_at_once(o) {
        now
    } else {
        later(blocked_since(o, now), PATIENCE)
    };
    Some(due.max(refused_until(o, now).unwrap_or(now)))
}

/// Since when there is no certificate: `Ready` turned false (now, if it is true yet), or the Certificate was created.
fn blocked_since(o: &Observed, now: Timestamp) -> Timestamp {
    match condition::find(&o.status.conditions, condition::READY) {
        Some(ready) if ready.status == "True" => now,
        Some(ready) => ready.last_transition_time.0,
        None => o.created_at,
    }
}

/// What a step beside the issuance says of it.
fn state_beside(o: &Observed) -> State {
    if o.status.order.is_some() {
        State::Issuing
    } else {
        State::Idle
    }
}

#[cfg(test)]
mod tests;
