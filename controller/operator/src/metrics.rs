//! Metrics, in the OpenMetrics format at `/metrics`.
//!
//! Labels come from closed lists, so that the number of series does not grow with what people write; only the gauges of one
//! certificate carry its name. Counters are this process's own, from its start on. Gauges are taken when they are asked for, from
//! what the leader knows at that moment, so that nothing that is gone is still told; a standby has none but that it is one.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::LazyLock;

use evercert_api::certificate::AttemptOutcome;
use evercert_api::condition::{self, FALLBACK_IN_USE, READY, SERVED};
use evercert_api::issuer::{WELL_KNOWN, directory_url};
use evercert_api::{Certificate, Reason};
use evercert_core::fault::Fault;
use evercert_core::report::Change;
use jiff::Timestamp;
use kube::ResourceExt;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::context::Context;

/// The metrics of this process.
static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// What a request to a CA is about (RFC 8555 §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Endpoint {
    /// An account is given other contacts.
    Account,
    /// An account is given another key.
    KeyChange,
    /// An account is registered.
    NewAccount,
    /// An order is placed.
    NewOrder,
    /// An order is read, with its authorizations.
    Order,
    /// Challenges are accepted.
    Challenge,
    /// An order is finalized.
    Finalize,
    /// A certificate is downloaded.
    Certificate,
    /// Authorizations are given back.
    Authorization,
    /// A certificate is revoked.
    RevokeCert,
}

/// The word of a label from a closed list.
macro_rules! words {
    ($kind:ident { $($variant:ident $word:literal),* $(,)? }) => {
        impl EncodeLabelValue for $kind {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
                encoder.write_str(match self { $(Self::$variant => $word),* })
            }
        }
    };
}

words!(Endpoint {
    Account "account",
    KeyChange "keyChange",
    NewAccount "newAccount",
    NewOrder "newOrder",
    Order "order",
    Challenge "challenge",
    Finalize "finalize",
    Certificate "certificate",
    Authorization "authorization",
    RevokeCert "revokeCert",
});

/// How a CA answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Status {
    Success,
    RateLimited,
    ClientError,
    ServerError,
    NoAnswer,
}

words!(Status {
    Success "2xx",
    RateLimited "429",
    ClientError "4xx",
    ServerError "5xx",
    NoAnswer "none",
});

impl Status {
    fn of<T>(answer: &Result<T, Fault>) -> Self {
        match answer {
            Ok(_) => Self::Success,
            Err(fault) => match fault.http_status {
                Some(429) => Self::RateLimited,
                Some(500..) => Self::ServerError,
                // A good status with a bad body.
                Some(..400) => Self::Success,
                Some(_) => Self::ClientError,
                None => Self::NoAnswer,
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    endpoint: Endpoint,
    status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Outcome(AttemptOutcome);

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(match self.0 {
            AttemptOutcome::Issued => "Issued",
            AttemptOutcome::Failed => "Failed",
            AttemptOutcome::Abandoned => "Abandoned",
            AttemptOutcome::Revoked => "Revoked",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Word(Reason);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(self.0.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    outcome: Outcome,
    reason: Word,
}

/// A directory by its well-known name, `other` without one: a URL is what a tenant writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct Directory {
    directory: &'static str,
}

impl Directory {
    fn of(url: &str) -> Self {
        let known = WELL_KNOWN.iter().find(|name| directory_url(name) == url);
        Self {
            directory: known.copied().unwrap_or("other"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCertificate {
    namespace: String,
    name: String,
}

/// All of them.
#[derive(Default)]
struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    attempts: Family<Attempt, Counter>,
    leader: Gauge,
    budget: Family<Directory, Gauge>,
    next_order: Family<Directory, Gauge>,
    breakers: Family<Directory, Gauge>,
    waiting: Gauge,
    under_way: Gauge,
    expiry: Family<OfCertificate, Gauge>,
    ready: Family<OfCertificate, Gauge>,
    fallback: Family<OfCertificate, Gauge>,
    served: Family<OfCertificate, Gauge>,
}

impl Metrics {
    fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("evercert"),
            ..Self::default()
        };
        macro_rules! register {
            ($($field:ident $name:literal $help:literal;)*) => {
                $(metrics.registry.register($name, $help, metrics.$field.clone());)*
            };
        }
        register! {
            requests "acme_requests" "Requests to CAs; an order is read with its authorizations as one";
            attempts "attempts" "Attempts to have a certificate of a CA that have ended";
            leader "leader" "Whether this process holds the Lease, and acts";
            budget "budget_orders" "New orders that the CAs' limits leave, of the account that has the fewest left";
            next_order "next_order_timestamp_seconds" "When the CAs' limits allow the next new order, where they allow none now";
            breakers "breakers_open" "Directories that are not asked for anything now, since they do not answer as they should";
            waiting "orders_waiting" "Certificates that wait for a place to order";
            under_way "orders_under_way" "Orders under way";
            expiry "certificate_expiry_timestamp_seconds" "When the issued certificate in the Secret expires";
            ready "certificate_ready" "Whether the Certificate is Ready";
            fallback "certificate_fallback" "Whether a fallback stands in";
            served "certificate_served" "Whether the entry point presents the certificate in the Secret, where that can be seen";
        }
        metrics
    }

    /// Takes the gauges anew.
    fn look(&self, context: Option<&Context>, now: Timestamp) {
        self.leader.set(i64::from(context.is_some()));
        for family in [&self.expiry, &self.ready, &self.fallback, &self.served] {
            family.clear();
        }
        for family in [&self.budget, &self.next_order, &self.breakers] {
            family.clear();
        }
        self.waiting.set(0);
        self.under_way.set(0);
        let Some(context) = context else { return };
        let (waiting, under_way) = context.slots.count();
        self.waiting.set(count(waiting));
        self.under_way.set(count(under_way));
        for url in context.memory.open_breakers(now) {
            self.breakers.get_or_create(&Directory::of(&url)).inc();
        }
        let mut least: BTreeMap<Directory, u32> = BTreeMap::new();
        for (account, url) in context.sessions.accounts() {
            if let Some(budget) = context.ledger.budget(&url, &account, now) {
                let directory = Directory::of(&url);
                if let Some(next) = budget.next {
                    let latest = self.next_order.get_or_create(&directory);
                    latest.set(latest.get().max(next.as_second()));
                }
                let left = least.entry(directory).or_insert(u32::MAX);
                *left = budget.orders.min(*left);
            }
        }
        for (directory, orders) in least {
            self.budget.get_or_create(&directory).set(i64::from(orders));
        }
        for certificate in context.certificates.state() {
            self.tell(&certificate);
        }
    }

    fn tell(&self, certificate: &Certificate) {
        let of = OfCertificate {
            namespace: certificate.namespace().unwrap_or_default(),
            name: certificate.name_any(),
        };
        let Some(status) = &certificate.status else {
            self.ready.get_or_create(&of).set(0);
            return;
        };
        let holds = |kind| {
            let found = condition::find(&status.conditions, kind);
            i64::from(found.is_some_and(|c| c.status == "True"))
        };
        self.ready.get_or_create(&of).set(holds(READY));
        self.fallback.get_or_create(&of).set(holds(FALLBACK_IN_USE));
        if let Some(told) = condition::find(&status.conditions, SERVED)
            && told.status != "Unknown"
        {
            self.served.get_or_create(&of).set(holds(SERVED));
        }
        if let Some(until) = &status.not_after {
            self.expiry.get_or_create(&of).set(until.0.as_second());
        }
    }
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

/// Counts an attempt that has ended, if one has.
pub(crate) fn note_attempt(change: &Change) {
    let (outcome, reason) = match change {
        Change::None | Change::Placed(_) | Change::Polled(_) => return,
        Change::Revoked(_) => (AttemptOutcome::Revoked, Reason::Revoked),
        Change::Cleared(ending) => (ending.outcome, ending.reason),
        Change::Failed(failure) => (AttemptOutcome::Failed, failure.reason),
    };
    let (outcome, reason) = (Outcome(outcome), Word(reason));
    METRICS
        .attempts
        .get_or_create(&Attempt { outcome, reason })
        .inc();
}

/// The text of all metrics, as they are now; `context` is the leader's.
pub(crate) fn render(context: Option<&Context>, now: Timestamp) -> String {
    METRICS.look(context, now);
    let mut text = String::new();
    // Infallible: it is written into memory.
    let _ = encode(&mut text, &METRICS.registry);
    text
}

#[cfg(test)]
mod tests {
    use evercert_core::fault::FaultClass;
    use serde_json::json;

    use super::*;

    fn text(metrics: &Metrics) -> String {
        let mut text = String::new();
        encode(&mut text, &metrics.registry).unwrap();
        text
    }

    #[test]
    fn an_answer_counts_by_its_status() {
        let fault = |http_status| Fault {
            class: FaultClass::Transient,
            problem: None,
            http_status,
            retry_after: None,
            help_url: None,
            unsent: false,
            detail: String::new(),
        };
        let statuses = [Some(200), Some(403), Some(429), Some(503), None];
        assert_eq!(
            statuses.map(|status| Status::of::<()>(&Err(fault(status)))),
            [
                Status::Success,
                Status::ClientError,
                Status::RateLimited,
                Status::ServerError,
                Status::NoAnswer
            ]
        );
        assert_eq!(Status::of(&Ok(())), Status::Success);
    }

    #[test]
    fn directories_are_told_by_a_closed_list() {
        let known = directory_url("LetsEncrypt");
        assert_eq!(Directory::of(known).directory, "LetsEncrypt");
        assert_eq!(Directory::of("https://ca.example/dir").directory, "other");
    }

    #[test]
    fn a_certificate_is_told_with_its_name_and_what_is_gone_is_told_no_longer() {
        let metrics = Metrics::new();
        let certificate: Certificate = serde_json::from_value(json!({
            "apiVersion": "evercert.dev/v1", "kind": "Certificate", "metadata": {"name": "site", "namespace": "shop"},
            "spec": {"secretName": "site", "dnsNames": ["a.example"], "issuerRef": {"name": "ca"}},
            "status": {
                "notAfter": "2027-01-01T00:00:00Z",
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "Issued", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }, {
                    "type": "Served", "status": "False", "reason": "Stale", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            },
        }))
        .unwrap();
        metrics.tell(&certificate);
        let told = text(&metrics);
        for line in [
            r#"evercert_certificate_ready{namespace="shop",name="site"} 1"#,
            r#"evercert_certificate_served{namespace="shop",name="site"} 0"#,
            r#"evercert_certificate_fallback{namespace="shop",name="site"} 0"#,
            r#"evercert_certificate_expiry_timestamp_seconds{namespace="shop",name="site"} 1798761600"#,
        ] {
            assert!(told.contains(line), "{line}\n{told}");
        }
        metrics.look(None, Timestamp::UNIX_EPOCH);
        let told = text(&metrics);
        assert!(!told.contains("shop"), "{told}");
        assert!(told.contains("evercert_leader 0"), "{told}");
    }
}
