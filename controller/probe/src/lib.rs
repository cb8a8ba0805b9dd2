//! The self-check: asks the way to the solver for a challenge as the CA would, hop by hop, and says what it saw.
//!
//! It is advice (the CA's own look decides), so it is bounded in time and ends in a [`Way`], never in an error. What a
//! site answers may be none of the reader's business: no body leaves this crate, only its class.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use evercert_api::keys::CHALLENGE_PATH;
use evercert_api::names::host_header;
use evercert_core::reach::{Look, Public, Seen, Sight, Way};
use tokio::task::JoinSet;
use tokio::time::timeout;

mod address;
mod caa;
mod dns;
mod exchange;
mod redirect;
#[cfg(test)]
mod tests;
mod tls;

pub use address::{Network, is_public};
pub use dns::{Dns, DnsError};
pub use tls::find_leaf;

/// How many addresses of an entry point are asked; the rest is left out.
pub const MOST_ADDRESSES: usize = 4;
/// How many addresses of each family are asked that DNS has for a name: whoever writes a zone does not send this process to half
/// the internet.
const MOST_PUBLIC: usize = 2;

/// How patiently is asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long one request may take, from connecting to the end of the body.
    pub per_request: Duration,
    /// How long the whole check may take, redirects included.
    pub in_all: Duration,
    /// How many good answers in a row, each on a new connection, make an address good (at least one).
    pub good_answers: u32,
    /// The most that is read of a body, in bytes.
    pub body_cap: usize,
    /// Where a CA begins: 80 but in tests.
    pub http_port: u16,
    /// Where a redirect to https at the host itself is followed to: 443 but in tests.
    pub https_port: u16,
}

impl Default for Options {
    /// 2 s a request, 10 s in all, three good answers, 16 KiB.
    fn default() -> Self {
        Self {
            per_request: Duration::from_secs(2),
            in_all: Duration::from_secs(10),
            good_answers: 3,
            body_cap: 16 << 10,
            http_port: 80,
            https_port: 443,
        }
    }
}

/// A challenge that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The name, or the IP address, that it is for.
    pub name: String,
    /// Its token.
    pub token: String,
    /// The right answer.
    pub key_authorization: String,
}

/// Looks at the ways of challenges. Cheap to clone.
///
/// Addresses of the entry point may be private, since the caller answers for them; any other is asked only if it is public, or in
/// a network that the operator was told of, at the first request as at each redirect.
#[derive(Debug, Clone)]
pub struct Prober {
    dns: Option<Dns>,
    networks: Arc<[Network]>,
    options: Options,
}

impl Prober {
    /// One that resolves names by `dns` (without it the public name is not looked at), and may ask private addresses in
    /// `networks`, too.
    #[must_use]
    pub fn new(dns: Option<Dns>, networks: &[Network]) -> Self {
        Self::with_options(dns, networks, Options::default())
    }

    fn with_options(dns: Option<Dns>, networks: &[Network], options: Options) -> Self {
        Self {
            dns,
            networks: networks.into(),
            options,
        }
    }

    /// Asks each address in `entry` (up to [`MOST_ADDRESSES`]) for the challenge with its name as Host, and beside that each
    /// address that DNS has for the name; all at once, and each address once. Redirects are followed as a CA does: ten at most,
    /// ports 80 and 443 only, no look at the certificate; one to the name itself stays at the address asked.
    ///
    /// It ends as soon as the public name is known and one address of the entry point is good.
    pub async fn look(&self, challenge: &Challenge, entry: &[IpAddr]) -> Way {
        let entry: Vec<IpAddr> = entry.iter().take(MOST_ADDRESSES).copied().collect();
        let mut asking: Asking = JoinSet::new();
        let mut seen: Vec<(IpAddr, Option<Look>)> = Vec::new();
        for address in &entry {
            self.ask_at(challenge, &entry, *address, &mut seen, &mut asking);
        }
        let mut public = None;
        let looking = async {
            let found = self.find_public(&challenge.name).await;
            for address in found.iter().flatten() {
                if self.may_ask(*address, &entry) {
                    self.ask_at(challenge, &entry, *address, &mut seen, &mut asking);
                } else if find(&seen, *address).is_none() {
                    let at = (*address, self.options.http_port).into();
                    let look = Look::Unreachable(Sight::of(Some(at), Seen::NotPublic));
                    seen.push((*address, Some(look)));
                }
            }
            let all_known: Vec<IpAddr> = found.iter().flatten().copied().collect();
            public = found;
            loop {
                let is_known = |address: &IpAddr| find(&seen, *address).is_some();
                let is_good = |address: &IpAddr| find(&seen, *address) == Some(&Look::Reachable);
                let is_enough = entry.is_empty() || entry.iter().any(is_good);
                if is_enough && all_known.iter().all(is_known) {
                    return;
                }
                let Some(joined) = asking.join_next().await else {
                    return;
                };
                if let Ok((address, look)) = joined
                    && let Some(place) = seen.iter_mut().find(|(a, _)| *a == address)
                {
                    place.1 = Some(look);
                }
            }
        };
        // Whoever has not ended by then has not answered.
        let _ = timeout(self.options.in_all, looking).await;
        let look_at = |address: &IpAddr| {
            let at = (*address, self.options.http_port).into();
            let late = || Look::Unreachable(Sight::of(Some(at), Seen::Silent));
            (
                *address,
                find(&seen, *address).cloned().unwrap_or_else(late),
            )
        };
        // One that was not waited for, since another one is good, is not told.
        let is_any_good = entry
            .iter()
            .any(|a| find(&seen, *a) == Some(&Look::Reachable));
        let counts = |address: &&IpAddr| !is_any_good || find(&seen, **address).is_some();
        Way {
            solver: None,
            service: None,
            entry_points: entry.iter().filter(counts).map(look_at).collect(),
            public: match (&self.dns, public) {
                (None, _) => Public::NotAsked,
                (Some(_), None) => Public::Unresolved,
                (Some(_), Some(found)) if found.is_empty() => Public::Unresolved,
                (Some(_), Some(found)) => Public::Asked(found.iter().map(look_at).collect()),
            },
        }
    }

    /// Asks one hop inside of the cluster for the challenge; no redirect leads on from there but to itself.
    pub async fn look_at(&self, challenge: &Challenge, at: SocketAddr) -> Look {
        let entry = redirect::Entry {
            http: at,
            https: at,
        };
        let question = self.question(challenge, &[at.ip()]);
        match timeout(self.options.in_all, question.ask_repeatedly(entry)).await {
            Ok(look) => look,
            Err(_) => Look::Unreachable(Sight::of(Some(at), Seen::Silent)),
        }
    }

    /// The addresses of the name; `None` where they are not known.
    async fn find_public(&self, name: &str) -> Option<Vec<IpAddr>> {
        if let Ok(address) = name.parse() {
            return Some(vec![address]);
        }
        let found = self.dns.as_ref()?.resolve(name).await;
        let of_family = |is_v4: bool| {
            let found = found.iter().filter(move |a| a.is_ipv4() == is_v4);
            found.take(MOST_PUBLIC).copied()
        };
        Some(of_family(false).chain(of_family(true)).collect())
    }

    fn may_ask(&self, address: IpAddr, entry: &[IpAddr]) -> bool {
        redirect::may_ask(address, entry, &self.networks)
    }

    fn question(&self, challenge: &Challenge, entry: &[IpAddr]) -> exchange::Question {
        exchange::Question {
            host: host_header(&challenge.name),
            path: format!("{CHALLENGE_PATH}{}", challenge.token),
            key_authorization: challenge.key_authorization.clone(),
            options: self.options.clone(),
            resolver: redirect::Resolver {
                dns: self.dns.clone(),
                networks: Arc::clone(&self.networks),
                entry: entry.to_vec(),
            },
        }
    }

    fn ask_at(
        &self,
        challenge: &Challenge,
        entry: &[IpAddr],
        address: IpAddr,
        seen: &mut Vec<(IpAddr, Option<Look>)>,
        asking: &mut Asking,
    ) {
        if seen.iter().any(|(known, _)| *known == address) {
            return;
        }
        seen.push((address, None));
        let question = self.question(challenge, entry);
        let at = redirect::Entry {
            http: (address, self.options.http_port).into(),
            https: (address, self.options.https_port).into(),
        };
        asking.spawn(async move { (address, question.ask_repeatedly(at).await) });
    }
}

type Asking = JoinSet<(IpAddr, Look)>;

fn find(seen: &[(IpAddr, Option<Look>)], address: IpAddr) -> Option<&Look> {
    let (_, look) = seen.iter().find(|(known, _)| *known == address)?;
    look.as_ref()
}
