//! TLS Secrets that go with their Certificate. Nothing holds a Certificate or a namespace back for them: a Secret says by an
//! annotation that it is meant, and goes when its Certificate is no longer there, whoever saw that one go. Between its creation and
//! that annotation, which names its UID, its Certificate owns it, and the garbage collector does the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evercert_api::{Certificate, keys};
use evercert_core::key::ObjectKey;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PartialObjectMeta;
use kube::{Api, ResourceExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::apply::{self, ApplyError, Expected};
use crate::context::{Context, reference};
use crate::effect::Effect;

/// How long until what could not be deleted is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// A Secret that goes with its Certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marked {
    certificate: ObjectKey,
    expected: Expected,
}

/// The Secrets that go with their Certificates, as the watch knows them.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    marked: Mutex<HashMap<ObjectKey, Marked>>,
    changed: Notify,
}

impl Orphans {
    /// A Secret of ours is there as `secret` says.
    pub(crate) fn note(&self, secret: &PartialObjectMeta<Secret>) {
        let key = ObjectKey::new(secret.namespace().unwrap_or_default(), secret.name_any());
        match find_mark(secret) {
            Some(marked) => {
                self.lock().insert(key, marked);
                self.look();
            }
            None => drop(self.lock().remove(&key)),
        }
    }

    /// A Secret is gone.
    pub(crate) fn forget(&self, secret: &PartialObjectMeta<Secret>) {
        let key = ObjectKey::new(secret.namespace().unwrap_or_default(), secret.name_any());
        self.lock().remove(&key);
    }

    /// A Certificate is gone: it may have left one behind.
    pub(crate) fn look(&self) {
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Marked>> {
        // Whole after each statement.
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The mark holds only for the very Secret that it was put on: one that comes back from a copy waits for its Certificate.
fn find_mark(secret: &PartialObjectMeta<Secret>) -> Option<Marked> {
    let annotations = secret.annotations();
    let uid = secret.uid()?;
    if annotations.get(keys::DELETE_WITH) != Some(&uid) {
        return None;
    }
    let name = annotations.get(keys::CERTIFICATE_NAME)?;
    Some(Marked {
        certificate: ObjectKey::new(secret.namespace().unwrap_or_default(), name),
        expected: Expected {
            uid: Some(uid),
            resource_version: secret.resource_version(),
        },
    })
}

/// Deletes what was left behind, as long as the operator runs.
pub(crate) async fn sweep(context: Arc<Context>) {
    loop {
        context.orphans.changed.notified().await;
        while !sweep_once(&context).await {
            // Sooner where something has changed.
            let _ = timeout(AGAIN, context.orphans.changed.notified()).await;
        }
    }
}

/// Whether nothing is left to be tried again.
async fn sweep_once(context: &Context) -> bool {
    let marked = context.orphans.lock().clone();
    let mut done = true;
    for (secret, marked) in marked {
        if is_wanted(&secret, &marked, context) {
            continue;
        }
        match delete(&secret, &marked, context).await {
            Ok(()) => {}
            // Its next version is in the watch.
            Err(error) if error.is_conflict() => {}
            Err(error) => {
                tracing::warn!(%secret, %error, "a Secret that goes with its Certificate could not be deleted");
                done = false;
            }
        }
    }
    done
}

/// Whether its Certificate is there, or another one that names the Secret and will see to it.
fn is_wanted(secret: &ObjectKey, marked: &Marked, context: &Context) -> bool {
    let names_it = |c: &Certificate| {
        c.namespace().as_deref() == Some(&secret.namespace) && c.spec.secret_name == secret.name
    };
    context
        .certificates
        .get(&reference(&marked.certificate))
        .is_some()
        || context.certificates.state().iter().any(|c| names_it(c))
}

async fn delete(secret: &ObjectKey, marked: &Marked, context: &Context) -> Result<(), ApplyError> {
    let certificates: Api<Certificate> = Api::namespaced(context.client.clone(), &secret.namespace);
    if apply::within(certificates.get_opt(&marked.certificate.name))
        .await?
        .is_some()
    {
        return Ok(());
    }
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &secret.namespace);
    apply::delete(
        &secrets,
        Effect::DeleteSecret,
        &secret.name,
        &marked.expected,
    )
    .await?;
    tracing::info!(%secret, certificate = %marked.certificate, "deleted with its Certificate");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_secret_that_was_marked_goes_with_its_certificate() {
        let secret = |uid: &str, mark: Option<&str>, owner: Option<&str>| {
            let mut secret: PartialObjectMeta<Secret> = PartialObjectMeta::default();
            secret.metadata.namespace = Some("shop".into());
            secret.metadata.name = Some("tls".into());
            secret.metadata.uid = Some(uid.into());
            let annotations = secret.metadata.annotations.get_or_insert_default();
            annotations.extend(mark.map(|m| (keys::DELETE_WITH.to_owned(), m.to_owned())));
            annotations.extend(owner.map(|o| (keys::CERTIFICATE_NAME.to_owned(), o.to_owned())));
            secret
        };
        let marked = find_mark(&secret("u1", Some("u1"), Some("site"))).unwrap();
        assert_eq!(marked.certificate, ObjectKey::new("shop", "site"));
        assert_eq!(marked.expected.uid.as_deref(), Some("u1"));
        assert_eq!(
            find_mark(&secret("u2", Some("u1"), Some("site"))),
            None,
            "a copy"
        );
        assert_eq!(find_mark(&secret("u1", None, Some("site"))), None);
        assert_eq!(find_mark(&secret("u1", Some("u1"), None)), None);
    }

    #[test]
    fn secret_that_loses_its_mark_is_not_swept() {
        let orphans = Orphans::default();
        let mut secret: PartialObjectMeta<Secret> = PartialObjectMeta::default();
        secret.metadata.uid = Some("u1".into());
        secret.metadata.annotations = Some(
            [(keys::DELETE_WITH, "u1"), (keys::CERTIFICATE_NAME, "site")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        );
        orphans.note(&secret);
        assert_eq!(orphans.lock().len(), 1);
        secret.metadata.annotations = None;
        orphans.note(&secret);
        assert!(orphans.lock().is_empty());
    }
}
