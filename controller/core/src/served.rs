//! What the entry point really presents: the certificate in the Secret, an older one, another one, or none (condition `Served`).
//! Pure; the looks are evercert-probe's.
//!
//! | presented | said |
//! |---|---|
//! | the certificate in the Secret, wherever there is an answer | `True`, fresh |
//! | one for the name that is older, or a fallback | `False`, stale, with its serial |
//! | any other | `False`, another one |
//! | none: no answer, or no TLS for the name | `Unknown`, unreachable |
//! | there is nobody to ask | `Unknown`, no entry point |

use std::net::IpAddr;

use evercert_api::Reason;
use jiff::{SignedDuration, Timestamp};

use crate::facts::CertificateFacts;
use crate::observe::Observed;
use crate::sentence::quote;

/// So long after a certificate was stored nothing but the fresh one is said: entry points take seconds to follow.
pub const SETTLES: SignedDuration = SignedDuration::from_secs(10);
/// So long it is looked at again until it is fresh.
pub const WATCHED: SignedDuration = SignedDuration::from_mins(10);

/// What was presented at one address for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// The name that was asked for.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// The leaf; `None` where nobody answers, or not in TLS for this name.
    pub leaf: Option<CertificateFacts>,
}

/// What all of them said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// The certificate in the Secret.
    Fresh,
    /// An older one for the name, or a fallback.
    Stale {
        /// Which, where.
        seen: Sight,
        /// Whether it is a fallback.
        is_fallback: bool,
    },
    /// Another one.
    Other(Sight),
    /// No certificate.
    Unreachable {
        /// The name that was asked for.
        name: String,
        /// Where.
        address: IpAddr,
    },
    /// No Ingress that covers a name has an address in its status.
    NoEntryPoint,
}

impl Served {
    /// Whether it is to be told so long after the looks began. At first only what an entry point can present for no other reason than
    /// that it has followed: the fresh one, unless it was presented `before` as well, when an Ingress has changed since.
    #[must_use]
    pub fn is_settled(&self, lasted: SignedDuration, before: bool) -> bool {
        lasted >= SETTLES || (*self == Self::Fresh && !before)
    }
}

/// A certificate that is not the one in the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// The name that was asked for.
    pub name: String,
    /// Where.
    pub address: IpAddr,
    /// Its serial number.
    pub serial: String,
}

/// What `all` say, of `wanted`, the certificate in the Secret. What is not good comes first.
#[must_use]
pub fn judge(wanted: &CertificateFacts, all: &[Presented]) -> Served {
    let mut other = None;
    let mut is_fresh = false;
    let mut silent = None;
    for Presented {
        name,
        address,
        leaf,
    } in all
    {
        let sight = |leaf: &CertificateFacts| Sight {
            name: name.clone(),
            address: *address,
            serial: leaf.serial.clone(),
        };
        match leaf {
            Some(leaf) if leaf.fingerprint == wanted.fingerprint => is_fresh = true,
            Some(leaf) if is_stale(leaf, wanted, name) => {
                return Served::Stale {
                    seen: sight(leaf),
                    is_fallback: leaf.stands_in,
                };
            }
            Some(leaf) => other = other.or_else(|| Some(sight(leaf))),
            None => silent = silent.or(Some((name, *address))),
        }
    }
    match (other, silent) {
        (Some(sight), _) => Served::Other(sight),
        (None, _) if is_fresh => Served::Fresh,
        (None, Some((name, address))) => Served::Unreachable {
            name: name.clone(),
            address,
        },
        (None, None) => Served::NoEntryPoint,
    }
}

fn is_stale(leaf: &CertificateFacts, wanted: &CertificateFacts, name: &str) -> bool {
    let is_older = leaf.not_before < wanted.not_before;
    leaf.stands_in || (is_older && !leaf.self_signed && leaf.covers([name]))
}

/// The name to ask for, where that can be: of a wildcard one of the names below it.
#[must_use]
pub fn find_server_name(name: &str) -> String {
    match name.strip_prefix("*.") {
        Some(suffix) => format!("evercert-check.{suffix}"),
        None => name.to_owned(),
    }
}

/// Whether the renewal is so near that it is looked at once more: whatever is wrong is told before the certificate in place ends.
#[must_use]
pub fn is_renewal_near(o: &Observed, now: Timestamp) -> bool {
    let (Some(issued), Some(renewal)) = (o.issued(), &o.status.renewal_time) else {
        return false;
    };
    let before = renewal.0.duration_since(issued.not_before) / 10;
    renewal.0.checked_sub(before).is_ok_and(|near| near <= now)
}

/// `Served`: its status, its reason and its sentence, for the certificate with `serial`.
#[must_use]
pub fn build_served(served: &Served, serial: &str) -> (&'static str, Reason, String) {
    match served {
        Served::Fresh => (
            "True",
            Reason::Fresh,
            format!("the entry point presents the certificate in the Secret, serial {serial}"),
        ),
        Served::Stale { seen, is_fallback } => {
            let what = if *is_fallback {
                "a fallback"
            } else {
                "an older certificate"
            };
            let message = format!(
                "for {} {} presents {what}, serial {}, and not the one in the Secret, serial {serial}: let the Ingress's tls entry name this \
                 Secret, and look whether its controller follows Secrets; some load balancers take minutes",
                quote(&seen.name),
                seen.address,
                quote(&seen.serial)
            );
            ("False", Reason::Stale, message)
        }
        Served::Other(seen) => {
            let message = format!(
                "for {} {} presents another certificate, serial {}, and not the one in the Secret, serial {serial}: let a tls entry of the \
                 name's Ingress name this Secret; what is presented may be the controller's own default",
                quote(&seen.name),
                seen.address,
                quote(&seen.serial)
            );
            ("False", Reason::AnotherCertificate, message)
        }
        Served::Unreachable { name, address } => {
            let message = format!(
                "for {} {address} presents no certificate at port 443: nobody listens there, it cannot be reached from here, or no tls \
                 entry of an Ingress is for the name. The certificate in the Secret has serial {serial}",
                quote(name)
            );
            ("Unknown", Reason::EntryPointUnreachable, message)
        }
        Served::NoEntryPoint => (
            "Unknown",
            Reason::NoEntryPoint,
            "no Ingress that covers the names has an address in its status: what is served cannot be seen from here".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixtures::{DAY, at, certificate, good, now, observed};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 2));

    fn wanted() -> CertificateFacts {
        certificate("0b", &["a.example"], 0, 90 * DAY)
    }

    fn tell(leaves: &[Option<CertificateFacts>]) -> (&'static str, Reason, String) {
        let all: Vec<Presented> = leaves
            .iter()
            .map(|leaf| Presented {
                name: "a.example".into(),
                address: HERE,
                leaf: leaf.clone(),
            })
            .collect();
        build_served(&judge(&wanted(), &all), "0b")
    }

    #[test]
    fn the_certificate_in_the_secret_is_fresh_and_what_stands_before_it_is_named_by_its_serial() {
        let fresh = || Some(wanted());
        let old = || Some(certificate("0a", &["a.example"], -60 * DAY, 30 * DAY));
        let newer = || Some(certificate("0c", &["a.example"], DAY, 30 * DAY));
        let strange = || Some(certificate("0d", &["b.example"], -DAY, DAY));
        let signed_by_itself = |stands_in| {
            let mut leaf = certificate("0f", &["a.example"], -DAY, DAY);
            (leaf.stands_in, leaf.self_signed) = (stands_in, true);
            Some(leaf)
        };
        for (all, status, reason) in [
            (vec![fresh()], "True", Reason::Fresh),
            (vec![fresh(), None], "True", Reason::Fresh),
            (vec![fresh(), old()], "False", Reason::Stale),
            (vec![signed_by_itself(true)], "False", Reason::Stale),
            (vec![strange(), old()], "False", Reason::Stale),
            (
                vec![fresh(), strange()],
                "False",
                Reason::AnotherCertificate,
            ),
            (vec![newer()], "False", Reason::AnotherCertificate),
            (
                vec![signed_by_itself(false)],
                "False",
                Reason::AnotherCertificate,
            ),
            (vec![None], "Unknown", Reason::EntryPointUnreachable),
            (vec![], "Unknown", Reason::NoEntryPoint),
        ] {
            let told = tell(&all);
            assert_eq!((told.0, told.1), (status, reason), "{all:?}");
        }
        let (_, _, stale) = tell(&[old()]);
        assert!(
            stale.starts_with(
                "for a.example 198.18.0.2 presents an older certificate, serial 0a, and not the one in the Secret, serial 0b: "
            ),
            "{stale}"
        );
    }

    #[test]
    fn what_was_presented_before_an_ingress_changed_is_believed_when_the_entry_point_had_time_to_follow()
     {
        let soon = SignedDuration::from_millis(20);
        let stale = judge(
            &wanted(),
            &[Presented {
                name: "a.example".into(),
                address: HERE,
                leaf: Some(certificate("0a", &["a.example"], -60 * DAY, 30 * DAY)),
            }],
        );
        for (served, before, at_once) in [
            (&Served::Fresh, false, true),
            (&Served::Fresh, true, false),
            (&stale, false, false),
            (&stale, true, false),
        ] {
            assert_eq!(
                served.is_settled(soon, before),
                at_once,
                "{served:?} {before}"
            );
            assert!(served.is_settled(SETTLES, before), "{served:?} {before}");
        }
    }

    #[test]
    fn a_wildcard_is_asked_for_by_a_name_below_it() {
        assert_eq!(find_server_name("*.a.example"), "evercert-check.a.example");
        assert_eq!(find_server_name("a.example"), "a.example");
        assert_eq!(find_server_name("192.0.2.1"), "192.0.2.1");
    }

    #[test]
    fn it_is_looked_at_once_more_when_nine_tenths_of_the_time_to_the_renewal_have_passed() {
        let mut o = observed().with_certificate(good());
        let age = now().duration_since(good().not_before).as_secs();
        for (renewal, near) in [(age, false), (age / 10, true), (-1, true)] {
            o.status.renewal_time = Some(evercert_api::certificate::whole_seconds(at(renewal)));
            assert_eq!(is_renewal_near(&o, now()), near, "{renewal}");
        }
        o.status.renewal_time = None;
        assert!(!is_renewal_near(&o, now()));
    }
}
