//! Annotated Ingresses as the source of Certificates (design §3, "Ingress as a source"): from the Ingresses and Certificates of one
//! namespace to the Certificates that should be, and what is to be said on the Ingresses.
//!
//! An Ingress has no conditions, so a sentence is an event on it, once for as long as it holds. A Certificate is the source's when its
//! field manager is among those that applied it; any other is left alone.

mod annotations;
mod asks;
mod decide;
mod document;
mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use evercert_api::certificate::IssuerRef;
use evercert_api::keys::{INGRESS_SOURCE, SOURCE_MANAGER};
use evercert_api::{Certificate, Reason};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

pub use annotations::{ANNOTATIONS, Annotation};
pub use document::build_document;

use crate::routes::class_of;
use asks::{Asker, gather_asks};
use decide::decide;
use read::{Said, Stance, read};

/// The most names of a certificate, as its schema has it.
const MOST_NAMES: usize = 100;

/// Whose spelling of annotations is read beside our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// `cert-manager.io/…`.
    CertManager,
    /// `kubernetes.io/tls-acme` as kube-lego had it; the Ingresses of its solver are left alone.
    KubeLego,
}

/// What the operator was told about Ingresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceConfig {
    /// Who signs for `kubernetes.io/tls-acme: "true"`; an Issuer is that of the Ingress's namespace.
    pub default_issuer: Option<IssuerRef>,
    /// Other spellings that are read.
    pub dialects: BTreeSet<Dialect>,
    /// Whether each host has a certificate of its own where an Ingress does not say.
    pub per_host: bool,
    /// The ingress classes that are looked at; all when empty.
    pub classes: BTreeSet<String>,
    /// Whether only namespaces with the label are looked at.
    pub only_labelled: bool,
}

/// One namespace as it is.
#[derive(Debug, Clone)]
pub struct NamespaceFacts<'a> {
    /// Its labels; `None` while it is not known yet. Then nothing is done in it.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// Its Ingresses, in any order.
    pub ingresses: Vec<&'a Ingress>,
    /// Its Certificates, in any order.
    pub certificates: Vec<&'a Certificate>,
    /// The cluster's default ingress class.
    pub default_class: Option<&'a str>,
    /// Certificates of cert-manager that were found to be owned by an Ingress: by that one's UID, the Certificate's name.
    pub cert_managers: &'a BTreeMap<String, String>,
}

/// What should be done in a namespace.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourcePlan {
    /// Certificates that are not as they should be, the whole of each.
    pub apply: Vec<Wish>,
    /// Certificates that nobody asks for.
    pub remove: Vec<Removal>,
    /// What is to be said, once.
    pub findings: Vec<Finding>,
}

/// A Certificate as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// The whole of it.
    pub certificate: Certificate,
    /// The UID of the one that is there, which is the source's; `None` when there is none.
    pub replaces: Option<String>,
    /// The Ingresses that ask for it, the oldest first.
    pub ingresses: Vec<String>,
}

/// A Certificate of the source's that nobody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A sentence about an Ingress.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The Ingress's name.
    pub ingress: String,
    /// Its UID.
    pub uid: String,
    /// The word.
    pub reason: Reason,
    /// What makes it the same finding when it is found again.
    pub identity: String,
    /// The sentence, with the remedy.
    pub sentence: String,
}

/// What should be in a namespace. Total; the order of the facts does not matter.
#[must_use]
pub fn plan_source(
    namespace: &str,
    facts: &NamespaceFacts<'_>,
    config: &SourceConfig,
) -> SourcePlan {
    let mut plan = SourcePlan::default();
    if !facts
        .labels
        .is_some_and(|labels| is_looked_at(labels, config))
    {
        return plan;
    }
    let mut ingresses: Vec<&Ingress> = facts.ingresses.clone();
    ingresses.retain(|i| i.metadata.deletion_timestamp.is_none());
    ingresses.sort_by_key(|i| (created(&i.metadata), i.metadata.name.clone()));

    let uids: BTreeSet<&str> = ingresses
        .iter()
        .filter_map(|i| i.metadata.uid.as_deref())
        .collect();
    let mut aside: BTreeSet<&str> = BTreeSet::new();
    let mut askers: Vec<Asker<'_>> = Vec::new();
    for ingress in ingresses {
        let mut said = Said::new();
        let uid = ingress.metadata.uid.as_deref().unwrap_or_default();
        let name = ingress.metadata.name.as_deref().unwrap_or_default();
        match read(ingress, config, facts.default_class, &mut said) {
            Stance::Aside => drop(aside.insert(uid)),
            Stance::Silent => tell(&mut plan.findings, name, uid, said),
            Stance::Asks(_) if facts.cert_managers.contains_key(uid) => {
                aside.insert(uid);
                let theirs = facts.cert_managers.get(uid).map_or("", String::as_str);
                let sentence = format!(
                    "it owns Certificate {theirs} of cert-manager, so it is left alone: delete that one, or take the annotations away"
                );
                tell(
                    &mut plan.findings,
                    name,
                    uid,
                    vec![(Reason::LeftToCertManager, sentence)],
                );
            }
            Stance::Asks(reading) => askers.push(Asker {
                ingress,
                name,
                uid,
                reading,
                said,
            }),
        }
    }
    let asks = gather_asks(&mut askers);
    for (secret, ask) in &asks {
        decide(namespace, secret, ask, &mut askers, facts, &mut plan);
    }
    for certificate in facts.certificates.iter().filter(|c| is_sourced(c)) {
        let name = certificate.metadata.name.as_deref().unwrap_or_default();
        let is_kept = owners(certificate).any(|o| aside.contains(o.uid.as_str()));
        let is_going = certificate.metadata.deletion_timestamp.is_some();
        // With its last owner it goes by the garbage collector, or stays where the owner was deleted without it.
        let is_owned = owners(certificate).any(|o| uids.contains(o.uid.as_str()));
        if !asks.contains_key(name) && is_owned && !is_kept && !is_going {
            plan.remove.push(Removal {
                name: name.to_owned(),
                uid: certificate.metadata.uid.clone().unwrap_or_default(),
            });
        }
    }
    for asker in askers {
        tell(&mut plan.findings, asker.name, asker.uid, asker.said);
    }
    plan.findings.sort();
    plan
}

/// Whether the Certificate is the source's: applied under its field manager. Who copies one has another.
#[must_use]
pub fn is_sourced(certificate: &Certificate) -> bool {
    certificate
        .metadata
        .managed_fields
        .iter()
        .flatten()
        .any(|entry| {
            entry.manager.as_deref() == Some(SOURCE_MANAGER)
                && entry.operation.as_deref() == Some("Apply")
        })
}

/// The Ingresses that own a Certificate.
pub fn owners(certificate: &Certificate) -> impl Iterator<Item = &OwnerReference> {
    let all = certificate.metadata.owner_references.iter().flatten();
    all.filter(|o| o.kind == "Ingress" && o.api_version.starts_with("networking.k8s.io/"))
}

/// The ingress class of each host that `ingresses` have in a `tls` entry, of several that of the first.
#[must_use]
pub fn source_classes<'a>(
    ingresses: impl IntoIterator<Item = &'a Ingress>,
) -> BTreeMap<String, String> {
    let mut classes = BTreeMap::new();
    for ingress in ingresses {
        let Some(class) = class_of(ingress) else {
            continue;
        };
        let entries = ingress.spec.iter().flat_map(|s| s.tls.iter().flatten());
        for host in entries.flat_map(|entry| entry.hosts.iter().flatten()) {
            classes
                .entry(host.clone())
                .or_insert_with(|| class.to_owned());
        }
    }
    classes
}

fn is_looked_at(labels: &BTreeMap<String, String>, config: &SourceConfig) -> bool {
    match labels.get(INGRESS_SOURCE).map(String::as_str) {
        Some("disabled") => false,
        Some("enabled") => true,
        Some(_) | None => !config.only_labelled,
    }
}

/// One finding for each reason.
fn tell(findings: &mut Vec<Finding>, ingress: &str, uid: &str, said: Said) {
    let mut by_reason: BTreeMap<Reason, Vec<String>> = BTreeMap::new();
    for (reason, sentence) in said {
        let sentences = by_reason.entry(reason).or_default();
        if !sentences.contains(&sentence) {
            sentences.push(sentence);
        }
    }
    for (reason, sentences) in by_reason {
        let sentence = sentences.join("; ");
        findings.push(Finding {
            ingress: ingress.to_owned(),
            uid: uid.to_owned(),
            reason,
            identity: sentence.clone(),
            sentence,
        });
    }
}

fn created(metadata: &ObjectMeta) -> Option<jiff::Timestamp> {
    metadata.creation_timestamp.as_ref().map(|Time(at)| *at)
}
