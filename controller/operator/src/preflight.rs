//! Looks at DNS for Certificates whose order is near. In the background, so that no pass waits for a look; who is looked at is
//! woken when there is news. Answers are kept for seconds, in memory only.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evercert_api::Certificate;
use evercert_core::caa::Signing;
use evercert_core::key::ObjectKey;
use evercert_core::preflight::{FRESH, Preflight, Trouble, find_strangers, find_wrong};
use evercert_core::routes::IngressIndex;
use evercert_probe::{Dns, is_public};
use futures::channel::mpsc::UnboundedSender;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::choice::METHOD;
use crate::context::reference;
use crate::issuer::{Session, Signer};

/// How many Certificates are looked at at the same time.
const AT_ONCE: usize = 64;
/// How many wait to be looked at or are being looked at. Where DNS is silent a look takes seconds: who comes when so many are
/// before it is not looked at, and its order is not held back.
const MOST: usize = 512;
/// An answer younger than this is not asked for again.
const RECENT: SignedDuration = SignedDuration::from_secs(20);

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// The names, each with the addresses of its Ingress.
    names: Vec<(String, Vec<IpAddr>)>,
    account: String,
    identities: Vec<String>,
    /// A name that must be there: the CA's.
    control: Option<String>,
}

impl Question {
    /// For the names of `certificate`; `None` where no CA looks at DNS.
    pub(crate) fn of(
        certificate: &Certificate,
        session: Option<&Session>,
        index: Option<&IngressIndex>,
        sources: &BTreeMap<String, String>,
    ) -> Option<Self> {
        let session = session?;
        let Signer::Acme { acme, directory } = &session.signer else {
            return None;
        };
        let class = session.ingress_class.as_deref();
        let entry_points = |name: &String| {
            let index = index?;
            let source = sources.get(name).map(String::as_str);
            let class = index.class_for(source, class, name).ok()?;
            Some(index.entry_points(&class, name))
        };
        let url: Option<http::Uri> = directory.url().parse().ok();
        let host = url.as_ref().and_then(http::Uri::host);
        let with_entry_points = |name: String| {
            let wanted = entry_points(&name).unwrap_or_default();
            (name, wanted)
        };
        let names = certificate.spec.names();
        Some(Self {
            names: names.into_iter().map(with_entry_points).collect(),
            account: acme.account_uri().to_owned(),
            identities: directory.caa_identities().to_vec(),
            control: host
                .filter(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().is_err())
                .map(str::to_owned),
        })
    }

    /// One look at all names, all at once.
    async fn ask(&self, dns: &Dns) -> Vec<Trouble> {
        let signing = Signing {
            identities: &self.identities,
            account: Some(&self.account),
            method: METHOD,
        };
        let looks = self.names.iter().map(|(name, wanted)| {
            let (signing, control) = (&signing, self.control.as_deref());
            async move {
                let look = dns.look(name, wanted, signing, control).await;
                let strangers = find_strangers(&look, wanted, is_public);
                find_wrong(&look, wanted, &strangers).map(|what| Trouble {
                    name: name.clone(),
                    what,
                })
            }
        });
        join_all(looks).await.into_iter().flatten().collect()
    }
}

struct Look {
    question: Question,
    asked_at: Timestamp,
    /// The last one; at most one is under way.
    task: Option<AbortHandle>,
    seen: Option<(Timestamp, Vec<Trouble>)>,
    /// Whether an order waits for its end.
    awaited: bool,
}

impl Look {
    fn is_running(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }
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
pub(crate) struct Preflights {
    dns: Option<Dns>,
    looks: Arc<Mutex<HashMap<ObjectKey, Look>>>,
    room: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    wake: UnboundedSender<ObjectRef<Certificate>>,
}

impl Preflights {
    /// Looks by `dns`, and wakes by `wake`.
    pub(crate) fn new(dns: Option<Dns>, wake: UnboundedSender<ObjectRef<Certificate>>) -> Self {
        Self {
            dns,
            looks: Arc::default(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            queue: Arc::new(Semaphore::new(MOST)),
            wake,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known; begins a look where that is not recent. Waits for nothing. What was wrong counts until it is seen again.
    pub(crate) fn observe(&self, key: &ObjectKey, question: Question, now: Timestamp) -> Preflight {
        let Some(dns) = &self.dns else {
            return Preflight::Unasked;
        };
        let mut looks = self.lock();
        if looks.get(key).is_some_and(|look| look.question != question) {
            looks.remove(key);
        }
        let age = |at: Timestamp| now.duration_since(at);
        let look = looks.entry(key.clone()).or_insert_with(|| Look {
            question: question.clone(),
            asked_at: now,
            task: None,
            seen: None,
            awaited: false,
        });
        let is_recent = look.seen.as_ref().is_some_and(|(at, _)| age(*at) < RECENT);
        if !is_recent
            && !look.is_running()
            && let Ok(place) = self.queue.clone().try_acquire_owned()
        {
            let this = self.clone();
            let (dns, key) = (dns.clone(), key.clone());
            let task = tokio::spawn(async move {
                let _place = place;
                this.look(&dns, &key, question).await;
            });
            (look.asked_at, look.task) = (now, Some(task.abort_handle()));
        }
        match &look.seen {
            Some((at, troubles)) if age(*at) < FRESH || !troubles.is_empty() => {
                Preflight::Seen(troubles.clone())
            }
            Some(_) | None if look.is_running() => Preflight::Looking {
                since: look.asked_at,
            },
            Some(_) | None => Preflight::Unasked,
        }
    }

    /// Wakes `key` when the look at its names has ended, whatever it finds.
    pub(crate) fn wake_at_end(&self, key: &ObjectKey) {
        let mut looks = self.lock();
        match looks.get_mut(key).filter(|look| look.is_running()) {
            Some(look) => look.awaited = true,
            None => self.wake(key),
        }
    }

    fn wake(&self, key: &ObjectKey) {
        // A closed channel means that the operator is stopping.
        let _ = self.wake.unbounded_send(reference(key));
    }

    async fn look(&self, dns: &Dns, key: &ObjectKey, question: Question) {
        // Nobody closes it.
        let _room = self.room.acquire().await.ok();
        let troubles = question.ask(dns).await;
        let mut looks = self.lock();
        let Some(look) = looks.get_mut(key).filter(|l| l.question == question) else {
            return;
        };
        let before = look.seen.take().map(|(_, troubles)| troubles);
        // Where nothing is wrong nobody was held back.
        let is_news = before.unwrap_or_default() != troubles;
        look.seen = Some((Timestamp::now(), troubles));
        // It has ended but for this: whoever is woken by it may begin another one.
        look.task = None;
        let is_awaited = std::mem::take(&mut look.awaited);
        drop(looks);
        if is_news || is_awaited {
            self.wake(key);
        }
    }

    /// Nothing is known any more: no order is near.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.lock().remove(key);
    }
}

#[cfg(test)]
mod tests;
