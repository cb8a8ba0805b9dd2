//! Who a Secret of somebody else belongs to: read only where the Secret itself does not tell.

use evercert_api::keys;
use evercert_core::adopt::{Existence, Owner, Traces, cert_manager_certificate, find_claim};
use evercert_core::key::ObjectKey;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};

use crate::apply::{self, ApplyError};

/// The living controller that the TLS Secret of the Certificate `key` belongs to, in words; `None` for one that names `key`
/// itself. One request, and only for a Secret with cert-manager's annotation.
pub(crate) async fn gather_claim(
    secret: &Secret,
    key: &ObjectKey,
    client: &Client,
) -> Option<String> {
    let annotations = secret.annotations();
    if annotations.get(keys::CERTIFICATE_NAME) == Some(&key.name) {
        return None;
    }
    let owners: Vec<Owner> = secret
        .owner_references()
        .iter()
        .map(|owner| Owner {
            what: format!("{} {}", owner.kind, owner.name),
            controller: owner.controller == Some(true),
        })
        .collect();
    let cert_manager = match cert_manager_certificate(annotations) {
        Some(name) => look_up(client, &key.namespace, name).await,
        None => Existence::Gone,
    };
    find_claim(&Traces {
        owners: &owners,
        labels: secret.labels(),
        annotations,
        cert_manager,
    })
}

/// Whether `owner` owns the Certificate `name` of cert-manager; where Evercert may not look it does not.
pub(crate) async fn is_owner_of_theirs(
    client: &Client,
    namespace: &str,
    name: &str,
    owner: &str,
) -> bool {
    match find_theirs(client, namespace, name).await {
        Ok(found) => found.is_some_and(|c| c.owner_references().iter().any(|o| o.uid == owner)),
        Err(error) => {
            tracing::debug!(namespace, name, %error, "a Certificate of cert-manager cannot be looked up");
            false
        }
    }
}

/// A cluster without cert-manager has no Certificate of it; one where Evercert may not look may have.
async fn look_up(client: &Client, namespace: &str, name: &str) -> Existence {
    match find_theirs(client, namespace, name).await {
        Ok(Some(_)) => Existence::Exists,
        Ok(None) => Existence::Gone,
        Err(error) => {
            tracing::debug!(namespace, name, %error, "a Certificate of cert-manager cannot be looked up");
            Existence::Unknown
        }
    }
}

async fn find_theirs(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<DynamicObject>, ApplyError> {
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate");
    let resource = ApiResource::from_gvk_with_plural(&kind, "certificates");
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    apply::within(api.get_opt(name)).await
}
