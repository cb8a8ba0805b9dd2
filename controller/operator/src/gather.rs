//! Reads only: everything that a plan may look at. The Certificate and its Secrets are read at the API server, or taken from the
//! pass before where nothing has changed since; the rest comes from caches and memory. So a pass sees what the one before it wrote.

mod claims;

use std::time::{Duration, Instant};

use evercert_api::certificate::IssuerKind;
use evercert_api::{Certificate, ClusterIssuer, Issuer, Reason, children, keys};
use evercert_core::chain::find_chain_note;
use evercert_core::circuit::build_refused;
use evercert_core::key::ObjectKey;
use evercert_core::lanes::{Candidate, Lane};
use evercert_core::limits::NewOrder;
use evercert_core::observe::{
    Gate, IssuerObservation, Observed, Presented, SecretObservation, SolverState,
};
use evercert_core::plan::is_order_near;
use evercert_core::preflight::Preflight;
use evercert_core::renewal_info::find_replaced;
use evercert_core::report::Change;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Client, ResourceExt};

pub(crate) use self::claims::check_issuer_policy;
pub(crate) use self::claims::find_sources;
use self::claims::{find_forwarder, find_refusal, find_rival, find_unroutable};
use crate::apply::{self, ApplyError};
use crate::choice::{Chosen, choose};
use crate::claim::gather_claim;
use crate::context::Context;
use crate::follow::mark_ingresses;
use crate::issuer::{IssuerId, Session};
use crate::memory::Entry;
use crate::preflight::Question;
use crate::projection::{Presentation, SolverReadiness};
use crate::secrets::{data, last_issue, observe_companion, observe_own_fallback, observe_secret};

/// How long what was read may serve further passes, whatever the watches tell.
const CURRENT: Duration = Duration::from_secs(30);

/// How long a dry run tells that the TLS Secret can be written.
const TRIED: SignedDuration = SignedDuration::from_mins(10);

/// What was read at the API server.
#[derive(Debug, Clone)]
pub(crate) struct Reads {
    certificate: Certificate,
    secret: Option<Secret>,
    companion: Option<Secret>,
    /// The Secret with the user's own certificate.
    own_fallback: Option<Secret>,
    /// The living controller that the TLS Secret belongs to.
    claim: Option<String>,
    read_at: Instant,
}

/// What was read for one pass.
pub(crate) struct Gathered {
    /// The Certificate.
    pub(crate) certificate: Certificate,
    /// The TLS Secret.
    pub(crate) secret: Option<Secret>,
    /// The companion Secret.
    pub(crate) companion: Option<Secret>,
    /// The Secret with the user's own certificate, where that is the fallback.
    pub(crate) own_fallback: Option<Secret>,
    claim: Option<String>,
    read_at: Instant,
    /// The issuer that the spec names.
    pub(crate) issuer: IssuerId,
    /// Its session.
    pub(crate) session: Option<Session>,
    /// All of it as the plan sees it.
    pub(crate) observed: Observed,
}

/// Reads everything about `key`; `None` when the Certificate is gone. With `live`, the issuer's spec is read at the API server,
/// too: before a step that cannot be taken back.
pub(crate) async fn gather(
    key: &ObjectKey,
    context: &Context,
    live: bool,
    now: Timestamp,
) -> Result<Option<Gathered>, ApplyError> {
    let Some(reads) = Reads::read(key, &context.client).await? else {
        return Ok(None);
    };
    look_at(key, context, reads, live, now).await.map(Some)
}

/// The same from what the last pass read a moment ago, where it wrote nothing and nobody else did, as far as the watches tell.
pub(crate) async fn gather_again(
    key: &ObjectKey,
    context: &Context,
    reads: Reads,
    now: Timestamp,
) -> Result<Gathered, ApplyError> {
    look_at(key, context, reads, false, now).await
}

async fn look_at(
    key: &ObjectKey,
    context: &Context,
    reads: Reads,
    live: bool,
    now: Timestamp,
) -> Result<Gathered, ApplyError> {
    let Reads {
        certificate,
        secret,
        companion,
        own_fallback,
        claim,
        read_at,
    } = reads;
    let chosen = choose(
        key,
        context,
        &certificate,
        last_issue(secret.as_ref(), companion.as_ref()),
        now,
    )
    .await;
    let issuer = chosen.id.clone();
    let session = context.sessions.get(&issuer);
    let generation = if live && !context.config.territory.leaves_out(&issuer) {
        read_generation(&issuer, context).await?
    } else {
        None
    };
    let observed = observe(
        key,
        context,
        &certificate,
        secret.as_ref(),
        companion.as_ref(),
        own_fallback.as_ref(),
        claim.as_deref(),
        session.as_ref(),
        chosen,
        generation,
        now,
    );
    Ok(Gathered {
        certificate,
        secret,
        companion,
        own_fallback,
        claim,
        read_at,
        issuer,
        session,
        observed,
    })
}

impl Reads {
    async fn read(key: &ObjectKey, client: &Client) -> Result<Option<Self>, ApplyError> {
        let read_at = Instant::now();
        let certificates: Api<Certificate> = Api::namespaced(client.clone(), &key.namespace);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
        let companion_name = children::companion_name(&key.namespace, &key.name);
        let certificate = apply::within(certificates.get_opt(&key.name)).await?;
        let Some(certificate) = certificate else {
            return Ok(None);
        };
        // After the status: an order that stands in it has its key there, whoever placed it.
        let (companion, secret) = futures::try_join!(
            apply::within(secrets.get_opt(&companion_name)),
            apply::within(secrets.get_opt(&certificate.spec.secret_name)),
        )?;
        let companion = companion.filter(|c| is_companion_of(c, &certificate));
        let own_fallback = match certificate.spec.own_fallback() {
            Some(name) => apply::within(secrets.get_opt(name)).await?,
            None => None,
        };
        let claim = match &secret {
            Some(secret) => gather_claim(secret, key, client).await,
            None => None,
        };
        Ok(Some(Self {
            certificate,
            secret,
            companion,
            own_fallback,
            claim,
            read_at,
        }))
    }

    /// Whether they hold this version of the Secret `name`.
    pub(crate) fn have(&self, name: &str, version: Option<&str>) -> bool {
        [&self.secret, &self.companion]
            .into_iter()
            .flatten()
            .map(|secret| &secret.metadata)
            .any(|meta| {
                meta.name.as_deref() == Some(name) && meta.resource_version.as_deref() == version
            })
    }

    /// Whether they are young, and the Certificate is still as `watched`, as the watch has it.
    pub(crate) fn are_current(&self, watched: &Certificate) -> bool {
        let (read, watched) = (&self.certificate.metadata, &watched.metadata);
        self.read_at.elapsed() < CURRENT
            && read.uid == watched.uid
            && read.generation >= watched.generation
            && read.annotations == watched.annotations
            && read.deletion_timestamp == watched.deletion_timestamp
    }
}

/// A Secret of the companion's name that we did not write is none of ours, and is left to its owner.
pub(crate) fn is_companion_of(companion: &Secret, certificate: &Certificate) -> bool {
    let role = companion
        .labels()
        .get(keys::SECRET_ROLE_LABEL)
        .map(String::as_str);
    let owner = companion
        .annotations()
        .get(keys::CERTIFICATE_NAME)
        .map(String::as_str);
    role == Some(keys::ROLE_COMPANION) || owner == certificate.metadata.name.as_deref()
}

/// Whether an intent is of this Certificate, and not of one of the same name that was there before it.
fn is_of(created_at: Timestamp, intent: Timestamp) -> bool {
    // The API server stores whole seconds.
    intent.as_second() >= created_at.as_second()
}

/// Whether something became of an order that the status does not tell yet.
fn tells_of_order(entry: &Entry) -> bool {
    match entry.unreported.as_ref().map(|u| &u.change) {
        Some(Change::Placed(_) | Change::Cleared(_) | Change::Failed(_)) => true,
        Some(Change::Polled(_) | Change::Revoked(_) | Change::None) | None => false,
    }
}

async fn read_generation(issuer: &IssuerId, context: &Context) -> Result<Option<i64>, ApplyError> {
    let client = context.client.clone();
    let generation = match (issuer.kind, &issuer.namespace) {
        (IssuerKind::Issuer, Some(namespace)) => {
            let api: Api<Issuer> = Api::namespaced(client, namespace);
            apply::within(api.get_opt(&issuer.name))
                .await?
                .and_then(|i| i.metadata.generation)
        }
        (IssuerKind::Issuer | IssuerKind::ClusterIssuer, _) => {
            let api: Api<ClusterIssuer> = Api::all(client);
            apply::within(api.get_opt(&issuer.name))
                .await?
                .and_then(|i| i.metadata.generation)
        }
    };
    Ok(Some(generation.unwrap_or(-1)))
}

#[allow(clippy::too_many_arguments)] // each is one of the reads that an observation is made of
fn observe(
    key: &ObjectKey,
    context: &Context,
    certificate: &Certificate,
    secret: Option<&Secret>,
    companion: Option<&Secret>,
    own_fallback: Option<&Secret>,
    claim: Option<&str>,
    session: Option<&Session>,
    chosen: Chosen,
    live_generation: Option<i64>,
    now: Timestamp,
) -> Observed {
    let entry = context.memory.entry(key);
    let status = certificate.status.clone().unwrap_or_default();
    let issuer_id = chosen.id;
    let companion = observe_companion(companion, certificate.metadata.uid.as_deref());
    let own_fallback = observe_own_fallback(own_fallback);
    let created_at = certificate
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(now, |Time(at)| *at);
    let directory = session.and_then(|s| match s.observe(&issuer_id) {
        IssuerObservation::Ready(facts) => Some(facts.directory),
        IssuerObservation::Missing | IssuerObservation::NotReady { .. } => None,
    });
    let intent = directory
        .as_deref()
        .filter(|_| status.order.is_none() && !tells_of_order(&entry))
        .and_then(|d| context.ledger.intent(d, key))
        .filter(|at| is_of(created_at, *at));
    let mut observed = Observed {
        key: key.clone(),
        generation: certificate.metadata.generation.unwrap_or_default(),
        created_at,
        deleted: certificate.metadata.deletion_timestamp.is_some(),
        spec: certificate.spec.clone(),
        renew_at: certificate.annotations().get(keys::RENEW_AT).cloned(),
        ingresses: context
            .projections
            .index()
            .map(|index| mark_ingresses(&index, &certificate.spec)),
        revoke: certificate
            .annotations()
            .get(keys::REVOKE)
            .map(|value| value.trim().to_owned()),
        revocation_refused: entry.revocation_refused.clone().map(|(_, gate)| gate),
        issuer: observe_issuer(&issuer_id, context, session, live_generation),
        chosen: chosen.alternate,
        others: chosen.others,
        gave_way: chosen.because,
        passed_over: chosen.passed_over,
        held: chosen.held,
        secret: observe_secret(
            key,
            &certificate.spec,
            secret,
            &companion,
            &own_fallback,
            claim,
        ),
        own_fallback,
        companion,
        order: context
            .memory
            .order(key, status.order.as_ref().map(|o| o.url.as_str())),
        secret_owner: find_rival(key, context, certificate, secret, created_at),
        refusal: None,
        chain_note: observe_chain(session, secret),
        unroutable: find_unroutable(certificate, &status, context, session),
        dns: Preflight::Unasked,
        intent,
        gate: directory
            .as_deref()
            .and_then(|d| context.memory.gate_for(d, key, now)),
        limit: None,
        renewal_spread: SignedDuration::try_from(context.config.renewal_spread)
            .unwrap_or(SignedDuration::MAX),
        poll_turn: None,
        refused_profile: entry.refused_profile.clone(),
        solver: observe_solver(context.projections.solver()),
        forwarder: find_forwarder(certificate, context, session),
        presented: observe_presented(&context.projections.presented(key)),
        served: None,
        self_check: session.map(|s| s.self_check).unwrap_or_default(),
        reach: entry.reach.clone().into_iter().collect(),
        slot: context.slots.has(key),
        unwritable: observe_unwritable(&entry, certificate, now),
        tried: entry.tried.is_some_and(|at| now.duration_since(at) < TRIED),
        status,
    };
    observed.refusal = find_refusal(&observed, certificate, context, session, now);
    observed.limit = find_limit(&observed, context, session, now);
    observed.dns = observe_dns(&observed, certificate, context, session, now);
    observed
}

/// What is to be said of the chain in the TLS Secret.
fn observe_chain(session: Option<&Session>, secret: Option<&Secret>) -> Option<String> {
    let preferred = session?.preferred_chain.as_deref()?;
    let root = evercert_pki::find_root(data(secret?, keys::TLS_CRT))?;
    find_chain_note(preferred, &root)
}

/// What DNS says of the names, while an order is near.
fn observe_dns(
    o: &Observed,
    certificate: &Certificate,
    context: &Context,
    session: Option<&Session>,
    now: Timestamp,
) -> Preflight {
    let question = || {
        let index = context.projections.index();
        let sources = find_sources(certificate, context);
        Question::of(certificate, session, index.as_deref(), &sources)
    };
    if let Some(question) = is_order_near(o, now).then(question).flatten() {
        context.preflights.observe(&o.key, question, now)
    } else {
        context.preflights.forget(&o.key);
        Preflight::Unasked
    }
}

/// Why the ledger has no token for an order.
fn find_limit(
    o: &Observed,
    context: &Context,
    session: Option<&Session>,
    now: Timestamp,
) -> Option<Gate> {
    let (directory, order) =
        new_order(o, context, session?, now).filter(|_| o.status.order.is_none())?;
    let candidate = Candidate::of(o, now);
    let denial = context.ledger.decide(&directory, &order, &candidate, now)?;
    Some(Gate {
        until: denial.at,
        reason: Reason::RateLimited,
        message: denial.message,
    })
}

/// Those that wait after this one know that it was there before them.
pub(crate) fn wait_for_token(gathered: &Gathered, context: &Context, now: Timestamp) {
    let o = &gathered.observed;
    let order = gathered
        .session
        .as_ref()
        .and_then(|session| new_order(o, context, session, now));
    if let (Some((directory, order)), Some(limit)) = (order, &o.limit) {
        let candidate = Candidate::of(o, now);
        context
            .ledger
            .queue(&directory, &order.account, &candidate, limit.until);
    }
}

/// The order that would be placed, and the directory where. That it replaces a certificate counts in the ledger where the CA has
/// said in this process that its time has come: what a status says may be forged.
pub(crate) fn new_order(
    o: &Observed,
    context: &Context,
    session: &Session,
    now: Timestamp,
) -> Option<(String, NewOrder)> {
    let (account, directory) = session.account()?;
    let names = o.wanted_names();
    let is_lost = !o.is_served_well(now) && context.ledger.was_issued(directory, &names);
    let replaces = replaced(o, context).is_some_and(|id| {
        let advised = context.memory.entry(&o.key).advised;
        advised.is_some_and(|(known, start)| known == id && start <= now)
    });
    let order = NewOrder {
        account: account.to_owned(),
        urgent: is_lost || Candidate::of(o, now).lane == Lane::Expiring,
        names,
        replaces,
        asked_anew: o.is_changed_since_failure(),
    };
    Some((directory.to_owned(), order))
}

/// The certificate that the order replaces, by its identifier (RFC 9773 §5).
pub(crate) fn replaced(o: &Observed, context: &Context) -> Option<String> {
    let refused = context.memory.entry(&o.key).unreplaceable;
    find_replaced(o)
        .filter(|id| refused.as_deref() != Some(id))
        .map(str::to_owned)
}

/// The issuer, as far as its own loop knows it.
pub(crate) fn observe_issuer(
    id: &IssuerId,
    context: &Context,
    session: Option<&Session>,
    live_generation: Option<i64>,
) -> IssuerObservation {
    if context.config.territory.leaves_out(id) {
        return IssuerObservation::NotReady {
            reason: "OutOfReach".to_owned(),
            message: "the operator is confined to some namespaces (--namespaces, value namespaces) and may not read ClusterIssuers; \
                      name an Issuer of this namespace in spec.issuerRef"
                .to_owned(),
            facts: None,
        };
    }
    // A pass of the issuer's that ended after it was deleted may have left a session behind.
    if !context.wake_issuers.exists(id) {
        return IssuerObservation::Missing;
    }
    let Some(session) = session else {
        return IssuerObservation::NotReady {
            reason: "Starting".to_owned(),
            message: "the operator has started and looks the account up".to_owned(),
            facts: None,
        };
    };
    match live_generation {
        Some(-1) => IssuerObservation::Missing,
        Some(generation) if generation != session.generation => IssuerObservation::NotReady {
            reason: "Changed".to_owned(),
            message: "its spec has just changed and is being read".to_owned(),
            facts: None,
        },
        Some(_) | None => session.observe(id),
    }
}

/// Why the TLS Secret is not written now.
fn observe_unwritable(entry: &Entry, certificate: &Certificate, now: Timestamp) -> Option<Gate> {
    let name = &certificate.spec.secret_name;
    let generation = certificate.metadata.generation.unwrap_or_default();
    let refused = entry.unwritable.as_ref();
    entry
        .circuit
        .gate(name, generation, now)
        .or_else(|| refused.map(|(at, why)| build_refused(name, *at, why)))
}

pub(crate) fn observe_solver(solver: SolverReadiness) -> SolverState {
    match solver {
        SolverReadiness::Absent => SolverState::Absent,
        SolverReadiness::Starting { since, what } => SolverState::Starting { since, what },
        SolverReadiness::Ready => SolverState::Ready,
    }
}

fn observe_presented(presented: &Presentation) -> Presented {
    match presented {
        Presentation::Pending => Presented::Pending,
        Presentation::Applied { .. } => Presented::Applied,
        Presentation::Failed { message } => Presented::Failed(message.clone()),
    }
}

impl Gathered {
    /// The facts of the TLS Secret after a step wrote it, without another read.
    pub(crate) fn observe_again(&mut self) {
        let uid = self.certificate.metadata.uid.as_deref();
        let companion = observe_companion(self.companion.as_ref(), uid);
        self.observed.secret = observe_secret(
            &self.observed.key,
            &self.certificate.spec,
            self.secret.as_ref(),
            &companion,
            &self.observed.own_fallback,
            self.claim.as_deref(),
        );
        self.observed.companion = companion;
        self.observed.chain_note = observe_chain(self.session.as_ref(), self.secret.as_ref());
    }

    /// What was read, for the next pass.
    pub(crate) fn into_reads(self) -> Reads {
        Reads {
            certificate: self.certificate,
            secret: self.secret,
            companion: self.companion,
            own_fallback: self.own_fallback,
            claim: self.claim,
            read_at: self.read_at,
        }
    }

    /// Whether the TLS Secret is not there.
    pub(crate) fn lacks_secret(&self) -> bool {
        matches!(self.observed.secret, SecretObservation::Missing)
    }
}

#[cfg(test)]
mod tests;
