//! Which fallback stands in while there is no issued certificate (design §5).

use jiff::{SignedDuration, Timestamp};

use crate::facts::{CertificateFacts, Damage, KeyKind};
use crate::need::whole;
use crate::observe::{Observed, OwnFallback, SecretObservation};
use crate::plan::later;
use crate::sentence::list;

/// How long before its end a self-signed fallback is made anew.
const RENEWAL: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The fallback that is to be in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fallback<'a> {
    /// The user's own certificate.
    Own(&'a CertificateFacts),
    /// A self-signed one; where the user has an own one, with the reason why that is not taken.
    SelfSigned(Option<String>),
}

/// The user's own certificate while it is good for every wanted name, else a self-signed one.
#[must_use]
pub fn choose(o: &Observed, now: Timestamp) -> Fallback<'_> {
    let Some(name) = o.spec.own_fallback() else {
        return Fallback::SelfSigned(None);
    };
    let why = match &o.own_fallback {
        OwnFallback::Missing => "does not exist".to_owned(),
        OwnFallback::Damaged(Damage::MissingData) => "lacks tls.crt or tls.key".to_owned(),
        OwnFallback::Damaged(Damage::InvalidCertificate) => {
            "holds a tls.crt that cannot be read".to_owned()
        }
        OwnFallback::Damaged(Damage::InvalidKeyPair) => {
            "holds a tls.key that does not belong to its certificate".to_owned()
        }
        OwnFallback::There(facts) => match find_flaw(o, facts, now) {
            None => return Fallback::Own(facts),
            Some(flaw) => flaw,
        },
    };
    Fallback::SelfSigned(Some(format!("Secret {name} {why}")))
}

/// Why a certificate cannot stand in now.
fn find_flaw(o: &Observed, facts: &CertificateFacts, now: Timestamp) -> Option<String> {
    if o.is_revoked(facts) {
        return Some("holds a certificate that was revoked".to_owned());
    }
    if now >= facts.not_after {
        return Some(format!(
            "holds a certificate that expired at {}",
            whole(facts.not_after)
        ));
    }
    if now < facts.not_before {
        let from = whole(facts.not_before);
        return Some(format!(
            "holds a certificate that is not valid before {from}"
        ));
    }
    let wanted = o.wanted_names();
    let missing: Vec<&String> = wanted
        .iter()
        .filter(|n| !facts.covers([n.as_str()]))
        .collect();
    (!missing.is_empty()).then(|| format!("holds a certificate that lacks {}", list(&missing)))
}

/// Whether the Secret holds the fallback that is to be there. One of the user's that still does is not given up for a
/// self-signed one, whatever became of its source.
#[must_use]
pub fn is_in_step(o: &Observed, now: Timestamp) -> bool {
    let SecretObservation::Ours(secret) = &o.secret else {
        return false;
    };
    let Some(facts) = secret.content.as_ref().ok().filter(|_| secret.fallback) else {
        return false;
    };
    match choose(o, now) {
        Fallback::Own(own) => facts.fingerprint == own.fingerprint,
        Fallback::SelfSigned(_) if !facts.stands_in => find_flaw(o, facts, now).is_none(),
        Fallback::SelfSigned(_) => {
            facts.covers(o.wanted_names().iter().map(String::as_str))
                && facts.names.len() == o.wanted_names().len()
                && facts.key == KeyKind::wanted(&o.spec.key())
                && facts.not_before <= now
                && later(now, RENEWAL) < facts.not_after
        }
    }
}

/// The fallback in place, in words.
#[must_use]
pub fn describe(o: &Observed, now: Timestamp) -> String {
    let in_place = match &o.secret {
        SecretObservation::Ours(secret) => secret.content.as_ref().ok(),
        SecretObservation::Missing
        | SecretObservation::WrongType(_)
        | SecretObservation::Foreign(_) => None,
    };
    let own = o.spec.own_fallback();
    match (own, in_place.is_some_and(|c| c.stands_in), choose(o, now)) {
        (Some(name), false, _) => format!("the certificate from Secret {name} stands in"),
        (None, false, _) => "a certificate of your own stands in".to_owned(),
        (Some(_), true, Fallback::SelfSigned(Some(why))) => {
            format!("a self-signed certificate stands in, and not your own one: {why}")
        }
        (Some(_) | None, true, _) => "a self-signed certificate stands in".to_owned(),
    }
}

#[cfg(test)]
mod tests;
