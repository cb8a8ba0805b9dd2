//! Issuer and ClusterIssuer seen alike.

use std::fmt;

use evercert_api::certificate::{IssuerKind, IssuerRef};
use evercert_api::issuer::{AcmeIssuer, PolicyRule, directory_url};
use evercert_api::{ClusterIssuer, Issuer, IssuerStatus, keys};
use evercert_core::observe::SELF_SIGNED;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Which issuer: its kind, its name, and its namespace unless it is the cluster's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct IssuerId {
    /// The kind.
    pub(crate) kind: IssuerKind,
    /// The namespace of an Issuer.
    pub(crate) namespace: Option<String>,
    /// The name.
    pub(crate) name: String,
}

impl IssuerId {
    /// The issuer that a Certificate in `namespace` names.
    pub(crate) fn of(reference: &IssuerRef, namespace: &str) -> Self {
        Self {
            kind: reference.kind,
            namespace: (reference.kind == IssuerKind::Issuer).then(|| namespace.to_owned()),
            name: reference.name.clone(),
        }
    }
}

impl fmt::Display for IssuerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

/// What the loop needs to know of either kind.
#[derive(Debug, Clone)]
pub(crate) struct IssuerObject {
    /// Which one.
    pub(crate) id: IssuerId,
    /// The generation of its spec.
    pub(crate) generation: i64,
    /// The CA; `None` for a self-signed issuer.
    pub(crate) acme: Option<AcmeIssuer>,
    /// Who may have which names; empty for an Issuer.
    pub(crate) policy: Vec<PolicyRule>,
    /// What was last reported.
    pub(crate) status: IssuerStatus,
    /// Where its Secrets are.
    pub(crate) secrets_namespace: String,
    /// The value for which its account gets another key, if it is to get one.
    pub(crate) key_rotation: Option<String>,
}

fn key_rotation<K: Resource>(object: &K) -> Option<String> {
    let asked = object.annotations().get(keys::ROTATE_ACCOUNT_KEY)?;
    (!asked.is_empty()).then(|| asked.clone())
}

impl IssuerObject {
    /// The Secret of its account's key; `None` for a self-signed issuer.
    pub(crate) fn account_key_name(&self) -> Option<&str> {
        Some(&self.acme.as_ref()?.account_key_secret_ref.name)
    }

    /// The root that its certificates should lead to, where it names one.
    pub(crate) fn preferred_chain(&self) -> Option<String> {
        self.acme.as_ref()?.preferred_chain.clone()
    }

    /// The directory's URL that its spec names, or [`SELF_SIGNED`].
    pub(crate) fn directory(&self) -> &str {
        let acme = self.acme.as_ref();
        acme.map_or(SELF_SIGNED, |acme| directory_url(&acme.directory))
    }

    /// The CA's profile that it wants.
    pub(crate) fn profile(&self) -> Option<String> {
        self.acme.as_ref()?.profile.clone()
    }

    /// The ingress class of its routes, where it names one.
    pub(crate) fn ingress_class(&self) -> Option<String> {
        self.acme
            .as_ref()?
            .http01
            .as_ref()?
            .ingress_class_name
            .clone()
    }
}

/// Issuer or ClusterIssuer.
pub(crate) trait IssuerResource:
    Resource<DynamicType = ()>
    + Clone
    + fmt::Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The object, seen alike; `operator_namespace` holds the Secrets of a ClusterIssuer.
    fn object(&self, operator_namespace: &str) -> IssuerObject;
    /// The API that it is reached by.
    fn api(&self, client: Client) -> Api<Self>;
    /// Replaces the status.
    fn set_status(&mut self, status: IssuerStatus);
}

impl IssuerResource for Issuer {
    fn object(&self, _: &str) -> IssuerObject {
        let namespace = self.namespace().unwrap_or_default();
        IssuerObject {
            id: IssuerId {
                kind: IssuerKind::Issuer,
                namespace: Some(namespace.clone()),
                name: self.name_any(),
            },
            generation: self.metadata.generation.unwrap_or_default(),
            acme: self.spec.acme.clone(),
            policy: Vec::new(),
            status: self.status.clone().unwrap_or_default(),
            secrets_namespace: namespace,
            key_rotation: key_rotation(self),
        }
    }

    fn api(&self, client: Client) -> Api<Self> {
        Api::namespaced(client, &self.namespace().unwrap_or_default())
    }

    fn set_status(&mut self, status: IssuerStatus) {
        self.status = Some(status);
    }
}

impl IssuerResource for ClusterIssuer {
    fn object(&self, operator_namespace: &str) -> IssuerObject {
        IssuerObject {
            id: IssuerId {
                kind: IssuerKind::ClusterIssuer,
                namespace: None,
                name: self.name_any(),
            },
            generation: self.metadata.generation.unwrap_or_default(),
            acme: self.spec.acme.clone(),
            policy: self.spec.policy.clone(),
            status: self.status.clone().unwrap_or_default(),
            secrets_namespace: operator_namespace.to_owned(),
            key_rotation: key_rotation(self),
        }
    }

    fn api(&self, client: Client) -> Api<Self> {
        Api::all(client)
    }

    fn set_status(&mut self, status: IssuerStatus) {
        self.status = Some(status);
    }
}
