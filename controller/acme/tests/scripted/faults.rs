//! Faults: nothing that the CA said is lost, and each is classed by what to do next.

use std::sync::Arc;

use evercert_acme::{Clock, OrderRequest};
use evercert_core::fault::{Fault, FaultClass};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::ca::{Reply, ScriptedCa};
use crate::support::{account_key, now};
use crate::{NAME, names, new_order};

/// The five calls of an order's way, each answered by `reply`; the faults in this order: newAccount, newOrder, read, accept,
/// finalize.
async fn faults_everywhere(reply: Reply) -> [Fault; 5] {
    let ca = ScriptedCa::start().await;
    let acme = ca.account().await;
    ca.on("/new-account", reply.clone());
    ca.on("/new-order", reply.clone());
    ca.on("/order/1", reply.clone());
    ca.on("/challenge/1", reply.clone());
    ca.on("/order/2", Reply::json(&ca.order("ready", &[NAME])));
    ca.on("/order/1/finalize", reply);
    [
        ca.directory()
            .await
            .account(&account_key(), None, now())
            .await
            .err()
            .unwrap(),
        new_order(&*acme).await.unwrap_err(),
        acme.read_order(&ca.url("/order/1"), now())
            .await
            .unwrap_err(),
        acme.accept(&[ca.url("/challenge/1")], now())
            .await
            .unwrap_err(),
        acme.finalize(&ca.url("/order/2"), b"csr", now())
            .await
            .unwrap_err(),
    ]
}

#[tokio::test]
async fn every_problem_type_is_classed_where_it_is_met() {
    use FaultClass::{
        Account as A, Gone as G, NotReady as N, Permanent as P, RateLimited as R, Transient as T,
        Unavailable as U, Validation as V,
    };
    let table = [
        ("accountDoesNotExist", 400, [A, A, A, A, A]),
        ("alreadyReplaced", 409, [T, T, T, T, T]),
        ("badCSR", 400, [P, P, P, P, P]),
        ("badPublicKey", 400, [P, P, P, P, P]),
        ("badSignatureAlgorithm", 400, [P, P, P, P, P]),
        ("caa", 403, [V, V, V, V, V]),
        ("connection", 400, [V, V, V, V, V]),
        ("dns", 400, [V, V, V, V, V]),
        ("externalAccountRequired", 403, [A, A, A, A, A]),
        ("incorrectResponse", 400, [V, V, V, V, V]),
        ("invalidContact", 400, [A, A, A, A, A]),
        ("invalidProfile", 400, [P, P, P, P, P]),
        ("malformed", 400, [P, P, G, P, P]),
        ("orderNotReady", 403, [N, N, N, N, N]),
        ("rateLimited", 429, [R, R, R, R, R]),
        ("rejectedIdentifier", 400, [P, P, P, P, P]),
        ("serverInternal", 500, [U, U, U, U, U]),
        ("somethingNew", 400, [T, T, T, T, T]),
        ("tls", 400, [V, V, V, V, V]),
        ("unauthorized", 403, [A, A, G, V, A]),
        ("unsupportedContact", 400, [A, A, A, A, A]),
        ("unsupportedIdentifier", 400, [P, P, P, P, P]),
        ("userActionRequired", 403, [A, A, A, A, A]),
    ];
    for (kind, status, classes) in table {
        let faults = faults_everywhere(Reply::problem(status, kind, "the CA's own words")).await;
        for (fault, class) in faults.into_iter().zip(classes) {
            assert_eq!(fault.class, class, "{kind}: {}", fault.detail);
            assert_eq!(fault.http_status, Some(status));
            let problem = fault.problem.unwrap();
            assert_eq!(
                (problem.kind.as_str(), problem.detail.as_str()),
                (kind, "the CA's own words")
            );
            assert!(
                fault.detail.contains(kind) && fault.detail.contains("the CA's own words"),
                "{}",
                fault.detail
            );
        }
    }
}

#[tokio::test]
async fn answers_of_a_load_balancer_are_classed_by_status_and_keep_retry_after() {
    let html = "<html><body>Service Unavailable</body></html>";
    for fault in faults_everywhere(
        Reply::text(503, "text/html", html)
            .header("retry-after", "60")
            .without_nonce(),
    )
    .await
    {
        assert_eq!(
            (fault.class, fault.http_status, fault.problem),
            (FaultClass::Unavailable, Some(503), None)
        );
        let wait = fault.retry_after.unwrap().duration_since(now());
        assert!(
            wait > SignedDuration::from_secs(40) && wait <= SignedDuration::from_mins(1),
            "{wait:?}"
        );
        assert!(
            fault.detail.contains("HTTP 503") && !fault.detail.contains("html"),
            "{}",
            fault.detail
        );
    }
    for (reply, class) in [
        (Reply::text(429, "text/html", html), FaultClass::RateLimited),
        (Reply::text(502, "text/plain", ""), FaultClass::Unavailable),
        (
            Reply::text(
                403,
                "application/json",
                r#"{"message": "no problem document"}"#,
            ),
            FaultClass::Transient,
        ),
        // No answer of a CA, whatever the status says.
        (Reply::text(200, "text/html", html), FaultClass::Unavailable),
        (
            Reply::text(302, "text/html", html).header("location", "/elsewhere"),
            FaultClass::Transient,
        ),
    ] {
        for fault in faults_everywhere(reply).await {
            assert_eq!(
                (fault.class, fault.problem),
                (class, None),
                "{}",
                fault.detail
            );
        }
    }
}

#[tokio::test]
async fn retry_after_is_read_as_seconds_or_date_and_believed_for_a_day() {
    let ca = ScriptedCa::start().await;
    let now: Timestamp = "2026-08-05T10:00:00Z".parse().unwrap();
    // Each answer takes three seconds.
    let arrival = "2026-08-05T10:00:03Z".parse().unwrap();
    let acme = ca.account_by(Arc::new(At(arrival))).await;
    let words =
        "too many certificates, retry after 2026-08-05 11:00:00 UTC: see https://ca.example/limits";
    let table = [
        (Some("30"), "", Some("2026-08-05T10:00:33Z")),
        (Some("0"), "", Some("2026-08-05T10:00:03Z")),
        (
            Some("Wed, 05 Aug 2026 10:05:00 GMT"),
            "",
            Some("2026-08-05T10:05:00Z"),
        ),
        (
            Some("Wed, 05 Aug 2026 09:00:00 GMT"),
            "",
            Some("2026-08-05T10:00:03Z"),
        ),
        (Some("172800"), "", Some("2026-08-06T10:00:03Z")),
        (
            Some("99999999999999999999"),
            "",
            Some("2026-08-06T10:00:03Z"),
        ),
        (
            Some("Thu, 05 Aug 2027 10:00:00 GMT"),
            "",
            Some("2026-08-06T10:00:03Z"),
        ),
        (Some("soon"), "", None),
        (Some(""), "", None),
        (None, "", None),
        (None, words, Some("2026-08-05T11:00:00Z")),
        (Some("30"), words, Some("2026-08-05T10:00:33Z")),
    ];
    for (header, words, at) in table {
        let reply = Reply::problem(429, "rateLimited", words);
        ca.on(
            "/new-order",
            match header {
                Some(value) => reply.header("retry-after", value),
                None => reply,
            },
        );
        let fault = acme
            .new_order(OrderRequest::of(&names(&[NAME])), now)
            .await
            .unwrap_err();
        assert_eq!(
            fault.retry_after,
            at.map(|a| a.parse().unwrap()),
            "{header:?} {words:?}"
        );
    }
    ca.on(
        "/order/1",
        Reply::json(&ca.order("processing", &[NAME])).header("retry-after", "7"),
    );
    let view = acme.read_order(&ca.url("/order/1"), now).await.unwrap();
    assert_eq!(
        view.retry_after,
        Some("2026-08-05T10:00:10Z".parse().unwrap())
    );
    assert_eq!(view.read_at, arrival);
    // It counts from no instant before the request either.
    let acme = ca.account_by(Arc::new(At(Timestamp::UNIX_EPOCH))).await;
    let view = acme.read_order(&ca.url("/order/1"), now).await.unwrap();
    assert_eq!(
        view.retry_after,
        Some("2026-08-05T10:00:07Z".parse().unwrap())
    );
}

/// A clock that stands still.
#[derive(Debug)]
struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

#[tokio::test]
async fn a_person_is_shown_the_page_to_open() {
    let ca = ScriptedCa::start().await;
    let acme = ca.account().await;
    let paused = "Your account is temporarily prevented from requesting certificates for www.example.test. Please visit: https://ca.example/unpause?jwt=x";
    ca.on("/new-order", Reply::problem(429, "rateLimited", paused));
    let fault = new_order(&*acme).await.unwrap_err();
    assert_eq!(
        (fault.class, fault.help_url.as_deref()),
        (
            FaultClass::Permanent,
            Some("https://ca.example/unpause?jwt=x")
        )
    );

    let terms = Reply::problem(403, "userActionRequired", "new terms");
    ca.on("/new-order", terms.header("link", r#"<https://127.0.0.1/dir>;rel="index", <https://ca.example/terms/2>;rel="terms-of-service""#));
    let fault = new_order(&*acme).await.unwrap_err();
    assert_eq!(
        (fault.class, fault.help_url.as_deref()),
        (FaultClass::Account, Some("https://ca.example/terms/2"))
    );

    let instance = json!({"type": "urn:ietf:params:acme:error:userActionRequired", "detail": "", "instance": "https://ca.example/agree"});
    ca.on(
        "/new-order",
        Reply::text(403, "application/problem+json", &instance.to_string()),
    );
    assert_eq!(
        new_order(&*acme).await.unwrap_err().help_url.as_deref(),
        Some("https://ca.example/agree")
    );
}

#[tokio::test]
async fn compound_problem_keeps_each_name_and_is_classed_by_the_worst() {
    let ca = ScriptedCa::start().await;
    let acme = ca.account().await;
    let sub = |kind: &str, name: &str| json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "no", "identifier": {"type": "dns", "value": name}});
    let body = json!({"type": "urn:ietf:params:acme:error:compound", "detail": "several", "subproblems": [sub("caa", "a.test"), sub("rejectedIdentifier", "b.test")]});
    ca.on(
        "/new-order",
        Reply::text(403, "application/problem+json", &body.to_string()),
    );
    let fault = new_order(&*acme).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Permanent);
    let blamed: Vec<_> = fault
        .problem
        .unwrap()
        .subproblems
        .into_iter()
        .map(|s| (s.identifier.unwrap(), s.kind))
        .collect();
    assert_eq!(
        blamed,
        [
            ("a.test".to_owned(), "caa".to_owned()),
            ("b.test".to_owned(), "rejectedIdentifier".to_owned())
        ]
    );
    assert!(
        fault.detail.contains("b.test: rejectedIdentifier"),
        "{}",
        fault.detail
    );
}

#[tokio::test]
async fn body_over_a_mebibyte_is_not_read() {
    let large = format!("{{\"detail\": \"{}\"}}", "x".repeat(1024 * 1024));
    for fault in faults_everywhere(Reply::text(400, "application/problem+json", &large)).await {
        assert_eq!(
            (fault.class, fault.http_status),
            (FaultClass::Unavailable, None)
        );
        assert!(
            fault.detail.contains("larger than 1 MiB"),
            "{}",
            fault.detail
        );
    }
    let long = Reply::problem(400, "malformed", &"y\n".repeat(100_000));
    let ca = ScriptedCa::start().await;
    ca.on("/new-order", long);
    let fault = new_order(&*ca.account().await).await.unwrap_err();
    assert!(fault.detail.len() < 4096 && !fault.detail.contains('\n'));
}
