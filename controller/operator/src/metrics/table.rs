//! The table of metrics: from one line each is registered and told to its readers.

use std::fmt::Write;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::labels::{Attempt, Build, Directory, OfCertificate, OfIssuers, Pass, Request};

/// What stands before every name.
const PREFIX: &str = "evercert";

/// The upper bounds of the times that an issuance takes, in seconds.
const ISSUANCE: [f64; 12] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
];

/// A row: what a reader of metrics has to know of one.
struct Row {
    name: &'static str,
    /// What a scrape shows after the name.
    suffix: &'static str,
    kind: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
}

macro_rules! metrics {
    ($($field:ident: $type:ty = $new:expr, $name:literal $suffix:literal $kind:ident [$($label:ident),*] $help:literal;)*) => {
        /// All of them.
        pub(super) struct Metrics {
            pub(super) registry: Registry,
            $(pub(super) $field: $type,)*
        }

        const TABLE: &[Row] = &[$(Row {
            name: $name,
            suffix: $suffix,
            kind: stringify!($kind),
            labels: &[$(stringify!($label)),*],
            help: $help,
        }),*];

        impl Metrics {
            pub(super) fn new() -> Self {
                let mut registry = Registry::with_prefix(PREFIX);
                $(let $field: $type = $new;)*
                $(registry.register($name, $help, $field.clone());)*
                // It is the same for the whole life of a process.
                registry.register("build", BUILD.help, Info::new(Build {
                    version: env!("CARGO_PKG_VERSION"),
                }));
                Self { registry, $($field,)* }
            }
        }
    };
}

metrics! {
    leader: Gauge = Gauge::default(), "leader" "" gauge []
        "Whether this process holds the Lease, and acts";
    ready: Family<OfCertificate, Gauge> = Family::default(), "certificate_ready" "" gauge [namespace, name]
        "Whether the Certificate is Ready";
    start: Family<OfCertificate, Gauge> = Family::default(), "certificate_start_timestamp_seconds" "" gauge [namespace, name]
        "When the issued certificate in the Secret begins to be valid";
    expiry: Family<OfCertificate, Gauge> = Family::default(), "certificate_expiry_timestamp_seconds" "" gauge [namespace, name]
        "When the issued certificate in the Secret expires";
    renewal: Family<OfCertificate, Gauge> = Family::default(), "certificate_renewal_timestamp_seconds" "" gauge [namespace, name]
        "When the issued certificate in the Secret is renewed";
    overdue: Family<OfCertificate, Gauge> = Family::default(), "certificate_overdue" "" gauge [namespace, name]
        "Whether a quarter of the time between the renewal and the expiry has passed without another certificate; never while suspended";
    fallback: Family<OfCertificate, Gauge> = Family::default(), "certificate_fallback" "" gauge [namespace, name]
        "Whether a fallback stands in";
    stalled: Family<OfCertificate, Gauge> = Family::default(), "certificate_stalled" "" gauge [namespace, name]
        "Whether nothing more happens until a person acts";
    served: Family<OfCertificate, Gauge> = Family::default(), "certificate_served" "" gauge [namespace, name]
        "Whether the entry point presents the certificate in the Secret, where that can be seen";
    issuers: Family<OfIssuers, Gauge> = Family::default(), "issuers" "" gauge [kind, ready]
        "Issuers and ClusterIssuers, by whether they are Ready";
    attempts: Family<Attempt, Counter> = Family::default(), "attempts" "_total" counter [outcome, reason]
        "Attempts to have a certificate of a CA that have ended; the reason is that of the condition";
    issuance: Histogram = Histogram::new(ISSUANCE), "issuance_duration_seconds" "" histogram []
        "From the placing of an order to its certificate in the Secret";
    requests: Family<Request, Counter> = Family::default(), "acme_requests" "_total" counter [endpoint, status]
        "Requests to CAs; an order is read with its authorizations as one";
    budget: Family<Directory, Gauge> = Family::default(), "budget_orders" "" gauge [directory]
        "New orders that the CAs' limits leave, of the account that has the smallest part left";
    capacity: Family<Directory, Gauge> = Family::default(), "budget_capacity_orders" "" gauge [directory]
        "New orders that the limits leave that account where none was placed lately";
    next_order: Family<Directory, Gauge> = Family::default(), "next_order_timestamp_seconds" "" gauge [directory]
        "When the CAs' limits allow the next new order, where they allow none now";
    breakers: Family<Directory, Gauge> = Family::default(), "breakers_open" "" gauge [directory]
        "Directories that are not asked for anything now, since they do not answer as they should";
    waiting: Gauge = Gauge::default(), "orders_waiting" "" gauge []
        "Certificates that wait for a place to order";
    oldest: Gauge = Gauge::default(), "orders_waiting_age_seconds" "" gauge []
        "How long the one of them has waited that waits longest";
    under_way: Gauge = Gauge::default(), "orders_under_way" "" gauge []
        "Orders under way";
    passes: Family<Pass, Counter> = Family::default(), "reconciles" "_total" counter [kind, result]
        "Reconciles that have ended; a conflict is another writer, and no failure";
}

const BUILD: Row = Row {
    name: "build",
    suffix: "_info",
    kind: "info",
    labels: &["version"],
    help: "Of which version this process is",
};

/// The page of all metrics as Markdown.
#[must_use]
pub fn build_document() -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("| metric | kind | labels | what it is |\n|---|---|---|---|\n");
    for row in TABLE.iter().chain([&BUILD]) {
        let labels: Vec<String> = row.labels.iter().map(|l| format!("`{l}`")).collect();
        let (name, labels) = (row.full_name(), labels.join(", "));
        // Infallible: it is written into memory.
        let _ = writeln!(
            page,
            "| `{name}` | {} | {labels} | {} |",
            row.kind, row.help
        );
    }
    page.push_str(LABELS);
    page
}

impl Row {
    fn full_name(&self) -> String {
        format!("{PREFIX}_{}{}", self.name, self.suffix)
    }
}

const INTRODUCTION: &str = "\
<!-- Written by `evercert metrics` (make metrics): change controller/operator/src/metrics/table.rs instead. -->

# Metrics

Every replica serves them at `/metrics`, in the OpenMetrics format. Counters and the histogram are each process's own, from its start
on. Gauges are taken when they are asked for, from what the leader knows at that moment; a standby has none but `evercert_leader`, which
is 0. So take the sum of counters and the maximum of gauges over the replicas, as `charts/evercert/files/rules.yaml` does.

A yes is 1 and a no is 0. Instants are seconds since 1970; one that is not known has no series, as has a certificate that is not there:
while a fallback stands in there is no expiry. The series of a Certificate end with it.

";

const LABELS: &str = "
The number of series grows with the number of Certificates, and with nothing else that people write: every other label has its values
from a closed list. `namespace` and `name` are those of the Certificate: a scrape has to honour them (`honorLabels: true`, as the chart's
monitors have it), else `namespace` becomes `exported_namespace`, and the rules and the dashboard do not fit.

- `directory` is the CA by its well-known name (`LetsEncrypt`, for one), `other` without one.
- `endpoint` is what a request is about (RFC 8555 §7.1); `status` is the kind of answer: `2xx`, `4xx`, `429`, `5xx`, `none`. What is read
  without an account (the directory, renewal information) is not counted.
- `outcome` is `Issued`, `Failed`, `Abandoned` or `Revoked`; `reason` is the word of the condition.
- `result` is `done`, `conflict` or `failed`.
";

#[cfg(test)]
mod tests {
    use evercert_api::Reason;
    use evercert_api::certificate::AttemptOutcome;
    use prometheus_client::encoding::text::encode;

    use super::super::labels::{Ended, Endpoint, Kind, Outcome, Status, Truth, Word};
    use super::*;

    /// With a series of each.
    fn filled() -> Metrics {
        let metrics = Metrics::new();
        let of = OfCertificate {
            namespace: "shop".to_owned(),
            name: "site".to_owned(),
        };
        for family in metrics.of_certificates() {
            let _ = family.get_or_create(&of);
        }
        let directory = Directory::of("https://ca.example/dir");
        for family in metrics.of_directories() {
            let _ = family.get_or_create(&directory);
        }
        let (kind, ready) = (Kind::Issuer, Truth(true));
        let _ = metrics.issuers.get_or_create(&OfIssuers { kind, ready });
        let result = Ended::Done;
        let _ = metrics.passes.get_or_create(&Pass { kind, result });
        let (endpoint, status) = (Endpoint::NewOrder, Status::Success);
        let _ = metrics
            .requests
            .get_or_create(&Request { endpoint, status });
        let (outcome, reason) = (Outcome(AttemptOutcome::Issued), Word(Reason::Issued));
        let _ = metrics.attempts.get_or_create(&Attempt { outcome, reason });
        metrics
    }

    #[test]
    fn every_metric_is_told_by_the_name_kind_labels_and_help_of_the_table() {
        let mut text = String::new();
        encode(&mut text, &filled().registry).unwrap();
        for row in TABLE.iter().chain([&BUILD]) {
            let (name, kind) = (format!("{PREFIX}_{}", row.name), row.kind);
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
            let help = format!("# HELP {name} {}.\n", row.help);
            assert!(text.contains(&help), "{help}");
            if row.labels.is_empty() {
                continue;
            }
            let start = format!("{}{{", row.full_name());
            let series = text.lines().find_map(|line| line.strip_prefix(&start));
            let labels = series
                .unwrap()
                .split(',')
                .map(|l| l.split('=').next().unwrap());
            assert_eq!(labels.collect::<Vec<_>>(), row.labels, "{name}");
        }
        let told = text
            .lines()
            .filter(|line| line.starts_with("# TYPE "))
            .count();
        assert_eq!(told, TABLE.len() + 1, "{text}");
    }

    #[test]
    fn the_page_has_a_line_for_each_with_its_labels() {
        let page = build_document();
        let line =
            "| `evercert_acme_requests_total` | counter | `endpoint`, `status` | Requests to CAs;";
        assert!(page.contains(line), "{page}");
        assert_eq!(page.matches("\n| `evercert_").count(), TABLE.len() + 1);
    }
}
