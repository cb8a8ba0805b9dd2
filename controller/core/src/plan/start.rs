//! Rows from a certificate that is as it should be to a new order.

use evercert_api::Reason;
use jiff::{SignedDuration, Timestamp};

use super::{Failure, Plan, RECHECK, RESYNC, Row, State, Step, later, secret};
use crate::facts::{CertificateFacts, KeyKind};
use crate::fault::{Fault, FaultClass};
use crate::lanes::Candidate;
use crate::need::{find_need, find_need_of, whole, whole_up};
use crate::observe::{
    ForwarderState, IssuerObservation, Observed, SELF_SIGNED, SecretObservation, SolverState,
    TlsSecret,
};
use crate::preflight::{HOLD, PATIENCE, Preflight, find_held_since};
use crate::profile::{Choice, build_not_offered, find_profile, find_refused_addresses};
use crate::renewal::plan_renewal_after;
use crate::renewal_info::next_poll;
use crate::template::find_bad_key;

/// The row of an order that waits for a token of the ledger.
pub(super) const LIMIT: &str = "limit";
/// The row of an order that waits for DNS.
pub(super) const DNS: &str = "dns";
/// The row of an order that waits for a look at DNS to end.
pub(super) const DNS_LOOK: &str = "dns look";
/// How many names are told of that DNS is not ready for.
const MOST_TOLD: usize = 3;
/// The least time between a failure and the next attempt because an Ingress is another one.
const AFTER_INGRESS: SignedDuration = SignedDuration::from_mins(1);
/// How often it is looked at whether another issuer can be tried now.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_mins(5);
/// How often it is looked at whether who waits for a place has become more urgent.
const URGENCY: SignedDuration = SignedDuration::from_mins(10);
/// How long the solver may take to start before it is reported as what blocks.
const SOLVER_PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// Nothing makes a new certificate necessary: what an issuance left behind is put away, the CA is asked when to renew, then the
/// renewal is awaited.
pub(super) fn plan_settle(o: &Observed, now: Timestamp) -> Option<Plan> {
    if find_need(o, now).is_some() {
        return None;
    }
    let SecretObservation::Ours(secret) = &o.secret else {
        return None;
    };
    let facts = secret.content.as_ref().ok()?;
    let renewal = plan_renewal_after(o, facts, secret.marks.issued_at);
    let refused = secret::refused_until(o, now);
    let step = if lacks_copy(o, facts, now) {
        Step::KeepCopy
    } else if o.companion.pending_key.is_some() {
        Step::DropPendingKey
    } else {
        Step::Wait
    };
    let wake = if now < facts.not_before {
        facts.not_before
    } else {
        o.requested_after(now)
            .map_or(renewal.at, |at| at.min(renewal.at))
    };
    let poll = next_poll(o, secret, now);
    let step = if step == Step::Wait && poll.is_some_and(|at| at <= now) {
        Step::PollRenewalInfo
    } else {
        step
    };
    let wake = poll.filter(|at| *at > now).map_or(wake, |at| at.min(wake));
    let again = refused.filter(|_| !secret.marks_in_step);
    if let (Some(at), Some(gate), Step::Wait) = (again, &o.unwritable, &step) {
        let (reason, message) = (gate.reason, gate.message.clone());
        return Some(Plan::wait(
            "settle",
            State::Blocked,
            reason,
            message,
            at.min(wake),
        ));
    }
    let template = o.spec.secret_template.as_ref();
    if let (Some(key), Step::Wait) = (template.and_then(find_bad_key), &step) {
        let message = format!(
            "spec.secretTemplate: {key:?} is no key that a Secret can have, and is left out: write a name of 63 letters, digits, \
             '-', '_' and '.' at most, and before it, with a slash, a DNS name in lower case"
        );
        return Some(Plan::wait(
            "settle",
            State::Blocked,
            Reason::InvalidSpec,
            message,
            wake,
        ));
    }
    Some(Plan {
        step,
        ..Plan::wait(
            "settle",
            State::Idle,
            Reason::Idle,
            format!("nothing to do until the renewal at {}", whole(renewal.at)),
            wake,
        )
    })
}

/// Whether the companion has nothing that would do in place of what the Secret holds.
pub(super) fn lacks_copy(o: &Observed, in_place: &CertificateFacts, now: Timestamp) -> bool {
    let Some((kept, marks)) = &o.companion.last_good else {
        return true;
    };
    let at_hand = TlsSecret {
        content: Ok(kept.clone()),
        marks: marks.clone(),
        fallback: false,
        immutable: false,
        marks_in_step: true,
    };
    kept.fingerprint != in_place.fingerprint && find_need_of(o, &at_hand, now).is_some()
}

/// A person wants nothing new to be started.
pub(super) fn plan_suspended(o: &Observed, now: Timestamp) -> Option<Plan> {
    o.spec.suspend.then(|| {
        let message = "spec.suspend is true: nothing new is started, and what is in place stays. Set it to false to go on";
        let wake = later(now, RESYNC);
        blocked("suspended", o, Reason::Suspended, message.to_owned(), wake, now)
    })
}

/// The issuer does not exist or is not ready.
pub(super) fn plan_issuer(o: &Observed, now: Timestamp) -> Option<Plan> {
    let reference = o.issuer_ref();
    let (reason, message) = match &o.issuer {
        IssuerObservation::Ready(_) => return None,
        IssuerObservation::Missing => (
            Reason::IssuerNotFound,
            format!(
                "{} {} does not exist: create it, or mend spec.issuerRef. Looked at again every 30 s",
                reference.kind.as_str(),
                reference.name
            ),
        ),
        IssuerObservation::NotReady {
            reason, message, ..
        } => (
            Reason::IssuerNotReady,
            format!(
                "{} {} is not ready ({reason}): {message}. It goes on by itself as soon as the issuer is ready",
                reference.kind.as_str(),
                reference.name
            ),
        ),
    };
    let message = with_passed_over(o, message);
    Some(blocked(
        "issuer",
        o,
        reason,
        message,
        later(now, RECHECK),
        now,
    ))
}

/// A name may not be had here.
pub(super) fn plan_refused_name(o: &Observed, now: Timestamp) -> Option<Plan> {
    let refusal = o.refusal.as_ref()?;
    Some(blocked(
        "refused name",
        o,
        refusal.reason,
        refusal.message.clone(),
        later(now, RECHECK),
        now,
    ))
}

/// The spec requires a profile that the CA does not offer.
pub(super) fn plan_profile(o: &Observed, now: Timestamp) -> Option<Plan> {
    let message = match (find_profile(o), find_refused_addresses(o)) {
        (Choice::Nothing(profile), _) => format!(
            "{}. Name one of these, or set spec.profile.policy to Preferred. It is looked at again when either changes",
            build_not_offered(o, profile)
        ),
        (_, Some(why)) => format!("{why}. It is looked at again when either changes"),
        (_, None) => return None,
    };
    let wake = later(now, RESYNC);
    Some(blocked(
        "profile",
        o,
        Reason::ProfileNotOffered,
        message,
        wake,
        now,
    ))
}

/// The ledger holds an intent, and neither an order nor a failure nor a certificate came of it: the process died in between.
/// It counts as an order spent and as a failed attempt (design §6).
pub(super) fn plan_lost_intent(o: &Observed, now: Timestamp) -> Option<Plan> {
    let intent = o.intent?;
    let failed = o.status.last_failure.as_ref().map(|f| f.time.0);
    let issued = match &o.secret {
        SecretObservation::Ours(secret) => secret.marks.issued_at,
        SecretObservation::Missing
        | SecretObservation::WrongType(_)
        | SecretObservation::Foreign(_) => None,
    };
    let stored = o
        .companion
        .last_good
        .as_ref()
        .and_then(|(_, marks)| marks.issued_at);
    // Stored instants are whole seconds.
    if [failed, issued, stored]
        .into_iter()
        .flatten()
        .any(|at| at >= whole(intent))
    {
        return None;
    }
    let message = format!(
        "the order begun at {} was lost when the controller stopped: it counts as an attempt",
        whole(intent)
    );
    let fault = Fault {
        class: FaultClass::Transient,
        problem: None,
        http_status: None,
        retry_after: None,
        help_url: None,
        unsent: false,
        detail: message.clone(),
    };
    let failure = Failure {
        reason: Reason::OrderLost,
        message: message.clone(),
        fault,
    };
    Some(Plan::act(
        "lost intent",
        Step::Record(failure),
        Reason::OrderLost,
        message,
        now,
    ))
}

/// The first issuer refused, and so did each other that could sign: a choice that falls back to it is no change by a person.
pub(super) fn plan_held(o: &Observed, now: Timestamp) -> Option<Plan> {
    let held = o.held.as_ref().filter(|held| now < held.until)?;
    let message = format!("{}. Next attempt at {}", held.message, whole(held.until));
    Some(blocked(
        "refused by all",
        o,
        held.reason,
        with_passed_over(o, message),
        // What keeps the others from being tried may end without anybody saying so.
        held.until.min(later(now, LOOK_AGAIN)),
        now,
    ))
}

/// The last attempt failed, and nothing that a person can change has changed since. An Ingress, into which controllers write as well,
/// ends the wait a minute after the failure at the earliest, and frees from no limit.
pub(super) fn plan_backoff(o: &Observed, now: Timestamp) -> Option<Plan> {
    let failure = o.status.last_failure.as_ref()?;
    let mut at = o.status.next_attempt_time.as_ref()?.0;
    if o.has_other_ingresses_since_failure() {
        at = at.min(later(failure.time.0, AFTER_INGRESS));
    }
    let requested = o.requested_after(failure.time.0);
    let is_asked = requested.is_some_and(|requested| requested <= now);
    if now >= at || o.is_changed_since_failure() || is_asked {
        return None;
    }
    let wake = requested.map_or(at, |requested| requested.min(at));
    Some(blocked(
        "backing off",
        o,
        Reason::BackingOff,
        with_passed_over(
            o,
            format!("{}. Next attempt at {}", failure.message, whole(at)),
        ),
        // What keeps the others from being tried may end without anybody saying so.
        if o.passed_over.is_some() {
            wake.min(later(now, LOOK_AGAIN))
        } else {
            wake
        },
        now,
    ))
}

/// No request may be sent to the directory now.
pub(super) fn plan_gate(o: &Observed, now: Timestamp) -> Option<Plan> {
    let gate = o.gate.as_ref().filter(|g| now < g.until)?;
    let message = format!("{}. Next attempt at {}", gate.message, whole(gate.until));
    Some(blocked("gate", o, gate.reason, message, gate.until, now))
}

/// The CA would refuse the order: the ledger has no token for it.
pub(super) fn plan_limit(o: &Observed, now: Timestamp) -> Option<Plan> {
    let limit = o.limit.as_ref().filter(|l| now < l.until)?;
    let message = format!(
        "{}. Next attempt at {}",
        limit.message,
        whole_up(limit.until)
    );
    Some(blocked(LIMIT, o, limit.reason, message, limit.until, now))
}

/// The Secret could not be written: no order is spent on a certificate that cannot be kept.
pub(super) fn plan_unwritable_secret(o: &Observed, now: Timestamp) -> Option<Plan> {
    let gate = o.unwritable.as_ref().filter(|g| now < g.until)?;
    let message = gate.message.clone();
    Some(blocked(
        "secret not writable",
        o,
        gate.reason,
        message,
        gate.until,
        now,
    ))
}

/// The pending key is missing or not of the wanted kind.
pub(super) fn plan_key(o: &Observed, now: Timestamp) -> Option<Plan> {
    let wanted = KeyKind::wanted(&o.spec.key());
    (o.companion.pending_key != Some(wanted) || o.is_pending_key_compromised()).then(|| {
        Plan::act(
            "no pending key",
            Step::PrepareKey,
            Reason::GeneratingKey,
            format!("making the key: {wanted}"),
            now,
        )
    })
}

/// A self-signed issuer needs no CA.
pub(super) fn plan_self_sign(o: &Observed, now: Timestamp) -> Option<Plan> {
    let IssuerObservation::Ready(issuer) = &o.issuer else {
        return None;
    };
    (issuer.directory == SELF_SIGNED).then(|| {
        Plan::act(
            "self-sign",
            Step::SelfSign,
            Reason::Storing,
            "signing with the certificate's own key",
            now,
        )
    })
}

/// No route can be made for a name: no order is placed that nobody could prove.
pub(super) fn plan_unroutable(o: &Observed, now: Timestamp) -> Option<Plan> {
    let why = o.unroutable.as_ref()?;
    Some(blocked(
        "no route",
        o,
        Reason::NoIngressClass,
        format!("{why}. No order is placed before. Looked at again every 30 s"),
        later(now, RECHECK),
        now,
    ))
}

/// DNS is definitely not ready: no order is placed, for [`HOLD`] at most, and no failed attempt is charged.
pub(super) fn plan_dns(o: &Observed, now: Timestamp) -> Option<Plan> {
    let Preflight::Seen(troubles) = &o.dns else {
        return None;
    };
    let since = find_held_since(o).map_or(now, |at| at.min(now));
    let until = later(since, HOLD);
    if troubles.is_empty() || now >= until {
        return None;
    }
    let mut told: Vec<String> = troubles
        .iter()
        .take(MOST_TOLD)
        .map(ToString::to_string)
        .collect();
    if troubles.len() > MOST_TOLD {
        told.push(format!("{} more names", troubles.len() - MOST_TOLD));
    }
    let message = format!(
        "{}. No order is placed before: it is looked at again every 30 s, and at {} the order is placed all the same",
        told.join("; "),
        whole(until)
    );
    let wake = later(now, RECHECK).min(until);
    Some(blocked(DNS, o, Reason::DNSNotReady, message, wake, now))
}

/// DNS is being looked at, for [`PATIENCE`] at most: who looks wakes the Certificate.
pub(super) fn plan_dns_look(o: &Observed, now: Timestamp) -> Option<Plan> {
    let Preflight::Looking { since } = o.dns else {
        return None;
    };
    let until = later(since, PATIENCE);
    (now < until).then(|| {
        let message = "DNS is being looked at";
        Plan::wait(
            DNS_LOOK,
            State::Issuing,
            Reason::PlacingOrder,
            message,
            until,
        )
    })
}

/// The solver does not answer yet: no order is placed that nobody could prove.
pub(super) fn plan_solver(o: &Observed, now: Timestamp) -> Option<Plan> {
    plan_start(&SOLVER, &o.solver, o, now)
}

/// The routes lead through a forwarder that may not be there, or is not ready: no order is placed while its namespace has no room.
pub(super) fn plan_forwarder(o: &Observed, now: Timestamp) -> Option<Plan> {
    match &o.forwarder {
        ForwarderState::Unneeded => None,
        ForwarderState::NotAllowed(why) => Some(blocked(
            "no placement",
            o,
            Reason::PlacementNotAllowed,
            format!("{why}. No order is placed before. Looked at again every 30 s"),
            later(now, RECHECK),
            now,
        )),
        ForwarderState::Needed(state) => plan_start(&FORWARDER, state, o, now),
    }
}

/// A pod of ours that an order waits for.
struct Pod {
    row: &'static str,
    name: &'static str,
    step: Step,
    starting: Reason,
    late: Reason,
}

const SOLVER: Pod = Pod {
    row: "solver",
    name: "the solver",
    step: Step::StartSolver,
    starting: Reason::StartingSolver,
    late: Reason::SolverNotReady,
};

const FORWARDER: Pod = Pod {
    row: "forwarder",
    name: "the forwarder in this namespace",
    step: Step::StartForwarder,
    starting: Reason::StartingForwarder,
    late: Reason::ForwarderNotReady,
};

fn plan_start(pod: &Pod, state: &SolverState, o: &Observed, now: Timestamp) -> Option<Plan> {
    match state {
        SolverState::Ready => None,
        SolverState::Absent => Some(Plan::act(
            pod.row,
            pod.step.clone(),
            pod.starting,
            format!("{} is being started", pod.name),
            now,
        )),
        SolverState::Starting { since, what } => {
            let message = format!(
                "{} is being started since {}: {what}",
                pod.name,
                whole(*since)
            );
            let patience = later(*since, SOLVER_PATIENCE);
            let mut plan = if now < patience {
                Plan::wait(pod.row, State::Issuing, pod.starting, message, patience)
            } else {
                blocked(pod.row, o, pod.late, message, later(now, RECHECK), now)
            };
            // Asked for again: it may have been removed meanwhile.
            plan.step = pod.step.clone();
            Some(plan)
        }
    }
}

/// No order is spent on a Secret that cannot be written.
pub(super) fn plan_try(o: &Observed, now: Timestamp) -> Option<Plan> {
    (!o.tried).then(|| {
        let message = format!(
            "a dry run tells whether Secret {} can be written",
            o.spec.secret_name
        );
        Plan::act(
            "Secret not tried",
            Step::TryWrite,
            Reason::PlacingOrder,
            message,
            now,
        )
    })
}

/// Only so many orders are under way at a time: its turn wakes the Certificate.
pub(super) fn plan_slot(o: &Observed, now: Timestamp) -> Option<Plan> {
    (!o.slot).then(|| {
        let message = "waits for its place among the orders under way";
        let wake = later(now, URGENCY);
        Plan {
            step: Step::Queue(Candidate::of(o, now)),
            ..Plan::wait(
                "slot",
                State::Issuing,
                Reason::WaitingForSlot,
                message,
                wake,
            )
        }
    })
}

/// Everything is there: the order is placed.
pub(super) fn place_order(now: Timestamp) -> Plan {
    Plan::act(
        "slot granted",
        Step::PlaceOrder,
        Reason::PlacingOrder,
        "the order is being placed",
        now,
    )
}

/// What keeps an attempt from beginning, for a reason other than its place in a lane.
pub(super) fn find_block(o: &Observed, now: Timestamp) -> Option<String> {
    if o.status.order.is_some() {
        return None;
    }
    let rows: &[Row] = &[
        plan_suspended,
        plan_issuer,
        plan_refused_name,
        plan_profile,
        plan_backoff,
        plan_held,
        plan_gate,
        plan_limit,
        plan_unwritable_secret,
    ];
    // A self-signed issuer needs no solver.
    let proving: &[Row] = match &o.issuer {
        IssuerObservation::Ready(issuer) if issuer.directory != SELF_SIGNED => {
            &[plan_unroutable, plan_dns, plan_solver, plan_forwarder]
        }
        IssuerObservation::Ready(_)
        | IssuerObservation::Missing
        | IssuerObservation::NotReady { .. } => &[],
    };
    rows.iter()
        .chain(proving)
        .find_map(|row| row(o, now))
        .filter(|plan| plan.say.state == State::Blocked)
        .map(|plan| plan.say.message)
}

/// With the reason why no other issuer is tried, where there are others.
fn with_passed_over(o: &Observed, message: String) -> String {
    match &o.passed_over {
        Some(why) => format!("{message}. {why}"),
        None => message,
    }
}

/// A wait that restore and fallback do not wait for: the wake-up is at the latest when the Secret is to be written.
fn blocked(
    row: &'static str,
    o: &Observed,
    reason: Reason,
    message: String,
    wake: Timestamp,
    now: Timestamp,
) -> Plan {
    let wake = secret::next_write(o, now).map_or(wake, |at| at.min(wake));
    Plan::wait(row, State::Blocked, reason, message, wake)
}

#[cfg(test)]
mod tests;
