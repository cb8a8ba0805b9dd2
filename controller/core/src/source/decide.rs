//! What becomes of the Certificate for one Secret.

use std::collections::BTreeSet;
use std::net::IpAddr;

use evercert_api::condition::{self, STALLED};
use evercert_api::{Certificate, CertificateSpec, Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::annotations::{self, Field};
use super::asks::{Ask, Asker};
use super::{Finding, MOST_NAMES, NamespaceFacts, SourcePlan, Wish, is_sourced, owners};

/// What becomes of the Certificate for one Secret.
pub(super) fn decide(
    namespace: &str,
    secret: &str,
    ask: &Ask,
    askers: &mut [Asker<'_>],
    facts: &NamespaceFacts<'_>,
    plan: &mut SourcePlan,
) {
    let named = |c: &&&Certificate| c.metadata.name.as_deref() == Some(secret);
    let existing = facts.certificates.iter().find(named).copied();
    if let Some(stranger) = find_stranger(secret, existing, facts) {
        say(askers, ask, Reason::CertificateNotOurs, &stranger);
        return;
    }
    if existing.is_some_and(|c| c.metadata.deletion_timestamp.is_some()) {
        return;
    }
    if let Some(certificate) = existing {
        mirror(certificate, ask, askers, plan);
    }
    if ask.names.is_empty() || ask.holds {
        return;
    }
    if ask.names.len() > MOST_NAMES {
        let sentence = format!(
            "Secret {secret} would have a certificate for {} hosts, and {MOST_NAMES} is the most: give some of them another Secret",
            ask.names.len()
        );
        say(askers, ask, Reason::HostLeftOut, &sentence);
        return;
    }
    let Some((winner, mut spec)) = choose(ask, askers) else {
        return;
    };
    say_differences(secret, winner, &spec, ask, askers);
    if let Some(winner) = askers.get(winner) {
        let bare = annotations::blank(spec.issuer_ref.clone());
        let kept = existing.map_or(&bare, |c| &c.spec);
        for field in &winner.reading.broken {
            field.copy(kept, &mut spec);
        }
    }
    secret.clone_into(&mut spec.secret_name);
    let is_address = |name: &String| name.parse::<IpAddr>().is_ok();
    (spec.ip_addresses, spec.dns_names) = ask.names.iter().cloned().partition(is_address);
    let of = |index: &usize| askers.get(*index);
    let owners: Vec<OwnerReference> = ask
        .askers
        .iter()
        .filter_map(of)
        .zip(0_usize..)
        .map(|(a, n)| owned_by(a, n == 0))
        .collect();
    let mut certificate = Certificate::new(secret, spec);
    certificate.metadata.namespace = Some(namespace.to_owned());
    certificate.metadata.owner_references = Some(owners);
    if existing.is_none_or(|c| !is_in_step(c, &certificate)) {
        plan.apply.push(Wish {
            certificate,
            replaces: existing.and_then(|c| c.metadata.uid.clone()),
            ingresses: ask
                .askers
                .iter()
                .filter_map(of)
                .map(|a| a.name.to_owned())
                .collect(),
        });
    }
}

/// A Certificate that somebody else made and that has the name or the Secret, in a sentence.
fn find_stranger(
    secret: &str,
    existing: Option<&Certificate>,
    facts: &NamespaceFacts<'_>,
) -> Option<String> {
    let remedy = "it stays as it is: delete it, or give the tls entry another Secret";
    match existing {
        Some(certificate) if is_sourced(certificate) => None,
        Some(_) => Some(format!(
            "Certificate {secret} was made by somebody else, and {remedy}"
        )),
        None => {
            let names_it = |c: &&&Certificate| c.spec.secret_name == secret;
            let other = facts
                .certificates
                .iter()
                .find(names_it)?
                .metadata
                .name
                .as_deref();
            let other = other.unwrap_or_default();
            Some(format!(
                "Secret {secret} is that of Certificate {other}, which somebody else made, and {remedy}"
            ))
        }
    }
}

/// The oldest asker that says who is to sign, and its spec.
fn choose(ask: &Ask, askers: &[Asker<'_>]) -> Option<(usize, CertificateSpec)> {
    ask.askers.iter().find_map(|index| {
        let template = askers.get(*index)?.reading.template.clone()?;
        Some((*index, template))
    })
}

/// The younger ones are told what of theirs does not count.
fn say_differences(
    secret: &str,
    winner: usize,
    spec: &CertificateSpec,
    ask: &Ask,
    askers: &mut [Asker<'_>],
) {
    let elder = askers.get(winner).map_or("", |a| a.name).to_owned();
    for index in ask.askers.iter().filter(|i| **i != winner) {
        let Some(asker) = askers.get_mut(*index) else {
            continue;
        };
        let Some(template) = &asker.reading.template else {
            continue;
        };
        let mut differs: Vec<&str> = Vec::new();
        if template.issuer_ref != spec.issuer_ref {
            differs.push("the issuer");
        }
        let other: Vec<Field> = Field::ALL
            .into_iter()
            .filter(|f| !f.is_same(spec, template))
            .collect();
        differs.extend(other.iter().map(|f| f.words()));
        if !differs.is_empty() {
            let sentence = format!(
                "Secret {secret} has one certificate for this Ingress and the older {elder}, whose annotations count where they differ: \
                 in {}; make them the same, or give the tls entry another Secret",
                differs.join(", ")
            );
            asker.said.push((Reason::SecretShared, sentence));
        }
    }
}

/// What holds a Certificate up until a person acts is said on its Ingresses too, once for each reason.
fn mirror(certificate: &Certificate, ask: &Ask, askers: &[Asker<'_>], plan: &mut SourcePlan) {
    let conditions = certificate
        .status
        .as_ref()
        .map_or(&[][..], |s| &s.conditions);
    let Some(stalled) = condition::find(conditions, STALLED).filter(|c| c.status == "True") else {
        return;
    };
    let Some(reason) = Reason::ALL.iter().find(|r| r.as_str() == stalled.reason) else {
        return;
    };
    let name = certificate.metadata.name.as_deref().unwrap_or_default();
    for asker in ask.askers.iter().filter_map(|index| askers.get(*index)) {
        plan.findings.push(Finding {
            ingress: asker.name.to_owned(),
            uid: asker.uid.to_owned(),
            reason: *reason,
            identity: name.to_owned(),
            sentence: format!("Certificate {name}: {}", stalled.message),
        });
    }
}

fn say(askers: &mut [Asker<'_>], ask: &Ask, reason: Reason, sentence: &str) {
    for index in &ask.askers {
        if let Some(asker) = askers.get_mut(*index) {
            asker.said.push((reason, sentence.to_owned()));
        }
    }
}

/// Without blockOwnerDeletion: it would want a right to finalizers of Ingresses.
fn owned_by(asker: &Asker<'_>, controls: bool) -> OwnerReference {
    OwnerReference {
        api_version: "networking.k8s.io/v1".to_owned(),
        kind: "Ingress".to_owned(),
        name: asker.name.to_owned(),
        uid: asker.uid.to_owned(),
        controller: Some(controls),
        block_owner_deletion: Some(false),
    }
}

fn is_in_step(existing: &Certificate, wanted: &Certificate) -> bool {
    let mut spec = existing.spec.clone();
    spec.dns_names.sort_unstable();
    spec.ip_addresses.sort_unstable();
    let key = |o: &OwnerReference| (o.uid.clone(), o.controller == Some(true));
    let there: BTreeSet<_> = owners(existing).map(key).collect();
    spec == wanted.spec && there == owners(wanted).map(key).collect()
}
