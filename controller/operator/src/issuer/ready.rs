//! What makes an issuer ready, in order: bundle, key (stored before it is used), directory, terms, account.

use std::sync::Arc;

use evercert_acme::{Directory, DirectoryConfig, ExternalAccount, FoundAccount};
use evercert_api::Reason;
use evercert_api::children::stable_hash;
use evercert_api::issuer::{AcmeIssuer, directory_url};
use evercert_core::contact::plan_contact;
use evercert_core::fault::{Fault, FaultClass};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::sync::SemaphorePermit;

use super::explain::{At, explain_account, explain_connect};
use super::external;
use super::key::{AccountKey, KeyChange, ensure_key};
use super::object::IssuerObject;
use super::rotation;
use super::session::{Session, Signer};
use crate::apply::{self, ApplyError};
use crate::context::Context;
use crate::effect::ca;
use crate::metrics::{Endpoint, note_request};
use crate::secrets::data;

/// Whether an issuer can sign.
pub(crate) enum Readiness {
    /// As before: nothing was asked.
    Unchanged(Session),
    /// It can, by a new session.
    Ready(Session),
    /// It cannot.
    NotReady(NotReady),
}

/// Why the way to readiness ended.
pub(super) enum Stop {
    /// The issuer cannot sign.
    NotReady(NotReady),
    /// The API server hiccups: nothing is known, and a good session stays.
    Api(ApplyError),
}

impl From<NotReady> for Stop {
    fn from(not: NotReady) -> Self {
        Self::NotReady(not)
    }
}

/// What an error of the API server means: passing, or something that `not` explains.
pub(super) fn stop(error: ApplyError, not: impl Fn(String) -> NotReady) -> Stop {
    if error.is_passing() {
        Stop::Api(error)
    } else {
        Stop::NotReady(not(error.to_string()))
    }
}

/// When an issuer that is not ready is tried again, if nothing wakes it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Nothing was asked of the CA: as soon as an object that is not ours may have changed.
    Soon,
    /// The CA did not answer as it should: sooner at first, seldom later.
    AsInAnOutage,
    /// The same, a minute apart at least: each try costs four requests.
    AsInALongOutage,
    /// The CA answered, and a person must act: a change of the spec wakes the issuer.
    Seldom,
    /// The CA refused for good: asking the same again leads nowhere.
    OnChange,
}

/// Why an issuer cannot sign now.
#[derive(Debug, Clone)]
pub(crate) struct NotReady {
    /// The word.
    pub(crate) reason: Reason,
    /// The sentence.
    pub(crate) message: String,
    /// When the CA wants to be asked again.
    pub(crate) retry_after: Option<Timestamp>,
    /// When it is tried again.
    pub(crate) again: Again,
    /// Where the terms of service can be read.
    pub(crate) terms: Option<String>,
    /// A hash of what the CA was asked with; `None` while it was not asked.
    pub(crate) asked: Option<u64>,
    /// A Secret that no watch covers is read again soon.
    pub(crate) unwatched: bool,
    /// Already told; the CA is not asked again before then.
    pub(crate) until: Option<Timestamp>,
}

impl NotReady {
    pub(super) fn here(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry_after: None,
            again: Again::Soon,
            terms: None,
            asked: None,
            unwatched: false,
            until: None,
        }
    }

    pub(super) fn outage(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            again: Again::AsInAnOutage,
            ..Self::here(reason, message)
        }
    }

    pub(super) fn refused(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            again: Again::Seldom,
            ..Self::here(reason, message)
        }
    }
}

/// Makes the issuer ready, or says why it is not; and what became of its account's key. Sends nothing while spec, key and
/// bundle are those of `before`.
pub(super) async fn ensure_ready(
    object: &IssuerObject,
    before: Option<&Session>,
    context: &Context,
    place: Option<SemaphorePermit<'_>>,
    now: Timestamp,
) -> Result<(Readiness, Option<KeyChange>), ApplyError> {
    let mut key_change = None;
    match try_ready(object, before, context, place, &mut key_change, now).await {
        Ok(readiness) => Ok((readiness, key_change)),
        Err(Stop::NotReady(not)) => Ok((Readiness::NotReady(not), key_change)),
        Err(Stop::Api(error)) => Err(error),
    }
}

async fn try_ready(
    object: &IssuerObject,
    before: Option<&Session>,
    context: &Context,
    place: Option<SemaphorePermit<'_>>,
    key_change: &mut Option<KeyChange>,
    now: Timestamp,
) -> Result<Readiness, Stop> {
    let allowed = &context.config.issuer_route_annotations;
    let (route_annotations, refused) = object.route_annotations(allowed);
    let session = |signer, fingerprint| Session {
        signer,
        policy: object.policy.clone(),
        ingress_class: object.ingress_class(),
        self_check: object.self_check(),
        route_annotations: route_annotations.clone(),
        edit_in_place: object.edit_in_place(),
        placement: object.placement(),
        profile: object.profile(),
        preferred_chain: object.preferred_chain(),
        directory: object.directory().to_owned(),
        generation: object.generation,
        fingerprint,
        suspect: false,
        refused: None,
        contact: object.acme.as_ref().and_then(|acme| acme.email.clone()),
        unwatched: false,
        note: None,
        held_back: None,
    };
    let Some(acme) = &object.acme else {
        return Ok(Readiness::Ready(session(Signer::SelfSigned, 0)));
    };
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &object.secrets_namespace);
    let bundle = gather_bundle(object, acme, &secrets).await?;
    let key = ensure_key(object, acme, &secrets, context, key_change).await?;
    let mut key = rotation::begin(object, key, &secrets, context).await?;
    key.note = key.note.or(refused);
    let unwatched = key.unwatched || acme.ca_bundle_secret_ref.is_some();
    let url = directory_url(&acme.directory);
    let trust = format!("{:x}", stable_bytes(bundle.as_deref().unwrap_or_default()));
    let fingerprint_of = |key: &[u8]| {
        stable_hash(&[
            url,
            acme.email.as_deref().unwrap_or_default(),
            &acme.terms_of_service_agreed.to_string(),
            &format!("{:x}", stable_bytes(key)),
            &trust,
        ])
    };
    let fingerprint = fingerprint_of(&key.der);
    let same = before.filter(|b| b.fingerprint == fingerprint);
    let is_good = |b: &&Session| !b.suspect && b.refused.is_none() && key.next.is_none();
    if let Some(before) = same.filter(is_good) {
        let mut same = before.clone();
        same.policy.clone_from(&object.policy);
        same.generation = object.generation;
        object.directory().clone_into(&mut same.directory);
        same.ingress_class = object.ingress_class();
        same.self_check = object.self_check();
        same.route_annotations.clone_from(&route_annotations);
        same.edit_in_place = object.edit_in_place();
        same.placement = object.placement();
        same.profile = object.profile();
        same.preferred_chain = object.preferred_chain();
        (same.unwatched, same.note) = (unwatched, key.note);
        return Ok(Readiness::Unchanged(same));
    }
    let external = external::gather(object, acme, &secrets).await?;
    // Needed only where an account is registered: a session in use does not depend on it.
    let asked = stable_hash(&[
        &fingerprint.to_string(),
        &match &external {
            Ok(external) => external::fingerprint(external.as_ref()),
            Err(not) => not.message.clone(),
        },
    ]);
    let unwatched_now = unwatched || acme.external_account_binding.is_some();
    let held_back = before
        .filter(|b| b.generation == object.generation)
        .and_then(|b| b.held_back.as_ref())
        .filter(|held| held.fingerprint == asked && now < held.until);
    if let Some(held) = held_back {
        return Err(Stop::NotReady(NotReady {
            until: Some(held.until),
            unwatched: unwatched_now,
            ..held.not.clone()
        }));
    }
    if let Some(fault) = same.and_then(|b| b.refused.as_ref()) {
        return Err(Stop::NotReady(NotReady {
            asked: Some(asked),
            unwatched: unwatched_now,
            ..explain_account(fault, &At::Request, false, acme)
        }));
    }
    let like = context.sessions.find_like(&object.id, fingerprint);
    if let Some(like) = like.filter(|_| key.next.is_none()) {
        return Ok(Readiness::Ready(Session {
            unwatched,
            note: key.note,
            ..session(like.signer, fingerprint)
        }));
    }
    // A CA may take its time; whoever waits for it keeps nobody waiting.
    drop(place);
    let connected = connect(object, acme, bundle, &key, external, context, now).await;
    let (signer, changed) = connected.map_err(|stop| match stop {
        Stop::NotReady(not) => Stop::NotReady(NotReady {
            asked: Some(asked),
            unwatched: unwatched_now,
            ..not
        }),
        Stop::Api(error) => Stop::Api(error),
    })?;
    if let Some(changed) = changed {
        rotation::settle(&mut key, &changed, &secrets).await?;
        *key_change = Some(changed);
    }
    let fingerprint = fingerprint_of(&key.der);
    Ok(Readiness::Ready(Session {
        unwatched,
        note: key.note,
        ..session(signer, fingerprint)
    }))
}

/// Reads the directory, and looks the account up there or registers it.
async fn connect(
    object: &IssuerObject,
    acme: &AcmeIssuer,
    bundle: Option<Vec<u8>>,
    key: &AccountKey,
    external: Result<Option<ExternalAccount>, NotReady>,
    context: &Context,
    now: Timestamp,
) -> Result<(Signer, Option<KeyChange>), Stop> {
    let url = directory_url(&acme.directory);
    let config = DirectoryConfig {
        ca_bundle: bundle,
        leave: Some(Arc::new(context.mandate.clone())),
        ..DirectoryConfig::new(url, context.config.user_agent.clone())
    };
    let directory = Directory::connect(config, now)
        .await
        .map_err(|e| explain_connect(&e))?;
    let terms = directory.terms_of_service().map(str::to_owned);
    if !acme.terms_of_service_agreed {
        let read = terms
            .as_deref()
            .map_or_else(String::new, |url| format!(" at {url}"));
        let message = format!(
            "read the CA's terms of service{read}, then set spec.acme.termsOfServiceAgreed to true"
        );
        let not = NotReady::refused(Reason::TermsNotAgreed, message);
        return Err(NotReady { terms, ..not }.into());
    }
    let explain = |fault: &Fault, at: &At<'_>| NotReady {
        terms: terms.clone(),
        ..explain_account(fault, at, directory.external_account_required(), acme)
    };
    // What limits accounts is the directory's: it is for every issuer there.
    let permit = |at: &At<'_>| {
        let is_look_up = matches!(at, At::LookUp);
        let held = context
            .memory
            .find_held_accounts(directory.url(), is_look_up, Timestamp::now());
        held.map_or(Ok(()), |fault| Err(explain(&fault, at)))
    };
    let refused = |fault: Fault, at: At<'_>| {
        let now = Timestamp::now();
        context.note_fault(directory.url(), &fault, now);
        let is_look_up = matches!(at, At::LookUp);
        let is_for_accounts = is_look_up || matches!(at, At::Registration(_));
        if fault.class == FaultClass::RateLimited && is_for_accounts {
            context
                .memory
                .hold_accounts(directory.url(), &fault, is_look_up, now);
        }
        explain(&fault, &at)
    };
    let unknown = |fault| refused(fault, At::LookUp);
    let mut changed = None;
    permit(&At::LookUp)?;
    let found = find_account(&directory, key, now).await.map_err(unknown)?;
    let account = if let Some(Found::ByNext(account)) = found {
        changed = Some(KeyChange::Changed);
        account
    } else {
        let account = if let Some(Found::ByKey(account)) = found {
            account
        } else {
            let external = external?;
            let register = async {
                let at = || At::Registration(external.as_ref());
                permit(&at())?;
                // The account may have got another key meanwhile, by another leader: a second one is not to be had back.
                key.ensure_unchanged(object, context).await?;
                let made = ca::register(&directory, &key.der, external.as_ref(), now).await;
                made.map_err(|fault| Stop::from(refused(fault, at())))
            };
            context.turns.take(directory.url(), register).await?
        };
        match &key.next {
            None => account,
            Some(next) => {
                let uri = account.account_uri().to_owned();
                let given = rotation::ensure_changed(object, account, next, context, now).await;
                match given.map_err(|fault| refused(fault, At::Request))? {
                    Ok(account) => {
                        changed = Some(KeyChange::Changed);
                        account
                    }
                    Err(why) => {
                        // Another leader may have been faster: the key that asks is not the account's any more.
                        let by_next = look_up(&directory, next, now).await.map_err(unknown)?;
                        if let Some(account) = by_next {
                            changed = Some(KeyChange::Changed);
                            account
                        } else {
                            changed = Some(KeyChange::NotChanged(why));
                            let same = directory.account(&key.der, Some(&uri), now).await;
                            note_request(Endpoint::NewAccount, &same);
                            same.map_err(|fault| refused(fault, At::LookUp))?
                        }
                    }
                }
            }
        }
    };
    // What was told to another account counts for nothing.
    let is_known = object.status.account_uri.as_deref() == Some(account.account_uri());
    let given = object.status.contact.as_deref().filter(|_| is_known);
    let contacts = plan_contact(acme.email.as_deref(), account.contacts(), given);
    if let Some(contacts) = contacts {
        let told = ca::update_contacts(&account, &contacts, now).await;
        told.map_err(|fault| refused(fault, At::Contact))?;
    }
    let account = ca::open(account);
    context.close_breaker(directory.url());
    tracing::info!(issuer = %object.id, account = account.account_uri(), "the account is ready");
    let signer = Signer::Acme {
        acme: account,
        directory,
    };
    Ok((signer, changed))
}

/// By which of two keys the account was found.
enum Found {
    /// The one that it has had.
    ByKey(FoundAccount),
    /// The one that it is to be given, and has already.
    ByNext(FoundAccount),
}

/// The account, if the CA knows one. With two keys it is not known which of them it has.
async fn find_account(
    directory: &Arc<Directory>,
    key: &AccountKey,
    now: Timestamp,
) -> Result<Option<Found>, Fault> {
    let Some(next) = &key.next else {
        let found = look_up(directory, &key.der, now).await?;
        return Ok(found.map(Found::ByKey));
    };
    if let Some(account) = look_up(directory, next, now).await? {
        return Ok(Some(Found::ByNext(account)));
    }
    if let Some(account) = look_up(directory, &key.der, now).await? {
        return Ok(Some(Found::ByKey(account)));
    }
    // It may have been given the next one in between, by another leader.
    let found = look_up(directory, next, now).await?;
    Ok(found.map(Found::ByNext))
}

/// The account of a key, if the CA knows one.
async fn look_up(
    directory: &Arc<Directory>,
    key: &[u8],
    now: Timestamp,
) -> Result<Option<FoundAccount>, Fault> {
    let found = directory.account(key, None, now).await;
    note_request(Endpoint::NewAccount, &found);
    match found {
        Err(fault) if fault.is_unknown_account() => Ok(None),
        found => found.map(Some),
    }
}

fn stable_bytes(bytes: &[u8]) -> u64 {
    let text: String = bytes.iter().map(|b| char::from(*b)).collect();
    stable_hash(&[&text])
}

async fn gather_bundle(
    object: &IssuerObject,
    acme: &AcmeIssuer,
    secrets: &Api<Secret>,
) -> Result<Option<Vec<u8>>, Stop> {
    if let Some(bundle) = &acme.ca_bundle {
        return Ok(Some(bundle.clone().into_bytes()));
    }
    let Some(reference) = &acme.ca_bundle_secret_ref else {
        return Ok(None);
    };
    let key = reference.key.as_deref().unwrap_or("ca.crt");
    let not = |why: String| {
        NotReady::here(
            Reason::InvalidCABundle,
            format!("spec.acme.caBundleSecretRef: {why}"),
        )
    };
    let secret = apply::within(secrets.get_opt(&reference.name))
        .await
        .map_err(|e| stop(e, not))?;
    let secret = secret.ok_or_else(|| {
        not(format!(
            "Secret {} does not exist in namespace {}: create it, or mend the name",
            reference.name, object.secrets_namespace
        ))
    })?;
    let bundle = data(&secret, key);
    if bundle.is_empty() {
        return Err(Stop::from(not(format!(
            "Secret {} has no data under {key}: put the PEM certificates there, or mend the key",
            reference.name
        ))));
    }
    Ok(Some(bundle.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::key::tests::object;

    #[test]
    fn an_issuer_that_is_not_ready_remembers_what_the_ca_was_asked_with_and_until_when() {
        let until = Timestamp::UNIX_EPOCH;
        let object = object("https://ca.example:14000/account/1");
        let not = NotReady::outage(Reason::CAUnavailable, "x");
        assert!(Session::not_ready(&object, &not, until).held_back.is_none());
        let asked = NotReady {
            asked: Some(7),
            unwatched: true,
            ..not
        };
        let session = Session::not_ready(&object, &asked, until);
        let held = session.held_back.unwrap();
        assert_eq!((held.fingerprint, held.until), (7, until));
        assert!(session.unwatched);
    }
}
