//! The account's key: stored before it is used, put back where it was deleted, never replaced without a word.

use std::collections::BTreeMap;

use evercert_api::issuer::{AcmeIssuer, directory_url};
use evercert_api::{Reason, keys};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;

use super::object::IssuerObject;
use super::ready::{NotReady, Stop, stop};
use super::session::HeldKey;
use crate::apply::{self, ApplyError};
use crate::context::Context;
use crate::effect::Effect;
use crate::secrets::data;

/// What a pass did to the Secret of the account's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyChange {
    /// The key in use was put back.
    Restored,
    /// A new one was made.
    Made,
    /// The account has another one, as was asked for.
    Changed,
    /// The CA refuses another one, and this is why.
    NotChanged(String),
}

/// The account's key.
pub(super) struct AccountKey {
    /// The key, DER.
    pub(super) der: Vec<u8>,
    /// The next key, DER, while it is not known whether the CA has taken it.
    pub(super) next: Option<Vec<u8>>,
    /// The value of the annotation that was last heeded.
    pub(super) rotation: Option<String>,
    /// Its Secret as it was read; none where it cannot be put back.
    pub(super) secret: Option<Secret>,
    /// No watch covers its Secret.
    pub(super) unwatched: bool,
    /// What a person should know.
    pub(super) note: Option<(Reason, String)>,
}

impl AccountKey {
    /// Looks again, live, whether the Secret still holds what was read of it: nobody registers with a key that is not the
    /// account's any more (design §2).
    pub(super) async fn ensure_unchanged(
        &self,
        object: &IssuerObject,
        context: &Context,
    ) -> Result<(), Stop> {
        let Some(read) = &self.secret else {
            return Ok(());
        };
        let name = read.metadata.name.as_deref().unwrap_or_default();
        let secrets: Api<Secret> =
            Api::namespaced(context.client.clone(), &object.secrets_namespace);
        let live = apply::within(secrets.get_opt(name))
            .await
            .map_err(Stop::Api)?;
        if holds_the_same_keys(read, live.as_ref()) {
            Ok(())
        } else {
            let changed = format!("Secret {name} with the account's key has changed meanwhile");
            Err(Stop::Api(ApplyError::Conflict(changed)))
        }
    }
}

/// Whether the key and the next key are the ones that were read.
fn holds_the_same_keys(read: &Secret, live: Option<&Secret>) -> bool {
    let same = |live: &Secret, of| data(read, of) == data(live, of);
    live.is_some_and(|live| same(live, keys::TLS_KEY) && same(live, keys::NEXT_KEY))
}

/// The account's key: read; else put back, if this process has seen it; else made. Stored before anybody uses it.
pub(super) async fn ensure_key(
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
                let der = |pem: &[u8]| evercert_pki::account_key_der(pem);
                return Ok(AccountKey {
                    der: der(&held.pem).map_err(|e| not(e.to_string()))?,
                    next: held.next.as_deref().and_then(|pem| der(pem).ok()),
                    rotation: held.rotation.clone(),
                    secret: None,
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
                next: None,
                // A key that is new need not be replaced.
                rotation: object.key_rotation.clone(),
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
    let next = data(&secret, keys::NEXT_KEY);
    let next_der = evercert_pki::account_key_der(next).ok();
    let rotation = annotations.and_then(|a| a.get(keys::KEY_ROTATION)).cloned();
    let key = HeldKey {
        secret: name.clone(),
        pem: pem.to_vec(),
        next: next_der.is_some().then(|| next.to_vec()),
        rotation: rotation.clone(),
        replaces,
    };
    context.sessions.hold_key(&object.id, key);
    Ok(AccountKey {
        der,
        next: next_der,
        rotation,
        secret: Some(secret),
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
        .map(|account| (keys::REPLACES_ACCOUNT.to_owned(), account));
    let rotation = key
        .rotation
        .clone()
        .map(|value| (keys::KEY_ROTATION.to_owned(), value));
    let annotations: BTreeMap<String, String> = replaces.into_iter().chain(rotation).collect();
    let next = key
        .next
        .clone()
        .map(|pem| (keys::NEXT_KEY.to_owned(), ByteString(pem)));
    let present = (keys::TLS_KEY.to_owned(), ByteString(key.pem.clone()));
    Secret {
        metadata: ObjectMeta {
            name: Some(key.secret.clone()),
            namespace: Some(object.secrets_namespace.clone()),
            labels: Some([label].into()),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(std::iter::once(present).chain(next).collect()),
        ..Secret::default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use evercert_api::IssuerStatus;
    use evercert_api::certificate::IssuerKind;

    use super::*;
    use crate::issuer::IssuerId;

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

    #[test]
    fn a_key_that_another_has_changed_is_not_registered() {
        let secret = |key: &str, next: Option<&str>| {
            let stored = [(keys::TLS_KEY, Some(key)), (keys::NEXT_KEY, next)];
            let stored = stored.into_iter().filter_map(|(name, text)| {
                Some((name.to_owned(), ByteString(text?.as_bytes().to_vec())))
            });
            Secret {
                data: Some(stored.collect()),
                ..Secret::default()
            }
        };
        let read = secret("a", None);
        assert!(holds_the_same_keys(&read, Some(&secret("a", None))));
        for live in [secret("a", Some("b")), secret("b", None)] {
            assert!(!holds_the_same_keys(&read, Some(&live)));
            assert!(!holds_the_same_keys(&live, Some(&read)));
        }
        assert!(!holds_the_same_keys(&read, None), "it is put back first");
    }

    pub(crate) fn object(account: &str) -> IssuerObject {
        let spec = serde_json::json!({
            "directory": "https://ca.example:14000/dir", "termsOfServiceAgreed": true,
            "accountKeySecretRef": {"name": "key"},
        });
        IssuerObject {
            id: IssuerId {
                kind: IssuerKind::Issuer,
                namespace: Some("shop".into()),
                name: "ca".into(),
            },
            generation: 1,
            acme: serde_json::from_value(spec).unwrap(),
            policy: Vec::new(),
            status: IssuerStatus {
                account_uri: Some(account.into()),
                ..IssuerStatus::default()
            },
            secrets_namespace: "shop".into(),
            key_rotation: None,
        }
    }

    #[test]
    fn an_account_is_lost_only_at_the_ca_that_it_is_of() {
        let lost = |account: &str| {
            let object = object(account);
            find_lost_account(&object, object.acme.as_ref().unwrap())
        };
        let own = "https://ca.example:14000/account/1";
        assert_eq!(lost(own).as_deref(), Some(own));
        assert_eq!(lost("https://ca.example/account/1"), None);
        assert_eq!(lost("https://other.example:14000/account/1"), None);
        assert_eq!(lost("nonsense"), None);
    }

    #[test]
    fn a_new_key_says_which_account_it_replaces() {
        let key = |replaces: Option<&str>| HeldKey {
            secret: "key".into(),
            pem: b"pem".to_vec(),
            next: None,
            rotation: None,
            replaces: replaces.map(str::to_owned),
        };
        let object = object("https://ca.example:14000/account/1");
        let secret = build_key_secret(&object, &key(Some("https://x")));
        let annotations = secret.metadata.annotations.unwrap();
        assert_eq!(annotations[keys::REPLACES_ACCOUNT], "https://x");
        let secret = build_key_secret(&object, &key(None));
        assert_eq!(secret.metadata.annotations, None);
        assert!(!is_certificates(&secret));
    }
}
