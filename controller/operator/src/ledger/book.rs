//! What the ledger knows of one directory, and how each entry changes it. Pure: what is written is what this says.

use std::collections::BTreeMap;

use evercert_core::fault::Fault;
use evercert_core::key::ObjectKey;
use evercert_core::limits::{Decision, Model, NewOrder, Spent};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How long an intent is kept of which nothing more was heard: longer than an order lives at any CA.
const KEPT: SignedDuration = SignedDuration::from_hours(8 * 24);

/// One directory's account of what was spent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Book {
    pub(super) limits: Spent,
    /// Intents to order of which nothing is known yet, by Certificate (`namespace/name`).
    pub(super) intents: BTreeMap<String, Intent>,
}

/// An intent to order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Intent {
    pub(super) at: Timestamp,
    /// The account that orders.
    account: String,
    /// The buckets that it took a token from.
    #[serde(default)]
    taken: Vec<String>,
}

/// What became of an intent.
#[derive(Debug, Clone)]
pub(crate) enum Settlement {
    /// The order never reached the CA, for certain.
    Unsent,
    /// The CA refused to make the order; the fault says whether for a limit of its own.
    Refused {
        /// The names that were to be ordered.
        names: Vec<String>,
        /// The CA's answer.
        fault: Box<Fault>,
    },
    /// The order ended without a certificate since these names could not be proved, or for another reason.
    Failed {
        /// The names whose validation failed.
        names: Vec<String>,
    },
    /// It led to a certificate.
    Issued {
        /// The names ordered.
        names: Vec<String>,
        /// When the certificate expires.
        until: Timestamp,
    },
    /// It was given up or lost: it counts as spent.
    Spent,
}

/// A line of the ledger.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) certificate: String,
    pub(super) at: Timestamp,
    pub(super) what: What,
}

/// What a line is about.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// Somebody wants to place an order.
    Order(NewOrder),
    /// What became of the last one.
    Settled(Settlement),
    /// The order that was to be entered at the line's instant was not placed, since its write was not answered.
    Unplaced,
}

/// The name of a Certificate in the ledger.
pub(super) fn name_of(certificate: &ObjectKey) -> String {
    certificate.to_string()
}

impl Book {
    /// Enters a line: an order only where every limit has room, and the answer is the decision; all else always.
    pub(super) fn enter(&mut self, model: &Model, entry: &Entry) -> Decision {
        let now = entry.at;
        match &entry.what {
            What::Order(order) => {
                let decision = self.limits.decide(model, order, 0, now);
                if decision == Decision::Granted {
                    let intent = Intent {
                        at: now,
                        account: order.account.clone(),
                        taken: self.limits.take(model, order, now),
                    };
                    self.intents.insert(entry.certificate.clone(), intent);
                }
                decision
            }
            What::Settled(settlement) => {
                if let Some(intent) = self.intents.remove(&entry.certificate) {
                    self.settle(model, intent, settlement, now);
                }
                Decision::Granted
            }
            What::Unplaced => {
                let known = self.intents.get(&entry.certificate);
                if known.is_some_and(|intent| intent.at == now)
                    && let Some(intent) = self.intents.remove(&entry.certificate)
                {
                    self.limits.undo(model, &intent.taken);
                }
                Decision::Granted
            }
        }
    }

    fn settle(&mut self, model: &Model, intent: Intent, settlement: &Settlement, now: Timestamp) {
        let (account, taken) = (intent.account, intent.taken);
        match settlement {
            Settlement::Unsent => self.limits.undo(model, &taken),
            Settlement::Refused { names, fault } => {
                self.limits.give_back(model, &taken);
                let order = NewOrder {
                    account,
                    names: names.clone(),
                    urgent: false,
                    replaces: false,
                    asked_anew: false,
                };
                self.limits.learn(model, &order, fault, now);
            }
            Settlement::Failed { names } => {
                self.limits.give_back(model, &taken);
                self.limits.fail(model, &account, names, now);
            }
            Settlement::Issued { names, until } => {
                self.limits.succeed(&account, names, *until, now);
            }
            Settlement::Spent => {}
        }
    }

    /// To be called before lines are entered: drops what has passed, and finds a clock that was set back.
    pub(super) fn tick(&mut self, model: &Model, now: Timestamp) {
        self.limits.tick(model, now);
        self.intents
            .retain(|_, intent| now.duration_since(intent.at) <= KEPT);
    }

    /// What was read counts for the intents; for what was spent, whatever either knows.
    pub(super) fn reread(&mut self, read: Self) {
        self.limits.merge(&read.limits);
        self.intents = read.intents;
    }

    /// Adds what another page holds.
    pub(super) fn add(&mut self, page: Self) {
        self.limits.merge(&page.limits);
        self.intents.extend(page.intents);
    }

    /// The part that belongs on a page.
    pub(super) fn part(&self, belongs: impl Fn(&str) -> bool) -> Self {
        let intents = self.intents.iter().filter(|(name, _)| belongs(name));
        Self {
            limits: self.limits.part(&belongs),
            intents: intents.map(|(k, v)| (k.clone(), v.clone())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use evercert_core::fault::{FaultClass, Problem};

    use super::*;

    const DAY: i64 = 86_400;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn line(certificate: &str, seconds: i64, what: What) -> Entry {
        Entry {
            certificate: certificate.into(),
            at: at(seconds),
            what,
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn order(wanted: &[&str]) -> What {
        What::Order(NewOrder {
            account: "https://ca.example/acct/1".into(),
            names: names(wanted),
            urgent: false,
            replaces: false,
            asked_anew: false,
        })
    }

    fn enter(book: &mut Book, entry: &Entry) -> bool {
        book.tick(&Model::lets_encrypt(), entry.at);
        book.enter(&Model::lets_encrypt(), entry) == Decision::Granted
    }

    /// Orders of the set in a row until one is refused, each ended by `end`.
    fn how_many(end: Option<&Settlement>) -> usize {
        let mut book = Book::default();
        (0..100)
            .take_while(|i| {
                let placed = enter(&mut book, &line("n/a", i * 60, order(&["a.example"])));
                if let Some(end) = end {
                    let settled = What::Settled(end.clone());
                    enter(&mut book, &line("n/a", i * 60 + 1, settled));
                }
                placed
            })
            .count()
    }

    #[test]
    fn an_order_counts_by_how_it_ended() {
        let none = Vec::new();
        assert_eq!(how_many(None), 4, "nothing is known: spent");
        assert_eq!(how_many(Some(&Settlement::Spent)), 4);
        let issued = Settlement::Issued {
            names: names(&["a.example"]),
            until: at(90 * DAY),
        };
        assert_eq!(how_many(Some(&issued)), 4);
        assert_eq!(how_many(Some(&Settlement::Failed { names: none })), 100);
        let invalid = Settlement::Failed {
            names: names(&["a.example"]),
        };
        assert_eq!(how_many(Some(&invalid)), 3, "the name's own limit");
        assert_eq!(how_many(Some(&Settlement::Unsent)), 100);
    }

    #[test]
    fn a_refusal_for_a_limit_is_learned_and_the_order_costs_nothing_else() {
        let fault = Fault {
            class: FaultClass::RateLimited,
            problem: Some(Problem {
                kind: "rateLimited".into(),
                detail: "too many certificates (50) already issued for \"example.com\" in the last 168h0m0s".into(),
                subproblems: Vec::new(),
            }),
            http_status: Some(429),
            retry_after: Some(at(3600)),
            help_url: None,
            unsent: false,
            detail: String::new(),
        };
        let mut book = Book::default();
        assert!(enter(&mut book, &line("n/a", 0, order(&["a.example.com"]))));
        let refused = Settlement::Refused {
            names: names(&["a.example.com"]),
            fault: Box::new(fault),
        };
        enter(&mut book, &line("n/a", 1, What::Settled(refused)));
        assert!(!enter(
            &mut book,
            &line("n/b", 2, order(&["b.example.com"]))
        ));
        assert!(enter(&mut book, &line("n/c", 2, order(&["c.other.org"]))));
    }

    #[test]
    fn an_intent_goes_when_no_order_can_come_of_it_and_what_it_spent_when_no_limit_looks_back() {
        let mut book = Book::default();
        enter(&mut book, &line("n/a", 0, order(&["a.example"])));
        enter(&mut book, &line("n/b", DAY, order(&["b.example"])));
        assert_eq!(book.intents.len(), 2);
        enter(&mut book, &line("n/c", 9 * DAY - 1, order(&["c.example"])));
        assert_eq!(book.intents.keys().collect::<Vec<_>>(), ["n/b", "n/c"]);
        enter(
            &mut book,
            &line("n/c", 9 * DAY - 1, What::Settled(Settlement::Spent)),
        );
        assert_eq!(book.intents.keys().collect::<Vec<_>>(), ["n/b"]);
    }

    #[test]
    fn parts_make_the_whole_again() {
        let mut book = Book::default();
        for i in 0..100 {
            enter(
                &mut book,
                &line(&format!("n/{i}"), i, order(&[&format!("n{i}.example")])),
            );
        }
        let is_even = |name: &str| evercert_api::children::stable_hash(&[name]).is_multiple_of(2);
        let mut whole = book.part(is_even);
        assert!(whole != book && !whole.intents.is_empty());
        whole.add(book.part(|name| !is_even(name)));
        assert_eq!(whole, book);
    }
}
