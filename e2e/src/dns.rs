//! The world's DNS, as the CA sees it: pebble-challtestsrv, changed by its management interface.

use anyhow::{Context, Result};
use evercert_cluster::address;

use crate::curl;

/// An address with nothing at port 80: connections to it are refused at once.
pub const NOWHERE: &str = address::NODE;

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

/// From now on `host` has one CAA record: this CA, by the domain that it recognizes itself by, may issue and no other.
///
/// # Errors
/// The DNS server does not answer.
pub fn authorize(host: &str, authority: &str) -> Result<()> {
    send("clear-caa", &serde_json::json!({"host": absolute(host)}))?;
    send(
        "add-caa",
        &serde_json::json!({"host": absolute(host), "policies": [{"tag": "issue", "value": authority}]}),
    )
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
