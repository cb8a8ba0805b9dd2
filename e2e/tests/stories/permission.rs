//! Who may have a name.

use anyhow::{Result, ensure};
use evercert_api::certificate::{IssuerKind, IssuerRef};
use evercert_api::{Certificate, condition, keys};
use evercert_cluster::Pebble;
use evercert_e2e::manifest::FIELD_MANAGER;
use evercert_e2e::story::{SOON, certificate_ready, issuer_yaml, spec};
use evercert_e2e::{Story, wait_for};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{Patch, PatchParams};

use crate::app::application;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_cluster_issuer_signs_only_what_its_policy_allows,
        a_name_in_another_namespaces_ingress_is_refused_until_that_namespace_allows_it,
    ]
}

async fn a_cluster_issuer_signs_only_what_its_policy_allows(story: Story<'_>) -> Result<()> {
    let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
    let mut issuer: serde_json::Value = serde_json::from_str(&issuer_yaml(
        "ClusterIssuer",
        story.namespace,
        &ca.directory(),
        &ca.bundle()?,
    ))?;
    let label = format!("kubernetes.io/metadata.name: {}", story.namespace);
    let policy = format!(
        "[{{namespaceSelector: {{matchLabels: {{{label}}}}}, allowedNames: ['*.{}.test']}}]",
        story.namespace
    );
    if let Some(spec) = issuer.get_mut("spec").and_then(|spec| spec.as_object_mut()) {
        spec.insert("policy".to_owned(), serde_yaml_ng::from_str(&policy)?);
    }
    story.apply(&issuer.to_string()).await?;
    let from_cluster = |spec: &mut evercert_api::CertificateSpec| {
        spec.issuer_ref = IssuerRef {
            name: story.namespace.to_owned(),
            kind: IssuerKind::ClusterIssuer,
        };
    };
    story
        .certificate_with("allowed", &[story.host("www")], from_cluster)
        .await?;
    story.ready("allowed", SOON).await?;
    story
        .certificate_with(
            "forbidden",
            &["www.elsewhere.test".to_owned()],
            from_cluster,
        )
        .await?;
    let (reason, message) = story
        .condition("forbidden", condition::READY, "False", SOON)
        .await?;
    ensure!(reason == "NameNotAllowed", "{reason}: {message}");
    ensure!(
        message.contains("www.elsewhere.test"),
        "the message does not name the name: {message}"
    );
    ensure!(ca.count()?.orders == 1, "{:?}", ca.count()?);
    Ok(())
}

async fn a_name_in_another_namespaces_ingress_is_refused_until_that_namespace_allows_it(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("shop");
    let holder = format!("{}-h", story.namespace);
    story.own_namespace(&holder, &serde_json::json!({})).await?;
    evercert_e2e::manifest::apply(&story.stage.client, &holder, &application("shop", &host))
        .await?;
    // The holder itself may.
    evercert_e2e::manifest::apply(
        &story.stage.client,
        &holder,
        &issuer_yaml("Issuer", "ca", &ca.directory(), &ca.bundle()?),
    )
    .await?;
    let theirs: Api<Certificate> = Api::namespaced(story.stage.client.clone(), &holder);
    let certificate = Certificate::new("shop", spec("shop", std::slice::from_ref(&host)));
    theirs
        .patch(
            "shop",
            &PatchParams::apply(FIELD_MANAGER),
            &Patch::Apply(&certificate),
        )
        .await?;
    let ready = wait_for("the holder's own Certificate is Ready", SOON, async || {
        Ok(theirs.get_opt("shop").await?.filter(certificate_ready))
    });
    if let Err(error) = ready.await {
        return Err(story.with_evidence(error).await);
    }

    let honest = ca.count()?.orders;
    story
        .certificate("thief", std::slice::from_ref(&host))
        .await?;
    let (reason, message) = story
        .condition("thief", condition::READY, "False", SOON)
        .await?;
    ensure!(reason == "NameHeldElsewhere", "{reason}: {message}");
    ensure!(
        message.contains(&host) && message.contains(&holder),
        "name or holder are not named: {message}"
    );
    ensure!(
        message.contains(keys::NAME_SHARING),
        "the remedy is not named: {message}"
    );
    ensure!(ca.count()?.orders == honest, "{:?}", ca.count()?);

    let namespaces: Api<Namespace> = Api::all(story.stage.client.clone());
    let allow = serde_json::json!({"metadata": {"annotations": {keys::NAME_SHARING: "allow"}}});
    namespaces
        .patch(&holder, &PatchParams::default(), &Patch::Merge(&allow))
        .await?;
    // What blocks and is not ours is read again every 30 s.
    story.ready("thief", SOON * 2).await?;
    Ok(())
}
