//! What this process remembers of each Certificate between two passes, and of each directory. All of it can be lost: a
//! restart reads it again from the CA and the cluster.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evercert_acme::Acme;
use evercert_api::Reason;
use evercert_core::backoff::outage_wait;
use evercert_core::circuit::Circuit;
use evercert_core::fault::{Fault, FaultClass, LONGEST_WAIT};
use evercert_core::key::ObjectKey;
use evercert_core::observe::{Gate, OrderObservation, Reach};
use evercert_core::order::{OrderState, OrderView};
use evercert_core::report::{Basis, Change};
use evercert_core::sentence::build_fault;
use jiff::{SignedDuration, Timestamp};

use crate::gather::Reads;
use crate::ledger::Settlement;

/// What a step did that the status does not hold yet.
#[derive(Debug, Clone)]
pub(crate) struct Unreported {
    /// What it did.
    pub(crate) change: Change,
    /// When.
    pub(crate) at: Timestamp,
    /// What it was planned for.
    pub(crate) basis: Basis,
}

/// What is remembered of one Certificate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    /// The order's URL and its last view.
    pub(crate) order: Option<(String, OrderObservation)>,
    /// What the self-check saw, by name.
    pub(crate) reach: BTreeMap<String, Reach>,
    /// When the status was last written.
    pub(crate) last_write: Option<Timestamp>,
    /// Why the TLS Secret could not be written.
    pub(crate) unwritable: Option<(Timestamp, String)>,
    /// When a dry run told that it can be written.
    pub(crate) tried: Option<Timestamp>,
    /// How often it was put in step.
    pub(crate) circuit: Circuit,
    /// What a step did that the status does not hold yet.
    pub(crate) unreported: Option<Unreported>,
    /// What a failed attempt cost, which the ledger does not know yet.
    pub(crate) settlement: Option<Settlement>,
    /// The order that this process placed.
    pub(crate) placed: Option<Placed>,
    /// Whether the CA did not know the account at the last try to order, which did not count as an attempt.
    pub(crate) unknown_account: bool,
    /// The certificate that the CA was asked about in this process, and from when on it wants it renewed.
    pub(crate) advised: Option<(String, Timestamp)>,
    /// A profile that the CA refused although its directory offers it.
    pub(crate) refused_profile: Option<String>,
    /// The certificate that the CA would not have replaced by an order (RFC 9773 §5).
    pub(crate) unreplaceable: Option<String>,
    /// How often in a row the CA refused to revoke a certificate, and what is said of it.
    pub(crate) revocation_refused: Option<(u32, Gate)>,
    /// How many requests that should have moved the order on were refused in a row, whatever its reads said in between.
    pub(crate) refusals: u32,
}

/// An order that this process placed, and with what.
#[derive(Clone)]
pub(crate) struct Placed {
    /// Its URL.
    pub(crate) url: String,
    /// The directory's URL.
    pub(crate) directory: String,
    /// The account, which may be another one than the issuer's by now.
    pub(crate) acme: Arc<dyn Acme>,
}

impl std::fmt::Debug for Placed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Placed").field(&self.url).finish()
    }
}

/// A directory that does not answer as it should.
#[derive(Debug, Clone)]
struct Breaker {
    since: Timestamp,
    gate: Gate,
    /// Who asks whether it answers again, since when: one at a time.
    probe: Option<(ObjectKey, Timestamp)>,
    /// Whether it failed again when it was asked once more: worth telling.
    lasts: bool,
}

/// A directory that takes no new accounts for now, or is not to be asked for those that there are either.
#[derive(Debug, Clone)]
struct NoAccounts {
    /// Why, with the instant until when.
    fault: Fault,
    until: Timestamp,
    /// Whether the look-up of an account met it.
    is_of_look_ups: bool,
}

/// How long newAccount is left alone whose limit names no instant.
const UNTOLD: SignedDuration = SignedDuration::from_mins(5);

/// The longest time that a request takes, and some more: then another one asks.
const PROBE: SignedDuration = SignedDuration::from_secs(60);

/// The memory of this process.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    entries: Mutex<HashMap<ObjectKey, Entry>>,
    breakers: Mutex<HashMap<String, Breaker>>,
    no_accounts: Mutex<HashMap<String, NoAccounts>>,
    /// What a pass read that the next one need not read again.
    reads: Mutex<HashMap<ObjectKey, Reads>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept here is whole after each statement, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    /// The order that this process placed, if it is not known to have ended, with its last view.
    pub(crate) fn under_way(&self) -> Option<(&Placed, Option<&OrderView>)> {
        let placed = self.placed.as_ref()?;
        match self.order.as_ref().filter(|(url, _)| *url == placed.url) {
            Some((_, OrderObservation::Read(read))) => {
                let open = matches!(read.view.state, OrderState::Pending | OrderState::Ready);
                open.then_some((placed, Some(&read.view)))
            }
            Some((_, OrderObservation::Failed { fault, .. })) => {
                (fault.class != FaultClass::Gone).then_some((placed, None))
            }
            Some((_, OrderObservation::None | OrderObservation::Unread)) | None => {
                Some((placed, None))
            }
        }
    }
}

impl Memory {
    /// What is remembered of `key`.
    pub(crate) fn entry(&self, key: &ObjectKey) -> Entry {
        lock(&self.entries).get(key).cloned().unwrap_or_default()
    }

    /// Changes what is remembered of `key`.
    pub(crate) fn update(&self, key: &ObjectKey, change: impl FnOnce(&mut Entry)) {
        change(lock(&self.entries).entry(key.clone()).or_default());
    }

    /// Forgets `key`, and gives what was remembered: to the first who asks.
    pub(crate) fn forget(&self, key: &ObjectKey) -> Entry {
        lock(&self.reads).remove(key);
        lock(&self.entries).remove(key).unwrap_or_default()
    }

    /// Keeps what was read for the pass that follows at once.
    pub(crate) fn keep_reads(&self, key: &ObjectKey, reads: Reads) {
        lock(&self.reads).insert(key.clone(), reads);
    }

    /// What the last pass read, once: `None` when something has changed since.
    pub(crate) fn take_reads(&self, key: &ObjectKey) -> Option<Reads> {
        lock(&self.reads).remove(key)
    }

    /// Whatever was read may no longer be so.
    pub(crate) fn drop_reads(&self) {
        lock(&self.reads).clear();
    }

    /// A Secret of `key` is there in this version, or is gone: what was read before is no longer so.
    pub(crate) fn note_secret(&self, key: &ObjectKey, name: &str, version: Option<&str>) {
        let mut reads = lock(&self.reads);
        if reads.get(key).is_some_and(|r| !r.have(name, version)) {
            reads.remove(key);
        }
    }

    /// The last view of the order at `url`.
    pub(crate) fn order(&self, key: &ObjectKey, url: Option<&str>) -> OrderObservation {
        let Some(url) = url else {
            return OrderObservation::None;
        };
        match self.entry(key).order {
            Some((known, view)) if known == url => view,
            Some(_) | None => OrderObservation::Unread,
        }
    }

    /// Remembers `view` of the order at `url`.
    pub(crate) fn set_order(&self, key: &ObjectKey, url: &str, view: OrderObservation) {
        self.update(key, |e| e.order = Some((url.to_owned(), view)));
    }

    /// newAccount of `directory` met the limit `fault`: it is for all who want an account there, or look one up where a look-up
    /// met it.
    pub(crate) fn hold_accounts(
        &self,
        directory: &str,
        fault: &Fault,
        is_look_up: bool,
        now: Timestamp,
    ) {
        let limit = |wait| now.checked_add(wait).unwrap_or(now);
        let until = fault
            .retry_after
            .filter(|at| *at > now)
            .map_or_else(|| limit(UNTOLD), |at| at.min(limit(LONGEST_WAIT)));
        let held = NoAccounts {
            fault: Fault {
                retry_after: Some(until),
                ..fault.clone()
            },
            until,
            is_of_look_ups: is_look_up,
        };
        lock(&self.no_accounts).insert(directory.to_owned(), held);
    }

    /// The limit for which `directory` is not asked for an account at `now`.
    pub(crate) fn find_held_accounts(
        &self,
        directory: &str,
        is_look_up: bool,
        now: Timestamp,
    ) -> Option<Fault> {
        let mut held = lock(&self.no_accounts);
        // Further away it never was: the clock was set back.
        held.retain(|_, h| now < h.until && h.until.duration_since(now) <= LONGEST_WAIT);
        let held = held.get(directory)?;
        (held.is_of_look_ups || !is_look_up).then(|| held.fault.clone())
    }

    /// Why no request may be sent to `directory` now.
    pub(crate) fn gate(&self, directory: &str) -> Option<Gate> {
        lock(&self.breakers).get(directory).map(|b| b.gate.clone())
    }

    /// The directories that no request may be sent to at `now`.
    pub(crate) fn open_breakers(&self, now: Timestamp) -> Vec<String> {
        let breakers = lock(&self.breakers);
        let open = breakers.iter().filter(|(_, b)| now < b.gate.until);
        open.map(|(directory, _)| directory.clone()).collect()
    }

    /// The same for `key`: while another one asks whether the CA answers again, its answer is waited for.
    pub(crate) fn gate_for(
        &self,
        directory: &str,
        key: &ObjectKey,
        now: Timestamp,
    ) -> Option<Gate> {
        let breakers = lock(&self.breakers);
        let breaker = breakers.get(directory)?;
        let mut gate = breaker.gate.clone();
        if let Some(until) = breaker.waits_for_another(key, now) {
            gate.until = gate.until.max(until);
        }
        Some(gate)
    }

    /// Whether `key` may send a request to `directory` at `now`: of those who wait for the end of an outage one at a time.
    pub(crate) fn may_ask(&self, directory: &str, key: &ObjectKey, now: Timestamp) -> bool {
        let mut breakers = lock(&self.breakers);
        let Some(breaker) = breakers.get_mut(directory) else {
            return true;
        };
        // Whoever planned before another one was turned away knows it now.
        if now < breaker.gate.until || breaker.waits_for_another(key, now).is_some() {
            return false;
        }
        breaker.probe = Some((key.clone(), now));
        true
    }

    /// The same where the outage lasts.
    pub(crate) fn lasting_outage(&self, directory: &str) -> Option<Gate> {
        let breakers = lock(&self.breakers);
        let breaker = breakers.get(directory).filter(|b| b.lasts);
        breaker.map(|b| b.gate.clone())
    }

    /// A request to `directory` was answered as it should be; the answer is since when it was not, where that was so.
    pub(crate) fn close_breaker(&self, directory: &str) -> Option<Timestamp> {
        lock(&self.breakers).remove(directory).map(|b| b.since)
    }

    /// A request to `directory` met `fault`: one that counts against the directory holds back all requests to it for a while.
    /// True when it begins to count as an outage that lasts, or has another end that the CA named: then it is told.
    pub(crate) fn note_fault(&self, directory: &str, fault: &Fault, now: Timestamp) -> bool {
        if !fault.is_directorys() {
            return false;
        }
        let mut breakers = lock(&self.breakers);
        let before = breakers.get(directory);
        let since = before.map_or(now, |b| b.since);
        let lasted = before.is_some_and(|b| b.lasts);
        let lasts = lasted || before.is_some_and(|b| now >= b.gate.until);
        let until = fault
            .retry_after
            .filter(|at| *at > now)
            .unwrap_or_else(|| now.checked_add(outage_wait(since, now)).unwrap_or(now));
        let (reason, what) = match fault.class {
            FaultClass::RateLimited => (Reason::RateLimited, "has limited all requests"),
            _ => (Reason::CAUnavailable, "has not been available"),
        };
        let message = format!(
            "the CA {what} since {}: {}",
            evercert_core::need::whole(since),
            build_fault(fault)
        );
        breakers.insert(
            directory.to_owned(),
            Breaker {
                since,
                gate: Gate {
                    until,
                    reason,
                    message,
                },
                probe: None,
                lasts,
            },
        );
        // An instant that the CA named is told each time.
        lasts && (!lasted || fault.class == FaultClass::RateLimited)
    }
}

impl Breaker {
    /// Until when `key` waits for the answer to another one.
    fn waits_for_another(&self, key: &ObjectKey, now: Timestamp) -> Option<Timestamp> {
        let (who, since) = self.probe.as_ref()?;
        let until = since.checked_add(PROBE).unwrap_or(*since);
        // A pass may have begun before the one that asks; a clock may have been set back.
        let asks = now.duration_since(*since).abs() < PROBE;
        (who != key && asks).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(class: FaultClass) -> Fault {
        Fault {
            class,
            problem: None,
            http_status: Some(503),
            retry_after: None,
            help_url: None,
            unsent: false,
            detail: "x".into(),
        }
    }

    #[test]
    fn an_outage_holds_its_directory_back_longer_each_time_until_it_answers() {
        let memory = Memory::default();
        let at = |s| Timestamp::from_second(s).unwrap();
        let unavailable = fault(FaultClass::Unavailable);
        assert!(!memory.note_fault("d", &unavailable, at(0)));
        assert_eq!(memory.gate("d").map(|g| g.until), Some(at(15)));
        assert!(
            !memory.note_fault("d", &unavailable, at(1)),
            "of the same moment"
        );
        assert_eq!(memory.lasting_outage("d"), None);
        assert!(memory.note_fault("d", &unavailable, at(400)));
        assert_eq!(memory.gate("d").map(|g| g.until), Some(at(500)));
        assert_eq!(memory.lasting_outage("d"), memory.gate("d"));
        assert!(!memory.note_fault("d", &unavailable, at(500)), "told once");
        assert_eq!(memory.gate("other"), None);
        memory.close_breaker("d");
        assert_eq!(memory.gate("d"), None);
        // Its own word counts, unless it is over.
        for (retry_after, until) in [(90, 90), (0, 15)] {
            let mut said = unavailable.clone();
            said.retry_after = Some(at(retry_after));
            memory.note_fault("d", &said, at(0));
            assert_eq!(memory.gate("d").map(|g| g.until), Some(at(until)));
            memory.close_breaker("d");
        }
    }

    #[test]
    fn whether_the_ca_answers_again_is_asked_by_one_at_a_time() {
        let memory = Memory::default();
        let at = |s| Timestamp::from_second(s).unwrap();
        let [a, b] = ["a", "b"].map(|name| ObjectKey::new("n", name));
        let gate = |key, s| memory.gate_for("d", key, at(s)).map(|gate| gate.until);
        assert!(memory.may_ask("d", &a, at(0)) && memory.may_ask("d", &b, at(0)));
        memory.note_fault("d", &fault(FaultClass::Unavailable), at(0));
        assert!(!memory.may_ask("d", &a, at(14)));
        assert!(memory.may_ask("d", &a, at(15)));
        assert!(memory.may_ask("d", &a, at(16)), "it asks already");
        assert!(!memory.may_ask("d", &b, at(16)));
        assert!(!memory.may_ask("d", &b, at(15)), "whose pass began before");
        assert_eq!((gate(&a, 16), gate(&b, 16)), (Some(at(15)), Some(at(76))));
        assert!(
            memory.may_ask("d", &b, at(76)),
            "it was never heard of again"
        );
        memory.note_fault("d", &fault(FaultClass::Unavailable), at(80));
        assert_eq!((gate(&a, 81), gate(&b, 81)), (Some(at(100)), Some(at(100))));
        assert_eq!(memory.close_breaker("d"), Some(at(0)));
        assert_eq!((gate(&a, 81), memory.close_breaker("d")), (None, None));
    }

    #[test]
    fn a_limit_at_new_nonce_holds_its_directory_back_until_the_ca_says() {
        let memory = Memory::default();
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut limited = fault(FaultClass::RateLimited);
        memory.note_fault("d", &limited, at(0));
        assert_eq!(memory.gate("d"), None, "a limit of one order");
        (limited.unsent, limited.retry_after) = (true, Some(at(90)));
        memory.note_fault("d", &limited, at(0));
        let gate = memory.gate("d").unwrap();
        assert_eq!((gate.until, gate.reason), (at(90), Reason::RateLimited));
        for until in [3_690, 7_290] {
            limited.retry_after = Some(at(until));
            assert!(memory.note_fault("d", &limited, at(until - 3_600)), "told");
        }
        let lasting = memory.lasting_outage("d").map(|gate| gate.until);
        assert_eq!(lasting, Some(at(7_290)));
        assert!(gate.message.contains("limited all requests"), "{gate:?}");
    }

    #[test]
    fn a_limit_of_new_accounts_is_their_directorys_and_no_obstacle_to_one_that_exists() {
        let memory = Memory::default();
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut limited = fault(FaultClass::RateLimited);
        let held = |directory, is_look_up, s| {
            let held = memory.find_held_accounts(directory, is_look_up, at(s));
            held.and_then(|fault| fault.retry_after)
        };
        limited.retry_after = Some(at(60));
        memory.hold_accounts("d", &limited, false, at(0));
        assert_eq!(held("d", false, 1), Some(at(60)));
        assert_eq!((held("d", true, 1), held("other", false, 1)), (None, None));
        assert_eq!(held("d", false, 60), None, "its time has come");
        limited.retry_after = None;
        memory.hold_accounts("d", &limited, true, at(100));
        assert_eq!(held("d", true, 101), Some(at(400)));
        assert_eq!(held("d", false, 101), Some(at(400)), "the same endpoint");
        memory.hold_accounts("d", &limited, true, at(900_000));
        assert_eq!(held("d", true, 0), None, "the clock was set back");
    }

    #[test]
    fn a_certificates_own_fault_is_not_its_directorys() {
        let memory = Memory::default();
        memory.note_fault("d", &fault(FaultClass::Validation), Timestamp::UNIX_EPOCH);
        assert_eq!(memory.gate("d"), None);
    }
}
