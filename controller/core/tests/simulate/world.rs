//! Thousands of Certificates, one operator and one CA on a clock of their own. Every decision is `evercert_core`'s; what the
//! operator does around them (timers, one breaker, places for orders, the ledger that outlives a restart) is played here in a
//! few lines. An order's own steps are one event: they have properties of their own.

mod backlog;
mod execute;
mod outage;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use evercert_api::Reason;
use evercert_api::certificate::{OrderStatus, RenewalInfoStatus, whole_seconds};
use evercert_core::backoff::outage_wait;
use evercert_core::facts::KeyKind;
use evercert_core::fault::FaultClass;
use evercert_core::key::ObjectKey;
use evercert_core::lanes::{Candidate, Lane, Placed, Ramp, plan_grants};
use evercert_core::limits::{Decision, Model, NewOrder, Spent};
use evercert_core::observe::{
    Companion, Gate, IssuerObservation, Marks, SecretObservation, TlsSecret,
};
use evercert_core::plan::{Plan, Step, plan};
use evercert_core::renewal_info::{
    NoRenewalInfo, RenewalInfo, find_replaced, find_window, note_poll,
};
use evercert_core::report::{Change, Ending, apply_change, build_status};
use jiff::{SignedDuration, Timestamp};

use crate::actor::{Actor, DIRECTORY, build_facts, failure, fault};
use crate::ca::{Ca, INCIDENT, Refusal, Seconds};
use crate::clock::{DAY, HOUR, instant, millis, seconds};
use crate::dice::Dice;
use crate::tally::{Pulled, Tally};

const ACCOUNT: &str = "https://acme-v02.api.letsencrypt.org/acme/acct/1";
const MOST_ORDERS: usize = 100;
/// A certificate that expires is the operator's fault when CA and operator were up for so long before.
const FAULT: Seconds = 2.0 * HOUR;
/// For how many days before and after that day the CA says when to renew: each certificate is looked at in that time.
const TOLD: (f64, f64) = (65.0, 3.0);
/// The longest time from a window that moves into the past to the renewal: the CA is asked every six hours, by a clock that may be
/// five hours off, a new certificate has six hours' rest, the renewals that are found due are spread, and an order takes its time.
pub(crate) const PULLED: Seconds = 20.0 * HOUR;

/// What is broken in a run, on purpose: so that what counts is known to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Whoever waits for a renewal wakes up months later.
    SleepsThroughRenewals,
    /// The CA is not asked about renewals.
    AsksNobody,
}

/// What happens in a run.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) certificates: usize,
    pub(crate) days: f64,
    /// What the ledger takes for the CA's limits.
    pub(crate) model: Model,
    /// Whether the CA says when to renew; then it shifts its load from day 12 to 16, and announces on this day that what it has
    /// issued so far is going to be revoked.
    pub(crate) revocation: Option<f64>,
    /// Whether the CA says of some of them when to renew, for some months; amid these, on this day, it moves their windows into the
    /// past.
    pub(crate) pull: Option<f64>,
    pub(crate) flaw: Option<Flaw>,
}

impl Default for Script {
    /// Two years of three thousand certificates.
    fn default() -> Self {
        Self {
            seed: 1,
            certificates: 3_000,
            days: 730.0,
            model: Model::of(DIRECTORY),
            revocation: None,
            pull: None,
            flaw: None,
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake(usize, u64),
    OrderEnds(usize, u64),
    Restart,
    Back,
    Grant,
    JumpClock,
    Revoke,
    Pull,
}

pub(crate) struct World {
    script: Script,
    dice: Dice,
    now: Seconds,
    skew: Seconds,
    /// By milliseconds, then in the order in which they were planned.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
    actors: Vec<Actor>,
    by_key: BTreeMap<ObjectKey, usize>,
    ca: Ca,
    /// From when to when the operator does not run.
    downs: Vec<(Seconds, Seconds)>,
    model: Model,
    ledger: Spent,
    ticked: Option<Timestamp>,
    breaker: Option<(Timestamp, Timestamp)>,
    /// How the CA is approached after an outage.
    ramps: BTreeMap<String, Ramp>,
    /// When the CA may be asked about a renewal next.
    next_poll: Seconds,
    waiting: BTreeMap<ObjectKey, Placed>,
    under_way: BTreeMap<ObjectKey, Placed>,
    tally: Tally,
}

impl World {
    pub(crate) fn new(script: Script) -> Self {
        let mut dice = Dice(script.seed);
        let end = script.days * DAY;
        let mut ca = Ca::default();
        let mut at = 20.0 * DAY;
        while at < end {
            // Hours mostly, days now and then.
            let lasts = if dice.is(0.2) {
                dice.between(1.0, 2.5) * DAY
            } else {
                dice.between(0.2, 10.0) * HOUR
            };
            ca.outages.push((at, at + lasts));
            at += lasts + dice.between(10.0, 60.0) * DAY;
        }
        let mut downs = Vec::new();
        let mut at = 9.0 * DAY;
        while at < end {
            let lasts = if dice.is(0.1) {
                dice.between(1.0, 2.0) * DAY
            } else {
                dice.between(5.0, 300.0)
            };
            downs.push((at, at + lasts));
            at += lasts + dice.between(10.0, 40.0) * DAY;
        }
        if let Some(day) = script.revocation {
            let announced = day * DAY;
            ca.shift = Some((12.0 * DAY, 16.0 * DAY));
            ca.revocation = Some(announced);
            // On that day nothing else goes wrong.
            let far =
                |(from, to): &(Seconds, Seconds)| *to < announced || announced + 1.1 * DAY < *from;
            ca.outages.retain(far);
            downs.retain(far);
        }
        if let Some(day) = script.pull {
            let pulled = day * DAY;
            ca.pull = Some(pulled);
            let far = |(from, to): &(Seconds, Seconds)| *to < pulled || pulled + PULLED < *from;
            ca.outages.retain(far);
            downs.retain(far);
        }
        let mut world = Self {
            dice,
            now: 0.0,
            skew: 0.0,
            events: BinaryHeap::new(),
            planned: 0,
            actors: Vec::new(),
            by_key: BTreeMap::new(),
            ca,
            downs: downs.clone(),
            model: script.model.clone(),
            ledger: Spent::default(),
            ticked: None,
            breaker: None,
            ramps: BTreeMap::new(),
            next_poll: 0.0,
            waiting: BTreeMap::new(),
            under_way: BTreeMap::new(),
            tally: Tally::new(script.days),
            script,
        };
        for index in 0..world.script.certificates {
            let actor = Actor::build(index, world.script.certificates, &mut world.dice);
            let born = actor.born;
            world.by_key.insert(actor.observed.key.clone(), index);
            world.actors.push(actor);
            world.at(born, Event::Wake(index, 0));
        }
        for (from, to) in downs {
            world.at(from, Event::Restart);
            world.at(to, Event::Back);
        }
        if let Some(day) = world.script.revocation {
            world.at((day + 1.0) * DAY, Event::Revoke);
        }
        if let Some(day) = world.script.pull {
            world.at(day * DAY, Event::Pull);
        }
        for jump in 1..6 {
            let at = end / 6.0 * f64::from(jump);
            world.at(at, Event::JumpClock);
        }
        world
    }

    pub(crate) fn run(mut self) -> Tally {
        let end = self.script.days * DAY;
        self.run_until(end);
        for index in 0..self.actors.len() {
            self.account_for(index);
        }
        self.tally
    }

    /// Goes on until then; what comes later stays planned.
    fn run_until(&mut self, end: Seconds) {
        let is_before = |next: &Reverse<(u64, u64, Event)>| seconds(next.0.0) < end;
        while self.events.peek().is_some_and(is_before) {
            if let Some(Reverse((millis, _, event))) = self.events.pop() {
                self.now = seconds(millis);
                self.happen(&event);
            }
        }
        self.now = end;
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Wake(index, timer) if self.actors[index].timer == timer => {
                if self.is_running() {
                    self.pass(index);
                }
            }
            Event::OrderEnds(index, timer) if self.actors[index].timer == timer => {
                if self.is_running() {
                    self.end_order(index);
                }
            }
            Event::Wake(..) | Event::OrderEnds(..) => {}
            Event::Grant => {
                if self.is_running() {
                    let now = self.clock();
                    self.grant(now);
                }
            }
            Event::Restart => self.stop(),
            Event::Back => self.start(),
            Event::Revoke => {
                let announced = self.now - DAY;
                let at = self.now;
                let is_left = |a: &&Actor| {
                    let came = a.good_until - a.lifetime;
                    a.born < came && came < announced && at < a.good_until && !a.is_dead(at)
                };
                self.tally.revoked_late = self.actors.iter().filter(is_left).count();
            }
            Event::Pull => {
                for (index, actor) in self.actors.iter().enumerate() {
                    let is_in_place = actor.born < actor.good_until && self.now < actor.good_until;
                    if self.is_told(actor) && is_in_place && !actor.is_dead(self.now) {
                        self.tally.pulled.insert(index, Pulled::default());
                    }
                }
            }
            Event::JumpClock => {
                self.skew = if self.skew == 0.0 {
                    self.dice.between(-5.0, 5.0) * HOUR
                } else {
                    0.0
                };
                // Timers run by a clock that does not jump; what is due now is seen at the next look.
                for index in 0..self.actors.len() {
                    if self.actors[index].born <= self.now {
                        self.wake(index, self.now + 1.0);
                    }
                }
            }
        }
    }

    /// The process is gone, amid some orders: whose record was not written yet, is lost.
    fn stop(&mut self) {
        let now = self.now;
        for actor in &mut self.actors {
            if actor.observed.status.order.is_some() && now - actor.placed_at < 5.0 {
                actor.observed.status.order = None;
                actor.observed.intent = Some(instant(actor.placed_at, self.skew));
                self.tally.lost += 1;
            }
        }
        self.waiting.clear();
        self.under_way.clear();
        self.breaker = None;
        self.ramps.clear();
        for actor in &mut self.actors {
            actor.turn = None;
        }
        let written = serde_json::to_string(&self.ledger).unwrap();
        self.ledger = serde_json::from_str(&written).unwrap();
        self.tally.restarts += 1;
    }

    /// It reads everything at once.
    fn start(&mut self) {
        for index in 0..self.actors.len() {
            if self.actors[index].born > self.now {
                continue;
            }
            if self.actors[index].observed.status.order.is_some() {
                let candidate = Candidate::of(&self.actors[index].observed, self.clock());
                let placed = Placed {
                    candidate,
                    since: self.clock(),
                    handed_over: false,
                };
                self.under_way
                    .insert(self.actors[index].observed.key.clone(), placed);
                self.later(index, 5.0, true);
            } else {
                self.wake(index, self.now + 1.0);
            }
        }
    }

    /// One pass of one Certificate.
    fn pass(&mut self, index: usize) {
        if self.actors[index].observed.status.order.is_some() {
            return;
        }
        self.tally.pass(self.now);
        self.actors[index].passes += 1;
        self.account_for(index);
        let now = self.clock();
        self.observe(index, now);
        let mut next = plan(&self.actors[index].observed, now);
        if let Step::Queue(candidate) = &next.step {
            self.ask(candidate.clone(), now);
            self.observe(index, now);
            next = plan(&self.actors[index].observed, now);
        }
        if next.step == Step::PollRenewalInfo {
            let turn = self.turn(index);
            if turn > self.now {
                self.actors[index].observed.poll_turn = Some(instant(turn, self.skew));
                next = plan(&self.actors[index].observed, now);
            }
        }
        let key = self.actors[index].observed.key.clone();
        if !matches!(next.step, Step::Queue(_) | Step::PlaceOrder) {
            self.free(&key);
        }
        let change = self.execute(index, &next, now);
        let o = &mut self.actors[index].observed;
        let mut status = build_status(o, &next, now);
        apply_change(o, &mut status, &change, now);
        o.status = status;
        if matches!(change, Change::Failed(_)) {
            o.intent = None;
            self.free(&key);
        }
        match (&next.step, &self.actors[index].observed.status.order) {
            (_, Some(_)) => {}
            (Step::Wait | Step::Queue(_), None) => {
                let mut wake = self.true_time(self.wake_of(index, &next));
                if self.script.flaw == Some(Flaw::SleepsThroughRenewals) && next.row == "settle" {
                    wake += 60.0 * DAY;
                }
                self.wake(index, wake.max(self.now + 0.02));
            }
            _ => self.wake(index, self.now + 0.02),
        }
    }

    /// Whether the CA says of this one when to renew.
    fn is_told(&self, actor: &Actor) -> bool {
        let is_then = |day: f64| (day - TOLD.0) * DAY < self.now && self.now < (day + TOLD.1) * DAY;
        let is_pulled = self.script.pull.is_some_and(is_then);
        self.script.revocation.is_some() || (is_pulled && actor.is_told)
    }

    /// The daily look at what is in order sees nothing new: it is left out.
    fn wake_of(&self, index: usize, next: &Plan) -> Timestamp {
        let renewal = self.actors[index].observed.status.renewal_time.as_ref();
        match renewal {
            Some(at) if next.row == "settle" && !self.is_told(&self.actors[index]) => {
                next.wake.max(at.0)
            }
            Some(_) | None => next.wake,
        }
    }

    fn observe(&mut self, index: usize, now: Timestamp) {
        let order = self.new_order(index, now);
        self.tick(now);
        let limit = match self.ledger.decide(&self.model, &order, 0, now) {
            Decision::Granted => None,
            Decision::NotBefore(denial) => Some(Gate {
                until: denial.at,
                reason: Reason::RateLimited,
                message: denial.message,
            }),
        };
        let gate = self.breaker.map(|(_, until)| Gate {
            until,
            reason: Reason::CAUnavailable,
            message: "the CA does not answer".into(),
        });
        let asks = self.script.flaw != Some(Flaw::AsksNobody);
        let is_told = asks && self.is_told(&self.actors[index]);
        let o = &mut self.actors[index].observed;
        o.slot = self.under_way.contains_key(&o.key);
        o.limit = limit;
        o.gate = gate;
        o.poll_turn = None;
        if let IssuerObservation::Ready(issuer) = &mut o.issuer {
            issuer.renewal_info = is_told;
        }
    }

    /// The operator does so once a second. What has passed limits nothing, so only a clock that was set back needs it.
    fn tick(&mut self, now: Timestamp) {
        let ticked = self.ticked.unwrap_or(Timestamp::MIN);
        if now < ticked || now.duration_since(ticked).as_secs() >= 86_400 {
            self.ledger.tick(&self.model, now);
            self.ticked = Some(now);
        }
    }

    fn new_order(&self, index: usize, now: Timestamp) -> NewOrder {
        let o = &self.actors[index].observed;
        let names = o.wanted_names();
        let is_lost = !o.is_served_well(now) && self.ledger.was_issued(&names);
        NewOrder {
            account: ACCOUNT.into(),
            urgent: is_lost || Candidate::of(o, now).lane == Lane::Expiring,
            names,
            replaces: find_replaced(o).is_some()
                && o.certificate()
                    .and_then(|facts| find_window(o, facts))
                    .is_some_and(|window| window.start <= now),
            asked_anew: false,
        }
    }

    fn ask(&mut self, candidate: Candidate, now: Timestamp) {
        let key = candidate.key.clone();
        let since = self.waiting.get(&key).map_or(now, |placed| placed.since);
        self.waiting.insert(
            key,
            Placed {
                candidate,
                since,
                handed_over: false,
            },
        );
        self.grant(now);
    }

    fn free(&mut self, key: &ObjectKey) {
        let waited = self.waiting.remove(key).is_some();
        let had = self.under_way.remove(key).is_some();
        if (waited || had) && !self.waiting.is_empty() {
            let now = self.clock();
            self.grant(now);
        }
    }

    fn grant(&mut self, now: Timestamp) {
        let under_way: Vec<Placed> = self.under_way.values().cloned().collect();
        // Where there is no room for the most urgent, thousands need not be looked at.
        let urgent = Placed {
            candidate: Candidate {
                key: ObjectKey::new("nobody", "urgent"),
                lane: Lane::Expiring,
                expires: None,
                failed: false,
                directory: DIRECTORY.into(),
            },
            since: now,
            handed_over: false,
        };
        let crowded = self.waiting.len() > MOST_ORDERS;
        if crowded
            && plan_grants(&[urgent], &under_way, MOST_ORDERS, &BTreeMap::new(), now).is_empty()
        {
            return;
        }
        let waiting: Vec<Placed> = self.waiting.values().cloned().collect();
        self.ramps.retain(|_, ramp| ramp.allows(now).is_some());
        for key in plan_grants(&waiting, &under_way, MOST_ORDERS, &self.ramps, now) {
            if let Some(placed) = self.waiting.remove(&key) {
                if let Some(ramp) = self.ramps.get_mut(DIRECTORY) {
                    ramp.take();
                }
                let placed = Placed {
                    since: now,
                    ..placed
                };
                self.under_way.insert(key.clone(), placed);
                let index = self.by_key[&key];
                self.wake(index, self.now + 0.01);
            }
        }
    }

    fn is_running(&self) -> bool {
        !self
            .downs
            .iter()
            .any(|(from, to)| *from <= self.now && self.now < *to)
    }

    fn wake(&mut self, index: usize, at: Seconds) {
        self.later(index, at - self.now, false);
    }

    fn later(&mut self, index: usize, wait: Seconds, ends: bool) {
        let actor = &mut self.actors[index];
        if actor.observed.status.order.is_some() && !ends {
            return;
        }
        actor.timer += 1;
        let timer = actor.timer;
        let at = self.now + wait;
        self.at(
            at,
            if ends {
                Event::OrderEnds(index, timer)
            } else {
                Event::Wake(index, timer)
            },
        );
    }

    fn at(&mut self, at: Seconds, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((millis(at), self.planned, event)));
    }

    /// What the operator's clock shows.
    fn clock(&self) -> Timestamp {
        instant(self.now, self.skew)
    }

    fn true_time(&self, shown: Timestamp) -> Seconds {
        shown.duration_since(instant(0.0, 0.0)).as_secs_f64() - self.skew
    }
}
