use evercert_api::issuer::directory_url;
use evercert_core::fault::FaultClass;
use evercert_core::report::Ending;
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

fn certificate(spec: &serde_json::Value, status: &serde_json::Value) -> Certificate {
    let mut whole = json!({
        "apiVersion": "evercert.dev/v1", "kind": "Certificate", "metadata": {"name": "site", "namespace": "shop"},
        "spec": {"secretName": "site", "dnsNames": ["a.example"], "issuerRef": {"name": "ca"}}, "status": status,
    });
    for (key, value) in spec.as_object().unwrap() {
        whole["spec"][key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn condition(kind: &str, status: &str) -> serde_json::Value {
    let at = "2026-01-01T00:00:00Z";
    json!({"type": kind, "status": status, "reason": "Any", "message": "", "lastTransitionTime": at})
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "{line}\n{text}");
}

#[test]
fn a_certificate_is_told_with_its_name_and_what_is_gone_is_told_no_longer() {
    let metrics = Metrics::new();
    let status = json!({
        "notBefore": "2026-10-03T00:00:00Z",
        "notAfter": "2027-01-01T00:00:00Z",
        "renewalTime": "2026-12-02T00:00:00Z",
        "conditions": [condition("Ready", "True"), condition("Served", "False"), condition("Stalled", "True")],
    });
    let now = "2026-12-09T00:00:00Z".parse().unwrap();
    metrics.tell(&certificate(&json!({}), &status), now);
    let told = text(&metrics);
    for (metric, value) in [
        ("ready", 1),
        ("served", 0),
        ("fallback", 0),
        ("stalled", 1),
        ("overdue", 0),
        ("start_timestamp_seconds", 1_790_985_600),
        ("expiry_timestamp_seconds", 1_798_761_600),
        ("renewal_timestamp_seconds", 1_796_169_600),
    ] {
        has(
            &told,
            &format!(r#"evercert_certificate_{metric}{{namespace="shop",name="site"}} {value}"#),
        );
    }
    metrics.look(None, Timestamp::UNIX_EPOCH);
    let told = text(&metrics);
    assert!(!told.contains("shop"), "{told}");
    has(&told, "evercert_leader 0");
}

#[test]
fn what_is_not_known_of_a_certificate_has_no_series_and_one_without_status_is_not_ready() {
    let metrics = Metrics::new();
    metrics.tell(
        &certificate(&json!({}), &json!(null)),
        Timestamp::UNIX_EPOCH,
    );
    let told = text(&metrics);
    has(
        &told,
        r#"evercert_certificate_ready{namespace="shop",name="site"} 0"#,
    );
    assert!(
        !told.contains("evercert_certificate_expiry_timestamp_seconds{"),
        "{told}"
    );
    assert!(!told.contains("evercert_certificate_served{"), "{told}");
}

#[test]
fn one_that_is_suspended_is_not_overdue() {
    let status = json!({"notAfter": "2027-01-01T00:00:00Z", "renewalTime": "2026-12-02T00:00:00Z"});
    let now = "2026-12-20T00:00:00Z".parse().unwrap();
    for (suspend, overdue) in [(false, 1), (true, 0)] {
        let metrics = Metrics::new();
        metrics.tell(&certificate(&json!({"suspend": suspend}), &status), now);
        let line = r#"evercert_certificate_overdue{namespace="shop",name="site"}"#;
        has(&text(&metrics), &format!("{line} {overdue}"));
    }
}

#[test]
fn issuers_are_counted_by_kind_and_whether_they_are_ready() {
    let metrics = Metrics::new();
    let ready: Vec<Condition> =
        serde_json::from_value(json!([condition("Ready", "True")])).unwrap();
    metrics.tell_issuer(Kind::Issuer, Some(&ready));
    metrics.tell_issuer(Kind::Issuer, None);
    metrics.tell_issuer(Kind::Issuer, None);
    metrics.tell_issuer(Kind::ClusterIssuer, Some(&ready));
    let told = text(&metrics);
    for (kind, ready, value) in [
        ("Issuer", true, 1),
        ("Issuer", false, 2),
        ("ClusterIssuer", true, 1),
        ("ClusterIssuer", false, 0),
    ] {
        has(
            &told,
            &format!(r#"evercert_issuers{{kind="{kind}",ready="{ready}"}} {value}"#),
        );
    }
}

#[test]
fn of_accounts_at_one_directory_the_one_is_told_with_the_smallest_part_left() {
    let metrics = Metrics::new();
    let budget = |orders, capacity| Budget {
        orders,
        capacity,
        next: None,
        full: None,
    };
    let budgets = [budget(40, 50), budget(60, 300), budget(9, 10)];
    let directory = Directory::of(directory_url("LetsEncrypt"));
    metrics.tell_budgets(budgets.into_iter().map(|b| (directory.clone(), b)));
    let told = text(&metrics);
    has(
        &told,
        r#"evercert_budget_orders{directory="LetsEncrypt"} 60"#,
    );
    has(
        &told,
        r#"evercert_budget_capacity_orders{directory="LetsEncrypt"} 300"#,
    );
}

#[test]
fn an_issuance_is_measured_from_its_order_and_what_fails_is_only_counted() {
    let metrics = Metrics::new();
    let at = |second| Timestamp::from_second(second).unwrap();
    let issued = Change::Cleared(Ending::issued("in Secret site"));
    metrics.note_attempt(&issued, Some(at(100)), at(107));
    // Signed by its own key: there was no order.
    metrics.note_attempt(&issued, None, at(107));
    let given_up = Change::Cleared(Ending::abandoned("other names are wanted"));
    metrics.note_attempt(&given_up, Some(at(100)), at(900));
    let told = text(&metrics);
    for line in [
        r#"evercert_issuance_duration_seconds_bucket{le="5.0"} 0"#,
        r#"evercert_issuance_duration_seconds_bucket{le="10.0"} 1"#,
        "evercert_issuance_duration_seconds_count 1",
        "evercert_issuance_duration_seconds_sum 7.0",
        r#"evercert_attempts_total{outcome="Issued",reason="Issued"} 2"#,
        r#"evercert_attempts_total{outcome="Abandoned",reason="OrderAbandoned"} 1"#,
    ] {
        has(&told, line);
    }
}
