//! The way to the solver, hop by hop: what a look saw, what it means for the order, and in which words it is said (design §4).
//! Pure; the looks are evercert-probe's.
//!
//! | public name | entry point | verdict |
//! |---|---|---|
//! | an address answers wrongly | any | wrong, at the public name |
//! | every address is good | any | reachable |
//! | IPv4 is good, IPv6 does not answer | any | not verified: a stale AAAA record |
//! | no good answer, none wrong | good | not verified |
//! | not looked at | good | reachable |
//! | no good answer, none wrong | wrong | wrong, at the first hop that is not good where it is a gateway's error, else at the entry point |
//! | no good answer, none wrong | no answer, or there is none | unreachable from here |

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use evercert_api::issuer::SelfCheckMode;
use jiff::SignedDuration;

use crate::sentence::{list, quote};
use crate::trouble::Cause;

/// How much the self-check counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelfCheck {
    /// What it may hold back.
    pub mode: SelfCheckMode,
    /// How long a wrong answer holds an order back where the mode is [`SelfCheckMode::Advisory`].
    pub budget: SignedDuration,
}

impl Default for SelfCheck {
    /// Advice, and 30 s.
    fn default() -> Self {
        Self {
            mode: SelfCheckMode::Advisory,
            budget: SignedDuration::from_secs(30),
        }
    }
}

/// A station of the way that the CA's request takes, from its end on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hop {
    /// A pod of the solver.
    Solver,
    /// The routing Service in the Certificate's namespace.
    Service,
    /// The address of the ingress controller, asked with the Host header.
    EntryPoint,
    /// The name itself, as DNS has it.
    PublicName,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Solver => "the solver",
            Self::Service => "the Service",
            Self::EntryPoint => "the entry point",
            Self::PublicName => "the public name",
        })
    }
}

/// What one address was for the challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// The right answer, some times in a row.
    Reachable,
    /// No answer at all. The CA may see better from where it is.
    Unreachable(Sight),
    /// Another answer than the challenge's: the CA would see the same.
    Wrong(Sight),
}

/// What was seen, in words that a tenant may read: never a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// The last address that was asked.
    pub at: Option<SocketAddr>,
    /// What is wrong.
    pub what: Seen,
    /// The HTTP status.
    pub status: Option<u16>,
    /// The `Server` header: who it was that answered.
    pub server: Option<String>,
    /// Where it redirected to, one after the other, without query.
    pub redirects: Vec<String>,
}

impl Sight {
    /// Of an address, or of none, that gave no answer in HTTP.
    #[must_use]
    pub fn of(at: Option<SocketAddr>, what: Seen) -> Self {
        Self {
            at,
            what,
            status: None,
            server: None,
            redirects: Vec::new(),
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Seen {
    /// 404.
    NotFound,
    /// 401, 403 or 407.
    Refused,
    /// 500 and above.
    ServerError,
    /// Another status that is not 200.
    OtherStatus,
    /// 200 with another body.
    OtherBody,
    /// 200 with a body that is longer than any challenge's.
    TooLong,
    /// A redirect without a usable location, or to a scheme, port or address where no CA goes.
    BadRedirect,
    /// More than ten redirects.
    TooManyRedirects,
    /// A redirect to https at the name itself, where nobody speaks TLS.
    ClosedHttps,
    /// The connection is refused.
    Closed,
    /// No connection, or no answer in time.
    Silent,
    /// No way to such addresses from this machine, as to IPv6 where there is none.
    NoRoute,
    /// The connection ended without an answer in HTTP, or amid one.
    NotHttp,
    /// A private address, which is not asked.
    NotPublic,
    /// A name that does not resolve here.
    Unresolved,
    /// No Ingress has an address in its status.
    NoEntryPoint,
}

impl fmt::Display for Sight {
    /// `198.18.0.2:80 answers 404 (server "envoy") after a redirect to https://a.example/x`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{at} ")?,
            None if matches!(self.what, Seen::Unresolved | Seen::NotPublic) => {
                f.write_str("it ")?;
            }
            None => {}
        }
        match self.status {
            Some(status) => write!(f, "answers {status}")?,
            None => f.write_str(match self.what {
                Seen::ClosedHttps => "does not speak TLS",
                Seen::Closed => "refuses the connection",
                Seen::NoRoute => "is of a network that there is no way to",
                Seen::NotHttp => "closes the connection without an answer in HTTP",
                Seen::NotPublic => "is a private address",
                Seen::Unresolved => "does not resolve",
                Seen::NoEntryPoint => "no Ingress has an address in its status",
                Seen::NotFound
                | Seen::Refused
                | Seen::ServerError
                | Seen::OtherStatus
                | Seen::OtherBody
                | Seen::TooLong
                | Seen::BadRedirect
                | Seen::TooManyRedirects
                | Seen::Silent => "gives no answer",
            })?,
        }
        if let Some(server) = &self.server {
            write!(f, " (server {server:?})")?;
        }
        if !self.redirects.is_empty() {
            write!(f, " after a redirect to {}", list(&self.redirects))?;
        }
        Ok(())
    }
}

/// What DNS and the name's own addresses said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Public {
    /// It was not looked at: nobody can be asked.
    NotAsked,
    /// The name does not resolve here.
    Unresolved,
    /// Each address.
    Asked(Vec<(IpAddr, Look)>),
}

/// What one look saw of the whole way, for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// A pod of the solver; asked only to find out which hop it is.
    pub solver: Option<Look>,
    /// The routing Service; the same.
    pub service: Option<Look>,
    /// Each address of the entry point.
    pub entry_points: Vec<(IpAddr, Look)>,
    /// The name itself.
    pub public: Public,
}

/// What is to be said of a way that is not good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The hop that is not good.
    pub hop: Hop,
    /// What was seen there.
    pub sight: Sight,
    /// What that is likely to mean.
    pub cause: Cause,
    /// Whether it is said of an answer, and not of the lack of one.
    pub is_answer: bool,
    /// The entry point's addresses, where the name leads to others.
    pub wanted: Vec<IpAddr>,
}

/// What a look means for the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The CA will find the solver.
    Reachable,
    /// The entry point is good, or IPv4 is, and the rest cannot be seen from here.
    Unverified(Finding),
    /// Nothing can be seen from here.
    Unreachable(Finding),
    /// The CA would see what is wrong.
    Wrong(Finding),
}

impl Way {
    /// The entry point as a whole: good as soon as one address is; wrong only if all of them say so. `None` without any.
    fn entry_point(&self) -> Option<&Look> {
        let looks = || self.entry_points.iter().map(|(_, look)| look);
        let is_good = |look: &&Look| matches!(look, Look::Reachable);
        let is_silent = |look: &&Look| matches!(look, Look::Unreachable(_));
        looks()
            .find(is_good)
            .or_else(|| looks().find(is_silent))
            .or_else(|| looks().next())
    }

    /// What the name's own addresses said; an IPv6 address beside others counts only where there is a way to IPv6.
    fn public(&self) -> Vec<(IpAddr, &Look)> {
        let Public::Asked(found) = &self.public else {
            return Vec::new();
        };
        let has_ipv4 = found.iter().any(|(address, _)| address.is_ipv4());
        let counts = |address: &IpAddr, look: &Look| match look {
            Look::Unreachable(sight) => {
                !(has_ipv4 && address.is_ipv6() && sight.what == Seen::NoRoute)
            }
            Look::Reachable | Look::Wrong(_) => true,
        };
        let found = found.iter().filter(|(address, look)| counts(address, look));
        found.map(|(address, look)| (*address, look)).collect()
    }

    /// What is said of `sight` at the public name's `address`.
    fn at_public_name(&self, address: IpAddr, sight: &Sight, is_answer: bool) -> Finding {
        let wanted: Vec<IpAddr> = self.entry_points.iter().map(|(a, _)| *a).collect();
        let is_elsewhere = !wanted.is_empty() && !wanted.contains(&address);
        let public = self.public();
        let ipv4_is_good = || {
            let mut looks = public.iter();
            looks.any(|(a, look)| a.is_ipv4() && **look == Look::Reachable)
        };
        let proxy = sight.server.as_deref().is_some_and(is_proxy);
        let cause = if address.is_ipv6() && ipv4_is_good() {
            Cause::StaleIpv6
        } else if is_answer && proxy && is_elsewhere {
            Cause::Proxy
        } else if is_answer && is_elsewhere && sight.what != Seen::ClosedHttps {
            Cause::Elsewhere
        } else {
            Cause::of(sight)
        };
        Finding {
            hop: Hop::PublicName,
            sight: sight.clone(),
            cause,
            is_answer,
            wanted: if matches!(cause, Cause::Elsewhere | Cause::StaleIpv6) {
                wanted
            } else {
                Vec::new()
            },
        }
    }

    /// A gateway's error is said of the first hop behind it that is not good.
    fn at_entry_point(&self, sight: &Sight, is_answer: bool) -> Finding {
        let behind = [(Hop::Solver, &self.solver), (Hop::Service, &self.service)];
        let failing = behind.into_iter().find_map(|(hop, look)| match look {
            Some(Look::Unreachable(sight)) => Some((hop, sight, false)),
            Some(Look::Wrong(sight)) => Some((hop, sight, true)),
            Some(Look::Reachable) | None => None,
        });
        let is_gateways = sight.what == Seen::ServerError;
        let (hop, sight, is_answer, cause) = match failing.filter(|_| is_gateways) {
            Some((hop @ Hop::Solver, sight, is_answer)) => {
                (hop, sight, is_answer, Cause::SolverSilent)
            }
            Some((hop, sight, is_answer)) => (hop, sight, is_answer, Cause::ServiceSilent),
            None => (Hop::EntryPoint, sight, is_answer, Cause::of(sight)),
        };
        Finding {
            hop,
            sight: sight.clone(),
            cause,
            is_answer,
            wanted: Vec::new(),
        }
    }

    /// What it means for the order.
    #[must_use]
    pub fn judge(&self) -> Verdict {
        let public = self.public();
        let wrong = public.iter().find_map(|(address, look)| match look {
            Look::Wrong(sight) => Some(self.at_public_name(*address, sight, true)),
            Look::Reachable | Look::Unreachable(_) => None,
        });
        let entry_point = self.entry_point();
        if let Some(finding) = wrong {
            // The same address is named by what it is.
            let is_entry_point = finding.cause == Cause::of(&finding.sight);
            return Verdict::Wrong(match entry_point {
                Some(Look::Wrong(sight)) if is_entry_point => self.at_entry_point(sight, true),
                Some(_) | None => finding,
            });
        }
        let silent = public.iter().find_map(|(address, look)| match look {
            Look::Unreachable(sight) => Some(self.at_public_name(*address, sight, false)),
            Look::Reachable | Look::Wrong(_) => None,
        });
        let is_any_good = public.iter().any(|(_, look)| **look == Look::Reachable);
        if is_any_good {
            return silent.map_or(Verdict::Reachable, Verdict::Unverified);
        }
        let unresolved = || Finding {
            hop: Hop::PublicName,
            sight: Sight::of(None, Seen::Unresolved),
            cause: Cause::NotResolving,
            is_answer: false,
            wanted: Vec::new(),
        };
        let unseen = match self.public {
            Public::NotAsked => None,
            Public::Unresolved => Some(unresolved()),
            Public::Asked(_) => Some(silent.unwrap_or_else(unresolved)),
        };
        match (entry_point, unseen) {
            (Some(Look::Reachable), None) => Verdict::Reachable,
            (Some(Look::Reachable), Some(finding)) => Verdict::Unverified(finding),
            (Some(Look::Wrong(sight)), _) => Verdict::Wrong(self.at_entry_point(sight, true)),
            (Some(Look::Unreachable(sight)), _) => {
                Verdict::Unreachable(self.at_entry_point(sight, false))
            }
            (None, Some(finding)) => Verdict::Unreachable(finding),
            (None, None) => {
                let sight = Sight::of(None, Seen::NoEntryPoint);
                Verdict::Unreachable(self.at_entry_point(&sight, false))
            }
        }
    }
}

/// Whether a `Server` header is that of a content delivery network or of a proxy before somebody's site.
fn is_proxy(server: &str) -> bool {
    const PROXIES: [&str; 8] = [
        "akamai",
        "bunnycdn",
        "cloudflare",
        "cloudfront",
        "fastly",
        "gws",
        "sucuri",
        "varnish",
    ];
    let server = server.to_ascii_lowercase();
    PROXIES.iter().any(|proxy| server.contains(proxy))
}

impl fmt::Display for Finding {
    /// At which hop, what was seen, what it is likely to mean, and what to do: sentences without a full stop at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.cause.row();
        if self.is_answer {
            write!(f, "at {}: ", self.hop)?;
        } else {
            write!(f, "{} cannot be reached from here: ", self.hop)?;
        }
        let sight = self.sight.to_string();
        f.write_str(&sight)?;
        if !row.means.is_empty() && row.means != sight {
            write!(f, ": {}", row.means)?;
        }
        if !self.wanted.is_empty() {
            let wanted: Vec<String> = self.wanted.iter().map(ToString::to_string).collect();
            write!(f, " ({})", list(&wanted))?;
        }
        write!(f, ". Remedy: {}", row.remedy)
    }
}

/// What several names have in common is said once.
#[must_use]
pub fn build_findings(seen: &[(&str, &str)]) -> String {
    let mut grouped: Vec<(&str, Vec<String>)> = Vec::new();
    for (name, what) in seen {
        match grouped.iter_mut().find(|(known, _)| known == what) {
            Some((_, names)) => names.push(quote(name)),
            None => grouped.push((what, vec![quote(name)])),
        }
    }
    let most = 3;
    let rest = grouped.len().saturating_sub(most);
    let mut parts: Vec<String> = grouped
        .iter()
        .take(most)
        .map(|(what, names)| format!("{}: {what}", list(names)))
        .collect();
    if rest > 0 {
        parts.push(format!("and {rest} other findings"));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests;
