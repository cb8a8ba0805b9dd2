//! HTTP-01 against responders of all kinds.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::Value;

use super::client::Client;
use crate::scripted::{ScriptedCa, Settings, Validation};

/// What a responder answers, for its token: status, location, body.
type Answers = Arc<Mutex<Vec<(u16, Option<String>, String)>>>;

/// A responder on loopback that gives these answers one after another, and the last for ever.
async fn responder() -> (SocketAddr, Answers) {
    let answers = Answers::default();
    let played = Arc::clone(&answers);
    let answer = move |Path(_): Path<String>| {
        let mut answers = played.lock().unwrap();
        let (status, location, body) = if answers.len() > 1 {
            answers.remove(0)
        } else {
            answers[0].clone()
        };
        let location = location.map(|to| [(header::LOCATION, to)]);
        let status = StatusCode::from_u16(status).unwrap();
        async move { (status, location, body).into_response() }
    };
    let router = Router::new().route("/.well-known/acme-challenge/{token}", get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, answers)
}

async fn looking(places: &[(&str, SocketAddr)]) -> ScriptedCa {
    let places = places.iter().map(|(name, at)| ((*name).to_owned(), *at));
    ScriptedCa::start(Settings {
        validation: Validation::At(places.collect()),
        ..Settings::default()
    })
    .await
    .unwrap()
}

/// Orders `name`, answers its challenge so, and gives the challenge as it ended.
async fn challenge(
    client: &Client<'_>,
    name: &str,
    answer: impl FnOnce(&str) -> Vec<(u16, Option<String>, String)>,
    answers: &Answers,
) -> Value {
    let order = client.order(&[name]);
    let url = order.content()["authorizations"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let token = client.challenge(&url)["token"].as_str().unwrap().to_owned();
    let thumbprint = {
        let state = client.ca.shared.lock();
        state.accounts.values().next().unwrap().key.thumbprint()
    };
    *answers.lock().unwrap() = answer(&format!("{token}.{thumbprint}"));
    client.accept(&order);
    client.leaves(&order, &["pending"]).await;
    client.challenge(&url)
}

fn good(key_authorization: &str) -> (u16, Option<String>, String) {
    (200, None, format!("{key_authorization}\n"))
}

fn error(challenge: &Value) -> (&str, &str) {
    let text = |name: &str| challenge["error"][name].as_str().unwrap();
    let kind = text("type").rsplit(':').next().unwrap();
    (kind, text("detail"))
}

#[tokio::test]
async fn only_the_key_authorization_proves_control() {
    let (at, answers) = responder().await;
    let ca = looking(&[("a.test", at)]).await;
    let client = Client::of(&ca);
    let proved = challenge(&client, "a.test", |key| vec![good(key)], &answers).await;
    assert_eq!(proved["status"], "valid", "{}", ca.journal());

    // The token with another account's thumbprint.
    let forged = |key: &str| {
        let token = key.split_once('.').unwrap().0;
        vec![(
            200,
            None,
            format!("{token}.LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ"),
        )]
    };
    let refused = challenge(&client, "a.test", forged, &answers).await;
    let (kind, detail) = error(&refused);
    assert_eq!(
        (refused["status"].as_str(), kind),
        (Some("invalid"), "unauthorized")
    );
    assert!(detail.contains("did not match this challenge"), "{detail}");
    for (status, words) in [(404, "404"), (500, "500")] {
        let answer = |_: &str| vec![(status, None, String::new())];
        let refused = challenge(&client, "a.test", answer, &answers).await;
        let (kind, detail) = error(&refused);
        assert!(kind == "unauthorized" && detail.contains(words), "{detail}");
    }
}

#[tokio::test]
async fn an_address_without_a_responder_and_a_name_without_an_address_are_told_apart() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let ca = looking(&[("closed.test", closed)]).await;
    let client = Client::of(&ca);
    let none = Answers::default();
    let refused = challenge(&client, "closed.test", |_| Vec::new(), &none).await;
    assert_eq!(error(&refused).0, "connection");
    assert!(
        error(&refused).1.contains("Connection refused"),
        "{refused}"
    );
    let unknown = challenge(&client, "unknown.test", |_| Vec::new(), &none).await;
    assert_eq!(error(&unknown).0, "dns");
}

#[tokio::test]
async fn redirects_are_followed_as_far_as_a_ca_follows_them() {
    let (at, answers) = responder().await;
    let ca = looking(&[("a.test", at), ("b.test", at)]).await;
    let client = Client::of(&ca);
    let to = |url: &str| (302, Some(url.to_owned()), String::new());
    let there = "http://b.test/.well-known/acme-challenge/x";
    let once = challenge(
        &client,
        "a.test",
        |key| vec![to(there), good(key)],
        &answers,
    )
    .await;
    assert_eq!(once["status"], "valid", "{}", ca.journal());
    let ten = |key: &str| {
        let mut all = vec![to("/.well-known/acme-challenge/y"); 10];
        all.push(good(key));
        all
    };
    let ten = challenge(&client, "a.test", ten, &answers).await;
    assert_eq!(ten["status"], "valid", "{}", ca.journal());

    for (target, words) in [
        (there, "Too many redirects"),
        ("http://b.test:8080/", "Invalid scheme or port"),
        ("ftp://b.test/", "Invalid scheme or port"),
    ] {
        let refused = challenge(&client, "a.test", |_| vec![to(target)], &answers).await;
        let (kind, detail) = error(&refused);
        assert!(kind == "connection" && detail.contains(words), "{detail}");
    }
    let nowhere = challenge(&client, "a.test", |_| vec![to("http://c.test/")], &answers).await;
    assert_eq!(error(&nowhere).0, "dns");
}

#[tokio::test]
async fn no_certificate_is_looked_at_on_the_way() {
    let (at, answers) = responder().await;
    // Any HTTPS server with a certificate of nobody's will do.
    let elsewhere = looking(&[]).await;
    let ca = looking(&[("a.test", at), ("b.test:443", elsewhere.address)]).await;
    let client = Client::of(&ca);
    let to = |_: &str| vec![(301, Some("https://b.test/dir".to_owned()), String::new())];
    let refused = challenge(&client, "a.test", to, &answers).await;
    let (kind, detail) = error(&refused);
    assert!(
        kind == "unauthorized" && detail.contains("did not match"),
        "{detail}"
    );
    assert_eq!(elsewhere.count().requests, 1);
}
