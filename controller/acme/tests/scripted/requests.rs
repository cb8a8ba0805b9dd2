//! Requests: nonces, time-outs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use evercert_acme::{ConnectError, Directory, Leave, WireError};
use evercert_core::fault::FaultClass;
use evercert_core::order::OrderState;

use crate::ca::{Reply, ScriptedCa};
use crate::support::{account_key, now};
use crate::{NAME, new_order};

#[tokio::test]
async fn whether_a_ca_answers_costs_one_request_that_changes_nothing() {
    let ca = ScriptedCa::start().await;
    let directory = ca.directory().await;
    ca.asked();
    directory.ask(now()).await.unwrap();
    let asked = ca.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(
        (asked[0].method.as_str(), asked[0].path.as_str()),
        ("HEAD", "/nonce")
    );
    ca.on(
        "/nonce",
        Reply::text(503, "text/html", "").header("retry-after", "7"),
    );
    let at = now();
    let fault = directory.ask(at).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Unavailable);
    let wait = fault.retry_after.unwrap();
    let pause = Duration::from_secs(7);
    assert!(at + pause <= wait && wait <= now() + pause, "{wait}");
}

#[tokio::test]
async fn refused_nonces_are_bounded_and_never_sent_twice() {
    let ca = ScriptedCa::start().await;
    let acme = ca.account().await;
    let bad = Reply::problem(400, "badNonce", "unknown nonce");
    let mut sent = BTreeSet::new();
    for path in ["/new-order", "/order/1", "/challenge/1"] {
        ca.on(path, bad.clone());
        ca.asked();
        let fault = match path {
            "/new-order" => new_order(&*acme).await.unwrap_err(),
            "/order/1" => acme.read_order(&ca.url(path), now()).await.unwrap_err(),
            _ => acme.accept(&[ca.url(path)], now()).await.unwrap_err(),
        };
        // The CA's trouble, and nothing came of the request there.
        assert_eq!((fault.class, fault.unsent), (FaultClass::Unavailable, true));
        assert_eq!(fault.problem.unwrap().kind, "badNonce");
        let (posts, others): (Vec<_>, Vec<_>) =
            ca.asked().into_iter().partition(|a| a.method == "POST");
        assert_eq!(posts.len(), 9, "{posts:?}");
        // Each nonce comes from the answer before: newNonce is asked for the very first only.
        assert_eq!(
            others.len(),
            usize::from(path == "/new-order"),
            "{others:?}"
        );
        sent.extend(
            posts
                .iter()
                .map(|p| p.protected["nonce"].as_str().unwrap().to_owned()),
        );
    }
    assert_eq!(sent.len(), 27);

    // Eight refusals, then an answer: nobody notices.
    let order = Reply::json(&ca.order("valid", &[NAME]));
    ca.on_in_turn("/order/1", std::iter::repeat_n(bad, 8).chain([order]));
    let view = acme.read_order(&ca.url("/order/1"), now()).await.unwrap();
    assert_eq!(view.state, OrderState::Valid);
}

#[tokio::test]
async fn empty_nonce_is_never_sent() {
    let ca = ScriptedCa::start().await;
    let acme = ca.account().await;
    let limited = Reply::problem(429, "rateLimited", "").without_nonce();
    for refusal in [limited.clone(), limited.header("replay-nonce", "")] {
        ca.on("/new-order", refusal);
        assert_eq!(
            new_order(&*acme).await.unwrap_err().class,
            FaultClass::RateLimited
        );
        assert_eq!(
            new_order(&*acme).await.unwrap_err().class,
            FaultClass::RateLimited
        );
    }
    let posts: Vec<_> = ca
        .asked()
        .into_iter()
        .filter(|a| a.method == "POST")
        .collect();
    assert_eq!(posts.len(), 4);
    assert!(
        posts.iter().all(|p| p.protected["nonce"]
            .as_str()
            .is_some_and(|n| n.starts_with("nonce-"))),
        "{posts:?}"
    );

    ca.on(
        "/nonce",
        Reply::text(503, "text/html", "busy")
            .header("retry-after", "5")
            .without_nonce(),
    );
    let fault = new_order(&*acme).await.unwrap_err();
    assert_eq!(
        (fault.class, fault.http_status, fault.retry_after.is_some()),
        (FaultClass::Unavailable, Some(503), true)
    );
    assert!(fault.unsent, "no order was asked for");
    ca.on(
        "/nonce",
        Reply::text(429, "text/plain", "")
            .header("retry-after", "5")
            .without_nonce(),
    );
    let fault = new_order(&*acme).await.unwrap_err();
    assert_eq!(
        (fault.class, fault.retry_after.is_some()),
        (FaultClass::RateLimited, true)
    );
    assert!(fault.is_directorys(), "it limits whatever is asked for");
    ca.on("/nonce", Reply::text(200, "text/plain", "").without_nonce());
    let fault = new_order(&*acme).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Unavailable);
    assert!(fault.detail.contains("no nonce"), "{}", fault.detail);
}

#[tokio::test]
async fn slow_answer_ends_at_the_time_out() {
    let ca = ScriptedCa::start().await;
    let mut config = ca.config();
    config.request_timeout = Duration::from_millis(300);
    let directory = Directory::connect(config.clone(), now()).await.unwrap();
    let acme = directory
        .account(&account_key(), Some(&ca.url("/account/1")), now())
        .await
        .unwrap()
        .into_acme();
    ca.on("/new-order", Reply::hang());
    ca.on("/challenge/1", Reply::hang());
    ca.on("/dir", Reply::hang());
    let begin = Instant::now();
    for fault in [
        new_order(&*acme).await.unwrap_err(),
        acme.accept(&[ca.url("/challenge/1")], now())
            .await
            .unwrap_err(),
    ] {
        assert_eq!(
            (fault.class, fault.http_status),
            (FaultClass::Unavailable, None)
        );
        assert!(
            fault.detail.contains("does not answer in time"),
            "{}",
            fault.detail
        );
    }
    let again = Directory::connect(config, now()).await.err().unwrap();
    assert!(
        matches!(
            again,
            ConnectError::Unreachable {
                cause: WireError::TimedOut,
                ..
            }
        ),
        "{again}"
    );
    assert!(begin.elapsed() < Duration::from_secs(10));
}

/// Leave for so many requests.
#[derive(Debug)]
struct Few(AtomicUsize);

impl Leave for Few {
    fn is_given(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

#[tokio::test]
async fn without_leave_nothing_more_is_sent_amid_a_call_either() {
    let ca = ScriptedCa::start().await;
    let few = Arc::new(Few(AtomicUsize::new(2)));
    let mut config = ca.config();
    config.leave = Some(few.clone());
    let directory = Directory::connect(config, now()).await.unwrap();
    let account = Some(ca.url("/account/1"));
    let acme = directory
        .account(&account_key(), account.as_deref(), now())
        .await
        .unwrap()
        .into_acme();
    assert_eq!(ca.lines(), ["GET /dir"]);
    // The nonce is the second request, the order would be the third.
    let fault = new_order(&*acme).await.unwrap_err();
    assert_eq!(ca.lines(), ["HEAD /nonce"]);
    assert_eq!((fault.class, fault.unsent), (FaultClass::Unavailable, true));
    assert!(
        fault.detail.contains("does not hold the Lease"),
        "{fault:?}"
    );
    acme.read_order(&ca.url("/order/1"), now())
        .await
        .unwrap_err();
    assert!(ca.lines().is_empty());
    few.0.store(100, Ordering::Relaxed);
    // What the CA makes of it is another matter.
    let _ = new_order(&*acme).await;
    let asked = ca.lines();
    assert!(
        asked.contains(&"POST /new-order".to_owned()),
        "with leave again: {asked:?}"
    );
}
