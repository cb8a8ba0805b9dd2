//! Orders: read by URL, refused where they are not what was wanted, every step repeatable.

use evercert_core::fault::FaultClass;
use evercert_core::order::{OrderState, ProofState};
use serde_json::{Value, json};

use crate::ca::{Reply, ScriptedCa};
use crate::support::now;
use crate::{NAME, new_order};

#[tokio::test]
async fn order_for_other_names_is_refused() {
    let ca = ScriptedCa::start().await;
    let acme = ca.account().await;
    for foreign in [vec!["other.test"], vec![NAME, "other.test"], vec![]] {
        ca.on(
            "/new-order",
            Reply::json(&ca.order("pending", &foreign)).header("location", &ca.url("/order/1")),
        );
        let fault = new_order(&*acme).await.unwrap_err();
        assert_eq!(fault.class, FaultClass::Permanent);
        assert!(fault.detail.contains(NAME), "{}", fault.detail);
    }
    ca.on(
        "/new-order",
        Reply::json(&ca.order("pending", &[NAME])).header("location", &ca.url("/order/1")),
    );
    let view = new_order(&*acme).await.unwrap();
    assert_eq!(
        (view.url, view.names, view.state),
        (
            ca.url("/order/1"),
            vec![NAME.to_owned()],
            OrderState::Pending
        )
    );
    assert_eq!(view.expires, Some("2126-01-01T00:00:00Z".parse().unwrap()));
}

#[tokio::test]
async fn foreign_url_from_a_status_is_refused_without_a_request() {
    let (ca, elsewhere) = (ScriptedCa::start().await, ScriptedCa::start().await);
    let acme = ca.account().await;
    ca.asked();
    let insecure = ca.url("/order/1").replace("https", "http");
    for url in [
        elsewhere.url("/order/1"),
        insecure,
        "https://127.0.0.1/order/1".into(),
        "file:///etc/passwd".into(),
        "no URL".into(),
    ] {
        let urls = [url.clone()];
        let read = acme.read_order(&url, now()).await.unwrap_err();
        assert_eq!(read.class, FaultClass::Gone, "{}", read.detail);
        assert_eq!(
            acme.finalize(&url, b"csr", now()).await.unwrap_err().class,
            FaultClass::Gone
        );
        assert_eq!(
            acme.certificate(&url, now()).await.unwrap_err().class,
            FaultClass::Gone
        );
        assert_eq!(
            acme.accept(&urls, now()).await.unwrap_err().class,
            FaultClass::Permanent
        );
        acme.deactivate(&urls, now()).await.unwrap();
    }
    let posts = |lines: Vec<String>| {
        lines
            .into_iter()
            .filter(|l| l.starts_with("POST"))
            .collect::<Vec<_>>()
    };
    assert_eq!(posts(ca.lines()), [""; 0]);
    assert_eq!(elsewhere.lines(), [""; 0]);
}

#[tokio::test]
async fn foreign_url_or_name_from_the_ca_is_refused_and_not_followed() {
    let (ca, elsewhere) = (ScriptedCa::start().await, ScriptedCa::start().await);
    let acme = ca.account().await;
    let pending = ca.order("pending", &[NAME]);
    let with = |from: &Value, key: &str, value: Value| {
        let mut changed = from.clone();
        changed[key] = value;
        changed
    };
    let orders = [
        with(
            &pending,
            "authorizations",
            json!([elsewhere.url("/authz/0")]),
        ),
        with(
            &pending,
            "finalize",
            json!(elsewhere.url("/order/1/finalize")),
        ),
        with(
            &pending,
            "certificate",
            json!(elsewhere.url("/certificate/1")),
        ),
        with(
            &pending,
            "authorizations",
            json!(vec![ca.url("/authz/0"); 101]),
        ),
    ];
    for order in orders {
        ca.on("/order/1", Reply::json(&order));
        ca.on(
            "/new-order",
            Reply::json(&order).header("location", &ca.url("/order/1")),
        );
        for fault in [
            acme.read_order(&ca.url("/order/1"), now())
                .await
                .unwrap_err(),
            new_order(&*acme).await.unwrap_err(),
        ] {
            assert_eq!(fault.class, FaultClass::Permanent, "{}", fault.detail);
        }
    }
    ca.on(
        "/new-order",
        Reply::json(&pending).header("location", &elsewhere.url("/order/1")),
    );
    assert_eq!(
        new_order(&*acme).await.unwrap_err().class,
        FaultClass::Permanent
    );

    ca.on("/order/1", Reply::json(&pending));
    let good = ca.authorization(NAME);
    let challenge = |key: &str, value: Value| {
        with(
            &good,
            "challenges",
            json!([with(&good["challenges"][1], key, value)]),
        )
    };
    let authorizations = [
        ca.authorization("other.test"),
        with(&good, "wildcard", json!(true)),
        with(&good, "identifier", json!({"type": "ip", "value": NAME})),
        challenge("url", json!(elsewhere.url("/challenge/1"))),
        challenge("token", json!("../../admin")),
        challenge("token", json!("a b")),
        challenge("token", json!("")),
        challenge("token", json!("x".repeat(300))),
    ];
    for authorization in authorizations {
        ca.on("/authz/0", Reply::json(&authorization));
        let fault = acme
            .read_order(&ca.url("/order/1"), now())
            .await
            .unwrap_err();
        assert_eq!(fault.class, FaultClass::Permanent, "{authorization}");
        assert!(!fault.detail.contains("admin"), "{}", fault.detail);
    }
    assert_eq!(elsewhere.lines(), [""; 0]);
}

#[tokio::test]
async fn order_that_the_ca_forgot_is_gone() {
    let ca = ScriptedCa::start().await;
    let acme = ca.account().await;
    // Nothing is scripted there: an empty 404, as Pebble answers.
    let fault = acme
        .read_order(&ca.url("/order/9"), now())
        .await
        .unwrap_err();
    assert_eq!(
        (fault.class, fault.http_status),
        (FaultClass::Gone, Some(404))
    );
    // The order is there and one of its authorizations is not.
    ca.on("/order/1", Reply::json(&ca.order("pending", &[NAME])));
    assert_eq!(
        acme.read_order(&ca.url("/order/1"), now())
            .await
            .unwrap_err()
            .class,
        FaultClass::Gone
    );
}

#[tokio::test]
async fn authorizations_are_read_eight_at_a_time() {
    let ca = ScriptedCa::start().await;
    let acme = ca.account().await;
    let texts: Vec<String> = (0..24).map(|i| format!("n{i:02}.example.test")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    ca.on("/order/1", Reply::json(&ca.order("pending", &texts)));
    for (i, name) in texts.iter().enumerate() {
        ca.on(&format!("/authz/{i}"), Reply::json(&ca.authorization(name)));
    }
    // Fewer than eight at a time would wait at the gate for ever.
    ca.gate("/authz/", 8);
    let view = acme.read_order(&ca.url("/order/1"), now()).await.unwrap();
    assert_eq!(
        view.authorizations
            .iter()
            .map(|a| a.name.as_str())
            .collect::<Vec<_>>(),
        texts
    );
    assert_eq!(ca.most_under_way(), 8);
    let asked = ca.asked();
    assert_eq!(
        asked
            .iter()
            .filter(|a| a.path.starts_with("/authz/"))
            .count(),
        24
    );
    // POST-as-GET, by the account's URL (RFC 8555 §6.2, §6.3).
    for request in asked.iter().filter(|a| a.method == "POST") {
        assert_eq!(
            (request.payload.as_str(), &request.protected["kid"]),
            ("", &json!(ca.url("/account/1")))
        );
        assert_eq!(request.protected["url"], json!(ca.url(&request.path)));
    }
}

#[tokio::test]
async fn invalid_order_tells_which_name_failed_and_why() {
    let ca = ScriptedCa::start().await;
    let acme = ca.account().await;
    ca.on("/order/1", Reply::json(&ca.order("invalid", &[NAME])));
    let mut authorization = ca.authorization(NAME);
    authorization["status"] = json!("invalid");
    authorization["challenges"][1]["status"] = json!("invalid");
    authorization["challenges"][1]["error"] =
        json!({"type": "urn:ietf:params:acme:error:connection", "detail": "refused"});
    ca.on("/authz/0", Reply::json(&authorization));
    let view = acme.read_order(&ca.url("/order/1"), now()).await.unwrap();
    let challenge = view.authorizations[0].challenge.as_ref().unwrap();
    assert_eq!(
        (view.state, challenge.state),
        (OrderState::Invalid, ProofState::Invalid)
    );
    let error = challenge.error.as_ref().unwrap();
    assert_eq!(
        (error.kind.as_str(), error.detail.as_str()),
        ("connection", "refused")
    );
}

#[tokio::test]
async fn repeated_steps_change_nothing() {
    let ca = ScriptedCa::start().await;
    let acme = ca.account().await;
    // Accepting a challenge that is decided: refused by the CA, then seen to be so.
    let valid =
        json!({"type": "http-01", "url": ca.url("/challenge/1"), "status": "valid", "token": "x"});
    ca.on_in_turn(
        "/challenge/1",
        [
            Reply::problem(400, "malformed", "not pending"),
            Reply::json(&valid),
        ],
    );
    acme.accept(&[ca.url("/challenge/1")], now()).await.unwrap();
    // Deactivating what has ended.
    ca.on(
        "/authz/0",
        Reply::problem(400, "malformed", "not pending or valid"),
    );
    acme.deactivate(&[ca.url("/authz/0"), ca.url("/authz/none")], now())
        .await
        .unwrap();
    // Finalizing what is finalized.
    ca.on("/order/1", Reply::json(&ca.order("processing", &[NAME])));
    ca.asked();
    assert_eq!(
        acme.finalize(&ca.url("/order/1"), b"csr", now())
            .await
            .unwrap()
            .state,
        OrderState::Processing
    );
    assert_eq!(ca.lines(), ["POST /order/1"]);
    // Downloading what is not there yet.
    let fault = acme
        .certificate(&ca.url("/order/1"), now())
        .await
        .unwrap_err();
    assert_eq!(fault.class, FaultClass::NotReady);
}
