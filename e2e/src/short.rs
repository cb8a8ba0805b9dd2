//! What a Certificate says, in a few lines: the first that a person reads when a story fails.

use std::fmt::Write as _;

use evercert_api::{Certificate, CertificateStatus};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

/// How many of its last attempts are told.
const ATTEMPTS: usize = 3;

/// Each Certificate of a namespace with its conditions, failures and last attempts.
pub(crate) async fn certificates(client: &Client, namespace: &str) -> String {
    let api: Api<Certificate> = Api::namespaced(client.clone(), namespace);
    match api.list(&ListParams::default()).await {
        Ok(list) => list
            .iter()
            .map(|certificate| line(&certificate.name_any(), certificate.status.as_ref()))
            .collect(),
        Err(error) => format!("the Certificates cannot be listed: {error}\n"),
    }
}

fn line(name: &str, status: Option<&CertificateStatus>) -> String {
    let Some(status) = status else {
        return format!("{name}: no status\n");
    };
    let mut text = format!(
        "{name}: {} failed attempts",
        status.failed_attempts.unwrap_or(0)
    );
    if let Some(next) = &status.next_attempt_time {
        let _ = write!(text, ", the next at {}", next.0);
    }
    if let Some(order) = &status.order {
        let _ = write!(text, ", order {}", order.url);
    }
    text.push('\n');
    for condition in &status.conditions {
        let _ = writeln!(
            text,
            "  {}={} {}: {}",
            condition.type_, condition.status, condition.reason, condition.message
        );
    }
    for attempt in status.history.iter().take(ATTEMPTS) {
        let _ = writeln!(
            text,
            "  {} {:?} {}: {}",
            attempt.time.0, attempt.outcome, attempt.reason, attempt.message
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_conditions_and_the_last_attempts_are_told_and_what_is_to_come() {
        let attempt = |minute: u8, reason: &str| {
            json!({
                "time": format!("2026-01-01T00:0{minute}:00Z"), "outcome": "Failed", "reason": reason, "message": "why"
            })
        };
        let status: CertificateStatus = serde_json::from_value(json!({
            "failedAttempts": 4,
            "nextAttemptTime": "2026-01-01T00:09:00Z",
            "history": [attempt(4, "Fourth"), attempt(3, "Third"), attempt(2, "Second"), attempt(1, "First")],
            "conditions": [{
                "type": "Ready", "status": "False", "reason": "BackingOff", "message": "not yet",
                "lastTransitionTime": "2026-01-01T00:04:00Z"
            }],
        }))
        .unwrap();
        assert_eq!(
            line("site", Some(&status)),
            "site: 4 failed attempts, the next at 2026-01-01T00:09:00Z\n  Ready=False BackingOff: not yet\n  \
             2026-01-01T00:04:00Z Failed Fourth: why\n  2026-01-01T00:03:00Z Failed Third: why\n  \
             2026-01-01T00:02:00Z Failed Second: why\n"
        );
        assert_eq!(line("new", None), "new: no status\n");
    }
}
