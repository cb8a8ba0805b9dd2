//! The API server does not answer, or starts again, in the middle of an order.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, children, keys};
use evercert_cluster::Pebble;
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::ingress_class;
use evercert_e2e::story::{SOON, certificate_ready};
use evercert_e2e::{Story, curl, operator, pods, wait_for};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::issue::no_route_stays;
use crate::{Tale, tales};

const API_SERVER: &str = "kube-apiserver";
/// The world's etcd, by its gateway for JSON.
const ETCD: &str = "http://127.0.0.1:2379/v3/kv";
/// What the API server answers to a watch that it cannot go on with.
const GONE: &str = "too old resource version";
/// How often it is tried: what is slower than a claim on the Lease is another story.
const ROUNDS: usize = 3;
/// How long nobody answers.
const FROZEN: Duration = Duration::from_secs(40);
/// How soon all is well afterwards.
const RECOVERED: Duration = Duration::from_secs(20);
/// How long a claim on the Lease lasts, and a request that was sent just before.
const CLAIM: Duration = Duration::from_secs(11);
/// The longest start of an API server.
const STARTS: Duration = Duration::from_secs(90);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        an_api_server_that_is_frozen_for_forty_seconds_amid_an_order_costs_no_second_order,
        an_api_server_that_starts_again_amid_an_order_costs_no_second_order,
        watches_that_cannot_go_on_are_begun_anew_and_nothing_is_missed_or_done_twice,
    ]
}

async fn an_api_server_that_is_frozen_for_forty_seconds_amid_an_order_costs_no_second_order(
    story: Story<'_>,
) -> Result<()> {
    let (ca, solver) = amid_an_order(&story).await?;
    let pid = story.stage.operator.lock().await.pid();
    let from = Timestamp::now();
    let world = &story.stage.world;
    world.freeze(API_SERVER)?;
    let began = Instant::now();
    let past = async |time: Duration| {
        wait_for("time has passed", time * 2, async || {
            Ok((began.elapsed() >= time).then_some(()))
        })
        .await
    };
    let told = async {
        past(CLAIM).await?;
        let asked = ca.count()?.requests;
        past(FROZEN).await?;
        anyhow::Ok((asked, ca.count()?.requests))
    }
    .await;
    let alive = curl::get_at("127.0.0.1:8080", "localhost", "/healthz").map(|served| served.status);
    let lost = told_since(&story, from, "could not be renewed in time").await;
    world.thaw(API_SERVER)?;
    let thawed = Instant::now();
    let (asked, late) = told?;
    ensure!(alive? == 200, "the operator is not alive meanwhile");
    ensure!(
        !lost?.is_empty(),
        "the Lease was not lost: this story proves nothing then"
    );
    ensure!(
        asked == late,
        "{} requests to the CA without the Lease",
        late - asked
    );
    recovers(&story, &ca, &solver, thawed).await?;
    ensure!(
        ca.count()?.requests > late,
        "no request was counted afterwards"
    );
    let mut operator = story.stage.operator.lock().await;
    ensure!(operator.pid() == pid, "the operator was started again");
    Ok(())
}

async fn an_api_server_that_starts_again_amid_an_order_costs_no_second_order(
    story: Story<'_>,
) -> Result<()> {
    let (ca, solver) = amid_an_order(&story).await?;
    let pid = story.stage.operator.lock().await.pid();
    story.stage.world.restart(API_SERVER)?;
    answers_again(&story, "site").await?;
    let restarted = Instant::now();
    recovers(&story, &ca, &solver, restarted).await?;
    // A watch that was lost is taken up again: what is new is seen.
    story.certificate("second", &[story.host("second")]).await?;
    story.ready("second", SOON).await?;
    let mut operator = story.stage.operator.lock().await;
    ensure!(operator.pid() == pid, "the operator was started again");
    Ok(())
}

/// The API server has started again, which a busy machine takes its time for; `certificate` is there.
async fn answers_again(story: &Story<'_>, certificate: &str) -> Result<()> {
    let certificates = story.api::<Certificate>();
    wait_for("the API server answers again", STARTS, async || {
        let _ = certificates.get(certificate).await?;
        Ok(Some(()))
    })
    .await
}

/// A certificate whose order is recorded and whose challenge the CA works on, patiently; and the solver's pod.
async fn amid_an_order(story: &Story<'_>) -> Result<(TestCa, String)> {
    let ca = story
        .ca_with(Pebble {
            retry_after: (3, 3),
            ..Pebble::default()
        })
        .await?;
    story.certificate("site", &[story.host("www")]).await?;
    story
        .wait_for("the CA was asked to validate", SOON, async || {
            Ok((ca.count()?.challenges > 0).then_some(()))
        })
        .await?;
    let certificate = story.api::<Certificate>().get("site").await?;
    ensure!(
        !certificate_ready(&certificate),
        "it is Ready already: this story proves nothing then"
    );
    Ok((ca, solver(story).await?))
}

/// The one pod of the solver.
async fn solver(story: &Story<'_>) -> Result<String> {
    let selector = format!("app.kubernetes.io/name={}", keys::SOLVER_NAME);
    let pods = pods::list(&story.stage.client, operator::NAMESPACE, &selector).await?;
    let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
    let [only] = names.as_slice() else {
        anyhow::bail!("not one pod of the solver: {names:?}");
    };
    Ok(only.clone())
}

/// The certificate is Ready in time, of one order, and nothing is there twice or too much.
async fn recovers(story: &Story<'_>, ca: &TestCa, pod: &str, since: Instant) -> Result<()> {
    let left = RECOVERED.saturating_sub(since.elapsed());
    story.ready("site", left).await?;
    println!(
        "Ready {:.2?} after the API server was back",
        since.elapsed()
    );
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    let there = solver(story).await?;
    ensure!(there == pod, "the solver's pod was {pod} and is {there}");
    no_route_stays(story).await?;
    let secrets = names::<Secret>(story.api()).await?;
    let companion = children::companion_name(story.namespace, "site");
    let wanted = BTreeSet::from(["site".to_owned(), "ca-account".to_owned(), companion]);
    ensure!(secrets == wanted, "Secrets: {secrets:?}");
    ensure!(
        names::<Ingress>(story.api()).await?.is_empty()
            && names::<EndpointSlice>(story.api()).await?.is_empty()
            && names::<Service>(story.api()).await?.is_empty(),
        "a route stayed"
    );
    let own: Api<ConfigMap> = Api::namespaced(story.stage.client.clone(), operator::NAMESPACE);
    story
        .wait_for("no challenge is open", SOON, async || {
            let open = own.get(keys::CHALLENGES_NAME).await?.data;
            let open = open.unwrap_or_default();
            let host = story.host("www");
            Ok((!open.values().any(|text| text.contains(&host))).then_some(()))
        })
        .await
}

async fn names<K>(api: Api<K>) -> Result<BTreeSet<String>>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let list = api.list(&ListParams::default()).await?;
    Ok(list.items.iter().map(ResourceExt::name_any).collect())
}

/// The operator's log lines with `words` since an instant.
async fn told_since(story: &Story<'_>, from: Timestamp, words: &str) -> Result<Vec<String>> {
    let operator = story.stage.operator.lock().await;
    let log = std::fs::read_to_string(operator.log()).context("reading the operator's log")?;
    let is_new = |line: &str| {
        let at = line.split_whitespace().next().unwrap_or_default();
        at.parse::<Timestamp>().is_ok_and(|at| at >= from)
    };
    let lines = log.lines().filter(|line| line.contains(words));
    Ok(lines.filter(|l| is_new(l)).map(str::to_owned).collect())
}

/// The API server has started again and its history is compacted: what the operator's watches ask to go on from is gone (410),
/// and what happened meanwhile is in no event.
async fn watches_that_cannot_go_on_are_begun_anew_and_nothing_is_missed_or_done_twice(
    story: Story<'_>,
) -> Result<()> {
    let ca = story
        .ca_with(Pebble {
            retry_after: (3, 3),
            ..Pebble::default()
        })
        .await?;
    // The ingress controller listens as long as there is something to serve, and it has lost its watches as well.
    let served = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "served"},
        "spec": {"ingressClassName": ingress_class(), "rules": [{"host": story.host("served"), "http": {"paths": [{
            "path": "/", "pathType": "Prefix", "backend": {"service": {"name": "nobody", "port": {"number": 80}}},
        }]}}]},
    });
    story.apply(&served.to_string()).await?;
    let mut names = vec!["site".to_owned()];
    for round in 0..ROUNDS {
        let (gone, late) = (format!("gone{round}"), format!("late{round}"));
        story.certificate(&gone, &[story.host(&gone)]).await?;
        story.ready(&gone, SOON).await?;
        if round == 0 {
            story.certificate("site", &[story.host("www")]).await?;
        }
        names.extend([gone.clone(), late.clone()]);
        let from = Timestamp::now();
        unwatched(&story, &gone, &late).await?;
        story.ready(&late, SOON + RECOVERED).await?;
        if !told_since(&story, from, GONE).await?.is_empty() {
            return all_once(&story, &ca, &names).await;
        }
        // Slower than a claim on the Lease: then the operator begins anew as a whole, and lists for that reason.
        println!("round {round}: no watch was refused");
    }
    anyhow::bail!("no watch was answered by 410: this story proves nothing then");
}

/// While the operator stands still, a Certificate goes and another comes, the API server starts again and forgets.
async fn unwatched(story: &Story<'_>, gone: &str, late: &str) -> Result<()> {
    let mut operator = story.stage.operator.lock().await;
    operator.freeze()?;
    let told = async {
        story.stage.world.restart(API_SERVER)?;
        let certificates = story.api::<Certificate>();
        answers_again(story, gone).await?;
        certificates.delete(gone, &DeleteParams::default()).await?;
        story.certificate(late, &[story.host(late)]).await?;
        compact()
    }
    .await;
    operator.thaw()?;
    told
}

/// Takes all of etcd's history away but the last revision.
fn compact() -> Result<()> {
    // `AA==` is a key that does not exist; the answer tells the revision.
    let answer = curl::post(&format!("{ETCD}/range"), r#"{"key":"AA=="}"#)?;
    let answer: Value = serde_json::from_str(&answer).context("etcd's answer")?;
    let revision = answer["header"]["revision"].as_str();
    let revision = revision.with_context(|| format!("no revision: {answer}"))?;
    let wanted = json!({"revision": revision, "physical": true});
    curl::post(&format!("{ETCD}/compaction"), &wanted.to_string())?;
    Ok(())
}

/// Each Certificate was issued once, whatever was listed twice; those that are gone have left nothing but their TLS Secret.
async fn all_once(story: &Story<'_>, ca: &TestCa, all: &[String]) -> Result<()> {
    story.ready("site", SOON).await?;
    let count = ca.count()?;
    ensure!(
        count.orders == all.len() && count.certificates == all.len(),
        "{count:?} for {all:?}"
    );
    no_route_stays(story).await?;
    let stay = |name: &&String| !name.starts_with("gone");
    let companions = all.iter().filter(stay);
    let mut wanted: BTreeSet<String> = companions
        .map(|name| children::companion_name(story.namespace, name))
        .collect();
    wanted.extend(all.iter().cloned());
    wanted.insert("ca-account".to_owned());
    story
        .wait_for("every Secret is there once", SOON, async || {
            let secrets = names::<Secret>(story.api()).await?;
            ensure!(secrets == wanted, "Secrets: {secrets:?}, not {wanted:?}");
            Ok(Some(()))
        })
        .await?;
    ensure!(
        names::<Service>(story.api()).await?.is_empty(),
        "a route stayed"
    );
    Ok(())
}
