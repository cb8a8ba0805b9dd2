//! What makes a new certificate necessary (design §2): the first reason that holds, with its sentence.

use evercert_api::Reason;
use jiff::Timestamp;

use crate::facts::{Damage, KeyKind};
use crate::observe::{IssuerObservation, Observed, SecretObservation, TlsSecret};
use crate::renewal::plan_renewal;

/// A reason for a new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The word.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
    /// Whether the certificate in place still is what the spec asks for (only its renewal is due).
    pub still_good: bool,
}

/// The first reason for a new certificate, if there is any. A Secret of somebody else is none: it is never touched.
#[must_use]
pub fn find_need(o: &Observed, now: Timestamp) -> Option<Need> {
    let need = |reason, message: String| Some(Need { reason, message, still_good: false });
    let name = &o.spec.secret_name;
    let secret = match &o.secret {
        SecretObservation::Missing => return need(Reason::SecretMissing, format!("Secret {name} does not exist yet")),
        SecretObservation::WrongType(_) | SecretObservation::Foreign => return None,
        SecretObservation::Ours(secret) => secret,
    };
    let facts = match &secret.content {
        Err(Damage::MissingData) => return need(Reason::MissingData, format!("Secret {name} lacks tls.crt or tls.key")),
        Err(Damage::InvalidCertificate) => {
            return need(Reason::InvalidCertificate, format!("tls.crt in Secret {name} cannot be read as a certificate"));
        }
        Err(Damage::InvalidKeyPair) => {
            return need(Reason::InvalidKeyPair, format!("tls.key in Secret {name} does not belong to the certificate in it"));
        }
        Ok(facts) => facts,
    };
    if secret.fallback {
        return need(Reason::FallbackInPlace, format!("Secret {name} holds a self-signed fallback, not an issued certificate"));
    }
    issuer_changed(o, secret)
        .or_else(|| names_changed(o, secret))
        .or_else(|| {
            let wanted = KeyKind::wanted(&o.spec.key());
            (facts.key != wanted)
                .then(|| Need {
                    reason: Reason::KeySpecChanged,
                    message: format!("the key in Secret {name} is {}, the spec asks for {wanted}", facts.key),
                    still_good: false,
                })
        })
        .or_else(|| {
            (now >= facts.not_after).then(|| Need {
                reason: Reason::Expired,
                message: format!("the certificate in Secret {name} expired at {}", whole(facts.not_after)),
                still_good: false,
            })
        })
        .or_else(|| {
            let renewal = plan_renewal(&o.spec, facts);
            (now >= renewal.at && now >= facts.not_before).then(|| Need {
                reason: Reason::Renewing,
                message: format!("the certificate expires at {} and is due for renewal", whole(facts.not_after)),
                still_good: true,
            })
        })
}

/// An instant in whole seconds, as people read it.
#[must_use]
pub fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn issuer_changed(o: &Observed, secret: &TlsSecret) -> Option<Need> {
    let IssuerObservation::Ready(issuer) = &o.issuer else { return None };
    let marks = &secret.marks;
    let other = |was: &Option<String>, is: &str| was.as_deref().is_some_and(|was| was != is);
    (other(&marks.issuer, &issuer.id) || other(&marks.directory, &issuer.directory)).then(|| Need {
        reason: Reason::IssuerChanged,
        message: format!(
            "the certificate was signed by {} at {}, the spec names {} at {}",
            marks.issuer.as_deref().unwrap_or("an unknown issuer"),
            marks.directory.as_deref().unwrap_or("an unknown directory"),
            issuer.id,
            issuer.directory
        ),
        still_good: false,
    })
}

fn names_changed(o: &Observed, secret: &TlsSecret) -> Option<Need> {
    let wanted = o.wanted_names();
    let facts = secret.content.as_ref().ok()?;
    let missing: Vec<&str> = wanted.iter().map(String::as_str).filter(|n| !facts.covers([*n])).collect();
    let changed = secret.marks.names.as_ref().is_some_and(|names| *names != wanted);
    if missing.is_empty() && !changed {
        return None;
    }
    let message = if missing.is_empty() {
        "the certificate was issued for more names than the spec lists".to_owned()
    } else {
        format!("the certificate in place lacks {}", missing.join(", "))
    };
    Some(Need { reason: Reason::NamesChanged, message, still_good: false })
}
