//! The objects of the projections, whatever their kind: which one, how it should be, how it was last seen.

use std::fmt;
use std::fmt::Debug;

use evercert_core::key::ObjectKey;
use evercert_core::routes::{Edit, build_patch, read_rules};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::apply::{ApplyError, Expected, apply, delete, edit, within};
use crate::effect::Effect;

/// A kind that the projections write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    ConfigMap,
    Service,
    EndpointSlice,
    Ingress,
    /// What is ours in somebody else's Ingress.
    Edit,
    Deployment,
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectId {
    pub(super) kind: Kind,
    pub(super) key: ObjectKey,
}

/// An object as it should be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Desired {
    pub(super) effect: Effect,
    pub(super) body: Value,
    /// What should be in somebody else's Ingress.
    pub(super) edit: Option<Edit>,
}

/// An object as it was seen: its version in the API server's order, and its JSON without managed fields.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) id: ObjectId,
    pub(super) version: u64,
    pub(super) content: Value,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Edit => write!(f, "Ingress {}", self.key),
            kind => write!(f, "{kind:?} {}", self.key),
        }
    }
}

impl ObjectId {
    pub(super) fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            key: ObjectKey::new(namespace, name),
        }
    }

    /// The id of an object that has a namespace and a name.
    pub(super) fn of<K: Resource>(kind: Kind, object: &K) -> Self {
        let metadata = object.meta();
        Self::new(
            kind,
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
        )
    }
}

impl Desired {
    /// `object` as it should be. JSON cannot fail for the types of k8s-openapi; if it did, the API server would refuse the
    /// empty object.
    pub(super) fn new<K: Serialize>(effect: Effect, object: &K) -> Self {
        Self {
            effect,
            body: serde_json::to_value(object).unwrap_or_default(),
            edit: None,
        }
    }

    /// What should be in somebody else's Ingress.
    pub(super) fn edit(edit: &Edit) -> Self {
        Self {
            effect: Effect::EditIngress,
            body: edit.as_rules(),
            edit: Some(edit.clone()),
        }
    }
}

impl Seen {
    /// Reads an object that the API server gave. A version that is no number counts as the oldest, so it never hides a newer.
    pub(super) fn new<K: Resource + Serialize>(kind: Kind, object: &K) -> Self {
        let version = object
            .meta()
            .resource_version
            .as_deref()
            .and_then(|v| v.parse().ok());
        let mut content = serde_json::to_value(object).unwrap_or_default();
        if let Some(metadata) = content.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        Self {
            id: ObjectId::of(kind, object),
            version: version.unwrap_or_default(),
            content,
        }
    }
}

/// In what was seen of somebody else's Ingress after it was changed: who had written its rules before.
pub(super) const WRITER: &str = "writer";

impl Seen {
    /// What is ours in somebody else's Ingress; `None` where nothing is.
    pub(super) fn edit(ingress: &Ingress) -> Option<Self> {
        let mut seen = Self::new(Kind::Edit, ingress);
        seen.content = read_rules(ingress)?;
        Some(seen)
    }
}

/// Brings our paths in somebody else's Ingress to what they should be; gives them as they are then. Two requests at most.
async fn edit_as(
    client: Client,
    id: &ObjectId,
    effect: Effect,
    wanted: &Edit,
) -> Result<Option<Seen>, ApplyError> {
    let api: Api<Ingress> = Api::namespaced(client, &id.key.namespace);
    let found = match within(api.get(&id.key.name)).await {
        Ok(found) => found,
        Err(error) if error.is_not_found() && wanted.paths.is_empty() => return Ok(None),
        Err(error) => return Err(error),
    };
    let operations = build_patch(&found, wanted);
    if operations.is_empty() {
        return Ok(Seen::edit(&found));
    }
    let manager = rules_manager(&found, &effect.concern().manager());
    let edited = edit(&api, effect, &id.key.name, operations).await?;
    Ok(Seen::edit(&edited).map(|mut seen| {
        if let Some(content) = seen.content.as_object_mut() {
            content.insert(WRITER.to_owned(), manager.into());
        }
        seen
    }))
}

/// Who, beside `own`, has written the rules of an Ingress last.
fn rules_manager(ingress: &Ingress, own: &str) -> Option<String> {
    let entries = ingress.metadata.managed_fields.iter().flatten();
    let others = entries.filter(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        let has_rules = fields.is_some_and(|f| f.pointer("/f:spec/f:rules").is_some());
        has_rules && entry.manager.as_deref() != Some(own)
    });
    let last = others.max_by_key(|entry| entry.time.as_ref().map(|t| t.0));
    last.and_then(|entry| entry.manager.clone())
}

/// Applies an object; gives what the API server then has. One request.
pub(super) async fn apply_object(
    client: Client,
    id: ObjectId,
    desired: Desired,
) -> Result<Seen, ApplyError> {
    match id.kind {
        Kind::ConfigMap => apply_as::<ConfigMap>(client, &id, desired).await,
        Kind::Service => apply_as::<Service>(client, &id, desired).await,
        Kind::EndpointSlice => apply_as::<EndpointSlice>(client, &id, desired).await,
        Kind::Ingress => apply_as::<Ingress>(client, &id, desired).await,
        Kind::Edit => {
            let wanted = desired.edit.unwrap_or_default();
            let seen = edit_as(client, &id, desired.effect, &wanted).await?;
            seen.ok_or_else(|| ApplyError::Conflict("the path was taken away at once".to_owned()))
        }
        Kind::Deployment => apply_as::<Deployment>(client, &id, desired).await,
    }
}

/// Deletes an object if it still is the one with `uid`. One request.
pub(super) async fn delete_object(
    client: Client,
    id: ObjectId,
    effect: Effect,
    uid: Option<String>,
) -> Result<(), ApplyError> {
    match id.kind {
        Kind::ConfigMap => delete_as::<ConfigMap>(client, &id, effect, uid).await,
        Kind::Service => delete_as::<Service>(client, &id, effect, uid).await,
        Kind::EndpointSlice => delete_as::<EndpointSlice>(client, &id, effect, uid).await,
        Kind::Ingress => delete_as::<Ingress>(client, &id, effect, uid).await,
        Kind::Edit => edit_as(client, &id, effect, &Edit::default())
            .await
            .map(drop),
        Kind::Deployment => delete_as::<Deployment>(client, &id, effect, uid).await,
    }
}

async fn apply_as<K>(client: Client, id: &ObjectId, desired: Desired) -> Result<Seen, ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug,
{
    let object: K =
        serde_json::from_value(desired.body).map_err(|e| ApplyError::Unsendable(e.to_string()))?;
    let api: Api<K> = Api::namespaced(client, &id.key.namespace);
    let applied = apply(&api, desired.effect, &object).await?;
    Ok(Seen::new(id.kind, &applied))
}

async fn delete_as<K>(
    client: Client,
    id: &ObjectId,
    effect: Effect,
    uid: Option<String>,
) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug,
{
    let api: Api<K> = Api::namespaced(client, &id.key.namespace);
    let expected = Expected {
        uid,
        resource_version: None,
    };
    delete(&api, effect, &id.key.name, &expected)
        .await
        .map(|_| ())
}
