//! The solver goes in the middle of an order: nobody is asked to validate before it is back.

use anyhow::{Result, ensure};
use evercert_api::keys::SOLVER_NAME;
use evercert_e2e::Story;
use evercert_e2e::operator::NAMESPACE;
use evercert_e2e::pods;
use evercert_e2e::story::SOON;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};

use crate::issue::no_route_stays;
use crate::midway::{begin_in_the_middle, never_failed, open_the_route};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![a_solver_whose_pod_is_deleted_in_the_middle_of_an_order_costs_no_second_order]
}

async fn a_solver_whose_pod_is_deleted_in_the_middle_of_an_order_costs_no_second_order(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let names = ["a", "b", "c"].map(|label| story.host(label));
    let order = begin_in_the_middle(&story, &names).await?;

    let client = story.stage.client.clone();
    let selector = format!("app.kubernetes.io/name={SOLVER_NAME}");
    let before = pods::list(&client, NAMESPACE, &selector).await?;
    ensure!(!before.is_empty(), "an order was placed without a solver");
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let at_once = DeleteParams::default().grace_period(0);
    for pod in &before {
        api.delete(&pod.name_any(), &at_once).await?;
    }
    // The route is made while nobody, or somebody else, answers behind it.
    open_the_route(&story).await?;

    story.ready("site", SOON * 2).await?;
    never_failed(&story, "site").await?;
    let now = pods::list(&client, NAMESPACE, &selector).await?;
    ensure!(
        !now.is_empty()
            && now
                .iter()
                .all(|pod| before.iter().all(|old| old.uid() != pod.uid())),
        "no pod was deleted, or none came in its place: {:?}",
        now.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    );
    let count = ca.count()?;
    ensure!(
        count.orders == 1 && count.placed == 1 && count.certificates == 1 && count.challenges == 3,
        "{count:?}, the order was {}",
        order.url
    );
    no_route_stays(&story).await
}
