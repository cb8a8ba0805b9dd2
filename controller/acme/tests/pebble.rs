//! The adapter against a real CA: Pebble, from the folder that `EVERCERT_PEBBLE_DIR` names. Without it the tests say so and
//! pass.

// A test fails by panicking, in the functions that tests share too.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/pki.rs"]
mod pki;
mod suite;
mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use evercert_acme::DirectoryConfig;
use pki::Pki;
use suite::{Authority, CAA_IDENTITY, Counted, EXTERNAL_ACCOUNT, Nothing, Shape};

suite::adapter_tests!(Pebble);

/// A running Pebble; ends with its value.
struct Pebble {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    pki: Pki,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Pebble {
    /// One try. What it wrote is printed when it did not begin to listen.
    fn begin(program: &Path, shape: &Shape) -> Result<Self, ()> {
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
            "externalAccountMACKeys": {EXTERNAL_ACCOUNT.0: EXTERNAL_ACCOUNT.1},
            "domainBlocklist": shape.blocked,
            "caaIdentities": [CAA_IDENTITY],
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
            .env("PEBBLE_ALTERNATE_ROOTS", shape.alternates.to_string())
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
        let pebble = Self {
            process,
            log,
            pki,
            port,
            _folder: folder,
        };
        if let Err(error) = is_ready.recv_timeout(Duration::from_secs(20)) {
            println!("no Pebble, {error}: {:?}", pebble.log.lock().unwrap());
            return Err(());
        }
        // The line is written just before it listens.
        wait(
            || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(),
            || format!("{:?}", pebble.log.lock().unwrap()),
        );
        Ok(pebble)
    }
}

impl Authority for Pebble {
    async fn start(shape: &Shape) -> Option<Self> {
        let Some(program) =
            std::env::var_os("EVERCERT_PEBBLE_DIR").map(|d| PathBuf::from(d).join("pebble"))
        else {
            println!("skipped: EVERCERT_PEBBLE_DIR does not name a folder with the program pebble");
            return None;
        };
        // Whatever connects somewhere meanwhile may be given a port that was free.
        let mut tries = (0..5).map(|_| Self::begin(&program, shape));
        let begun = tries.find_map(Result::ok);
        Some(begun.unwrap_or_else(|| panic!("no Pebble: its own words are above")))
    }

    fn config(&self) -> DirectoryConfig {
        let mut config = DirectoryConfig::new(
            format!("https://127.0.0.1:{}/dir", self.port),
            "evercert/test",
        );
        config.ca_bundle = Some(self.pki.root.clone().into_bytes());
        config
    }

    fn nothing(&self, at: Nothing) -> String {
        let path = match at {
            Nothing::Account => "my-account/none",
            Nothing::Order => "my-order/none",
        };
        format!("https://127.0.0.1:{}/{path}", self.port)
    }

    fn count(&self, what: Counted) -> usize {
        let (start, end) = match what {
            Counted::NewOrderRequests => ("POST /order-plz", ""),
            Counted::FinalizeRequests => ("POST /finalize-order/", ""),
            Counted::Accounts => ("There are now ", " accounts"),
            Counted::Orders => ("There are now ", " orders"),
        };
        let log = self.log.lock().unwrap();
        let told = log.iter().filter(|l| l.contains(start) && l.contains(end));
        told.count()
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
