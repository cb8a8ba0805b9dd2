//! The decision table (design §2): the first row that matches wins. Pure and total: every observation has a plan.
//!
//! ```text
//! guard   deleted · order of a Certificate that cannot have its Secret or names → abandon · spec invalid · another Certificate owns the Secret · Secret of somebody else, not adoptable
//! secret  adoptable → adopt · immutable and not what is needed · missing or damaged and a good certificate at hand → restore · fallback due → write it · companion not owned → own it
//!         · label, annotations or what follows from the spec out of step → mend
//!         · a revocation asked for → note what is in place · refused, and another reason given → note that
//! order   no longer fits → abandon · unread or old → refresh · failed → record · valid → store · ready → finalize
//!         · proved reachable → accept · presented → probe · not presented → present
//! start   nothing violated and one to be revoked → revoke · nothing violated → settle · suspended · issuer · name · profile · backing off · refused by all · gate · limit · Secret not writable · key
//!         · no route · dns · solver · Secret not tried → dry run · dns look · slot
//!         → place
//! ```

#[cfg(test)]
pub(crate) mod fixtures;
mod guard;
#[cfg(test)]
mod model;
mod order;
#[cfg(test)]
mod promise;
#[cfg(test)]
mod properties;
mod secret;
mod start;

use evercert_api::Reason;
use jiff::{SignedDuration, Timestamp};

use crate::fault::Fault;
use crate::lanes::Candidate;
use crate::observe::Observed;
use crate::revocation;

/// The one effect of a pass, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// No effect.
    Wait,
    /// Wait for a place among the orders under way.
    Queue(Candidate),
    /// The Certificate goes: forget what is open for it.
    Forget,
    /// Write the companion's last good certificate into the TLS Secret.
    Restore,
    /// Write a marked self-signed certificate into the TLS Secret.
    WriteFallback {
        /// Why, for the event.
        cause: String,
    },
    /// Give up the order that the status names.
    Abandon {
        /// Why, for the event.
        why: String,
    },
    /// Read the order at the CA.
    Refresh,
    /// Record a failed attempt and clear the order.
    Record(Failure),
    /// Download, check, keep in the companion, write into the TLS Secret.
    Store,
    /// Send the CSR.
    Finalize,
    /// Tell the CA that these challenges (by URL) are ready.
    Accept(Vec<String>),
    /// Ask the entry point for these names' challenges.
    Probe(Vec<String>),
    /// Have the open challenges answered and routed.
    Present,
    /// Keep a copy of the good certificate in the TLS Secret, which the companion lacks.
    KeepCopy,
    /// Drop the pending key from the companion.
    DropPendingKey,
    /// Have the companion owned by this Certificate.
    MendCompanion,
    /// Take over a Secret that somebody else made and nobody claims: label and annotations are put on it.
    Adopt {
        /// Whether its certificate is kept in the companion, too, before it is said to be ours: then it may be deleted.
        keep_copy: bool,
    },
    /// Put the label and the annotations of the TLS Secret, and what follows from the spec, in step.
    MendMarks,
    /// Ask the CA when the certificate in place should be renewed (RFC 9773).
    PollRenewalInfo,
    /// Make the key of the next certificate and keep it in the companion.
    PrepareKey,
    /// See by a dry run whether the TLS Secret can be written.
    TryWrite,
    /// Have the solver started.
    StartSolver,
    /// Have the forwarder in the Certificate's namespace started, and the solver behind it.
    StartForwarder,
    /// Note the certificate in place as one that is to be revoked.
    NoteRevocation {
        /// The value of the annotation.
        value: String,
    },
    /// What is to be revoked is to be for another reason.
    ChangeReason {
        /// The value of the annotation.
        value: String,
        /// Whether the certificate in place counts as issued after this request, too.
        heeded: bool,
    },
    /// What was to be revoked is not to be any more.
    DropRevocation {
        /// Why, for the event.
        why: String,
    },
    /// Have the CA revoke the certificate that is noted.
    Revoke,
    /// Sign with the pending key itself (a self-signed issuer), keep in the companion, write into the TLS Secret.
    SelfSign,
    /// Record the intent in the ledger and place the order.
    PlaceOrder,
}

impl Step {
    /// Whether others are waited for: the CA, or an entry point.
    #[must_use]
    pub fn asks_others(&self) -> bool {
        match self {
            Self::Abandon { .. }
            | Self::Refresh
            | Self::Store
            | Self::Finalize
            | Self::Accept(_)
            | Self::Probe(_)
            | Self::PollRenewalInfo
            | Self::Revoke
            | Self::PlaceOrder => true,
            Self::Wait
            | Self::Queue(_)
            | Self::Forget
            | Self::Restore
            | Self::WriteFallback { .. }
            | Self::Record(_)
            | Self::Present
            | Self::KeepCopy
            | Self::DropPendingKey
            | Self::MendCompanion
            | Self::Adopt { .. }
            | Self::MendMarks
            | Self::PrepareKey
            | Self::TryWrite
            | Self::StartSolver
            | Self::StartForwarder
            | Self::NoteRevocation { .. }
            | Self::ChangeReason { .. }
            | Self::DropRevocation { .. }
            | Self::SelfSign => false,
        }
    }
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The word.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
    /// The fault that the next attempt's instant is computed from.
    pub fault: Fault,
}

/// What a pass does, says, and when the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The row that decided.
    pub row: &'static str,
    /// The effect.
    pub step: Step,
    /// What goes on, for the conditions.
    pub say: Say,
    /// When to look again at the latest, if nothing wakes the Certificate before.
    pub wake: Timestamp,
}

/// What goes on, for the conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Say {
    /// The word.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
    /// How it stands with the issuance.
    pub state: State,
}

/// How it stands with the issuance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing to do.
    Idle,
    /// An attempt is under way.
    Issuing,
    /// No attempt can begin now.
    Blocked,
    /// No attempt begins until a person acts.
    Stalled,
}

/// A wait for something that nobody announces.
pub(crate) const RECHECK: SignedDuration = SignedDuration::from_secs(30);
/// The wait of an object that is as it should be.
pub(crate) const RESYNC: SignedDuration = SignedDuration::from_hours(24);

impl Plan {
    pub(crate) fn act(
        row: &'static str,
        step: Step,
        reason: Reason,
        message: impl Into<String>,
        now: Timestamp,
    ) -> Self {
        Self {
            row,
            step,
            say: Say {
                reason,
                message: message.into(),
                state: State::Issuing,
            },
            wake: later(now, RECHECK),
        }
    }

    pub(crate) fn wait(
        row: &'static str,
        state: State,
        reason: Reason,
        message: impl Into<String>,
        wake: Timestamp,
    ) -> Self {
        Self {
            row,
            step: Step::Wait,
            say: Say {
                reason,
                message: message.into(),
                state,
            },
            wake,
        }
    }

    /// The same beside an issuance, which goes on where an order is under way.
    pub(crate) fn beside(mut self, o: &Observed) -> Self {
        self.say.state = if o.status.order.is_some() {
            State::Issuing
        } else {
            State::Idle
        };
        self
    }

    /// Whether an order waits for a token of the ledger.
    #[must_use]
    pub fn waits_for_token(&self) -> bool {
        self.row == start::LIMIT
    }

    /// Whether DNS holds the order back.
    #[must_use]
    pub fn waits_for_dns(&self) -> bool {
        self.row == start::DNS
    }

    /// Whether a look at DNS is all that is waited for, which takes a moment: a place among the orders under way is kept meanwhile.
    #[must_use]
    pub fn waits_for_look(&self) -> bool {
        self.row == start::DNS_LOOK
    }

    /// Whether the step cannot be taken back: it is planned again from live reads before it is done.
    #[must_use]
    pub fn is_irreversible(&self) -> bool {
        matches!(self.step, Step::PlaceOrder | Step::Finalize | Step::Revoke)
    }
}

/// `now` and `wait`, or `now` at the end of time.
pub(crate) fn later(now: Timestamp, wait: SignedDuration) -> Timestamp {
    now.checked_add(wait).unwrap_or(now)
}

type Row = fn(&Observed, Timestamp) -> Option<Plan>;

/// The rows up to an order, in order: what it needs first, what forbids it now.
const GATES: &[Row] = &[
    guard::plan_deleted,
    guard::plan_give_up,
    guard::plan_invalid_spec,
    guard::plan_secret_conflict,
    guard::plan_foreign_secret,
    secret::plan_adopt,
    secret::plan_immutable,
    secret::plan_restore,
    secret::plan_fallback,
    secret::plan_companion,
    secret::plan_mend,
    revocation::plan_note,
    order::plan_abandon,
    order::plan_order,
    revocation::plan_revoke,
    start::plan_settle,
    start::plan_suspended,
    start::plan_issuer,
    start::plan_refused_name,
    start::plan_profile,
    start::plan_lost_intent,
    start::plan_backoff,
    start::plan_held,
    start::plan_gate,
    start::plan_limit,
    start::plan_unwritable_secret,
];

/// The rows after them: an order is near, and what it takes is made ready.
const PREPARATIONS: &[Row] = &[
    start::plan_key,
    start::plan_self_sign,
    start::plan_unroutable,
    start::plan_dns,
    start::plan_solver,
    start::plan_forwarder,
    start::plan_try,
    start::plan_dns_look,
    start::plan_slot,
];

/// Whether an order is near: nothing but its preparations stands before it. Then DNS is worth a look.
#[must_use]
pub fn is_order_near(o: &Observed, now: Timestamp) -> bool {
    GATES.iter().all(|row| row(o, now).is_none())
}

/// Whether a Secret that nobody announces matters: the user's own certificate, while no issued one is there.
fn follows_own_fallback(o: &Observed, now: Timestamp) -> bool {
    o.spec.own_fallback().is_some() && !o.is_served_well(now)
}

/// The plan for one Certificate. Total: where no row matches, the order is placed. The wake-up is at most a day ahead, whatever
/// instants a status or a CA gave.
#[must_use]
pub fn plan(o: &Observed, now: Timestamp) -> Plan {
    let mut plan = GATES
        .iter()
        .chain(PREPARATIONS)
        .find_map(|row| row(o, now))
        .unwrap_or_else(|| start::place_order(now));
    let resync = if follows_own_fallback(o, now) {
        RECHECK
    } else {
        RESYNC
    };
    let revocation = revocation::next_try(o, now).filter(|at| now < *at);
    plan.wake = revocation.map_or(plan.wake, |at| at.min(plan.wake));
    plan.wake = plan.wake.clamp(now, later(now, resync));
    plan
}
