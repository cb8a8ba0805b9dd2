//! Issuer and ClusterIssuer seen alike.

use std::collections::BTreeMap;
use std::fmt;

use evercert_api::certificate::{IssuerKind, IssuerRef};
use evercert_api::duration::parse_duration;
use evercert_api::issuer::{AcmeIssuer, Placement, PolicyRule, directory_url};
use evercert_api::{ClusterIssuer, Issuer, IssuerStatus, Reason, keys};
use evercert_core::observe::SELF_SIGNED;
use evercert_core::reach::SelfCheck;
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

    /// The annotations that it adds to its routes, and a sentence about those that it may not: a namespaced Issuer may add those whose
    /// keys are among `allowed`, a ClusterIssuer any.
    pub(crate) fn route_annotations(
        &self,
        allowed: &[String],
    ) -> (BTreeMap<String, String>, Option<(Reason, String)>) {
        let http01 = self.acme.as_ref().and_then(|acme| acme.http01.as_ref());
        let wanted = http01.map(|h| h.annotations.clone()).unwrap_or_default();
        if self.id.namespace.is_none() {
            return (wanted, None);
        }
        let is_allowed = |key: &str| {
            allowed.iter().any(|a| match a.strip_suffix('*') {
                Some(prefix) => key.starts_with(prefix),
                None => a == key,
            })
        };
        let (taken, refused): (BTreeMap<_, _>, BTreeMap<_, _>) =
            wanted.into_iter().partition(|(key, _)| is_allowed(key));
        let refused: Vec<String> = refused.into_keys().collect();
        let note = (!refused.is_empty()).then(|| {
            let text = format!(
                "Of spec.acme.http01.annotations these keys are left out, since an Issuer may not set them: {}. Use a \
                 ClusterIssuer, or have the operator started with --issuer-route-annotations={}",
                refused.join(", "),
                refused.join(",")
            );
            (Reason::RouteAnnotationsRefused, text)
        });
        (taken, note)
    }

    /// Whether it wants its routes in the users' own Ingresses, where it says.
    pub(crate) fn edit_in_place(&self) -> Option<bool> {
        self.acme.as_ref()?.http01.as_ref()?.edit_in_place
    }

    /// Who it wants behind its routes, where it says.
    pub(crate) fn placement(&self) -> Option<Placement> {
        self.acme.as_ref()?.http01.as_ref()?.placement
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

    /// How much the self-check counts. A budget that the schema would refuse is the usual one.
    pub(crate) fn self_check(&self) -> SelfCheck {
        let usual = SelfCheck::default();
        let http01 = self.acme.as_ref().and_then(|acme| acme.http01.as_ref());
        let Some(wanted) = http01.and_then(|http01| http01.self_check.as_ref()) else {
            return usual;
        };
        let budget = wanted.budget.as_deref().and_then(parse_duration);
        SelfCheck {
            mode: wanted.mode,
            budget: budget.unwrap_or(usual.budget),
        }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> serde_json::Value {
        json!({ "acme": {
            "directory": "https://ca.example/dir",
            "accountKeySecretRef": { "name": "account" },
            "http01": { "annotations": { "a.example/x": "1", "a.example/y": "2", "b.example/z": "3" } },
        } })
    }

    #[test]
    fn an_issuer_sets_allowed_keys_only_and_the_others_are_named_with_the_remedy() {
        let issuer: Issuer = serde_json::from_value(json!({
            "apiVersion": "evercert.dev/v1", "kind": "Issuer",
            "metadata": { "name": "ca", "namespace": "shop" }, "spec": spec(),
        }))
        .unwrap();
        let object = issuer.object("evercert");
        let keys = |allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|a| (*a).to_owned()).collect();
            let (taken, note) = object.route_annotations(&allowed);
            (taken.into_keys().collect::<Vec<_>>(), note)
        };
        let (taken, note) = keys(&["a.example/x"]);
        assert_eq!(taken, ["a.example/x"]);
        let (reason, text) = note.unwrap();
        assert_eq!(reason, Reason::RouteAnnotationsRefused);
        assert_eq!(
            text,
            "Of spec.acme.http01.annotations these keys are left out, since an Issuer may not set them: a.example/y, \
             b.example/z. Use a ClusterIssuer, or have the operator started with \
             --issuer-route-annotations=a.example/y,b.example/z"
        );
        assert_eq!(keys(&["a.example/*"]).0, ["a.example/x", "a.example/y"]);
        assert_eq!(keys(&["a.example/*", "b.example/z"]).1, None);
        assert_eq!(keys(&[]).0, Vec::<String>::new());
    }

    #[test]
    fn a_cluster_issuer_sets_what_it_likes() {
        let issuer: ClusterIssuer = serde_json::from_value(json!({
            "apiVersion": "evercert.dev/v1", "kind": "ClusterIssuer", "metadata": { "name": "ca" }, "spec": spec(),
        }))
        .unwrap();
        let (taken, note) = issuer.object("evercert").route_annotations(&[]);
        assert_eq!((taken.len(), note), (3, None));
    }
}
