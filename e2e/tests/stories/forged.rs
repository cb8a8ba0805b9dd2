//! A tenant with every right in its namespace writes a status: nothing is served, nothing is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_cluster::address;
use evercert_e2e::operator::token;
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, curl, dns};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Config};
use tokio::net::TcpListener;

use crate::app::application;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![a_forged_status_serves_nothing_and_asks_nothing]
}

const TENANT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: tenant}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: everything}
rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tenant}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: everything}
subjects: [{kind: ServiceAccount, name: tenant}]
";

async fn a_forged_status_serves_nothing_and_asks_nothing(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    story.apply(TENANT).await?;
    // Without any route nobody listens at port 80.
    story
        .apply(&application("other", &story.host("other")))
        .await?;
    // Its name leads nowhere, so that the Certificate waits with no order of its own.
    let host = story.host("mine");
    dns::point(&host, &[dns::NOBODY])?;
    story.certificate("mine", &[host]).await?;
    story
        .until(
            "mine",
            "it waits for its next attempt",
            SOON,
            |certificate: &Certificate| {
                certificate
                    .status
                    .as_ref()
                    .is_some_and(|status| status.last_failure.is_some() && status.order.is_none())
            },
        )
        .await?;
    let before = ca.count()?;

    let (elsewhere, asked) = listen().await?;
    let victim = "bank.victim.test";
    let stolen = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let tenant: Api<Certificate> = Api::namespaced(tenant(&story).await?, story.namespace);
    let foreign_order = format!("https://{elsewhere}/order/1");
    let known_origin = format!("{}/../my-order/{stolen}", ca.directory());
    for url in [foreign_order, known_origin] {
        let forged = serde_json::json!({"status": {"order": {
            "url": url, "issuer": "Issuer/ca", "names": [victim], "createdAt": "2026-01-01T00:00:00Z",
            "challenges": [{
                "identifier": victim, "token": stolen, "keyAuthorization": format!("{stolen}.{stolen}"),
                "url": format!("https://{elsewhere}/challenge/1"),
            }],
        }}});
        tenant
            .patch_status("mine", &PatchParams::default(), &Patch::Merge(&forged))
            .await
            .context("forging")?;
        let path = format!("/.well-known/acme-challenge/{stolen}");
        story
            .until(
                "mine",
                "the forged order is given up",
                SOON,
                |certificate: &Certificate| {
                    let order = certificate
                        .status
                        .as_ref()
                        .and_then(|status| status.order.as_ref());
                    order.is_none_or(|order| !order.names.iter().any(|name| name == victim))
                },
            )
            .await?;
        let answer = story
            .wait_for("the ingress controller answers", SOON, async || {
                curl::get_at(address::INGRESS, victim, &path).map(Some)
            })
            .await?;
        ensure!(
            answer.status == 404,
            "the ingress controller answered {} for the victim: {}",
            answer.status,
            answer.body
        );
        for ingress in story.api::<Ingress>().list(&ListParams::default()).await? {
            let rules = ingress.spec.and_then(|spec| spec.rules).unwrap_or_default();
            ensure!(
                rules
                    .iter()
                    .all(|rule| rule.host.as_deref() != Some(victim)),
                "a route for the victim was made"
            );
        }
    }
    let connections = asked.load(Ordering::SeqCst);
    ensure!(
        connections == 0,
        "{connections} connections to the forged URLs"
    );
    let after = ca.count()?;
    ensure!(
        after.orders == before.orders && after.certificates == 0,
        "before {before:?}, after {after:?}"
    );
    Ok(())
}

/// A place that counts who connects.
async fn listen() -> Result<(String, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind((address::NODE, 0))
        .await
        .context("listening")?;
    let (place, count) = (
        listener.local_addr()?.to_string(),
        Arc::new(AtomicUsize::new(0)),
    );
    let counter = count.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    Ok((place, count))
}

async fn tenant(story: &Story<'_>) -> Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(story.stage.world.kubeconfig())?;
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
            .await?;
    config.auth_info = serde_json::from_value(serde_json::json!({
        "token": token(&story.stage.client, story.namespace, "tenant").await?,
    }))?;
    Ok(Client::try_from(config)?)
}
