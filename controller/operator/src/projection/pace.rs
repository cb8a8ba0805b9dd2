//! When an object may be written: the first change at once, then at most one write each 500 ms; what can wait goes with
//! a later write; what is refused is tried again ever more rarely, and a fight with another writer slows down.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::difference::{differences, is_urgent, paths_of};
use super::object::{Desired, Kind, Seen, WRITER};
use crate::apply::ApplyError;

/// The least time between two writes of one object.
pub(super) const GAP: Duration = Duration::from_millis(500);
/// How long the garbage collector may take before what it should have removed is removed.
pub(super) const ORPHAN_PATIENCE: Duration = Duration::from_secs(20);
/// The first pause after a refused write, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after a refused write.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// The longest pause before another writer's change is undone again.
const LONGEST_TRUCE: Duration = Duration::from_mins(5);
/// How long an object stays as it should before a fight is forgotten.
const PEACE: Duration = Duration::from_mins(10);
/// So many times that something was undone are a habit of somebody's.
const HABIT: u32 = 3;
/// When a refused object may be tried again because it should be otherwise now.
const RECONSIDER: Duration = Duration::from_secs(5);

/// One object: as it was seen last, and how its writes went.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    seen: Option<Value>,
    version: u64,
    /// When an answer to a write of ours came.
    pub(super) answered: Option<Instant>,
    /// What was applied last, and how the API server's answer differed from it (admission may change an object).
    applied: Option<(Desired, Vec<String>)>,
    last_write: Option<Instant>,
    waiting_since: Option<Instant>,
    failure: Option<Failure>,
    mends: u32,
    /// Who else writes it, as told at the last change.
    writer: Option<String>,
    under_way: Option<Write>,
}

/// A write under way.
#[derive(Debug)]
enum Write {
    Apply(Desired),
    Delete,
}

#[derive(Debug)]
struct Failure {
    message: String,
    times: u32,
    retry_at: Instant,
    desired: Option<Desired>,
}

/// How an object should be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal<'a> {
    /// As this; a change that keeps no challenge from being answered may wait so long for company.
    Present(&'a Desired, Duration),
    /// Gone, after a patience.
    Absent(Duration),
}

impl Write {
    fn desired(self) -> Option<Desired> {
        match self {
            Self::Apply(desired) => Some(desired),
            Self::Delete => None,
        }
    }
}

impl Tracked {
    /// The object's JSON, `None` when there is none.
    pub(super) fn seen(&self) -> Option<&Value> {
        self.seen.as_ref()
    }

    /// What the last write was refused with.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|f| f.message.as_str())
    }

    /// How often in a short time somebody has undone what was written, and who, once that is a habit.
    pub(super) fn reverted(&self) -> Option<(u32, &str)> {
        let writer = self.writer.as_deref().unwrap_or("of nobody");
        (self.mends >= HABIT).then_some((self.mends, writer))
    }

    /// Whether a write is under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether the object is there and passes `test`, and will still when the write under way has ended.
    pub(super) fn holds(&self, test: impl Fn(&Value) -> bool) -> bool {
        self.seen.as_ref().is_some_and(&test)
            && match &self.under_way {
                None => true,
                Some(Write::Delete) => false,
                Some(Write::Apply(desired)) => test(&desired.body),
            }
    }

    /// What `read` finds in the object, and will still find when the write under way has ended.
    pub(super) fn certain<T: Ord>(&self, read: impl Fn(&Value) -> BTreeSet<T>) -> BTreeSet<T> {
        let mut found = self.seen.as_ref().map(&read).unwrap_or_default();
        match &self.under_way {
            None => {}
            Some(Write::Delete) => found.clear(),
            Some(Write::Apply(desired)) => {
                let then = read(&desired.body);
                found.retain(|f| then.contains(f));
            }
        }
        found
    }

    /// Nothing is known of it.
    pub(super) fn is_forgettable(&self) -> bool {
        self.seen.is_none() && self.failure.is_none() && self.under_way.is_none()
    }

    /// Whether it is as it should be.
    pub(super) fn is_as(&self, desired: &Desired) -> bool {
        let found = self.seen.as_ref().map(|s| differences(&desired.body, s));
        let stays = match &self.under_way {
            None => true,
            Some(Write::Apply(to)) => to == desired,
            Some(Write::Delete) => false,
        };
        stays && self.is_settled(desired, found.as_deref())
    }

    /// Takes an event. An older version than the known one is an echo of the past; `listed` overrules, since a list is
    /// complete even after the API server's store was restored from a backup.
    pub(super) fn observe(&mut self, seen: Option<Value>, version: u64, listed: bool) {
        if listed || version >= self.version {
            self.seen = seen;
            self.version = version;
        }
    }

    /// A list without the object: it is gone.
    pub(super) fn vanish(&mut self) {
        self.seen = None;
    }

    /// When the object is to be written (or deleted) next; `None` when it is as it should be.
    pub(super) fn due(&mut self, kind: Kind, goal: Goal<'_>, now: Instant) -> Option<Instant> {
        let patience = match goal {
            Goal::Present(desired, patience) => {
                let found = self.seen.as_ref().map(|s| differences(&desired.body, s));
                if self.is_settled(desired, found.as_deref()) {
                    self.waiting_since = None;
                    self.failure = None;
                    return None;
                }
                match (&self.seen, found) {
                    (Some(seen), Some(found)) if !is_urgent(kind, &desired.body, seen, &found) => {
                        patience
                    }
                    _ => Duration::ZERO,
                }
            }
            Goal::Absent(patience) => {
                if self.seen.is_none() {
                    self.waiting_since = None;
                    self.failure = None;
                    return None;
                }
                patience
            }
        };
        let since = *self.waiting_since.get_or_insert(now);
        let mut due = since + patience;
        if let Some(last) = self.last_write {
            due = due.max(last + GAP);
            if let Goal::Present(desired, _) = goal
                && self.mends > 0
                && self.applied.as_ref().is_some_and(|(a, _)| a == desired)
            {
                due = due.max(last + (GAP * 2_u32.saturating_pow(self.mends)).min(LONGEST_TRUCE));
            }
        }
        if let Some(failure) = &self.failure {
            let desired = match goal {
                Goal::Present(desired, _) => Some(desired),
                Goal::Absent(_) => None,
            };
            let changed = is_otherwise(kind, failure.desired.as_ref(), desired);
            let reconsider = self.last_write.map_or(now, |last| last + RECONSIDER);
            let retry = if changed {
                failure.retry_at.min(reconsider)
            } else {
                failure.retry_at
            };
            due = due.max(retry);
        }
        Some(due)
    }

    /// A write begins.
    pub(super) fn start(&mut self, goal: Goal<'_>, now: Instant) {
        if let Goal::Present(desired, _) = goal {
            let mends = self.applied.as_ref().is_some_and(|(a, _)| a == desired);
            let peace = self.last_write.is_none_or(|last| last + PEACE < now);
            self.mends = match (mends, peace) {
                (true, false) => self.mends.saturating_add(1).min(16),
                (true, true) => 1,
                (false, _) => 0,
            };
        }
        self.under_way = Some(match goal {
            Goal::Present(desired, _) => Write::Apply(desired.clone()),
            Goal::Absent(_) => Write::Delete,
        });
        self.waiting_since = None;
        self.last_write = Some(now);
    }

    /// The write went well; `seen` is the API server's answer, `None` after a deletion.
    pub(super) fn succeed(&mut self, seen: Option<Seen>, now: Instant) {
        let desired = self.under_way.take().and_then(Write::desired);
        self.failure = None;
        self.answered = Some(now);
        let writer = seen.as_ref().and_then(|s| s.content.get(WRITER)?.as_str());
        if let Some(writer) = writer {
            self.writer = Some(writer.to_owned());
        }
        self.applied = match (desired, &seen) {
            (Some(desired), Some(seen)) => {
                let found = differences(&desired.body, &seen.content);
                Some((desired, found))
            }
            _ => None,
        };
        match seen {
            Some(seen) => self.observe(Some(seen.content), seen.version, false),
            None => self.seen = None,
        }
    }

    /// The write was refused, and another one will be tried, without a pause.
    pub(super) fn give_way(&mut self) {
        self.under_way = None;
    }

    /// The write was refused.
    pub(super) fn fail(&mut self, error: &ApplyError, now: Instant) {
        let desired = self.under_way.take().and_then(Write::desired);
        let times = self
            .failure
            .as_ref()
            .map_or(0, |f| f.times)
            .saturating_add(1);
        let pause = FIRST_PAUSE * 2_u32.saturating_pow(times - 1);
        let asked = error.retry_after().unwrap_or_default();
        let retry_at = now + pause.min(LONGEST_PAUSE).max(asked);
        self.failure = Some(Failure {
            message: error.to_string(),
            times,
            retry_at,
            desired,
        });
    }

    /// As it should be, or as admission made it when just this was applied.
    fn is_settled(&self, desired: &Desired, found: Option<&[String]>) -> bool {
        match (found, &self.applied) {
            (Some([]), _) => true,
            (Some(found), Some((applied, answered))) => applied == desired && answered == found,
            (Some(_) | None, _) => false,
        }
    }
}

/// Whether an object should be otherwise than what was refused. Another path type is tried in its place, at the same pace.
fn is_otherwise(kind: Kind, refused: Option<&Desired>, wanted: Option<&Desired>) -> bool {
    match (kind, refused, wanted) {
        (Kind::Ingress, Some(refused), Some(wanted)) => {
            paths_of(&refused.body) != paths_of(&wanted.body)
        }
        _ => refused != wanted,
    }
}
