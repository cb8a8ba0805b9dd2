//! Whether DNS is ready for an order: what was looked up here, weighed against what the cluster's Ingresses say. Pure; the
//! look-ups are evercert-probe's.
//!
//! Each name is ready, definitely wrong, or not known (design §4). Only *definitely wrong* holds an order back, and not for long
//! ([`HOLD`]): the look is this cluster's, which may have a view of DNS of its own, and the CA's own look decides.

use std::fmt;
use std::net::IpAddr;

use evercert_api::children::stable_hash;
use jiff::{SignedDuration, Timestamp};

use crate::caa::CaaAnswer;
use crate::limits::registered_domain;
use crate::observe::Observed;
use crate::sentence::list;

/// How long DNS that is definitely wrong holds an order back. Long enough for a record that a controller such as external-dns
/// makes after the Ingress, and for the servers of a zone to agree; short enough for a resolver here that does not see what the
/// internet sees (split DNS): that costs a wait, and never a certificate. A certificate that is renewed has a third of its life
/// left, and where there is none a fallback stands in. It counts once, until a certificate is issued or DNS is seen ready: an
/// attempt that failed after it has a backoff of its own, which is what spares the CA then.
pub const HOLD: SignedDuration = SignedDuration::from_mins(10);
/// An answer of DNS is good for an order for so long.
pub const FRESH: SignedDuration = SignedDuration::from_mins(1);
/// A look that takes longer than this tells nothing, and keeps no order waiting.
pub const PATIENCE: SignedDuration = SignedDuration::from_secs(4);
/// The most addresses of an entry point that an observation keeps: where there may be more, an address that is not among them is
/// no sign of anything.
const MOST_KEPT: usize = crate::routes::ENTRY_POINTS;

/// What is known of DNS for the names of a Certificate that is about to be ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Preflight {
    /// It is not looked at, since no order is near, or nobody can be asked: no reason to wait.
    #[default]
    Unasked,
    /// It is being looked at, and nothing is known yet.
    Looking {
        /// Since when.
        since: Timestamp,
    },
    /// It was looked at.
    Seen(Vec<Trouble>),
}

/// A name for which DNS is definitely wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The name.
    pub name: String,
    /// What is wrong.
    pub what: Wrong,
}

/// What is definitely wrong about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// There is no such name (NXDOMAIN); what it is an alias (CNAME) of, where it is one.
    NoName(Option<String>),
    /// The name is there, and has neither an A nor an AAAA record; what it is an alias of.
    NoAddress(Option<String>),
    /// The servers of the name fail (SERVFAIL).
    ServerFailure,
    /// It leads to addresses that are none of the Ingress's, and where nobody listens on port 80.
    Elsewhere {
        /// Where it leads.
        found: Vec<IpAddr>,
        /// The Ingress's addresses.
        wanted: Vec<IpAddr>,
    },
    /// Its A records lead to the Ingress, and its AAAA records to addresses that are none of the Ingress's.
    StaleIpv6 {
        /// Where these lead.
        found: Vec<IpAddr>,
        /// The Ingress's addresses.
        wanted: Vec<IpAddr>,
    },
    /// CAA records forbid it, as this sentence says.
    Forbidden(String),
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Records, none where the name has none of this type.
    Addresses(Vec<IpAddr>),
    /// NXDOMAIN.
    NoName,
    /// SERVFAIL, of this name and not of every name.
    ServerFailure,
    /// No answer that tells anything.
    Unknown,
}

/// Whether somebody listens on port 80.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Somebody does: it may be a proxy that leads on to the Ingress.
    There,
    /// The machine is there and says that nobody does.
    Refused,
    /// No answer from here, or no way there.
    Silent,
}

/// What was looked up for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameLook {
    /// A.
    pub ipv4: Answer,
    /// AAAA.
    pub ipv6: Answer,
    /// What it is an alias (CNAME) of; looked up where it leads nowhere.
    pub alias: Option<String>,
    /// CAA.
    pub caa: CaaAnswer,
    /// Who listens at the addresses that are none of the Ingress's; those that are not there were not asked.
    pub listeners: Vec<(IpAddr, Listener)>,
}

impl NameLook {
    /// Of an IP address, which is where it is, and which CAA records say nothing about.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        let (ipv4, ipv6) = match address {
            IpAddr::V4(_) => (vec![address], Vec::new()),
            IpAddr::V6(_) => (Vec::new(), vec![address]),
        };
        Self {
            ipv4: Answer::Addresses(ipv4),
            ipv6: Answer::Addresses(ipv6),
            alias: None,
            caa: CaaAnswer::Allowed,
            listeners: Vec::new(),
        }
    }

    fn addresses(answer: &Answer) -> &[IpAddr] {
        match answer {
            Answer::Addresses(addresses) => addresses,
            Answer::NoName | Answer::ServerFailure | Answer::Unknown => &[],
        }
    }

    /// The addresses, and whether they are of both families.
    #[must_use]
    pub fn found(&self) -> Vec<IpAddr> {
        let both = [&self.ipv4, &self.ipv6].into_iter();
        both.flat_map(Self::addresses).copied().collect()
    }

    fn is_said_by(&self, holds: impl Fn(Listener) -> bool, addresses: &[IpAddr]) -> bool {
        addresses.iter().all(|address| {
            let listener = self.listeners.iter().find(|(at, _)| at == address);
            listener.is_some_and(|(_, listener)| holds(*listener))
        })
    }
}

/// The most addresses of one name that are asked who listens there; with more of them nothing is known.
const MOST_ASKED: usize = 8;

/// The addresses of a look that are none of `wanted`, where these are worth a comparison: the Ingress's addresses are known, all
/// of them, and both they and the name's are addresses of the internet, as `is_public` tells. A load balancer behind a router has
/// a private one, and a name with a private one is this network's own view.
#[must_use]
pub fn find_strangers(
    look: &NameLook,
    wanted: &[IpAddr],
    is_public: impl Fn(IpAddr) -> bool,
) -> Vec<IpAddr> {
    let found = look.found();
    let comparable = !wanted.is_empty()
        && wanted.len() < MOST_KEPT
        && wanted.iter().chain(&found).all(|a| is_public(*a));
    let mut strangers = found;
    strangers.retain(|a| comparable && !wanted.contains(a));
    // Whoever writes the zone does not send this process to half the internet.
    strangers.truncate(if strangers.len() > MOST_ASKED {
        0
    } else {
        MOST_ASKED
    });
    strangers
}

/// What is definitely wrong, if anything is. `strangers` are those of [`find_strangers`].
///
/// | A, AAAA | who listens there | definitely wrong |
/// |---|---|---|
/// | NXDOMAIN | | yes |
/// | neither has a record | | yes |
/// | no address, SERVFAIL | | yes |
/// | no address, no answer | | no: it is not known |
/// | all are strangers, as an IP address of the spec may be | every one refuses port 80 | yes |
/// | all are strangers | somebody, or nobody answers from here | no: a proxy may stand before the Ingress |
/// | A leads to the Ingress, all of AAAA are strangers | the Ingress has an IPv6 address, or nobody listens there | yes: CAs try IPv6 first |
/// | the same | somebody | no: the way over IPv6 may be another one |
/// | some are the Ingress's | | no |
///
/// CAA records are looked at where the addresses are not wrong.
#[must_use]
pub fn find_wrong(look: &NameLook, wanted: &[IpAddr], strangers: &[IpAddr]) -> Option<Wrong> {
    let (ipv4, ipv6) = (
        NameLook::addresses(&look.ipv4),
        NameLook::addresses(&look.ipv6),
    );
    if ipv4.is_empty() && ipv6.is_empty() {
        let either = |answer: &Answer| look.ipv4 == *answer || look.ipv6 == *answer;
        return if either(&Answer::NoName) {
            Some(Wrong::NoName(look.alias.clone()))
        } else if either(&Answer::Unknown) {
            None
        } else if either(&Answer::ServerFailure) {
            Some(Wrong::ServerFailure)
        } else {
            Some(Wrong::NoAddress(look.alias.clone()))
        };
    }
    let are_strange = |found: &[IpAddr]| {
        !found.is_empty() && found.iter().all(|address| strangers.contains(address))
    };
    let wanted = || wanted.to_vec();
    let all = look.found();
    if are_strange(&all) && look.is_said_by(|l| l == Listener::Refused, &all) {
        let found = all;
        return Some(Wrong::Elsewhere {
            found,
            wanted: wanted(),
        });
    }
    let leads_here = !ipv4.is_empty() && !ipv4.iter().any(|address| strangers.contains(address));
    if leads_here
        && are_strange(ipv6)
        && (wanted().iter().any(IpAddr::is_ipv6) || look.is_said_by(|l| l != Listener::There, ipv6))
    {
        return Some(Wrong::StaleIpv6 {
            found: ipv6.to_vec(),
            wanted: wanted(),
        });
    }
    match &look.caa {
        CaaAnswer::Forbidden(why) => Some(Wrong::Forbidden(why.clone())),
        CaaAnswer::Allowed | CaaAnswer::Unknown(_) => None,
    }
}

/// Services that resolve any name below theirs to the address that stands in it, or to this machine, and are no public suffixes:
/// what a CA allows a registered domain is shared by all who use them.
const SHARED_DOMAINS: [&str; 8] = [
    "backname.io",
    "lacolhost.com",
    "localtest.me",
    "lvh.me",
    "nip.io",
    "sslip.io",
    "traefik.me",
    "xip.io",
];

/// The domain of strangers' names that a CA counts together with `name`.
#[must_use]
pub fn find_shared_domain(name: &str) -> Option<&'static str> {
    let registered = registered_domain(name);
    SHARED_DOMAINS.into_iter().find(|d| *d == registered)
}

/// Since when DNS has held back the order for the names that are wanted now.
#[must_use]
pub fn find_held_since(o: &Observed) -> Option<Timestamp> {
    let known = o.status.held_for.as_ref();
    let is_for_these = known.is_none_or(|names| *names == build_names_fingerprint(o));
    let since = o.status.held_since.as_ref().map(|at| at.0);
    since.filter(|_| is_for_these)
}

/// A fingerprint of the wanted names.
#[must_use]
pub fn build_names_fingerprint(o: &Observed) -> String {
    let names = o.wanted_names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    format!("{:016x}", stable_hash(&names))
}

/// Addresses, as people read them.
fn join(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    list(&texts)
}

impl fmt::Display for Trouble {
    /// What was seen, where, and what to do: a sentence without a full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.what {
            Wrong::NoName(None) => write!(
                f,
                "DNS knows no {name} (NXDOMAIN): create an A or AAAA record for it that leads to the cluster's entry point"
            ),
            Wrong::NoName(Some(target)) => write!(
                f,
                "{name} is an alias (CNAME) of {target}, which DNS does not know (NXDOMAIN): create that one, or mend the alias"
            ),
            Wrong::NoAddress(None) => write!(
                f,
                "{name} has neither an A nor an AAAA record: create one that leads to the cluster's entry point"
            ),
            Wrong::NoAddress(Some(target)) => write!(
                f,
                "{name} is an alias (CNAME) of {target}, which has neither an A nor an AAAA record: create one there, or mend the alias"
            ),
            Wrong::ServerFailure => write!(
                f,
                "the DNS servers of {name} fail (SERVFAIL): look at the zone's delegation, its servers and its DNSSEC signatures"
            ),
            Wrong::Elsewhere { wanted, .. } if name.parse::<IpAddr>().is_ok() => write!(
                f,
                "{name} is no address of the cluster's entry point ({}), and nobody listens there on port 80: remove it from \
                 spec.ipAddresses, or make it lead to the entry point",
                join(wanted)
            ),
            Wrong::Elsewhere { found, wanted } => write!(
                f,
                "{name} leads to {}, where nobody listens on port 80, and its Ingress is at {}: mend the A and AAAA records",
                join(found),
                join(wanted)
            ),
            Wrong::StaleIpv6 { found, wanted } => write!(
                f,
                "the AAAA record of {name} leads to {}, which is not its Ingress's ({}), and a CA tries IPv6 first: remove the AAAA \
                 record, or mend it",
                join(found),
                join(wanted)
            ),
            Wrong::Forbidden(why) => write!(f, "no CA but those named may sign for {name}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests;
