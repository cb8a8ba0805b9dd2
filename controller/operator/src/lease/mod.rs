//! The Lease: one of several processes acts, the others stand by (design §2). What to do next about it is decided in
//! `core::lease`; here it is watched, taken, renewed and given up.

mod mandate;
mod object;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::time::Duration;

use evercert_core::lease::{Candidacy, Claim, LeaseStep, Lost, Seen, Uptime, plan_lease};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::time::{sleep, timeout};

use self::mandate::uptime;
pub(crate) use self::mandate::{Mandate, NotLeader};
use self::object::{build_lease, read_record};
use crate::apply::{self, ApplyError};
use crate::config::LeaseConfig;
use crate::effect::Effect;

/// The longest time for a call about the Lease.
const DEADLINE: Duration = Duration::from_secs(2);
/// How often a Lease is tried again that could not be taken.
const AGAIN: Duration = Duration::from_secs(1);
/// A watch is begun anew after so many seconds.
const WATCH_TIME: u32 = 60;

/// One process's part in the Lease, for one stint: it stands by, may come to act, and stops for good.
pub(crate) struct Candidate {
    config: LeaseConfig,
    calls: Api<Lease>,
    watches: Api<Lease>,
    mandate: Mandate,
    clock: fn() -> Uptime,
    /// The Lease as this process last saw or wrote it.
    lease: Option<Lease>,
    seen: Option<Seen>,
    /// Whether the listing under way has shown it.
    is_in_listing: bool,
    /// What could not be done, told once.
    trouble: Option<String>,
}

impl Candidate {
    /// `calls` must not be bound to the mandate, which comes from here.
    pub(crate) fn new(
        calls: Client,
        watches: Client,
        namespace: &str,
        config: LeaseConfig,
    ) -> Self {
        Self::by(uptime, calls, watches, namespace, config)
    }

    fn by(
        clock: fn() -> Uptime,
        calls: Client,
        watches: Client,
        namespace: &str,
        config: LeaseConfig,
    ) -> Self {
        Self {
            config,
            calls: Api::namespaced(calls, namespace),
            watches: Api::namespaced(watches, namespace),
            mandate: Mandate::by(clock),
            clock,
            lease: None,
            seen: None,
            is_in_listing: false,
            trouble: None,
        }
    }

    /// The right to act, which comes with the Lease.
    pub(crate) fn mandate(&self) -> Mandate {
        self.mandate.clone()
    }

    /// Stands by until it holds the Lease. It takes it only when `warm` is done, and calls `stands_by` when it could: then a
    /// process that was before it may end.
    pub(crate) async fn acquire(
        &mut self,
        warm: impl Future<Output = ()>,
        stands_by: impl Fn(),
    ) -> Claim {
        let config = watcher::Config::default()
            .fields(&format!("metadata.name={}", self.config.name))
            .timeout(WATCH_TIME);
        let mut events = pin!(watcher(self.watches.clone(), config).default_backoff());
        let mut warm = pin!(warm);
        let (mut is_warm, mut is_listed) = (false, false);
        loop {
            let step = self.plan(None).filter(|_| is_warm && is_listed);
            let wait = match step {
                Some(LeaseStep::Take { transition }) => match self.take(transition).await {
                    Ok(claim) => return claim,
                    Err(error) => {
                        self.tell(&error);
                        self.look().await;
                        Some(AGAIN)
                    }
                },
                Some(LeaseStep::Wait { until }) => Some(self.now().until(until)),
                Some(LeaseStep::Renew | LeaseStep::Hold { .. } | LeaseStep::Stop(_)) | None => None,
            };
            let waited = async {
                match wait {
                    Some(wait) => sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = events.next() => is_listed |= self.take_event(event),
                () = &mut warm, if !is_warm => is_warm = true,
                () = waited => continue,
            }
            if is_warm && is_listed {
                stands_by();
            }
        }
    }

    /// Keeps the claim for as long as it can, and then says why it could not. The mandate is over by then.
    pub(crate) async fn keep(&mut self, mut claim: Claim) -> Lost {
        loop {
            match self.plan(Some(&claim)) {
                Some(LeaseStep::Stop(lost)) => {
                    self.mandate.end();
                    return lost;
                }
                Some(LeaseStep::Renew) => self.renew(&mut claim).await,
                Some(LeaseStep::Hold { until } | LeaseStep::Wait { until }) => {
                    sleep(self.now().until(until)).await;
                }
                Some(LeaseStep::Take { .. }) | None => {
                    self.mandate.end();
                    return Lost::Taken { by: None };
                }
            }
        }
    }

    /// Gives the Lease up, if it is still this claim's: another need not wait. The mandate is over before.
    pub(crate) async fn release(&mut self, claim: &Claim) {
        if !self.mandate.is_held() {
            return;
        }
        self.mandate.end();
        let mut given_up = self.give_up(claim).await;
        // A renewal was under way, and its answer was not waited for.
        if given_up.as_ref().is_err_and(ApplyError::is_conflict) && self.look().await {
            let is_own = self.holder() == Some(self.candidacy().identity.as_str());
            given_up = if is_own {
                self.give_up(claim).await
            } else {
                Ok(())
            };
        }
        match given_up {
            Ok(()) => tracing::info!("the Lease is given up"),
            // Then the next one waits until the claim would have ended.
            Err(error) => tracing::warn!(%error, "the Lease could not be given up"),
        }
    }

    async fn give_up(&self, claim: &Claim) -> Result<(), ApplyError> {
        let nobodys = self.build(None, claim.transition);
        within(apply::replace(&self.calls, Effect::ReleaseLease, &nobodys))
            .await
            .map(drop)
    }

    fn plan(&self, claim: Option<&Claim>) -> Option<LeaseStep> {
        let seen = self.seen.as_ref()?;
        Some(plan_lease(self.candidacy(), claim, seen, self.now()))
    }

    fn now(&self) -> Uptime {
        (self.clock)()
    }

    fn candidacy(&self) -> &Candidacy {
        &self.config.candidacy
    }

    fn build(&self, holder: Option<&str>, transition: i32) -> Lease {
        let before = self.lease.as_ref();
        build_lease(&self.config, before, holder, transition)
    }

    async fn take(&mut self, transition: i32) -> Result<Claim, ApplyError> {
        let began = self.now();
        let own = self.candidacy().identity.clone();
        let lease = self.build(Some(&own), transition);
        self.write(Effect::TakeLease, &lease).await?;
        let candidacy = self.candidacy();
        let claim = Claim {
            transition,
            since: began,
            next: began.after(candidacy.renew_every()),
        };
        // An answer that took longer than the claim lasts gives none.
        let given = self.mandate.extend(began.after(candidacy.duration));
        given.map_err(|NotLeader| ApplyError::TimedOut)?;
        self.trouble = None;
        Ok(claim)
    }

    async fn renew(&mut self, claim: &mut Claim) {
        let began = self.now();
        let own = self.candidacy().identity.clone();
        let lease = self.build(Some(&own), claim.transition);
        match self.write(Effect::RenewLease, &lease).await {
            Ok(()) => {
                let candidacy = self.candidacy();
                claim.since = began;
                claim.next = began.after(candidacy.renew_every());
                // Where that fails the claim's own end is seen at once.
                let _ = self.mandate.extend(began.after(candidacy.duration));
                self.trouble = None;
            }
            Err(error) => {
                claim.next = self.now().after(self.candidacy().retry_after());
                let changed = error.is_conflict() || error.is_not_found();
                if changed && self.look().await {
                    claim.next = began;
                } else {
                    self.tell(&error);
                }
            }
        }
    }

    /// Writes the Lease on condition that it is as it was last seen.
    async fn write(&mut self, effect: Effect, lease: &Lease) -> Result<(), ApplyError> {
        let written = if self.lease.is_some() {
            within(apply::replace(&self.calls, effect, lease)).await?
        } else {
            within(apply::create(&self.calls, effect, lease)).await?
        };
        self.note(Some(written));
        Ok(())
    }

    /// Reads the Lease; true if that was possible.
    async fn look(&mut self) -> bool {
        match within(apply::within(self.calls.get_opt(&self.config.name))).await {
            Ok(lease) => {
                self.note(lease);
                true
            }
            Err(error) => {
                self.tell(&error);
                false
            }
        }
    }

    fn note(&mut self, lease: Option<Lease>) {
        let record = lease.as_ref().map(read_record);
        self.seen = Some(Seen::look(self.seen.as_ref(), record, self.now()));
        self.lease = lease;
    }

    /// Takes what the watch tells; true when it has listed what there is.
    fn take_event(&mut self, event: watcher::Result<Event<Lease>>) -> bool {
        match event {
            Ok(Event::Apply(lease) | Event::InitApply(lease)) => {
                self.is_in_listing = true;
                self.note(Some(lease));
                false
            }
            Ok(Event::Delete(_)) => {
                self.note(None);
                false
            }
            Ok(Event::Init) => {
                self.is_in_listing = false;
                false
            }
            Ok(Event::InitDone) => {
                if !self.is_in_listing {
                    self.note(None);
                }
                true
            }
            Err(error) => {
                tracing::warn!(kind = "Lease", %error, "a watch was interrupted");
                false
            }
        }
    }

    /// Tells a trouble once, until it is over or another.
    fn tell(&mut self, error: &ApplyError) {
        let text = error.to_string();
        if self.trouble.as_ref() != Some(&text) && !error.is_conflict() {
            tracing::warn!(
                lease = self.config.name,
                error = text,
                "the Lease cannot be taken or renewed"
            );
            self.trouble = Some(text);
        }
    }

    fn holder(&self) -> Option<&str> {
        self.seen.as_ref()?.holder()
    }
}

/// A call with the deadline of those about the Lease.
async fn within<T>(call: impl Future<Output = Result<T, ApplyError>>) -> Result<T, ApplyError> {
    timeout(DEADLINE, call)
        .await
        .unwrap_or(Err(ApplyError::Unavailable {
            message: "no answer within 2 s".to_owned(),
            retry_after: None,
        }))
}
