//! Revocation (RFC 8555 §7.6): noted in the companion before the renewal, asked of the CA after it, written down last. Between
//! any two of these the process may end: what is noted is asked for again, and a certificate that is revoked already counts as done.

use evercert_api::{Reason, keys};
use evercert_core::backoff::next_attempt;
use evercert_core::fault::{Fault, FaultClass};
use evercert_core::observe::{Gate, SecretObservation};
use evercert_core::report::Change;
use evercert_core::revocation::Revocation;
use evercert_core::sentence::build_fault;
use jiff::Timestamp;

use super::Outcome;
use super::order::{is_of_old, suspect};
use super::secret::{pair_of, write_companion};
use super::signer::find_signer;
use crate::context::Context;
use crate::effect::Effect;
use crate::error::Error;
use crate::gather::Gathered;
use crate::secrets::{Change as CompanionChange, data};

/// Notes the certificate in place.
pub(super) async fn note(
    gathered: &mut Gathered,
    value: &str,
    context: &Context,
) -> Result<Outcome, Error> {
    let (Some(secret), SecretObservation::Ours(observed)) =
        (&gathered.secret, &gathered.observed.secret)
    else {
        return Ok(Outcome::moved());
    };
    let (Ok(facts), Some(_)) = (&observed.content, &observed.marks.directory) else {
        return Ok(Outcome::moved());
    };
    let (pair, marks) = (pair_of(secret), observed.marks.clone());
    let text = format!(
        "the certificate with the serial number {} is renewed and then revoked: the annotation {} says {value}",
        facts.serial,
        keys::REVOKE
    );
    let change = CompanionChange::ToRevoke(&pair, value, &marks);
    write_companion(gathered, &change, Effect::NoteRevocation, context).await?;
    forget_refusal(gathered, context);
    Ok(Outcome::moved().noted(false, Reason::RevocationRequested, text))
}

/// What was noted is to be revoked for another reason.
pub(super) async fn change_reason(
    gathered: &mut Gathered,
    value: &str,
    heeded: bool,
    context: &Context,
) -> Result<Outcome, Error> {
    let o = &gathered.observed;
    // The companion's mark is that of the certificate in place where it holds a copy of it.
    let kept = o.companion.last_good.as_ref().map(|(facts, _)| facts);
    let heeded = heeded && kept.is_some_and(|kept| o.issued() == Some(kept));
    let change = CompanionChange::OtherReason(value, heeded);
    write_companion(gathered, &change, Effect::NoteRevocation, context).await?;
    forget_refusal(gathered, context);
    Ok(Outcome::moved())
}

/// What was noted is not to be revoked any more.
pub(super) async fn drop_noted(
    gathered: &mut Gathered,
    why: &str,
    context: &Context,
) -> Result<Outcome, Error> {
    let change = CompanionChange::NotToRevoke(None);
    write_companion(gathered, &change, Effect::SettleRevocation, context).await?;
    forget_refusal(gathered, context);
    Ok(Outcome::moved().noted(false, Reason::RevocationDropped, why))
}

/// Has the CA revoke what is noted, and writes that down.
pub(super) async fn revoke(
    gathered: &mut Gathered,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let (Some(noted), Some(der)) = (
        gathered.observed.companion.revocation.clone(),
        gathered
            .companion
            .as_ref()
            .and_then(|c| evercert_pki::leaf_der(data(c, keys::REVOKE_CRT))),
    ) else {
        return Ok(Outcome::waits());
    };
    let issuer = noted.issuer.as_deref();
    let Some(asked) = find_signer(gathered, issuer, &noted.directory, context) else {
        return Ok(Outcome::waits());
    };
    let directory = asked.directory.url();
    if let Err(fault) = asked.acme.revoke(&der, noted.reason, now).await {
        // The answer may have taken its time, and a wait begins with it.
        let now = Timestamp::now();
        if is_of_old(&asked.id, Some(&asked.session), &fault, context) {
            return Ok(Outcome::moved());
        }
        context.note_fault(directory, &fault, now);
        if fault.class == FaultClass::Account {
            suspect(&asked.id, &asked.acme, &fault, context);
        }
        return Ok(refused(gathered, &noted, &fault, context, now));
    }
    context.close_breaker(directory);
    let change = CompanionChange::NotToRevoke(Some(&noted.leaf));
    write_companion(gathered, &change, Effect::SettleRevocation, context).await?;
    forget_refusal(gathered, context);
    let text = format!(
        "the certificate with the serial number {} is revoked ({}): another one has taken its place",
        noted.leaf.serial,
        noted.reason.as_str()
    );
    let revoked = Outcome::changed(Change::Revoked(text.clone()));
    Ok(revoked.noted(false, Reason::Revoked, text))
}

/// The CA did not revoke it: it is asked again in its time.
fn refused(
    gathered: &Gathered,
    noted: &Revocation,
    fault: &Fault,
    context: &Context,
    now: Timestamp,
) -> Outcome {
    let key = &gathered.observed.key;
    let before = context.memory.entry(key).revocation_refused;
    let times = before.map_or(0, |(times, _)| times).saturating_add(1);
    let is_down = fault.is_directorys();
    let reason = match fault.class {
        FaultClass::Unavailable => Reason::CAUnavailable,
        // Another reason would meet the same limit.
        FaultClass::RateLimited => Reason::RateLimited,
        _ => Reason::RevocationRefused,
    };
    let message = format!("{}{}", build_fault(fault), find_remedy(fault));
    let gate = Gate {
        until: next_attempt(key, times, fault, now),
        reason,
        message: message.clone(),
    };
    let until = gate.until;
    context
        .memory
        .update(key, |e| e.revocation_refused = Some((times, gate)));
    if is_down {
        // One outage is one event, and not this one's.
        return Outcome::moved();
    }
    let text = format!(
        "the certificate with the serial number {} is not revoked yet: {message}. Next attempt at {}",
        noted.leaf.serial,
        evercert_core::need::whole(until)
    );
    Outcome::moved().noted(true, reason, text)
}

/// What a person can do about it.
fn find_remedy(fault: &Fault) -> String {
    let kind = fault.problem.as_ref().map(|p| p.kind.as_str());
    match kind {
        Some("unauthorized") => format!(
            ". It was ordered by another account than the issuer has: have it revoked by that one or with its own key, and remove \
             the annotation {}",
            keys::REVOKE
        ),
        Some("badRevocationReason") => {
            format!(
                ". This CA does not take the reason: write another one into the annotation {}",
                keys::REVOKE
            )
        }
        _ => String::new(),
    }
}

fn forget_refusal(gathered: &Gathered, context: &Context) {
    let key = &gathered.observed.key;
    context.memory.update(key, |e| e.revocation_refused = None);
}
