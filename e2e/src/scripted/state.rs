//! Everything that a CA knows. It changes under one lock, one request at a time, and nothing in here waits.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::endpoint::Resource;
use super::identifier::Identifier;
use super::issue::Hierarchy;
use super::journal::{Entry, Journal};
use super::jws::AccountKey;
use super::limits::Buckets;
use super::problem::Problem;
use super::script::Play;
use super::settings::{Profile, Settings};
use super::validate::Job;

pub(super) struct State {
    /// Scheme, host and port of every URL.
    pub(super) base: String,
    pub(super) settings: Settings,
    pub(super) play: Play,
    pub(super) hierarchy: Hierarchy,
    pub(super) journal: Journal,
    pub(super) made: Made,
    pub(super) nonces: BTreeSet<String>,
    pub(super) accounts: BTreeMap<u64, Account>,
    pub(super) orders: BTreeMap<u64, Order>,
    pub(super) authorizations: BTreeMap<u64, Authorization>,
    pub(super) certificates: BTreeMap<u64, Certificate>,
    /// Key ids of external accounts, with the accounts that they were bound to.
    pub(super) bound: BTreeMap<String, u64>,
    pub(super) buckets: Buckets,
    /// Account and name.
    pub(super) paused: BTreeSet<(u64, String)>,
    /// Validations that are to begin.
    pub(super) jobs: Vec<Job>,
    /// Validations that the script holds back.
    pub(super) held: Vec<Job>,
    /// Numbers are never used again, so that what is forgotten is not found again as something else.
    last_number: u64,
}

/// How many it made, forgotten ones among them.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) accounts: usize,
    pub(super) orders: usize,
    /// Authorizations that a validation made valid.
    pub(super) validated: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) key: AccountKey,
    pub(super) deactivated: bool,
    pub(super) contact: Vec<String>,
    /// The terms that it agreed to.
    pub(super) agreed: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) account: u64,
    pub(super) state: OrderState,
    pub(super) identifiers: Vec<Identifier>,
    pub(super) authorizations: Vec<u64>,
    pub(super) expires: Timestamp,
    /// As the client named it.
    pub(super) profile: Option<String>,
    /// The identifier of the certificate that it replaces (RFC 9773 §5).
    pub(super) replaces: Option<String>,
    /// The validity that the client asked for.
    pub(super) validity: (Option<Timestamp>, Option<Timestamp>),
    pub(super) error: Option<Problem>,
    pub(super) request: Vec<u8>,
    pub(super) certificate: Option<u64>,
}

/// RFC 8555 §7.1.6.
///
/// ```text
/// pending ── every authorization valid ──► ready ── finalize ──► processing ──► valid
///    └── one of them ended, or expired ───►──┴────────► invalid ◄──────┘ (refused at last)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OrderState {
    Pending,
    Ready,
    /// Until then; without an instant until the script says so.
    Processing(Option<Timestamp>),
    Valid,
    Invalid,
}

#[derive(Debug, Clone)]
pub(super) struct Authorization {
    pub(super) account: u64,
    /// Never a wildcard: that is `wildcard`.
    pub(super) identifier: Identifier,
    pub(super) wildcard: bool,
    pub(super) state: AuthorizationState,
    pub(super) expires: Timestamp,
    /// How long it may serve when it is valid.
    pub(super) lifetime: SignedDuration,
    pub(super) challenges: Vec<Challenge>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthorizationState {
    Pending,
    Valid,
    Invalid,
    Deactivated,
    Expired,
}

#[derive(Debug, Clone)]
pub(super) struct Challenge {
    pub(super) kind: String,
    pub(super) token: String,
    pub(super) state: ChallengeState,
    pub(super) error: Option<Problem>,
    pub(super) validated: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChallengeState {
    Pending,
    Processing,
    Valid,
    Invalid,
}

#[derive(Debug, Clone)]
pub(super) struct Certificate {
    pub(super) account: u64,
    pub(super) identifiers: Vec<Identifier>,
    pub(super) der: Vec<u8>,
    /// The point of its key, for revocation by it.
    pub(super) public_key: Vec<u8>,
    /// PEM, leaf first, without the root: the default chain and then the alternates.
    pub(super) chains: Vec<String>,
    /// RFC 9773 §4.1.
    pub(super) renewal_id: String,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) revoked: Option<u64>,
}

impl State {
    pub(super) fn new(base: String, settings: Settings, hierarchy: Hierarchy) -> Self {
        Self {
            base,
            play: Play::new(&settings),
            settings,
            hierarchy,
            journal: Journal::default(),
            made: Made::default(),
            nonces: BTreeSet::new(),
            accounts: BTreeMap::new(),
            orders: BTreeMap::new(),
            authorizations: BTreeMap::new(),
            certificates: BTreeMap::new(),
            bound: BTreeMap::new(),
            buckets: Buckets::default(),
            paused: BTreeSet::new(),
            jobs: Vec::new(),
            held: Vec::new(),
            last_number: 0,
        }
    }

    /// The CA's own clock.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::now() + self.play.clock_ahead
    }

    pub(super) fn url(&self, resource: &Resource) -> String {
        format!("{}{}", self.base, resource.path())
    }

    pub(super) fn account_url(&self, id: u64) -> String {
        self.url(&Resource::Account(id))
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn profile_of(&self, order: &Order) -> Profile {
        let named = order.profile.as_ref();
        named
            .and_then(|name| self.settings.profiles.get(name))
            .unwrap_or(&self.settings.default_profile)
            .clone()
    }

    /// Writes down what the CA does of itself.
    pub(super) fn note(&mut self, account: u64, names: &[String], note: impl Into<String>) {
        let entry = Entry {
            at: self.now(),
            endpoint: None,
            account: Some(self.account_url(account)),
            names: names.to_vec(),
            status: None,
            problem: None,
            note: note.into(),
        };
        self.journal.push(entry);
    }

    /// The names that a resource concerns.
    pub(super) fn names_of(&self, resource: &Resource) -> Vec<String> {
        let identifiers = match resource {
            Resource::Order(id) | Resource::Finalize(id) => {
                self.orders.get(id).map(|order| &order.identifiers)
            }
            Resource::Authorization(id) | Resource::Challenge(id, _) => {
                let authorization = self.authorizations.get(id);
                return authorization
                    .map(|authorization| vec![authorization.identifier.value.clone()])
                    .unwrap_or_default();
            }
            Resource::Certificate(id, _) => self.certificates.get(id).map(|c| &c.identifiers),
            Resource::RenewalInfo(id) => self.certificate_by(id).map(|(_, c)| &c.identifiers),
            Resource::Directory
            | Resource::NewNonce
            | Resource::NewAccount
            | Resource::Account(_)
            | Resource::NewOrder
            | Resource::KeyChange
            | Resource::RevokeCert
            | Resource::Elsewhere => None,
        };
        values(identifiers.map_or(&[], Vec::as_slice))
    }

    pub(super) fn certificate_by(&self, renewal_id: &str) -> Option<(u64, &Certificate)> {
        let mut all = self.certificates.iter();
        let found = all.find(|(_, certificate)| certificate.renewal_id == renewal_id);
        found.map(|(id, certificate)| (*id, certificate))
    }
}

impl Order {
    /// Whether it is valid, or may yet be.
    pub(super) fn may_come_to_something(&self, now: Timestamp) -> bool {
        match self.state {
            OrderState::Pending | OrderState::Ready => self.expires > now,
            OrderState::Processing(_) | OrderState::Valid => true,
            OrderState::Invalid => false,
        }
    }
}

pub(super) fn values(identifiers: &[Identifier]) -> Vec<String> {
    identifiers.iter().map(|i| i.value.clone()).collect()
}
