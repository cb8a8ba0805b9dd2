//! What the API server says to the objects of the chart, without keeping them.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use evercert_e2e::chart::{self, with_values};
use evercert_e2e::{manifest, wait_for};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Api;
use kube::api::PostParams;

use crate::Scene;
use crate::text::IMAGE;

/// Where the objects would be: the release's own namespace is that of another test.
const NAMESPACE: &str = "rendered";

/// Those that `values/namespaces.yaml` names.
const CONFINED: [&str; 2] = ["blog", "shop"];

/// Kinds that a cluster has from somebody else. Their names and places are checked, not what is in them.
const MONITORS: &str = include_str!("monitors.yaml");

pub(crate) async fn accepts_every_object(scene: &Scene) -> Result<()> {
    for namespace in [NAMESPACE].into_iter().chain(CONFINED) {
        make_namespace(&scene.client, namespace).await?;
    }
    manifest::apply(&scene.client, NAMESPACE, MONITORS).await?;
    let mut count = 0;
    for values in chart::sets()? {
        let mut arguments = with_values(&values);
        arguments.extend(["--namespace".to_owned(), NAMESPACE.to_owned()]);
        for object in manifest::parse(&scene.helm.template(&arguments)?)? {
            let accepted = wait_for("a kind is served", Duration::from_secs(10), async || {
                manifest::try_object(&scene.client, NAMESPACE, &object)
                    .await
                    .map(Some)
            });
            accepted
                .await
                .with_context(|| values.display().to_string())?;
            count += 1;
        }
    }
    ensure!(count > 40, "{count} objects");
    // The test can tell.
    let mut wrong = IMAGE.map(ToOwned::to_owned).to_vec();
    wrong.extend([
        "--set".to_owned(),
        "podSecurityContext.runAsNobody=true".to_owned(),
    ]);
    for object in manifest::parse(&scene.helm.template(&wrong)?)? {
        if object
            .types
            .as_ref()
            .is_some_and(|types| types.kind == "Deployment")
        {
            let refusal = manifest::try_object(&scene.client, NAMESPACE, &object).await;
            let refusal = refusal.err().context("it is accepted")?.to_string();
            ensure!(refusal.contains("runAsNobody"), "{refusal}");
            return Ok(());
        }
    }
    bail!("no Deployment")
}

/// Makes a namespace and waits until pods can be made in it.
pub(crate) async fn make_namespace(client: &kube::Client, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(serde_json::json!({
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }))?;
    namespaces
        .create(&PostParams::default(), &namespace)
        .await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
    let what = "the namespace's default ServiceAccount";
    wait_for(what, Duration::from_secs(20), async || {
        Ok(accounts.get_opt("default").await?.map(drop))
    })
    .await
}
