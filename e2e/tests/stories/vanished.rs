//! A namespace that is deleted while nobody looks.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, keys};
use evercert_e2e::operator::{self, NAMESPACE};
use evercert_e2e::story::SOON;
use evercert_e2e::tarpit::Tarpit;
use evercert_e2e::{Story, crowd, dns, ledger};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, ListParams};

use crate::{Tale, tales};

const ORDERS: usize = 5;
/// Loopback: connections to it are taken and never answered, so that an order stays open.
const SILENT: &str = "127.0.0.67";
/// How long Kubernetes takes for what nobody holds back.
const GONE: Duration = Duration::from_secs(40);

pub(crate) fn tales() -> Vec<Tale> {
    tales![a_namespace_deleted_with_open_orders_while_the_operator_is_down_leaves_nothing]
}

async fn a_namespace_deleted_with_open_orders_while_the_operator_is_down_leaves_nothing(
    story: Story<'_>,
) -> Result<()> {
    let _silent = Tarpit::at(&format!("{SILENT}:80")).await?;
    let ca = story.ca().await?;
    let doomed = format!("{}-doomed", story.namespace);
    story.own_namespace(&doomed, &serde_json::json!({})).await?;
    let there = Story {
        stage: story.stage,
        namespace: &doomed,
    };
    there.issuer("ca", &ca).await?;
    there.issuer_ready("ca").await?;
    let certificates = crowd::certificates(&there, "open", ORDERS);
    for host in certificates.iter().flat_map(|c| &c.spec.dns_names) {
        dns::point(host, &[SILENT])?;
    }
    crowd::apply(&story.stage.client, &certificates).await?;
    there
        .wait_for("each order is recorded and open", SOON, async || {
            let all = there
                .api::<Certificate>()
                .list(&ListParams::default())
                .await?;
            let recorded = all.items.iter().filter(|c| has_order(c)).count();
            let open = open(&story).await?.matches(&doomed).count();
            Ok((recorded == ORDERS && open >= ORDERS).then_some(()))
        })
        .await?;

    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    let spent = spent(&story, &doomed).await?;
    ensure!(spent.len() == ORDERS, "the ledger holds {spent:?}");
    let namespaces: Api<Namespace> = Api::all(story.stage.client.clone());
    namespaces.delete(&doomed, &DeleteParams::default()).await?;
    story
        .wait_for("the namespace is gone", GONE, async || {
            Ok(namespaces.get_opt(&doomed).await?.is_none().then_some(()))
        })
        .await?;
    ensure!(
        open(&story).await?.contains(&doomed),
        "what is open was taken away by somebody else: this story proves nothing then"
    );

    let audit = story.stage.audit()?;
    let told = std::fs::metadata(operator.log())?.len();
    operator.restart()?;
    operator.ready().await?;
    let log = operator.log().to_path_buf();
    drop(operator);
    story
        .wait_for("nothing of it is open", SOON, async || {
            Ok((!open(&story).await?.contains(&doomed)).then_some(()))
        })
        .await?;
    // Life goes on, and takes longer than an error loop needs to be seen.
    story.certificate("after", &[story.host("after")]).await?;
    story.ready("after", SOON).await?;
    ensure!(
        self::spent(&story, &doomed).await? == spent,
        "the ledger forgot orders that were spent"
    );
    ensure!(ca.count()?.orders == ORDERS + 1, "{:?}", ca.count()?);
    let calls = audit.mutating(&operator::user())?;
    let late: Vec<_> = calls.iter().filter(|c| c.namespace() == doomed).collect();
    ensure!(late.is_empty(), "it still writes there: {late:?}");
    let text = std::fs::read(&log).context("reading the operator's log")?;
    let text = text.get(usize::try_from(told)?..).unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    ensure!(!text.contains("panicked"), "{text}");
    let complaints: Vec<&str> = text.lines().filter(|l| l.contains(&doomed)).collect();
    ensure!(complaints.len() <= 2 * ORDERS, "{}", complaints.join("\n"));
    Ok(())
}

fn has_order(certificate: &Certificate) -> bool {
    certificate
        .status
        .as_ref()
        .is_some_and(|status| status.order.is_some())
}

/// The open challenges and whose they are, as text.
async fn open(story: &Story<'_>) -> Result<String> {
    let own: Api<ConfigMap> = Api::namespaced(story.stage.client.clone(), NAMESPACE);
    let map = own.get_opt(keys::CHALLENGES_NAME).await?;
    let data = map.and_then(|map| map.data).unwrap_or_default();
    Ok(data.into_values().collect::<Vec<_>>().join("\n"))
}

/// The Certificates of `namespace` for which the ledger holds an order.
async fn spent(story: &Story<'_>, namespace: &str) -> Result<BTreeSet<String>> {
    let all = ledger::read(&story.stage.client, None).await?.intents;
    let prefix = format!("{namespace}/");
    let own = all.into_iter().filter(|whose| whose.starts_with(&prefix));
    Ok(own.collect())
}
