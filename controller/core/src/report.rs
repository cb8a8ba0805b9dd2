//! What a pass reports: the status after it, computed from what was observed, planned and done.

mod change;

use evercert_api::Reason;
use evercert_api::certificate::{CertificateStatus, whole_seconds};
use evercert_api::condition::{
    self, Claim, FALLBACK_IN_USE, ISSUING, PAUSED, PROFILE_PENDING, RATE_LIMITED, READY,
    RENEW_BEFORE_CLAMPED, REVOCATION_PENDING, SERVED, STALLED,
};
use evercert_api::keys::RENEW_AT;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

pub use self::change::{Basis, Change, Ending, apply_change, apply_earlier_change};
use crate::choice::build_refusal;
use crate::fallback::describe;
use crate::need::{find_need, whole};
use crate::observe::{
    CHECKING_ACCOUNT, IssuerObservation, Observed, SELF_SIGNED, SecretObservation,
};
use crate::plan::{Plan, State};
use crate::preflight::{Preflight, build_names_fingerprint, find_held_since, find_shared_domain};
use crate::profile::{Choice, build_not_offered, find_profile};
use crate::renewal::{Clamp, plan_renewal_after};
use crate::revocation::{build_note, build_pending};
use crate::sentence::quote;
use crate::served::build_served;

/// The status that says what was observed and is planned. `Ready` comes from the Secret, never from the row.
#[must_use]
pub fn build_status(o: &Observed, plan: &Plan, now: Timestamp) -> CertificateStatus {
    let mut status = o.status.clone();
    let need = find_need(o, now);
    let issued = o.issued();
    let good = issued.is_some() && need.as_ref().is_none_or(|n| n.still_good);

    status.not_before = issued.map(|c| whole_seconds(c.not_before));
    status.not_after = issued.map(|c| whole_seconds(c.not_after));
    status.serial_number = issued.map(|c| c.serial.clone());
    let renewal = issued.map(|c| plan_renewal_after(o, c, issued_at(o)));
    status.renewal_time = renewal.map(|r| whole_seconds(r.at));
    let id = issued.and_then(|c| c.renewal_id.as_deref());
    status.renewal_info = status
        .renewal_info
        .filter(|info| id == Some(&info.certificate_id));
    if good && need.is_none() {
        status.failed_attempts = None;
        status.next_attempt_time = None;
        status.last_failure = None;
    }
    let is_held = plan.waits_for_dns();
    let is_over = o.dns == Preflight::Seen(Vec::new()) || (good && need.is_none());
    status.held_since = find_held_since(o)
        .filter(|_| !is_over)
        .or_else(|| is_held.then_some(now))
        .map(whole_seconds);
    let held = status.held_since.as_ref();
    status.held_for = held.map(|_| build_names_fingerprint(o));
    let is_named = |issuer: &str| o.spec.issuer_refs().any(|r| r.to_string() == issuer);
    status.refusals.retain(|r| is_named(&r.issuer));
    if good && need.is_none() && signed_by_alternate(o).is_none() {
        status.refusals.clear();
    }
    let claims = &mut status.conditions;
    let mut set = |claim: Claim| condition::set(claims, &claim, o.generation, now);
    let mut ready = build_ready(o, plan, now);
    for note in build_notes(o, plan, now) {
        ready.message.push_str(". ");
        ready.message.push_str(&note);
    }
    set(ready);
    let issuing = plan.say.state == State::Issuing;
    set(Claim {
        kind: ISSUING,
        status: issuing,
        reason: if issuing {
            plan.say.reason
        } else {
            Reason::Idle
        },
        message: if issuing {
            plan.say.message.clone()
        } else {
            "no order is under way".to_owned()
        },
    });
    let fallback =
        matches!(&o.secret, SecretObservation::Ours(s) if s.fallback && s.content.is_ok());
    set(Claim {
        kind: FALLBACK_IN_USE,
        status: fallback,
        reason: if fallback {
            Reason::FallbackInPlace
        } else {
            Reason::Idle
        },
        message: match (&o.status.last_failure, fallback) {
            (Some(failure), true) => format!("{}, since {}", describe(o, now), failure.message),
            (None, true) => format!("{}: {}", describe(o, now), plan.say.message),
            (_, false) => "no fallback is in use".to_owned(),
        },
    });
    let failed_for_good = o
        .status
        .last_failure
        .as_ref()
        .filter(|f| f.permanent && plan.say.reason == Reason::BackingOff);
    let stalled = plan.say.state == State::Stalled
        || failed_for_good.is_some()
        || matches!(
            plan.say.reason,
            Reason::NameNotAllowed
                | Reason::NameHeldElsewhere
                | Reason::NoIngressClass
                | Reason::PlacementNotAllowed
                | Reason::InvalidSpec
                | Reason::SecretNotWritable
                | Reason::SecretContested
                | Reason::Suspended
                | Reason::ProfileNotOffered
        )
        || is_for_a_person(&o.issuer);
    set(Claim {
        kind: STALLED,
        status: stalled,
        reason: if stalled {
            plan.say.reason
        } else {
            Reason::Idle
        },
        message: if stalled {
            plan.say.message.clone()
        } else {
            match plan.say.state {
                State::Blocked => "Ready says what is waited for".to_owned(),
                State::Idle | State::Issuing | State::Stalled => {
                    "no action of a person is needed".to_owned()
                }
            }
        },
    });
    match renewal.and_then(|r| Some((r, r.clamped?))) {
        Some((r, clamp)) => set(Claim {
            kind: RENEW_BEFORE_CLAMPED,
            status: true,
            reason: Reason::Clamped,
            message: format!(
                "spec asks for a renewal {} of the lifetime before expiry: the certificate is renewed at {} instead",
                match clamp {
                    Clamp::TooEarly => "earlier than two thirds",
                    Clamp::TooLate => "later than a twentieth",
                },
                whole(r.at)
            ),
        }),
        None => condition::remove(claims, RENEW_BEFORE_CLAMPED),
    }
    match build_profile(o, renewal.map(|r| r.at)) {
        Some((reason, message)) => {
            set_while(claims, o, PROFILE_PENDING, reason, &message, now);
        }
        None => condition::remove(claims, PROFILE_PENDING),
    }
    match build_pending(o, now) {
        Some((reason, message)) => {
            set_while(claims, o, REVOCATION_PENDING, reason, &message, now);
        }
        None => condition::remove(claims, REVOCATION_PENDING),
    }
    match (&o.served, issued) {
        (Some(served), Some(certificate)) => {
            let (status, reason, message) = build_served(served, &certificate.serial);
            let claim = Claim {
                kind: SERVED,
                status: status == "True",
                reason,
                message,
            };
            condition::set_as(claims, &claim, status, o.generation, now);
        }
        // What was seen last stays until something else is.
        (None, Some(_)) => {}
        (_, None) => condition::remove(claims, SERVED),
    }
    for (kind, reason, holds) in [
        (RATE_LIMITED, Reason::RateLimited, is_rate_limited(o, plan)),
        (PAUSED, Reason::Paused, failed_for(o, plan, Reason::Paused)),
    ] {
        if holds {
            set_while(claims, o, kind, reason, &plan.say.message, now);
        } else {
            condition::remove(claims, kind);
        }
    }
    status
}

/// Why the certificate in place is from another profile than the next one, or than the one that is wanted.
fn build_profile(o: &Observed, renewal: Option<Timestamp>) -> Option<(Reason, String)> {
    let IssuerObservation::Ready(issuer) = &o.issuer else {
        return None;
    };
    let marks = &o.issued_secret()?.marks;
    if marks.directory.as_ref() != Some(&issuer.directory) {
        return None;
    }
    let choice = find_profile(o);
    if let Choice::Instead(profile) = choice {
        let message = format!("{}: the CA chooses", build_not_offered(o, profile));
        return Some((Reason::ProfileNotOffered, message));
    }
    let next = choice.ordered();
    if marks.profile.as_deref() == next || matches!(choice, Choice::Nothing(_)) {
        return None;
    }
    let was = marks.profile.as_deref().map_or_else(
        || "without a profile".to_owned(),
        |p| format!("with the profile {}", quote(p)),
    );
    let wanted = next.map_or_else(
        || "none is wanted".to_owned(),
        |p| format!("{} is wanted", quote(p)),
    );
    let at = renewal
        .map(|at| format!(" at {}", whole(at)))
        .unwrap_or_default();
    Some((
        Reason::ProfilePending,
        format!("the certificate was ordered {was}, {wanted}: it comes with the renewal{at}"),
    ))
}

/// What a person should know beside how it stands.
fn build_notes(o: &Observed, plan: &Plan, now: Timestamp) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(build_stand_in(o));
    notes.extend(build_shared(o));
    if o.spec.suspend && plan.say.reason != Reason::Suspended {
        notes.push("spec.suspend is true: nothing new is started, no renewal either".to_owned());
    }
    if let Some(Err(text)) = o.requested() {
        notes.push(format!(
            "The annotation {RENEW_AT} says {:?}, which is no instant: write one such as 2030-01-31T12:00:00Z, or remove it",
            quote(text)
        ));
    }
    notes.extend(build_note(o, now));
    notes
}

/// The issuer that signed the certificate in place, where it is one of `spec.alternateIssuerRefs`.
fn signed_by_alternate(o: &Observed) -> Option<String> {
    let first = o.spec.issuer_ref.to_string();
    let signed = o.issued_secret()?.marks.issuer.clone()?;
    let mut alternates = o.spec.alternate_issuer_refs.iter();
    (signed != first && alternates.any(|r| r.to_string() == signed)).then_some(signed)
}

/// Which issuer signs, or has signed, in place of the first, why, and when the first has its turn again.
fn build_stand_in(o: &Observed) -> Option<String> {
    let first = o.spec.issuer_ref.to_string();
    let turn = format!("At the next renewal {first} comes first again");
    if let Some(why) = &o.gave_way {
        return Some(format!("{} signs, since {why}. {turn}", o.issuer_id()));
    }
    let alternate = signed_by_alternate(o)?;
    let refusal = o.status.refusals.iter().find(|r| r.issuer == first);
    let why = refusal.map(|r| format!(", since {first} {}", build_refusal(r)));
    Some(format!(
        "It was signed by {alternate}{}. {turn}",
        why.unwrap_or_default()
    ))
}

/// A name below a domain whose limits at a CA are used up by strangers, where a CA is to sign for it.
fn build_shared(o: &Observed) -> Option<String> {
    let issuer = match &o.issuer {
        IssuerObservation::Ready(issuer) => issuer,
        IssuerObservation::Missing | IssuerObservation::NotReady { .. } => return None,
    };
    let is_asked = issuer.directory != SELF_SIGNED;
    let (name, shared) = o.spec.dns_names.iter().find_map(|name| {
        let shared = find_shared_domain(name)?;
        Some((name, shared))
    })?;
    is_asked.then(|| {
        format!(
            "{name} is below {shared}, which everybody may use: a CA counts all their certificates together, and its limits may be \
             used up by others. A domain of your own has its own limits"
        )
    })
}

/// A condition that is there only while it holds.
fn set_while(
    claims: &mut Vec<Condition>,
    o: &Observed,
    kind: &'static str,
    reason: Reason,
    message: &str,
    now: Timestamp,
) {
    let claim = Claim {
        kind,
        status: true,
        reason,
        message: message.to_owned(),
    };
    condition::set(claims, &claim, o.generation, now);
}

/// Whether a limit of the CA is what is waited for: by the ledger, or since the CA refused the last attempt for it.
fn is_rate_limited(o: &Observed, plan: &Plan) -> bool {
    plan.say.reason == Reason::RateLimited || failed_for(o, plan, Reason::RateLimited)
}

/// Whether the last attempt failed for `reason`, and the next one is waited for.
fn failed_for(o: &Observed, plan: &Plan, reason: Reason) -> bool {
    let failure = o.status.last_failure.as_ref();
    plan.say.reason == Reason::BackingOff && failure.is_some_and(|f| f.reason == reason.as_str())
}

fn issued_at(o: &Observed) -> Option<Timestamp> {
    match &o.secret {
        SecretObservation::Ours(secret) => secret.marks.issued_at,
        SecretObservation::Missing
        | SecretObservation::WrongType(_)
        | SecretObservation::Foreign(_) => None,
    }
}

/// `Ready`: the Secret holds an issued certificate that the spec asks for and that is valid now.
fn build_ready(o: &Observed, plan: &Plan, now: Timestamp) -> Claim {
    let claim = |status, reason, message| Claim {
        kind: READY,
        status,
        reason,
        message,
    };
    let need = find_need(o, now);
    if let Some(facts) = o.issued() {
        if now < facts.not_before {
            let message = format!(
                "the certificate is valid from {} on, later than this machine's clock: it is kept, and the clock should be checked",
                facts.not_before
            );
            return claim(false, Reason::NotYetValid, message);
        }
        match &need {
            None => {
                let note = o.chain_note.as_ref().map(|note| format!("; {note}"));
                return claim(
                    true,
                    Reason::Issued,
                    format!(
                        "the certificate is valid until {}{}",
                        whole(facts.not_after),
                        note.unwrap_or_default()
                    ),
                );
            }
            Some(n) if n.still_good => {
                // Some sentences begin with why they matter.
                let message = if plan.say.message.starts_with(&n.message) {
                    plan.say.message.clone()
                } else {
                    format!("{}; {}", n.message, plan.say.message)
                };
                return claim(true, n.reason, message);
            }
            Some(_) => {}
        }
    }
    match need {
        Some(n) if plan.say.state == State::Stalled || n.message == plan.say.message => {
            claim(false, plan.say.reason, plan.say.message.clone())
        }
        Some(n) => {
            let reason = match plan.say.state {
                State::Blocked if n.reason != Reason::FallbackInPlace => block_reason(o, plan),
                State::Blocked | State::Idle | State::Issuing | State::Stalled => n.reason,
            };
            claim(
                false,
                reason,
                format!("{}; {}", n.message, plan.say.message),
            )
        }
        None => claim(false, plan.say.reason, plan.say.message.clone()),
    }
}

/// Whether the issuer waits for a person, and not for its CA or for this process.
fn is_for_a_person(issuer: &IssuerObservation) -> bool {
    match issuer {
        IssuerObservation::NotReady { reason, .. } => {
            let passing = [Reason::CAUnavailable, Reason::RateLimited];
            let ours = ["Starting", "Changed", CHECKING_ACCOUNT];
            !passing.iter().any(|r| r.as_str() == reason) && !ours.contains(&reason.as_str())
        }
        IssuerObservation::Missing | IssuerObservation::Ready(_) => false,
    }
}

/// What keeps the next attempt from beginning; after a failure, that failure.
fn block_reason(o: &Observed, plan: &Plan) -> Reason {
    let failure = o
        .status
        .last_failure
        .as_ref()
        .filter(|_| plan.say.reason == Reason::BackingOff);
    failure
        .and_then(|f| Reason::ALL.iter().find(|r| r.as_str() == f.reason))
        .copied()
        .unwrap_or(plan.say.reason)
}

/// Whether `new` is worth a write now: it differs, and not only in sentences within two seconds of the last write; else the
/// instant at which it is.
pub fn plan_write(
    old: &CertificateStatus,
    new: &CertificateStatus,
    last_write: Option<Timestamp>,
    now: Timestamp,
) -> Result<bool, Timestamp> {
    if old == new {
        return Ok(false);
    }
    if !differ_only_in_words(old, new) {
        return Ok(true);
    }
    let quiet = SignedDuration::from_secs(2);
    match last_write.map(|at| at + quiet).filter(|at| *at > now) {
        Some(at) => Err(at),
        None => Ok(true),
    }
}

fn differ_only_in_words(old: &CertificateStatus, new: &CertificateStatus) -> bool {
    let wordless = |status: &CertificateStatus| {
        let mut status = status.clone();
        let mut conditions: Vec<(String, String, Option<i64>)> = status
            .conditions
            .drain(..)
            .map(|c| (c.type_, c.status, c.observed_generation))
            .collect();
        conditions.sort();
        (status, conditions)
    };
    wordless(old) == wordless(new)
}

#[cfg(test)]
mod tests;
