//! Sessions: what Certificates order with, one for each issuer, made by the issuer's own loop.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use evercert_acme::{Acme, Directory};
use evercert_api::Reason;
use evercert_api::issuer::{Placement, PolicyRule};
use evercert_core::fault::Fault;
use evercert_core::observe::{CHECKING_ACCOUNT, IssuerFacts, IssuerObservation};
use evercert_core::reach::SelfCheck;
use evercert_core::sentence::build_fault;
use jiff::Timestamp;

use super::object::{IssuerId, IssuerObject};
use super::ready::NotReady;

/// How an issuer signs.
#[derive(Clone)]
pub(crate) enum Signer {
    /// By an account at a CA.
    Acme {
        /// The account.
        acme: Arc<dyn Acme>,
        /// The CA.
        directory: Arc<Directory>,
    },
    /// By the certificate's own key.
    SelfSigned,
    /// Not at all now.
    None {
        /// Why, as one word.
        reason: &'static str,
        /// Why.
        message: String,
    },
}

/// One issuer, ready or not.
#[derive(Clone)]
pub(crate) struct Session {
    /// How it signs.
    pub(crate) signer: Signer,
    /// Who may have which names.
    pub(crate) policy: Vec<PolicyRule>,
    /// The ingress class of its routes, where it names one.
    pub(crate) ingress_class: Option<String>,
    /// How much the self-check counts.
    pub(crate) self_check: SelfCheck,
    /// The annotations that it adds to its routes, those that it may.
    pub(crate) route_annotations: BTreeMap<String, String>,
    /// Whether it wants its routes in the users' own Ingresses, where it says.
    pub(crate) edit_in_place: Option<bool>,
    /// Who it wants behind its routes, where it says.
    pub(crate) placement: Option<Placement>,
    /// The CA's profile that it wants.
    pub(crate) profile: Option<String>,
    /// The root that its certificates should lead to, where it names one.
    pub(crate) preferred_chain: Option<String>,
    /// The directory's URL that its spec names, or [`SELF_SIGNED`](evercert_core::observe::SELF_SIGNED).
    pub(crate) directory: String,
    /// The generation of the spec that it was made from.
    pub(crate) generation: i64,
    /// A hash of all that it was made from: spec, key, bundle.
    pub(crate) fingerprint: u64,
    /// The CA has said that it does not know the account: it is looked up again.
    pub(crate) suspect: bool,
    /// The CA wants a person to act before it hears the account again.
    pub(crate) refused: Option<Box<Fault>>,
    /// The contact that the account has been given.
    pub(crate) contact: Option<String>,
    /// It was made from a Secret that no watch covers, which is to be read again soon.
    pub(crate) unwatched: bool,
    /// What a person should know of it all the same.
    pub(crate) note: Option<(Reason, String)>,
    /// While it is not ready: what the CA was asked with, and until when it is not asked the same again.
    pub(crate) held_back: Option<HeldBack>,
}

/// An issuer that is not ready, which asks its CA nothing until an instant, or until what it is made from has changed.
#[derive(Debug, Clone)]
pub(crate) struct HeldBack {
    /// A hash of all that it was made from.
    pub(crate) fingerprint: u64,
    /// Until when.
    pub(crate) until: Timestamp,
    /// Why it is not ready.
    pub(crate) not: NotReady,
}

impl Session {
    /// The session of an issuer that is not ready and is tried again at `until`.
    pub(crate) fn not_ready(object: &IssuerObject, not: &NotReady, until: Timestamp) -> Self {
        Self {
            signer: Signer::None {
                reason: not.reason.as_str(),
                message: not.message.clone(),
            },
            policy: object.policy.clone(),
            ingress_class: object.ingress_class(),
            self_check: object.self_check(),
            route_annotations: BTreeMap::new(),
            edit_in_place: None,
            placement: None,
            profile: object.profile(),
            preferred_chain: object.preferred_chain(),
            directory: object.directory().to_owned(),
            generation: object.generation,
            fingerprint: 0,
            suspect: false,
            refused: None,
            contact: None,
            unwatched: not.unwatched,
            note: None,
            held_back: not.asked.map(|fingerprint| HeldBack {
                fingerprint,
                until,
                not: not.clone(),
            }),
        }
    }

    /// Whether a Certificate that saw `self` would see nothing new in `other`.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let same_signer = match (&self.signer, &other.signer) {
            (Signer::Acme { acme: a, .. }, Signer::Acme { acme: b, .. }) => Arc::ptr_eq(a, b),
            (Signer::SelfSigned, Signer::SelfSigned) => true,
            (
                Signer::None {
                    reason: a,
                    message: x,
                },
                Signer::None {
                    reason: b,
                    message: y,
                },
            ) => a == b && x == y,
            (Signer::Acme { .. } | Signer::SelfSigned | Signer::None { .. }, _) => false,
        };
        same_signer && self.generation == other.generation
    }

    /// The account's URL and its directory's, where it signs by an account.
    pub(crate) fn account(&self) -> Option<(&str, &str)> {
        match &self.signer {
            Signer::Acme { acme, directory } => Some((acme.account_uri(), directory.url())),
            Signer::SelfSigned | Signer::None { .. } => None,
        }
    }

    /// What a Certificate's plan is made from.
    pub(crate) fn observe(&self, id: &IssuerId) -> IssuerObservation {
        let directory = match &self.signer {
            Signer::Acme { directory, .. } => Some(directory),
            Signer::SelfSigned | Signer::None { .. } => None,
        };
        let facts = IssuerFacts {
            id: id.to_string(),
            directory: self.directory.clone(),
            generation: self.generation,
            renewal_info: directory.is_some_and(|d| d.offers_renewal_info()),
            profiles: directory.map(|d| d.profiles()).unwrap_or_default(),
            profile: self.profile.clone(),
        };
        if let Some(fault) = &self.refused {
            return IssuerObservation::NotReady {
                facts: Some(facts),
                reason: Reason::UserActionRequired.as_str().to_owned(),
                message: build_fault(fault),
            };
        }
        if self.suspect {
            return IssuerObservation::NotReady {
                facts: Some(facts),
                reason: CHECKING_ACCOUNT.to_owned(),
                message: "the CA refused the account; it is looked up there, and registered again with the same key if the CA has \
                          forgotten it"
                    .to_owned(),
            };
        }
        match &self.signer {
            Signer::Acme { .. } | Signer::SelfSigned => IssuerObservation::Ready(facts),
            Signer::None { reason, message } => IssuerObservation::NotReady {
                reason: (*reason).to_owned(),
                message: message.clone(),
                facts: Some(facts),
            },
        }
    }
}

/// An account's key as it was last seen in its Secret, so that a Secret that is deleted can be put back.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HeldKey {
    /// The Secret's name.
    pub(crate) secret: String,
    /// The key, PEM.
    pub(crate) pem: Vec<u8>,
    /// The next key, PEM, while it is not known whether the CA has taken it.
    pub(crate) next: Option<Vec<u8>>,
    /// The value for which it was last replaced.
    pub(crate) rotation: Option<String>,
    /// The account that it replaced.
    pub(crate) replaces: Option<String>,
}

/// The sessions of all issuers, and their accounts' keys.
#[derive(Default)]
pub(crate) struct Sessions {
    sessions: RwLock<HashMap<IssuerId, Session>>,
    keys: RwLock<HashMap<IssuerId, HeldKey>>,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// The session of `id`.
    pub(crate) fn get(&self, id: &IssuerId) -> Option<Session> {
        read(&self.sessions).get(id).cloned()
    }

    /// The accounts that sessions order with, each with its directory's URL.
    pub(crate) fn accounts(&self) -> Vec<(String, String)> {
        let sessions = read(&self.sessions);
        let accounts = sessions.values().filter_map(Session::account);
        accounts
            .map(|(account, directory)| (account.to_owned(), directory.to_owned()))
            .collect()
    }

    /// The issuers with an account at `directory`.
    pub(crate) fn at(&self, directory: &str) -> Vec<IssuerId> {
        let sessions = read(&self.sessions);
        let there = sessions
            .iter()
            .filter(|(_, s)| s.account().is_some_and(|(_, of)| of == directory));
        there.map(|(id, _)| id.clone()).collect()
    }

    /// Replaces the session of `id`.
    pub(crate) fn set(&self, id: IssuerId, session: Session) {
        write(&self.sessions).insert(id, session);
    }

    /// Forgets the session of `id`, and its account's key.
    pub(crate) fn remove(&self, id: &IssuerId) {
        write(&self.sessions).remove(id);
        write(&self.keys).remove(id);
    }

    /// The session of another issuer that was made from the very same: spec, key, bundle.
    pub(crate) fn find_like(&self, id: &IssuerId, fingerprint: u64) -> Option<Session> {
        let sessions = read(&self.sessions);
        let other = sessions.iter().find(|(other, session)| {
            *other != id
                && session.fingerprint == fingerprint
                && session.account().is_some()
                && !session.suspect
                && session.refused.is_none()
        });
        other.map(|(_, session)| session.clone())
    }

    /// The CA refused `account`: if it still is the one of `id`, it is looked up again at the next pass of each issuer that has it;
    /// gives these. Without an account, the one that `id` has.
    pub(crate) fn suspect(&self, id: &IssuerId, account: Option<&Arc<dyn Acme>>) -> Vec<IssuerId> {
        self.change_account(id, account, |session| session.suspect = true)
    }

    /// Has `account`, if it still is the one of `id`, wait for a person, who has to do what `fault` says; gives the issuers that
    /// have it.
    pub(crate) fn refuse(
        &self,
        id: &IssuerId,
        account: &Arc<dyn Acme>,
        fault: &Fault,
    ) -> Vec<IssuerId> {
        self.change_account(id, Some(account), |session| {
            session.refused = Some(Box::new(fault.clone()));
        })
    }

    fn change_account(
        &self,
        id: &IssuerId,
        account: Option<&Arc<dyn Acme>>,
        change: impl Fn(&mut Session),
    ) -> Vec<IssuerId> {
        let mut sessions = write(&self.sessions);
        let present = match sessions.get(id).map(|session| &session.signer) {
            Some(Signer::Acme { acme, .. }) => Some(acme),
            Some(Signer::SelfSigned | Signer::None { .. }) | None => None,
        };
        let present = present.filter(|own| account.is_none_or(|account| Arc::ptr_eq(own, account)));
        let Some(account) = present.map(|own| own.account_uri().to_owned()) else {
            return vec![id.clone()];
        };
        let sharing = sessions
            .iter_mut()
            .filter(|(_, session)| session.account().is_some_and(|(other, _)| other == account));
        sharing
            .map(|(id, session)| {
                change(session);
                id.clone()
            })
            .collect()
    }

    /// The account's key of `id`, as last seen.
    pub(crate) fn key(&self, id: &IssuerId) -> Option<HeldKey> {
        read(&self.keys).get(id).cloned()
    }

    /// Keeps the account's key of `id`.
    pub(crate) fn hold_key(&self, id: &IssuerId, key: HeldKey) {
        write(&self.keys).insert(id.clone(), key);
    }
}
