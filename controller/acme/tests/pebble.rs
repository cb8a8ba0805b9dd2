//! The adapter against a real CA: Pebble, from the folder that `EVERCERT_PEBBLE_DIR` names. Without it the tests say so and
//! pass.

// A test fails by panicking, in the functions that tests share too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use evercert_acme::{Acme, ConnectError, Directory, DirectoryConfig};
use evercert_api::DnsName;
use evercert_core::fault::FaultClass;
use evercert_core::order::{OrderState, OrderView, ProofState};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use support::{Pki, account_key, ensure_account, now};

/// A running Pebble; ends with its value.
struct Pebble {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    pki: Pki,
    port: u16,
    _folder: tempfile::TempDir,
}

/// What is special about a Pebble.
#[derive(Default)]
struct Shape {
    nonce_refusals: u8,
    external_account: bool,
    blocked: &'static [&'static str],
}

impl Pebble {
    /// Starts one on loopback; `None`, with the reason printed, where there is none to start.
    fn start(shape: &Shape) -> Option<Self> {
        let Some(program) =
            std::env::var_os("EVERCERT_PEBBLE_DIR").map(|d| PathBuf::from(d).join("pebble"))
        else {
            println!("skipped: EVERCERT_PEBBLE_DIR does not name a folder with the program pebble");
            return None;
        };
        let pki = Pki::new();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let (port, management) = (free_port(), free_port());
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": file("server.pem", &pki.certificate),
            "privateKey": file("server.key", &pki.key),
            "httpPort": 5002, "tlsPort": 5001,
            "externalAccountBindingRequired": shape.external_account,
            "externalAccountMACKeys": {"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"},
            "domainBlocklist": shape.blocked,
            "caaIdentities": ["pebble.example"],
            "retryAfter": {"authz": 1, "order": 1},
            "profiles": {"default": {"description": "the only one", "validityPeriod": 3600}},
        }});
        let config = file("config.json", &config.to_string());
        let mut process = Command::new(program)
            .arg("-config")
            .arg(config)
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_VA_ALWAYS_VALID", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            .env("PEBBLE_WFE_NONCEREJECT", shape.nonce_refusals.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (ready, is_ready) = mpsc::channel();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("ACME directory available") {
                    let _ = ready.send(());
                }
                written.lock().unwrap().push(line);
            }
        });
        is_ready
            .recv_timeout(Duration::from_secs(20))
            .unwrap_or_else(|_| panic!("no Pebble: {:?}", log.lock().unwrap()));
        let pebble = Self {
            process,
            log,
            pki,
            port,
            _folder: folder,
        };
        // The line is written just before it listens.
        wait(
            || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(),
            || format!("{:?}", pebble.log.lock().unwrap()),
        );
        Some(pebble)
    }

    fn config(&self) -> DirectoryConfig {
        let mut config = DirectoryConfig::new(
            format!("https://127.0.0.1:{}/dir", self.port),
            "evercert/test",
        );
        config.ca_bundle = Some(self.pki.root.clone().into_bytes());
        config
    }

    async fn directory(&self) -> Arc<Directory> {
        Directory::connect(self.config(), now()).await.unwrap()
    }

    async fn account(&self) -> Arc<dyn Acme> {
        ensure_account(&self.directory().await, &account_key(), None)
            .await
            .unwrap()
    }

    fn logged(&self, text: &str) -> usize {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|l| l.contains(text))
            .count()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn wait(condition: impl Fn() -> bool, evidence: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{}", evidence());
        std::thread::yield_now();
    }
}

fn names(texts: &[&str]) -> Vec<DnsName> {
    texts.iter().map(|t| DnsName::parse(t).unwrap()).collect()
}

/// A request for `names` with a key of its own, DER.
fn csr(names: &[&str]) -> Vec<u8> {
    let mut params =
        CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

/// Reads the order until it is in `state`.
async fn read_until(acme: &dyn Acme, url: &str, state: OrderState) -> OrderView {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let view = acme.read_order(url, now()).await.unwrap();
        if view.state == state {
            return view;
        }
        assert!(Instant::now() < deadline, "{view:?}");
        tokio::task::yield_now().await;
    }
}

/// From the order's URL to the chain.
async fn issue(acme: &dyn Acme, url: &str, texts: &[&str]) -> String {
    let view = acme.read_order(url, now()).await.unwrap();
    let challenges: Vec<String> = view.open_challenges().map(|(_, c)| c.url.clone()).collect();
    assert_eq!(challenges.len(), texts.len());
    acme.accept(&challenges, now()).await.unwrap();
    read_until(acme, url, OrderState::Ready).await;
    acme.finalize(url, &csr(texts), now()).await.unwrap();
    read_until(acme, url, OrderState::Valid).await;
    acme.certificate(url, now()).await.unwrap()
}

const TEN: [&str; 10] = [
    "j.ten.test",
    "i.ten.test",
    "h.ten.test",
    "g.ten.test",
    "f.ten.test",
    "e.ten.test",
    "d.ten.test",
    "c.ten.test",
    "b.ten.test",
    "a.ten.test",
];

#[tokio::test]
async fn ten_names_go_from_order_to_chain() {
    let Some(pebble) = Pebble::start(&Shape::default()) else {
        return;
    };
    let acme = pebble.account().await;
    let order = acme.new_order(&names(&TEN), now()).await.unwrap();
    assert_eq!(
        (order.state, order.authorizations.len()),
        (OrderState::Pending, 0)
    );
    assert!(order.expires.is_some_and(|e| e > now()));

    let view = acme.read_order(&order.url, now()).await.unwrap();
    assert!(view.is_for(&names(&TEN)));
    assert_eq!(view.authorizations.len(), 10);
    for authorization in &view.authorizations {
        let challenge = authorization.challenge.as_ref().unwrap();
        assert_eq!(
            (authorization.state, challenge.state),
            (ProofState::Pending, ProofState::Pending)
        );
        assert!(
            challenge
                .key_authorization
                .starts_with(&format!("{}.", challenge.token))
        );
    }

    let chain = issue(&*acme, &order.url, &TEN).await;
    assert!(chain.starts_with("-----BEGIN CERTIFICATE-----"), "{chain}");
    assert_eq!(acme.certificate(&order.url, now()).await.unwrap(), chain);
    assert_eq!(pebble.logged("POST /order-plz"), 1);
}

#[tokio::test]
async fn key_finds_its_account_again() {
    let Some(pebble) = Pebble::start(&Shape::default()) else {
        return;
    };
    let key = account_key();
    let directory = pebble.directory().await;
    let unknown = directory.account(&key, None, now()).await.err().unwrap();
    assert_eq!(unknown.class, FaultClass::Account);
    assert_eq!(unknown.problem.unwrap().kind, "accountDoesNotExist");

    let made = ensure_account(&directory, &key, Some("a@example.test"))
        .await
        .unwrap();
    // Another process, with nothing but the key.
    let found = pebble
        .directory()
        .await
        .account(&key, None, now())
        .await
        .unwrap();
    assert_eq!(found.account_uri(), made.account_uri());
    assert_eq!(pebble.logged("There are now 1 accounts"), 1);

    let forgotten = format!("https://127.0.0.1:{}/my-account/none", pebble.port);
    let stranger = directory
        .account(&key, Some(&forgotten), now())
        .await
        .unwrap()
        .into_acme();
    let fault = stranger
        .new_order(&names(&["a.example.test"]), now())
        .await
        .unwrap_err();
    assert_eq!(fault.class, FaultClass::Account, "{fault:?}");

    let contact = ensure_account(&directory, &key, Some("no address"))
        .await
        .err()
        .unwrap();
    assert_eq!(contact.class, FaultClass::Account, "{contact:?}");
}

#[tokio::test]
async fn another_process_finishes_an_order_by_its_url() {
    let Some(pebble) = Pebble::start(&Shape::default()) else {
        return;
    };
    let key = account_key();
    let first = ensure_account(&pebble.directory().await, &key, None)
        .await
        .unwrap();
    let order = first.new_order(&names(&TEN), now()).await.unwrap();
    let uri = first.account_uri().to_owned();
    drop(first);

    let second = pebble
        .directory()
        .await
        .account(&key, Some(&uri), now())
        .await
        .unwrap()
        .into_acme();
    let view = second.read_order(&order.url, now()).await.unwrap();
    let challenges: Vec<String> = view.open_challenges().map(|(_, c)| c.url.clone()).collect();
    // Not ready: seen, and nothing sent.
    let early = second
        .finalize(&order.url, &csr(&TEN), now())
        .await
        .unwrap();
    assert_eq!(
        (early.state, early.authorizations.len()),
        (OrderState::Pending, 10)
    );
    let none_yet = second.certificate(&order.url, now()).await.unwrap_err();
    assert_eq!(none_yet.class, FaultClass::NotReady);
    // Every step twice, as after a crash between the CA's answer and its record.
    second.accept(&challenges, now()).await.unwrap();
    second.accept(&challenges, now()).await.unwrap();
    read_until(&*second, &order.url, OrderState::Ready).await;
    second.accept(&challenges, now()).await.unwrap();
    let request = csr(&TEN);
    second.finalize(&order.url, &request, now()).await.unwrap();
    second.finalize(&order.url, &request, now()).await.unwrap();
    read_until(&*second, &order.url, OrderState::Valid).await;
    assert!(
        second
            .certificate(&order.url, now())
            .await
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
    assert_eq!(pebble.logged("POST /order-plz"), 1);
    assert_eq!(pebble.logged("POST /finalize-order/"), 1);
}

#[tokio::test]
async fn order_of_another_account_is_gone() {
    let Some(pebble) = Pebble::start(&Shape::default()) else {
        return;
    };
    let order = pebble
        .account()
        .await
        .new_order(&names(&["a.example.test"]), now())
        .await
        .unwrap();
    let fault = pebble
        .account()
        .await
        .read_order(&order.url, now())
        .await
        .unwrap_err();
    assert_eq!(fault.class, FaultClass::Gone, "{fault:?}");
    let unknown = order.url.replace("/my-order/", "/my-order/x");
    let fault = pebble
        .account()
        .await
        .read_order(&unknown, now())
        .await
        .unwrap_err();
    assert_eq!(
        (fault.class, fault.http_status),
        (FaultClass::Gone, Some(404)),
        "{fault:?}"
    );
}

#[tokio::test]
async fn order_goes_through_although_three_of_four_nonces_are_refused() {
    let Some(pebble) = Pebble::start(&Shape {
        nonce_refusals: 75,
        ..Shape::default()
    }) else {
        return;
    };
    let mut config = pebble.config();
    // At 60 attempts a request fails once in thirty million.
    config.nonce_attempts = 60;
    let directory = Directory::connect(config, now()).await.unwrap();
    let acme = ensure_account(&directory, &account_key(), None)
        .await
        .unwrap();
    let order = acme.new_order(&names(&TEN), now()).await.unwrap();
    issue(&*acme, &order.url, &TEN).await;
    assert_eq!(pebble.logged("There are now 1 orders"), 1);
    assert!(pebble.logged("POST /order-plz") >= 1);
}

#[tokio::test]
async fn request_mostly_goes_through_although_four_of_five_nonces_are_refused() {
    let Some(pebble) = Pebble::start(&Shape {
        nonce_refusals: 80,
        ..Shape::default()
    }) else {
        return;
    };
    let directory = pebble.directory().await;
    let key = account_key();
    let mut passed = 0;
    for _ in 0..60 {
        match directory.account(&key, None, now()).await.err().unwrap() {
            fault if fault.is_unknown_account() => passed += 1,
            fault => assert_eq!(fault.class, FaultClass::Unavailable, "{fault:?}"),
        }
    }
    // 52 are expected, with a deviation of 2.6.
    assert!(passed >= 36, "{passed} of 60");
}

#[tokio::test]
async fn external_account_that_is_wanted_and_lacking_is_the_issuers_matter() {
    let Some(pebble) = Pebble::start(&Shape {
        external_account: true,
        ..Shape::default()
    }) else {
        return;
    };
    let directory = pebble.directory().await;
    assert!(directory.external_account_required());
    let fault = ensure_account(&directory, &account_key(), None)
        .await
        .err()
        .unwrap();
    assert_eq!(fault.class, FaultClass::Account);
    assert_eq!(fault.problem.unwrap().kind, "externalAccountRequired");
}

#[tokio::test]
async fn refused_name_is_named() {
    let Some(pebble) = Pebble::start(&Shape {
        blocked: &["blocked.test"],
        ..Shape::default()
    }) else {
        return;
    };
    let acme = pebble.account().await;
    let fault = acme
        .new_order(&names(&["good.test", "www.blocked.test"]), now())
        .await
        .unwrap_err();
    assert_eq!(
        (fault.class, fault.http_status),
        (FaultClass::Permanent, Some(400))
    );
    assert_eq!(fault.problem.unwrap().kind, "rejectedIdentifier");
    assert!(
        fault.detail.contains("www.blocked.test"),
        "{}",
        fault.detail
    );
}

#[tokio::test]
async fn request_for_other_names_is_refused_at_finalize() {
    let Some(pebble) = Pebble::start(&Shape::default()) else {
        return;
    };
    let acme = pebble.account().await;
    let order = acme
        .new_order(&names(&["a.example.test"]), now())
        .await
        .unwrap();
    let view = acme.read_order(&order.url, now()).await.unwrap();
    let challenges: Vec<String> = view.open_challenges().map(|(_, c)| c.url.clone()).collect();
    acme.accept(&challenges, now()).await.unwrap();
    read_until(&*acme, &order.url, OrderState::Ready).await;
    let fault = acme
        .finalize(&order.url, &csr(&["b.example.test"]), now())
        .await
        .unwrap_err();
    assert!(
        fault.detail.starts_with("finalize at 127.0.0.1"),
        "{}",
        fault.detail
    );
    assert!(fault.problem.is_some());
}

#[tokio::test]
async fn authorization_given_back_has_ended() {
    let Some(pebble) = Pebble::start(&Shape::default()) else {
        return;
    };
    let acme = pebble.account().await;
    let order = acme
        .new_order(&names(&["a.example.test"]), now())
        .await
        .unwrap();
    let view = acme.read_order(&order.url, now()).await.unwrap();
    let urls: Vec<String> = view.authorizations.iter().map(|a| a.url.clone()).collect();
    acme.deactivate(&urls, now()).await.unwrap();
    acme.deactivate(&urls, now()).await.unwrap();
    let view = acme.read_order(&order.url, now()).await.unwrap();
    assert!(
        view.authorizations
            .iter()
            .all(|a| a.state == ProofState::Ended),
        "{view:?}"
    );
}

#[tokio::test]
async fn directory_tells_terms_and_trust_is_only_in_the_bundle() {
    let Some(pebble) = Pebble::start(&Shape::default()) else {
        return;
    };
    let directory = pebble.directory().await;
    assert!(directory.terms_of_service().is_some_and(|t| !t.is_empty()));
    assert_eq!(directory.caa_identities(), ["pebble.example"]);
    assert!(!directory.external_account_required());

    let mut config = pebble.config();
    config.ca_bundle = Some(Pki::new().root.into_bytes());
    let error = Directory::connect(config, now()).await.err().unwrap();
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error}");
}
