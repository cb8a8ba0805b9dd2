//! What makes an issuer ready, in order: bundle, key (stored before it is used), directory, terms, account.

use std::sync::Arc;

use evercert_acme::{ConnectError, Directory, DirectoryConfig};
use evercert_api::children::stable_hash;
use evercert_api::issuer::{AcmeIssuer, directory_url};
use evercert_api::{Reason, keys};
use evercert_core::fault::{Fault, FaultClass};
use evercert_core::sentence::{build_fault, find_remedy};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use tokio::sync::SemaphorePermit;

use super::object::IssuerObject;
use super::session::{HeldKey, Session, Signer};
use crate::apply::{self, ApplyError};
use crate::context::Context;
use crate::effect::{Effect, ca::ensure_account};
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
enum Stop {
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
fn stop(error: ApplyError, not: impl Fn(String) -> NotReady) -> Stop {
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

/// What a pass did to the Secret of the account's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyChange {
    /// The key in use was put back.
    Restored,
    /// A new one was made.
    Made,
}

/// The account's key.
struct AccountKey {
    der: Vec<u8>,
    /// No watch covers its Secret.
    unwatched: bool,
    note: Option<(Reason, String)>,
}

impl NotReady {
    fn here(reason: Reason, message: impl Into<String>) -> Self {
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

    fn outage(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            again: Again::AsInAnOutage,
            ..Self::here(reason, message)
        }
    }

    fn refused(reason: Reason, message: impl Into<String>) -> Self {
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
    let session = |signer, fingerprint| Session {
        signer,
        policy: object.policy.clone(),
        ingress_class: object.ingress_class(),
        generation: object.generation,
        fingerprint,
        suspect: false,
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
    let unwatched = key.unwatched || acme.ca_bundle_secret_ref.is_some();
    let url = directory_url(&acme.directory);
    let fingerprint = stable_hash(&[
        url,
        acme.email.as_deref().unwrap_or_default(),
        &acme.terms_of_service_agreed.to_string(),
        &format!("{:x}", stable_bytes(&key.der)),
        &format!("{:x}", stable_bytes(bundle.as_deref().unwrap_or_default())),
    ]);
    if let Some(before) = before.filter(|b| b.fingerprint == fingerprint && !b.suspect) {
        let mut same = before.clone();
        same.policy.clone_from(&object.policy);
        same.generation = object.generation;
        same.ingress_class = object.ingress_class();
        (same.unwatched, same.note) = (unwatched, key.note);
        return Ok(Readiness::Unchanged(same));
    }
    let held_back = before
        .filter(|b| b.generation == object.generation)
        .and_then(|b| b.held_back.as_ref())
        .filter(|held| held.fingerprint == fingerprint && now < held.until);
    if let Some(held) = held_back {
        return Err(Stop::NotReady(NotReady {
            until: Some(held.until),
            unwatched,
            ..held.not.clone()
        }));
    }
    // A CA may take its time; whoever waits for it keeps nobody waiting.
    drop(place);
    let signer = connect(object, acme, bundle, &key.der, context, now).await;
    let signer = signer.map_err(|not| NotReady {
        asked: Some(fingerprint),
        unwatched,
        ..not
    })?;
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
    key: &[u8],
    context: &Context,
    now: Timestamp,
) -> Result<Signer, NotReady> {
    let url = directory_url(&acme.directory);
    let config = DirectoryConfig {
        ca_bundle: bundle,
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
        return Err(NotReady { terms, ..not });
    }
    let account = ensure_account(&directory, key, acme.email.as_deref(), now).await;
    let account = account.map_err(|fault| {
        context.memory.note_fault(directory.url(), &fault, now);
        NotReady {
            terms,
            ..explain_account(&fault, &directory)
        }
    })?;
    context.memory.close_breaker(directory.url());
    tracing::info!(issuer = %object.id, account = account.account_uri(), "the account is ready");
    Ok(Signer::Acme {
        acme: account,
        directory,
    })
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

/// The account's key: read; else put back, if this process has seen it; else made. Stored before anybody uses it.
async fn ensure_key(
    object: &IssuerObject,
    acme: &AcmeIssuer,
    secrets: &Api<Secret>,
    context: &Context,
    change: &mut Option<KeyChange>,
) -> Result<AccountKey, Stop> {
    let name = &acme.account_key_secret_ref.name;
    let held = context.sessions.key(&object.id);
    let held = held.filter(|held| held.secret == *name);
    let not = |why: String| {
        NotReady::here(
            Reason::InvalidAccountKey,
            format!(
                "the account's key in Secret {name} of namespace {}: {why}",
                object.secrets_namespace
            ),
        )
    };
    let found = apply::within(secrets.get_opt(name))
        .await
        .map_err(|e| stop(e, not))?;
    let secret = match (found, &held) {
        (Some(secret), _) => secret,
        (None, Some(held)) => match store_key(object, secrets, held).await {
            Ok(stored) => {
                *change = Some(KeyChange::Restored);
                stored
            }
            Err(error) if error.is_passing() => return Err(Stop::Api(error)),
            // It is the account's key all the same, and was stored when it was first used.
            Err(error) => {
                let note = format!(
                    "Secret {name} with the account's key was deleted and cannot be put back: {error}. Until it can, the key is known \
                     to the running operator only"
                );
                return Ok(AccountKey {
                    der: evercert_pki::account_key_der(&held.pem)
                        .map_err(|e| not(e.to_string()))?,
                    unwatched: true,
                    note: Some((Reason::InvalidAccountKey, note)),
                });
            }
        },
        (None, None) => {
            let pem = evercert_pki::generate_account_key().map_err(|e| not(e.to_string()))?;
            let made = HeldKey {
                secret: name.clone(),
                pem: pem.into_bytes(),
                replaces: find_lost_account(object, acme),
            };
            *change = Some(KeyChange::Made);
            store_key(object, secrets, &made)
                .await
                .map_err(|e| stop(e, not))?
        }
    };
    if is_certificates(&secret) {
        return Err(not(
            "it holds a certificate and its key, and a CA refuses to sign for an account's own key: name another Secret"
                .to_owned(),
        )
        .into());
    }
    let remedy = if held.is_some() {
        "delete the Secret, and the key that was in it is put back"
    } else {
        "name a Secret that does not exist yet, or put an account's P-256 key into tls.key"
    };
    let pem = data(&secret, keys::TLS_KEY);
    if pem.is_empty() {
        return Err(not(format!("tls.key is missing: {remedy}")).into());
    }
    let der = evercert_pki::account_key_der(pem).map_err(|e| not(format!("{e}: {remedy}")))?;
    let annotations = secret.metadata.annotations.as_ref();
    let replaces = annotations
        .and_then(|a| a.get(keys::REPLACES_ACCOUNT))
        .filter(|account| is_of(account, acme))
        .cloned();
    let note = replaces.as_ref().map(|account| {
        let text = format!(
            "It replaces {account}, whose key was lost with an earlier Secret {name}. To have that account back, put its key into \
             the Secret; to keep the new one, take the annotation {} off it",
            keys::REPLACES_ACCOUNT
        );
        (Reason::AccountReplaced, text)
    });
    let labels = secret.metadata.labels.as_ref();
    let unwatched = labels.is_none_or(|l| !l.contains_key(keys::SECRET_ROLE_LABEL));
    let key = HeldKey {
        secret: name.clone(),
        pem: pem.to_vec(),
        replaces,
    };
    context.sessions.hold_key(&object.id, key);
    Ok(AccountKey {
        der,
        unwatched,
        note,
    })
}

/// The account that this issuer had at its present CA, whose key is gone.
fn find_lost_account(object: &IssuerObject, acme: &AcmeIssuer) -> Option<String> {
    let account = object.status.account_uri.clone()?;
    is_of(&account, acme).then_some(account)
}

/// Whether an account's URL is on the origin of the issuer's directory.
fn is_of(account: &str, acme: &AcmeIssuer) -> bool {
    let origin = |url: &str| url::Url::parse(url).ok().map(|url| url.origin());
    origin(account).is_some_and(|o| Some(o) == origin(directory_url(&acme.directory)))
}

/// Creates the Secret of a key; where another issuer shares it and was faster, its key is the one.
async fn store_key(
    object: &IssuerObject,
    secrets: &Api<Secret>,
    key: &HeldKey,
) -> Result<Secret, ApplyError> {
    match apply::create(
        secrets,
        Effect::CreateAccountKey,
        &build_key_secret(object, key),
    )
    .await
    {
        Err(error) if error.is_conflict() => apply::within(secrets.get(&key.secret)).await,
        created => created,
    }
}

/// Whether a Secret is a TLS Secret or a companion: its key is a certificate's.
fn is_certificates(secret: &Secret) -> bool {
    let role = secret
        .metadata
        .labels
        .as_ref()
        .and_then(|l| l.get(keys::SECRET_ROLE_LABEL))
        .map(String::as_str);
    secret.type_.as_deref() == Some("kubernetes.io/tls")
        || matches!(role, Some(keys::ROLE_TLS | keys::ROLE_COMPANION))
}

fn build_key_secret(object: &IssuerObject, key: &HeldKey) -> Secret {
    let label = (
        keys::SECRET_ROLE_LABEL.to_owned(),
        keys::ROLE_ACCOUNT.to_owned(),
    );
    let replaces = key
        .replaces
        .clone()
        .map(|account| [(keys::REPLACES_ACCOUNT.to_owned(), account)].into());
    Secret {
        metadata: ObjectMeta {
            name: Some(key.secret.clone()),
            namespace: Some(object.secrets_namespace.clone()),
            labels: Some([label].into()),
            annotations: replaces,
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some([(keys::TLS_KEY.to_owned(), ByteString(key.pem.clone()))].into()),
        ..Secret::default()
    }
}

fn explain_connect(error: &ConnectError) -> NotReady {
    let (reason, remedy, retry_after) = match error {
        ConnectError::InvalidUrl { .. } => {
            let message =
                format!("spec.acme.directory: {error}: write the https URL of an ACME directory");
            return NotReady::here(Reason::InvalidDirectory, message);
        }
        ConnectError::InvalidBundle(_) => {
            let message = format!(
                "spec.acme.caBundle: {error}: give PEM certificates (-----BEGIN CERTIFICATE-----)"
            );
            return NotReady::here(Reason::InvalidCABundle, message);
        }
        ConnectError::Untrusted { .. } => (
            Reason::UntrustedDirectory,
            "give the CA's root certificate in spec.acme.caBundle or caBundleSecretRef",
            None,
        ),
        ConnectError::Unreachable { .. } => (
            Reason::CAUnavailable,
            "check spec.acme.directory, and that the operator may reach it; it is tried again",
            None,
        ),
        ConnectError::Outage { retry_after, .. } => (
            Reason::CAUnavailable,
            "nothing to mend here; it is tried again",
            *retry_after,
        ),
        ConnectError::NotAcme { .. } => (
            Reason::NotAnAcmeDirectory,
            "write the URL of the CA's ACME directory into spec.acme.directory",
            None,
        ),
    };
    NotReady {
        retry_after,
        ..NotReady::outage(reason, format!("{error}: {remedy}"))
    }
}

fn explain_account(fault: &Fault, directory: &Arc<Directory>) -> NotReady {
    let kind = fault
        .problem
        .as_ref()
        .map(|p| p.kind.as_str())
        .unwrap_or_default();
    let reason = match fault.class {
        FaultClass::Unavailable => Reason::CAUnavailable,
        FaultClass::RateLimited => Reason::RateLimited,
        _ if kind == "externalAccountRequired" || directory.external_account_required() => {
            Reason::ExternalAccountRequired
        }
        _ if kind == "userActionRequired" => Reason::UserActionRequired,
        FaultClass::Validation
        | FaultClass::Account
        | FaultClass::Permanent
        | FaultClass::Transient
        | FaultClass::Gone
        | FaultClass::NotReady => Reason::AccountRefused,
    };
    let remedy = match reason {
        Reason::ExternalAccountRequired => find_remedy("externalAccountRequired"),
        _ => find_remedy(kind),
    };
    let remedy = remedy.map(|r| format!(". Remedy: {r}")).unwrap_or_default();
    let again = match fault.class {
        FaultClass::Unavailable | FaultClass::Transient => Again::AsInALongOutage,
        FaultClass::RateLimited
        | FaultClass::Validation
        | FaultClass::Account
        | FaultClass::Permanent
        | FaultClass::Gone
        | FaultClass::NotReady => Again::Seldom,
    };
    let message = format!("{}{remedy}", build_fault(fault));
    NotReady {
        retry_after: fault.retry_after,
        again,
        ..NotReady::here(reason, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificates_key_is_never_an_accounts() {
        let mut secret = Secret {
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        assert!(!is_certificates(&secret));
        let role =
            |role: &str| Some([(keys::SECRET_ROLE_LABEL.to_owned(), role.to_owned())].into());
        secret.metadata.labels = role(keys::ROLE_ACCOUNT);
        assert!(!is_certificates(&secret));
        secret.metadata.labels = role(keys::ROLE_COMPANION);
        assert!(is_certificates(&secret));
        secret.metadata.labels = None;
        secret.type_ = Some("kubernetes.io/tls".to_owned());
        assert!(is_certificates(&secret));
    }
}
