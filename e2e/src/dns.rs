//! The world's DNS, as the CA sees it: pebble-challtestsrv, changed by its management interface.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use evercert_cluster::address;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::curl;

/// An address with nothing at port 80: connections to it are refused at once.
pub const NOWHERE: &str = address::NODE;

/// An address of the world's that nobody has: nobody answers there, and nobody says so.
pub const NOBODY: &str = "198.18.0.250";

/// Every name without a record of its own leads to the ingress controller; from now on `host` leads to `addresses`.
///
/// # Errors
/// The DNS server does not answer.
pub fn point(host: &str, addresses: &[&str]) -> Result<()> {
    clear(host)?;
    send(
        "add-a",
        &serde_json::json!({"host": absolute(host), "addresses": addresses}),
    )
}

/// Takes the record of `host` away, so that it leads to the ingress controller again.
///
/// # Errors
/// The DNS server does not answer.
pub fn clear(host: &str) -> Result<()> {
    send("clear-a", &serde_json::json!({"host": absolute(host)}))
}

/// From now on `host` has an AAAA record, too.
///
/// # Errors
/// The DNS server does not answer.
pub fn add_ipv6(host: &str, address: &str) -> Result<()> {
    send(
        "add-aaaa",
        &serde_json::json!({"host": absolute(host), "addresses": [address]}),
    )
}

/// Takes the AAAA records of `host` away.
///
/// # Errors
/// The DNS server does not answer.
pub fn clear_ipv6(host: &str) -> Result<()> {
    send("clear-aaaa", &serde_json::json!({"host": absolute(host)}))
}

/// From now on every question about `host` is answered with SERVFAIL, or no longer.
///
/// # Errors
/// The DNS server does not answer.
pub fn fail(host: &str, fails: bool) -> Result<()> {
    let path = if fails {
        "set-servfail"
    } else {
        "clear-servfail"
    };
    send(path, &serde_json::json!({"host": absolute(host)}))
}

/// From now on `host` has these CAA records: these CAs, by the domains that they recognize themselves by, may issue and no other.
///
/// # Errors
/// The DNS server does not answer.
pub fn authorize(host: &str, authorities: &[&str]) -> Result<()> {
    send("clear-caa", &serde_json::json!({"host": absolute(host)}))?;
    let policies: Vec<_> = authorities
        .iter()
        .map(|authority| serde_json::json!({"tag": "issue", "value": authority}))
        .collect();
    send(
        "add-caa",
        &serde_json::json!({"host": absolute(host), "policies": policies}),
    )
}

/// A DNS server of a story's own: it passes questions on to the world's, save for names that it says are not there (NXDOMAIN),
/// which the world's never says. It ends when this value is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    hidden: Arc<Mutex<BTreeSet<String>>>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Begins to answer, on a free port of this machine.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start() -> Result<Self> {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        let address = socket.local_addr()?;
        let hidden = Arc::new(Mutex::new(BTreeSet::new()));
        let names = hidden.clone();
        let task = tokio::spawn(async move {
            let mut packet = [0; LONGEST];
            while let Ok((length, client)) = socket.recv_from(&mut packet).await {
                let question = packet.get(..length).unwrap_or_default().to_vec();
                let (socket, names) = (socket.clone(), names.clone());
                tokio::spawn(async move {
                    let is_hidden = |name| lock(&names).contains(&name);
                    let answer = if name_of(&question).is_some_and(is_hidden) {
                        Some(deny(&question))
                    } else {
                        pass_on(&question).await.ok()
                    };
                    if let Some(answer) = answer {
                        let _ = socket.send_to(&answer, client).await;
                    }
                });
            }
        });
        Ok(Self {
            address,
            hidden,
            task,
        })
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `host` is not there, or it is again.
    pub fn hide(&self, host: &str, is_hidden: bool) {
        let host = host.to_ascii_lowercase();
        let mut hidden = lock(&self.hidden);
        if is_hidden {
            hidden.insert(host);
        } else {
            hidden.remove(&host);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(names: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The longest message, in bytes.
const LONGEST: usize = 4096;
/// A message's header (RFC 1035 §4.1.1), in bytes.
const HEADER: usize = 12;

/// The end of the first question's name, and the name in lower case (RFC 1035 §4.1.2).
fn read_name(message: &[u8]) -> Option<(usize, String)> {
    let (mut at, mut labels) = (HEADER, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((at, labels.join(".")));
        }
        let label = message.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
}

fn name_of(question: &[u8]) -> Option<String> {
    read_name(question).map(|(_, name)| name)
}

/// NXDOMAIN: the same identifier and question, nothing else.
fn deny(question: &[u8]) -> Vec<u8> {
    let end = read_name(question).map_or(HEADER, |(end, _)| end + 4);
    let id = question.get(..2).unwrap_or_default();
    let asked = question.get(HEADER..end).unwrap_or_default();
    let flags_and_counts = [0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0];
    [id, &flags_and_counts, asked].concat()
}

async fn pass_on(question: &[u8]) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.send_to(question, address::DNS).await?;
    let mut packet = [0; LONGEST];
    let waiting = socket.recv(&mut packet);
    let length = tokio::time::timeout(Duration::from_secs(2), waiting).await??;
    Ok(packet.get(..length).unwrap_or_default().to_vec())
}

fn absolute(host: &str) -> String {
    format!("{}.", host.trim_end_matches('.'))
}

fn send(path: &str, body: &serde_json::Value) -> Result<()> {
    let url = format!("http://{}/{path}", address::DNS_MANAGEMENT);
    curl::post(&url, &body.to_string())
        .with_context(|| format!("POST {url}"))
        .map(drop)
}
