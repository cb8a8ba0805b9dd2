//! Effects at the CA and at the entry point, for one order.

use std::sync::Arc;

use evercert_acme::Acme;
use evercert_api::challenge::OpenChallenge;
use evercert_api::{Identifier, Reason};
use evercert_core::fault::{Fault, FaultClass};
use evercert_core::lanes::Candidate;
use evercert_core::observe::{OrderObservation, ReadOrder};
use evercert_core::order::{OrderState, OrderView};
use evercert_core::plan::Failure;
use evercert_core::report::Change;
use evercert_core::routes::CertificateChallenges;
use evercert_core::sentence::{build_fault, build_remedy};
use jiff::Timestamp;
use kube::ResourceExt;

use super::chain::choose;
use super::{Outcome, secret};
use crate::context::Context;
use crate::error::Error;
use crate::gather::{Gathered, find_sources};
use crate::issuer::{IssuerId, Session, Signer};
use crate::ledger::Settlement;
use crate::secrets::KeyPairPem;

/// The account that orders, and its directory's URL.
pub(super) fn account(gathered: &Gathered) -> Option<(Arc<dyn Acme>, String)> {
    match gathered.session.as_ref().map(|s| &s.signer) {
        Some(Signer::Acme { acme, directory }) => Some((acme.clone(), directory.url().to_owned())),
        Some(Signer::SelfSigned | Signer::None { .. }) | None => None,
    }
}

pub(super) fn order_url(gathered: &Gathered) -> Option<String> {
    gathered
        .observed
        .status
        .order
        .as_ref()
        .map(|o| o.url.clone())
}

pub(super) fn read_order(gathered: &Gathered) -> Option<ReadOrder> {
    match &gathered.observed.order {
        OrderObservation::Read(read) => Some(read.clone()),
        OrderObservation::None | OrderObservation::Unread | OrderObservation::Failed { .. } => None,
    }
}

pub(super) fn failed(reason: Reason, fault: &Fault) -> Outcome {
    let message = format!("{}{}", build_fault(fault), build_remedy(fault));
    failed_with(reason, fault, message)
}

pub(super) fn failed_with(reason: Reason, fault: &Fault, message: String) -> Outcome {
    let failure = Failure {
        reason,
        message: message.clone(),
        fault: fault.clone(),
    };
    Outcome::changed(Change::Failed(failure)).noted(true, reason, message)
}

/// Whether the account that a request was made with is no longer the one that the issuer orders with, or is being looked up: what
/// the CA says to it then, with an old key say, is said of nothing else.
pub(super) fn is_outdated(gathered: &Gathered, fault: &Fault, context: &Context) -> bool {
    is_of_old(&gathered.issuer, gathered.session.as_ref(), fault, context)
}

/// The same of a request that was sent with the session `then` of `issuer`.
pub(super) fn is_of_old(
    issuer: &IssuerId,
    then: Option<&Session>,
    fault: &Fault,
    context: &Context,
) -> bool {
    let now = context.sessions.get(issuer);
    let same = now
        .as_ref()
        .zip(then)
        .is_some_and(|(now, then)| !now.suspect && now.is_like(then));
    !same && fault.http_status.is_some_and(|s| (400..429).contains(&s))
}

/// The CA refuses the account: every issuer that has it looks it up again, or waits for a person where the CA says so.
pub(super) fn suspect(
    issuer: &IssuerId,
    account: &Arc<dyn Acme>,
    fault: &Fault,
    context: &Context,
) {
    let concerned = if fault.wants_a_person() {
        context.sessions.refuse(issuer, account, fault)
    } else {
        context.sessions.suspect(issuer, Some(account))
    };
    for issuer in &concerned {
        context.wake_issuers.wake(issuer);
    }
}

/// A request that should have moved the order on met `fault`. A good read in between does not end the row of refusals, else a
/// CA that refuses one request for ever would be asked for ever.
fn refused(gathered: &Gathered, fault: Fault, context: &Context) -> Outcome {
    let key = &gathered.observed.key;
    if fault.is_directorys() {
        // The directory's trouble, and its breaker counts it.
        return met(gathered, fault, 1, context);
    }
    context
        .memory
        .update(key, |e| e.refusals = e.refusals.saturating_add(1));
    let times = context.memory.entry(key).refusals;
    met(gathered, fault, times, context)
}

/// A request about the order met `fault`, for the `times`th time: it is remembered, and the plan says what follows.
fn met(gathered: &Gathered, fault: Fault, times: u32, context: &Context) -> Outcome {
    // The answer may have taken its time, and a wait begins with it.
    let now = Timestamp::now();
    let (Some((acme, directory)), Some(url)) = (account(gathered), order_url(gathered)) else {
        return Outcome::waits();
    };
    let key = &gathered.observed.key;
    tracing::warn!(certificate = %key, order = %url, fault = %build_fault(&fault), "the CA refused a request");
    if is_outdated(gathered, &fault, context) {
        return Outcome::moved();
    }
    context.note_fault(&directory, &fault, now);
    if fault.class == FaultClass::Account {
        suspect(&gathered.issuer, &acme, &fault, context);
    }
    // The order waits for that person as the issuer does.
    let times = if fault.wants_a_person() { 1 } else { times };
    context.memory.set_order(
        key,
        &url,
        OrderObservation::Failed {
            fault,
            at: now,
            times,
        },
    );
    Outcome::moved()
}

/// Reads the order and its authorizations; what is open follows from them at once.
pub(super) async fn refresh(gathered: &mut Gathered, context: &Context, now: Timestamp) -> Outcome {
    let (Some((acme, directory)), Some(url)) = (account(gathered), order_url(gathered)) else {
        return Outcome::waits();
    };
    match acme.read_order(&url, now).await {
        Ok(view) => {
            context.close_breaker(&directory);
            let before = read_order(gathered);
            remember(
                gathered,
                view,
                before.map(|b| b.accepted).unwrap_or_default(),
                None,
                context,
                &url,
            );
            Outcome::moved()
        }
        Err(fault) => {
            let times = match &gathered.observed.order {
                OrderObservation::Failed { times, .. } => times.saturating_add(1),
                OrderObservation::None | OrderObservation::Unread | OrderObservation::Read(_) => 1,
            };
            met(gathered, fault, times, context)
        }
    }
}

fn remember(
    gathered: &mut Gathered,
    view: OrderView,
    accepted: Vec<String>,
    changed_at: Option<Timestamp>,
    context: &Context,
    url: &str,
) {
    let since = changed_at
        .or_else(|| read_order(gathered).and_then(|r| r.changed_at))
        .filter(|at| *at <= view.read_at);
    let read = ReadOrder {
        view,
        accepted,
        changed_at: since,
    };
    gathered.observed.order = OrderObservation::Read(read.clone());
    context
        .memory
        .set_order(&gathered.observed.key, url, OrderObservation::Read(read));
    present(gathered, context);
}

/// Has what is open answered and routed, and what is no longer open taken away. Idempotent.
pub(super) fn present(gathered: &Gathered, context: &Context) {
    let Some(read) = read_order(gathered) else {
        return;
    };
    let key = &gathered.observed.key;
    let is_for = read.view.is_for(&secret::names(gathered));
    if is_for && read.view.state != OrderState::Invalid {
        let candidate = Candidate::of(&gathered.observed, read.view.read_at);
        context.slots.note(candidate, read.view.read_at);
    }
    let challenges: Vec<OpenChallenge> = read
        .view
        .open_challenges()
        .filter(|_| is_for && read.view.state == OrderState::Pending)
        .filter_map(|(a, c)| {
            let host = Identifier::parse(&a.name).ok()?;
            OpenChallenge::new(host, &c.token, &c.key_authorization).ok()
        })
        .collect();
    if challenges.is_empty() {
        context.projections.clear(key);
        return;
    }
    context.projections.set(CertificateChallenges {
        key: key.clone(),
        uid: gathered.certificate.uid().unwrap_or_default(),
        sources: find_sources(&gathered.certificate, context),
        class: gathered
            .session
            .as_ref()
            .and_then(|s| s.ingress_class.clone()),
        annotations: gathered
            .session
            .as_ref()
            .map(|s| s.route_annotations.clone())
            .unwrap_or_default(),
        edit_in_place: gathered.session.as_ref().and_then(|s| s.edit_in_place),
        placement: gathered.session.as_ref().and_then(|s| s.placement),
        challenges,
    });
}

/// Tells the CA that challenges are ready.
pub(super) async fn accept(
    gathered: &mut Gathered,
    urls: &[String],
    context: &Context,
    now: Timestamp,
) -> Outcome {
    let (Some((acme, _)), Some(url), Some(mut read)) =
        (account(gathered), order_url(gathered), read_order(gathered))
    else {
        return Outcome::waits();
    };
    if let Err(fault) = acme.accept(urls, now).await {
        return refused(gathered, fault, context);
    }
    context
        .memory
        .update(&gathered.observed.key, |e| e.refusals = 0);
    context.slots.hand_over(&gathered.observed.key);
    read.accepted.extend(urls.iter().cloned());
    read.changed_at = Some(Timestamp::now());
    context
        .memory
        .set_order(&gathered.observed.key, &url, OrderObservation::Read(read));
    Outcome::moved()
}

/// Sends the CSR of the pending key.
pub(super) async fn finalize(
    gathered: &mut Gathered,
    context: &Context,
    now: Timestamp,
) -> Outcome {
    let (Some((acme, _)), Some(url), Some(key)) = (
        account(gathered),
        order_url(gathered),
        secret::pending_key(gathered),
    ) else {
        return Outcome::waits();
    };
    let csr = match evercert_pki::build_csr(&key, &secret::names(gathered)) {
        Ok(csr) => csr,
        Err(error) => {
            return Outcome::changed(Change::Failed(here(
                Reason::OrderFailed,
                FaultClass::Permanent,
                &error.to_string(),
            )));
        }
    };
    match acme.finalize(&url, &csr, now).await {
        Ok(view) => {
            let at = view.read_at;
            context
                .memory
                .update(&gathered.observed.key, |e| e.refusals = 0);
            remember(gathered, view, Vec::new(), Some(at), context, &url);
            Outcome::moved()
        }
        Err(fault) => refused(gathered, fault, context),
    }
}

/// The attempt failed by what was found here.
pub(super) fn failed_here(reason: Reason, class: FaultClass, message: &str) -> Outcome {
    Outcome::changed(Change::Failed(here(reason, class, message))).noted(true, reason, message)
}

fn here(reason: Reason, class: FaultClass, message: &str) -> Failure {
    let fault = Fault {
        class,
        problem: None,
        http_status: None,
        retry_after: None,
        help_url: None,
        unsent: false,
        detail: message.to_owned(),
    };
    Failure {
        reason,
        message: message.to_owned(),
        fault,
    }
}

/// Downloads the chain, checks it, keeps it in the companion, writes it into the TLS Secret.
pub(super) async fn store(
    gathered: &mut Gathered,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let (Some((acme, _)), Some(url), Some(key)) = (
        account(gathered),
        order_url(gathered),
        secret::pending_key(gathered),
    ) else {
        return Ok(Outcome::waits());
    };
    let (chain, missing) = match acme.certificate(&url, now).await {
        Ok(chain) => choose(gathered, &acme, chain, &key, now).await,
        Err(fault) => return Ok(refused(gathered, fault, context)),
    };
    if let Err(error) = evercert_pki::check_chain(&chain, &key, &secret::names(gathered), now) {
        let failure = here(Reason::BadAnswer, FaultClass::Transient, &error.to_string());
        return Ok(Outcome::changed(Change::Failed(failure)).noted(
            true,
            Reason::BadAnswer,
            error.to_string(),
        ));
    }
    let kept = secret::keep(
        gathered,
        KeyPairPem { chain, key },
        secret::ISSUED,
        context,
        now,
    )
    .await?;
    context.projections.clear(&gathered.observed.key);
    let settlement = match &kept.facts {
        Some(facts) => Settlement::Issued {
            names: gathered.observed.wanted_names(),
            until: facts.not_after,
        },
        None => Settlement::Spent,
    };
    let key = &gathered.observed.key;
    context.ledger.settle_later(key, &settlement, now);
    let outcome = secret::issued(gathered, &kept);
    let is_told = outcome.note.as_ref().is_some_and(|note| note.warning);
    Ok(match missing.filter(|_| !is_told) {
        Some(text) => outcome.noted(true, Reason::ChainNotOffered, text),
        None => outcome,
    })
}
