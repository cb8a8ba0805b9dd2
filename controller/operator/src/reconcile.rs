//! The loop (design §2): gather, plan, execute, report. One pass, at most one effect, never a sleep.

use std::sync::Arc;
use std::time::Duration;

use evercert_api::Certificate;
use evercert_core::key::ObjectKey;
use evercert_core::observe::OrderObservation;
use evercert_core::order::{OrderState, ProofState};
use evercert_core::plan::{Plan, Step, plan};
use evercert_core::report::{Basis, Change, apply_earlier_change, build_status, plan_write};
use jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::runtime::controller::Action;
use tokio::sync::SemaphorePermit;

use crate::apply;
use crate::context::{Context, key_of, reference};
use crate::effect::Effect;
use crate::error::Error;
use crate::execute::{Outcome, announce, execute, find_signer_in_place, forget};
use crate::gather::{Gathered, gather, gather_again, wait_for_token};
use crate::ledger::Settlement;
use crate::memory::Unreported;
use crate::metrics::note_attempt;
use crate::served::observe_served;

/// How long a poll waits for a report that was refused.
const UNREPORTED: SignedDuration = SignedDuration::from_secs(2);

/// One pass for one Certificate, when there is a place at work.
pub(crate) async fn reconcile(
    certificate: Arc<Certificate>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let place = context.begin_work().await;
    // In a box, so that those who wait for a place are small.
    Box::pin(pass(&certificate, &context, place)).await
}

async fn pass(
    certificate: &Certificate,
    context: &Context,
    place: Option<SemaphorePermit<'_>>,
) -> Result<Action, Error> {
    let key = key_of(certificate);
    let now = Timestamp::now();
    let known = context.memory.take_reads(&key);
    let found = match known.filter(|reads| reads.are_current(certificate)) {
        Some(reads) => Some(gather_again(&key, context, reads, now).await?),
        None => gather(&key, context, false, now).await?,
    };
    let Some(mut gathered) = found else {
        forget(&key, context);
        return Ok(Action::await_change());
    };
    merge_unreported(&mut gathered, context);
    if gathered.observed.status.order.is_none() {
        // What a run before this one left open goes as soon as it is known that there is no order.
        context.projections.clear(&key);
    }
    let mut next = plan(&gathered.observed, now);
    if let Step::Queue(candidate) = &next.step
        && context.slots.ask(candidate.clone(), now)
    {
        gathered.observed.slot = true;
        next = plan(&gathered.observed, now);
    }
    if next.step == Step::PollRenewalInfo
        && let Err(turn) = ask_to_poll(&gathered, context, now)
    {
        gathered.observed.poll_turn = Some(turn);
        next = plan(&gathered.observed, now);
    }
    let is_about_to_order =
        matches!(next.step, Step::Queue(_) | Step::PlaceOrder) || next.waits_for_look();
    if gathered.observed.status.order.is_none() && !is_about_to_order {
        context.slots.free(&key);
    }
    if next.waits_for_look() {
        context.preflights.wake_at_end(&key);
    }
    if next.waits_for_token() {
        wait_for_token(&gathered, context, now);
    } else {
        context.ledger.leave(&key);
    }
    if next.is_irreversible() {
        // Looked at again, live; if the answer differs, nothing is done and the next pass begins from there.
        let Some(again) = gather(&key, context, true, now).await? else {
            return Ok(Action::await_change());
        };
        gathered = again;
        merge_unreported(&mut gathered, context);
        let again = plan(&gathered.observed, now);
        if again.step != next.step {
            // The cache is a moment behind, or an issuer's pass is under way for seconds.
            return Ok(soon());
        }
        next = again;
    }
    tracing::debug!(certificate = %key, row = next.row, step = ?next.say.reason, "planned");
    // Who waited for a CA has no place afterwards either: what was done there is written down at once.
    let _place = place.filter(|_| !next.step.asks_others());
    let outcome = execute(&next, &mut gathered, context, now).await;
    if context.certificates.get(&reference(&key)).is_none() {
        // Deleted amid the step, whose traces would stay: no other pass comes.
        forget(&key, context);
        return Ok(Action::await_change());
    }
    let outcome = outcome?;
    if next.step == Step::Forget {
        return Ok(Action::await_change());
    }
    let after = Timestamp::now();
    note_change(&outcome.change, &mut gathered, context, after);
    if outcome.moved && outcome.change == Change::None && outcome.note.is_none() {
        keep_reads(&next.step, gathered, context);
        return Ok(at_once());
    }
    let step = next.step.clone();
    let said = if outcome.moved {
        plan(&gathered.observed, after)
    } else {
        next
    };
    // Before the report, which may meet another writer and then is repeated without it.
    announce(&outcome, &gathered, context, after).await;
    let wake = report(&mut gathered, &said, &outcome, context, after).await?;
    keep_reads(&step, gathered, context);
    Ok(if outcome.moved {
        at_once()
    } else {
        wait_until(wake, after)
    })
}

/// Whether a poll may begin: the directory has room, and there is nothing that is not reported yet, which a poll would displace.
///
/// # Errors
/// When to come again.
fn ask_to_poll(gathered: &Gathered, context: &Context, now: Timestamp) -> Result<(), Timestamp> {
    let key = &gathered.observed.key;
    if context.memory.entry(key).unreported.is_some() {
        return Err(now.checked_add(UNREPORTED).unwrap_or(now));
    }
    match find_signer_in_place(gathered, context) {
        Some(asked) => context.polls.ask(asked.directory.url(), key, now),
        None => Ok(()),
    }
}

/// While an order is under way the passes follow each other closely. After a step that wrote no Secret, what was read serves the
/// next one, until a watch tells of a change.
fn keep_reads(step: &Step, gathered: Gathered, context: &Context) {
    let wrote_no_secret = match step {
        Step::Wait
        | Step::Refresh
        | Step::Present
        | Step::Probe(_)
        | Step::Accept(_)
        | Step::Finalize
        | Step::PlaceOrder => true,
        Step::Queue(_)
        | Step::Forget
        | Step::Restore
        | Step::WriteFallback { .. }
        | Step::Abandon { .. }
        | Step::Record(_)
        | Step::Store
        | Step::KeepCopy
        | Step::MendCompanion
        | Step::DropPendingKey
        | Step::Adopt { .. }
        | Step::MendMarks
        | Step::PollRenewalInfo
        | Step::PrepareKey
        | Step::TryWrite
        | Step::StartSolver
        | Step::StartForwarder
        | Step::NoteRevocation { .. }
        | Step::ChangeReason { .. }
        | Step::DropRevocation { .. }
        | Step::Revoke
        | Step::SelfSign => false,
    };
    if wrote_no_secret && gathered.observed.status.order.is_some() {
        let key = gathered.observed.key.clone();
        context.memory.keep_reads(&key, gathered.into_reads());
    }
}

/// What an earlier pass did and could not write into the status is not lost: it is seen, and written with this pass's report.
fn merge_unreported(gathered: &mut Gathered, context: &Context) {
    if let Some(Unreported { change, at, basis }) =
        context.memory.entry(&gathered.observed.key).unreported
    {
        merge(&change, gathered, context, &basis, at);
    }
}

fn note_change(change: &Change, gathered: &mut Gathered, context: &Context, now: Timestamp) {
    if *change == Change::None {
        return;
    }
    let order = gathered.observed.status.order.as_ref();
    note_attempt(change, order.map(|order| order.created_at.0), now);
    let key = gathered.observed.key.clone();
    let basis = Basis::of(&gathered.observed);
    let unreported = Unreported {
        change: change.clone(),
        at: now,
        basis: basis.clone(),
    };
    context
        .memory
        .update(&key, |e| e.unreported = Some(unreported));
    if let Change::Failed(_) = change {
        // What newOrder itself met is known already.
        let settlement = settle_failure(&gathered.observed.order);
        context.memory.update(&key, |e| {
            e.settlement = e.settlement.take().or(Some(settlement));
        });
    }
    match change {
        Change::Placed(_) | Change::Polled(_) | Change::Revoked(_) => {}
        Change::None | Change::Cleared(_) | Change::Failed(_) => context.slots.free(&key),
    }
    merge(change, gathered, context, &basis, now);
}

/// What an attempt that failed cost: an order that is invalid led to no certificate, for certain.
fn settle_failure(order: &OrderObservation) -> Settlement {
    let view = match order {
        OrderObservation::Read(read) => &read.view,
        OrderObservation::None | OrderObservation::Unread | OrderObservation::Failed { .. } => {
            return Settlement::Spent;
        }
    };
    let invalid = view
        .authorizations
        .iter()
        .filter(|a| a.state == ProofState::Invalid);
    let names: Vec<String> = invalid.map(|a| a.name.clone()).collect();
    if view.state == OrderState::Invalid || !names.is_empty() {
        Settlement::Failed { names }
    } else {
        Settlement::Spent
    }
}

fn merge(
    change: &Change,
    gathered: &mut Gathered,
    context: &Context,
    basis: &Basis,
    at: Timestamp,
) {
    let observed = &mut gathered.observed;
    let mut status = observed.status.clone();
    apply_earlier_change(observed, &mut status, change, basis, at);
    observed.status = status;
    match change {
        Change::None | Change::Polled(_) | Change::Revoked(_) => {}
        Change::Placed(_) | Change::Cleared(_) | Change::Failed(_) => observed.intent = None,
    }
    observed.order = context.memory.order(
        &observed.key,
        observed.status.order.as_ref().map(|o| o.url.as_str()),
    );
}

/// Writes the status where it changed; the answer is when the object is looked at again. `gathered` is kept in step.
async fn report(
    gathered: &mut Gathered,
    said: &Plan,
    outcome: &Outcome,
    context: &Context,
    now: Timestamp,
) -> Result<Timestamp, Error> {
    let key: &ObjectKey = &gathered.observed.key.clone();
    let old = gathered.certificate.status.clone().unwrap_or_default();
    gathered.observed.served = observe_served(gathered, context, now);
    let new = build_status(&gathered.observed, said, now);
    let worth = plan_write(&old, &new, context.memory.entry(key).last_write, now);
    if worth != Ok(true) && outcome.change == Change::None {
        if old == new {
            let there = gathered.certificate.status.as_ref();
            context.echoes.note(&gathered.certificate.metadata, there);
            // Whatever an earlier pass could not write is there.
            note_reported(key, context).await;
        }
        return Ok(worth.err().map_or(said.wake, |at| at.min(said.wake)));
    }
    if old != new {
        let mut next = gathered.certificate.clone();
        next.status = Some(new);
        context.echoes.note(&next.metadata, next.status.as_ref());
        let api: Api<Certificate> = Api::namespaced(context.client.clone(), &key.namespace);
        gathered.certificate =
            apply::replace_status(&api, effect_of(&outcome.change), &next).await?;
        // What holds it up is said on its Ingresses, too.
        if evercert_core::source::owners(&gathered.certificate)
            .next()
            .is_some()
        {
            context.news.note(&key.namespace);
        }
    }
    context.memory.update(key, |e| e.last_write = Some(now));
    note_reported(key, context).await;
    if matches!(outcome.change, Change::Failed(_)) {
        // The CA may have said that there is none left.
        context.tell_budget(&gathered.issuer, now);
    }
    Ok(said.wake)
}

/// The status tells what was done. A failed attempt is known there, and only now its intent is.
async fn note_reported(key: &ObjectKey, context: &Context) {
    let mut reported = None;
    let mut settlement = None;
    context.memory.update(key, |e| {
        reported = e.unreported.take();
        settlement = e.settlement.take();
    });
    if let Some(Unreported {
        change: Change::Failed(_),
        at,
        ..
    }) = reported
    {
        let settlement = settlement.unwrap_or(Settlement::Spent);
        context.ledger.settle(key, &settlement, at).await;
    }
}

/// What a status is written for.
fn effect_of(change: &Change) -> Effect {
    match change {
        Change::None | Change::Polled(_) | Change::Revoked(_) => Effect::WriteStatus,
        Change::Placed(_) => Effect::RecordOrder,
        Change::Cleared(_) => Effect::ClearOrder,
        Change::Failed(_) => Effect::RecordFailure,
    }
}

fn at_once() -> Action {
    Action::requeue(Duration::ZERO)
}

/// At once for a person, and no busy loop where what differs stays so.
fn soon() -> Action {
    Action::requeue(Duration::from_millis(100))
}

fn wait_until(wake: Timestamp, now: Timestamp) -> Action {
    let wait = if wake > now {
        wake.duration_since(now).unsigned_abs()
    } else {
        Duration::ZERO
    };
    // At least a moment, so that a wake-up in the past cannot spin.
    Action::requeue(wait.max(Duration::from_millis(20)))
}

/// When a pass that failed is tried again.
pub(crate) fn after_error(error: &Error) -> Action {
    match error {
        Error::Api(_) if error.is_conflict() => soon(),
        Error::Api(error) if error.is_not_found() => Action::requeue(Duration::from_secs(30)),
        Error::Api(error) if error.is_passing() => {
            let least = Duration::from_secs(2);
            Action::requeue(error.retry_after().unwrap_or(least).max(least))
        }
        Error::Api(_) => Action::requeue(Duration::from_secs(10)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::ApplyError;

    #[test]
    fn a_busy_api_server_is_asked_again_when_it_says_and_not_sooner_than_usual() {
        let wait = |seconds: Option<u64>| {
            after_error(&Error::Api(ApplyError::Unavailable {
                message: "busy".to_owned(),
                retry_after: seconds.map(Duration::from_secs),
            }))
        };
        let requeue = |seconds| Action::requeue(Duration::from_secs(seconds));
        assert_eq!([None, Some(1), Some(30)].map(wait), [2, 2, 30].map(requeue));
    }
}
