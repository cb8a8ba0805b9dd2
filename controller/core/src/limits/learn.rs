//! What a CA says of its limits when it refuses an order: it knows better than the model.

use evercert_api::children::stable_hash;
use jiff::{SignedDuration, Timestamp};

use super::scope::{self, Scope};
use super::{Limit, Model, NewOrder, Spent, later};
use crate::fault::{Fault, FaultClass, LONGEST_WAIT, unpause_url};

/// The wait after a refusal that names no instant and no known limit.
const UNTOLD: SignedDuration = SignedDuration::from_hours(1);
/// How long a limit that is not known by name holds back the account's other orders.
const NAMELESS: SignedDuration = SignedDuration::from_mins(10);

impl Spent {
    /// The CA refused `order` with `fault`: the bucket concerned is closed until the instant that the CA names, a day at most,
    /// with up to a tenth of the wait on top, and has one token then. `None` when the fault tells nothing of a limit.
    ///
    /// Which limit it was, the CA says only in words (acme.md §1, design §6). Where they are not understood, the set of names is
    /// closed, and the account's orders for ten minutes at most.
    pub fn learn(
        &mut self,
        model: &Model,
        order: &NewOrder,
        fault: &Fault,
        now: Timestamp,
    ) -> Option<Limit> {
        let detail = fault.problem.as_ref().map_or("", |p| p.detail.as_str());
        let (scopes, until) = if unpause_url(detail).is_some() {
            (find_paused(order, detail), Some(later(now, LONGEST_WAIT)))
        } else if fault.class == FaultClass::RateLimited {
            (find_scopes(order, detail), fault.retry_after)
        } else {
            return None;
        };
        let until = until
            .filter(|at| *at > now)
            .map(|at| at.min(later(now, LONGEST_WAIT)));
        for scope in &scopes {
            let bucket = scope::bucket(model, &scope.key);
            let until = until.unwrap_or_else(|| match bucket {
                Some(bucket) => later(now, bucket.refill.min(LONGEST_WAIT)),
                None => later(now, UNTOLD),
            });
            if let Some(bucket) = bucket {
                let full = self.full.entry(scope.key.clone()).or_insert(now);
                *full = bucket.drain(now, until).max(*full);
            }
            self.close(scope, until, now);
        }
        if scopes.is_empty() {
            let until = until.unwrap_or_else(|| later(now, UNTOLD));
            self.close(&scope::of_name_set(&order.names), until, now);
            let all = scope::of_orders(&order.account);
            self.close(&all, until.min(later(now, NAMELESS)), now);
            return Some(Limit::NameSet);
        }
        scopes.into_iter().next().map(|scope| scope.limit)
    }

    fn close(&mut self, scope: &Scope, until: Timestamp, now: Timestamp) {
        let wait = until.duration_since(now);
        let spread =
            i32::try_from(stable_hash(&[&scope.key, &until.to_string()]) % 100).unwrap_or(0);
        let until = later(until, wait / 1_000 * spread);
        let known = self.closed.entry(scope.key.clone()).or_insert(until);
        *known = (*known).max(until);
    }
}

/// The name that the CA paused, where it says so, else all of the order's.
fn find_paused(order: &NewOrder, detail: &str) -> Vec<Scope> {
    let words: Vec<&str> = detail
        .split_whitespace()
        .map(|word| word.trim_matches(['"', ',', '.', '\'']))
        .collect();
    let named = |name: &&String| words.contains(&name.as_str());
    let mut paused: Vec<&String> = order.names.iter().filter(named).collect();
    if paused.is_empty() {
        paused = order.names.iter().collect();
    }
    paused
        .into_iter()
        .map(|name| scope::of_streak(&order.account, name))
        .collect()
}

/// The limit that the CA's words speak of, nothing where they are not understood.
fn find_scopes(order: &NewOrder, detail: &str) -> Vec<Scope> {
    let words = detail.to_ascii_lowercase();
    let quoted = || words.split('"').nth(1);
    if words.contains("exact set") {
        return vec![scope::of_name_set(&order.names)];
    }
    if words.contains("new orders") {
        return vec![scope::of_orders(&order.account)];
    }
    if words.contains("failed authorizations") {
        let is_meant = |name: &&String| quoted().is_none_or(|quoted| quoted == name.as_str());
        let names = order.names.iter().filter(is_meant);
        return names
            .map(|name| scope::of_failures(&order.account, name))
            .collect();
    }
    if words.contains("already issued for") {
        let named = |scope: &Scope| {
            quoted().is_none_or(|quoted| scope.key.strip_prefix("domain/") == Some(quoted))
        };
        return scope::of_domains(&order.names)
            .into_iter()
            .filter(named)
            .collect();
    }
    Vec::new()
}
