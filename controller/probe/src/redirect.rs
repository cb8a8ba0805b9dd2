//! Where a redirect leads, and whether to go there (as Let's Encrypt does: RFC 8555 §8.3 allows redirects, and no more).

use std::net::SocketAddr;

use tokio::net::lookup_host;
use url::{Host, Url};

use crate::address::is_public;

/// What to do about a redirect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask there.
    Go(Hop),
    /// No CA would go there.
    Never,
    /// The CA may get there; this check does not.
    NotFromHere(String),
}

/// One request of a chain of redirects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Where to connect.
    pub(crate) to: SocketAddr,
    /// Whether over TLS.
    pub(crate) tls: bool,
    /// The Host header.
    pub(crate) host: String,
    /// Path and query.
    pub(crate) path: String,
}

/// Where the name's own address answers, in clear and over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
}

/// Follows `location` as given by the answer to `from`. What leads to `own_host` goes to `entry`: to ask the name's own address
/// is the point of the check.
pub(crate) async fn follow(from: &Hop, own_host: &str, entry: Entry, location: &str) -> Next {
    let scheme = if from.tls { "https" } else { "http" };
    let Ok(base) = Url::parse(&format!("{scheme}://{}{}", from.host, from.path)) else {
        return Next::Never;
    };
    let Ok(url) = base.join(location) else {
        return Next::Never;
    };
    // Let's Encrypt follows names only.
    let Some(Host::Domain(host)) = url.host() else {
        return Next::Never;
    };
    let (tls, port) = match (url.scheme(), url.port_or_known_default()) {
        ("http", Some(port @ (80 | 443))) => (false, port),
        ("https", Some(port @ (80 | 443))) => (true, port),
        _ => return Next::Never,
    };
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let go = |to| {
        Next::Go(Hop {
            to,
            tls,
            host: host.to_owned(),
            path,
        })
    };
    if host.eq_ignore_ascii_case(own_host) {
        return go(if port == 443 { entry.https } else { entry.http });
    }
    let Ok(found) = lookup_host((host, port)).await else {
        return Next::NotFromHere(format!("redirected to {host}, which does not resolve here"));
    };
    found.into_iter().find(|to| is_public(to.ip())).map_or_else(
        || {
            Next::NotFromHere(format!(
                "redirected to {host}, whose addresses here are not public"
            ))
        },
        go,
    )
}
