//! One of ten names leads to somebody else's site when their certificate is renewed: that one alone is blamed, and the nine others
//! are not proved again when it is mended.

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_api::condition::ISSUING;
use evercert_cluster::address;
use evercert_e2e::scripted::{Endpoint, ScriptedCa, Settings};
use evercert_e2e::site::{Answer, Site};
use evercert_e2e::story::{SOON, conditions_of};
use evercert_e2e::{Story, dns};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::requested::{another, ask, serial};
use crate::self_check::issuer_of;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![one_wrong_name_of_ten_is_blamed_alone_and_the_nine_others_are_not_proved_again]
}

async fn one_wrong_name_of_ten_is_blamed_alone_and_the_nine_others_are_not_proved_again(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.stage.scripted_ca(Settings::default()).await?;
    let directory = ca.directory();
    let check = json!({"budget": "2s"});
    issuer_of(&story, "ca", (&directory, ca.bundle()), &check).await?;
    let names: Vec<String> = (0..10).map(|n| story.host(&format!("n{n}"))).collect();
    let (wrong, others) = names.split_last().context("no names")?;
    story.certificate("ten", &names).await?;
    let first = serial(&story.ready("ten", SOON).await?)?;
    let before = story.secret("ten").await?;
    // As with a renewal a month later: what was proved then is forgotten, and what is proved from now on is used again.
    ca.script().forget_orders();
    ca.script().settings(|s| s.reuses_authorizations = true);

    let site = Site::start().await?;
    let elsewhere = story.host("elsewhere");
    let page = |status, location| Answer {
        status,
        server: "nginx",
        location,
    };
    site.answer(wrong, page(301, Some(format!("http://{elsewhere}/"))));
    site.answer(&elsewhere, page(200, None));
    for host in [wrong, &elsewhere] {
        dns::point(host, &[address::SITE])?;
    }
    ask(&story, "ten", &Timestamp::now().to_string()).await?;
    let told = story.condition_says("ten", ISSUING, wrong, SOON).await?;
    ensure!(
        told.contains("after a redirect to") && others.iter().all(|name| !told.contains(name)),
        "{told}"
    );
    let has_failed = |certificate: &Certificate| {
        let status = certificate.status.as_ref();
        status.is_some_and(|status| status.last_failure.is_some() && status.order.is_none())
    };
    let failed: Certificate = story
        .until("ten", "the CA has refused it", SOON, has_failed)
        .await?;
    let status = failed.status.as_ref().context("no status")?;
    let failure = status.last_failure.as_ref().context("no failure")?;
    ensure!(
        failure.message.contains(wrong) && failure.message.contains("unauthorized"),
        "{failure:?}"
    );
    let said = conditions_of(&failed).iter().map(|c| &c.message);
    for message in said.chain([&failure.message]) {
        let is_blamed = others.iter().find(|name| message.contains(*name));
        ensure!(is_blamed.is_none(), "{is_blamed:?}: {message}");
    }
    ensure!(
        story.secret("ten").await?.data == before.data,
        "the old certificate is not in place"
    );
    proved(&ca, others, 2)?;
    proved(&ca, std::slice::from_ref(wrong), 2)?;
    ensure!(ca.count().validated == 10 + 9, "{}", ca.journal());

    dns::clear(wrong)?;
    // Stored instants are whole seconds, so that one of the next second is later than the failure for certain.
    let soon = Timestamp::now() + SignedDuration::from_secs(1);
    ask(&story, "ten", &soon.to_string()).await?;
    another(&story, "ten", &first).await?;
    proved(&ca, others, 2)?;
    proved(&ca, std::slice::from_ref(wrong), 3)?;
    let count = ca.count();
    ensure!(
        count.validated == 10 + 9 + 1 && count.orders == 3 && count.certificates == 2,
        "{count:?}\n{}",
        ca.journal()
    );
    Ok(())
}

/// The CA was told so often that the challenge of each name is ready.
fn proved(ca: &ScriptedCa, names: &[String], times: usize) -> Result<()> {
    let asked = ca.journal().of(Endpoint::Challenge);
    for name in names {
        let of_name = asked.naming(name);
        ensure!(of_name.len() == times, "{name}, not {times}:\n{of_name}");
    }
    Ok(())
}
