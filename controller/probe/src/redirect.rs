//! Where a redirect leads, and whether to go there (as Let's Encrypt does: RFC 8555 §8.3 allows redirects, and no more).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use evercert_core::reach::Seen;
use tokio::net::lookup_host;
use url::{Host, Url};

use crate::address::{Network, is_public};
use crate::dns::Dns;

/// What to do about a redirect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask there.
    Go(Hop),
    /// No CA would go there.
    Never,
    /// The CA may get there; this check does not.
    NotFromHere(Seen),
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

/// Finds the addresses of other names, and refuses those inside.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    /// Who is asked; without it the system is.
    pub(crate) dns: Option<Dns>,
    /// Private networks that may be asked, too.
    pub(crate) networks: Arc<[Network]>,
    /// The entry point's addresses, which may be private.
    pub(crate) entry: Vec<IpAddr>,
}

/// Whether `address` may be asked: it is public, one of the entry point's, or in a network of the operator's configuration.
pub(crate) fn may_ask(address: IpAddr, entry: &[IpAddr], networks: &[Network]) -> bool {
    is_public(address)
        || entry.contains(&address)
        || networks.iter().any(|network| network.contains(address))
}

impl Resolver {
    async fn find(&self, host: &str, port: u16) -> Result<SocketAddr, Seen> {
        let found: Vec<SocketAddr> = match &self.dns {
            Some(dns) => {
                let found = dns.resolve(host).await;
                found.into_iter().map(|a| (a, port).into()).collect()
            }
            None => match lookup_host((host, port)).await {
                Ok(found) => found.collect(),
                Err(_) => Vec::new(),
            },
        };
        if found.is_empty() {
            return Err(Seen::Unresolved);
        }
        let may_ask = |to: &SocketAddr| may_ask(to.ip(), &self.entry, &self.networks);
        found.into_iter().find(may_ask).ok_or(Seen::NotPublic)
    }

    /// Follows `location` as given by the answer to `from`. What leads to `own_host` goes to `entry`: to ask the name's own
    /// address is the point of the check.
    pub(crate) async fn follow(
        &self,
        from: &Hop,
        own_host: &str,
        entry: Entry,
        location: &str,
    ) -> Next {
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
        match self.find(host, port).await {
            Ok(to) => go(to),
            Err(seen) => Next::NotFromHere(seen),
        }
    }
}
