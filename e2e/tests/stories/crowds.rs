//! Fifty certificates at once. Alone on the stage, since it measures.

use std::time::Duration;

use anyhow::{Result, ensure};
use evercert_api::{Certificate, keys};
use evercert_e2e::audit::{self, Audit, Call};
use evercert_e2e::ca::TestCa;
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, crowd, operator};
use kube::api::{DeleteParams, ListParams};

use crate::issue::no_route_stays;
use crate::{Tale, tales};

const MANY: usize = 50;
const CROWD: usize = 100;
/// Story and design: for all of them, whatever is done to an Ingress.
const ROUTE_WRITES: usize = 20;
/// cert-manager takes 109 s for as many on the same world; at least five times as fast.
const WITHIN: Duration = Duration::from_millis(109_000 / 5);
/// The most mutating calls of the operator for a certificate, events and dry runs among them.
pub(crate) const CALLS: usize = 20;

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        fifty_certificates_at_once_in_one_namespace_take_a_fifth_of_cert_managers_time,
        fifty_certificates_at_once_over_five_namespaces_take_a_fifth_of_cert_managers_time,
    ]
}

/// These measure nothing.
pub(crate) fn counted() -> Vec<Tale> {
    tales![a_hundred_orders_at_once_in_one_namespace_share_at_most_twenty_route_writes]
}

/// With the operator that ships, as far as it is built.
pub(crate) async fn as_shipped(story: &Story<'_>) -> Result<()> {
    let mut operator = story.stage.operator.lock().await;
    operator.run_as_shipped(&story.stage.world).await?;
    println!("the operator is {}", operator.program().display());
    Ok(())
}

/// The same, with a solver that runs and a CA that knows the account; nothing is left of the order that saw to it.
async fn warm(story: &Story<'_>) -> Result<TestCa> {
    as_shipped(story).await?;
    let ca = story.ca().await?;
    story.certificate("warm", &[story.host("warm")]).await?;
    story.ready("warm", SOON).await?;
    no_route_stays(story).await?;
    Ok(ca)
}

/// Takes a story's Certificates away: they would go on beside the next one's.
pub(crate) async fn leave(story: &Story<'_>) -> Result<()> {
    let (how, which) = (DeleteParams::default(), ListParams::default());
    let certificates = story.api::<Certificate>();
    let _ = certificates.delete_collection(&how, &which).await?;
    Ok(())
}

async fn fifty_certificates_at_once_in_one_namespace_take_a_fifth_of_cert_managers_time(
    story: Story<'_>,
) -> Result<()> {
    let ca = warm(&story).await?;
    let certificates = crowd::certificates(&story, "c", MANY);
    issue(&story, &ca, &[story.namespace.to_owned()], &certificates).await
}

async fn fifty_certificates_at_once_over_five_namespaces_take_a_fifth_of_cert_managers_time(
    story: Story<'_>,
) -> Result<()> {
    let ca = warm(&story).await?;
    let mut namespaces = Vec::new();
    for number in 0..5 {
        let namespace = format!("{}-{number}", story.namespace);
        story
            .own_namespace(&namespace, &serde_json::json!({}))
            .await?;
        namespaces.push(namespace);
    }
    let mut certificates = Vec::new();
    for namespace in &namespaces {
        let there = Story {
            stage: story.stage,
            namespace,
        };
        there.issuer("ca", &ca).await?;
        there.issuer_ready("ca").await?;
        certificates.extend(crowd::certificates(&there, "c", MANY / namespaces.len()));
    }
    issue(&story, &ca, &namespaces, &certificates).await
}

/// That the first of them has its route at once, and does not wait for the others, is in `changes_in_a_burst_…` of the operator.
async fn a_hundred_orders_at_once_in_one_namespace_share_at_most_twenty_route_writes(
    story: Story<'_>,
) -> Result<()> {
    let ca = warm(&story).await?;
    let audit = story.stage.audit()?;
    let times = crowd::issue(&story, &crowd::certificates(&story, "r", CROWD), SOON * 4).await?;
    println!("{times}");
    no_route_stays(&story).await?;
    let count = ca.count()?;
    let once = CROWD + 1;
    ensure!(
        count.orders == once && count.certificates == once,
        "{count:?}"
    );
    let mut calls = audit.mutating(&operator::user())?;
    calls.retain(|call| call.namespace() == story.namespace && call.resource() == "ingresses");
    println!(
        "{CROWD} orders at once, {} writes of routes:\n{}",
        calls.len(),
        audit::table(&calls)
    );
    // One that makes it, and one that takes it away, at least.
    ensure!(
        (2..=ROUTE_WRITES).contains(&calls.len()),
        "{} writes of routes",
        calls.len()
    );
    leave(&story).await
}

async fn issue(
    story: &Story<'_>,
    ca: &TestCa,
    namespaces: &[String],
    certificates: &[Certificate],
) -> Result<()> {
    let audit = story.stage.audit()?;
    let before = ca.count()?;
    let times = crowd::issue(story, certificates, WITHIN).await?;
    println!("{times} (cert-manager: 50 in 109 s)");
    let count = ca.count()?;
    let issued = (
        count.orders - before.orders,
        count.certificates - before.certificates,
    );
    ensure!(
        issued == (MANY, MANY),
        "orders and certificates: {issued:?}"
    );
    for namespace in namespaces {
        let there = Story {
            stage: story.stage,
            namespace,
        };
        no_route_stays(&there).await?;
    }
    println!(
        "all calls meanwhile:\n{}",
        audit::table(&audit.calls(&operator::user())?)
    );
    let calls = calls(&audit, namespaces)?;
    println!(
        "{} mutating calls, {}.{} for each certificate:\n{}",
        calls.len(),
        calls.len() / MANY,
        calls.len() * 10 / MANY % 10,
        audit::table(&calls)
    );
    ensure!(!calls.is_empty(), "nothing was counted");
    ensure!(
        calls.len() <= CALLS * MANY,
        "{} mutating calls for {MANY} certificates",
        calls.len()
    );
    Ok(())
}

/// The operator's calls for these namespaces, the solver's cold start apart.
fn calls(audit: &Audit, namespaces: &[String]) -> Result<Vec<Call>> {
    let is_ours = |namespace: &str| {
        namespace == operator::NAMESPACE || namespaces.iter().any(|name| name == namespace)
    };
    let mut calls = audit.mutating(&operator::user())?;
    calls.retain(|call| is_ours(call.namespace()));
    calls.retain(|call| {
        !(call.namespace() == operator::NAMESPACE && call.name() == keys::SOLVER_NAME)
    });
    Ok(calls)
}
