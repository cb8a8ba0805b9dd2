//! The operator is killed before and after each of its effects, and started again: one certificate, nothing orphaned, and one
//! order. Only between the intent in the ledger and the order's URL in the status it cannot be known whether there is an
//! order: there one more is placed, after the backoff, and the lost one is counted.
//!
//! The effects come from the operator's own list; each has a play that leads to it. With two replicas the same is told in [`pair`].

mod check;
pub(crate) mod pair;
mod play;
mod step;

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_operator::effect::Effect;
use evercert_operator::effect::failpoint::{Point, Side, Stop, VARIABLE};
use futures::future::try_join_all;
use nix::sys::signal::Signal;

use crate::{Tale, tales};
use check::{May, Spent};
use play::Play;

/// For what has no bound of its own: these worlds come behind all others on a busy machine. Less than the minute after which a failed
/// attempt is repeated.
pub(crate) const PATIENCE: Duration = Duration::from_secs(50);
/// A minute of backoff, and an issuance.
const AFTER_BACKOFF: Duration = Duration::from_secs(90);

/// Killed where it is known what became of everything.
pub(crate) fn tales() -> Vec<Tale> {
    told(points().filter(|point| !is_gap(*point) && !is_forwarders(*point)))
}

/// The same for forwarders: without a kube-proxy none reaches the solver.
pub(crate) fn of_forwarders() -> Vec<Tale> {
    let tales = told(points().filter(|point| is_forwarders(*point)));
    tales.into_iter().map(Tale::on_a_node).collect()
}

fn told(points: impl Iterator<Item = Point>) -> Vec<Tale> {
    points
        .map(|point| {
            let effect = point.effect.name().replace('-', "_");
            let name = format!("{}::killed_{}_{effect}", module_path!(), point.side);
            Tale::new(name, move |story| Box::pin(killed(story, point)))
        })
        .collect()
}

/// Killed where it is not.
pub(crate) fn of_the_gap() -> Vec<Tale> {
    tales![killed_between_intent_and_record_it_counts_an_order_as_spent_and_waits]
}

/// Every effect, on both sides of it.
fn points() -> impl Iterator<Item = Point> {
    Effect::ALL.iter().flat_map(|effect| {
        Side::ALL.map(|side| Point {
            effect: *effect,
            side,
            nth: 1,
            stop: Stop::Kill,
        })
    })
}

/// The intent is in the ledger, and the order's URL not yet in the status.
fn is_gap(point: Point) -> bool {
    matches!(
        (point.effect, point.side),
        (Effect::RecordIntent, Side::After)
            | (Effect::NewOrder, _)
            | (Effect::RecordOrder, Side::Before)
    )
}

/// The effect is about a forwarder.
fn is_forwarders(point: Point) -> bool {
    Play::of(point.effect) == Play::Forward
}

/// The effect comes in its own time, whatever else is going on: what is asked for beside it could stand in the gap just then.
fn comes_by_itself(point: Point) -> bool {
    point.effect == Effect::RenewLease
}

/// The orders that the CA is asked for until the certificate is there.
fn orders(point: Point) -> usize {
    let wanted = match Play::of(point.effect) {
        Play::SelfSign => 0,
        // The first is refused, given up, or revoked, as the play wants it.
        Play::Refuse | Play::Abandon | Play::Revoke => 2,
        Play::Issue
        | Play::Rotate
        | Play::Restore
        | Play::Mend
        | Play::Adopt
        | Play::Delete
        | Play::Copy
        | Play::Disown
        | Play::Source
        | Play::Unask
        | Play::StartSolver
        | Play::StopSolver
        | Play::Leftovers
        | Play::Edit
        | Play::Forward
        | Play::End => 1,
    };
    let lost = matches!(
        (point.effect, point.side),
        (Effect::NewOrder, Side::After) | (Effect::RecordOrder, Side::Before)
    );
    wanted + usize::from(lost)
}

async fn killed(story: Story<'_>, point: Point) -> Result<()> {
    let began = Instant::now();
    let told = async {
        let ca = reach(&story, point).await?;
        let reached = began.elapsed();
        Play::of(point.effect).mend(&story).await?;
        let (play, may) = (Play::of(point.effect), May::be(orders(point)));
        check::whole(&story, play, ca.as_ref(), PATIENCE, &may).await?;
        let all = began.elapsed();
        println!("{point}: reached after {reached:.1?}, whole after {all:.1?}");
        play::end(&story, point).await
    }
    .await;
    finish(&story, told).await
}

async fn killed_between_intent_and_record_it_counts_an_order_as_spent_and_waits(
    story: Story<'_>,
) -> Result<()> {
    let gap: Vec<Point> = points().filter(|point| is_gap(*point)).collect();
    ensure!(gap.len() == 4, "{gap:?}");
    let names = gap.iter().map(|point| {
        let name = format!("{}-{}-{}", story.namespace, point.effect, point.side);
        (*point, name)
    });
    let names: Vec<(Point, String)> = names.collect();
    let told = side_by_side(
        &names,
        async |point, name| {
            let own = Story::begin(story.stage, name).await?;
            let lost = async {
                let ca = reach(&own, point).await?;
                let ca = ca.context("a play without a CA")?;
                let spent = check::spent(&own, point, &ca).await?;
                anyhow::Ok((ca, spent))
            };
            Waiting::of(lost.await, own, point).await
        },
        |point| May::be(orders(point)),
    );
    finish(&story, told.await).await
}

/// A row whose order counts as lost.
struct Waiting<'a> {
    story: Story<'a>,
    point: Point,
    ca: TestCa,
    spent: Spent,
}

impl<'a> Waiting<'a> {
    async fn of(lost: Result<(TestCa, Spent)>, story: Story<'a>, point: Point) -> Result<Self> {
        match lost {
            Ok((ca, spent)) => Ok(Self {
                story,
                point,
                ca,
                spent,
            }),
            Err(error) => Err(story.with_evidence(error.context(point.to_string())).await),
        }
    }

    /// The next order comes in its time, and all is well.
    async fn goes_on(self, may: &May) -> Result<()> {
        let (story, point) = (&self.story, self.point);
        let told = async {
            check::waits(story, self.spent, &self.ca, AFTER_BACKOFF).await?;
            check::whole(story, Play::of(point.effect), Some(&self.ca), PATIENCE, may).await?;
            play::end(story, point).await
        };
        match told.await {
            Ok(()) => Ok(()),
            Err(error) => Err(story.with_evidence(error.context(point.to_string())).await),
        }
    }
}

/// One after the other loses its order, and the minutes of their backoff pass side by side. Nobody stops an operator any more when
/// one of them is about to go on.
async fn side_by_side<'a>(
    rows: &'a [(Point, String)],
    lose: impl AsyncFn(Point, &'a str) -> Result<Waiting<'a>>,
    may: impl Fn(Point) -> May,
) -> Result<()> {
    let mut rows = rows.iter().peekable();
    while rows.peek().is_some() {
        let mut waiting: Vec<Waiting<'a>> = Vec::new();
        while waiting.first().is_none_or(|first| first.spent.is_far_off())
            && let Some((point, name)) = rows.next()
        {
            waiting.push(lose(*point, name).await?);
        }
        let ends = waiting.into_iter().map(async |row| {
            let may = may(row.point);
            row.goes_on(&may).await
        });
        try_join_all(ends).await?;
    }
    Ok(())
}

/// Plays until the operator has died at `point`, and starts it again. The story's CA, if it needs one.
async fn reach(story: &Story<'_>, point: Point) -> Result<Option<TestCa>> {
    let play = Play::of(point.effect);
    let ca = play.prepare(story).await?;
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    play.while_down(story).await?;
    let armed = point.to_string();
    let mut variables = play.variables();
    variables.push((VARIABLE, &armed));
    operator.restart_with(&variables)?;
    if !comes_by_itself(point) {
        play.go(story, ca.as_ref()).await?;
    }
    if play == Play::End {
        // Only who holds the Lease can give it up.
        operator.ready().await?;
        operator.ask_to_end()?;
    }
    let status = operator
        .ended(PATIENCE)
        .await
        .with_context(|| format!("{point} was not reached"))?;
    ensure!(
        status.signal() == Some(Signal::SIGKILL as i32),
        "it did not stop at {point}: {status}"
    );
    operator.restart_with(&play.variables())?;
    operator.ready().await?;
    if comes_by_itself(point) {
        play.go(story, ca.as_ref()).await?;
    }
    Ok(ca)
}

/// An operator that is still to die is not for the next story.
async fn finish(story: &Story<'_>, told: Result<()>) -> Result<()> {
    let Err(error) = told else { return Ok(()) };
    let error = story.with_evidence(anyhow!("{error:#}")).await;
    let mut operator = story.stage.operator.lock().await;
    if operator.pid().is_some() {
        operator.kill()?;
    }
    Err(error)
}
