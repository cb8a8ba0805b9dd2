//! Chains: the CA's own matter, which it changes when it likes; a preferred one is taken while it is offered.

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, condition, keys};
use evercert_e2e::Story;
use evercert_e2e::leaf::Leaf;
use evercert_e2e::scripted::{ScriptedCa, Settings};
use evercert_e2e::story::{SOON, conditions_of, issuer_yaml};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::issue::data;
use crate::midway::{event, events};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_changed_hierarchy_is_no_reason_to_issue_again,
        a_preferred_chain_is_taken_while_it_is_offered_and_missed_with_a_warning,
    ]
}

async fn a_changed_hierarchy_is_no_reason_to_issue_again(story: Story<'_>) -> Result<()> {
    let ca = begin(&story, None).await?;
    story.certificate("one", &[story.host("one")]).await?;
    story.ready("one", SOON).await?;
    let before = story.secret("one").await?;
    ca.script().change_intermediate()?;
    look_again(&story, "one", "1").await?;
    ca.script().change_hierarchy(0)?;
    look_again(&story, "one", "2").await?;

    // The last good certificate is still good, whoever would sign the next one.
    let secrets = story.api::<Secret>();
    secrets.delete("one", &DeleteParams::default()).await?;
    let data = before.data.clone();
    story
        .until("one", "it is restored", SOON, |secret: &Secret| {
            secret.metadata.uid != before.metadata.uid && secret.data == data
        })
        .await?;
    story.ready("one", SOON).await?;
    let count = ca.count();
    ensure!(count.orders == 1, "{count:?}\n{}", ca.journal());

    story.certificate("two", &[story.host("two")]).await?;
    story.ready("two", SOON).await?;
    let (_, issuer) = root_of(&story, "two").await?;
    ensure!(issuer == "CN=Scripted Root 2.0", "{issuer}");
    ensure!(ca.count().orders == 2, "{}", ca.journal());
    Ok(())
}

async fn a_preferred_chain_is_taken_while_it_is_offered_and_missed_with_a_warning(
    story: Story<'_>,
) -> Result<()> {
    let ca = begin(&story, Some("Scripted Root 1.1")).await?;
    story.certificate("one", &[story.host("one")]).await?;
    let one = story.ready("one", SOON).await?;
    let (leaf, issuer) = root_of(&story, "one").await?;
    ensure!(issuer == "CN=Scripted Root 1.1", "{issuer}");
    ensure!(leaf == "CN=Scripted Intermediate 1.0", "{leaf}");
    ensure!(!message(&one)?.contains("preferredChain"), "{one:?}");

    // Another intermediate below the same roots.
    ca.script().change_intermediate()?;
    story.certificate("two", &[story.host("two")]).await?;
    story.ready("two", SOON).await?;
    let (leaf, issuer) = root_of(&story, "two").await?;
    ensure!(issuer == "CN=Scripted Root 1.1", "{issuer}");
    ensure!(leaf != "CN=Scripted Intermediate 1.0", "{leaf}");
    ensure!(events(&story, "two", "ChainNotOffered").await?.is_empty());

    ca.script().change_hierarchy(1)?;
    story.certificate("three", &[story.host("three")]).await?;
    let three = story.ready("three", SOON).await?;
    let (_, issuer) = root_of(&story, "three").await?;
    ensure!(issuer == "CN=Scripted Root 2.0", "{issuer}");
    let note = event(&story, "three", "ChainNotOffered").await?;
    for root in [
        "Scripted Root 1.1",
        "Scripted Root 2.0",
        "Scripted Root 2.1",
    ] {
        ensure!(note.contains(root), "{root} is not in: {note}");
    }
    let said = message(&three)?;
    ensure!(
        said.contains("leads to Scripted Root 2.0") && said.contains("Scripted Root 1.1"),
        "{said}"
    );
    for name in ["one", "two", "three"] {
        look_again(&story, name, "1").await?;
    }
    let count = ca.count();
    ensure!(
        count.orders == 3 && count.certificates == 3,
        "{count:?}\n{}",
        ca.journal()
    );
    Ok(())
}

/// A scripted CA with two chains, and a ready Issuer.
async fn begin(story: &Story<'_>, preferred: Option<&str>) -> Result<ScriptedCa> {
    let settings = Settings {
        alternate_chains: 1,
        ..Settings::default()
    };
    let ca = story.stage.scripted_ca(settings).await?;
    let issuer = issuer_yaml("Issuer", "ca", &ca.directory(), ca.bundle());
    let mut issuer: Value = serde_json::from_str(&issuer)?;
    let acme = issuer.pointer_mut("/spec/acme").context("no acme")?;
    if let Some(preferred) = preferred {
        acme["preferredChain"] = json!(preferred);
    }
    story.apply(&issuer.to_string()).await?;
    story.issuer_ready("ca").await?;
    Ok(ca)
}

/// Has the Certificate looked at again, by a spec that changes nothing now. Waits until that was seen.
async fn look_again(story: &Story<'_>, name: &str, round: &str) -> Result<()> {
    let percentage = 30 + round.parse::<u8>()?;
    let change = json!({"spec": {"renewBeforePercentage": percentage}});
    story
        .api::<Certificate>()
        .patch(name, &PatchParams::default(), &Patch::Merge(&change))
        .await?;
    story.ready(name, SOON).await.map(drop)
}

/// Who signed the leaf in a Secret, and who the last certificate above it.
async fn root_of(story: &Story<'_>, name: &str) -> Result<(String, String)> {
    let secret = story.secret(name).await?;
    let chain = Leaf::parse_chain(data(&secret, keys::TLS_CRT))?;
    let (first, last) = (chain.first(), chain.last());
    let issuer = |leaf: Option<&Leaf>| leaf.map(|leaf| leaf.issuer.clone());
    issuer(first).zip(issuer(last)).context("an empty chain")
}

fn message(certificate: &Certificate) -> Result<String> {
    let ready = condition::find(conditions_of(certificate), condition::READY);
    Ok(ready.context("no Ready")?.message.clone())
}
