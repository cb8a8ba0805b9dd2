//! CAA records as a CA would find them (RFC 8659 §3): the closest ancestor that has some, with CNAMEs followed.

use std::net::SocketAddr;
use std::time::Duration;

use evercert_core::caa::{CaaAnswer, CaaRecord, Signing, check_caa};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::timeout;

/// The longest time for one name, all its ancestors together.
const IN_ALL: Duration = Duration::from_secs(5);
/// The longest time for one question.
const PER_QUESTION: Duration = Duration::from_secs(2);

/// Why there is nobody to ask.
#[derive(Debug, thiserror::Error)]
#[error("no DNS resolver can be made: {0}")]
pub struct DnsError(String);

/// Asks DNS servers. Cheap to clone; answers are kept for as long as they say.
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
        builder.build().map(Self).map_err(failed)
    }

    /// Whether the CAA records for `name`, which is no wildcard, let the CA sign. [`CaaAnswer::Unknown`] where DNS gives no
    /// definite answer within 5 s: a CA would look for itself.
    pub async fn check_caa(&self, name: &str, signing: &Signing<'_>) -> CaaAnswer {
        match timeout(IN_ALL, self.climb(name, signing)).await {
            Ok(answer) => answer,
            Err(_) => CaaAnswer::Unknown(format!("no answer within {IN_ALL:?}")),
        }
    }

    async fn climb(&self, name: &str, signing: &Signing<'_>) -> CaaAnswer {
        let mut at = name.trim_end_matches('.');
        loop {
            match self.read(at).await {
                Ok(records) if records.is_empty() => {}
                Ok(records) => return check_caa(at, &records, signing),
                Err(error) => {
                    return CaaAnswer::Unknown(format!(
                        "the CAA records of {at} cannot be read: {error}"
                    ));
                }
            }
            match at.split_once('.') {
                Some((_, parent)) => at = parent,
                None => return CaaAnswer::Allowed,
            }
        }
    }

    async fn read(&self, name: &str) -> Result<Vec<CaaRecord>, NetError> {
        match self.0.lookup(format!("{name}."), RecordType::CAA).await {
            Ok(found) => Ok(found
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::CAA(caa) => Some(CaaRecord {
                        critical: caa.issuer_critical,
                        tag: caa.tag.clone(),
                        value: String::from_utf8_lossy(&caa.value).into_owned(),
                    }),
                    _ => None,
                })
                .collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dns")
    }
}
