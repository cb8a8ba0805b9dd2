//! Rules: which request they are for, how often, and what they leave alone.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::client::{Client, believing, sign};
use crate::scripted::{Answer, Endpoint, Problem, RetryAfter, Signing};

#[tokio::test]
async fn a_rule_is_played_as_often_as_it_says_and_to_those_it_is_for() {
    let ca = believing().await;
    let (one, other) = (Client::of(&ca), Client::of(&ca));
    ca.script()
        .on(Endpoint::NewOrder)
        .naming("a.test")
        .always(Answer::internal_error());
    ca.script()
        .on(Endpoint::NewOrder)
        .naming("a.test")
        .times(2, Answer::busy());
    ca.script()
        .on(Endpoint::NewOrder)
        .by(other.kid.as_deref().unwrap())
        .once(Answer::unavailable());
    let statuses = |client: &Client<'_>, names: &[&str], times: usize| -> Vec<u16> {
        (0..times).map(|_| client.order(names).status).collect()
    };
    assert_eq!(
        statuses(&one, &["b.test", "a.test"], 4),
        [429, 429, 500, 500]
    );
    assert_eq!(statuses(&one, &["b.test"], 2), [201, 201]);
    assert_eq!(statuses(&other, &["b.test"], 2), [503, 201]);
    ca.script().calm();
    assert_eq!(one.order(&["a.test"]).status, 201);
    assert_eq!(ca.count().placed, 4);
    ca.script().on_all().once(Answer::unavailable());
    assert_eq!(
        ca.handle(&one.request("GET", &ca.directory(), "")).status,
        503
    );
    assert_eq!(
        ca.handle(&one.request("GET", &ca.directory(), "")).status,
        200
    );
}

#[tokio::test]
async fn a_fault_of_the_front_has_no_nonce_and_one_of_the_ca_was_verified_first() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let url = ca.url("/new-order");
    let payload = json!({"identifiers": [{"type": "dns", "value": "a.test"}]}).to_string();
    let mut stale = client.header(&url);
    stale["nonce"] = json!("stale");
    let stale = sign(&client.key, &stale, &payload);

    ca.script().next_order(Answer::unavailable());
    let front = client.send(&url, &stale);
    assert_eq!(
        (front.status, front.header_value("replay-nonce")),
        (503, None)
    );
    assert!(front.text().starts_with("<html>"));

    ca.script()
        .next_order(Answer::rate_limited("no more").retry_after(&RetryAfter::Seconds(30)));
    // A refused nonce uses nothing up.
    assert_eq!(
        client.send(&url, &stale).refusal(),
        (400, "badNonce".into())
    );
    let limited = client.post(&url, &payload);
    assert_eq!(limited.refusal(), (429, "rateLimited".into()));
    assert_eq!(limited.header_value("retry-after").as_deref(), Some("30"));
    assert!(
        limited
            .header_value("replay-nonce")
            .is_some_and(|nonce| nonce.len() > 20)
    );

    ca.script()
        .next_order(Answer::paused("a.test", "https://scripted.example/unpause"));
    assert_eq!(
        client.post(&url, &payload).header_value("replay-nonce"),
        None
    );
    ca.script().next_order(Answer::busy().with_nonce(""));
    assert_eq!(
        client
            .post(&url, &payload)
            .header_value("replay-nonce")
            .as_deref(),
        Some("")
    );
    assert_eq!(ca.count().placed, 0);
}

#[tokio::test]
async fn an_answer_changed_after_the_effect_leaves_the_effect() {
    let ca = believing().await;
    let client = Client::of(&ca);
    ca.script().next_order(
        Answer::real().edited(|order| order["finalize"] = json!("https://elsewhere.test/")),
    );
    let order = client.order(&["a.test"]);
    assert_eq!(order.content()["finalize"], "https://elsewhere.test/");
    let really = client.get(&order.location());
    assert!(
        really.content()["finalize"]
            .as_str()
            .unwrap()
            .starts_with(&ca.url("/order/"))
    );

    client.accept(&really);
    client.leaves(&order, &["pending"]).await;
    ca.script().next_finalize(Answer::lost());
    client.finalize(&really, &["a.test"]);
    assert_eq!(
        client.leaves(&order, &["processing"]).await["status"],
        "valid"
    );
    let lost = ca.journal().of(Endpoint::Finalize);
    assert!(lost.to_string().contains("(lost)"), "{lost}");
}

#[tokio::test]
async fn an_order_is_processing_for_as_long_as_asked_and_may_fail_then() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let finalized = async || {
        let order = client.order(&["a.test", "b.test"]);
        client.accept(&order);
        client.leaves(&order, &["pending"]).await;
        assert_eq!(
            client.finalize(&order, &["a.test", "b.test"]).content()["status"],
            "processing"
        );
        order
    };
    ca.script()
        .signing(Signing::After(std::time::Duration::from_hours(1)));
    ca.script().processing_retry_after(None);
    let order = finalized().await;
    assert_eq!(
        client.get(&order.location()).header_value("retry-after"),
        None
    );
    ca.script()
        .processing_retry_after(Some(RetryAfter::Seconds(600)));
    assert_eq!(
        client
            .get(&order.location())
            .header_value("retry-after")
            .as_deref(),
        Some("600")
    );
    ca.script().clock_ahead(SignedDuration::from_mins(59));
    assert_eq!(client.leaves(&order, &[]).await["status"], "processing");
    ca.script().clock_ahead(SignedDuration::from_mins(61));
    assert_eq!(client.leaves(&order, &[]).await["status"], "valid");

    let compound = Problem::new(403, "compound", "several")
        .naming("a.test", "caa", "forbidden")
        .naming("b.test", "dns", "SERVFAIL");
    ca.script().signing(Signing::Held);
    let order = finalized().await;
    ca.script().fail_processing(&compound);
    let failed = client.leaves(&order, &[]).await;
    assert_eq!(
        (
            &failed["status"],
            failed["error"]["subproblems"].as_array().unwrap().len()
        ),
        (&json!("invalid"), 2)
    );
    ca.script().signing(Signing::Fails(compound));
    let order = client.order(&["a.test", "b.test"]);
    client.accept(&order);
    client.leaves(&order, &["pending"]).await;
    assert_eq!(
        client.finalize(&order, &["a.test", "b.test"]).content()["status"],
        "invalid"
    );
    assert_eq!(ca.count().certificates, 1);
}

#[tokio::test]
async fn what_is_forgotten_is_gone_and_its_number_is_not_given_again() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let order = client.order(&["a.test"]);
    let authorization = order.content()["authorizations"][0]
        .as_str()
        .unwrap()
        .to_owned();
    ca.script().forget_orders();
    assert_eq!(
        client.get(&order.location()).refusal(),
        (404, "malformed".into())
    );
    assert_eq!(
        client.get(&authorization).refusal(),
        (404, "malformed".into())
    );
    assert_ne!(client.order(&["a.test"]).location(), order.location());
    ca.script().forget_accounts();
    assert_eq!(
        client.order(&["a.test"]).refusal(),
        (400, "accountDoesNotExist".into())
    );
    let again = Client::stranger(&ca);
    let again = again
        .register(&json!({"termsOfServiceAgreed": true}))
        .location();
    assert_ne!(Some(again), client.kid);
}

#[tokio::test]
async fn the_clock_and_the_date_header_go_their_own_ways() {
    let ca = believing().await;
    let client = Client::of(&ca);
    let date = || {
        let reply = ca.handle(&client.request("GET", &ca.directory(), ""));
        let date = jiff::fmt::rfc2822::parse(&reply.header_value("date").unwrap()).unwrap();
        date.timestamp().duration_since(Timestamp::now()).as_secs()
    };
    assert!((-2..=1).contains(&date()));
    ca.script().date_ahead(SignedDuration::from_hours(-2));
    assert!((-7202..=-7199).contains(&date()));
    client.issue(&["a.test"], &json!({})).await;
    ca.script().clock_ahead(SignedDuration::from_hours(5));
    assert!((10_798..=10_801).contains(&date()));
    let order = client.issue(&["a.test"], &json!({})).await;
    let chain = client.download(&order).text();
    let leaf = &crate::leaf::Leaf::parse_chain(chain.as_bytes()).unwrap()[0];
    let ahead = leaf.not_before.duration_since(Timestamp::now());
    assert!(ahead > SignedDuration::from_hours(3), "{ahead:?}");
}

#[tokio::test]
async fn the_journal_counts_by_endpoint_account_and_name_and_can_be_read() {
    let ca = believing().await;
    let (one, other) = (Client::of(&ca), Client::of(&ca));
    one.issue(&["a.test", "b.test"], &json!({})).await;
    other.order(&["b.test"]);
    ca.script().next_order(Answer::rate_limited("no more"));
    other.order(&["c.test"]);
    let journal = ca.journal();
    let orders = journal.of(Endpoint::NewOrder);
    assert_eq!(orders.len(), 3);
    assert_eq!(orders.naming("b.test").len(), 2);
    assert_eq!(orders.by(other.kid.as_deref().unwrap()).len(), 2);
    assert_eq!(journal.of(Endpoint::Challenge).naming("a.test").len(), 1);
    assert_eq!(journal.of(Endpoint::Finalize).naming("a.test").len(), 1);
    let count = ca.count();
    assert_eq!(
        (count.orders, count.challenges, count.finalized),
        (3, 2, 1),
        "{journal}"
    );
    assert_eq!((count.certificates, count.accounts), (1, 2));
    assert_eq!(count.requests, journal.requests().len());
    let text = journal.to_string();
    for words in [
        "newOrder      429 rateLimited POST (played)  [c.test]",
        "http-01 is valid  [a.test]",
        "newOrder      201 POST",
        ": issued ",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}
