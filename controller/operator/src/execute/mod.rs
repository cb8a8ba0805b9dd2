//! The effects of a plan: at most one kind of request for one order or one Secret, each idempotent.

mod chain;
mod give_back;
mod key;
mod order;
mod place;
mod probe;
mod renewal_info;
mod revoke;
mod secret;
mod signer;

pub(crate) use signer::find_signer_in_place;

use evercert_api::Reason;
use evercert_core::key::ObjectKey;
use evercert_core::observe::ForwarderState;
use evercert_core::plan::{Plan, Step};
use evercert_core::report::Change;
use jiff::Timestamp;
use kube::ResourceExt;

use crate::context::Context;
use crate::error::Error;
use crate::events::emit;
use crate::gather::Gathered;

/// What became of a step.
pub(crate) struct Outcome {
    /// What the status must know.
    pub(crate) change: Change,
    /// Whether the next pass should follow at once.
    pub(crate) moved: bool,
    /// An event for people.
    pub(crate) note: Option<Note>,
}

/// An event for people.
pub(crate) struct Note {
    /// Whether it is a warning.
    pub(crate) warning: bool,
    /// The word.
    pub(crate) reason: Reason,
    /// The sentence.
    pub(crate) text: String,
}

impl Outcome {
    /// Nothing was done, or nothing that another pass would see.
    pub(crate) fn waits() -> Self {
        Self {
            change: Change::None,
            moved: false,
            note: None,
        }
    }

    /// Something was done: the next pass sees it.
    pub(crate) fn moved() -> Self {
        Self {
            change: Change::None,
            moved: true,
            note: None,
        }
    }

    fn changed(change: Change) -> Self {
        Self {
            change,
            moved: true,
            note: None,
        }
    }

    fn noted(mut self, warning: bool, reason: Reason, text: impl Into<String>) -> Self {
        self.note = Some(Note {
            warning,
            reason,
            text: text.into(),
        });
        self
    }
}

/// Does what `plan` says. `gathered` is kept in step with the Secrets that were written. That the API server refuses a Secret is
/// remembered, and the next pass says so.
pub(crate) async fn execute(
    plan: &Plan,
    gathered: &mut Gathered,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let key = gathered.observed.key.clone();
    match take(plan, gathered, context, now).await {
        Err(Error::Api(error)) if error.is_refused() && is_remembered(&key, context, now) => {
            Ok(Outcome::moved())
        }
        outcome => outcome,
    }
}

fn is_remembered(key: &ObjectKey, context: &Context, now: Timestamp) -> bool {
    let unwritable = context.memory.entry(key).unwritable;
    unwritable.is_some_and(|(at, _)| now <= at)
}

async fn take(
    plan: &Plan,
    gathered: &mut Gathered,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let key = gathered.observed.key.clone();
    if asks_the_ca(&plan.step)
        && let Some(directory) = signer::find_directory(&plan.step, gathered, context)
        && !context.memory.may_ask(&directory, &key, now)
    {
        // Another one asks whether it answers again; that wakes all who wait.
        if plan.step == Step::PlaceOrder {
            context.slots.free(&key);
        }
        return Ok(Outcome::waits());
    }
    Ok(match &plan.step {
        Step::Wait | Step::Queue(_) => Outcome::waits(),
        Step::Forget => {
            forget(&key, context);
            Outcome::waits()
        }
        Step::Restore => secret::restore(gathered, context, now).await?,
        Step::WriteFallback { cause } => {
            secret::write_fallback(gathered, cause, context, now).await?
        }
        Step::Adopt { keep_copy } => secret::adopt(*keep_copy, gathered, context, now).await?,
        Step::MendMarks => secret::mend_marks(gathered, context, now).await?,
        Step::TryWrite => secret::try_write(gathered, context, now).await?,
        Step::PrepareKey => key::prepare_key(gathered, context).await?,
        Step::KeepCopy => secret::keep_copy(gathered, context).await?,
        Step::DropPendingKey => key::drop_pending_key(gathered, context).await?,
        Step::MendCompanion => secret::mend_companion(gathered, context).await?,
        Step::NoteRevocation { value } => revoke::note(gathered, value, context).await?,
        Step::ChangeReason { value, heeded } => {
            revoke::change_reason(gathered, value, *heeded, context).await?
        }
        Step::DropRevocation { why } => revoke::drop_noted(gathered, why, context).await?,
        Step::Revoke => revoke::revoke(gathered, context, now).await?,
        Step::PollRenewalInfo => renewal_info::poll(gathered, context, now).await,
        Step::SelfSign => secret::self_sign(gathered, context, now).await?,
        Step::Abandon { why } => give_back::abandon(gathered, why, context, now).await,
        Step::Record(failure) => {
            context.projections.clear(&key);
            Outcome::changed(Change::Failed(failure.clone())).noted(
                true,
                failure.reason,
                failure.message.clone(),
            )
        }
        Step::Refresh => order::refresh(gathered, context, now).await,
        Step::Present => {
            order::present(gathered, context);
            Outcome::waits()
        }
        Step::Probe(names) => probe::probe(gathered, names, context).await,
        Step::Accept(urls) => order::accept(gathered, urls, context, now).await,
        Step::Finalize => order::finalize(gathered, context, now).await,
        Step::Store => order::store(gathered, context, now).await?,
        Step::StartSolver => {
            context.projections.await_solver(&key);
            Outcome::waits()
        }
        Step::StartForwarder => {
            want_forwarder(gathered, context);
            Outcome::waits()
        }
        Step::PlaceOrder => place::place(gathered, context, now).await?,
    })
}

/// Has the forwarder kept or started, where the routes lead through one.
fn want_forwarder(gathered: &Gathered, context: &Context) {
    if matches!(gathered.observed.forwarder, ForwarderState::Needed(_)) {
        let uid = gathered.certificate.uid().unwrap_or_default();
        context
            .projections
            .want_forwarder(&gathered.observed.key, uid);
    }
}

/// Whether a step sends a request to the CA for the sake of its Certificate. One to give an order back looks for itself.
fn asks_the_ca(step: &Step) -> bool {
    step.asks_others() && !matches!(step, Step::Probe(_) | Step::Abandon { .. })
}

/// Nothing is open for `key` any more: it was deleted, and an order under way is given up.
pub(crate) fn forget(key: &ObjectKey, context: &Context) {
    context.projections.clear(key);
    give_back::give_back_later(context.memory.forget(key), context);
    context.slots.free(key);
    context.ledger.leave(key);
    context.polls.leave(key);
    context.preflights.forget(key);
    context.served.forget(key);
}

/// Writes the outcome's event.
pub(crate) async fn announce(
    outcome: &Outcome,
    gathered: &Gathered,
    context: &Context,
    now: Timestamp,
) {
    if let Some(note) = &outcome.note {
        emit(
            &context.client,
            &gathered.certificate,
            note.warning,
            note.reason,
            &note.text,
            now,
        )
        .await;
    }
}
