//! The only place that writes to Kubernetes.
//!
//! Each call has a deadline of [`DEADLINE`] over all its attempts, since kube's client waits for ever on a connection that
//! hangs. An API server that is busy (429, 5xx) is asked up to [`ATTEMPTS`] times. Server-side apply forces: what Evercert
//! applies is Evercert's, one field manager for each concern. What may not be overwritten goes by [`replace`],
//! [`replace_status`] or a precondition of [`delete`], conditional on the resourceVersion that was read.

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use evercert_api::keys::FIELD_MANAGER;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::Status;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The longest time for one call, its repetitions included.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// The most attempts at one call.
pub const ATTEMPTS: u32 = 4;
/// The pause after the first attempt, doubled after each further one.
const PAUSE: Duration = Duration::from_millis(100);

/// What a write is about; each has a field manager of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Concern {
    /// TLS Secrets.
    Secret,
    /// Companion Secrets.
    Companion,
    /// Status of a resource.
    Status,
    /// The open challenges.
    Challenges,
    /// The routes to the solver.
    Route,
    /// The solver's Deployment and Service.
    Solver,
}

impl Concern {
    /// The field manager.
    #[must_use]
    pub fn manager(self) -> String {
        let concern = match self {
            Self::Secret => "secret",
            Self::Companion => "companion",
            Self::Status => "status",
            Self::Challenges => "challenges",
            Self::Route => "route",
            Self::Solver => "solver",
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
    /// The API server was busy or unreachable each time; whether the write was done is unknown.
    #[error("the API server does not answer as it should: {0}")]
    Unavailable(String),
    /// No answer within [`DEADLINE`]; whether the write was done is unknown.
    #[error("the API server did not answer within 15 s")]
    TimedOut,
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

    /// Whether the same call may go well later without a change by anybody.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut)
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
            429 | 500.. => Self::Unavailable(message),
            code => Self::Refused { code, message },
        }
    }
}

impl From<kube::Error> for ApplyError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(&status),
            kube::Error::BuildRequest(error) => Self::Unsendable(error.to_string()),
            // Transport and protocol: the innermost cause says what happened, the outer ones only repeat it.
            other => Self::Unavailable(root_cause(&other)),
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

/// Runs one read with the deadline, without repetition.
///
/// # Errors
/// [`ApplyError::TimedOut`], or the API server's answer.
pub async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, ApplyError> {
    tokio::time::timeout(DEADLINE, call)
        .await
        .map_err(|_| ApplyError::TimedOut)?
        .map_err(ApplyError::from)
}

/// Server-side apply of the whole `object`, forced. Idempotent; creates what is missing.
///
/// # Errors
/// [`ApplyError`]; a Conflict only when the object carries a resourceVersion that is no longer the newest.
pub async fn apply<K>(api: &Api<K>, concern: Concern, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    apply_with(api, object, &PatchParams::apply(&concern.manager()).force()).await
}

/// As [`apply`], but the API server only checks and stores nothing. Idempotent.
///
/// # Errors
/// What [`apply`] would say.
pub async fn apply_dry_run<K>(api: &Api<K>, concern: Concern, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    apply_with(
        api,
        object,
        &PatchParams::apply(&concern.manager()).force().dry_run(),
    )
    .await
}

async fn apply_with<K>(api: &Api<K>, object: &K, params: &PatchParams) -> Result<K, ApplyError>
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
    repeated(|| api.patch(&name, params, &patch)).await
}

/// Server-side apply of `object`'s status and nothing else, forced; what an earlier apply had and this one lacks is taken
/// away. Conditional when the object carries a resourceVersion. Idempotent.
///
/// # Errors
/// [`ApplyError`]; a Conflict when the resourceVersion is no longer the newest.
pub async fn apply_status<K>(api: &Api<K>, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let name = name_of(object)?;
    let whole = as_json(object)?;
    let mut metadata = json!({ "name": name });
    if let Some(version) = object.resource_version() {
        metadata["resourceVersion"] = json!(version);
    }
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": metadata,
        "status": whole.get("status").cloned().unwrap_or_else(|| json!({})),
    });
    let params = PatchParams::apply(&Concern::Status.manager()).force();
    let patch = Patch::Apply(&body);
    repeated(|| api.patch_status(&name, &params, &patch)).await
}

/// Creates `object`. Not idempotent: a Conflict says that one of that name exists, which after an unanswered attempt may be
/// the very one.
///
/// # Errors
/// [`ApplyError`].
pub async fn create<K>(api: &Api<K>, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let params = post_params::<K>();
    repeated(|| api.create(&params, object)).await
}

/// Replaces the object, provided that its resourceVersion is still the newest. Idempotent in that a second call is refused.
///
/// # Errors
/// [`ApplyError::Conflict`] when somebody else wrote in between; [`ApplyError::Unsendable`] without a resourceVersion.
pub async fn replace<K>(api: &Api<K>, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let name = conditional_name_of(object)?;
    let params = post_params::<K>();
    repeated(|| api.replace(&name, &params, object)).await
}

/// As [`replace`], for the status alone.
///
/// # Errors
/// As [`replace`].
pub async fn replace_status<K>(api: &Api<K>, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let name = conditional_name_of(object)?;
    let params = PostParams {
        dry_run: false,
        field_manager: Some(Concern::Status.manager()),
    };
    repeated(|| api.replace_status(&name, &params, object)).await
}

/// Deletes the object, and by the garbage collector what it owns. Idempotent: true when it was there, false when it was gone
/// already.
///
/// # Errors
/// [`ApplyError::Conflict`] when another object than the expected one bears the name.
pub async fn delete<K>(api: &Api<K>, name: &str, expected: &Expected) -> Result<bool, ApplyError>
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
    match repeated(|| api.delete(name, &params)).await {
        Ok(_) => Ok(true),
        Err(ApplyError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Repeats `call` while the API server is busy, within the deadline. What times out is not repeated.
async fn repeated<T, F>(mut call: impl FnMut() -> F) -> Result<T, ApplyError>
where
    F: Future<Output = kube::Result<T>>,
{
    let attempts = async {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match call().await {
                Err(kube::Error::Api(status)) if matches!(status.code, 429 | 500..) => {
                    let asked = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
                    // An asked-for wait beyond the deadline ends in `TimedOut`, and the caller has a backoff of its own.
                    tokio::time::sleep(pause.max(Duration::from_secs(u64::from(asked)))).await;
                    pause *= 2;
                }
                other => return other,
            }
        }
        call().await
    };
    within(attempts).await
}

/// The field manager of writes that are not applied: the kind is their concern.
fn post_params<K: Resource<DynamicType = ()>>() -> PostParams {
    let kind = K::kind(&()).to_ascii_lowercase();
    PostParams {
        dry_run: false,
        field_manager: Some(format!("{FIELD_MANAGER}-{kind}")),
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

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
