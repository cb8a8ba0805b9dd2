//! Revocation as a person asks for it by annotation (RFC 8555 §7.6): what is to be revoked is noted before its renewal begins, and
//! revoked only when another certificate is in place.

use evercert_api::Reason;
use evercert_api::keys::REVOKE;
use jiff::Timestamp;

use crate::facts::CertificateFacts;
use crate::need::{find_need, whole};
use crate::observe::{Gate, Observed, SELF_SIGNED, SecretObservation, Signer, TlsSecret};
use crate::plan::{Plan, Step};
use crate::sentence::quote;

/// The most leaves that a companion remembers as revoked, the newest first.
pub const MOST_REVOKED: usize = 20;

/// A reason that a subscriber may give (RFC 5280 §5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationReason {
    /// None is given.
    Unspecified,
    /// Somebody else may have the private key.
    KeyCompromise,
    /// The names belong to another organization now.
    AffiliationChanged,
    /// Another certificate has taken its place.
    Superseded,
    /// The names are no longer used.
    CessationOfOperation,
}

impl RevocationReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
    ];

    /// Its name in RFC 5280.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
        }
    }

    /// Its number there.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
        }
    }

    /// Reads the value of the annotation: the reason is its first word, what follows makes it a new value.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let word = value.split_whitespace().next()?;
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// A certificate that is to be revoked, as the companion holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The value of the annotation.
    pub value: String,
    /// Why.
    pub reason: RevocationReason,
    /// The leaf; its key is beside it, so it is this Certificate's to revoke.
    pub leaf: CertificateFacts,
    /// `Kind/name` of the issuer that signed it, where that was noted.
    pub issuer: Option<String>,
    /// The directory that issued it.
    pub directory: String,
    /// Whether its key is the one that is kept for the next certificate.
    pub key_is_pending: bool,
    /// Whether its key is that of the last good certificate, too.
    pub key_is_last_good: bool,
}

/// What follows from the annotation, if anything is yet to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wish {
    /// It names no reason.
    Unknown,
    /// What is in place cannot be revoked.
    Impossible(String),
    /// The certificate in place is to be revoked.
    Due(RevocationReason),
}

impl Observed {
    /// Whether a leaf is known to be revoked.
    #[must_use]
    pub fn is_revoked(&self, leaf: &CertificateFacts) -> bool {
        self.companion.revoked.contains(&leaf.fingerprint)
    }

    /// Whether a leaf is to be revoked.
    #[must_use]
    pub fn is_to_be_revoked(&self, leaf: &CertificateFacts) -> bool {
        let revocation = self.companion.revocation.as_ref();
        revocation.is_some_and(|r| r.leaf.fingerprint == leaf.fingerprint)
    }

    /// Whether the key that is kept for the next certificate must not be used.
    #[must_use]
    pub fn is_pending_key_compromised(&self) -> bool {
        let revocation = self.companion.revocation.as_ref();
        revocation.is_some_and(|r| r.reason == RevocationReason::KeyCompromise && r.key_is_pending)
    }

    fn is_in_place(&self, revocation: &Revocation) -> bool {
        self.certificate()
            .is_some_and(|c| c.fingerprint == revocation.leaf.fingerprint)
    }
}

fn find_wish(o: &Observed, now: Timestamp) -> Option<Wish> {
    let value = o.revoke.as_deref()?;
    let open = o.companion.revocation.as_ref();
    let SecretObservation::Ours(secret) = &o.secret else {
        return None;
    };
    let facts = secret.content.as_ref().ok()?;
    let Some(reason) = RevocationReason::parse(value) else {
        return Some(Wish::Unknown);
    };
    if open.is_some_and(|r| r.value == value || !o.is_in_place(r))
        || secret.marks.revoke.as_deref() == Some(value)
        || o.is_revoked(facts)
    {
        return None;
    }
    Some(match find_obstacle(o, secret, facts, now) {
        Some(why) => Wish::Impossible(why),
        None => Wish::Due(reason),
    })
}

/// Why the issuer that the spec names cannot revoke what is in place.
fn find_obstacle(
    o: &Observed,
    secret: &TlsSecret,
    facts: &CertificateFacts,
    now: Timestamp,
) -> Option<String> {
    let marks = &secret.marks;
    if secret.fallback {
        return Some("is a fallback, which no CA issued".to_owned());
    }
    if facts.self_signed || marks.directory.as_deref() == Some(SELF_SIGNED) {
        return Some("is self-signed, and no CA can revoke it".to_owned());
    }
    if now >= facts.not_after {
        return Some(format!("expired at {}", whole(facts.not_after)));
    }
    let (Some(issuer), Some(directory)) = (&marks.issuer, &marks.directory) else {
        return Some(
            "was not issued for this Certificate but adopted: revoke it where it was issued"
                .to_owned(),
        );
    };
    let is_named = *issuer == o.issuer_id() || o.others.iter().any(|other| other.id == *issuer);
    let is_there = match o.signer_of(Some(issuer.as_str()), directory) {
        Signer::Ready(facts, _) => facts.id == *issuer,
        Signer::NotReady(id) => id == *issuer,
        Signer::Unnamed => false,
    };
    (!is_named || !is_there).then(|| {
        format!(
            "was issued by {issuer} at {directory}, which the spec does not name: revoke it there"
        )
    })
}

/// A person asks for it: the certificate in place is noted, before anything else begins. Or no longer asks: it is not revoked.
pub(crate) fn plan_note(o: &Observed, now: Timestamp) -> Option<Plan> {
    if let Some(open) = &o.companion.revocation {
        let value = o.revoke.as_deref();
        let is_senseless = value.is_some_and(|v| RevocationReason::parse(v).is_none());
        let why = if value.is_none() || (is_senseless && o.is_in_place(open)) {
            "nobody asks for it any more"
        } else if now >= open.leaf.not_after {
            "it has expired"
        } else {
            return plan_other_reason(o, open, now).or_else(|| plan_due(o, now));
        };
        let message = format!(
            "the certificate with the serial number {} is not revoked: {why}",
            open.leaf.serial
        );
        let step = Step::DropRevocation {
            why: message.clone(),
        };
        return Some(Plan::act("not revoked", step, Reason::Idle, message, now).beside(o));
    }
    plan_due(o, now)
}

/// The CA has refused to revoke the noted certificate, and the annotation has another value: it is asked anew with that reason. The
/// certificate in place came after the request and is not renewed once more, unless its key is the one that is compromised.
fn plan_other_reason(o: &Observed, open: &Revocation, now: Timestamp) -> Option<Plan> {
    let value = o.revoke.as_ref().filter(|value| **value != open.value)?;
    let reason = RevocationReason::parse(value)?;
    let refused = o.revocation_refused.as_ref()?;
    if o.is_in_place(open) || refused.reason != Reason::RevocationRefused {
        return None;
    }
    let step = Step::ChangeReason {
        value: value.clone(),
        heeded: reason != RevocationReason::KeyCompromise || !open.key_is_last_good,
    };
    let message = format!(
        "the certificate with the serial number {} is to be revoked for another reason: the annotation {REVOKE} says {value}",
        open.leaf.serial
    );
    let row = "another reason";
    Some(Plan::act(row, step, Reason::RevocationRequested, message, now).beside(o))
}

fn plan_due(o: &Observed, now: Timestamp) -> Option<Plan> {
    if o.unwritable.as_ref().is_some_and(|gate| now < gate.until) {
        return None;
    }
    let (Some(Wish::Due(_)), Some(value)) = (find_wish(o, now), &o.revoke) else {
        return None;
    };
    let message = format!("a revocation is asked for: the annotation {REVOKE} says {value}");
    let step = Step::NoteRevocation {
        value: value.clone(),
    };
    Some(
        Plan::act(
            "revocation asked for",
            step,
            Reason::RevocationRequested,
            message,
            now,
        )
        .beside(o),
    )
}

/// Another certificate is in place: the one before is revoked.
pub(crate) fn plan_revoke(o: &Observed, now: Timestamp) -> Option<Plan> {
    let open = o.companion.revocation.as_ref()?;
    if find_hold(o, open, now).is_some() || next_try(o, now).is_some_and(|at| now < at) {
        return None;
    }
    let message = format!(
        "the certificate with the serial number {} is being revoked ({})",
        open.leaf.serial,
        open.reason.as_str()
    );
    Some(
        Plan::act(
            "revoke",
            Step::Revoke,
            Reason::RevocationRequested,
            message,
            now,
        )
        .beside(o),
    )
}

/// When a revocation that waits only for its time is tried.
pub(crate) fn next_try(o: &Observed, now: Timestamp) -> Option<Timestamp> {
    let open = o.companion.revocation.as_ref()?;
    if find_hold(o, open, now).is_some() {
        return None;
    }
    let gates = [find_gate(o, open), o.revocation_refused.as_ref()];
    gates.into_iter().flatten().map(|gate| gate.until).max()
}

/// Why no request may be sent to the directory that issued it.
fn find_gate<'a>(o: &'a Observed, open: &Revocation) -> Option<&'a Gate> {
    match o.signer_of(open.issuer.as_deref(), &open.directory) {
        Signer::Ready(_, gate) => gate,
        Signer::NotReady(_) | Signer::Unnamed => None,
    }
}

/// What must happen before a revocation, other than the passing of time.
fn find_hold(o: &Observed, open: &Revocation, now: Timestamp) -> Option<String> {
    let need = find_need(o, now);
    if o.status.order.is_some()
        || !o.is_served_well(now)
        || o.is_in_place(open)
        || need.is_some_and(|need| !need.still_good)
    {
        return Some("first another certificate takes its place".to_owned());
    }
    match o.signer_of(open.issuer.as_deref(), &open.directory) {
        Signer::Ready(..) => None,
        Signer::NotReady(id) => Some(format!("{id} is not ready")),
        Signer::Unnamed => Some(format!(
            "it was issued at {}, and the spec does not name an issuer for it any more: name one, or remove the annotation \
             {REVOKE} and revoke it there",
            open.directory
        )),
    }
}

/// What is said while a revocation is asked for and not done.
#[must_use]
pub fn build_pending(o: &Observed, now: Timestamp) -> Option<(Reason, String)> {
    let open = o.companion.revocation.as_ref()?;
    let head = format!(
        "the certificate with the serial number {} is to be revoked ({})",
        open.leaf.serial,
        open.reason.as_str()
    );
    if let Some(hold) = find_hold(o, open, now) {
        return Some((Reason::RevocationRequested, format!("{head}: {hold}")));
    }
    let waits = |gate: &&Gate| now < gate.until;
    let gate = [o.revocation_refused.as_ref(), find_gate(o, open)]
        .into_iter()
        .flatten()
        .find(waits);
    Some(match gate {
        Some(gate) => (
            gate.reason,
            format!(
                "{head}: {}. Next attempt at {}",
                gate.message,
                whole(gate.until)
            ),
        ),
        None => (Reason::RevocationRequested, format!("{head} now")),
    })
}

/// Why the annotation has nothing done.
#[must_use]
pub fn build_note(o: &Observed, now: Timestamp) -> Option<String> {
    match find_wish(o, now)? {
        Wish::Due(_) => None,
        Wish::Unknown => {
            let all: Vec<&str> = RevocationReason::ALL.iter().map(|r| r.as_str()).collect();
            Some(format!(
                "The annotation {REVOKE} says {:?}, which is no reason for a revocation, and nothing is done: write one of {}, or \
                 remove it",
                quote(o.revoke.as_deref().unwrap_or_default()),
                all.join(", ")
            ))
        }
        Wish::Impossible(why) => Some(format!(
            "The annotation {REVOKE} asks for a revocation, and nothing is done: the certificate in place {why}"
        )),
    }
}

#[cfg(test)]
mod tests;
