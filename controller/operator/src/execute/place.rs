//! A new order: the CA is there, the ledger has a token and knows of it, then it is placed; and what a refusal means.

use evercert_acme::OrderRequest;
use evercert_api::Reason;
use evercert_api::certificate::{OrderStatus, ProfilePolicy, whole_seconds};
use evercert_core::fault::{Fault, FaultClass};
use evercert_core::key::ObjectKey;
use evercert_core::limits::Decision;
use evercert_core::profile::{build_not_offered, find_profile};
use evercert_core::report::Change;
use evercert_core::sentence::build_fault;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::order::{account, failed, failed_with, is_outdated, suspect};
use super::{Outcome, secret};
use crate::context::Context;
use crate::error::Error;
use crate::gather::{Gathered, new_order, replaced};
use crate::issuer::Signer;
use crate::ledger::{LedgerError, Settlement};
use crate::memory::Placed;
use crate::metrics::{Endpoint, note_request};

/// After an outage the CA is asked for something that costs nothing before anything that does: a request without an answer may
/// have made an order all the same. True when it was asked, and answers: then all who waited for that begin in their order.
async fn ask_after_outage(
    gathered: &Gathered,
    url: &str,
    context: &Context,
    now: Timestamp,
) -> Result<bool, Fault> {
    match gathered.session.as_ref().map(|s| &s.signer) {
        Some(Signer::Acme { directory, .. }) if context.memory.gate(url).is_some() => {
            // Whatever is wrong with as little as this is the CA's trouble.
            let unavailable = |mut fault: Fault| {
                if !fault.is_directorys() {
                    fault.class = FaultClass::Unavailable;
                }
                fault
            };
            let answer = directory.ask(now).await;
            note_request(Endpoint::NewNonce, &answer);
            answer.map_err(unavailable)?;
            context.close_breaker(url);
            Ok(true)
        }
        Some(Signer::Acme { .. } | Signer::SelfSigned | Signer::None { .. }) | None => Ok(false),
    }
}

/// Enters the order in the ledger, then places it: no order that the ledger does not know, and none that it has no token for.
pub(super) async fn place(
    gathered: &mut Gathered,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let (Some((acme, directory)), Some((_, order))) = (
        account(gathered),
        gathered
            .session
            .as_ref()
            .and_then(|session| new_order(&gathered.observed, context, session, now)),
    ) else {
        return Ok(Outcome::waits());
    };
    let key = gathered.observed.key.clone();
    if !context.slots.has(&key) {
        return Ok(Outcome::moved());
    }
    let asked = ask_after_outage(gathered, &directory, context, now).await;
    if let Err(fault) = &asked {
        let now = Timestamp::now();
        context.note_fault(&directory, fault, now);
    }
    if !matches!(asked, Ok(false)) {
        context.slots.free(&key);
        return Ok(Outcome::moved());
    }
    let names = order.names.clone();
    let entered = context.ledger.enter(&directory, &key, order, now).await;
    if entered.as_ref().ok() != Some(&Decision::Granted) {
        context.slots.free(&key);
    }
    match entered {
        Ok(Decision::Granted) => {}
        // The next pass says so.
        Ok(Decision::NotBefore(_)) => return Ok(Outcome::moved()),
        // The API server's trouble is no failed attempt: nothing was asked of the CA.
        Err(LedgerError::Write(error)) if error.is_passing() || error.is_conflict() => {
            return Err(error.into());
        }
        Err(error) => {
            let fault = Fault {
                class: FaultClass::Transient,
                problem: None,
                http_status: None,
                retry_after: None,
                help_url: None,
                unsent: false,
                detail: error.to_string(),
            };
            return Ok(failed(Reason::ApiError, &fault));
        }
    }
    context.tell_budget(&gathered.issuer, now);
    context.projections.want_solver(&key);
    super::want_forwarder(gathered, context);
    let replaces = replaced(&gathered.observed, context);
    let choice = find_profile(&gathered.observed);
    let profile = choice.ordered().map(str::to_owned);
    let request = OrderRequest {
        names: &secret::names(gathered),
        replaces: replaces.as_deref(),
        profile: profile.as_deref(),
    };
    Ok(match acme.new_order(request, now).await {
        Ok(view) => {
            context.close_breaker(&directory);
            context.memory.update(&key, |e| {
                e.reach.clear();
                e.placed = Some(Placed {
                    url: view.url.clone(),
                    directory: directory.clone(),
                    acme: acme.clone(),
                });
                e.unknown_account = false;
                e.refusals = 0;
            });
            let order = OrderStatus {
                url: view.url.clone(),
                issuer: gathered.issuer.to_string(),
                names: gathered.observed.wanted_names(),
                created_at: whole_seconds(now),
                expires: view.expires.map(Time),
                profile,
            };
            tracing::info!(certificate = %key, order = %view.url, "order placed");
            Outcome::changed(Change::Placed(order))
        }
        Err(fault) => {
            context.slots.free(&key);
            // The answer may have taken its time, and a wait begins with it.
            context.note_fault(&directory, &fault, Timestamp::now());
            let settlement = settle_refusal(names, &fault);
            let is_outdated = is_outdated(gathered, &fault, context);
            // The directory's trouble is not the Certificate's: its gate says when it goes on.
            let is_directorys = fault.is_directorys() && !matches!(settlement, Settlement::Spent);
            // Nothing came of it: the issuer registers the account again, and the order follows. Once.
            let is_forgotten =
                fault.is_unknown_account() && !context.memory.entry(&key).unknown_account;
            // What a person has to do at the CA is the issuer's to say, and no attempt that failed.
            let is_persons = fault.wants_a_person();
            if is_persons {
                suspect(&gathered.issuer, &acme, &fault, context);
            }
            if is_forgotten {
                suspect(&gathered.issuer, &acme, &fault, context);
                context.memory.update(&key, |e| e.unknown_account = true);
            }
            // A required one is a person's matter, and any other is left out.
            let required = note_profile(gathered, profile, &fault, context);
            let is_without = required == Some(false);
            let is_unreplaceable = note_unreplaceable(&key, replaces, &fault, context);
            let is_repeated = is_unreplaceable || is_without;
            if is_directorys || is_forgotten || is_persons || is_outdated || is_repeated {
                context.ledger.settle(&key, &settlement, now).await;
                return Ok(Outcome::moved());
            }
            // Entered when the failure is recorded.
            context
                .memory
                .update(&key, |e| e.settlement = Some(settlement));
            match fault.class {
                // The CA may have made the order all the same: it counts as spent.
                FaultClass::Unavailable => {
                    let since = context.memory.gate(&directory).map(|gate| gate.message);
                    let message = since.unwrap_or_else(|| build_fault(&fault));
                    failed_with(Reason::CAUnavailable, &fault, message)
                }
                FaultClass::Account => {
                    suspect(&gathered.issuer, &acme, &fault, context);
                    failed(Reason::OrderFailed, &fault)
                }
                FaultClass::RateLimited => failed(Reason::RateLimited, &fault),
                FaultClass::Permanent if required == Some(true) => {
                    let wanted = gathered.observed.spec.profile.as_ref();
                    let name = wanted.map(|p| p.name.as_str()).unwrap_or_default();
                    let why = build_not_offered(&gathered.observed, name);
                    let message = format!("{}. Remedy: mend it, since {why}", build_fault(&fault));
                    failed_with(Reason::ProfileNotOffered, &fault, message)
                }
                FaultClass::Permanent if fault.is_paused() => failed(Reason::Paused, &fault),
                FaultClass::Permanent => failed(Reason::Rejected, &fault),
                FaultClass::Validation
                | FaultClass::Transient
                | FaultClass::Gone
                | FaultClass::NotReady => failed(Reason::OrderFailed, &fault),
            }
        }
    })
}

/// A CA that refuses a profile which its directory offers: it is not ordered again in this process. `None` for any other fault,
/// else whether the spec requires it.
fn note_profile(
    gathered: &Gathered,
    profile: Option<String>,
    fault: &Fault,
    context: &Context,
) -> Option<bool> {
    let kind = fault.problem.as_ref().map(|p| p.kind.as_str());
    let profile = profile.filter(|_| kind == Some("invalidProfile"))?;
    let spec = gathered.observed.spec.profile.as_ref();
    let is_required = spec.is_some_and(|p| p.policy == ProfilePolicy::Required);
    if !is_required {
        let key = &gathered.observed.key;
        context
            .memory
            .update(key, |e| e.refused_profile = Some(profile));
    }
    Some(is_required)
}

/// A CA that refuses an order which names the certificate it replaces may refuse it for that: since it is replaced already, or
/// since the CA has forgotten it. The answer is whether the same order follows without; it does once, and no failure counts.
fn note_unreplaceable(
    key: &ObjectKey,
    replaces: Option<String>,
    fault: &Fault,
    context: &Context,
) -> bool {
    let Some(status) = fault.http_status.filter(|s| *s >= 400 && *s != 429) else {
        return false;
    };
    if replaces.is_none() || fault.unsent || fault.is_unknown_account() {
        return false;
    }
    tracing::info!(certificate = %key, fault = %build_fault(fault), "the next order replaces nothing");
    context.memory.update(key, |e| e.unreplaceable = replaces);
    status < 500
}

/// What a refused newOrder cost. Without an answer of the CA's the order may have been made.
fn settle_refusal(names: Vec<String>, fault: &Fault) -> Settlement {
    if fault.unsent {
        Settlement::Unsent
    } else if fault.http_status.is_some_and(|status| status >= 400) {
        Settlement::Refused {
            names,
            fault: Box::new(fault.clone()),
        }
    } else {
        Settlement::Spent
    }
}
