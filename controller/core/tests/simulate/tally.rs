//! What a run counts.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::ca::Seconds;
use crate::clock::{DAY, HOUR};

/// The length of a bar in the plot.
const WIDTH: usize = 60;

/// A certificate that is to be renewed at once, since the CA says so.
#[derive(Debug, Default)]
pub(crate) struct Pulled {
    /// Orders for that.
    pub(crate) orders: usize,
    /// After how many seconds there was another one.
    pub(crate) after: Option<Seconds>,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) orders: usize,
    pub(crate) issued: usize,
    /// Orders that the CA refused for a limit, in its words.
    pub(crate) refused: BTreeMap<String, usize>,
    pub(crate) failed: usize,
    /// Times that the CA was asked about a renewal, and the most of them in a minute.
    pub(crate) polls: usize,
    pub(crate) busiest_poll: usize,
    last_minute: VecDeque<Seconds>,
    /// Orders that said which certificate they replace.
    pub(crate) replacing: usize,
    /// Certificates that were still in place a day after their revocation was announced.
    pub(crate) revoked_late: usize,
    /// Seconds from the announcement to each replacement.
    pub(crate) replaced_after: Vec<Seconds>,
    /// What became of those whose window the CA moved into the past.
    pub(crate) pulled: BTreeMap<usize, Pulled>,
    pub(crate) probes: usize,
    pub(crate) lost: usize,
    pub(crate) restarts: usize,
    pub(crate) fallbacks: usize,
    pub(crate) passes: usize,
    /// The most passes in a second, and those of the last one.
    pub(crate) busiest_second: usize,
    last_second: (Seconds, usize),
    /// How often a certificate expired, and why.
    pub(crate) expired_by_us: usize,
    pub(crate) expired_by_outage: usize,
    pub(crate) expired_dead: usize,
    /// Seconds without a usable certificate after the first.
    pub(crate) without: Seconds,
    firsts: Vec<Seconds>,
    by_week: Vec<usize>,
    /// Failures of each name.
    failures: BTreeMap<String, Vec<Seconds>>,
    busiest: usize,
    last_hour: VecDeque<Seconds>,
}

impl Tally {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a positive number of weeks
    pub(crate) fn new(days: f64) -> Self {
        Self {
            by_week: vec![0; (days / 7.0).ceil() as usize],
            ..Self::default()
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a positive number of weeks
    pub(crate) fn order(&mut self, at: Seconds) {
        self.orders += 1;
        if let Some(week) = self.by_week.get_mut((at / (7.0 * DAY)) as usize) {
            *week += 1;
        }
        self.last_hour.push_back(at);
        while self
            .last_hour
            .front()
            .is_some_and(|first| at - first > HOUR)
        {
            self.last_hour.pop_front();
        }
        self.busiest = self.busiest.max(self.last_hour.len());
    }

    pub(crate) fn pass(&mut self, at: Seconds) {
        self.passes += 1;
        if at - self.last_second.0 >= 1.0 {
            self.last_second = (at, 0);
        }
        self.last_second.1 += 1;
        self.busiest_second = self.busiest_second.max(self.last_second.1);
    }

    pub(crate) fn poll(&mut self, at: Seconds) {
        self.polls += 1;
        self.last_minute.push_back(at);
        while self
            .last_minute
            .front()
            .is_some_and(|first| at - first >= 59.95)
        {
            self.last_minute.pop_front();
        }
        self.busiest_poll = self.busiest_poll.max(self.last_minute.len());
    }

    /// A Certificate got its first certificate after so long.
    pub(crate) fn first(&mut self, after: Seconds) {
        self.firsts.push(after);
    }

    pub(crate) fn refuse(&mut self, words: &str) {
        *self.refused.entry(words.to_owned()).or_default() += 1;
    }

    pub(crate) fn fail(&mut self, name: &str, at: Seconds) {
        self.failed += 1;
        self.failures.entry(name.to_owned()).or_default().push(at);
    }

    /// The most failures of one name in any hour.
    pub(crate) fn worst_hour(&self) -> usize {
        let within = |times: &Vec<Seconds>| {
            let from = times.iter().map(|from| {
                times
                    .iter()
                    .filter(|t| *from <= **t && **t < from + HOUR)
                    .count()
            });
            from.max().unwrap_or(0)
        };
        self.failures.values().map(within).max().unwrap_or(0)
    }

    fn first_quantile(&self, share: f64) -> Seconds {
        let mut firsts = self.firsts.clone();
        firsts.sort_by(f64::total_cmp);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )] // an index
        let at = (firsts.len().saturating_sub(1) as f64 * share) as usize;
        firsts.get(at).copied().unwrap_or_default()
    }

    /// Orders by week, as bars.
    pub(crate) fn plot(&self) -> String {
        let most = self.by_week.iter().copied().max().unwrap_or(0).max(1);
        let bar = |(week, orders): (usize, &usize)| {
            format!(
                "week {week:>3}  {orders:>6}  {}\n",
                "#".repeat(orders * WIDTH / most)
            )
        };
        self.by_week.iter().enumerate().map(bar).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused: usize = self.refused.values().sum();
        writeln!(f, "orders placed                         {}", self.orders)?;
        writeln!(f, "  the most in an hour                 {}", self.busiest)?;
        writeln!(f, "  refused by a limit                  {refused}")?;
        writeln!(f, "  refused since the CA was down       {}", self.probes)?;
        writeln!(f, "  failed (the name leads elsewhere)   {}", self.failed)?;
        writeln!(f, "  lost by a crash                     {}", self.lost)?;
        writeln!(f, "certificates issued                   {}", self.issued)?;
        let (half, most) = (self.first_quantile(0.5), self.first_quantile(0.99));
        writeln!(
            f,
            "  the first after, median and 99 %    {half:.0} s, {:.1} h",
            most / HOUR
        )?;
        writeln!(
            f,
            "expired while CA and operator were up {}",
            self.expired_by_us
        )?;
        writeln!(
            f,
            "  amid an outage, or just after       {}",
            self.expired_by_outage
        )?;
        writeln!(
            f,
            "  since the name leads elsewhere      {}",
            self.expired_dead
        )?;
        writeln!(
            f,
            "hours without a usable certificate    {:.0}",
            self.without / HOUR
        )?;
        writeln!(
            f,
            "fallbacks written                     {}",
            self.fallbacks
        )?;
        if self.polls > 0 {
            writeln!(f, "polls of renewal information          {}", self.polls)?;
            writeln!(
                f,
                "  the most in a minute                {}",
                self.busiest_poll
            )?;
            writeln!(
                f,
                "orders that replace a certificate     {}",
                self.replacing
            )?;
            let last = self.replaced_after.iter().copied().fold(0.0, f64::max);
            let (count, hours) = (self.replaced_after.len(), last / HOUR);
            writeln!(
                f,
                "replaced before their revocation      {count}, the last after {hours:.1} h"
            )?;
        }
        write!(f, "restarts {}, passes {}", self.restarts, self.passes)
    }
}
