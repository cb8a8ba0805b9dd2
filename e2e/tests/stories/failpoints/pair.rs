//! The same table with two replicas. At each effect the leader stands still, its Lease is deleted, another leads, and the first
//! goes on: with a claim that is over by then, it does nothing more; with one that lasts, two lead at once. How another takes over
//! by itself is in [`leaders`](crate::leaders).

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use evercert_e2e::Story;
use evercert_e2e::audit::{self, Audit, Call};
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::{self, LEASE, NAMESPACE, Operator, Role};
use evercert_e2e::story::SOON;
use evercert_operator::effect::Effect;
use evercert_operator::effect::failpoint::{Point, Side, Stop, VARIABLE};
use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use tokio::sync::Mutex;

use super::play::Play;
use super::{AFTER_BACKOFF, check, is_gap, orders, play};
use crate::{Tale, tales};

/// How the first goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// Its claim is over.
    Old,
    /// It believes that its claim lasts, and the other leads as well.
    Lasting,
}

impl Claim {
    const ALL: [Self; 2] = [Self::Old, Self::Lasting];

    /// How long the first one's claim lasts: as short as a busy machine bears, or longer than the play.
    fn duration(self) -> &'static str {
        match self {
            Self::Old => SHORT,
            Self::Lasting => "30s",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Old => "frozen",
            Self::Lasting => "two_lead",
        }
    }
}

const SHORT: &str = "4s";
/// The same, and what is lost on the way.
const OVER: Duration = Duration::from_secs(5);
const DURATION: &str = "EVERCERT_LEASE_DURATION";
/// The longest time until another leads: a claim of the usual length may stand in the Lease from before.
const TAKEN_OVER: Duration = Duration::from_secs(15);

/// Where it is known what became of everything.
pub(crate) fn tales() -> Vec<Tale> {
    let rows = points().filter(|point| !is_gap(*point));
    rows.flat_map(|point| Claim::ALL.map(|claim| (point, claim)))
        .map(|(point, claim)| {
            let effect = point.effect.name().replace('-', "_");
            let name = format!(
                "{}::{}_{}_{effect}",
                module_path!(),
                claim.name(),
                point.side
            );
            Tale::new(name, move |story| Box::pin(told(story, point, claim)))
        })
        .collect()
}

/// Where it is not.
pub(crate) fn of_the_gap() -> Vec<Tale> {
    tales![
        frozen_between_intent_and_record_an_order_counts_as_spent_and_waits,
        two_that_lead_between_intent_and_record_place_one_order_or_count_one_as_spent,
    ]
}

/// Every effect, before it: then the first thing that it does afterwards is the effect itself.
fn points() -> impl Iterator<Item = Point> {
    Effect::ALL.iter().map(|effect| Point {
        effect: *effect,
        side: Side::Before,
        nth: 1,
        stop: Stop::Freeze,
    })
}

async fn told(story: Story<'_>, point: Point, claim: Claim) -> Result<()> {
    let began = Instant::now();
    let play = Play::of(point.effect);
    let mut pair = Pair::begin(&story).await?;
    let told = async {
        let ca = pair.reach(&story, point, claim).await?;
        let reached = began.elapsed();
        if claim == Claim::Lasting {
            pair.first.thaw()?;
        }
        play.mend(&story).await?;
        let may = may_order(point, claim);
        check::whole(&story, play, ca.as_ref(), SOON, may.clone()).await?;
        if claim == Claim::Old {
            pair.goes_on_with_an_old_claim(&story, point, ca.as_ref())
                .await?;
        }
        println!(
            "{point}, {claim:?}: reached after {reached:.1?}, whole after {:.1?}",
            began.elapsed()
        );
        Ok(())
    }
    .await;
    pair.end().await?;
    // What ends the play may start the operator anew.
    drop(pair);
    let told = match told {
        Ok(()) => play::end(&story, point).await,
        Err(error) => Err(error),
    };
    match told {
        Ok(()) => Ok(()),
        Err(error) => Err(story.with_evidence(anyhow!("{error:#}")).await),
    }
}

/// The orders that the CA may be asked for.
fn may_order(point: Point, claim: Claim) -> RangeInclusive<usize> {
    let one = orders(point);
    match claim {
        // Whichever of the two is faster with its record.
        Claim::Lasting if is_gap(point) => 1..=2,
        Claim::Lasting | Claim::Old => one..=one,
    }
}

/// Two replicas.
struct Pair<'a> {
    first: tokio::sync::MutexGuard<'a, Operator>,
    second: Operator,
    /// Since when the first stands still.
    stood_still: Option<Instant>,
}

impl<'a> Pair<'a> {
    async fn begin(story: &Story<'a>) -> Result<Self> {
        let first = story.stage.operator.lock().await;
        let second = first.second();
        Ok(Self {
            first,
            second,
            stood_still: None,
        })
    }

    /// Plays until the first stands still at `point`, and the second leads. The story's CA, if it needs one.
    async fn reach(
        &mut self,
        story: &Story<'_>,
        point: Point,
        claim: Claim,
    ) -> Result<Option<TestCa>> {
        let play = Play::of(point.effect);
        let ca = play.prepare(story).await?;
        self.first.kill()?;
        play.while_down(story).await?;
        let armed = point.to_string();
        let mut variables = play.variables();
        variables.push((DURATION, claim.duration()));
        variables.push((VARIABLE, &armed));
        self.first.restart_with(&variables)?;
        let mut variables = play.variables();
        variables.push((DURATION, SHORT));
        self.second.restart_with(&variables)?;
        story
            .wait_for("the second is ready", SOON, async || {
                Ok(self.second.role()?.map(drop))
            })
            .await?;
        play.go(story, ca.as_ref()).await?;
        if play == Play::End {
            self.first.ready().await?;
            self.first.ask_to_end()?;
        }
        self.first
            .stands_still(SOON)
            .await
            .with_context(|| format!("{point} was not reached"))?;
        self.stood_still = Some(Instant::now());
        let leases: Api<Lease> = Api::namespaced(story.stage.client.clone(), NAMESPACE);
        match leases.delete(LEASE, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
        self.second.is(Role::Leader, TAKEN_OVER).await?;
        Ok(ca)
    }

    /// The first goes on, after all is done, and does nothing.
    async fn goes_on_with_an_old_claim(
        &mut self,
        story: &Story<'_>,
        point: Point,
        ca: Option<&TestCa>,
    ) -> Result<()> {
        let since = self.stood_still.context("it never stood still")?;
        story
            .wait_for("its claim is over", OVER * 2, async || {
                Ok((since.elapsed() >= OVER).then_some(()))
            })
            .await?;
        let requests = || ca.map(TestCa::count).transpose();
        let (audit, before) = (story.stage.audit()?, requests()?);
        self.first.thaw()?;
        if Play::of(point.effect) == Play::End {
            self.first.ended(SOON).await?;
        } else {
            self.first.is(Role::Standby, SOON).await?;
        }
        let late = writes(&audit, self.first.identity())?;
        ensure!(late.is_empty(), "it wrote:\n{}", audit::table(&late));
        let after = requests()?;
        ensure!(
            before.map(|c| c.without_polls()) == after.map(|c| c.without_polls()),
            "requests to the CA: {before:?}, {after:?}"
        );
        Ok(())
    }

    /// The first is the operator again, without a failpoint.
    async fn end(&mut self) -> Result<()> {
        if self.second.pid().is_some() {
            // It gives the Lease up.
            self.second.terminate()?;
        }
        if self.first.pid().is_some() {
            self.first.kill()?;
        }
        self.first.ensure_ready().await
    }
}

/// What a replica changed, or would have if it had not been refused: save a write of the Lease that was, which is how it learns
/// that the Lease is another's.
fn writes(audit: &Audit, identity: &str) -> Result<Vec<Call>> {
    let mut calls = audit.calls(&operator::user())?;
    let own = format!("({identity})");
    calls.retain(|call| call.is_mutating() && call.user_agent().ends_with(&own));
    calls.retain(|call| !(call.is_about_the_lease() && call.code() == 409));
    Ok(calls)
}

/// Between the intent in the ledger and the order's URL in the status.
fn gap() -> Vec<Point> {
    let both = |effect: &Effect| {
        Side::ALL.map(|side| Point {
            effect: *effect,
            side,
            nth: 1,
            stop: Stop::Freeze,
        })
    };
    let points = Effect::ALL.iter().flat_map(both);
    points.filter(|point| is_gap(*point)).collect()
}

async fn frozen_between_intent_and_record_an_order_counts_as_spent_and_waits(
    story: Story<'_>,
) -> Result<()> {
    let turns = &Mutex::new(());
    let rows = gap().into_iter().map(|point| async move {
        let name = format!("f-{}-{}-pair", point.side, point.effect);
        let own = Story::begin(story.stage, &name).await?;
        let told = frozen_in_the_gap(&own, point, turns).await;
        evidence(&own, point, told).await
    });
    let told: Result<Vec<()>> = join_all(rows).await.into_iter().collect();
    told.map(drop)
}

/// One after the other they stand still; the minutes pass side by side.
async fn frozen_in_the_gap(story: &Story<'_>, point: Point, turns: &Mutex<()>) -> Result<()> {
    let turn = turns.lock().await;
    let mut pair = Pair::begin(story).await?;
    let told = async {
        let ca = pair.reach(story, point, Claim::Old).await?;
        let ca = ca.context("a play without a CA")?;
        let spent = check::spent(story, point, &ca).await?;
        pair.goes_on_with_an_old_claim(story, point, Some(&ca))
            .await?;
        anyhow::Ok((ca, spent))
    }
    .await;
    pair.end().await?;
    drop(pair);
    drop(turn);
    let (ca, spent) = told?;
    check::waits(story, spent, &ca, AFTER_BACKOFF).await?;
    whole_at_last(story, point, Claim::Old, &ca).await
}

async fn two_that_lead_between_intent_and_record_place_one_order_or_count_one_as_spent(
    story: Story<'_>,
) -> Result<()> {
    for point in gap() {
        let name = format!("t-{}-{}-pair", point.side, point.effect);
        let own = Story::begin(story.stage, &name).await?;
        let told = two_lead_in_the_gap(&own, point).await;
        evidence(&own, point, told).await?;
    }
    Ok(())
}

async fn two_lead_in_the_gap(story: &Story<'_>, point: Point) -> Result<()> {
    let mut pair = Pair::begin(story).await?;
    let told = async {
        let ca = pair.reach(story, point, Claim::Lasting).await?;
        let ca = ca.context("a play without a CA")?;
        pair.first.thaw()?;
        // What the two make of it is settled when the first has found the Lease another's.
        pair.first.is(Role::Standby, SOON).await?;
        whole_at_last(story, point, Claim::Lasting, &ca).await
    }
    .await;
    pair.end().await?;
    told
}

async fn whole_at_last(story: &Story<'_>, point: Point, claim: Claim, ca: &TestCa) -> Result<()> {
    let (play, may) = (Play::of(point.effect), may_order(point, claim));
    check::whole(story, play, Some(ca), AFTER_BACKOFF, may).await?;
    play::end(story, point).await
}

async fn evidence(story: &Story<'_>, point: Point, told: Result<()>) -> Result<()> {
    match told {
        Ok(()) => Ok(()),
        Err(error) => Err(story.with_evidence(error.context(point.to_string())).await),
    }
}
