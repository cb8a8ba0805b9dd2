//! On a stage where nothing has happened yet.

use std::time::Duration;

use anyhow::{Result, ensure};
use evercert_cluster::address;
use evercert_e2e::Story;
use evercert_e2e::story::SOON;
use tokio::net::TcpStream;

use crate::issue::no_route_stays;
use crate::{Tale, tales};

/// Each starts with a closed port, and the race is lost now and then only.
const TIMES: usize = 6;

pub(crate) fn tales() -> Vec<Tale> {
    tales![the_first_route_of_a_cluster_is_awaited_before_the_ca_is_told]
}

/// Without any route the ingress controller does not even listen, and for a moment afterwards it answers 404: neither means
/// that the CA sees better, and a failed validation costs.
async fn the_first_route_of_a_cluster_is_awaited_before_the_ca_is_told(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    for number in 1..=TIMES {
        story
            .wait_for(
                "nothing listens at port 80",
                Duration::from_secs(20),
                async || {
                    Ok(TcpStream::connect((address::INGRESS, 80))
                        .await
                        .is_err()
                        .then_some(()))
                },
            )
            .await?;
        let name = format!("first{number}");
        story.certificate(&name, &[story.host(&name)]).await?;
        story.ready(&name, SOON).await?;
        let count = ca.count()?;
        ensure!(
            count.orders == number && count.certificates == number,
            "after {name}: {count:?}"
        );
        no_route_stays(&story).await?;
    }
    Ok(())
}
