//! DNS as it is seen from here, for a name that is about to be ordered: addresses, aliases, CAA records, and who listens where a
//! name leads that does not lead to its Ingress. Every look ends in an answer, in time; what it means is evercert-core's.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use evercert_core::caa::Signing;
use evercert_core::preflight::{Answer, Listener, NameLook, find_strangers};
use futures::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Negative, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::address::is_public;

/// The longest time for one question.
const PER_QUESTION: Duration = Duration::from_secs(2);
/// The longest time for a connection to somebody else's address.
const PER_CONNECTION: Duration = Duration::from_secs(1);
/// How long an answer is kept, and that there is none: a mended record is seen soon.
const KEPT: Duration = Duration::from_secs(5);

/// Why there is nobody to ask.
#[derive(Debug, thiserror::Error)]
#[error("no DNS resolver can be made: {0}")]
pub struct DnsError(String);

/// Asks DNS servers. Cheap to clone; answers are kept for some seconds.
#[derive(Clone)]
pub struct Dns(TokioResolver);

impl Dns {
    /// One that asks these servers, or without any those of the system (`/etc/resolv.conf`).
    ///
    /// # Errors
    /// [`DnsError`]: the system's configuration cannot be read.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, DnsError> {
        let failed = |error: NetError| DnsError(error.to_string());
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(failed)?
        } else {
            let servers = servers.iter().map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let at = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let connections = connections.map(at).into();
                NameServerConfig::new(server.ip(), true, connections)
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = PER_QUESTION;
        options.attempts = 1;
        options.ndots = 0;
        options.positive_max_ttl = Some(KEPT);
        options.negative_max_ttl = Some(KEPT);
        builder.build().map(Self).map_err(failed)
    }

    pub(crate) async fn lookup(&self, name: &str, kind: RecordType) -> Result<Lookup, NetError> {
        let name = name.trim_end_matches('.');
        self.0.lookup(format!("{name}."), kind).await
    }

    /// Looks at `name`, whose Ingress is at `wanted`. All questions at once; at most some seconds. Where servers fail, `control`,
    /// another name that must be there, tells whether they fail for every name: then nothing is known. An IP address is where it
    /// is: DNS is not asked about it.
    pub async fn look(
        &self,
        name: &str,
        wanted: &[IpAddr],
        signing: &Signing<'_>,
        control: Option<&str>,
    ) -> NameLook {
        let mut look = match name.parse() {
            Ok(address) => NameLook::of_address(address),
            Err(_) => self.look_up(name, signing).await,
        };
        if look.found().is_empty() {
            let fails = look.ipv4 == Answer::ServerFailure || look.ipv6 == Answer::ServerFailure;
            if fails && self.fails_for_all(control).await {
                (look.ipv4, look.ipv6) = (Answer::Unknown, Answer::Unknown);
            }
            if look.ipv4 != Answer::Unknown {
                look.alias = self.alias(name).await;
            }
        }
        let strangers = find_strangers(&look, wanted, is_public);
        look.listeners = join_all(strangers.into_iter().map(find_listener)).await;
        look
    }

    async fn look_up(&self, name: &str, signing: &Signing<'_>) -> NameLook {
        let (ipv4, ipv6, caa) = tokio::join!(
            self.addresses(name, RecordType::A),
            self.addresses(name, RecordType::AAAA),
            self.check_caa(name, signing),
        );
        NameLook {
            ipv4,
            ipv6,
            alias: None,
            caa,
            listeners: Vec::new(),
        }
    }

    /// The addresses of `name`, those of IPv4 first; none where there are none, or nobody says.
    pub async fn resolve(&self, name: &str) -> Vec<IpAddr> {
        let both = async {
            tokio::join!(
                self.addresses(name, RecordType::A),
                self.addresses(name, RecordType::AAAA)
            )
        };
        let Ok((ipv4, ipv6)) = timeout(PER_QUESTION, both).await else {
            return Vec::new();
        };
        let found = |answer| match answer {
            Answer::Addresses(addresses) => addresses,
            Answer::NoName | Answer::ServerFailure | Answer::Unknown => Vec::new(),
        };
        found(ipv4).into_iter().chain(found(ipv6)).collect()
    }

    async fn addresses(&self, name: &str, kind: RecordType) -> Answer {
        match self.lookup(name, kind).await {
            Ok(found) => {
                let addresses = found.answers().iter().filter_map(|r| match &r.data {
                    RData::A(a) => Some(IpAddr::V4(a.0)),
                    RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                    _ => None,
                });
                Answer::Addresses(addresses.collect())
            }
            Err(error) if error.is_nx_domain() => Answer::NoName,
            Err(error) if error.is_no_records_found() => Answer::Addresses(Vec::new()),
            Err(NetError::Dns(Negative::ResponseCode(ResponseCode::ServFail))) => {
                Answer::ServerFailure
            }
            Err(_) => Answer::Unknown,
        }
    }

    /// Whether a name that is there cannot be resolved either.
    async fn fails_for_all(&self, control: Option<&str>) -> bool {
        match control {
            Some(control) => {
                let ipv4 = self.addresses(control, RecordType::A).await;
                matches!(ipv4, Answer::ServerFailure | Answer::Unknown)
            }
            None => false,
        }
    }

    /// What `name` is an alias of, at the end of the chain as far as one question tells.
    async fn alias(&self, name: &str) -> Option<String> {
        let found = self.lookup(name, RecordType::CNAME).await.ok()?;
        found.answers().iter().rev().find_map(|r| match &r.data {
            RData::CNAME(target) => Some(target.0.to_utf8().trim_end_matches('.').to_owned()),
            _ => None,
        })
    }
}

/// So many connections are tried at a time, whatever the zones of all names say.
static CONNECTIONS: Semaphore = Semaphore::const_new(32);

/// Who listens on port 80 of an address of the internet.
async fn find_listener(address: IpAddr) -> (IpAddr, Listener) {
    let Ok(_one_of_few) = CONNECTIONS.acquire().await else {
        return (address, Listener::Silent);
    };
    let connecting = TcpStream::connect((address, 80));
    let listener = match timeout(PER_CONNECTION, connecting).await {
        Ok(Ok(_)) => Listener::There,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Listener::Refused
        }
        Ok(Err(_)) | Err(_) => Listener::Silent,
    };
    (address, listener)
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dns")
    }
}

#[cfg(test)]
pub(crate) mod tests;
