//! Metrics, in the OpenMetrics format at `/metrics`.
//!
//! Labels come from closed lists, so that the number of series does not grow with what people write; only the gauges of one
//! certificate carry its name. Counters are this process's own, from its start on. Gauges are taken when they are asked for, from
//! what the leader knows at that moment, so that nothing that is gone is still told; a standby has none but that it is one.

mod labels;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use evercert_api::certificate::{AttemptOutcome, CertificateStatus};
use evercert_api::condition::{self, FALLBACK_IN_USE, READY, SERVED, STALLED};
use evercert_api::{Certificate, Reason};
use evercert_core::fault::Fault;
use evercert_core::limits::Budget;
use evercert_core::renewal::is_overdue;
use evercert_core::report::Change;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use self::labels::{
    Attempt, Directory, Ended, OfCertificate, OfIssuers, Outcome, Pass, Request, Status, Truth,
    Word,
};
pub(crate) use self::labels::{Endpoint, Kind};
use self::table::Metrics;
pub use self::table::build_document;
use crate::context::Context;
use crate::error::Error;

/// The metrics of this process.
static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

impl Metrics {
    /// Takes the gauges anew.
    fn look(&self, context: Option<&Context>, now: Timestamp) {
        self.leader.set(i64::from(context.is_some()));
        for family in self.of_certificates() {
            family.clear();
        }
        for family in self.of_directories() {
            family.clear();
        }
        self.issuers.clear();
        self.waiting.set(0);
        self.oldest.set(0);
        self.under_way.set(0);
        let Some(context) = context else { return };
        let queue = context.slots.count(now);
        self.waiting.set(count(queue.waiting));
        self.oldest.set(queue.oldest.as_secs().max(0));
        self.under_way.set(count(queue.under_way));
        for url in context.memory.open_breakers(now) {
            self.breakers.get_or_create(&Directory::of(&url)).inc();
        }
        let accounts = context.sessions.accounts().into_iter();
        let budgets = accounts.filter_map(|(account, url)| {
            let budget = context.ledger.budget(&url, &account, now)?;
            Some((Directory::of(&url), budget))
        });
        self.tell_budgets(budgets);
        for issuer in context.wake_issuers.issuers.state() {
            let status = issuer.status.as_ref();
            self.tell_issuer(Kind::Issuer, status.map(|s| &s.conditions));
        }
        for issuer in context.wake_issuers.cluster_issuers.state() {
            let status = issuer.status.as_ref();
            self.tell_issuer(Kind::ClusterIssuer, status.map(|s| &s.conditions));
        }
        for certificate in context.certificates.state() {
            self.tell(&certificate, now);
        }
    }

    fn of_certificates(&self) -> [&Family<OfCertificate, Gauge>; 8] {
        [
            &self.ready,
            &self.start,
            &self.expiry,
            &self.renewal,
            &self.overdue,
            &self.fallback,
            &self.stalled,
            &self.served,
        ]
    }

    fn of_directories(&self) -> [&Family<Directory, Gauge>; 4] {
        [
            &self.budget,
            &self.capacity,
            &self.next_order,
            &self.breakers,
        ]
    }

    /// Of the accounts at one directory the one is told that has the smallest part left.
    fn tell_budgets(&self, budgets: impl Iterator<Item = (Directory, Budget)>) {
        let mut least: BTreeMap<Directory, Budget> = BTreeMap::new();
        for (directory, budget) in budgets {
            if let Some(next) = budget.next {
                let latest = self.next_order.get_or_create(&directory);
                latest.set(latest.get().max(next.as_second()));
            }
            let known = least.entry(directory).or_insert(budget);
            if is_scarcer(&budget, known) {
                *known = budget;
            }
        }
        for (directory, budget) in least {
            let capacity = self.capacity.get_or_create(&directory);
            capacity.set(i64::from(budget.capacity));
            let orders = self.budget.get_or_create(&directory);
            orders.set(i64::from(budget.orders));
        }
    }

    fn tell_issuer(&self, kind: Kind, conditions: Option<&Vec<Condition>>) {
        for ready in [true, false] {
            // Both, so that a rule sees a none as 0.
            let ready = Truth(ready);
            let _ = self.issuers.get_or_create(&OfIssuers { kind, ready });
        }
        let ready = Truth(conditions.is_some_and(|all| condition::is_true(all, READY)));
        self.issuers.get_or_create(&OfIssuers { kind, ready }).inc();
    }

    fn tell(&self, certificate: &Certificate, now: Timestamp) {
        let of = OfCertificate {
            namespace: certificate.namespace().unwrap_or_default(),
            name: certificate.name_any(),
        };
        let none = CertificateStatus::default();
        let status = certificate.status.as_ref().unwrap_or(&none);
        let holds = |kind| i64::from(condition::is_true(&status.conditions, kind));
        self.ready.get_or_create(&of).set(holds(READY));
        self.fallback.get_or_create(&of).set(holds(FALLBACK_IN_USE));
        self.stalled.get_or_create(&of).set(holds(STALLED));
        if let Some(told) = condition::find(&status.conditions, SERVED)
            && told.status != "Unknown"
        {
            self.served.get_or_create(&of).set(holds(SERVED));
        }
        for (family, at) in [
            (&self.start, &status.not_before),
            (&self.expiry, &status.not_after),
            (&self.renewal, &status.renewal_time),
        ] {
            if let Some(Time(at)) = at {
                family.get_or_create(&of).set(at.as_second());
            }
        }
        let is_late = match (&status.renewal_time, &status.not_after) {
            (Some(renewal), Some(expiry)) => is_overdue(renewal.0, expiry.0, now),
            (Some(_) | None, _) => false,
        };
        let overdue = self.overdue.get_or_create(&of);
        overdue.set(i64::from(is_late && !certificate.spec.suspend));
    }

    fn note_attempt(&self, change: &Change, begun: Option<Timestamp>, now: Timestamp) {
        let (outcome, reason) = match change {
            Change::None | Change::Placed(_) | Change::Polled(_) => return,
            Change::Revoked(_) => (AttemptOutcome::Revoked, Reason::Revoked),
            Change::Cleared(ending) => (ending.outcome, ending.reason),
            Change::Failed(failure) => (AttemptOutcome::Failed, failure.reason),
        };
        if outcome == AttemptOutcome::Issued
            && let Some(begun) = begun
        {
            // Not below zero: another machine's clock may have been ahead.
            let took = now.duration_since(begun).as_secs_f64();
            self.issuance.observe(took.max(0.0));
        }
        let (outcome, reason) = (Outcome(outcome), Word(reason));
        self.attempts
            .get_or_create(&Attempt { outcome, reason })
            .inc();
    }
}

/// Whether a smaller part is left of `one` than of `other`.
fn is_scarcer(one: &Budget, other: &Budget) -> bool {
    let left = |of: &Budget, than: &Budget| u64::from(of.orders) * u64::from(than.capacity);
    left(one, other) < left(other, one)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Counts a request to a CA by its answer.
pub(crate) fn note_request<T>(endpoint: Endpoint, answer: &Result<T, Fault>) {
    let status = Status::of(answer);
    METRICS
        .requests
        .get_or_create(&Request { endpoint, status })
        .inc();
}

/// Counts an attempt that has ended, if one has; `begun` is when its order was placed, where there is one.
pub(crate) fn note_attempt(change: &Change, begun: Option<Timestamp>, now: Timestamp) {
    METRICS.note_attempt(change, begun, now);
}

/// Counts a pass by how it ended.
pub(crate) fn note_pass(kind: Kind, error: Option<&Error>) {
    let result = match error {
        None => Ended::Done,
        Some(error) if error.is_conflict() => Ended::Conflict,
        Some(_) => Ended::Failed,
    };
    METRICS.passes.get_or_create(&Pass { kind, result }).inc();
}

/// The text of all metrics, as they are now; `context` is the leader's.
pub(crate) fn render(context: Option<&Context>, now: Timestamp) -> String {
    METRICS.look(context, now);
    let mut text = String::new();
    // Infallible: it is written into memory.
    let _ = encode(&mut text, &METRICS.registry);
    text
}
