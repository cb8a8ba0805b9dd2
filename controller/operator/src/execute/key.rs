//! The key of the next certificate: made, or the one in use where that is to be kept, and put into the companion before it is used.

use evercert_api::certificate::{PrivateKey, RotationPolicy};
use evercert_api::{Reason, children, keys};
use evercert_core::facts::KeyKind;
use evercert_core::fault::FaultClass;
use evercert_core::revocation::RevocationReason;
use evercert_pki::{KeyError, PrivateKeyPem};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::Outcome;
use super::secret::{unsendable, write_companion};
use crate::apply;
use crate::context::Context;
use crate::effect::Effect;
use crate::error::Error;
use crate::gather::{Gathered, is_companion_of};
use crate::secrets::{Change as CompanionChange, data};

/// Makes the key of the next certificate, or takes the one in use where the spec says so, and keeps it in the companion.
pub(super) async fn prepare_key(
    gathered: &mut Gathered,
    context: &Context,
) -> Result<Outcome, Error> {
    let wanted = gathered.observed.spec.key();
    let key = match kept_key(gathered, &wanted) {
        Some(key) => key,
        None => make_key(wanted).await?.into_bytes(),
    };
    let was_missing = gathered.companion.is_none();
    match write_companion(
        gathered,
        &CompanionChange::PendingKey(&key),
        Effect::KeepPendingKey,
        context,
    )
    .await
    {
        Ok(()) => Ok(Outcome::moved()),
        Err(error) if was_missing && error.is_conflict() => {
            explain_companion(gathered, context).await?.ok_or(error)
        }
        Err(error) => Err(error),
    }
}

/// The failed attempt, where the companion's name is taken by a Secret of somebody else: it is not touched.
async fn explain_companion(
    gathered: &Gathered,
    context: &Context,
) -> Result<Option<Outcome>, Error> {
    let key = &gathered.observed.key;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    let name = children::companion_name(&key.namespace, &key.name);
    let there = apply::within(api.get_opt(&name)).await?;
    Ok(there
        .filter(|secret| !is_companion_of(secret, &gathered.certificate))
        .map(|_| {
            let message = format!(
                "Secret {name}, where the key of the next certificate is to be kept, exists and was not made by Evercert: delete it"
            );
            super::order::failed_here(Reason::SecretNotOurs, FaultClass::Transient, &message)
        }))
}

/// The key in use, where it is to be kept and of the wanted kind.
fn kept_key(gathered: &Gathered, wanted: &PrivateKey) -> Option<Vec<u8>> {
    if wanted.rotation_policy != RotationPolicy::Never {
        return None;
    }
    let issued = gathered.observed.issued().and(gathered.secret.as_ref());
    let stored = gathered
        .observed
        .companion
        .last_good
        .as_ref()
        .and(gathered.companion.as_ref());
    let noted = gathered.observed.companion.revocation.as_ref();
    let compromised = noted
        .filter(|noted| noted.reason == RevocationReason::KeyCompromise)
        .and(gathered.companion.as_ref())
        .map_or(&[][..], |companion| data(companion, keys::REVOKE_KEY));
    [issued, stored]
        .into_iter()
        .flatten()
        .map(|secret| data(secret, keys::TLS_KEY).to_vec())
        .filter(|key| !evercert_pki::is_same_key(key, compromised))
        .find(|key| evercert_pki::key_kind(key).is_ok_and(|kind| kind == KeyKind::wanted(wanted)))
}

/// Drops the pending key from the companion.
pub(super) async fn drop_pending_key(
    gathered: &mut Gathered,
    context: &Context,
) -> Result<Outcome, Error> {
    write_companion(
        gathered,
        &CompanionChange::NoPendingKey,
        Effect::DropPendingKey,
        context,
    )
    .await?;
    Ok(Outcome::moved())
}

/// A new key, made where RSA does not hold up the loop.
pub(super) async fn make_key(wanted: PrivateKey) -> Result<PrivateKeyPem, Error> {
    let made = tokio::task::spawn_blocking(move || evercert_pki::generate_key(&wanted)).await;
    match made {
        Ok(key) => key.map_err(|e: KeyError| unsendable(e)),
        Err(error) => Err(unsendable(error)),
    }
}
