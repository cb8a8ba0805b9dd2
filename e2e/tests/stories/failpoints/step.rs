//! The steps of a play: what a person, another program or a CA does, and what is waited for.

use super::PATIENCE;
use super::play::{OLD, SITE};
use anyhow::{Context, Result};
use evercert_api::certificate::DeletionPolicy;
use evercert_api::keys::{COMPONENT_LABEL, COMPONENT_ROUTE, DELETE_WITH, SECRET_ROLE_LABEL};
use evercert_api::{Certificate, Issuer, children};
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::ingress_class;
use evercert_e2e::story::issuer_yaml;
use k8s_openapi::api::core::v1::{ResourceQuota, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

/// A CA that never asks for patience.
pub(super) fn quick() -> Pebble {
    Pebble {
        retry_after: (0, 0),
        ..Pebble::default()
    }
}

pub(super) async fn begin(story: &Story<'_>, ca: &TestCa, label: &str) -> Result<()> {
    issuer(story, ca).await?;
    want(story, label).await
}

pub(super) async fn issuer(story: &Story<'_>, ca: &TestCa) -> Result<()> {
    story.apply(&build_issuer(ca)?.to_string()).await
}

pub(super) fn build_issuer(ca: &TestCa) -> Result<Value> {
    let issuer = issuer_yaml("Issuer", "ca", &ca.directory(), &ca.bundle()?);
    let mut issuer: Value = serde_json::from_str(&issuer)?;
    let acme = issuer.pointer_mut("/spec/acme").context("no acme")?;
    acme["email"] = json!("ops@example.test");
    Ok(issuer)
}

/// An Ingress that serves the name, and asks for nothing.
pub(super) fn plain(story: &Story<'_>) -> String {
    let backend = json!({"service": {"name": "x", "port": {"number": 80}}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": SITE},
        "spec": {"ingressClassName": ingress_class(), "rules": [{"host": story.host("www"), "http": {
            "paths": [{"path": "/", "pathType": "Prefix", "backend": backend}],
        }}]},
    })
    .to_string()
}

/// The user's Ingress has its own path, and no other.
pub(super) async fn is_restored(story: &Story<'_>) -> Result<()> {
    let api = story.api::<Ingress>();
    story.ready(SITE, PATIENCE).await?;
    story
        .wait_for("the Ingress is as it was", PATIENCE, async || {
            let content = serde_json::to_value(api.get(SITE).await?)?;
            let paths = content.pointer("/spec/rules/0/http/paths");
            let paths = paths.and_then(Value::as_array).context("no paths")?;
            anyhow::ensure!(paths.len() == 1 && paths[0]["path"] == "/", "{paths:?}");
            Ok(Some(()))
        })
        .await
}

/// An Ingress that asks for a Certificate of its own name.
pub(super) fn annotated(story: &Story<'_>, name: &str, issuer: &str, label: &str) -> String {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "annotations": {"evercert.dev/issuer": issuer}},
        "spec": {
            "ingressClassName": ingress_class(),
            "tls": [{"hosts": [story.host(label)], "secretName": name}],
            "defaultBackend": {"service": {"name": "x", "port": {"number": 80}}},
        },
    })
    .to_string()
}

pub(super) async fn want(story: &Story<'_>, label: &str) -> Result<()> {
    story.certificate(SITE, &[story.host(label)]).await?;
    Ok(())
}

/// Somebody takes labels and annotations away from the Secret.
pub(super) async fn strip(story: &Story<'_>) -> Result<()> {
    let bare = json!({"metadata": {"annotations": null, "labels": null}});
    let secrets = story.api::<Secret>();
    secrets
        .patch(SITE, &PatchParams::default(), &Patch::Merge(&bare))
        .await?;
    Ok(())
}

/// The Secret is all that is left of the Certificate, and it does not tell.
pub(super) async fn bereave(story: &Story<'_>) -> Result<()> {
    let gone = DeleteParams::default();
    story.api::<Certificate>().delete(SITE, &gone).await?;
    let companion = children::companion_name(story.namespace, SITE);
    let deleted = story.api::<Secret>().delete(&companion, &gone).await;
    if let Err(error) = deleted {
        // The garbage collector may have been faster.
        let there = story.api::<Secret>().get_opt(&companion).await?;
        anyhow::ensure!(there.is_none(), "{error}");
    }
    strip(story).await
}

pub(super) async fn own_issuer(story: &Story<'_>) -> Result<()> {
    let issuer = json!({
        "apiVersion": "evercert.dev/v1", "kind": "Issuer", "metadata": {"name": OLD}, "spec": {"selfSigned": {}},
    });
    story.apply(&issuer.to_string()).await
}

/// The Certificate that nobody asks for any more is gone, its Secret is not; then the rest goes.
pub(super) async fn is_unasked(story: &Story<'_>) -> Result<()> {
    story
        .wait_for("the Certificate is gone", PATIENCE, async || {
            let there = story.api::<Certificate>().get_opt(OLD).await?;
            Ok(there.is_none().then_some(()))
        })
        .await?;
    story.secret(OLD).await?;
    let gone = DeleteParams::default();
    story.api::<Issuer>().delete(OLD, &gone).await?;
    story.api::<Ingress>().delete(OLD, &gone).await?;
    story.api::<Secret>().delete(OLD, &gone).await?;
    Ok(())
}

/// Another Certificate, whose Secret goes with it.
pub(super) async fn make_mortal(story: &Story<'_>) -> Result<()> {
    own_issuer(story).await?;
    story
        .certificate_with(OLD, &[story.host(OLD)], |spec| {
            OLD.clone_into(&mut spec.issuer_ref.name);
            spec.deletion_policy = DeletionPolicy::Delete;
        })
        .await?;
    story.ready(OLD, PATIENCE).await?;
    let marked = |secret: &Secret| secret.annotations().get(DELETE_WITH) == secret.uid().as_ref();
    story.until(OLD, "it is marked", PATIENCE, marked).await?;
    Ok(())
}

/// Its Secret, and what else was its own.
pub(super) async fn is_gone(story: &Story<'_>) -> Result<()> {
    let issuers = story.api::<Issuer>();
    issuers.delete(OLD, &DeleteParams::default()).await?;
    story
        .wait_for("the Secret is gone", PATIENCE, async || {
            let there = story.api::<Secret>().get_opt(OLD).await?;
            Ok(there.is_none().then_some(()))
        })
        .await
}

/// An Ingress in a namespace that may have one.
pub(super) async fn leave(story: &Story<'_>) -> Result<()> {
    let old = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": OLD},
        "spec": {"ingressClassName": "nobodys", "defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}},
    });
    story.apply(&old.to_string()).await?;
    limit_ingresses(story, 1).await
}

/// The namespace may have so many Ingresses, and the API server knows it.
pub(super) async fn limit_ingresses(story: &Story<'_>, most: usize) -> Result<()> {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": OLD},
        "spec": {"hard": {"count/ingresses.networking.k8s.io": most.to_string()}},
    });
    story.apply(&quota.to_string()).await?;
    let counted = |quota: &ResourceQuota| {
        quota
            .status
            .as_ref()
            .is_some_and(|status| status.used.is_some())
    };
    story
        .until(OLD, "the quota is counted", PATIENCE, counted)
        .await?;
    Ok(())
}

/// Makes the Ingress, and a slice, a route of an earlier run: the route Service owns them. Until the Ingress goes there is no
/// room for the one that is needed.
pub(super) async fn adopt(story: &Story<'_>) -> Result<()> {
    let service = find_route(story).await?;
    let route = service.name_any();
    let metadata = |name: &str| {
        json!({
            "name": name,
            "labels": {COMPONENT_LABEL: COMPONENT_ROUTE},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": route,
                "uid": service.uid().unwrap_or_default(),
            }],
        })
    };
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata(&format!("{route}-{OLD}")),
        "addressType": "IPv4", "endpoints": [],
    });
    story.apply(&slice.to_string()).await?;
    let marks = json!({"metadata": metadata(OLD)});
    story
        .api::<Ingress>()
        .patch(OLD, &PatchParams::default(), &Patch::Merge(&marks))
        .await?;
    Ok(())
}

/// The Service of the namespace's routes.
pub(super) async fn find_route(story: &Story<'_>) -> Result<Service> {
    let routes = ListParams::default().labels(&format!("{COMPONENT_LABEL}={COMPONENT_ROUTE}"));
    let services = story.api::<Service>();
    story
        .wait_for("the route's Service", PATIENCE, async || {
            Ok(services.list(&routes).await?.items.pop())
        })
        .await
}

/// The label that the operator finds its Secrets by.
pub(super) fn is_labelled(secret: &Secret) -> bool {
    secret.labels().contains_key(SECRET_ROLE_LABEL)
}
