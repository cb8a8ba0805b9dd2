//! What a cluster full of other people's Secrets costs: nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::IssuerRef;
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, crowd};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ListParams, PartialObjectMeta};

use crate::{Tale, tales};

const FOREIGN: usize = 30_000;
/// Of data in each.
const SIZE: usize = 10_000;
/// Certificates of ours beside them.
const OWN: usize = 100;
/// The bound of the issue, in bytes.
const MOST: u64 = 50_000_000;
/// A build for debugging is larger, and nobody runs it: half of what is in the foreign Secrets.
const MOST_FOR_DEBUGGING: u64 = 150_000_000;
/// From the start of the operator to the first certificate.
const FIRST: Duration = Duration::from_secs(5);
/// Creates that are under way at the same time.
const AT_A_TIME: usize = 32;

pub(crate) fn tales() -> Vec<Tale> {
    tales![thirty_thousand_foreign_secrets_cost_the_operator_nothing]
}

async fn thirty_thousand_foreign_secrets_cost_the_operator_nothing(story: Story<'_>) -> Result<()> {
    let _ca = story.ca().await?;
    story
        .apply(
            "{apiVersion: evercert.dev/v1, kind: Issuer, metadata: {name: self}, \
             spec: {selfSigned: {}}}",
        )
        .await?;
    story.issuer_ready("self").await?;
    let mut operator = story.stage.operator.lock().await;
    let shipped = operator.run_as_shipped(&story.stage.world).await?;
    operator.kill()?;
    operator.restart()?;
    operator.ready().await?;
    println!("measured: {}", operator.program().display());
    let before = operator.resident_memory()?;

    let mut own = crowd::certificates(&story, "own", OWN);
    for certificate in &mut own {
        certificate.spec.issuer_ref = IssuerRef {
            name: "self".into(),
            ..certificate.spec.issuer_ref.clone()
        };
    }
    crowd::issue(&story, &own, SOON).await?;
    let with_own = operator.resident_memory()?;
    let foreign = format!("{}-foreign", story.namespace);
    story
        .own_namespace(&foreign, &serde_json::json!({}))
        .await?;
    let began = Instant::now();
    create(&story, &foreign).await?;
    println!(
        "{FOREIGN} Secrets of {SIZE} bytes in {:.1?}",
        began.elapsed()
    );
    // They were made before its eyes; then it starts with them.
    let (watching, peak) = (operator.resident_memory()?, operator.peak_memory()?);
    operator.kill()?;
    let first = story.host("first");
    story
        .certificate_with("first", &[first], |spec| {
            "self".clone_into(&mut spec.issuer_ref.name);
        })
        .await?;
    let started = Instant::now();
    operator.restart()?;
    story.ready("first", FIRST).await?;
    println!("Ready {:.2?} after the operator's start", started.elapsed());
    operator.ready().await?;
    // And goes on with what it is there for.
    story.certificate("site", &[story.host("www")]).await?;
    story.ready("site", SOON).await?;
    let (listing, peak_again) = (operator.resident_memory()?, operator.peak_memory()?);
    let mb = |bytes: u64| bytes / 1_000_000;
    println!(
        "resident: {} MB at first, {} with {OWN} certificates, {} when the foreign Secrets were made (peak {}), {} after a \
         new start (peak {})",
        mb(before),
        mb(with_own),
        mb(watching),
        mb(peak),
        mb(listing),
        mb(peak_again),
    );
    drop(operator);
    let most = if shipped { MOST } else { MOST_FOR_DEBUGGING };
    ensure!(peak.max(peak_again) <= most, "more than {} MB", mb(most));
    Ok(())
}

/// Fills a namespace, many at a time, with bodies that are not made anew for each.
async fn create(story: &Story<'_>, namespace: &str) -> Result<()> {
    let data = serde_json::to_value(k8s_openapi::ByteString(vec![b'x'; SIZE]))?;
    let body = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"generateName": "foreign-"}, "type": "Opaque",
        "data": {"data": data},
    });
    let body = body.to_string().into_bytes();
    let uri = format!("/api/v1/namespaces/{namespace}/secrets?fieldValidation=Ignore");
    stream::iter(0..FOREIGN)
        .map(|_| {
            let request = http::Request::post(&uri)
                .header("content-type", "application/json")
                // The answer without the data.
                .header(
                    "accept",
                    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                )
                .body(body.clone());
            async {
                let _ = story.stage.client.request_text(request?).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(AT_A_TIME)
        .try_for_each(|()| async { Ok(()) })
        .await
        .context("making foreign Secrets")?;
    let api: Api<PartialObjectMeta<Secret>> =
        Api::namespaced(story.stage.client.clone(), namespace);
    let list = api.list(&ListParams::default().limit(1)).await?;
    let rest = list.metadata.remaining_item_count.unwrap_or_default();
    ensure!(
        usize::try_from(rest)? + list.items.len() == FOREIGN,
        "there are {rest} and {}",
        list.items.len()
    );
    Ok(())
}
