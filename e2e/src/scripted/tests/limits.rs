//! The limits at work: what counts, for whom, and what a refusal says.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::client::{Client, started};
use crate::scripted::answer::Reply;
use crate::scripted::{Limit, Limits, Problem, RetryStyle, ScriptedCa, Settings, Verdict};

async fn limited(limits: Limits) -> ScriptedCa {
    started(Settings {
        limits,
        public_suffixes: vec!["co.test".into()],
        ..Settings::default()
    })
    .await
}

fn limited_by(reply: &Reply, words: &str) {
    assert_eq!(reply.refusal(), (429, "rateLimited".into()));
    assert!(reply.detail().contains(words), "{}", reply.detail());
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

#[tokio::test]
async fn the_sixth_certificate_for_a_set_comes_when_a_token_is_back() {
    let ca = limited(Limits::lets_encrypt()).await;
    let client = Client::of(&ca);
    for _ in 0..5 {
        client.issue(&["b.test", "a.test"], &json!({})).await;
    }
    assert_eq!(ca.tokens(Limit::ExactSet, "a.test,b.test"), Some(0));
    let sixth = client.order(&["a.test", "b.test"]);
    limited_by(
        &sixth,
        "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry after ",
    );
    let wait: i64 = sixth.header_value("retry-after").unwrap().parse().unwrap();
    // 33.6 hours, less what the five took.
    assert!((120_000..=120_960).contains(&wait), "{wait}");
    // Another account is not better off, another set is.
    limited_by(&Client::of(&ca).order(&["a.test", "b.test"]), "exact set");
    assert_eq!(client.order(&["a.test", "b.test", "c.test"]).status, 201);
    ca.script().clock_ahead(hours(33));
    limited_by(&client.order(&["a.test", "b.test"]), "exact set");
    ca.script().clock_ahead(hours(34));
    client.issue(&["a.test", "b.test"], &json!({})).await;
    limited_by(&client.order(&["a.test", "b.test"]), "exact set");
}

#[tokio::test]
async fn renewals_are_exempt_as_far_as_lets_encrypt_exempts_them() {
    let window = Duration::from_hours(3);
    let limits = Limits::none()
        .with(Limit::Orders, 2, window)
        .with(Limit::RegisteredDomain, 2, window)
        .with(Limit::ExactSet, 2, window);
    let ca = limited(limits).await;
    let client = Client::of(&ca);
    client.issue(&["a.x.co.test"], &json!({})).await;
    client.issue(&["b.x.co.test"], &json!({})).await;
    limited_by(
        &client.order(&["c.x.co.test"]),
        "too many certificates (2) already issued for \"x.co.test\"",
    );
    limited_by(
        &client.order(&["a.y.co.test"]),
        "too many new orders (2) from this account",
    );
    // Global by domain, by account for orders.
    let other = Client::of(&ca);
    assert_eq!(other.order(&["a.y.co.test"]).status, 201);
    limited_by(&other.order(&["c.x.co.test"]), "x.co.test");
    // The same set is a renewal, until its own limit.
    client.issue(&["a.x.co.test"], &json!({})).await;
    limited_by(&client.order(&["a.x.co.test"]), "exact set");
    let id = {
        let state = ca.shared.lock();
        state
            .certificates
            .last_key_value()
            .unwrap()
            .1
            .renewal_id
            .clone()
    };
    client
        .issue(&["a.x.co.test"], &json!({"replaces": id}))
        .await;
    limited_by(&client.order(&["a.x.co.test"]), "exact set");
    assert_eq!(ca.count().certificates, 4);
}

#[tokio::test]
async fn failures_are_counted_by_account_and_name_and_many_in_a_row_pause_the_pair() {
    let window = Duration::from_hours(1);
    let limits = Limits::none().with(Limit::Failures, 2, window).with(
        Limit::FailuresInARow,
        3,
        Duration::from_hours(72),
    );
    let ca = limited(limits).await;
    let (client, other) = (Client::of(&ca), Client::of(&ca));
    let wrong = Problem::new(403, "unauthorized", "wrong");
    let fail = async |client: &Client<'_>| {
        ca.script()
            .validation("a.test", Verdict::Invalid(wrong.clone()));
        let order = client.order(&["a.test"]);
        assert_eq!(order.status, 201, "{}", order.text());
        client.accept(&order);
        assert_eq!(
            client.leaves(&order, &["pending"]).await["status"],
            "invalid"
        );
    };
    fail(&client).await;
    fail(&client).await;
    limited_by(
        &client.order(&["a.test", "b.test"]),
        "too many failed authorizations (2) for \"a.test\" in the last 1h0m0s",
    );
    assert_eq!(client.order(&["b.test"]).status, 201);
    fail(&other).await;

    // A success gives back what was failed in a row.
    ca.script().clock_ahead(hours(1));
    ca.script().validation("a.test", Verdict::Valid);
    client.issue(&["a.test"], &json!({})).await;
    fail(&client).await;
    fail(&client).await;
    ca.script().clock_ahead(hours(2));
    fail(&client).await;
    let paused = client.order(&["a.test"]);
    limited_by(
        &paused,
        "Your account is temporarily prevented from requesting certificates for a.test and possibly others. Please visit: https://",
    );
    assert_eq!(paused.header_value("retry-after"), None);
    fail(&other).await;
    ca.script().clock_ahead(hours(1000));
    limited_by(&client.order(&["a.test"]), "temporarily prevented");
    ca.script().unpause();
    assert_eq!(client.order(&["a.test"]).status, 201);
}

#[tokio::test]
async fn a_refusal_says_when_to_come_again_in_the_way_that_is_wanted() {
    let limits = Limits::none().with(Limit::Orders, 1, Duration::from_mins(10));
    let ca = limited(limits.clone()).await;
    let client = Client::of(&ca);
    assert_eq!(client.order(&["a.test"]).status, 201);
    for style in [RetryStyle::Seconds, RetryStyle::Date, RetryStyle::Missing] {
        ca.script()
            .settings(|settings| settings.limits = limits.clone().telling(style));
        let reply = client.order(&["a.test"]);
        let detail = reply.detail();
        let told: Timestamp = detail
            .split_once("retry after ")
            .and_then(|(_, rest)| rest.split_once(" UTC: see "))
            .map(|(at, _)| format!("{}Z", at.replace(' ', "T")).parse().unwrap())
            .unwrap();
        let wait = told.duration_since(Timestamp::now());
        assert!(
            wait > SignedDuration::from_mins(9) && wait <= SignedDuration::from_secs(601),
            "{wait:?}"
        );
        let header = reply.header_value("retry-after");
        match style {
            RetryStyle::Seconds => assert!((540..=601).contains(&header.unwrap().parse().unwrap())),
            RetryStyle::Date => {
                let at = jiff::fmt::rfc2822::parse(&header.unwrap()).unwrap();
                assert_eq!(at.timestamp(), told);
            }
            RetryStyle::Missing => assert_eq!(header, None),
        }
    }
    // Ten thousand times as fast, the token is back at once; what was spent is remembered as an instant.
    let ca = limited(limits.faster(10_000)).await;
    let client = Client::of(&ca);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let mut orders = 0;
    while orders < 3 {
        orders += u32::from(client.order(&["a.test"]).status == 201);
        assert!(std::time::Instant::now() < deadline, "{}", ca.journal());
    }
}

#[tokio::test]
async fn accounts_are_limited_by_the_clients_address() {
    let ca = limited(Limits::lets_encrypt()).await;
    for _ in 0..10 {
        Client::of(&ca);
    }
    let reply = Client::stranger(&ca).register(&json!({"termsOfServiceAgreed": true}));
    limited_by(
        &reply,
        "too many new registrations (10) from this IP address",
    );
    let first = Client {
        kid: None,
        ..Client::stranger(&ca)
    };
    // To look an account up costs nothing.
    let lookup = first.register(&json!({"onlyReturnExisting": true}));
    assert_eq!(lookup.refusal(), (400, "accountDoesNotExist".into()));
}

#[tokio::test]
async fn accounts_are_limited_by_the_clients_network_too() {
    let ca = limited(Limits::lets_encrypt()).await;
    let from = |address: String| {
        let client = Client {
            address: address.parse().unwrap(),
            ..Client::stranger(&ca)
        };
        client.register(&json!({"termsOfServiceAgreed": true}))
    };
    for number in 0..500 {
        let made = from(format!("2001:db8:1:{number:x}::1"));
        assert_eq!(made.status, 201, "{number}: {}", made.text());
    }
    let words = "too many new registrations (500) from this /48 block of IPv6 addresses";
    limited_by(&from("2001:db8:1:ffff::2".into()), words);
    // Another network has its own, and so has every IPv4 address.
    assert_eq!(from("2001:db8:2::1".into()).status, 201);
    assert_eq!(from("192.0.2.1".into()).status, 201);
    // Eleven from one address are too many in any network.
    let made = (0..11).map(|_| from("2001:db8:3::1".into()).status);
    assert_eq!(made.filter(|status| *status == 201).count(), 10);
}
