//! Looks at what entry points really present, in the background: until it is the certificate in the Secret, or for a bounded
//! time, and once more before a renewal. No pass waits for it; who is looked at is woken when there is news. What is known is in
//! memory and in the condition: a certificate that is known to be served is not looked at again by a new process.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evercert_api::condition::{self, SERVED};
use evercert_api::{Certificate, Reason};
use evercert_core::facts::CertificateFacts;
use evercert_core::key::ObjectKey;
use evercert_core::observe::Observed;
use evercert_core::served::{
    Presented, SETTLES, Served, WATCHED, find_server_name, is_renewal_near, judge,
};
use evercert_probe::find_leaf;
use futures::channel::mpsc::UnboundedSender;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::context::{Context, key_of, reference};
use crate::follow::mark_ingresses;
use crate::gather::{Gathered, find_sources};
use crate::issuer::{IssuerId, Session};

/// How many looks there are at the same time.
const AT_ONCE: usize = 32;
/// How many Certificates are looked at until they are fresh; who comes when there are so many is looked at in a later pass.
const MOST: usize = 512;
/// Names of a Certificate that are asked for, and addresses of each.
const NAMES: usize = 4;
const ADDRESSES: usize = 2;
/// The pace of looks: it doubles from one to the other.
const FIRST: Duration = Duration::from_millis(250);
const SLOWEST: Duration = Duration::from_secs(30);

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    certificate: CertificateFacts,
    /// Each with its entry points.
    names: Vec<(String, Vec<IpAddr>)>,
    /// Whether it is the look before the renewal.
    is_last: bool,
    /// Of the Ingresses that cover the names.
    mark: Option<String>,
}

/// The names of a Certificate that are asked for, each with its entry points; `None` where nothing is known of Ingresses yet.
fn find_entry_points(
    certificate: &Certificate,
    session: Option<&Session>,
    context: &Context,
) -> Option<Vec<(String, Vec<IpAddr>)>> {
    let index = context.projections.index()?;
    let sources = find_sources(certificate, context);
    let class = session.and_then(|s| s.ingress_class.as_deref());
    let with_entry_points = |name: String| {
        let source = sources.get(&name).map(String::as_str);
        let class = index.class_for(source, class, &name);
        let mut found = class.map_or_else(|_| Vec::new(), |c| index.entry_points(&c, &name));
        if let Ok(address) = name.parse::<IpAddr>() {
            // It is asked for at itself, where that is an entry point.
            found.retain(|at| *at == address);
        }
        found.truncate(ADDRESSES);
        (name, found)
    };
    let names = certificate.spec.names().into_iter().take(NAMES);
    Some(names.map(with_entry_points).collect())
}

impl Question {
    /// About the certificate in the Secret; `None` where there is none.
    fn of(gathered: &Gathered, context: &Context, now: Timestamp) -> Option<Self> {
        let issued = gathered.observed.issued()?.clone();
        let session = gathered.session.as_ref();
        let names = find_entry_points(&gathered.certificate, session, context)?;
        Some(Self {
            certificate: issued,
            names,
            is_last: is_renewal_near(&gathered.observed, now),
            mark: gathered.observed.ingresses.clone(),
        })
    }

    fn has_entry_point(&self) -> bool {
        self.names.iter().any(|(_, found)| !found.is_empty())
    }

    async fn ask(&self) -> Served {
        let looks = self.names.iter().flat_map(|(name, found)| {
            let asked = find_server_name(name);
            found.iter().map(move |address| {
                let asked = asked.clone();
                async move {
                    let leaf = find_leaf((*address, 443).into(), &asked).await;
                    Presented {
                        name: asked,
                        address: *address,
                        leaf: leaf.as_deref().and_then(evercert_pki::read_der),
                    }
                }
            })
        });
        judge(&self.certificate, &join_all(looks).await)
    }
}

struct Look {
    question: Question,
    /// Whether it was fresh by other Ingresses than those of the question.
    was_fresh: bool,
    since: Timestamp,
    /// The last one; at most one is under way.
    task: Option<AbortHandle>,
    seen: Option<Served>,
}

impl Drop for Look {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The looks of all Certificates.
#[derive(Clone)]
pub(crate) struct ServedLooks {
    looks: Arc<Mutex<HashMap<ObjectKey, Look>>>,
    /// The Ingresses by which it was last known what is served.
    marks: Arc<Mutex<HashMap<ObjectKey, String>>>,
    room: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    wake: UnboundedSender<ObjectRef<Certificate>>,
}

impl ServedLooks {
    /// They wake by `wake`.
    pub(crate) fn new(wake: UnboundedSender<ObjectRef<Certificate>>) -> Self {
        Self {
            looks: Arc::default(),
            marks: Arc::default(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            queue: Arc::new(Semaphore::new(MOST)),
            wake,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.lock().remove(key);
        self.marks().remove(key);
    }

    fn marks(&self) -> MutexGuard<'_, HashMap<ObjectKey, String>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the Ingresses of `key` are others than those by which it was known what is served. A new process takes them as they are.
    fn has_other_ingresses(&self, key: &ObjectKey, mark: &str) -> bool {
        self.marks().get(key).is_some_and(|known| known != mark)
    }

    fn note(&self, key: &ObjectKey, mark: Option<&str>) {
        if let Some(mark) = mark {
            self.marks().insert(key.clone(), mark.to_owned());
        }
    }

    /// What is known; begins to look where that is not enough. Waits for nothing. Whether it was fresh by other Ingresses says
    /// `was_fresh`.
    fn observe(
        &self,
        key: &ObjectKey,
        question: Question,
        was_fresh: bool,
        now: Timestamp,
    ) -> Option<Served> {
        let mut looks = self.lock();
        if !question.has_entry_point() {
            looks.remove(key);
            return Some(Served::NoEntryPoint);
        }
        if looks.get(key).is_some_and(|look| look.question != question) {
            looks.remove(key);
        }
        let look = looks.entry(key.clone()).or_insert_with(|| Look {
            question: question.clone(),
            was_fresh,
            since: now,
            task: None,
            seen: None,
        });
        let is_over = look.seen.is_some() || now.duration_since(look.since) > WATCHED;
        let is_running = look.task.as_ref().is_some_and(|task| !task.is_finished());
        if !is_over
            && !is_running
            && let Ok(place) = self.queue.clone().try_acquire_owned()
        {
            let (this, key) = (self.clone(), key.clone());
            let (was_fresh, since) = (look.was_fresh, look.since);
            let task = tokio::spawn(async move {
                let _place = place;
                this.watch(&key, &question, was_fresh, since).await;
            });
            look.task = Some(task.abort_handle());
        }
        look.seen.clone()
    }

    /// Looks until what is presented is fresh for sure, or its time is over; tells what it saw when that has settled.
    async fn watch(&self, key: &ObjectKey, question: &Question, was_fresh: bool, since: Timestamp) {
        let mut pause = FIRST;
        loop {
            let served = {
                // Nobody closes it.
                let _room = self.room.acquire().await.ok();
                question.ask().await
            };
            let lasted = Timestamp::now().duration_since(since);
            let is_fresh = served == Served::Fresh;
            let is_settled = served.is_settled(lasted, was_fresh);
            if is_settled {
                self.tell(key, question, served);
            }
            if (is_fresh && is_settled) || lasted >= WATCHED {
                return;
            }
            sleep(find_pause(pause, lasted)).await;
            pause = (pause * 2).min(SLOWEST);
        }
    }

    fn tell(&self, key: &ObjectKey, question: &Question, served: Served) {
        let mut looks = self.lock();
        let Some(look) = looks.get_mut(key).filter(|l| l.question == *question) else {
            return;
        };
        let is_news = look.seen.as_ref() != Some(&served);
        look.seen = Some(served);
        drop(looks);
        if is_news {
            self.wake(key);
        }
    }

    fn wake(&self, key: &ObjectKey) {
        // A closed channel means that the operator is stopping.
        let _ = self.wake.unbounded_send(reference(key));
    }
}

/// `pace`, but the look at the moment when what is seen counts is not missed.
fn find_pause(pace: Duration, lasted: SignedDuration) -> Duration {
    match Duration::try_from(SETTLES - lasted) {
        Ok(left) if !left.is_zero() => pace.min(left),
        _ => pace,
    }
}

/// Whether the condition says already that this very certificate is served.
fn is_told_fresh(o: &Observed) -> bool {
    let told = condition::find(&o.status.conditions, SERVED);
    let is_told =
        |serial: &str| told.is_some_and(|c| c.status == "True" && c.message.ends_with(serial));
    o.issued().is_some_and(|issued| is_told(&issued.serial))
}

/// What the entry point presents, as far as it is known; `None` while it is not.
pub(crate) fn observe_served(
    gathered: &Gathered,
    context: &Context,
    now: Timestamp,
) -> Option<Served> {
    let o = &gathered.observed;
    let served = &context.served;
    let mark = o.ingresses.as_deref();
    let is_moved = mark.is_some_and(|mark| served.has_other_ingresses(&o.key, mark));
    let is_fresh = is_told_fresh(o);
    if is_fresh && !is_moved && !is_renewal_near(o, now) {
        served.lock().remove(&o.key);
        served.note(&o.key, mark);
        return None;
    }
    let Some(question) = Question::of(gathered, context, now) else {
        served.forget(&o.key);
        return None;
    };
    let seen = served.observe(&o.key, question, is_fresh && is_moved, now);
    if seen.is_some() {
        served.note(&o.key, mark);
    }
    seen
}

/// Wakes the Certificates of which it is said what is served, when an Ingress that covers their names is another one; and those that
/// had no entry point, when one is there: load balancers take minutes to get an address.
pub(crate) async fn wake_unserved(context: Arc<Context>) {
    let mut indexes = context.projections.indexes();
    loop {
        let index = indexes.borrow_and_update().clone();
        for certificate in context.certificates.state() {
            let status = certificate.status.as_ref();
            let conditions = status.map_or(&[][..], |status| &status.conditions);
            let Some(told) = condition::find(conditions, SERVED) else {
                continue;
            };
            let key = key_of(&certificate);
            let is_moved = index.as_ref().is_some_and(|index| {
                let mark = mark_ingresses(index, &certificate.spec);
                context.served.has_other_ingresses(&key, &mark)
            });
            let is_homeless = told.reason == Reason::NoEntryPoint.as_str();
            if is_moved || (is_homeless && has_entry_point(&certificate, &key, &context)) {
                context.wake(&key);
            }
        }
        if indexes.changed().await.is_err() {
            return;
        }
    }
}

fn has_entry_point(certificate: &Certificate, key: &ObjectKey, context: &Context) -> bool {
    let issuer = IssuerId::of(&certificate.spec.issuer_ref, &key.namespace);
    let session = context.sessions.get(&issuer);
    let found = find_entry_points(certificate, session.as_ref(), context);
    found.is_some_and(|found| found.iter().any(|(_, at)| !at.is_empty()))
}
