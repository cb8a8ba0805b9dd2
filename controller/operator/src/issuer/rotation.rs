//! Another key for the account, when a person asks for it (RFC 8555 §7.3.5, ADR 10).
//!
//! ```text
//! asked for → the next key is stored beside the present one → keyChange → the next key alone is stored
//! ```
//!
//! With two keys in the Secret it is not known which of them the account has: the CA is asked, the next one first. So a crash
//! anywhere loses nothing.

use evercert_acme::FoundAccount;
use evercert_api::{Reason, keys};
use evercert_core::fault::{Fault, FaultClass};
use evercert_core::sentence::build_fault;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::key::{AccountKey, KeyChange};
use super::object::IssuerObject;
use super::ready::{NotReady, Stop, stop};
use super::session::HeldKey;
use crate::apply;
use crate::context::Context;
use crate::effect::{Effect, ca};
use crate::secrets::data;

/// Stores the next key beside the present one, where a person has asked for another one and none is on its way.
pub(super) async fn begin(
    object: &IssuerObject,
    mut key: AccountKey,
    secrets: &Api<Secret>,
    context: &Context,
) -> Result<AccountKey, Stop> {
    let (Some(asked), Some(secret), None) = (&object.key_rotation, &key.secret, &key.next) else {
        return Ok(key);
    };
    if key.rotation.as_ref() == Some(asked) {
        return Ok(key);
    }
    let not = |why: String| {
        let message = format!("the account's next key cannot be stored: {why}");
        NotReady::here(Reason::InvalidAccountKey, message)
    };
    let next = evercert_pki::generate_account_key().map_err(|e| not(e.to_string()))?;
    let mut wanted = secret.clone();
    wanted
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(keys::KEY_ROTATION.to_owned(), asked.clone());
    wanted.data.get_or_insert_default().insert(
        keys::NEXT_KEY.to_owned(),
        ByteString(next.as_bytes().to_vec()),
    );
    let stored = apply::replace(secrets, Effect::KeepNextAccountKey, &wanted).await;
    let stored = stored.map_err(|e| {
        if e.is_conflict() {
            Stop::Api(e)
        } else {
            stop(e, not)
        }
    })?;
    // A Secret that is deleted now is put back with both.
    if let Some(held) = context.sessions.key(&object.id) {
        let held = HeldKey {
            next: Some(next.as_bytes().to_vec()),
            rotation: Some(asked.clone()),
            ..held
        };
        context.sessions.hold_key(&object.id, held);
    }
    key.next = evercert_pki::account_key_der(next.as_bytes()).ok();
    key.rotation.clone_from(&object.key_rotation);
    key.secret = Some(stored);
    Ok(key)
}

/// The account with the next key: it has it already, or is given it now. The outer error is the CA's trouble, the inner one a
/// refusal, with which the account keeps its key.
pub(super) async fn ensure_changed(
    object: &IssuerObject,
    account: FoundAccount,
    next: &[u8],
    context: &Context,
    now: Timestamp,
) -> Result<Result<FoundAccount, String>, Fault> {
    // Whoever has the present key in hand is not to take the CA's refusal for anything else.
    for other in context.sessions.suspect(&object.id, None) {
        context.wake_issuers.wake(&other);
    }
    match ca::change_key(account, next, now).await {
        Ok(changed) => Ok(Ok(changed)),
        Err(fault) => match fault.class {
            FaultClass::Unavailable | FaultClass::RateLimited => Err(fault),
            FaultClass::Validation
            | FaultClass::Account
            | FaultClass::Permanent
            | FaultClass::Transient
            | FaultClass::Gone
            | FaultClass::NotReady => Ok(Err(build_fault(&fault))),
        },
    }
}

/// Stores the one key that the account has.
pub(super) async fn settle(
    key: &mut AccountKey,
    change: &KeyChange,
    secrets: &Api<Secret>,
) -> Result<(), Stop> {
    let (Some(secret), Some(next)) = (&key.secret, &key.next) else {
        return Ok(());
    };
    let mut wanted = secret.clone();
    let stored = wanted.data.get_or_insert_default();
    stored.remove(keys::NEXT_KEY);
    if *change == KeyChange::Changed {
        let pem = data(secret, keys::NEXT_KEY).to_vec();
        stored.insert(keys::TLS_KEY.to_owned(), ByteString(pem));
        key.der.clone_from(next);
    }
    let written = apply::replace(secrets, Effect::SettleAccountKey, &wanted).await;
    key.secret = Some(written.map_err(Stop::Api)?);
    key.next = None;
    Ok(())
}
