//! When the TLS Secret may be written again: after a refusal, and after other writers undid what was written.
//!
//! Two writers that each put their own version back would go on for ever. So what Evercert puts in step is counted, and after
//! a few times in a short while the circuit opens for a growing time. Pure; what is counted is kept by the operator.

use jiff::{SignedDuration, Timestamp};

use evercert_api::Reason;

use crate::need::whole_up;
use crate::observe::Gate;
use crate::plan::{RECHECK, later};

/// So many writes
const MOST: usize = 5;
/// within this time open the circuit.
const WINDOW: SignedDuration = SignedDuration::from_mins(5);
/// For how long it opens first; each time twice as long.
const FIRST_WAIT: SignedDuration = SignedDuration::from_mins(2);
/// At most.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(6);

/// One entry of an object's `managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldManager<'a> {
    /// The field manager.
    pub name: &'a str,
    /// When it wrote last.
    pub at: Option<Timestamp>,
}

/// The field manager that wrote last, other than `own`.
#[must_use]
pub fn find_writer<'a>(managers: &[FieldManager<'a>], own: &str) -> Option<&'a str> {
    let others = managers.iter().filter(|m| m.name != own);
    others.max_by_key(|m| m.at).map(|m| m.name)
}

/// How often a TLS Secret was put in step, for one generation of its Certificate: an edit is a person who acted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Circuit {
    generation: i64,
    writes: Vec<Timestamp>,
    opened: u32,
    until: Option<Timestamp>,
    writer: Option<String>,
}

impl Circuit {
    /// Counts a write that put the Secret in step, which `writer` had changed.
    pub fn note(&mut self, generation: i64, writer: Option<&str>, now: Timestamp) {
        let quiet = WINDOW.max(self.wait() * 2);
        let last = self.writes.last().copied();
        if generation != self.generation || last.is_some_and(|at| later(at, quiet) < now) {
            *self = Self {
                generation,
                ..Self::default()
            };
        }
        self.writer = writer.map(str::to_owned).or_else(|| self.writer.take());
        self.writes.retain(|at| now < later(*at, quiet));
        self.writes.push(now);
        if self.opened > 0 || self.writes.len() >= MOST {
            self.opened = self.opened.saturating_add(1);
            self.until = Some(later(now, self.wait()));
        }
    }

    /// Why Secret `name` is not put in step now.
    #[must_use]
    pub fn gate(&self, name: &str, generation: i64, now: Timestamp) -> Option<Gate> {
        let until = self
            .until
            .filter(|until| now < *until && generation == self.generation)?;
        let who = match &self.writer {
            Some(writer) => format!(
                "field manager {writer:?} changed it again each time: have that writer leave it alone"
            ),
            None => "somebody deleted it again each time: find out who".to_owned(),
        };
        Some(Gate {
            until,
            reason: Reason::SecretContested,
            message: format!(
                "Secret {name} was put in step {} times in a short while, and {who}, or choose another spec.secretName. It is not \
                 written before {}, unless the Certificate is edited",
                self.writes.len(),
                whole_up(until)
            ),
        })
    }

    fn wait(&self) -> SignedDuration {
        let doublings = self.opened.saturating_sub(1).min(12);
        (FIRST_WAIT * 2_i32.pow(doublings)).min(LONGEST_WAIT)
    }
}

/// Why Secret `name` is not written again at once after the API server refused it at `at`.
#[must_use]
pub fn build_refused(name: &str, at: Timestamp, why: &str) -> Gate {
    Gate {
        until: later(at, RECHECK),
        reason: Reason::SecretNotWritable,
        message: format!("Secret {name} cannot be written: {why}. Tried again every 30 s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixtures::at;

    /// What is open after writes at these seconds, each undone by "tug".
    fn circuit(seconds: &[i64]) -> Circuit {
        let mut circuit = Circuit::default();
        for second in seconds {
            circuit.note(1, Some("tug"), at(*second));
        }
        circuit
    }

    fn until(circuit: &Circuit, second: i64) -> Option<Timestamp> {
        circuit.gate("site", 1, at(second)).map(|g| g.until)
    }

    #[test]
    fn few_writes_or_slow_ones_open_nothing() {
        assert_eq!(until(&circuit(&[0, 1, 2, 3]), 3), None);
        assert_eq!(
            until(&circuit(&[0, 100, 200, 300, 400, 500, 600]), 600),
            None
        );
    }

    #[test]
    fn many_writes_in_a_short_while_open_it_and_it_says_who_and_what_to_do() {
        let open = circuit(&[0, 1, 2, 3, 4]);
        let gate = open.gate("site", 1, at(5)).unwrap();
        assert_eq!(
            (gate.until, gate.reason),
            (at(124), Reason::SecretContested)
        );
        for words in [
            "Secret site",
            "5 times",
            "field manager \"tug\"",
            "leave it alone",
        ] {
            assert!(gate.message.contains(words), "{}", gate.message);
        }
        assert_eq!(until(&open, 124), None, "then one write is tried");
    }

    #[test]
    fn each_opening_is_twice_as_long_up_to_six_hours_and_a_quiet_time_ends_it() {
        let mut open = circuit(&[0, 1, 2, 3, 4]);
        let mut now = at(4);
        let mut waits = Vec::new();
        for _ in 0..9 {
            now = later(now, open.wait());
            open.note(1, Some("tug"), now);
            waits.push(open.until.unwrap().duration_since(now).as_mins());
        }
        assert_eq!(waits, [4, 8, 16, 32, 64, 128, 256, 360, 360]);
        let quiet = later(now, SignedDuration::from_hours(13));
        open.note(1, Some("tug"), quiet);
        assert_eq!(open.gate("site", 1, quiet), None);
    }

    #[test]
    fn an_edit_of_the_certificate_closes_it() {
        let mut open = circuit(&[0, 1, 2, 3, 4]);
        assert_eq!(open.gate("site", 2, at(5)), None);
        open.note(2, None, at(5));
        assert_eq!(open.gate("site", 2, at(5)), None);
    }

    #[test]
    fn writer_is_the_field_manager_that_wrote_last_and_is_not_ours() {
        let manager = |name, second: Option<i64>| FieldManager {
            name,
            at: second.map(at),
        };
        let managers = [
            manager("kubectl", Some(1)),
            manager("evercert-secret", Some(9)),
            manager("tug", Some(5)),
            manager("old", None),
        ];
        assert_eq!(find_writer(&managers, "evercert-secret"), Some("tug"));
        assert_eq!(find_writer(&managers[1..2], "evercert-secret"), None);
    }
}
