//! The same table with two replicas. Before each effect the leader stands still, its Lease is deleted, another leads, and stands
//! still after the same effect; then the first goes on: with claims that are over by then, it first has to win the Lease again,
//! and the second does nothing more; with claims that last, both lead at once. How another takes over by itself is in
//! [`leaders`](crate::leaders).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use evercert_e2e::Story;
use evercert_e2e::audit::{self, Audit, Call};
use evercert_e2e::ca::{Count, TestCa};
use evercert_e2e::operator::{self, LEASE, NAMESPACE, Operator, Role};
use evercert_operator::effect::Effect;
use evercert_operator::effect::failpoint::{Point, Side, Stop, VARIABLE};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;

use super::check::{May, Spent};
use super::play::{Play, ROUTE_PATIENCE};
use super::{
    PATIENCE, Waiting, check, comes_by_itself, is_forwarders, is_gap, orders, play, side_by_side,
};
use crate::{Tale, tales};

/// How those go on that stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// Its claim is over.
    Old,
    /// It believes that its claim lasts, and the other leads as well.
    Lasting,
}

impl Claim {
    const ALL: [Self; 2] = [Self::Old, Self::Lasting];

    /// How long a claim lasts: as short as a busy machine bears, or longer than the play.
    fn duration(self) -> &'static str {
        match self {
            Self::Old => "3s",
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

/// An old claim, which counts from before the last request about it.
const OVER: Duration = Duration::from_secs(3);
/// So many requests had passed the look at the claim and were not on their way yet when the process stood still, at most.
const UNDER_WAY: usize = 2;
const DURATION: &str = "EVERCERT_LEASE_DURATION";
/// The longest time until another leads: a claim of the usual length may stand in the Lease from before.
const TAKEN_OVER: Duration = Duration::from_secs(15);

/// Where the first stands still, and then the second, if it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stops {
    first: Point,
    second: Option<Point>,
}

impl Stops {
    const fn alone(first: Point) -> Self {
        Self {
            first,
            second: None,
        }
    }
}

/// Where it is known what became of everything.
pub(crate) fn tales() -> Vec<Tale> {
    tales_of(|point| !is_forwarders(point))
}

/// The same for forwarders: without a kube-proxy none reaches the solver.
pub(crate) fn of_forwarders() -> Vec<Tale> {
    let tales = tales_of(is_forwarders);
    tales.into_iter().map(Tale::on_a_node).collect()
}

fn tales_of(wanted: impl Fn(Point) -> bool) -> Vec<Tale> {
    let rows = Effect::ALL.iter().flat_map(|effect| rows(*effect));
    rows.filter(|stops| wanted(stops.first))
        .flat_map(|stops| Claim::ALL.map(|claim| (stops, claim)))
        .map(|(stops, claim)| {
            let Stops { first, second } = stops;
            let effect = first.effect.name().replace('-', "_");
            let sides = match second {
                Some(second) => format!("{}_and_{}", first.side, second.side),
                None => first.side.to_string(),
            };
            let name = format!("{}::{}_{sides}_{effect}", module_path!(), claim.name());
            Tale::new(name, move |story| Box::pin(told(story, stops, claim)))
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

/// Each known side of an effect once.
fn rows(effect: Effect) -> Vec<Stops> {
    let known: Vec<Point> = points(effect)
        .into_iter()
        .filter(|point| !is_gap(*point))
        .collect();
    let [before, after] = *known else {
        return known.into_iter().map(Stops::alone).collect();
    };
    match successor(effect) {
        Some(next) if next == effect => vec![Stops {
            first: before,
            second: Some(after),
        }],
        next => vec![
            Stops {
                first: before,
                second: next.map(|effect| Point { effect, ..after }),
            },
            Stops::alone(after),
        ],
    }
}

/// What another does first where the leader stands still before `effect`.
fn successor(effect: Effect) -> Option<Effect> {
    match effect {
        // It finds the certificate in the companion.
        Effect::StoreIssued | Effect::StoreSelfSigned => Some(Effect::RestoreSecret),
        // The order is forgotten, and ends at the CA by itself.
        Effect::DeactivateAuthorizations => None,
        // One that ends does not come back to lead.
        effect if Play::of(effect) == Play::End => None,
        effect => Some(effect),
    }
}

fn points(effect: Effect) -> [Point; 2] {
    Side::ALL.map(|side| Point {
        effect,
        side,
        nth: 1,
        stop: Stop::Freeze,
    })
}

async fn told(story: Story<'_>, stops: Stops, claim: Claim) -> Result<()> {
    let began = Instant::now();
    let point = stops.first;
    let play = Play::of(point.effect);
    let mut pair = Pair::begin(&story).await?;
    let told = async {
        let ca = pair.reach(&story, stops, claim).await?;
        let reached = began.elapsed();
        match claim {
            Claim::Lasting => pair.both_go_on()?,
            Claim::Old if stops.second.is_some() => pair.the_first_leads_again(&story).await?,
            Claim::Old => {}
        }
        if goes_last(point, claim) {
            play.go(&story, ca.as_ref()).await?;
        }
        play.mend(&story).await?;
        check::whole(&story, play, ca.as_ref(), PATIENCE, &may_ask(point, claim)).await?;
        if claim == Claim::Old {
            pair.goes_on_with_an_old_claim(&story, point, ca.as_ref())
                .await?;
            // What was under way has changed nothing for good.
            check::whole(&story, play, ca.as_ref(), PATIENCE, &may_ask(point, claim)).await?;
        }
        println!(
            "{point}, {claim:?}: reached after {reached:.1?}, whole after {:.1?}",
            began.elapsed()
        );
        Ok(())
    }
    .await;
    pair.end(&story).await?;
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

/// Whether the play begins only when one of the two goes on. A claim that lasts is renewed long after an order is over.
fn goes_last(point: Point, claim: Claim) -> bool {
    comes_by_itself(point) && claim == Claim::Old
}

/// What the CA may be asked for.
fn may_ask(point: Point, claim: Claim) -> May {
    let one = May::be(orders(point));
    match claim {
        Claim::Old => one,
        Claim::Lasting => May {
            // Whichever of the two is faster with its record.
            orders: if is_gap(point) { 1..=2 } else { one.orders },
            // Pebble signs twice when two finalize an order at the same moment (docs/adr/0018); one is stored.
            certificates: 1..=2,
        },
    }
}

/// Two replicas.
struct Pair<'a> {
    first: tokio::sync::MutexGuard<'a, Operator>,
    second: Operator,
    /// Since when the first stands still.
    first_stood_still: Option<Instant>,
    /// Since when the second does, if it does.
    second_stood_still: Option<Instant>,
}

impl<'a> Pair<'a> {
    async fn begin(story: &Story<'a>) -> Result<Self> {
        let first = story.stage.operator.lock().await;
        let second = first.second();
        Ok(Self {
            first,
            second,
            first_stood_still: None,
            second_stood_still: None,
        })
    }

    /// Plays until the first stands still where it is to, and the second leads or stands still as well. The story's CA, if it
    /// needs one.
    async fn reach(
        &mut self,
        story: &Story<'_>,
        stops: Stops,
        claim: Claim,
    ) -> Result<Option<TestCa>> {
        let point = stops.first;
        let play = Play::of(point.effect);
        let ca = play.prepare(story).await?;
        self.first.kill()?;
        play.while_down(story).await?;
        let armed = point.to_string();
        let mut variables = play.variables();
        if claim == Claim::Lasting {
            // One of the two makes a route for an order that the other does not know yet, and would take it away at once.
            variables.retain(|(name, _)| *name != ROUTE_PATIENCE);
            variables.push((ROUTE_PATIENCE, "2s"));
        }
        variables.push((DURATION, claim.duration()));
        let mut first = variables.clone();
        first.push((VARIABLE, &armed));
        self.first.restart_with(&first)?;
        let armed = stops.second.map(|point| point.to_string());
        variables.extend(armed.as_deref().map(|armed| (VARIABLE, armed)));
        self.second.restart_with(&variables)?;
        story
            .wait_for("the second is ready", PATIENCE, async || {
                let there = self.second.is_standing_still()? || self.second.role()?.is_some();
                Ok(there.then_some(()))
            })
            .await?;
        if !goes_last(point, claim) {
            play.go(story, ca.as_ref()).await?;
        }
        if play == Play::End {
            self.first.ready().await?;
            self.first.ask_to_end()?;
        }
        self.first
            .stands_still(PATIENCE)
            .await
            .with_context(|| format!("{point} was not reached"))?;
        self.first_stood_still = Some(Instant::now());
        delete_lease(story).await?;
        if let Some(point) = stops.second {
            self.second
                .stands_still(TAKEN_OVER + PATIENCE)
                .await
                .with_context(|| format!("{point} was not reached by the second"))?;
            self.second_stood_still = Some(Instant::now());
            delete_lease(story).await?;
        } else {
            self.second.is(Role::Leader, TAKEN_OVER).await?;
        }
        Ok(ca)
    }

    fn both_go_on(&mut self) -> Result<()> {
        self.first.thaw()?;
        if self.second_stood_still.is_some() {
            self.second.thaw()?;
        }
        Ok(())
    }

    /// Its claim is over: before it changes anything it has won the Lease.
    async fn the_first_leads_again(&mut self, story: &Story<'_>) -> Result<()> {
        claim_is_over(story, self.first_stood_still).await?;
        let audit = story.stage.audit()?;
        self.first.thaw()?;
        self.first.is(Role::Leader, TAKEN_OVER).await?;
        let won = |call: &Call| call.is_about_the_lease() && call.code() < 300;
        let before = story
            .wait_for("the audit log tells of it", PATIENCE, async || {
                let wrote = writes(&audit, self.first.identity())?;
                let at = wrote.iter().position(won);
                Ok(at.map(|at| wrote.into_iter().take(at).collect::<Vec<Call>>()))
            })
            .await?;
        only_under_way(&before)
    }

    /// Who stood still last goes on, after all is done, and does nothing.
    async fn goes_on_with_an_old_claim(
        &mut self,
        story: &Story<'_>,
        point: Point,
        ca: Option<&TestCa>,
    ) -> Result<()> {
        let (last, since) = match self.second_stood_still {
            Some(since) => (&mut self.second, Some(since)),
            None => (&mut *self.first, self.first_stood_still),
        };
        claim_is_over(story, since).await?;
        // A first that has just begun again looks its account up.
        let all = self.second_stood_still.is_none();
        let count = || ca.map(TestCa::count).transpose();
        let (audit, before) = (story.stage.audit()?, count()?);
        last.thaw()?;
        if Play::of(point.effect) == Play::End {
            last.ended(PATIENCE).await?;
        } else {
            last.is(Role::Standby, PATIENCE).await?;
        }
        only_under_way(&writes(&audit, last.identity())?)?;
        let (Some(before), Some(after)) = (before, count()?) else {
            return Ok(());
        };
        ensure!(
            !all || after.without_polls() <= before.without_polls() + UNDER_WAY,
            "requests to the CA: {before:?}, {after:?}"
        );
        nothing_comes_of_it(&before, &after)
    }

    /// The first is the operator again, without a failpoint.
    async fn end(&mut self, story: &Story<'_>) -> Result<()> {
        for replica in [&mut *self.first, &mut self.second] {
            if replica.pid().is_some() {
                replica.kill()?;
            }
        }
        delete_lease(story).await?;
        self.first.ensure_ready().await
    }
}

/// A process that is not to act any more has begun nothing: what it wrote was under way when it stood still.
fn only_under_way(wrote: &[Call]) -> Result<()> {
    ensure!(
        wrote.len() <= UNDER_WAY,
        "it wrote:\n{}",
        audit::table(wrote)
    );
    Ok(())
}

/// Of what was under way to the CA, too: an order or an account never is, and what another did meanwhile is not done twice.
fn nothing_comes_of_it(before: &Count, after: &Count) -> Result<()> {
    let told = |count: &Count| count.challenges + count.finalized;
    let made = |count: &Count| (count.orders, count.registered, count.certificates);
    ensure!(
        made(before) == made(after) && told(after) <= told(before) + UNDER_WAY,
        "what the CA was asked for: {before:?}, {after:?}"
    );
    Ok(())
}

/// As if nobody had ever led.
async fn delete_lease(story: &Story<'_>) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(story.stage.client.clone(), NAMESPACE);
    match leases.delete(LEASE, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop).map_err(Into::into),
    }
}

async fn claim_is_over(story: &Story<'_>, since: Option<Instant>) -> Result<()> {
    let since = since.context("it never stood still")?;
    story
        .wait_for("its claim is over", OVER * 2, async || {
            Ok((since.elapsed() >= OVER).then_some(()))
        })
        .await
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
    let points = Effect::ALL.iter().flat_map(|effect| points(*effect));
    points.filter(|point| is_gap(*point)).collect()
}

async fn frozen_between_intent_and_record_an_order_counts_as_spent_and_waits(
    story: Story<'_>,
) -> Result<()> {
    in_the_gap(&story, Claim::Old).await
}

async fn two_that_lead_between_intent_and_record_place_one_order_or_count_one_as_spent(
    story: Story<'_>,
) -> Result<()> {
    in_the_gap(&story, Claim::Lasting).await
}

async fn in_the_gap(story: &Story<'_>, claim: Claim) -> Result<()> {
    let with_name = |point: Point| {
        let name = format!("{}-{}-{}", claim.name(), point.side, point.effect);
        (point, name.replace('_', "-"))
    };
    let names: Vec<(Point, String)> = gap().into_iter().map(with_name).collect();
    let lose = async |point, name| {
        let own = Story::begin(story.stage, name).await?;
        let lost = lost_in_the_gap(&own, point, claim).await;
        Waiting::of(lost, own, point).await
    };
    side_by_side(&names, lose, |point| may_ask(point, claim)).await
}

async fn lost_in_the_gap(story: &Story<'_>, point: Point, claim: Claim) -> Result<(TestCa, Spent)> {
    let mut pair = Pair::begin(story).await?;
    let told = async {
        let ca = pair.reach(story, Stops::alone(point), claim).await?;
        let ca = ca.context("a play without a CA")?;
        let spent = check::spent(story, point, &ca).await?;
        let spent = match claim {
            Claim::Old => {
                pair.goes_on_with_an_old_claim(story, point, Some(&ca))
                    .await?;
                spent
            }
            Claim::Lasting => {
                pair.first.thaw()?;
                // What the two make of it is settled when the first has found the Lease another's.
                pair.first.is(Role::Standby, PATIENCE).await?;
                spent.with_one_on_its_way()
            }
        };
        anyhow::Ok((ca, spent))
    }
    .await;
    pair.end(story).await?;
    told
}
