//! The operator as its users run it: a pod, with the rights of its own ServiceAccount and no others.

use anyhow::{Context, Result, ensure};
use evercert_e2e::pods::{self, Process};
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, curl, deployment, operator};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};

use crate::app::application;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    let tales = tales![the_operator_as_a_pod_with_its_own_rights_issues_a_certificate];
    tales.into_iter().map(Tale::on_a_node).collect()
}

async fn the_operator_as_a_pod_with_its_own_rights_issues_a_certificate(
    story: Story<'_>,
) -> Result<()> {
    story.stage.operator.lock().await.terminate()?;
    let told = issue_from_a_pod(&story).await;
    // Whatever became of it: the process is the operator again for whoever comes next.
    let stopped = deployment::stop(&story.stage.client).await;
    told.and(stopped)
}

async fn issue_from_a_pod(story: &Story<'_>) -> Result<()> {
    let audit = story.stage.audit()?;
    deployment::start(story.stage).await?;
    let ca = story.ca().await?;
    let host = story.host("www");
    story.apply(&application("www", &host)).await?;
    story
        .certificate("www", std::slice::from_ref(&host))
        .await?;
    story.ready("www", SOON).await?;
    let url = format!("https://{host}/");
    let served = story
        .wait_for("curl trusts what it is served", SOON, async || {
            let served = curl::get(&url, Some(ca.root()))?;
            Ok((served.status == 200).then_some(served))
        })
        .await?;
    let leaf = served.chain.first().context("no chain")?;
    ensure!(leaf.names == [host.as_str()], "{:?}", served.chain);
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");

    let calls = audit.mutating(&operator::user())?;
    ensure!(
        !calls.is_empty(),
        "the operator's own account wrote nothing"
    );
    let forbidden: Vec<_> = calls.iter().filter(|call| call.code() == 403).collect();
    ensure!(forbidden.is_empty(), "{forbidden:?}");
    starts_again(story).await?;
    for role in ["controller", "solver"] {
        let process = Process::of_role(role).with_context(|| format!("no {role} runs"))?;
        has_nothing_to_spare(process).with_context(|| role.to_owned())?;
        println!(
            "resident memory of the {role}'s pod: {} MB",
            process.resident_memory()?.div_ceil(1 << 20)
        );
    }
    Ok(())
}

/// Now that the solver's Service is there, of which a kubelet tells every new pod by variables.
async fn starts_again(story: &Story<'_>) -> Result<()> {
    let client = &story.stage.client;
    let all: Api<Pod> = Api::namespaced(client.clone(), operator::NAMESPACE);
    for pod in pods::list(client, operator::NAMESPACE, deployment::SELECTOR).await? {
        all.delete(&pod.name_any(), &DeleteParams::default())
            .await?;
        story
            .wait_for("the first pod is gone", SOON, async || {
                Ok(all.get_opt(&pod.name_any()).await?.is_none().then_some(()))
            })
            .await?;
    }
    deployment::ready(story.stage).await
}

/// An ordinary user without capabilities, whose root folder cannot be written.
fn has_nothing_to_spare(process: Process) -> Result<()> {
    for (field, wanted) in [
        ("Uid", "65532"),
        ("Gid", "65532"),
        ("CapBnd", "0000000000000000"),
    ] {
        let found = process.status(field)?;
        ensure!(
            found.split_whitespace().all(|word| word == wanted),
            "{field}: {found}"
        );
    }
    ensure!(
        process.status("NoNewPrivs")? == "1",
        "it can get privileges"
    );
    let root = process.root_mount()?;
    ensure!(
        root.split(',').any(|option| option == "ro"),
        "its root is mounted {root}"
    );
    // The test can tell.
    let own = Process(std::process::id());
    ensure!(
        own.status("CapBnd")? != "0000000000000000",
        "nobody has capabilities"
    );
    Ok(())
}
