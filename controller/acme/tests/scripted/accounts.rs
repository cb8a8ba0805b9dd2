//! The directory and the accounts at it.

use evercert_acme::{ConnectError, Directory, DirectoryConfig, WireError};
use evercert_core::fault::FaultClass;
use serde_json::json;

use crate::ca::{Reply, ScriptedCa};
use crate::support::{account_key, ensure_account, now};

#[tokio::test]
async fn one_directory_serves_many_accounts_with_one_fetch() {
    let ca = ScriptedCa::start().await;
    let directory = ca.directory().await;
    let key = account_key();
    for _ in 0..3 {
        let acme = directory
            .account(&key, Some(&ca.url("/account/7")), now())
            .await
            .unwrap();
        assert_eq!(acme.account_uri(), ca.url("/account/7"));
    }
    assert_eq!(ca.lines(), ["GET /dir"]);
    assert_eq!(
        ensure_account(&directory, &key, None)
            .await
            .unwrap()
            .account_uri(),
        ca.url("/account/1")
    );
    // A URL from elsewhere, of a forged status say, is not believed.
    let looked_up = directory
        .account(&key, Some("https://127.0.0.1/account/7"), now())
        .await
        .unwrap();
    assert_eq!(looked_up.account_uri(), ca.url("/account/1"));
    let asked = ca.asked();
    let lines: Vec<_> = asked
        .iter()
        .map(|a| format!("{} {}", a.method, a.path))
        .collect();
    assert_eq!(
        lines,
        ["HEAD /nonce", "POST /new-account", "POST /new-account"]
    );
    assert!(
        asked.iter().all(|a| a.user_agent == "evercert/test"),
        "{asked:?}"
    );
    assert!(
        asked[1].payload.contains(r#""onlyReturnExisting":true"#)
            && asked[1].protected["jwk"].is_object()
    );
}

#[tokio::test]
async fn account_is_made_only_when_allowed_and_unknown_and_its_contact_only_when_it_differs() {
    let ca = ScriptedCa::start().await;
    let directory = ca.directory().await;
    let unknown = Reply::problem(400, "accountDoesNotExist", "who?");
    let known = |contact: &[&str]| {
        Reply::json(&json!({"status": "valid", "contact": contact}))
            .header("location", &ca.url("/account/1"))
    };
    ca.asked();

    ca.on("/new-account", unknown.clone());
    let fault = directory
        .account(&account_key(), None, now())
        .await
        .err()
        .unwrap();
    assert_eq!(
        (fault.class, fault.problem.unwrap().kind.as_str()),
        (FaultClass::Account, "accountDoesNotExist")
    );
    assert_eq!(ca.lines(), ["HEAD /nonce", "POST /new-account"]);

    ca.on_in_turn("/new-account", [unknown, known(&[])]);
    ca.on("/account/1", known(&["mailto:a@example.test"]));
    ensure_account(&directory, &account_key(), Some("a@example.test"))
        .await
        .unwrap();
    let asked = ca.asked();
    assert_eq!(
        asked.iter().map(|a| a.path.as_str()).collect::<Vec<_>>(),
        ["/new-account", "/new-account", "/account/1"]
    );
    assert!(
        !asked[1].payload.contains("onlyReturnExisting")
            && asked[1].payload.contains(r#""termsOfServiceAgreed":true"#)
    );
    assert_eq!(asked[2].payload, r#"{"contact":["mailto:a@example.test"]}"#);

    ca.on("/new-account", known(&["mailto:a@example.test"]));
    ensure_account(&directory, &account_key(), Some("a@example.test"))
        .await
        .unwrap();
    assert_eq!(ca.lines(), ["POST /new-account"]);

    ca.on(
        "/new-account",
        Reply::json(&json!({"status": "deactivated"})).header("location", &ca.url("/account/1")),
    );
    let fault = ensure_account(&directory, &account_key(), None)
        .await
        .err()
        .unwrap();
    assert_eq!(fault.class, FaultClass::Account);
    assert!(fault.detail.contains("deactivated"), "{}", fault.detail);

    let unreadable = ensure_account(&directory, b"no key", None)
        .await
        .err()
        .unwrap();
    assert_eq!(unreadable.class, FaultClass::Account);
    assert!(unreadable.detail.contains("P-256"), "{}", unreadable.detail);
}

#[tokio::test]
async fn directory_that_cannot_be_used_says_what_to_mend() {
    let ca = ScriptedCa::start().await;
    let connect = |change: fn(&mut DirectoryConfig)| {
        let mut config = ca.config();
        change(&mut config);
        Directory::connect(config, now())
    };
    let error = connect(|c| c.url = c.url.replace("https", "http"))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, ConnectError::InvalidUrl { .. }) && error.to_string().contains("not https"),
        "{error}"
    );
    for url in ["", "acme", "https://", "https://user:pass@127.0.0.1/dir"] {
        let error = Directory::connect(DirectoryConfig::new(url, "evercert/test"), now())
            .await
            .err()
            .unwrap();
        assert!(
            matches!(error, ConnectError::InvalidUrl { .. }),
            "{url}: {error}"
        );
    }

    let error = connect(|c| c.ca_bundle = None).await.err().unwrap();
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error}");
    for bundle in [
        "",
        "no PEM at all",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
    ] {
        let mut config = ca.config();
        config.ca_bundle = Some(bundle.as_bytes().to_vec());
        let error = Directory::connect(config, now()).await.err().unwrap();
        assert!(
            matches!(error, ConnectError::InvalidBundle(_)),
            "{bundle}: {error}"
        );
    }
    let mut config = ca.config();
    config.ca_bundle = Some(ca.pki.key.clone().into_bytes());
    let error = Directory::connect(config, now()).await.err().unwrap();
    assert!(
        matches!(error, ConnectError::InvalidBundle(_))
            && error.to_string().contains("no certificate"),
        "{error}"
    );

    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = Directory::connect(
        DirectoryConfig::new(format!("https://127.0.0.1:{closed}/dir"), "x"),
        now(),
    )
    .await
    .err()
    .unwrap();
    assert!(
        matches!(
            error,
            ConnectError::Unreachable {
                cause: WireError::Refused,
                ..
            }
        ),
        "{error}"
    );

    let table = [
        (
            Reply::text(200, "text/html", "<html>Welcome</html>"),
            "text/html",
        ),
        (
            Reply::json(&json!({"newNonce": "https://x.test/", "newAccount": 1})),
            "newAccount, newOrder",
        ),
        (
            Reply::json(&json!(["newNonce"])),
            "newNonce, newAccount, newOrder",
        ),
        (
            Reply::json(
                &json!({"newNonce": "https://x.test/", "newAccount": "http://x.test/", "newOrder": "https://x.test/"}),
            ),
            "http://x.test/",
        ),
        (Reply::text(404, "text/plain", ""), "HTTP 404"),
        (
            Reply::text(301, "text/plain", "").header("location", "https://x.test/directory"),
            "https://x.test/directory",
        ),
    ];
    for (reply, words) in table {
        ca.on("/dir", reply);
        let error = connect(|_| ()).await.err().unwrap();
        assert!(
            matches!(error, ConnectError::NotAcme { .. }) && error.to_string().contains(words),
            "{words}: {error}"
        );
    }
    ca.on(
        "/dir",
        Reply::text(503, "text/html", "busy").header("retry-after", "30"),
    );
    let error = connect(|_| ()).await.err().unwrap();
    let ConnectError::Outage {
        status: 503,
        retry_after: Some(_),
        ..
    } = error
    else {
        panic!("{error}")
    };
}

#[tokio::test]
async fn directory_tells_its_terms_and_its_names() {
    let ca = ScriptedCa::start().await;
    let directory = ca.directory().await;
    assert_eq!(directory.url(), ca.url("/dir"));
    assert_eq!(
        directory.terms_of_service(),
        Some("https://ca.example/terms")
    );
    assert_eq!(directory.caa_identities(), ["ca.example"]);
    assert!(!directory.external_account_required());
}
