//! One pass for one namespace: plan, write what differs, say what is found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use evercert_api::certificate::DeletionPolicy;
use evercert_api::{Certificate, Reason, children};
use evercert_core::source::{
    Finding, NamespaceFacts, Removal, SourcePlan, Wish, is_sourced, owners, plan_source,
};
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::ListParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use crate::apply::{self, ApplyError, Expected};
use crate::claim::is_owner_of_theirs;
use crate::context::Context;
use crate::effect::Effect;
use crate::events::emit_once;

/// How long until a cache that was behind has caught up.
const SOON: Duration = Duration::from_millis(500);
/// How long until an API server in trouble is asked again, if it does not say.
const LEAST: Duration = Duration::from_secs(2);
/// How often an object of somebody else is looked at that is in the way.
const LOOK: Duration = Duration::from_secs(30);
/// The longest time until what was refused is tried again as it is.
const LONGEST: Duration = Duration::from_mins(10);

/// A namespace in the caches.
#[derive(Default)]
pub(super) struct Scene {
    pub(super) ingresses: Vec<Arc<Ingress>>,
    pub(super) certificates: Vec<Arc<Certificate>>,
}

/// What this process remembers of a namespace. All of it can be lost: then a thing or two is done once more, to no effect.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Known {
    /// What was applied last, by name, and the generation that it led to: what another writer adds is not fought over.
    applied: BTreeMap<String, (u64, i64)>,
    /// What the API server refused.
    refused: BTreeMap<String, Refused>,
    /// Certificates of cert-manager that an Ingress owns, by its UID.
    cert_managers: BTreeMap<String, String>,
    /// Findings that were told: Ingress's UID, reason, identity.
    told: BTreeSet<(String, Reason, String)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Refused {
    /// What of.
    hash: u64,
    message: String,
    again: Instant,
    wait: Duration,
}

/// Looks at `namespace` once; the answer is when to look again without being asked.
pub(super) async fn pass(
    namespace: &str,
    scene: &Scene,
    known: &mut Known,
    context: &Context,
) -> Option<Duration> {
    let mut again = Again::default();
    let mut plan = plan(namespace, scene, known, context);
    if gather_cert_managers(namespace, &plan, scene, known, context).await {
        plan = self::plan(namespace, scene, known, context);
    }
    if !known.cert_managers.is_empty() {
        again.within(LOOK);
    }
    let mut notes = Vec::new();
    let wanted: BTreeSet<&String> = scene
        .certificates
        .iter()
        .filter_map(|c| c.metadata.name.as_ref())
        .collect();
    known.applied.retain(|name, _| wanted.contains(name));
    known.refused.retain(|name, _| {
        plan.apply
            .iter()
            .any(|w| w.certificate.metadata.name.as_ref() == Some(name))
    });
    for wish in &plan.apply {
        write(
            namespace, wish, scene, known, context, &mut again, &mut notes,
        )
        .await;
    }
    for removal in &plan.remove {
        if let Err(error) = remove(namespace, removal, known, context, &mut notes).await {
            tracing::warn!(namespace, certificate = removal.name, %error, "a Certificate that no Ingress asks for could not be removed");
            again.after(&error);
        }
    }
    tell(namespace, plan.findings, notes, known, context).await;
    again.0
}

/// The soonest of several times.
#[derive(Default)]
struct Again(Option<Duration>);

impl Again {
    fn within(&mut self, wait: Duration) {
        self.0 = Some(self.0.map_or(wait, |before| before.min(wait)));
    }

    fn after(&mut self, error: &ApplyError) {
        let wait = match error.retry_after() {
            Some(asked) => asked.max(LEAST),
            None if error.is_conflict() => SOON,
            None if error.is_passing() => LEAST,
            None => LOOK,
        };
        self.within(wait);
    }
}

fn plan(namespace: &str, scene: &Scene, known: &Known, context: &Context) -> SourcePlan {
    // One that is not known yet is looked at when it is; where no labels can be read, none are there.
    let found = context.namespaces.get(&ObjectRef::new(namespace));
    let unread = BTreeMap::new();
    let unread = context.config.territory.is_confined().then_some(&unread);
    let index = context.projections.index();
    let facts = NamespaceFacts {
        labels: found.as_ref().map(|n| n.labels()).or(unread),
        ingresses: scene.ingresses.iter().map(AsRef::as_ref).collect(),
        certificates: scene.certificates.iter().map(AsRef::as_ref).collect(),
        default_class: index.as_ref().and_then(|i| i.default_class()),
        cert_managers: &known.cert_managers,
    };
    plan_source(namespace, &facts, &context.config.source)
}

/// Looks whether Ingresses that ask for a new Certificate have one of cert-manager's, and whether those that had one still have it;
/// true when what is known has changed. One small read for each entry: its Certificate there has the Secret's name, too.
async fn gather_cert_managers(
    namespace: &str,
    plan: &SourcePlan,
    scene: &Scene,
    known: &mut Known,
    context: &Context,
) -> bool {
    let new = plan
        .apply
        .iter()
        .filter(|w| w.replaces.is_none() && !is_refused(w, known));
    let asking: BTreeSet<&String> = new.flat_map(|w| &w.ingresses).collect();
    let mut found = BTreeMap::new();
    for ingress in &scene.ingresses {
        let uid = ingress.uid().unwrap_or_default();
        if !asking.contains(&ingress.name_any()) && !known.cert_managers.contains_key(&uid) {
            continue;
        }
        let entries = ingress.spec.iter().flat_map(|s| s.tls.iter().flatten());
        let secrets: BTreeSet<&String> = entries.filter_map(|e| e.secret_name.as_ref()).collect();
        for secret in secrets {
            if is_owner_of_theirs(&context.client, namespace, secret, &uid).await {
                found.insert(uid, secret.clone());
                break;
            }
        }
    }
    let changed = found != known.cert_managers;
    known.cert_managers = found;
    changed
}

fn hash_of(certificate: &Certificate) -> u64 {
    let whole = (&certificate.metadata.owner_references, &certificate.spec);
    children::stable_hash(&[&serde_json::to_string(&whole).unwrap_or_default()])
}

fn is_refused(wish: &Wish, known: &Known) -> bool {
    let name = wish.certificate.name_any();
    let hash = hash_of(&wish.certificate);
    known
        .refused
        .get(&name)
        .is_some_and(|r| r.hash == hash && Instant::now() < r.again)
}

/// Something that happened, to be said on an Ingress.
struct Note {
    ingress: String,
    reason: Reason,
    sentence: String,
}

async fn write(
    namespace: &str,
    wish: &Wish,
    scene: &Scene,
    known: &mut Known,
    context: &Context,
    again: &mut Again,
    notes: &mut Vec<Note>,
) {
    let name = wish.certificate.name_any();
    let hash = hash_of(&wish.certificate);
    let there = scene.certificates.iter().find(|c| c.name_any() == name);
    let generation = there.and_then(|c| c.metadata.generation);
    if generation.is_some_and(|g| known.applied.get(&name) == Some(&(hash, g))) {
        return;
    }
    if is_refused(wish, known) {
        say_refused(wish, &name, known, again, notes);
        return;
    }
    match send(namespace, wish, &name, context).await {
        Ok(Some(applied)) => {
            known.refused.remove(&name);
            if wish.replaces.is_none() {
                tracing::info!(namespace, certificate = name, "made for an Ingress");
                notes.extend(wish.ingresses.first().map(|ingress| Note {
                    ingress: ingress.clone(),
                    reason: Reason::CertificateMade,
                    sentence: format!(
                        "Certificate {name} is for {}",
                        wish.certificate.spec.names().join(", ")
                    ),
                }));
            }
            known.applied.insert(
                name,
                (hash, applied.metadata.generation.unwrap_or_default()),
            );
        }
        // The cache is behind.
        Ok(None) => again.within(SOON),
        Err(error) if error.is_refused() => {
            let before = known.refused.get(&name).filter(|r| r.hash == hash);
            let wait = before.map_or(LOOK, |r| (r.wait * 2).min(LONGEST));
            let refused = Refused {
                hash,
                message: error.to_string(),
                again: Instant::now() + wait,
                wait,
            };
            known.refused.insert(name.clone(), refused);
            say_refused(wish, &name, known, again, notes);
        }
        Err(error) => {
            tracing::debug!(namespace, certificate = name, %error, "a Certificate for an Ingress is not written yet");
            again.after(&error);
        }
    }
}

/// Writes the Certificate; `None` when there is one by now that the cache does not have.
async fn send(
    namespace: &str,
    wish: &Wish,
    name: &str,
    context: &Context,
) -> Result<Option<Certificate>, ApplyError> {
    let api: Api<Certificate> = Api::namespaced(context.client.clone(), namespace);
    let mut certificate = wish.certificate.clone();
    let _place = context.begin_work().await;
    if wish.replaces.is_some() {
        // Another one of that name is refused.
        certificate.metadata.uid.clone_from(&wish.replaces);
        return apply::apply(&api, Effect::ApplyCertificate, &certificate)
            .await
            .map(Some);
    }
    if apply::within(api.get_opt(name)).await?.is_some() {
        return Ok(None);
    }
    apply::apply_new(&api, Effect::ApplyCertificate, &certificate)
        .await
        .map(Some)
}

fn say_refused(wish: &Wish, name: &str, known: &Known, again: &mut Again, notes: &mut Vec<Note>) {
    let Some(refused) = known.refused.get(name) else {
        return;
    };
    again.within(refused.again.saturating_duration_since(Instant::now()));
    notes.extend(wish.ingresses.iter().map(|ingress| Note {
        ingress: ingress.clone(),
        reason: Reason::CertificateRefused,
        sentence: format!("Certificate {name} cannot be written: {}", refused.message),
    }));
}

/// Deletes a Certificate, if it still is what it was, and a live look at the Ingresses says the same.
async fn remove(
    namespace: &str,
    removal: &Removal,
    known: &Known,
    context: &Context,
    notes: &mut Vec<Note>,
) -> Result<(), ApplyError> {
    let certificates: Api<Certificate> = Api::namespaced(context.client.clone(), namespace);
    let ingresses: Api<Ingress> = Api::namespaced(context.client.clone(), namespace);
    let _place = context.begin_work().await;
    let Some(live) = apply::within(certificates.get_opt(&removal.name)).await? else {
        return Ok(());
    };
    let all = apply::within(ingresses.list(&ListParams::default())).await?;
    let scene = Scene {
        ingresses: all.items.into_iter().map(Arc::new).collect(),
        certificates: vec![Arc::new(live.clone())],
    };
    let still = plan(namespace, &scene, known, context)
        .remove
        .contains(removal);
    if !still || !is_sourced(&live) {
        return Ok(());
    }
    let expected = Expected {
        uid: live.uid(),
        resource_version: live.resource_version(),
    };
    apply::delete(
        &certificates,
        Effect::RemoveCertificate,
        &removal.name,
        &expected,
    )
    .await?;
    tracing::info!(
        namespace,
        certificate = removal.name,
        "removed: no Ingress asks for it any more"
    );
    notes.extend(owners(&live).map(|owner| Note {
        ingress: owner.name.clone(),
        reason: Reason::CertificateRemoved,
        sentence: format!(
            "no tls entry asks for Certificate {} any more, so it was removed; Secret {} {}",
            removal.name,
            live.spec.secret_name,
            match live.spec.deletion_policy {
                DeletionPolicy::Retain => "stays",
                DeletionPolicy::Delete => "goes with it, as its deletion policy says",
            }
        ),
    }));
    Ok(())
}

/// Tells what has not been told. What no longer holds is forgotten, and told again when it is back.
async fn tell(
    namespace: &str,
    findings: Vec<Finding>,
    notes: Vec<Note>,
    known: &mut Known,
    context: &Context,
) {
    let now = Timestamp::now();
    let place = |name: &str| ObjectRef::<Ingress>::new(name).within(namespace);
    let mut lasting = BTreeSet::new();
    for finding in findings {
        let key = (finding.uid, finding.reason, finding.identity);
        if !known.told.contains(&key)
            && let Some(ingress) = context.ingresses.get(&place(&finding.ingress))
        {
            let words = (key.2.as_str(), finding.sentence.as_str());
            emit_once(&context.client, ingress.as_ref(), true, key.1, words, now).await;
        }
        lasting.insert(key);
    }
    for note in notes {
        let Some(ingress) = context.ingresses.get(&place(&note.ingress)) else {
            continue;
        };
        let uid = ingress.uid().unwrap_or_default();
        let key = (uid, note.reason, note.sentence.clone());
        let lasts = note.reason == Reason::CertificateRefused;
        if !(lasts && known.told.contains(&key)) {
            // Each time that it happens.
            let identity = if lasts {
                note.sentence.clone()
            } else {
                format!("{now} {}", note.sentence)
            };
            let words = (identity.as_str(), note.sentence.as_str());
            emit_once(
                &context.client,
                ingress.as_ref(),
                lasts,
                note.reason,
                words,
                now,
            )
            .await;
        }
        if lasts {
            lasting.insert(key);
        }
    }
    known.told = lasting;
}
