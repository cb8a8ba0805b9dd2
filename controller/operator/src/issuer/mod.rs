//! Issuers: key first, stored before it is used; the account looked up or made; the session that Certificates order with.

mod explain;
mod external;
mod key;
mod object;
mod ready;
mod rotation;
mod session;
mod turns;

pub(crate) use object::{IssuerId, IssuerObject, IssuerResource};
pub(crate) use session::{Session, Sessions, Signer};
pub(crate) use turns::Turns;

use std::sync::Arc;
use std::time::Duration;

use evercert_api::certificate::CertificateSpec;
use evercert_api::condition::{self, Claim, READY};
use evercert_api::issuer::BudgetStatus;
use evercert_api::{IssuerStatus, Reason};
use evercert_core::backoff::outage_wait;
use evercert_core::limits::{Budget, Telling};
use evercert_core::need::{whole, whole_up};
use evercert_core::observe::Gate;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::Api;
use kube::runtime::controller::Action;
use tokio::sync::SemaphorePermit;

use crate::apply;
use crate::context::Context;
use crate::effect::Effect;
use crate::error::Error;
use crate::events::emit;
use crate::ledger::Listener;
use key::KeyChange;
use ready::{Again, NotReady, Readiness};

/// How long a ready issuer is left alone.
const RESYNC: Duration = Duration::from_hours(24);
/// How often what is left of a budget is told while some of it is spent.
const BUDGET_RESYNC: Duration = Duration::from_mins(2);
/// A wait for something that nobody announces.
const RECHECK: SignedDuration = SignedDuration::from_secs(30);
/// A Secret that no watch covers is read again so often that a change is seen within half a minute.
const UNWATCHED: Duration = Duration::from_secs(25);
/// The wait where a person must act at the CA, whom nobody hears: each try costs four requests.
const SELDOM: SignedDuration = SignedDuration::from_mins(5);

/// One pass for one issuer. Idempotent; sends at most a directory read, a look-up and a registration to the CA, and nothing
/// while spec, key and bundle are those of the session in use.
pub(crate) async fn reconcile<K: IssuerResource>(
    issuer: Arc<K>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let place = context.begin_work().await;
    // In a box, so that those who wait for a place are small.
    Box::pin(pass(issuer.as_ref(), &context, place)).await
}

async fn pass<K: IssuerResource>(
    issuer: &K,
    context: &Context,
    place: Option<SemaphorePermit<'_>>,
) -> Result<Action, Error> {
    let object = issuer.object(&context.config.namespace);
    if issuer.meta().deletion_timestamp.is_some() {
        context.sessions.remove(&object.id);
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    let before = context.sessions.get(&object.id);
    let held = context.sessions.key(&object.id);
    let (readiness, key_change) =
        ready::ensure_ready(&object, before.as_ref(), context, place, now).await?;
    let mut budget = None;
    let (wait, session) = match &readiness {
        Readiness::Unchanged(session) | Readiness::Ready(session) => {
            let is_spent = find_left(session, context, now).is_some_and(|b| b.orders < b.capacity);
            let wait = if is_spent { BUDGET_RESYNC } else { RESYNC };
            let (left, again) = tell_budget(&object, session, context, now);
            budget = left;
            let again = again.map(|at| at.duration_since(now).unsigned_abs());
            let wait = again.map_or(wait, |again| wait.min(again));
            (wait, session.clone())
        }
        Readiness::NotReady(not) => {
            let wait = not_ready_wait(&object, not, now);
            let until = not.until.or_else(|| now.checked_add(wait).ok());
            (
                wait.unsigned_abs(),
                Session::not_ready(&object, not, until.unwrap_or(now)),
            )
        }
    };
    // What nobody announces is read again; the CA is asked nothing unless it has changed.
    let wait = if session.unwatched {
        wait.min(UNWATCHED)
    } else {
        wait
    };
    let action = Action::requeue(wait);
    let changed = before.as_ref().is_none_or(|b| !b.is_like(&session));
    context.sessions.set(object.id.clone(), session);
    let reported = report(issuer, &object, &readiness, budget, context, now).await;
    // A report that met another writer is repeated, and then nothing has changed.
    if changed {
        context.wake_certificates(|spec, namespace| is_named(spec, namespace, &object.id));
    }
    let key = context.sessions.key(&object.id);
    let cause = match (&key_change, held) {
        (Some(KeyChange::Made), _) => Cause::KeyLost,
        (_, None) => Cause::Unknown,
        (_, held) if held.as_ref().map(|h| &h.pem) == key.as_ref().map(|k| &k.pem) => {
            Cause::AccountForgotten
        }
        (_, Some(_)) => Cause::OtherKey,
    };
    let secret = object.account_key_name().unwrap_or_default();
    let mut notes = Vec::new();
    match key_change {
        Some(KeyChange::Restored) => {
            let text = format!(
                "Secret {secret} with the account's key was deleted: the same key was put back. To have another account, name \
                 another Secret in spec.acme.accountKeySecretRef"
            );
            notes.push((true, Reason::AccountKeyRestored, text));
        }
        Some(KeyChange::Changed) => {
            let text = format!(
                "the account has another key now, as was asked for: it is in Secret {secret}"
            );
            notes.push((false, Reason::AccountKeyChanged, text));
        }
        Some(KeyChange::NotChanged(why)) => {
            let text = format!(
                "the account keeps its key, since the CA refuses another one: {why}. To try again, write another value into the \
                 annotation {}",
                evercert_api::keys::ROTATE_ACCOUNT_KEY
            );
            notes.push((true, Reason::AccountKeyNotChanged, text));
        }
        Some(KeyChange::Made) | None => {}
    }
    if let Some(text) = build_replaced(&object, &readiness, cause) {
        notes.push((true, Reason::AccountReplaced, text));
    }
    for (warning, reason, text) in notes {
        emit(&context.client, issuer, warning, reason, &text, now).await;
    }
    reported?;
    Ok(action)
}

/// Why an issuer has another account than before.
#[derive(Debug, Clone, Copy)]
enum Cause {
    /// The Secret was gone, and a new key was made.
    KeyLost,
    /// The Secret holds another key.
    OtherKey,
    /// The key is the same.
    AccountForgotten,
    /// This process has not seen the key before.
    Unknown,
}

/// An account's key is never replaced silently: what happened, where the issuer has another account of the same CA than before.
fn build_replaced(object: &IssuerObject, readiness: &Readiness, cause: Cause) -> Option<String> {
    let Readiness::Ready(Session {
        signer: Signer::Acme { acme, directory },
        ..
    }) = readiness
    else {
        return None;
    };
    let before = object.status.account_uri.as_deref()?;
    let now = acme.account_uri();
    if object.status.directory.as_deref() != Some(directory.url()) || before == now {
        return None;
    }
    let secret = object.account_key_name().unwrap_or_default();
    Some(match cause {
        Cause::KeyLost => format!(
            "Secret {secret} with the account's key was gone, and a new key was made: the account is {now} now, and was {before}. To \
             have the old one back, put its key into the Secret"
        ),
        Cause::OtherKey => format!(
            "the key in Secret {secret} is another one: the account is {now} now, and was {before}. To have the old one back, put \
             its key back"
        ),
        Cause::AccountForgotten => format!(
            "the CA no longer knew the account {before}: the same key was registered again, and the account is {now} now"
        ),
        Cause::Unknown => format!(
            "the account is {now} now, and was {before}: the CA has forgotten that one, or the key in Secret {secret} is another one; \
             if it is, put the old key back to have the old account back"
        ),
    })
}

fn is_named(spec: &CertificateSpec, namespace: &str, id: &IssuerId) -> bool {
    spec.issuer_refs()
        .any(|reference| IssuerId::of(reference, namespace) == *id)
}

/// When an issuer that is not ready is tried again: when the CA says so, else by what it waits for.
fn not_ready_wait(object: &IssuerObject, not: &NotReady, now: Timestamp) -> SignedDuration {
    if let Some(until) = not.until {
        return until.duration_since(now);
    }
    let since = condition::find(&object.status.conditions, READY)
        .filter(|c| c.status == "False")
        .map_or(now, |c| c.last_transition_time.0);
    match not.retry_after.filter(|at| *at > now) {
        Some(at) => at
            .duration_since(now)
            .min(evercert_core::fault::LONGEST_WAIT),
        None => match not.again {
            Again::Soon => RECHECK,
            Again::AsInAnOutage => outage_wait(since, now),
            Again::AsInALongOutage => outage_wait(since, now).max(SignedDuration::from_mins(1)),
            Again::Seldom => SELDOM,
            Again::OnChange => evercert_core::fault::LONGEST_WAIT,
        },
    }
}

/// When an issuer that is not ready is tried again, as a sentence. An instant only where the CA named it: each new one is a
/// write.
fn build_next_try(not: &NotReady, now: Timestamp) -> String {
    match (not.retry_after.filter(|at| *at > now), not.again) {
        (Some(at), _) => format!("Next try at {}", whole(at)),
        (None, Again::Soon) => "It is looked at again every 30 s".to_owned(),
        (None, Again::AsInAnOutage) => {
            "Next try in 15 s, then less often, 10 min apart at most".to_owned()
        }
        (None, Again::AsInALongOutage) => {
            "Next try in a minute, then less often, 10 min apart at most".to_owned()
        }
        (None, Again::Seldom) => {
            "It is tried again when the spec changes, and every 5 min".to_owned()
        }
        (None, Again::OnChange) => {
            "It is tried again when the spec or its Secrets change, and once a day".to_owned()
        }
    }
}

/// What the ledger leaves for the session's account, rounded.
fn find_left(session: &Session, context: &Context, now: Timestamp) -> Option<Budget> {
    let (account, directory) = session.account()?;
    let left = context.ledger.budget(directory, account, now)?;
    Some(left.rounded())
}

/// The same as it is told: what was told stays for a minute, whatever else the status is written for. With when it is told else.
fn tell_budget(
    object: &IssuerObject,
    session: &Session,
    context: &Context,
    now: Timestamp,
) -> (Option<BudgetStatus>, Option<Timestamp>) {
    let Some((account, directory)) = session.account() else {
        return (None, None);
    };
    let listener = Listener {
        issuer: object.id.clone(),
        account: account.to_owned(),
    };
    let Some((left, telling)) = context.ledger.tell_budget(directory, &listener, now) else {
        return (None, None);
    };
    match (telling, &object.status.budget) {
        (Telling::At(at), Some(told)) => (Some(told.clone()), Some(at)),
        (Telling::At(_), None) | (Telling::Kept | Telling::Now, _) => {
            let left = left.rounded();
            let status = BudgetStatus {
                orders: left.orders,
                most: left.capacity,
                next_order_time: left.next.map(Time),
            };
            (Some(status), None)
        }
    }
}

async fn report<K: IssuerResource>(
    issuer: &K,
    object: &IssuerObject,
    readiness: &Readiness,
    budget: Option<BudgetStatus>,
    context: &Context,
    now: Timestamp,
) -> Result<(), Error> {
    let mut status = object.status.clone();
    let claim = match readiness {
        Readiness::Unchanged(session) | Readiness::Ready(session) => {
            status.budget = budget;
            let ready = build_ready(session, &mut status);
            build_outage(session, context).unwrap_or(ready)
        }
        Readiness::NotReady(not) => {
            if not.terms.is_some() {
                status.terms_of_service.clone_from(&not.terms);
            }
            Claim {
                kind: READY,
                status: false,
                reason: not.reason,
                message: format!("{}. {}", not.message, build_next_try(not, now)),
            }
        }
    };
    condition::set(&mut status.conditions, &claim, object.generation, now);
    context.echoes.note(issuer.meta(), Some(&status));
    if status != object.status {
        let mut next = issuer.clone();
        next.set_status(status);
        let api: Api<K> = issuer.api(context.client.clone());
        apply::replace_status(&api, Effect::WriteIssuerStatus, &next).await?;
    }
    if let Some((warning, reason, text)) = build_outage_note(&object.status, &claim) {
        emit(&context.client, issuer, warning, reason, &text, now).await;
    }
    Ok(())
}

/// What is said instead while the CA does not answer: of the issuer, and once, not of each of its Certificates.
fn build_outage(session: &Session, context: &Context) -> Option<Claim> {
    let (_, directory) = session.account()?;
    let gate = context.memory.lasting_outage(directory)?;
    Some(Claim {
        kind: READY,
        status: false,
        reason: gate.reason,
        message: format!(
            "{}. {}; certificates in place stay",
            gate.message,
            build_asked_again(&gate)
        ),
    })
}

/// When a CA is asked again. An instant only for a limit, whose end the CA names: each new one is a write.
fn build_asked_again(gate: &Gate) -> String {
    if gate.reason == Reason::RateLimited {
        return format!("It is asked again at {}", whole_up(gate.until));
    }
    "It is asked again after 15 s, then less often, 10 min apart at most".to_owned()
}

/// The end of an outage, or its beginning, for an event.
fn build_outage_note(before: &IssuerStatus, now: &Claim) -> Option<(bool, Reason, String)> {
    let outage = Reason::CAUnavailable;
    let was = condition::find(&before.conditions, READY).filter(|c| c.reason == outage.as_str());
    match (was, now.reason == outage) {
        (None, true) => Some((true, outage, now.message.clone())),
        (Some(_), false) if now.status => {
            Some((false, now.reason, "the CA answers again".to_owned()))
        }
        (None | Some(_), _) => None,
    }
}

fn build_ready(session: &Session, status: &mut IssuerStatus) -> Claim {
    match &session.signer {
        Signer::Acme { acme, directory } => {
            status.account_uri = Some(acme.account_uri().to_owned());
            status.directory = Some(directory.url().to_owned());
            status.contact.clone_from(&session.contact);
            status.terms_of_service = directory.terms_of_service().map(str::to_owned);
            status.profiles = directory.profiles();
            let text = format!(
                "the account {} is registered at {}",
                acme.account_uri(),
                directory.url()
            );
            let (reason, message) = match &session.note {
                Some((reason, note)) => (*reason, format!("{text}. {note}")),
                None => (Reason::AccountReady, text),
            };
            Claim {
                kind: READY,
                status: true,
                reason,
                message,
            }
        }
        Signer::SelfSigned | Signer::None { .. } => Claim {
            kind: READY,
            status: true,
            reason: Reason::SelfSigned,
            message: "certificates are signed with their own keys".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_said_to_be_probed_and_a_limit_to_end_at_an_instant() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let said = |reason, until| {
            let gate = Gate {
                until: at(until),
                reason,
                message: String::new(),
            };
            build_asked_again(&gate)
        };
        for until in [60, 3_600] {
            let instant = format!("It is asked again at {}", at(until));
            assert_eq!(said(Reason::RateLimited, until), instant);
        }
        assert!(said(Reason::CAUnavailable, 600).contains("10 min apart at most"));
    }
}
