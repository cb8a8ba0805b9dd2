//! The only place that writes to Kubernetes. Each write names its [`Effect`], from which its field manager follows.
//!
//! Each call is one request with a deadline of [`DEADLINE`], since kube's client waits for ever on a connection that hangs. A
//! call that an API server was too busy for is not repeated here: its error says when to come again, and the caller's requeue
//! obeys. Server-side apply forces: what Evercert applies is Evercert's, one field manager for each concern. What may not be
//! overwritten goes by [`create`], [`replace`], [`replace_status`] or a precondition of [`delete`], conditional on the
//! resourceVersion that was read.

// Anywhere else in this crate the lint refuses these calls.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that writes, each time by the name of an effect"
)]

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use evercert_api::keys::FIELD_MANAGER;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::Status;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::effect::{Effect, perform};
use crate::lease::NotLeader;

/// The longest time for one call.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// The longest `Retry-After` of an API server that is believed.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// What an effect is about; each has a field manager of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Concern {
    /// Secrets with an account's key.
    Account,
    /// TLS Secrets.
    Secret,
    /// Companion Secrets.
    Companion,
    /// Status of a resource.
    Status,
    /// What was asked of each CA.
    Ledger,
    /// Events.
    Event,
    /// The open challenges.
    Challenges,
    /// The routes to the solver.
    Route,
    /// The solver's Deployment and Service.
    Solver,
    /// The forwarders in the namespaces of Certificates.
    Forwarder,
    /// The Certificates that Ingresses ask for.
    Source,
    /// The Lease.
    Lease,
    /// A CA: nothing in the cluster.
    Ca,
}

impl Concern {
    /// The field manager.
    #[must_use]
    pub fn manager(self) -> String {
        let concern = match self {
            Self::Account => "account",
            Self::Secret => "secret",
            Self::Companion => "companion",
            Self::Status => "status",
            Self::Ledger => "ledger",
            Self::Event => "event",
            Self::Challenges => "challenges",
            Self::Route => "route",
            Self::Solver => "solver",
            Self::Forwarder => "forwarder",
            Self::Source => "source",
            Self::Lease => "lease",
            Self::Ca => "ca",
        };
        format!("{FIELD_MANAGER}-{concern}")
    }
}

/// Why a call to the API server failed; the sentence has the API server's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Another writer was faster (409 Conflict), or the object exists already (409 AlreadyExists): read again.
    #[error("{0}")]
    Conflict(String),
    /// The object, its namespace or its kind does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The API server refuses: admission, validation, quota or missing rights.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The API server's sentence.
        message: String,
    },
    /// The API server is busy or unreachable; whether the write was done is unknown.
    #[error("the API server does not answer as it should: {message}")]
    Unavailable {
        /// What it says, or what happened.
        message: String,
        /// How long it wants to be left alone (`Retry-After`), at most a minute.
        retry_after: Option<Duration>,
    },
    /// No answer within [`DEADLINE`]; whether the write was done is unknown.
    #[error("the API server did not answer within 15 s")]
    TimedOut,
    /// This process may not write any more: its claim on the Lease is over. Nothing was sent.
    #[error("nothing is written: {NotLeader}")]
    NotLeader,
    /// The object cannot be written as JSON, or has no name.
    #[error("the object cannot be sent: {0}")]
    Unsendable(String),
}

impl ApplyError {
    /// Whether another writer was faster, or the object exists already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// Whether the object, or its namespace, does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// Whether the API server refuses this very write: admission, validation, quota, missing rights, or no such namespace.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        !self.is_conflict() && !self.is_passing()
    }

    /// Whether the API server refuses what is in this very write: admission, validation, quota or missing rights, which it does
    /// not tell from each other.
    #[must_use]
    pub fn is_by_admission(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: 400 | 403 | 422,
                ..
            }
        )
    }

    /// Whether the same call may go well later without a change by anybody.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::TimedOut | Self::NotLeader
        )
    }

    /// How long the API server wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::Conflict(_)
            | Self::NotFound(_)
            | Self::Refused { .. }
            | Self::TimedOut
            | Self::NotLeader
            | Self::Unsendable(_) => None,
        }
    }

    fn from_status(status: &Status) -> Self {
        let message = if status.message.is_empty() {
            format!("HTTP status {}", status.code)
        } else {
            status.message.clone()
        };
        match status.code {
            409 => Self::Conflict(message),
            404 => Self::NotFound(message),
            429 | 500.. => Self::Unavailable {
                message,
                retry_after: status
                    .details
                    .as_ref()
                    .map(|d| Duration::from_secs(u64::from(d.retry_after_seconds)))
                    .filter(|wait| !wait.is_zero())
                    .map(|wait| wait.min(LONGEST_WAIT)),
            },
            code => Self::Refused { code, message },
        }
    }
}

impl From<kube::Error> for ApplyError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(&status),
            kube::Error::BuildRequest(error) => Self::Unsendable(error.to_string()),
            other if is_not_leader(&other) => Self::NotLeader,
            // Transport and protocol: the innermost cause says what happened, the outer ones only repeat it.
            other => Self::Unavailable {
                message: root_cause(&other),
                retry_after: None,
            },
        }
    }
}

/// Which object a delete is about; anything else under that name is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its UID.
    pub uid: Option<String>,
    /// Its resourceVersion.
    pub resource_version: Option<String>,
}

/// Runs one call with the deadline.
///
/// # Errors
/// [`ApplyError::TimedOut`], or the API server's answer.
pub async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, ApplyError> {
    tokio::time::timeout(DEADLINE, call)
        .await
        .map_err(|_| ApplyError::TimedOut)?
        .map_err(ApplyError::from)
}

/// Server-side apply of the whole `object`, forced. Idempotent; creates what is missing, unless it carries a UID.
///
/// # Errors
/// [`ApplyError`]; a Conflict only when the object carries a resourceVersion that is no longer the newest, or another one's UID.
pub async fn apply<K>(api: &Api<K>, effect: Effect, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let params = PatchParams::apply(&effect.concern().manager()).force();
    send_apply(api, effect, object, &params).await
}

/// The same where there is no such object, not forced: a Conflict when one that another manager has filled otherwise exists.
///
/// # Errors
/// [`ApplyError`].
pub async fn apply_new<K>(api: &Api<K>, effect: Effect, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let params = PatchParams::apply(&effect.concern().manager());
    send_apply(api, effect, object, &params).await
}

async fn send_apply<K>(
    api: &Api<K>,
    effect: Effect,
    object: &K,
    params: &PatchParams,
) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let name = name_of(object)?;
    let mut body = as_json(object)?;
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        // The API server refuses an apply that carries them.
        metadata.remove("managedFields");
    }
    let patch = Patch::Apply(&body);
    perform(effect, within(api.patch(&name, params, &patch))).await
}

/// Creates `object`. Not idempotent: a Conflict says that one of that name exists, which after an unanswered call may be the
/// very one.
///
/// # Errors
/// [`ApplyError`].
pub async fn create<K>(api: &Api<K>, effect: Effect, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let params = post_params(effect);
    perform(effect, within(api.create(&params, object))).await
}

/// Replaces the object, provided that its resourceVersion is still the newest. Idempotent in that a second call is refused.
///
/// # Errors
/// [`ApplyError::Conflict`] when somebody else wrote in between; [`ApplyError::Unsendable`] without a resourceVersion.
pub async fn replace<K>(api: &Api<K>, effect: Effect, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let name = conditional_name_of(object)?;
    let params = post_params(effect);
    perform(effect, within(api.replace(&name, &params, object))).await
}

/// As [`create`] where it is `new`, else as [`replace`], but as a dry run: everything is checked, nothing is stored.
///
/// # Errors
/// As these.
pub async fn rehearse<K>(
    api: &Api<K>,
    effect: Effect,
    object: &K,
    new: bool,
) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let params = PostParams {
        dry_run: true,
        ..post_params(effect)
    };
    if new {
        return perform(effect, within(api.create(&params, object))).await;
    }
    let name = conditional_name_of(object)?;
    perform(effect, within(api.replace(&name, &params, object))).await
}

/// As [`replace`], for the status alone.
///
/// # Errors
/// As [`replace`].
pub async fn replace_status<K>(api: &Api<K>, effect: Effect, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let name = conditional_name_of(object)?;
    let params = post_params(effect);
    perform(effect, within(api.replace_status(&name, &params, object))).await
}

/// Changes the object by a JSON patch (RFC 6902), which should bear the resourceVersion that was read.
///
/// # Errors
/// [`ApplyError::Conflict`] when it does and somebody else wrote in between; [`ApplyError::Unsendable`] when it is no patch.
pub async fn edit<K>(
    api: &Api<K>,
    effect: Effect,
    name: &str,
    operations: Vec<Value>,
) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let operations = serde_json::from_value(Value::Array(operations))
        .map_err(|e| ApplyError::Unsendable(e.to_string()))?;
    let params = PatchParams {
        field_manager: Some(effect.concern().manager()),
        ..PatchParams::default()
    };
    let patch = Patch::<()>::Json(operations);
    perform(effect, within(api.patch(name, &params, &patch))).await
}

/// Deletes the object, and by the garbage collector what it owns. Idempotent: true when it was there, false when it was gone
/// already.
///
/// # Errors
/// [`ApplyError::Conflict`] when another object than the expected one bears the name.
pub async fn delete<K>(
    api: &Api<K>,
    effect: Effect,
    name: &str,
    expected: &Expected,
) -> Result<bool, ApplyError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let preconditions = (*expected != Expected::default()).then(|| Preconditions {
        uid: expected.uid.clone(),
        resource_version: expected.resource_version.clone(),
    });
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions,
        ..DeleteParams::default()
    };
    match perform(effect, within(api.delete(name, &params))).await {
        Ok(_) => Ok(true),
        Err(ApplyError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn post_params(effect: Effect) -> PostParams {
    PostParams {
        dry_run: false,
        field_manager: Some(effect.concern().manager()),
    }
}

fn name_of<K: Resource>(object: &K) -> Result<String, ApplyError> {
    object
        .meta()
        .name
        .clone()
        .ok_or_else(|| ApplyError::Unsendable("it has no name".to_owned()))
}

fn conditional_name_of<K: Resource>(object: &K) -> Result<String, ApplyError> {
    if object.meta().resource_version.is_none() {
        return Err(ApplyError::Unsendable(
            "it has no resourceVersion".to_owned(),
        ));
    }
    name_of(object)
}

fn as_json<K: Serialize>(object: &K) -> Result<Value, ApplyError> {
    serde_json::to_value(object).map_err(|e| ApplyError::Unsendable(e.to_string()))
}

fn is_not_leader(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(cause) if cause.is::<NotLeader>())
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
