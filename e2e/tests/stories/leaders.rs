//! Two replicas of the operator: one acts, the other stands by. Whatever becomes of the first, the same order is finished, and
//! nothing is done twice. What happens at each single effect is in [`failpoints`](crate::failpoints).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use evercert_api::Certificate;
use evercert_cluster::Pebble;
use evercert_e2e::audit::{Audit, Call};
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::{self, Operator, Role};
use evercert_e2e::story::{SOON, certificate_ready};
use evercert_e2e::{Story, audit};

use crate::issue::no_route_stays;
use crate::{Tale, tales};

/// From the end of a leader until another leads.
const TAKEN_OVER: Duration = Duration::from_secs(15);
/// And until it has finished the order that was under way.
const FINISHED: Duration = Duration::from_secs(20);
/// A leader that is asked to end hands over: far below the time that its claim would last.
const AT_ONCE: Duration = Duration::from_secs(4);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        the_leader_is_killed_amid_an_order_and_the_standby_finishes_the_same_order,
        a_frozen_leader_that_goes_on_later_does_nothing_with_its_old_claim,
        a_leader_that_is_asked_to_end_hands_over_at_once,
    ]
}

async fn the_leader_is_killed_amid_an_order_and_the_standby_finishes_the_same_order(
    story: Story<'_>,
) -> Result<()> {
    let mut first = story.stage.operator.lock().await;
    let mut second = stand_by(&first).await?;
    let told = async {
        let ca = amid_an_order(&story).await?;
        ensure!(second.role()? == Some(Role::Standby), "two lead");
        let ended = Instant::now();
        first.kill()?;
        finishes(&story, &mut second, &ca, ended).await
    }
    .await;
    end(&mut first, &mut second, told).await
}

async fn a_frozen_leader_that_goes_on_later_does_nothing_with_its_old_claim(
    story: Story<'_>,
) -> Result<()> {
    let mut first = story.stage.operator.lock().await;
    let mut second = stand_by(&first).await?;
    let told = async {
        let audit = story.stage.audit()?;
        let ca = amid_an_order(&story).await?;
        let pid = first.pid();
        let frozen = Instant::now();
        first.freeze()?;
        finishes(&story, &mut second, &ca, frozen).await?;
        no_route_stays(&story).await?;
        for one in [first.identity(), second.identity()] {
            ensure!(
                !writes(&audit, one)?.is_empty(),
                "no write of {one} was counted: this story proves nothing then"
            );
        }
        let (before, requests) = (story.stage.audit()?, ca.count()?.without_polls());

        first.thaw()?;
        first.is(Role::Standby, SOON).await?;
        let late = writes(&before, first.identity())?;
        ensure!(late.is_empty(), "it wrote:\n{}", audit::table(&late));
        let more = ca.count()?.without_polls() - requests;
        ensure!(more == 0, "{more} requests to the CA");

        // It is as good as a new one: when its turn comes again it acts, and forgets nothing of what the other did.
        let asked = Instant::now();
        second.ask_to_end()?;
        first.is(Role::Leader, AT_ONCE).await?;
        println!("handed back after {:.2?}", asked.elapsed());
        story.certificate("next", &[story.host("next")]).await?;
        story.ready("next", SOON).await?;
        let count = ca.count()?;
        ensure!(count.orders == 2 && count.certificates == 2, "{count:?}");
        ensure!(first.pid() == pid, "it was started again");
        Ok(())
    }
    .await;
    end(&mut first, &mut second, told).await
}

async fn a_leader_that_is_asked_to_end_hands_over_at_once(story: Story<'_>) -> Result<()> {
    let mut first = story.stage.operator.lock().await;
    let mut second = stand_by(&first).await?;
    let told = async {
        let ca = amid_an_order(&story).await?;
        let asked = Instant::now();
        let status = first.terminate()?;
        ensure!(status.success(), "SIGTERM ended it with {status}");
        second.is(Role::Leader, AT_ONCE).await?;
        println!("another leads after {:.2?}", asked.elapsed());
        finishes(&story, &mut second, &ca, asked).await
    }
    .await;
    end(&mut first, &mut second, told).await
}

/// A second replica, which stands by.
async fn stand_by(first: &Operator) -> Result<Operator> {
    let mut second = first.second();
    second.restart()?;
    second.is(Role::Standby, SOON).await?;
    Ok(second)
}

/// A certificate whose order is recorded and whose challenge the CA works on, patiently.
pub(crate) async fn amid_an_order(story: &Story<'_>) -> Result<TestCa> {
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
    let certificate = story.api::<Certificate>().get("site").await?;
    ensure!(
        !certificate_ready(&certificate),
        "it is Ready already: this story proves nothing then"
    );
    Ok(ca)
}

/// The second leads in time, and has the same order finished in time.
async fn finishes(
    story: &Story<'_>,
    second: &mut Operator,
    ca: &TestCa,
    since: Instant,
) -> Result<()> {
    let left = |bound: Duration| bound.saturating_sub(since.elapsed());
    second.is(Role::Leader, left(TAKEN_OVER)).await?;
    let taken = since.elapsed();
    story.ready("site", left(FINISHED)).await?;
    println!(
        "taken over after {taken:.2?}, Ready after {:.2?}",
        since.elapsed()
    );
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    ensure!(count.registered == 1, "{count:?}");
    Ok(())
}

/// What a replica asked the API server to change, its Lease among it.
fn writes(audit: &Audit, identity: &str) -> Result<Vec<Call>> {
    let mut calls = audit.calls(&operator::user())?;
    let own = format!("({identity})");
    calls.retain(|call| call.is_mutating() && call.user_agent().ends_with(&own));
    Ok(calls)
}

/// The first is the operator again, for whoever comes next.
async fn end(first: &mut Operator, second: &mut Operator, told: Result<()>) -> Result<()> {
    if second.pid().is_some() {
        second.kill()?;
    }
    if first.pid().is_some() {
        first.thaw()?;
    }
    let ready = first.ensure_ready().await;
    told.and(ready)
}
