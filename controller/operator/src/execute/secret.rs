//! Effects on the TLS Secret and its companion. A Secret that does not exist is created, never applied over: whoever was
//! faster keeps what is theirs; one that exists is replaced only as it was read.

use evercert_api::{Certificate, Identifier, Reason, keys};
use evercert_core::adopt::build_adopted;
use evercert_core::circuit::{FieldManager, find_writer};
use evercert_core::facts::CertificateFacts;
use evercert_core::fallback::{Fallback, choose, describe};
use evercert_core::key::ObjectKey;
use evercert_core::observe::{IssuerObservation, Marks, SecretObservation};
use evercert_core::report::{Change, Ending};
use evercert_pki::{Marking, PrivateKeyPem};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::Outcome;
use super::key::make_key;
use crate::apply::{self, ApplyError};
use crate::context::Context;
use crate::effect::Effect;
use crate::error::Error;
use crate::extras::own_until_marked;
use crate::gather::Gathered;
use crate::secrets::{
    Change as CompanionChange, Content, KeyPairPem, build_companion, build_tls, data,
};

/// How far a certificate that we sign ourselves is back-dated, for clients whose clock is slow.
const BACKDATED: SignedDuration = SignedDuration::from_mins(5);
/// Why an immutable Secret was not written, and what helps.
const IMMUTABLE: &str =
    "it is immutable, and its content cannot be changed: delete it, and it is made again";
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

/// Puts a marked fallback into the TLS Secret.
pub(super) async fn write_fallback(
    gathered: &mut Gathered,
    cause: &str,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let pair = make_fallback(gathered, now).await?;
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
        "a fallback was put into Secret {}, since {cause}; {}",
        gathered.observed.spec.secret_name,
        describe(&gathered.observed, now)
    );
    Ok(Outcome::moved().noted(true, Reason::FallbackWritten, text))
}

/// The user's own certificate where it does, else a self-signed one with a new key.
async fn make_fallback(gathered: &Gathered, now: Timestamp) -> Result<KeyPairPem, Error> {
    if let (Fallback::Own(_), Some(own)) = (choose(&gathered.observed, now), &gathered.own_fallback)
    {
        return Ok(pair_of(own));
    }
    let key = make_key(gathered.observed.spec.key()).await?;
    let chain = sign(&key, &names(gathered), now, Marking::Fallback)?;
    Ok(KeyPairPem {
        chain,
        key: key.into_bytes(),
    })
}

/// Takes over a Secret that somebody else made: its content stays as it is. A copy in the companion comes before anything is said
/// of it, and after the marks: what the companion holds counts as ours, so a Secret that a controller claims meanwhile must not be
/// there.
pub(super) async fn adopt(
    keep_copy: bool,
    gathered: &mut Gathered,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    write_tls(
        gathered,
        &Content::Marks(&Marks::default(), None),
        Effect::AdoptSecret,
        context,
        now,
    )
    .await?;
    if let Some(secret) = gathered.secret.as_ref().filter(|_| keep_copy) {
        let pair = pair_of(secret);
        let change = CompanionChange::LastGood(&pair, &Marks::default());
        write_companion(gathered, &change, Effect::KeepCopy, context).await?;
    }
    let observed = &gathered.observed;
    let (reason, text) = build_adopted(
        &observed.spec.secret_name,
        observed.issued(),
        &observed.issuer_id(),
    );
    Ok(Outcome::moved().noted(false, reason, text))
}

/// Puts label and annotations of the TLS Secret, and what follows from the spec, in step.
pub(super) async fn mend_marks(
    gathered: &mut Gathered,
    context: &Context,
    now: Timestamp,
) -> Result<Outcome, Error> {
    if let SecretObservation::Ours(secret) = &gathered.observed.secret {
        let (marks, leaf) = (secret.marks.clone(), secret.content.clone());
        let stands_in = leaf.as_ref().ok().filter(|_| secret.fallback);
        write_tls(
            gathered,
            &Content::Marks(&marks, stands_in),
            Effect::MendMarks,
            context,
            now,
        )
        .await?;
    }
    Ok(Outcome::moved())
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
            &CompanionChange::LastGood(&pair, &marks),
            Effect::KeepCopy,
            context,
        )
        .await?;
    }
    Ok(Outcome::moved())
}

/// Has the companion owned by this Certificate.
pub(super) async fn mend_companion(
    gathered: &mut Gathered,
    context: &Context,
) -> Result<Outcome, Error> {
    write_companion(
        gathered,
        &CompanionChange::Owner,
        Effect::OwnCompanion,
        context,
    )
    .await?;
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
    Ok(issued(gathered, &facts))
}

/// A certificate that is in the companion.
pub(super) struct Kept {
    /// The leaf.
    pub(super) facts: Option<CertificateFacts>,
    /// Why it is not in the TLS Secret yet.
    refused: Option<String>,
}

/// Keeps `pair` in the companion, then writes it into the TLS Secret.
pub(super) async fn keep(
    gathered: &mut Gathered,
    pair: KeyPairPem,
    signed: Signed,
    context: &Context,
    now: Timestamp,
) -> Result<Kept, Error> {
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
        // A request that came while the order was under way is noted before this, and so is heeded by it.
        revoke: gathered
            .observed
            .companion
            .revocation
            .as_ref()
            .map(|noted| noted.value.clone())
            .or_else(|| gathered.observed.revoke.clone()),
    };
    write_companion(
        gathered,
        &CompanionChange::LastGood(&pair, &marks),
        signed.kept,
        context,
    )
    .await?;
    let stored = write_tls(
        gathered,
        &Content::Issued(&pair, &marks),
        signed.stored,
        context,
        now,
    )
    .await;
    match stored {
        Ok(()) => Ok(Kept {
            facts: gathered.observed.issued().cloned(),
            refused: None,
        }),
        // Nothing is lost: it is in the companion, and goes into the Secret as soon as that can be written.
        Err(Error::Api(error)) if error.is_refused() => Ok(Kept {
            facts: gathered
                .observed
                .companion
                .last_good
                .as_ref()
                .map(|(facts, _)| facts.clone()),
            refused: Some(error.to_string()),
        }),
        Err(error) => Err(error),
    }
}

/// Whether the TLS Secret could be written if there were a certificate: a dry run, with a certificate as it would be.
pub(super) async fn try_write(
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
        Marking::Fallback,
    )
    .map_err(unsendable)?
    .into_bytes();
    let next = build_tls(
        &gathered.observed.key,
        &gathered.observed.spec,
        gathered.secret.as_ref(),
        &Content::Issued(&KeyPairPem { chain, key }, &Marks::default()),
    );
    let key = &gathered.observed.key;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    let tried = apply::rehearse(&api, Effect::TrySecret, &next, gathered.lacks_secret()).await;
    let is_immutable = gathered
        .secret
        .as_ref()
        .is_some_and(|s| s.immutable == Some(true));
    let refused = tried
        .as_ref()
        .err()
        .filter(|e| e.is_refused())
        .map(|error| {
            let why = if is_immutable {
                IMMUTABLE.to_owned()
            } else {
                error.to_string()
            };
            (now, why)
        });
    context.memory.update(key, |e| {
        e.tried = refused.is_none().then_some(now);
        e.unwritable = refused;
    });
    tried?;
    Ok(Outcome::moved())
}

/// The outcome of a stored certificate.
pub(super) fn issued(gathered: &Gathered, kept: &Kept) -> Outcome {
    let until = kept
        .facts
        .as_ref()
        .map(|f| format!(", valid until {}", f.not_after))
        .unwrap_or_default();
    let name = &gathered.observed.spec.secret_name;
    let text = match &kept.refused {
        None => format!("the certificate is in Secret {name}{until}"),
        Some(why) => format!(
            "the certificate is issued{until}, but Secret {name} cannot be written: {why}. It is kept, and no other is ordered"
        ),
    };
    let outcome = Outcome {
        change: Change::Cleared(Ending::issued(text.clone())),
        moved: true,
        note: None,
    };
    match &kept.refused {
        None => outcome.noted(false, Reason::Issued, text),
        Some(_) => outcome.noted(true, Reason::SecretNotWritable, text),
    }
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
pub(super) fn names(gathered: &Gathered) -> Vec<Identifier> {
    gathered
        .observed
        .wanted_names()
        .iter()
        .filter_map(|n| Identifier::parse(n).ok())
        .collect()
}

pub(super) fn pair_of(secret: &Secret) -> KeyPairPem {
    KeyPairPem {
        chain: data(secret, keys::TLS_CRT).to_vec(),
        key: data(secret, keys::TLS_KEY).to_vec(),
    }
}

fn sign(
    key: &PrivateKeyPem,
    names: &[Identifier],
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

pub(super) fn unsendable(error: impl std::fmt::Display) -> Error {
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
    let mut next = build_tls(
        &key,
        &gathered.observed.spec,
        gathered.secret.as_ref(),
        written,
    );
    own_until_marked(&mut next, &gathered.certificate);
    let outcome = if gathered.lacks_secret() {
        still_wanted(&key, &gathered.certificate, &context.client).await?;
        apply::create(&api, effect, &next).await
    } else {
        apply::replace(&api, effect, &next).await
    };
    note_written(gathered, effect, &outcome, context, now);
    gathered.secret = Some(outcome?);
    gathered.observe_again();
    Ok(())
}

/// Who deletes a Certificate and then its Secret means both: a pass that began before must not bring the Secret back. A Conflict when
/// the Certificate is gone, or another one by now.
async fn still_wanted(
    key: &ObjectKey,
    seen: &Certificate,
    client: &Client,
) -> Result<(), ApplyError> {
    let api: Api<Certificate> = Api::namespaced(client.clone(), &key.namespace);
    let now = apply::within(api.get_metadata_opt(&key.name)).await?;
    if now.is_some_and(|now| now.metadata.uid == seen.metadata.uid) {
        return Ok(());
    }
    Err(ApplyError::Conflict(format!("Certificate {key} is gone")))
}

/// Remembers what became of a write of the TLS Secret: a refusal, or that it had to be put in step once more.
fn note_written(
    gathered: &Gathered,
    effect: Effect,
    outcome: &Result<Secret, ApplyError>,
    context: &Context,
    now: Timestamp,
) {
    let secret = gathered.secret.as_ref();
    let refused = match outcome {
        Err(error) if !error.is_refused() => None,
        Err(_) if secret.is_some_and(|s| s.immutable == Some(true)) => Some(IMMUTABLE.to_owned()),
        Err(error) => Some(error.to_string()),
        Ok(_) => None,
    };
    // A new certificate is no answer to another writer.
    let is_new = matches!(effect, Effect::StoreIssued | Effect::StoreSelfSigned);
    let own = effect.concern().manager();
    let managers = secret.map(field_managers).unwrap_or_default();
    let generation = gathered.observed.generation;
    context.memory.update(&gathered.observed.key, |entry| {
        entry.unwritable = refused.map(|why| (now, why));
        if outcome.is_ok() && !is_new {
            let writer = find_writer(&managers, &own);
            entry.circuit.note(generation, writer, now);
        }
    });
}

fn field_managers(secret: &Secret) -> Vec<FieldManager<'_>> {
    let entries = secret.metadata.managed_fields.iter().flatten();
    entries
        .filter_map(|entry| {
            Some(FieldManager {
                name: entry.manager.as_deref()?,
                at: entry.time.as_ref().map(|time| time.0),
            })
        })
        .collect()
}

pub(super) async fn write_companion(
    gathered: &mut Gathered,
    change: &CompanionChange<'_>,
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
    if let Err(error) = &written
        && error.is_refused()
    {
        // Without it there is nowhere to keep a key or a certificate.
        let why = format!("of its companion, which comes first: {error}");
        let key = &gathered.observed.key;
        context
            .memory
            .update(key, |e| e.unwritable = Some((Timestamp::now(), why)));
    }
    gathered.companion = Some(written?);
    gathered.observe_again();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_secret_is_made_only_while_its_certificate_is_the_one_that_was_read() {
        let spec =
            json!({"secretName": "s", "dnsNames": ["a.example"], "issuerRef": {"name": "ca"}});
        let mut seen = Certificate::new("c", serde_json::from_value(spec).unwrap());
        seen.metadata.uid = Some("u1".to_owned());
        for (uid, is_wanted) in [(Some("u1"), true), (Some("u2"), false), (None, false)] {
            let service = tower::service_fn(move |_: Request<Body>| async move {
                let (code, body) = match uid {
                    Some(uid) => (
                        200,
                        json!({
                            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "c", "uid": uid},
                        }),
                    ),
                    None => (
                        404,
                        json!({
                            "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "not found",
                            "reason": "NotFound", "code": 404,
                        }),
                    ),
                };
                let mut answer = Response::new(Body::from(body.to_string().into_bytes()));
                *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
                Ok::<_, Infallible>(answer)
            });
            let client = Client::new(service, "default");
            let told = still_wanted(&ObjectKey::new("n", "c"), &seen, &client).await;
            assert_eq!(told.is_ok(), is_wanted, "{uid:?}: {told:?}");
            assert!(is_wanted || told.is_err_and(|error| error.is_conflict()));
        }
    }
}
