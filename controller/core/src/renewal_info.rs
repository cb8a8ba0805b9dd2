//! Renewal information (RFC 9773): what a CA says about when to renew a certificate, when it is asked again, and what is believed.
//!
//! Guarantees: an answer counts only for the very certificate that it was asked for; a window that cannot be is refused; the
//! instant in a window is the same after each restart. Caveat: what stands in a status may be forged by whoever may write it,
//! so nothing is spared by it that a CA limits.

use evercert_api::certificate::{RenewalInfoStatus, WindowStatus, whole_seconds};
use evercert_api::children::stable_hash;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::facts::CertificateFacts;
use crate::key::ObjectKey;
use crate::need::whole_up;
use crate::observe::{IssuerObservation, Observed, Signer, TlsSecret};
use crate::sentence::quote;

/// The shortest wait between two polls, whatever the CA says.
const SHORTEST: SignedDuration = SignedDuration::from_mins(1);
/// The longest.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);
/// The wait where the CA says nothing, and after a failure that lasts (RFC 9773 §4.3.3).
const USUAL: SignedDuration = SignedDuration::from_hours(6);
/// A new certificate is not replaced at once because its CA says so, else one that always says so would get no rest.
const REST: SignedDuration = SignedDuration::from_hours(6);

/// What a CA says about a certificate (RFC 9773 §4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewalInfo {
    /// From when on it should be renewed.
    pub start: Timestamp,
    /// Until when.
    pub end: Timestamp,
    /// A page that says why.
    pub explanation_url: Option<String>,
    /// When the CA wants to be asked again.
    pub retry_after: Option<Timestamp>,
}

/// Why a CA said nothing that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRenewalInfo {
    /// Whether it will be so for a while; else it is tried again soon (RFC 9773 §4.3.3).
    pub lasting: bool,
    /// When the CA wants to be asked again.
    pub retry_after: Option<Timestamp>,
    /// What was attempted and what happened, one sentence.
    pub detail: String,
}

/// The window of a certificate, as it is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window<'a> {
    /// Its begin.
    pub start: Timestamp,
    /// Its end.
    pub end: Timestamp,
    /// When it was first known.
    pub known_since: Option<Timestamp>,
    /// A page that says why.
    pub explanation_url: Option<&'a str>,
}

/// What is known after a poll about certificate `id`, which expires at `not_after`. A failure leaves the window that was known.
#[must_use]
pub fn note_poll(
    known: Option<&RenewalInfoStatus>,
    id: &str,
    not_after: Timestamp,
    answer: &Result<RenewalInfo, NoRenewalInfo>,
    now: Timestamp,
) -> RenewalInfoStatus {
    let known = known.filter(|known| known.certificate_id == id);
    let failures = known.map_or(0, |known| known.failures).saturating_add(1);
    let failed = |wait: SignedDuration, said: Option<Timestamp>, detail: &str| RenewalInfoStatus {
        certificate_id: id.to_owned(),
        window: known.and_then(|known| known.window.clone()),
        explanation_url: known.and_then(|known| known.explanation_url.clone()),
        next_poll_time: next(said, wait, now),
        failures,
        failure: Some(quote(detail)),
    };
    match answer {
        Ok(info) => match find_absurdity(info.start, info.end, not_after) {
            Some(why) => failed(
                USUAL,
                None,
                &format!("the CA's window is not believed: it {why}"),
            ),
            None => RenewalInfoStatus {
                certificate_id: id.to_owned(),
                window: Some(note_window(
                    known.and_then(|known| known.window.as_ref()),
                    whole_seconds(info.start),
                    Time(whole_up(info.end)),
                    now,
                )),
                explanation_url: info.explanation_url.as_deref().map(quote),
                next_poll_time: next(info.retry_after, USUAL, now),
                failures: 0,
                failure: None,
            },
        },
        Err(why) if why.lasting => failed(USUAL, why.retry_after, &why.detail),
        Err(why) => {
            let doubled = SHORTEST * (1 << failures.saturating_sub(1).min(9));
            failed(doubled.min(USUAL), why.retry_after, &why.detail)
        }
    }
}

/// The window from `start` to `end`, or the one that is known where that asks for the same: a CA may count back from each poll,
/// and what is over stays over.
fn note_window(
    known: Option<&WindowStatus>,
    start: Time,
    end: Time,
    now: Timestamp,
) -> WindowStatus {
    let asks_the_same = |known: &&WindowStatus| {
        let are_over = known.end.0 <= now && end.0 <= now;
        are_over || (known.start == start && known.end == end)
    };
    // Since later than now: the clock was set back, or the status forged.
    let is_sound = |known: &&WindowStatus| known.known_since.as_ref().is_some_and(|at| at.0 <= now);
    let same = known.filter(asks_the_same).filter(is_sound);
    same.cloned().unwrap_or_else(|| WindowStatus {
        start,
        end,
        known_since: Some(whole_seconds(now)),
    })
}

fn next(said: Option<Timestamp>, wait: SignedDuration, now: Timestamp) -> Time {
    let wait = said.map_or(wait, |at| at.duration_since(now));
    let at = now.checked_add(wait.clamp(SHORTEST, LONGEST));
    Time(whole_up(at.unwrap_or(now)))
}

/// Why a window cannot be.
fn find_absurdity(start: Timestamp, end: Timestamp, not_after: Timestamp) -> Option<&'static str> {
    if end <= start {
        Some("ends before it begins")
    } else if not_after <= start {
        Some("begins after the certificate has expired")
    } else {
        None
    }
}

/// The window that is known for the certificate `facts`, if the status has one for it and it can be.
#[must_use]
pub fn find_window<'a>(o: &'a Observed, facts: &CertificateFacts) -> Option<Window<'a>> {
    let known = o.status.renewal_info.as_ref()?;
    let window = known.window.as_ref()?;
    let is_its = facts.renewal_id.as_ref() == Some(&known.certificate_id);
    let (Time(start), Time(end)) = (&window.start, &window.end);
    let is_sane = find_absurdity(*start, *end, facts.not_after).is_none();
    (is_its && is_sane).then_some(Window {
        start: *start,
        end: *end,
        known_since: window.known_since.as_ref().map(|at| at.0),
        explanation_url: known.explanation_url.as_deref(),
    })
}

impl Window<'_> {
    /// The instant in it for a certificate that came at `issued_at`: by a hash of the Certificate's name and of the certificate,
    /// and not before the new certificate has rested. Where it was over already when it was first known, as before a mass
    /// revocation, the instant is in the time of `spread` that follows.
    #[must_use]
    pub fn instant(
        &self,
        key: &ObjectKey,
        facts: &CertificateFacts,
        issued_at: Option<Timestamp>,
        spread: SignedDuration,
    ) -> Timestamp {
        let id = facts.renewal_id.as_deref().unwrap_or_default();
        let hash = stable_hash(&["window", &key.namespace, &key.name, id]);
        let (from, whole) = match self.known_since.filter(|since| self.end <= *since) {
            Some(since) => (since, spread),
            None => (self.start, self.end.duration_since(self.start)),
        };
        let part = whole
            .as_millis()
            .saturating_mul(i128::from(hash % 1_000_000))
            / 1_000_000;
        let part = SignedDuration::from_millis(i64::try_from(part).unwrap_or(0));
        let at = from.checked_add(part).unwrap_or(from);
        let Some(issued_at) = issued_at.filter(|at| *at < facts.not_after) else {
            return at;
        };
        let rest = REST.min(facts.not_after.duration_since(issued_at) / 4);
        at.max(issued_at.checked_add(rest).unwrap_or(issued_at))
    }
}

/// When the CA is asked next about the certificate in `secret`, now at the earliest; `None` while it is not: it offers no renewal
/// information, or the certificate is not its own, or has expired.
#[must_use]
pub fn next_poll(o: &Observed, secret: &TlsSecret, now: Timestamp) -> Option<Timestamp> {
    let facts = secret.content.as_ref().ok()?;
    let id = facts.renewal_id.as_ref()?;
    // Whoever is to sign the next one, this one's CA knows about this one.
    let (by, at) = (&secret.marks.issuer, secret.marks.directory.as_deref()?);
    let Signer::Ready(issuer, gate) = o.signer_of(by.as_deref(), at) else {
        return None;
    };
    if !issuer.renewal_info || secret.fallback || !facts.is_valid_at(now) {
        return None;
    }
    let known = o.status.renewal_info.as_ref();
    let planned = known.filter(|known| known.certificate_id == *id);
    let longest = now.checked_add(LONGEST).unwrap_or(now);
    let due = planned
        .map(|known| known.next_poll_time.0)
        // Further away it was never planned: the clock was set back, or the status forged.
        .filter(|at| *at <= longest)
        .unwrap_or(now);
    let open = gate.map(|gate| gate.until);
    [Some(now), Some(due), open, o.poll_turn]
        .into_iter()
        .flatten()
        .max()
}

/// The identifier of the certificate that a new order replaces (RFC 9773 §5): the one in place, where its CA knows it and it has
/// a name in common with what is wanted.
#[must_use]
pub fn find_replaced(o: &Observed) -> Option<&str> {
    let IssuerObservation::Ready(issuer) = &o.issuer else {
        return None;
    };
    let secret = o.issued_secret()?;
    let facts = secret.content.as_ref().ok()?;
    find_window(o, facts)?;
    let is_its = secret.marks.directory.as_ref() == Some(&issuer.directory);
    let shares = o
        .wanted_names()
        .iter()
        .any(|name| facts.names.contains(name));
    let id = facts.renewal_id.as_deref();
    id.filter(|_| issuer.renewal_info && is_its && shares)
}

/// Whether a poll is to be told to people: it makes the renewal sooner by more than a twentieth of the lifetime, or sooner and
/// with a page that was not known.
#[must_use]
pub fn is_news(
    before: Timestamp,
    after: Timestamp,
    facts: &CertificateFacts,
    pages: (Option<&str>, Option<&str>),
) -> bool {
    let lifetime = facts.not_after.duration_since(facts.not_before);
    let sooner = before.duration_since(after);
    let (known, new) = pages;
    sooner > lifetime / 20 || (sooner > SignedDuration::ZERO && new.is_some() && new != known)
}

#[cfg(test)]
mod tests;
