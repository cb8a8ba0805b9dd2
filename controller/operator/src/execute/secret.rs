//! Effects on the TLS Secret and its companion. A Secret that does not exist is created, never applied over: whoever was
//! faster keeps what is theirs; one that exists is replaced only as it was read.

use evercert_api::certificate::{PrivateKey, RotationPolicy};
use evercert_api::{DnsName, Reason, children, keys};
use evercert_core::facts::{CertificateFacts, KeyKind};
use evercert_core::fault::FaultClass;
use evercert_core::observe::{IssuerObservation, Marks, SecretObservation};
use evercert_core::report::Change;
use evercert_pki::{KeyError, Marking, PrivateKeyPem};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::Outcome;
use crate::apply::{self, ApplyError};
use crate::context::Context;
use crate::effect::Effect;
use crate::error::Error;
use crate::gather::{Gathered, is_companion_of};
use crate::secrets::{Content, Kept, KeyPairPem, build_companion, build_tls, data};

/// How far a certificate that we sign ourselves is back-dated, for clients whose clock is slow.
const BACKDATED: SignedDuration = SignedDuration::from_mins(5);
/// How long a certificate that we sign ourselves lives.
const LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);

/// The two writes of a new certificate.
#[derive(Clone, Copy)]
pub(super) struct Signed {
    kept: Effect,
    stored: Effect,
}

/// By a CA.
pub(super) const ISSUED: Signed = Signed {
    kept: Effect::KeepIssued,
    stored: Effect::StoreIssued,
};
/// By its own key.
const SELF_SIGNED: Signed = Signed {
    kept: Effect::KeepSelfSigned,
    stored: Effect::StoreSelfSigned,
};

/// Puts the companion's last good certificate into the TLS Secret.
pub(super) async fn restore(
    gathered: &mut Gathered,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let Some(companion) = &gathered.companion else {
        return Ok(Outcome::moved());
    };
    let Some((_, marks)) = gathered.observed.companion.last_good.clone() else {
        return Ok(Outcome::moved());
    };
    let pair = pair_of(companion);
    write_tls(
        gathered,
        &Content::Issued(&pair, &marks),
        Effect::RestoreSecret,
        context,
        now,
    )
    .await?;
    let text = format!(
        "the last good certificate was put back into Secret {}",
        gathered.observed.spec.secret_name
    );
    Ok(Outcome::moved().noted(false, Reason::SecretRestored, text))
}

/// Puts a marked self-signed certificate into the TLS Secret.
pub(super) async fn write_fallback(
    gathered: &mut Gathered,
    cause: &str,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let key = make_key(gathered.observed.spec.key()).await?;
    let chain = sign(&key, &names(gathered), now, Marking::Fallback)?;
    let pair = KeyPairPem {
        chain,
        key: key.into_bytes(),
    };
    let leaf = evercert_pki::read_leaf(&pair.chain)
        .map_err(|_| ApplyError::Unsendable("the fallback cannot be read back".to_owned()))?;
    write_tls(
        gathered,
        &Content::Fallback(&pair, &leaf.fingerprint),
        Effect::WriteFallback,
        context,
        now,
    )
    .await?;
    let text = format!(
        "a self-signed fallback was put into Secret {}, since {cause}",
        gathered.observed.spec.secret_name
    );
    Ok(Outcome::moved().noted(true, Reason::FallbackWritten, text))
}

/// Puts label and annotations of the TLS Secret in step.
pub(super) async fn mend_marks(
    gathered: &mut Gathered,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    if let SecretObservation::Ours(secret) = &gathered.observed.secret {
        let marks = secret.marks.clone();
        write_tls(
            gathered,
            &Content::Marks(&marks),
            Effect::MendMarks,
            context,
            now,
        )
        .await?;
    }
    Ok(Outcome::moved())
}

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
        &Kept::PendingKey(&key),
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
    [issued, stored]
        .into_iter()
        .flatten()
        .map(|secret| data(secret, keys::TLS_KEY).to_vec())
        .find(|key| evercert_pki::key_kind(key).is_ok_and(|kind| kind == KeyKind::wanted(wanted)))
}

/// Keeps a copy of the good certificate in the TLS Secret in the companion.
pub(super) async fn keep_copy(
    gathered: &mut Gathered,
    context: &Context,
) -> Result<Outcome, Error> {
    if let (Some(secret), SecretObservation::Ours(observed)) =
        (&gathered.secret, &gathered.observed.secret)
    {
        let (pair, marks) = (pair_of(secret), observed.marks.clone());
        write_companion(
            gathered,
            &Kept::LastGood(&pair, &marks),
            Effect::KeepCopy,
            context,
        )
        .await?;
    }
    Ok(Outcome::moved())
}

/// Drops the pending key from the companion.
pub(super) async fn drop_pending_key(
    gathered: &mut Gathered,
    context: &Context,
) -> Result<Outcome, Error> {
    write_companion(
        gathered,
        &Kept::NoPendingKey,
        Effect::DropPendingKey,
        context,
    )
    .await?;
    Ok(Outcome::moved())
}

/// Has the companion owned by this Certificate.
pub(super) async fn mend_companion(
    gathered: &mut Gathered,
    context: &Context,
) -> Result<Outcome, Error> {
    write_companion(gathered, &Kept::Owner, Effect::OwnCompanion, context).await?;
    Ok(Outcome::moved())
}

/// Signs with the pending key itself.
pub(super) async fn self_sign(
    gathered: &mut Gathered,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let Some(key) = pending_key(gathered) else {
        return Ok(Outcome::moved());
    };
    let chain = evercert_pki::self_signed(
        &key,
        &names(gathered),
        now - BACKDATED,
        now + LIFETIME,
        Marking::SelfSignedIssuer,
    )
    .map_err(unsendable)?
    .into_bytes();
    let facts = keep(
        gathered,
        KeyPairPem { chain, key },
        SELF_SIGNED,
        context,
        now,
    )
    .await?;
    Ok(issued(gathered, facts.as_ref()))
}

/// Keeps `pair` in the companion, then writes it into the TLS Secret.
pub(super) async fn keep(
    gathered: &mut Gathered,
    pair: KeyPairPem,
    signed: Signed,
    context: &Context,
    now: Timestamp,
) -> Result<Option<CertificateFacts>, Error> {
    let (issuer, directory) = match &gathered.observed.issuer {
        IssuerObservation::Ready(facts) => (Some(facts.id.clone()), Some(facts.directory.clone())),
        IssuerObservation::Missing | IssuerObservation::NotReady { .. } => (None, None),
    };
    let marks = Marks {
        issuer,
        directory,
        names: Some(gathered.observed.wanted_names()),
        profile: gathered
            .observed
            .status
            .order
            .as_ref()
            .and_then(|order| order.profile.clone()),
        issued_at: Some(now),
    };
    write_companion(
        gathered,
        &Kept::LastGood(&pair, &marks),
        signed.kept,
        context,
    )
    .await?;
    write_tls(
        gathered,
        &Content::Issued(&pair, &marks),
        signed.stored,
        context,
        now,
    )
    .await?;
    Ok(gathered.observed.issued().cloned())
}

/// The outcome of a stored certificate.
pub(super) fn issued(gathered: &Gathered, facts: Option<&CertificateFacts>) -> Outcome {
    let until = facts
        .map(|f| format!(", valid until {}", f.not_after))
        .unwrap_or_default();
    let text = format!(
        "the certificate is in Secret {}{until}",
        gathered.observed.spec.secret_name
    );
    Outcome {
        change: Change::Cleared,
        moved: true,
        note: None,
    }
    .noted(false, Reason::Issued, text)
}

/// The key of the order under way.
pub(super) fn pending_key(gathered: &Gathered) -> Option<Vec<u8>> {
    gathered
        .companion
        .as_ref()
        .map(|c| data(c, keys::PENDING_KEY).to_vec())
        .filter(|k| !k.is_empty())
}

/// The wanted names, parsed.
pub(super) fn names(gathered: &Gathered) -> Vec<DnsName> {
    gathered
        .observed
        .wanted_names()
        .iter()
        .filter_map(|n| DnsName::parse(n).ok())
        .collect()
}

fn pair_of(secret: &Secret) -> KeyPairPem {
    KeyPairPem {
        chain: data(secret, keys::TLS_CRT).to_vec(),
        key: data(secret, keys::TLS_KEY).to_vec(),
    }
}

/// A new key, made where RSA does not hold up the loop.
async fn make_key(wanted: PrivateKey) -> Result<PrivateKeyPem, Error> {
    let made = tokio::task::spawn_blocking(move || evercert_pki::generate_key(&wanted)).await;
    match made {
        Ok(key) => key.map_err(|e: KeyError| unsendable(e)),
        Err(error) => Err(unsendable(error)),
    }
}

fn sign(
    key: &PrivateKeyPem,
    names: &[DnsName],
    now: Timestamp,
    marking: Marking,
) -> Result<Vec<u8>, Error> {
    evercert_pki::self_signed(
        key.as_bytes(),
        names,
        now - BACKDATED,
        now + LIFETIME,
        marking,
    )
    .map(String::into_bytes)
    .map_err(unsendable)
}

fn unsendable(error: impl std::fmt::Display) -> Error {
    Error::Api(ApplyError::Unsendable(error.to_string()))
}

async fn write_tls(
    gathered: &mut Gathered,
    written: &Content<'_>,
    effect: Effect,
    context: &Context,
    now: Timestamp,
) -> Result<(), Error> {
    let key = gathered.observed.key.clone();
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    let next = build_tls(
        &key,
        &gathered.observed.spec.secret_name,
        gathered.secret.as_ref(),
        written,
    );
    let outcome = if gathered.lacks_secret() {
        apply::create(&api, effect, &next).await
    } else {
        apply::replace(&api, effect, &next).await
    };
    let refused = match &outcome {
        Err(error) if !error.is_conflict() && !error.is_passing() => Some((now, error.to_string())),
        Ok(_) | Err(_) => None,
    };
    context.memory.update(&key, |e| e.unwritable = refused);
    gathered.secret = Some(outcome?);
    gathered.observe_again();
    Ok(())
}

async fn write_companion(
    gathered: &mut Gathered,
    change: &Kept<'_>,
    effect: Effect,
    context: &Context,
) -> Result<(), Error> {
    let api: Api<Secret> =
        Api::namespaced(context.client.clone(), &gathered.observed.key.namespace);
    let secret = build_companion(&gathered.certificate, gathered.companion.as_ref(), change);
    let written = if gathered.companion.is_none() {
        apply::create(&api, effect, &secret).await
    } else {
        apply::replace(&api, effect, &secret).await
    };
    gathered.companion = Some(written?);
    gathered.observe_again();
    Ok(())
}
