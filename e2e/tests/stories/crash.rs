//! The operator is ended in the middle, as a kubelet would: it stops by itself, and goes on later with the same order. What
//! happens when it is killed is in [`failpoints`](crate::failpoints).

mod processing;

use anyhow::{Result, ensure};
use evercert_api::Certificate;
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::story::{SOON, certificate_ready};

use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    let mut all = tales![ended_by_a_kubelet_it_stops_by_itself_and_goes_on_later];
    all.extend(processing::tales());
    all
}

async fn ended_by_a_kubelet_it_stops_by_itself_and_goes_on_later(story: Story<'_>) -> Result<()> {
    // Some patience, so that there is a middle to be ended in.
    let patient = Pebble {
        retry_after: (3, 3),
        ..Pebble::default()
    };
    let ca = story.ca_with(patient).await?;
    story.certificate("site", &[story.host("www")]).await?;
    story
        .wait_for("the CA was asked to validate", SOON, async || {
            Ok((ca.count()?.challenges > 0).then_some(()))
        })
        .await?;
    let mut operator = story.stage.operator.lock().await;
    let certificate = story.api::<Certificate>().get("site").await?;
    ensure!(!certificate_ready(&certificate), "it is over already");
    let status = operator.terminate()?;
    operator.restart()?;
    drop(operator);
    ensure!(status.success(), "SIGTERM ended it with {status}");
    story.ready("site", SOON).await?;
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    Ok(())
}
