//! The adapter against a real CA: Pebble, from the folder that `EVERCERT_PEBBLE_DIR` names. Without it the tests say so and
//! pass.

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
use support::{Pki, account_key, csr, now};

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
            "certificate": file("server.pem", &pki.server_pem),
            "privateKey": file("server.key", &pki.server_key_pem),
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
        config.ca_bundle = Some(self.pki.root_pem.clone().into_bytes());
        config
    }

    async fn directory(&self) -> Arc<Directory> {
        Directory::connect(self.config(), now()).await.unwrap()
    }

    async fn account(&self) -> Arc<dyn Acme> {
        self.directory()
            .await
            .account(&account_key(), None, None, true, now())
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
