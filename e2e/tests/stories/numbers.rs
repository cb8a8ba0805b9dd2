//! How long a certificate takes, and what it costs the API server. Alone on the stage, since it measures.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evercert_api::keys;
use evercert_e2e::Story;
use evercert_e2e::audit::{self, Call};
use evercert_e2e::operator;
use evercert_e2e::story::SOON;

use crate::issue::no_route_stays;
use crate::{Tale, tales};

/// The most mutating calls of the operator for a certificate, events and dry runs among them.
const CALLS: usize = 20;
/// The longest median from apply to Ready on a warm operator that needs no explanation.
const MEDIAN: Duration = Duration::from_secs(2);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_certificate_of_one_name_or_ten_costs_at_most_twenty_mutating_calls,
        a_warm_operator_tells_minimum_median_and_maximum,
    ]
}

async fn a_certificate_of_one_name_or_ten_costs_at_most_twenty_mutating_calls(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    story.certificate("first", &[story.host("first")]).await?;
    story.ready("first", SOON).await?;
    no_route_stays(&story).await?;
    for (name, names) in [("one", 1), ("ten", 10)] {
        let audit = story.stage.audit()?;
        let hosts: Vec<String> = (0..names)
            .map(|number| story.host(&format!("{name}{number}")))
            .collect();
        story.certificate(name, &hosts).await?;
        story.ready(name, SOON).await?;
        no_route_stays(&story).await?;
        let calls = count(&story, &audit)?;
        println!(
            "{} mutating calls for a certificate of {names} name(s):\n{}",
            calls.len(),
            audit::table(&calls)
        );
        ensure!(!calls.is_empty(), "nothing was counted");
        ensure!(
            calls.len() <= CALLS,
            "{} mutating calls for {names} name(s):\n{}",
            calls.len(),
            audit::table(&calls)
        );
    }
    let audit = story.stage.audit()?;
    let hosts: Vec<String> = (0..10)
        .map(|number| story.host(&format!("in{number}")))
        .collect();
    story.apply(&annotated("ingress", &hosts)).await?;
    story.ready("ingress", SOON).await?;
    no_route_stays(&story).await?;
    let calls = count(&story, &audit)?;
    println!(
        "{} mutating calls for an annotated Ingress of ten names:\n{}",
        calls.len(),
        audit::table(&calls)
    );
    ensure!(
        calls.len() <= CALLS
            && calls
                .iter()
                .any(|call| call.resource() == "certificates" && call.created()),
        "{} mutating calls, and its Certificate among them:\n{}",
        calls.len(),
        audit::table(&calls)
    );
    ensure!(ca.count()?.orders == 4, "{:?}", ca.count()?);
    Ok(())
}

/// The operator's own for this story, what it costs to start the solver apart.
fn count(story: &Story<'_>, audit: &audit::Audit) -> Result<Vec<Call>> {
    let calls = audit.mutating(&operator::user())?.into_iter();
    // What other stories left behind has calls of its own.
    let own =
        calls.filter(|call| [story.namespace, operator::NAMESPACE].contains(&call.namespace()));
    Ok(own.filter(|call| !is_cold_start(call)).collect())
}

/// An Ingress that asks for a Certificate of its own name.
fn annotated(name: &str, hosts: &[String]) -> String {
    serde_json::json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "annotations": {"evercert.dev/issuer": "ca"}},
        "spec": {
            "ingressClassName": operator::ingress_class(),
            "tls": [{"hosts": hosts, "secretName": name}],
            "defaultBackend": {"service": {"name": "nothing", "port": {"number": 80}}},
        },
    })
    .to_string()
}

/// The solver's Deployment and Service in the operator's namespace.
fn is_cold_start(call: &Call) -> bool {
    call.namespace() == operator::NAMESPACE && call.name() == keys::SOLVER_NAME
}

async fn a_warm_operator_tells_minimum_median_and_maximum(story: Story<'_>) -> Result<()> {
    let _ca = story.ca().await?;
    story.certificate("warm", &[story.host("warm")]).await?;
    story.ready("warm", SOON).await?;
    let mut times = Vec::new();
    for number in 0..9 {
        let name = format!("run{number}");
        let started = Instant::now();
        story.certificate(&name, &[story.host(&name)]).await?;
        story.ready(&name, SOON).await?;
        times.push(started.elapsed());
    }
    tell("apply to Ready, one name", times)?;
    let mut times = Vec::new();
    for number in 0..9 {
        let name = format!("annotated{number}");
        let started = Instant::now();
        story.apply(&annotated(&name, &[story.host(&name)])).await?;
        story.ready(&name, SOON).await?;
        times.push(started.elapsed());
    }
    tell("apply of an annotated Ingress alone to Ready", times)
}

fn tell(what: &str, mut times: Vec<Duration>) -> Result<()> {
    times.sort();
    let (first, median, last) = (
        times.first().context("no runs")?,
        times.get(times.len() / 2).context("no runs")?,
        times.last().context("no runs")?,
    );
    println!(
        "{what}, {} runs: min {first:.2?}, median {median:.2?}, max {last:.2?}",
        times.len()
    );
    // A duration is told, never asserted: the machine may be busy.
    if *median > MEDIAN {
        println!(
            "the median is above {MEDIAN:?}: a defect to explain, unless the machine was busy: {times:?}"
        );
    }
    Ok(())
}
