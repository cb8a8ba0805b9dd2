//! The ledger: what was asked of each CA, kept in the operator's namespace, so that nothing that is restarted or made anew
//! forgets what was spent (design §6). An order is entered, by a conditional write, before it is placed; whoever waits
//! meanwhile shares the write. What limits there are, and what is left of them, is decided in `core::limits`.

mod book;
mod queue;
mod store;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evercert_core::key::ObjectKey;
use evercert_core::lanes::Candidate;
use evercert_core::limits::{Budget, Decision, Denial, Model, NewOrder, Telling, plan_telling};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub(crate) use self::book::Settlement;
use self::book::{Book, Entry, What, name_of};
use self::queue::{Place, Queue};
use self::store::{Pages, read_all};
use crate::apply::ApplyError;
use crate::issuer::IssuerId;

/// The shortest time between two writes of one directory's ledger: what comes meanwhile shares the next.
const PACE: Duration = Duration::from_millis(200);
/// How long a line waits that nobody waits for, for a write that it can share.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long an order that another process is about to place keeps this one from placing one for the same Certificate: by then the
/// status tells of it, or this process has found that it does not lead.
const ANOTHERS: SignedDuration = SignedDuration::from_mins(1);
/// How often buckets are looked through for what has passed.
const TICK: SignedDuration = SignedDuration::from_secs(1);

/// Why an order could not be entered: it may not be placed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LedgerError {
    /// The API server refused the write, or did not answer, or another writer won every time.
    #[error("the ledger cannot be written: {0}")]
    Write(#[source] ApplyError),
    /// The operator is stopping.
    #[error("the ledger is closed: the operator is stopping")]
    Closed,
}

/// A handle on the ledger; cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<Shared>);

struct Shared {
    accounts: Mutex<BTreeMap<String, Account>>,
    queued: Notify,
}

/// One directory's account.
struct Account {
    model: Model,
    /// As it is in the cluster, as far as this process knows.
    written: Book,
    /// The same with what waits to be written.
    current: Book,
    waiting: Vec<Waiting>,
    /// When what waits is written.
    due: Option<Instant>,
    last_write: Option<Instant>,
    ticked: Option<Timestamp>,
    /// Certificates with an intent that a run before this one left behind.
    left_behind: BTreeSet<String>,
    /// Certificates with an intent that this process entered.
    own: BTreeSet<String>,
    queue: Queue,
    /// What each issuer was told of its account's budget.
    told: BTreeMap<Listener, Told>,
}

/// Who is told of a budget: an issuer, of this account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listener {
    pub(crate) issuer: IssuerId,
    pub(crate) account: String,
}

/// What was told, and when.
struct Told {
    budget: Budget,
    at: Timestamp,
    /// Whether it was woken since, to be told again.
    woken: bool,
}

/// A line that waits to be written.
struct Waiting {
    entry: Entry,
    /// Who wants to know.
    done: Option<oneshot::Sender<Result<Decision, LedgerError>>>,
}

impl LedgerError {
    fn anothers() -> Self {
        let why = "another process is about to place an order for it";
        Self::Write(ApplyError::Conflict(why.to_owned()))
    }
}

impl Ledger {
    /// Reads what earlier runs wrote, and starts the one writer.
    ///
    /// # Errors
    /// When the ConfigMaps cannot be listed: without them nothing may be ordered.
    pub(crate) async fn open(client: Client, namespace: &str) -> Result<Self, ApplyError> {
        let api: Api<ConfigMap> = Api::namespaced(client, namespace);
        let mut pages: BTreeMap<String, Pages> = BTreeMap::new();
        let mut accounts = BTreeMap::new();
        for (directory, (of_directory, book)) in read_all(&api).await? {
            let mut account = Account::new(&directory);
            account.left_behind = book.intents.keys().cloned().collect();
            account.adopt(book);
            accounts.insert(directory.clone(), account);
            pages.insert(directory, of_directory);
        }
        let shared = Arc::new(Shared {
            accounts: Mutex::new(accounts),
            queued: Notify::new(),
        });
        // Ends with the last handle.
        tokio::spawn(write::write_all(
            Arc::downgrade(&shared),
            api,
            namespace.to_owned(),
            pages,
        ));
        Ok(Self(shared))
    }

    /// The last intent for `certificate` at `directory` that a run before this one entered, if nothing is known of it.
    pub(crate) fn intent(&self, directory: &str, certificate: &ObjectKey) -> Option<Timestamp> {
        let accounts = self.0.lock();
        let account = accounts.get(directory)?;
        let name = name_of(certificate);
        account.left_behind.get(&name)?;
        account.current.intents.get(&name).map(|intent| intent.at)
    }

    /// Whether an order of `candidate` could be placed at `now`; it is behind those that wait already, and come before it.
    /// Asks nobody.
    pub(crate) fn decide(
        &self,
        directory: &str,
        order: &NewOrder,
        candidate: &Candidate,
        now: Timestamp,
    ) -> Option<Denial> {
        let mut accounts = self.0.lock();
        let account = accounts
            .entry(directory.to_owned())
            .or_insert_with(|| Account::new(directory));
        account.tick(now);
        let ahead = account
            .queue
            .ahead(&order.account, &Place::of(candidate), now);
        match account
            .current
            .limits
            .decide(&account.model, order, ahead, now)
        {
            Decision::Granted => None,
            Decision::NotBefore(denial) => Some(denial),
        }
    }

    /// Whether an order for exactly `names` has led to a certificate before, as far as the ledger looks back.
    pub(crate) fn was_issued(&self, directory: &str, names: &[String]) -> bool {
        let accounts = self.0.lock();
        accounts
            .get(directory)
            .is_some_and(|account| account.current.limits.was_issued(names))
    }

    /// `candidate` waits until `until` for a token of `order_account`.
    pub(crate) fn queue(
        &self,
        directory: &str,
        order_account: &str,
        candidate: &Candidate,
        until: Timestamp,
    ) {
        if let Some(account) = self.0.lock().get_mut(directory) {
            account
                .queue
                .join(order_account, Place::of(candidate), until);
        }
    }

    /// `certificate` does not wait for a token any more.
    pub(crate) fn leave(&self, certificate: &ObjectKey) {
        for account in self.0.lock().values_mut() {
            account.queue.leave(certificate);
        }
    }

    /// Enters an order of `certificate`, decided at `now` by all that is known, of other processes too. When this returns
    /// [`Decision::Granted`], it is written, and may be placed.
    ///
    /// # Errors
    /// [`LedgerError`]: nothing may be ordered. It may have been entered all the same, and then counts as spent.
    pub(crate) async fn enter(
        &self,
        directory: &str,
        certificate: &ObjectKey,
        order: NewOrder,
        now: Timestamp,
    ) -> Result<Decision, LedgerError> {
        let (done, result) = oneshot::channel();
        let waiting = Waiting {
            entry: Entry {
                certificate: name_of(certificate),
                at: now,
                what: What::Order(order),
            },
            done: Some(done),
        };
        {
            let mut accounts = self.0.lock();
            let account = accounts
                .entry(directory.to_owned())
                .or_insert_with(|| Account::new(directory));
            let name = name_of(certificate);
            let was_left_behind = account.left_behind.remove(&name);
            if !was_left_behind && account.is_anothers(&name, now) {
                return Err(LedgerError::anothers());
            }
            account.push(waiting, Duration::ZERO);
        }
        self.0.queued.notify_one();
        result.await.map_err(|_| LedgerError::Closed)?
    }

    /// What became of the last intent of `certificate`, if it has one. It counts at once; when this returns, it is written.
    ///
    /// Whoever settles a failure has its record written *before*, else a crash in between would forget the attempt and order
    /// again at once; whoever gives an order up takes it out of the status *after*, else a crash would take it for lost.
    pub(crate) async fn settle(
        &self,
        certificate: &ObjectKey,
        settlement: &Settlement,
        now: Timestamp,
    ) {
        for written in self.queue_settled(certificate, settlement, Duration::ZERO, now) {
            if let Err(error) = written.await.unwrap_or(Err(LedgerError::Closed)) {
                // It is tried again; until then a later run takes the order for lost, and an attempt waits for nothing.
                tracing::warn!(%certificate, %error, "what became of an order is not written");
            }
        }
    }

    /// The same without a hurry: written with a later line, since something else tells a later run what became of it.
    pub(crate) fn settle_later(
        &self,
        certificate: &ObjectKey,
        settlement: &Settlement,
        now: Timestamp,
    ) {
        drop(self.queue_settled(certificate, settlement, PATIENCE, now));
    }

    fn queue_settled(
        &self,
        certificate: &ObjectKey,
        settlement: &Settlement,
        patience: Duration,
        now: Timestamp,
    ) -> Vec<oneshot::Receiver<Result<Decision, LedgerError>>> {
        let name = name_of(certificate);
        let mut answers = Vec::new();
        for account in self.0.lock().values_mut() {
            if !account.current.intents.contains_key(&name) {
                continue;
            }
            account.left_behind.remove(&name);
            account.own.remove(&name);
            let entry = Entry {
                certificate: name.clone(),
                at: now,
                what: What::Settled(settlement.clone()),
            };
            account.current.enter(&account.model, &entry);
            let (done, answer) = oneshot::channel();
            let done = Some(done);
            account.push(Waiting { entry, done }, patience);
            answers.push(answer);
        }
        self.0.queued.notify_one();
        answers
    }

    /// Whether what is left is news for `listener`, who is told as soon as it may be: true once for each time that it was told.
    pub(crate) fn has_news(&self, directory: &str, listener: &Listener, now: Timestamp) -> bool {
        let Some(budget) = self.budget(directory, &listener.account, now) else {
            return false;
        };
        let mut accounts = self.0.lock();
        let told = accounts.get_mut(directory);
        let Some(told) = told.and_then(|account| account.told.get_mut(listener)) else {
            return true;
        };
        let is_news = plan_telling(Some((&told.budget, told.at)), &budget, now) != Telling::Kept;
        is_news && !std::mem::replace(&mut told.woken, true)
    }

    /// What is left for the account of `listener`, and whether it is told now; then it counts as told.
    pub(crate) fn tell_budget(
        &self,
        directory: &str,
        listener: &Listener,
        now: Timestamp,
    ) -> Option<(Budget, Telling)> {
        let budget = self.budget(directory, &listener.account, now)?;
        let mut accounts = self.0.lock();
        let told = &mut accounts.get_mut(directory)?.told;
        let before = told.get(listener).map(|told| (&told.budget, told.at));
        let telling = plan_telling(before, &budget, now);
        match telling {
            Telling::Now => {
                let now_told = Told {
                    budget,
                    at: now,
                    woken: false,
                };
                told.insert(listener.clone(), now_told);
            }
            // What was news is none any more.
            Telling::Kept => {
                if let Some(told) = told.get_mut(listener) {
                    told.woken = false;
                }
            }
            Telling::At(_) => {}
        }
        Some((budget, telling))
    }

    /// What is left for an account; `None` where no limit is known.
    pub(crate) fn budget(
        &self,
        directory: &str,
        order_account: &str,
        now: Timestamp,
    ) -> Option<Budget> {
        let mut accounts = self.0.lock();
        let account = accounts
            .entry(directory.to_owned())
            .or_insert_with(|| Account::new(directory));
        account.tick(now);
        let limits = &account.current.limits;
        limits.budget(&account.model, order_account, now)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Account>> {
        // What is kept here is whole after each statement, so a panic elsewhere leaves nothing half done.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn new(directory: &str) -> Self {
        Self {
            model: Model::of(directory),
            written: Book::default(),
            current: Book::default(),
            waiting: Vec::new(),
            due: None,
            last_write: None,
            ticked: None,
            left_behind: BTreeSet::new(),
            own: BTreeSet::new(),
            queue: Queue::default(),
            told: BTreeMap::new(),
        }
    }

    /// Whether another process entered an order of the Certificate a moment ago, of which nothing more is known.
    fn is_anothers(&self, certificate: &str, now: Timestamp) -> bool {
        let intent = self.current.intents.get(certificate);
        intent.is_some_and(|intent| {
            !self.own.contains(certificate) && now.duration_since(intent.at) < ANOTHERS
        })
    }

    fn push(&mut self, waiting: Waiting, patience: Duration) {
        let now = Instant::now();
        let paced = self.last_write.map_or(now, |at| at + PACE);
        let at = (now + patience).max(paced);
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
        self.waiting.push(waiting);
    }

    /// `book` is in the cluster; what waits is put on top of it.
    fn adopt(&mut self, book: Book) {
        self.current = book.clone();
        self.written = book;
        for waiting in &self.waiting {
            if !matches!(waiting.entry.what, What::Order(_)) {
                self.current.enter(&self.model, &waiting.entry);
            }
        }
        let intents = &self.current.intents;
        self.left_behind.retain(|name| intents.contains_key(name));
    }

    fn tick(&mut self, now: Timestamp) {
        let fresh = |at: &Timestamp| now >= *at && now.duration_since(*at) < TICK;
        if !self.ticked.as_ref().is_some_and(fresh) {
            self.current.tick(&self.model, now);
            self.ticked = Some(now);
        }
    }
}
