//! Who acts: what a process does next about the Lease, from what it has seen of it and by its own clock (design §2).
//!
//! Guarantees: who holds counts its claim from before the request that won it, who waits counts a whole claim from when it
//! first saw the Lease as it is; so as long as two clocks run at about one speed, the one has stopped before the other begins.
//! Whose clock shows what does not matter: no instant in a Lease is ever compared with an own one.
//!
//! Assumption: a write of the Lease is conditional on the version that was seen, so of two that take it one is refused.

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;

/// The longest claim of another that is believed: a Lease with an odd value does not keep everybody out for ever.
pub const LONGEST: Duration = Duration::from_mins(1);
/// Renewals in the time of one claim.
const RENEWALS: u32 = 5;

/// An instant of a process's own clock: the time since its machine was started, its sleep included. It is never set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uptime(Duration);

impl Uptime {
    /// So long after the start of the machine.
    #[must_use]
    pub const fn new(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// So much later.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// The time from `self` to `later`; nothing where that is past.
    #[must_use]
    pub const fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }

    /// The time since the start of the machine.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }
}

/// What the Lease says, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseRecord {
    /// Who holds it; nobody where it is empty.
    pub holder: Option<String>,
    /// How long a claim lasts, in seconds, as its holder says.
    pub duration_seconds: Option<i32>,
    /// How often it changed hands.
    pub transitions: Option<i32>,
    /// When it was renewed, by the holder's clock: only looked at for being another.
    pub renewed: Option<Timestamp>,
}

/// The Lease as it was last seen; `None` where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    record: Option<LeaseRecord>,
    since: Uptime,
}

impl Seen {
    /// The Lease as it is seen at `now`. What says the same as `before` is as old as that: to look is not to renew.
    #[must_use]
    pub fn look(before: Option<&Self>, record: Option<LeaseRecord>, now: Uptime) -> Self {
        let since = before
            .filter(|before| before.record == record)
            .map_or(now, |before| before.since);
        Self { record, since }
    }

    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        let holder = self.record.as_ref()?.holder.as_deref()?;
        (!holder.is_empty()).then_some(holder)
    }

    /// The number of the claim of whoever takes it now.
    fn next_transition(&self) -> i32 {
        let before = self.record.as_ref().and_then(|record| record.transitions);
        before.map_or(0, |before| before.max(0).checked_add(1).unwrap_or(0))
    }
}

/// A process as one that may hold the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidacy {
    /// What it calls itself; no two that run at the same time may be called the same.
    pub identity: String,
    /// How long its claim lasts.
    pub duration: Duration,
}

impl Candidacy {
    /// How long after one renewal the next is due.
    #[must_use]
    pub fn renew_every(&self) -> Duration {
        self.duration / RENEWALS
    }

    /// How long after a renewal that was not answered the next is tried.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        self.renew_every() / 2
    }
}

/// A claim on the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Its number: the transitions of the Lease when it was taken.
    pub transition: i32,
    /// When the request was sent that won or last renewed it.
    pub since: Uptime,
    /// When it is renewed next.
    pub next: Uptime,
}

/// What a process does about the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseStep {
    /// It takes the Lease, on condition that it is as it was seen.
    Take {
        /// The number of the claim.
        transition: i32,
    },
    /// It renews its claim, on the same condition.
    Renew,
    /// It has the claim, and does nothing until then.
    Hold {
        /// When the next renewal is due, or the claim is over.
        until: Uptime,
    },
    /// Another has the claim until then at least, if the Lease does not change.
    Wait {
        /// When it may be taken.
        until: Uptime,
    },
    /// It has no claim any more, and stops at once.
    Stop(Lost),
}

/// Why a claim ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// It could not be renewed in time.
    RanOut,
    /// Another process took the Lease.
    Taken {
        /// Which one.
        by: Option<String>,
    },
}

/// What `own` does next: with `claim`, if it has one.
#[must_use]
pub fn plan_lease(own: &Candidacy, claim: Option<&Claim>, seen: &Seen, now: Uptime) -> LeaseStep {
    match claim {
        Some(claim) => plan_holder(own, claim, seen, now),
        None => plan_standby(own, seen, now),
    }
}

fn plan_holder(own: &Candidacy, claim: &Claim, seen: &Seen, now: Uptime) -> LeaseStep {
    let end = claim.since.after(own.duration);
    if now >= end {
        return LeaseStep::Stop(Lost::RanOut);
    }
    // A Lease that is gone is put back: whoever was faster makes that fail, and is seen then.
    if let Some(record) = &seen.record {
        let is_own = record.holder.as_deref() == Some(own.identity.as_str());
        if !is_own || record.transitions != Some(claim.transition) {
            let by = seen.holder().map(ToOwned::to_owned);
            return LeaseStep::Stop(Lost::Taken { by });
        }
    }
    if now >= claim.next {
        LeaseStep::Renew
    } else {
        LeaseStep::Hold {
            until: claim.next.min(end),
        }
    }
}

fn plan_standby(own: &Candidacy, seen: &Seen, now: Uptime) -> LeaseStep {
    let take = LeaseStep::Take {
        transition: seen.next_transition(),
    };
    match seen.holder() {
        None => take,
        // An earlier process of this identity, which is not there any more.
        Some(holder) if holder == own.identity => take,
        Some(_) => {
            let until = seen.since.after(claim_of_another(own, seen));
            if now >= until {
                take
            } else {
                LeaseStep::Wait { until }
            }
        }
    }
}

/// How long another's claim is taken to last: what it says, but no less than the own one, and no more than [`LONGEST`].
fn claim_of_another(own: &Candidacy, seen: &Seen) -> Duration {
    let said = seen.record.as_ref().and_then(|r| r.duration_seconds);
    let said = said.and_then(|seconds| u64::try_from(seconds).ok());
    said.map_or(own.duration, |seconds| {
        Duration::from_secs(seconds).min(LONGEST).max(own.duration)
    })
}
