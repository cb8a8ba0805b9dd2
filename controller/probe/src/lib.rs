//! The self-check: asks the entry point for a challenge as the CA would, and says what it saw.
//!
//! It is advice (the CA's own look decides), so it is bounded in time and ends in a [`Finding`], never in an error. What a
//! site answers may be none of the reader's business: no body leaves this crate, only its class.

use std::net::IpAddr;
use std::time::Duration;

use evercert_api::keys::CHALLENGE_PATH;
use tokio::task::JoinSet;
use tokio::time::timeout;

mod address;
mod caa;
mod dns;
mod exchange;
mod finding;
mod redirect;
#[cfg(test)]
mod tests;
mod tls;

pub use address::is_public;
pub use dns::{Dns, DnsError};
pub use finding::{Finding, Seen};

/// How many addresses of an entry point are asked; the rest is left out.
pub const MOST_ADDRESSES: usize = 4;

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
            https_port: 443,
        }
    }
}

/// Asks each address in `entry` (up to [`MOST_ADDRESSES`], all at once) on `port` for the challenge, with `host` as Host, and
/// follows redirects as a CA does: ten at most, ports 80 and 443 only, no look at the certificate, and none to an address that
/// is not public. A redirect to `host` itself stays at the address asked.
///
/// [`Finding::Reachable`] as soon as one address is good; [`Finding::Wrong`] only if all of them say so; else
/// [`Finding::UnreachableFromHere`]. The addresses in `entry` themselves may be private: the caller answers for them.
pub async fn ask(
    entry: &[IpAddr],
    port: u16,
    host: &str,
    token: &str,
    key_authorization: &str,
    options: Options,
) -> Finding {
    let question = exchange::Question {
        host: host.to_owned(),
        path: format!("{CHALLENGE_PATH}{token}"),
        key_authorization: key_authorization.to_owned(),
        options,
    };
    let mut asking = JoinSet::new();
    for address in entry.iter().take(MOST_ADDRESSES) {
        let question = question.clone();
        let entry = redirect::Entry {
            http: (*address, port).into(),
            https: (*address, question.options.https_port).into(),
        };
        asking.spawn(async move { question.ask_repeatedly(entry).await });
    }
    let (mut wrong, mut unreachable) = (None, None);
    let in_all = question.options.in_all;
    let collecting = async {
        while let Some(joined) = asking.join_next().await {
            match joined {
                Ok(Finding::Reachable) => return Some(Finding::Reachable),
                Ok(finding @ Finding::Wrong { .. }) => wrong = wrong.take().or(Some(finding)),
                Ok(finding @ Finding::UnreachableFromHere { .. }) => {
                    unreachable = unreachable.take().or(Some(finding));
                }
                Err(_) => {
                    unreachable = unreachable
                        .take()
                        .or_else(|| Some(Finding::unreachable("the check broke off")));
                }
            }
        }
        None
    };
    match timeout(in_all, collecting).await {
        Ok(Some(reachable)) => reachable,
        Ok(None) => unreachable
            .or(wrong)
            .unwrap_or_else(|| Finding::unreachable("there is no address to ask")),
        Err(_) => unreachable.unwrap_or_else(|| {
            Finding::unreachable(format!("no end of the answer within {in_all:?}"))
        }),
    }
}
