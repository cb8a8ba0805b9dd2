//! Rows of an order under way, read from the CA and never from a status.

use evercert_api::certificate::OrderStatus;
use evercert_api::issuer::SelfCheckMode;
use evercert_api::{Identifier, Reason};
use jiff::{SignedDuration, Timestamp};

use super::{Failure, Plan, RECHECK, State, Step, later, secret, start};
use crate::backoff::next_poll;
use crate::facts::KeyKind;
use crate::fault::{
    Fault, FaultClass, LONGEST_WAIT, Place, Problem, Subproblem, classify_problem,
    rate_limit_instant, severity, unpause_url,
};
use crate::need::{find_need, whole};
use crate::observe::{
    IssuerObservation, Observed, OrderObservation, Presented, Reach, ReadOrder, SELF_SIGNED,
};
use crate::order::{OrderState, OrderView, ProofState};
use crate::reach::{SelfCheck, build_findings};
use crate::sentence::{build_fault, build_order_failure, find_problems, list};

/// How long an entry point that cannot be reached from here does: it may begin to listen with its first route.
const UNREACHABLE_HOLDS: SignedDuration = SignedDuration::from_secs(3);
/// How long an order may wait for a route that the API server refuses.
const UNROUTABLE_HOLDS: SignedDuration = SignedDuration::from_mins(10);
/// How long an order lives whose CA does not say it (RFC 8555 §7.1.3): as long as those of Let's Encrypt.
const UNTOLD_LIFETIME: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How often a read of an order is tried before the attempt counts as failed, when the fault is not the directory's.
const READ_TRIES: u32 = 5;
/// How many failed reads in a row mean that the order is held, and not only slow.
const READS_TO_HOLD: u32 = 3;

/// The order no longer fits: other names, another issuer or key are wanted, nothing is wanted, or a name is no longer allowed
/// while the CA would sign.
pub(super) fn plan_abandon(o: &Observed, now: Timestamp) -> Option<Plan> {
    let order = o.status.order.as_ref()?;
    let mut ordered = order.names.clone();
    ordered.sort_unstable();
    let ready =
        matches!(&o.order, OrderObservation::Read(read) if read.view.state == OrderState::Ready);
    let why = if ordered != o.wanted_names() {
        "the wanted names changed".to_owned()
    } else if order.issuer != o.issuer_id() {
        "the issuer changed".to_owned()
    } else if matches!(&o.issuer, IssuerObservation::Ready(issuer) if issuer.directory == SELF_SIGNED)
    {
        "the issuer signs by itself now".to_owned()
    } else if o.companion.pending_key != Some(KeyKind::wanted(&o.spec.key())) {
        "the order's key is gone or not of the wanted kind".to_owned()
    } else if o.is_pending_key_compromised() {
        "its key is compromised".to_owned()
    } else if let Some(refusal) = o.refusal.as_ref().filter(|_| ready) {
        refusal.message.clone()
    } else if find_need(o, now).is_none() {
        "the certificate is in place".to_owned()
    } else {
        return None;
    };
    let message = format!("the order is given up: {why}");
    Some(Plan::act(
        "abandon",
        Step::Abandon { why },
        Reason::OrderAbandoned,
        message,
        now,
    ))
}

/// An order under way.
pub(super) fn plan_order(o: &Observed, now: Timestamp) -> Option<Plan> {
    let order = o.status.order.as_ref()?;
    let over = is_over(order, now);
    if let Some(mut held) = start::plan_issuer(o, now) {
        if over {
            return Some(record_expired(now));
        }
        held.say.state = State::Issuing;
        return Some(held);
    }
    if let Some(gate) = o.gate.as_ref().filter(|g| now < g.until && !over) {
        let message = format!(
            "{}. The order under way goes on at {}",
            gate.message,
            whole(gate.until)
        );
        let wake = secret::next_write(o, now).map_or(gate.until, |at| at.min(gate.until));
        return Some(Plan::wait(
            "order held by its directory",
            State::Issuing,
            gate.reason,
            message,
            wake,
        ));
    }
    Some(match &o.order {
        OrderObservation::None | OrderObservation::Unread => refresh("order not read yet", now),
        OrderObservation::Failed { fault, at, times } => {
            if over {
                record_expired(now)
            } else {
                plan_failed_read(fault, *at, *times, now)
            }
        }
        OrderObservation::Read(read) => plan_read(o, order, read, now),
    })
}

/// What keeps an order under way from going on, other than the CA's own work.
pub(super) fn find_hold(o: &Observed, now: Timestamp) -> Option<String> {
    o.status.order.as_ref()?;
    if let Some(issuer) = start::plan_issuer(o, now) {
        return Some(issuer.say.message);
    }
    if let Some(gate) = o.gate.as_ref().filter(|g| now < g.until) {
        return Some(gate.message.clone());
    }
    match (&o.order, &o.presented) {
        (OrderObservation::Failed { fault, times, .. }, _) if *times >= READS_TO_HOLD => {
            Some(build_fault(fault))
        }
        (OrderObservation::Read(read), Presented::Failed(why))
            if read.view.state == OrderState::Pending =>
        {
            Some(format!("the route to the solver cannot be made: {why}"))
        }
        (OrderObservation::Read(read), Presented::Applied)
            if read.view.state == OrderState::Pending
                && o.self_check.mode == SelfCheckMode::Required =>
        {
            let held = read
                .view
                .open_challenges()
                .filter(|(_, c)| c.state == ProofState::Pending && !read.accepted.contains(&c.url));
            let names: Vec<&str> = held.map(|(a, _)| a.name.as_str()).collect();
            describe_seen(o, &names)
        }
        _ => None,
    }
}

/// Whether the order was placed so long ago that it need not wait for its route any more.
fn is_long_since(order: Option<&OrderStatus>, now: Timestamp) -> bool {
    order.is_some_and(|o| later(o.created_at.0, UNROUTABLE_HOLDS) <= now)
}

/// Whether the CA has let the order go by what the status says.
fn is_over(order: &OrderStatus, now: Timestamp) -> bool {
    let untold = || later(order.created_at.0, UNTOLD_LIFETIME);
    order.expires.as_ref().map_or_else(untold, |at| at.0) <= now
}

fn plan_failed_read(fault: &Fault, at: Timestamp, times: u32, now: Timestamp) -> Plan {
    match fault.class {
        FaultClass::Gone => {
            let message = format!("the CA no longer knows the order: {}", build_fault(fault));
            return record_fault(Reason::OrderLost, fault.clone(), message, now);
        }
        FaultClass::Permanent => {
            return record_fault(Reason::BadAnswer, fault.clone(), build_fault(fault), now);
        }
        FaultClass::RateLimited
        | FaultClass::Validation
        | FaultClass::Unavailable
        | FaultClass::Account
        | FaultClass::Transient
        | FaultClass::NotReady => {}
    }
    if times >= READ_TRIES && !fault.is_directorys() {
        return record_fault(Reason::OrderFailed, fault.clone(), build_fault(fault), now);
    }
    let pause = SignedDuration::from_secs(i64::from(times.clamp(1, 6)) * 5);
    let again = fault
        .retry_after
        .map_or(at, |said| said.min(later(at, LONGEST_WAIT)))
        .max(later(at, pause));
    if again <= now {
        return refresh("order read failed", now);
    }
    let message = format!("{}. Asked again at {}", build_fault(fault), whole(again));
    let reason = if fault.class == FaultClass::RateLimited {
        Reason::RateLimited
    } else {
        Reason::CAUnavailable
    };
    Plan::wait("order read failed", State::Issuing, reason, message, again)
}

fn plan_read(o: &Observed, order: &OrderStatus, read: &ReadOrder, now: Timestamp) -> Plan {
    let view = &read.view;
    let wanted: Vec<Identifier> = o
        .wanted_names()
        .iter()
        .filter_map(|n| Identifier::parse(n).ok())
        .collect();
    if !view.is_for(&wanted) {
        let message = format!(
            "the CA's order is for {}, not for the wanted names",
            list(&view.names)
        );
        return record(Reason::BadAnswer, FaultClass::Transient, message, now);
    }
    let stale = read.changed_at.is_some_and(|at| at > view.read_at);
    match view.state {
        OrderState::Invalid => record_invalid(o, view, now),
        OrderState::Valid => plan_store(o, now),
        _ if view
            .expires
            .map_or_else(|| is_over(order, now), |at| at <= now) =>
        {
            record_expired(now)
        }
        _ if stale => poll_after_change(read, now),
        OrderState::Ready => Plan::act(
            "order ready",
            Step::Finalize,
            Reason::Finalizing,
            "the CA is asked to sign",
            now,
        ),
        OrderState::Processing => poll(
            "order processing",
            order,
            read,
            Reason::Finalizing,
            "the CA is signing the certificate".to_owned(),
            now,
        ),
        OrderState::Pending => plan_pending(o, order, read, now),
    }
}

fn plan_store(o: &Observed, now: Timestamp) -> Plan {
    if let Some(mut wait) = start::plan_unwritable_secret(o, now) {
        wait.say.state = State::Issuing;
        return wait;
    }
    let message = "the certificate is being stored";
    Plan::act("order valid", Step::Store, Reason::Storing, message, now)
}

fn plan_pending(o: &Observed, order: &OrderStatus, read: &ReadOrder, now: Timestamp) -> Plan {
    let view = &read.view;
    if view
        .authorizations
        .iter()
        .any(|a| a.state == ProofState::Invalid)
    {
        return record_invalid(o, view, now);
    }
    if let Some(a) = view
        .authorizations
        .iter()
        .find(|a| a.state == ProofState::Pending && a.challenge.is_none())
    {
        let message = format!(
            "the CA offers no HTTP-01 challenge for {}: use another issuer for this name",
            a.name
        );
        return record(Reason::Rejected, FaultClass::Permanent, message, now);
    }
    let waiting: Vec<_> = view
        .open_challenges()
        .filter(|(_, c)| c.state == ProofState::Pending && !read.accepted.contains(&c.url))
        .collect();
    if waiting.is_empty() {
        let names: Vec<&str> = view
            .open_challenges()
            .map(|(a, _)| a.name.as_str())
            .collect();
        let seen = describe_seen(o, &names).map_or_else(String::new, |seen| {
            format!(". What is not known to be good: {seen}")
        });
        return poll(
            "challenges accepted",
            order,
            read,
            Reason::Validating,
            format!("the CA is validating the names{seen}"),
            now,
        );
    }
    match &o.presented {
        Presented::No => {
            return Plan::act(
                "not presented",
                Step::Present,
                Reason::WaitingForRoute,
                "the route to the solver is being made",
                now,
            );
        }
        // The projection wakes the Certificate; asked for again after a while, which is idempotent.
        Presented::Pending => {
            let message = "the route to the solver is being made";
            return Plan {
                step: Step::Present,
                ..Plan::wait(
                    "being presented",
                    State::Issuing,
                    Reason::WaitingForRoute,
                    message,
                    later(now, SignedDuration::from_secs(5)),
                )
            };
        }
        Presented::Failed(why) if is_long_since(o.status.order.as_ref(), now) => {
            let message = format!("the route to the solver cannot be made: {why}");
            return record(Reason::OrderFailed, FaultClass::Transient, message, now);
        }
        Presented::Failed(why) => {
            return Plan {
                step: Step::Present,
                ..Plan::wait(
                    "not presentable",
                    State::Issuing,
                    Reason::WaitingForRoute,
                    format!("the route to the solver cannot be made: {why}"),
                    later(now, SignedDuration::from_secs(5)),
                )
            };
        }
        Presented::Applied => {}
    }
    let reach = |name: &str| find_reach(o, name);
    let accept: Vec<String> = waiting
        .iter()
        .filter(|(a, _)| held_until(o.self_check, reach(&a.name)).is_some_and(|at| at <= now))
        .map(|(_, c)| c.url.clone())
        .collect();
    if !accept.is_empty() {
        let message = "the CA is told that the challenges are ready";
        return Plan::act(
            "reachable",
            Step::Accept(accept),
            Reason::Validating,
            message,
            now,
        );
    }
    let due: Vec<String> = waiting
        .iter()
        .filter(|(a, _)| reach(&a.name).is_none_or(|r| next_look(r) <= now))
        .map(|(a, _)| a.name.clone())
        .collect();
    if !due.is_empty() {
        return Plan::act(
            "presented",
            Step::Probe(due),
            Reason::WaitingForRoute,
            "the route to the solver is being tried",
            now,
        );
    }
    let looks: Vec<&Reach> = waiting.iter().filter_map(|(a, _)| reach(&a.name)).collect();
    let wake = looks
        .iter()
        .map(|r| {
            let look = next_look(r);
            held_until(o.self_check, Some(r)).map_or(look, |at| at.min(look))
        })
        .min()
        .unwrap_or_else(|| later(now, RECHECK));
    let names: Vec<&str> = waiting.iter().map(|(a, _)| a.name.as_str()).collect();
    let message = format!(
        "the way to the solver is not good yet: {}",
        describe_held(o, order, &names)
    );
    Plan::wait(
        "wrong answer",
        State::Issuing,
        Reason::WaitingForRoute,
        message,
        wake,
    )
}

fn find_reach<'a>(o: &'a Observed, name: &str) -> Option<&'a Reach> {
    o.reach.iter().find(|(n, _)| n == name).map(|(_, r)| r)
}

/// What was seen of `names` that is not good.
fn describe_seen(o: &Observed, names: &[&str]) -> Option<String> {
    let seen: Vec<(&str, &str)> = names
        .iter()
        .filter_map(|name| Some((*name, find_reach(o, name)?.seen()?.what.as_str())))
        .collect();
    (!seen.is_empty()).then(|| build_findings(&seen))
}

/// The same, and what follows for the order.
fn describe_held(o: &Observed, order: &OrderStatus, names: &[&str]) -> String {
    let seen = describe_seen(o, names).unwrap_or_default();
    let until = names
        .iter()
        .filter_map(|name| held_until(o.self_check, find_reach(o, name)))
        .max();
    match (o.self_check.mode, until) {
        (SelfCheckMode::Required, _) => {
            let expires = order.expires.as_ref();
            let until = expires.map_or_else(
                || "until the order expires".to_owned(),
                |at| format!("until the order expires at {}", whole(at.0)),
            );
            format!(
                "{seen}. The issuer's spec.acme.http01.selfCheck.mode is Required: the CA is not asked {until} unless the way is good; it \
                 is looked at again by itself"
            )
        }
        (SelfCheckMode::Advisory | SelfCheckMode::Off, Some(until)) => {
            format!(
                "{seen}. It is looked at again by itself, and the CA is asked at {} in any case",
                whole(until)
            )
        }
        (SelfCheckMode::Advisory | SelfCheckMode::Off, None) => seen,
    }
}

/// Until when the self-check, which is advice, holds the order back: a wrong answer for its budget at most, none at all for 3 s,
/// since some ingress controllers begin to listen with their first route. `None`: until the way is good, or it was not looked at.
fn held_until(check: SelfCheck, reach: Option<&Reach>) -> Option<Timestamp> {
    match (check.mode, reach) {
        (SelfCheckMode::Off, _)
        | (_, Some(Reach::Reachable))
        | (SelfCheckMode::Advisory, Some(Reach::Unverified(_))) => Some(Timestamp::MIN),
        (SelfCheckMode::Required, _) | (SelfCheckMode::Advisory, None) => None,
        (SelfCheckMode::Advisory, Some(Reach::Unreachable(seen))) => {
            Some(later(seen.since, UNREACHABLE_HOLDS))
        }
        (SelfCheckMode::Advisory, Some(Reach::Wrong(seen))) => {
            Some(later(seen.since, check.budget))
        }
    }
}

/// What is not good is looked at again after half the time it has lasted, 50 ms to 5 s; after ten minutes every 30 s.
fn next_look(reach: &Reach) -> Timestamp {
    let Some(seen) = reach.seen() else {
        return Timestamp::MIN;
    };
    let lasted = seen.at.duration_since(seen.since);
    let most = if lasted < SignedDuration::from_mins(10) {
        SignedDuration::from_secs(5)
    } else {
        RECHECK
    };
    later(
        seen.at,
        (lasted / 2).clamp(SignedDuration::from_millis(50), most),
    )
}

fn poll_after_change(read: &ReadOrder, now: Timestamp) -> Plan {
    let changed = read.changed_at.unwrap_or(read.view.read_at);
    let at = next_poll(None, changed, changed);
    if at <= now {
        return refresh("changed since it was read", now);
    }
    Plan::wait(
        "changed since it was read",
        State::Issuing,
        Reason::Validating,
        "the CA is validating the names",
        at,
    )
}

fn poll(
    row: &'static str,
    order: &OrderStatus,
    read: &ReadOrder,
    reason: Reason,
    message: String,
    now: Timestamp,
) -> Plan {
    // After a restart nobody knows when the CA was told.
    let since = read.changed_at.unwrap_or(order.created_at.0);
    let at = next_poll(read.view.retry_after, since, read.view.read_at);
    if at <= now {
        refresh(row, now)
    } else {
        Plan::wait(row, State::Issuing, reason, message, at)
    }
}

fn refresh(row: &'static str, now: Timestamp) -> Plan {
    Plan {
        wake: later(now, RECHECK),
        ..Plan::act(
            row,
            Step::Refresh,
            Reason::Validating,
            "the order is being read at the CA",
            now,
        )
    }
}

fn record_invalid(o: &Observed, view: &OrderView, now: Timestamp) -> Plan {
    let (_, mut message) = build_order_failure(view);
    let problems = find_problems(view);
    let blamed: Vec<&str> = problems.iter().filter_map(|(name, _)| *name).collect();
    if let Some(seen) = describe_seen(o, &blamed) {
        message.push_str(". The self-check saw before: ");
        message.push_str(&seen);
    } else if !blamed.is_empty()
        && blamed
            .iter()
            .all(|name| find_reach(o, name) == Some(&Reach::Reachable))
    {
        message.push_str(". Seen from here the way was good: look at what differs outside, such as a firewall, a block by country, or DNS");
    }
    let class = problems
        .iter()
        // An invalid order is an answer of a CA that works, whatever its problem is called.
        .map(|(_, p)| classify_problem(p, Some(400), Place::Challenge))
        .max_by_key(|class| severity(*class))
        .unwrap_or(FaultClass::Transient);
    let page = problems.iter().find_map(|(_, p)| unpause_url(&p.detail));
    let reason = match class {
        FaultClass::Permanent if page.is_some() => Reason::Paused,
        FaultClass::Validation => Reason::ValidationFailed,
        FaultClass::Permanent => Reason::Rejected,
        FaultClass::RateLimited => Reason::RateLimited,
        FaultClass::Unavailable
        | FaultClass::Account
        | FaultClass::Transient
        | FaultClass::Gone
        | FaultClass::NotReady => Reason::OrderFailed,
    };
    let fault = Fault {
        class,
        problem: join_problems(&problems, class),
        http_status: None,
        retry_after: problems
            .iter()
            .filter_map(|(_, p)| rate_limit_instant(p))
            .max(),
        unsent: false,
        help_url: page.map(str::to_owned),
        detail: message.clone(),
    };
    record_fault(reason, fault, message, now)
}

/// What the CA said that is of the class which counts: one problem, or several as one.
fn join_problems(problems: &[(Option<&str>, &Problem)], class: FaultClass) -> Option<Problem> {
    let mut of_class = problems
        .iter()
        .filter(|(_, p)| classify_problem(p, Some(400), Place::Challenge) == class);
    let (_, first) = of_class.next()?;
    let others: Vec<_> = of_class.collect();
    if others.is_empty() {
        return Some((*first).clone());
    }
    let part = |(name, problem): &(Option<&str>, &Problem)| Subproblem {
        identifier: name.map(str::to_owned),
        kind: problem.kind.clone(),
        detail: problem.detail.clone(),
    };
    Some(Problem {
        kind: "compound".to_owned(),
        detail: String::new(),
        subproblems: problems.iter().map(part).collect(),
    })
}

fn record_expired(now: Timestamp) -> Plan {
    let message = "the order's time ran out at the CA".to_owned();
    record(Reason::OrderExpired, FaultClass::Transient, message, now)
}

fn record(reason: Reason, class: FaultClass, message: String, now: Timestamp) -> Plan {
    let fault = Fault {
        class,
        problem: None,
        http_status: None,
        retry_after: None,
        help_url: None,
        unsent: false,
        detail: message.clone(),
    };
    record_fault(reason, fault, message, now)
}

fn record_fault(reason: Reason, fault: Fault, message: String, now: Timestamp) -> Plan {
    let failure = Failure {
        reason,
        message: message.clone(),
        fault,
    };
    let mut plan = Plan::act("order failed", Step::Record(failure), reason, message, now);
    plan.say.state = State::Blocked;
    plan
}

#[cfg(test)]
mod tests;
