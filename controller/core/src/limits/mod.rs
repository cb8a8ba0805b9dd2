//! The model of a CA's limits (design §6): what was spent, what is left, and when the next order may be placed. Pure: the ledger
//! keeps [`Spent`] over restarts, and everything here is decided from it, a [`Model`] and an instant.
//!
//! Guarantees: no more orders are granted than the CA's own buckets would grant, also where requests overtake each other on the
//! way by up to [`ON_THE_WAY`]; what is written and read again decides the same; a clock that is set back makes no token, and
//! costs at most the time of one refill. Caveat: a clock that runs far ahead for a while makes as many tokens as time seems to
//! have passed, since nothing here can tell.

mod bucket;
mod learn;
mod model;
#[cfg(test)]
mod properties;
mod scope;
mod sentence;
mod telling;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use bucket::Bucket;
pub use model::Model;
use scope::Scope;
pub use scope::registered_domain;
pub use telling::{TELL, Telling, plan_telling};

use crate::fault::LONGEST_WAIT;

/// The longest time between the decision and the CA's receipt of the order.
pub const ON_THE_WAY: SignedDuration = SignedDuration::from_secs(30);
/// How long an entry is kept that limits nothing any more: a clock that was ahead by less forgets nothing.
const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// An order that somebody wants to place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOrder {
    /// The account's URL.
    pub account: String,
    /// The names, sorted, each once.
    pub names: Vec<String>,
    /// Whether a certificate for them is lost or about to expire: only then the reserve is touched.
    pub urgent: bool,
    /// Whether it names the certificate that it replaces (RFC 9773 §5).
    pub replaces: bool,
    /// Whether a person has changed something since the last attempt failed: whoever paused a name may have let it go on.
    pub asked_anew: bool,
}

/// Whether an order may be placed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Granted,
    /// Not before an instant.
    NotBefore(Denial),
}

/// Which limit holds an order back, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The first instant at which every limit has room, later than the instant of the decision.
    pub at: Timestamp,
    /// The limit that takes longest.
    pub limit: Limit,
    /// Whether the CA itself said so; else it follows from the model.
    pub by_ca: bool,
    /// Which limit, how large, and what it means.
    pub message: String,
}

/// A limit of a CA.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Limit {
    /// New orders of the account.
    Orders,
    /// Certificates for a registered domain.
    RegisteredDomain(String),
    /// Certificates for this exact set of names.
    NameSet,
    /// Failed validations of a name.
    Failures(String),
    /// Failed validations of a name without a success in between.
    Streak(String),
}

/// A certificate that came of an order of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Issued {
    at: Timestamp,
    until: Timestamp,
}

/// What was spent at one directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spent {
    /// When each bucket will be full again.
    full: BTreeMap<String, Timestamp>,
    /// Until when the CA itself closed a bucket.
    closed: BTreeMap<String, Timestamp>,
    /// The last certificate for each set of names.
    issued: BTreeMap<String, Issued>,
}

/// What is left for an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// New orders that may be placed now.
    pub orders: u32,
    /// How many there are at most.
    pub capacity: u32,
    /// When the next one may be placed, where none may be now.
    pub next: Option<Timestamp>,
    /// When all of them are there again, where some are missing.
    pub full: Option<Timestamp>,
}

impl Spent {
    /// Whether `order` may be placed at `now`, behind `ahead` others that wait for the same account. The limit that takes longest
    /// is the one named. Call [`Self::tick`] before.
    #[must_use]
    pub fn decide(&self, model: &Model, order: &NewOrder, ahead: u32, now: Timestamp) -> Decision {
        let scopes = self.scopes(model, order, now);
        let is_over = |scope: &Scope| order.asked_anew && matches!(scope.limit, Limit::Streak(_));
        let latest = scopes
            .into_iter()
            .filter(|(scope, _)| !is_over(scope))
            .filter_map(|(scope, _)| {
                let closed = self.closed.get(&scope.key).copied().filter(|at| *at > now);
                let ahead = if scope.limit == Limit::Orders {
                    ahead
                } else {
                    0
                };
                let full = self.full.get(&scope.key).copied();
                let next = scope::bucket(model, &scope.key)
                    .map(|bucket| bucket.next(full, order.urgent, ahead, now))
                    .filter(|at| *at > now);
                let at = closed.max(next)?;
                Some((at, scope, closed == Some(at)))
            })
            .max_by_key(|(at, _, _)| *at);
        match latest {
            None => Decision::Granted,
            Some((at, scope, by_ca)) => Decision::NotBefore(Denial {
                at,
                message: sentence::build_denial(model, &scope, by_ca, order.urgent),
                limit: scope.limit,
                by_ca,
            }),
        }
    }

    /// Takes a token for `order` from each bucket that it counts in, whether or not there was one; the answer is their keys, for
    /// [`Self::give_back`].
    pub fn take(&mut self, model: &Model, order: &NewOrder, now: Timestamp) -> Vec<String> {
        let arrives = later(now, ON_THE_WAY);
        let scopes = self.scopes(model, order, now);
        let mut taken = Vec::new();
        for (scope, _) in scopes.into_iter().filter(|(_, takes)| *takes) {
            if let Some(bucket) = scope::bucket(model, &scope.key) {
                let full = bucket.take(self.full.get(&scope.key).copied(), arrives);
                self.full.insert(scope.key.clone(), full);
                taken.push(scope.key);
            }
        }
        taken
    }

    /// The order of `taken` ended without a certificate, for certain: what the CA counts by certificates was not spent. The
    /// account's order was. Not idempotent.
    pub fn give_back(&mut self, model: &Model, taken: &[String]) {
        for key in taken.iter().filter(|key| !key.starts_with("orders/")) {
            if let (Some(bucket), Some(full)) = (scope::bucket(model, key), self.full.get_mut(key))
            {
                *full = bucket.give_back(*full);
            }
        }
    }

    /// The order of `taken` never reached the CA, for certain: nothing was spent. Not idempotent.
    pub fn undo(&mut self, model: &Model, taken: &[String]) {
        self.give_back(model, taken);
        for key in taken.iter().filter(|key| key.starts_with("orders/")) {
            if let (Some(bucket), Some(full)) = (scope::bucket(model, key), self.full.get_mut(key))
            {
                *full = bucket.give_back(*full);
            }
        }
    }

    /// Whether a certificate for exactly `names` came of an order of ours.
    #[must_use]
    pub fn was_issued(&self, names: &[String]) -> bool {
        self.issued.contains_key(&scope::of_name_set(names).key)
    }

    /// Validations of `names` failed. Not idempotent.
    pub fn fail(&mut self, model: &Model, account: &str, names: &[String], now: Timestamp) {
        for name in names {
            for scope in [
                scope::of_failures(account, name),
                scope::of_streak(account, name),
            ] {
                if let Some(bucket) = scope::bucket(model, &scope.key) {
                    let full = bucket.take(self.full.get(&scope.key).copied(), now);
                    self.full.insert(scope.key, full);
                }
            }
        }
    }

    /// A certificate for `names`, valid until `until`, was issued: it begins a row of renewals, and ends the names' rows of
    /// failures and their pauses. Idempotent.
    pub fn succeed(&mut self, account: &str, names: &[String], until: Timestamp, now: Timestamp) {
        for name in names {
            let streak = scope::of_streak(account, name).key;
            self.full.remove(&streak);
            self.closed.remove(&streak);
        }
        let issued = Issued { at: now, until };
        self.issued.insert(scope::of_name_set(names).key, issued);
    }

    /// To be called before anything else when time has passed: after a clock was set back every bucket is as empty as it was,
    /// and none emptier than empty. Drops what limits nothing any more. True when something that is kept has changed.
    pub fn tick(&mut self, model: &Model, now: Timestamp) -> bool {
        let mut changed = false;
        let mut cap = |at: &mut Timestamp, latest: Timestamp| {
            changed |= *at > latest;
            *at = latest.min(*at);
        };
        for (key, full) in &mut self.full {
            if let Some(bucket) = scope::bucket(model, key) {
                cap(full, later(bucket.empty(now), ON_THE_WAY));
            }
        }
        for at in self.closed.values_mut() {
            cap(at, later(now, LONGEST_WAIT + LONGEST_WAIT / 10));
        }
        let before = (self.full.len(), self.closed.len(), self.issued.len());
        self.full.retain(|_, full| later(*full, KEPT) > now);
        self.closed.retain(|_, at| *at > now);
        self.issued
            .retain(|_, issued| later(issued.until, KEPT) > now);
        changed || before != (self.full.len(), self.closed.len(), self.issued.len())
    }

    /// What is left for `account` at `now`; `None` where the CA has no such limit.
    #[must_use]
    pub fn budget(&self, model: &Model, account: &str, now: Timestamp) -> Option<Budget> {
        let bucket = model.orders.as_ref()?;
        let key = scope::of_orders(account).key;
        let closed = self.closed.get(&key).copied().filter(|at| *at > now);
        let full = self.full.get(&key).copied().filter(|full| *full > now);
        let usable = bucket.capacity.saturating_sub(bucket.reserve);
        let orders = match closed {
            Some(_) => 0,
            None => bucket.left(full, now).saturating_sub(bucket.reserve),
        };
        let next = closed
            .max(Some(bucket.next(full, false, 0, now)))
            .filter(|at| *at > now);
        Some(Budget {
            orders,
            capacity: usable,
            next,
            full: full.max(closed),
        })
    }

    /// What either of two accounts of the same directory holds spent: nothing that one knows is forgotten.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.full, &other.full),
            (&mut self.closed, &other.closed),
        ] {
            for (key, at) in theirs {
                let known = mine.entry(key.clone()).or_insert(*at);
                *known = (*known).max(*at);
            }
        }
        for (key, theirs) in &other.issued {
            let known = self.issued.entry(key.clone()).or_insert(*theirs);
            if theirs.at > known.at {
                *known = *theirs;
            }
        }
    }

    /// The part of it that `belongs` picks by key, for a ledger that is split.
    #[must_use]
    pub fn part(&self, belongs: impl Fn(&str) -> bool) -> Self {
        let pick = |map: &BTreeMap<String, Timestamp>| {
            let of_part = map.iter().filter(|(key, _)| belongs(key));
            of_part.map(|(key, at)| (key.clone(), *at)).collect()
        };
        let issued = self.issued.iter().filter(|(key, _)| belongs(key));
        Self {
            full: pick(&self.full),
            closed: pick(&self.closed),
            issued: issued.map(|(key, issued)| (key.clone(), *issued)).collect(),
        }
    }

    /// Whether it holds nothing spent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.full.is_empty() && self.closed.is_empty() && self.issued.is_empty()
    }

    /// A renewal is one by what came of our own orders: what a Secret says can be forged.
    fn scopes(&self, model: &Model, order: &NewOrder, now: Timestamp) -> Vec<(Scope, bool)> {
        let issued = self.issued.get(&scope::of_name_set(&order.names).key);
        let due = issued.is_some_and(|issued| {
            let lifetime = issued.until.duration_since(issued.at);
            now >= later(issued.at, lifetime / 4)
        });
        scope::of_order(model, order, issued.is_some(), due)
    }
}

fn later(at: Timestamp, wait: SignedDuration) -> Timestamp {
    at.checked_add(wait).unwrap_or(at)
}

#[cfg(test)]
mod tests;
