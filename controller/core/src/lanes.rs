//! Who begins an order next (design §6): lanes, a fair share for each namespace, and a cap on orders under way in which what
//! does not move keeps nobody waiting.
//!
//! An order is work here until the CA has been told to validate; then it waits, for a moment where all is well, for long where
//! a name is dead. So an order counts fully only while it is young and not in the CA's hands; any other counts against a wider
//! cap alone. In that one, whoever holds much leaves some for the others: a namespace holds at most as many as are left over,
//! and names that failed before at most a quarter.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::key::ObjectKey;
use crate::observe::{IssuerObservation, Observed};
use crate::plan::later;

/// How long an order counts as one that moves, unless it is handed over to the CA before.
pub const MOVES: SignedDuration = SignedDuration::from_secs(5);
/// Of all orders that may be under way, the part that may be moving.
const MOVING_PART: usize = 8;
/// Of either cap, the part for those that failed before.
const FAILED_PART: usize = 4;
/// A certificate is about to expire when only this part of its lifetime is left, or less than [`EXPIRING_WITHIN`].
const EXPIRING_PART: i32 = 20;
const EXPIRING_WITHIN: SignedDuration = SignedDuration::from_hours(24);

/// How long those who waited for a CA gather.
const GATHERS: SignedDuration = SignedDuration::from_secs(1);
/// How long a [`Ramp`] lasts.
const RAMP: SignedDuration = SignedDuration::from_mins(1);
/// How many orders begin meanwhile.
const RAMP_ORDERS: usize = 5;

/// What an order is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The certificate in place has expired, or is about to.
    Expiring,
    /// The certificate in place is good for a while.
    Renewal,
    /// There is no certificate in place.
    New,
}

/// One that waits for an order, or has one under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The Certificate.
    pub key: ObjectKey,
    /// What the order is for.
    pub lane: Lane,
    /// When the certificate in place expires.
    pub expires: Option<Timestamp>,
    /// Whether its last attempt failed, and nothing that a person can change has changed since.
    pub failed: bool,
    /// The directory's URL; empty while the issuer is not ready.
    pub directory: String,
}

/// After an outage a CA is approached slowly: for a moment those who waited gather, so that the most urgent come first; then so
/// many orders begin in the first minute, and show whether it bears more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    from: Timestamp,
    until: Timestamp,
    left: usize,
}

impl Ramp {
    /// For a CA that answers again at `now`; `None` after an outage of less than a minute.
    #[must_use]
    pub fn after(outage: SignedDuration, now: Timestamp) -> Option<Self> {
        (outage >= SignedDuration::from_mins(1)).then(|| Self {
            from: later(now, GATHERS),
            until: later(now, RAMP),
            left: RAMP_ORDERS,
        })
    }

    /// How many orders may begin at `now`; `None` when the ramp is over.
    #[must_use]
    pub fn allows(&self, now: Timestamp) -> Option<usize> {
        // A pass may have begun before the ramp did. A clock that was set back does not make it much longer.
        let over = now >= self.until || self.until.duration_since(now) > RAMP * 2;
        (!over).then_some(if now < self.from { 0 } else { self.left })
    }

    /// Whether a place that was given at `since` was given before: it does not count.
    #[must_use]
    pub fn voids(&self, since: Timestamp) -> bool {
        since < self.from
    }

    /// An order begins.
    pub fn take(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// When it allows more.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Timestamp {
        if now < self.from {
            self.from
        } else {
            self.until
        }
    }
}

/// A [`Candidate`] in its place: waiting, or with an order under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Who.
    pub candidate: Candidate,
    /// Since when.
    pub since: Timestamp,
    /// Whether its order is in the CA's hands.
    pub handed_over: bool,
}

impl Candidate {
    /// As it follows from what was observed.
    #[must_use]
    pub fn of(o: &Observed, now: Timestamp) -> Self {
        let issued = o.issued();
        let lane = match issued {
            None => Lane::New,
            Some(facts) => {
                let lifetime = facts.not_after.duration_since(facts.not_before);
                let late = (lifetime / EXPIRING_PART).min(EXPIRING_WITHIN);
                if facts.not_after.duration_since(now) <= late {
                    Lane::Expiring
                } else {
                    Lane::Renewal
                }
            }
        };
        let failed = o.status.failed_attempts.unwrap_or(0) > 0
            && o.status.last_failure.is_some()
            && !o.is_changed_since_failure();
        Self {
            key: o.key.clone(),
            lane,
            expires: issued.map(|facts| facts.not_after),
            failed,
            directory: match &o.issuer {
                IssuerObservation::Ready(facts) => facts.directory.clone(),
                IssuerObservation::Missing | IssuerObservation::NotReady { .. } => String::new(),
            },
        }
    }
}

/// Those of `waiting` that begin now, in order: what is about to expire, soonest first; else those that did not fail before,
/// lanes and namespaces by turns, soonest expiry first, then first come. `most` orders may be under way in all; at a directory with a
/// [`Ramp`], as many begin as that allows. Total; the same input gives the same answer.
#[must_use]
pub fn plan_grants<'a>(
    waiting: impl IntoIterator<Item = &'a Placed>,
    under_way: impl IntoIterator<Item = &'a Placed>,
    most: usize,
    ramps: &BTreeMap<String, Ramp>,
    now: Timestamp,
) -> Vec<ObjectKey> {
    let mut held = Held::new(most);
    for placed in under_way {
        held.add(&placed.candidate, moves(placed, now));
    }
    // Thousands may wait, and each that joins them asks.
    if !held.has_room() {
        return Vec::new();
    }
    let mut ramps = ramps.clone();
    let mut left: Vec<&Placed> = waiting.into_iter().collect();
    let mut granted = Vec::new();
    while held.has_room() {
        let next = left
            .iter()
            .enumerate()
            .filter(|(_, placed)| held.has_room_for(&placed.candidate))
            .filter(|(_, placed)| {
                let ramp = ramps.get(&placed.candidate.directory);
                ramp.and_then(|ramp| ramp.allows(now)) != Some(0)
            })
            .min_by_key(|(_, placed)| held.rank(placed))
            .map(|(at, _)| at);
        let Some(at) = next else {
            break;
        };
        let candidate = &left.swap_remove(at).candidate;
        held.add(candidate, true);
        if let Some(ramp) = ramps.get_mut(&candidate.directory) {
            ramp.take();
        }
        granted.push(candidate.key.clone());
    }
    granted
}

/// When an order under way ceases to count as moving, and so [`plan_grants`] may answer otherwise though nothing happened.
#[must_use]
pub fn next_grant<'a>(
    under_way: impl IntoIterator<Item = &'a Placed>,
    now: Timestamp,
) -> Option<Timestamp> {
    under_way
        .into_iter()
        .filter(|placed| moves(placed, now))
        .filter_map(|placed| placed.since.checked_add(MOVES).ok())
        .min()
}

/// A clock that was set back makes nobody move for long.
fn moves(placed: &Placed, now: Timestamp) -> bool {
    !placed.handed_over && now.duration_since(placed.since).abs() < MOVES
}

/// Orders of one kind.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    all: usize,
    moving: usize,
}

impl Count {
    fn add(&mut self, moves: bool) {
        self.all += 1;
        self.moving += usize::from(moves);
    }
}

/// The orders under way, counted.
#[derive(Debug)]
struct Held<'a> {
    most: Count,
    all: Count,
    failed: Count,
    namespaces: BTreeMap<&'a str, Count>,
    lanes: BTreeMap<Lane, Count>,
}

/// The least is first.
type Rank<'a> = (
    bool,
    bool,
    usize,
    usize,
    Option<Timestamp>,
    Timestamp,
    &'a ObjectKey,
);

impl<'a> Held<'a> {
    fn new(most: usize) -> Self {
        let most = Count {
            all: most,
            moving: part(most, MOVING_PART),
        };
        Self {
            most,
            all: Count::default(),
            failed: Count::default(),
            namespaces: BTreeMap::new(),
            lanes: BTreeMap::new(),
        }
    }

    fn add(&mut self, candidate: &'a Candidate, moves: bool) {
        self.all.add(moves);
        if candidate.failed {
            self.failed.add(moves);
        }
        let namespace = candidate.key.namespace.as_str();
        self.namespaces.entry(namespace).or_default().add(moves);
        self.lanes.entry(candidate.lane).or_default().add(moves);
    }

    fn has_room(&self) -> bool {
        self.all.all < self.most.all && self.all.moving < self.most.moving
    }

    fn has_room_for(&self, candidate: &Candidate) -> bool {
        let for_failed = self.failed.all < part(self.most.all, FAILED_PART)
            && self.failed.moving < part(self.most.moving, FAILED_PART);
        let left_over = self.most.all.saturating_sub(self.all.all);
        self.namespace(candidate).all < left_over && (for_failed || !candidate.failed)
    }

    fn namespace(&self, candidate: &Candidate) -> Count {
        self.namespaces
            .get(candidate.key.namespace.as_str())
            .copied()
            .unwrap_or_default()
    }

    fn rank<'p>(&self, placed: &'p Placed) -> Rank<'p> {
        let candidate = &placed.candidate;
        let expiring = candidate.lane == Lane::Expiring;
        let (lane, namespace) = if expiring {
            (0, 0)
        } else {
            let lane = self.lanes.get(&candidate.lane).copied().unwrap_or_default();
            (lane.moving, self.namespace(candidate).moving)
        };
        (
            !expiring,
            candidate.failed,
            lane,
            namespace,
            candidate.expires,
            placed.since,
            &candidate.key,
        )
    }
}

/// At least one.
fn part(whole: usize, divisor: usize) -> usize {
    (whole / divisor).max(1)
}

#[cfg(test)]
mod tests;
