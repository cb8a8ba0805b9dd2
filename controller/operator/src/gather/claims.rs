//! Who may have the Secret and the names, and where they can be proved: from caches, nothing is read.

use std::collections::BTreeMap;

use evercert_api::certificate::IssuerRef;
use evercert_api::condition::READY;
use evercert_api::{Certificate, CertificateStatus, Reason, keys};
use evercert_core::forwarder::describe_refusal;
use evercert_core::key::ObjectKey;
use evercert_core::observe::{ForwarderState, Observed, Refusal};
use evercert_core::ownership::{Claimant, find_owner};
use evercert_core::permission::{Holder, Sharing, check_holders, check_policy};
use evercert_core::routes::is_route;
use evercert_core::source::{owners, source_classes};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use super::observe_solver;
use crate::context::Context;
use crate::issuer::{Session, Signer};

/// Another Certificate of the namespace that owns the Secret.
pub(super) fn find_rival(
    key: &ObjectKey,
    context: &Context,
    certificate: &Certificate,
    secret: Option<&Secret>,
    created_at: Timestamp,
) -> Option<String> {
    let others = context.certificates.state();
    let others: Vec<_> = others
        .iter()
        .filter(|c| {
            c.namespace().as_deref() == Some(&key.namespace)
                && c.spec.secret_name == certificate.spec.secret_name
        })
        .filter(|c| {
            c.metadata.deletion_timestamp.is_none() && c.metadata.name.as_deref() != Some(&key.name)
        })
        .collect();
    let has_order = |c: &Certificate| c.status.as_ref().is_some_and(|s| s.order.is_some());
    let mut claimants = vec![Claimant {
        name: &key.name,
        created_at,
        has_order: has_order(certificate),
    }];
    claimants.extend(others.iter().map(|c| {
        Claimant {
            name: c.metadata.name.as_deref().unwrap_or_default(),
            created_at: c
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(created_at, |Time(at)| *at),
            has_order: has_order(c),
        }
    }));
    let annotated = secret
        .and_then(|s| s.annotations().get(keys::CERTIFICATE_NAME))
        .map(String::as_str);
    find_owner(&claimants, annotated)
        .filter(|owner| *owner != key.name)
        .map(str::to_owned)
}

/// The ingress class of each name's source Ingress, where it has one.
pub(crate) fn find_sources(
    certificate: &Certificate,
    context: &Context,
) -> BTreeMap<String, String> {
    let owning = owners(certificate).filter_map(|owner| {
        let namespace = certificate
            .metadata
            .namespace
            .as_deref()
            .unwrap_or_default();
        let ingress = ObjectRef::<Ingress>::new(&owner.name).within(namespace);
        let ingress = context.ingresses.get(&ingress)?;
        (ingress.metadata.uid.as_ref() == Some(&owner.uid)).then_some(ingress)
    });
    let owning: Vec<_> = owning.collect();
    source_classes(owning.iter().map(AsRef::as_ref))
}

/// Why no route can be made for a wanted name; looked at before an order is placed.
pub(super) fn find_unroutable(
    certificate: &Certificate,
    status: &CertificateStatus,
    context: &Context,
    session: Option<&Session>,
) -> Option<String> {
    let session = session.filter(|s| matches!(s.signer, Signer::Acme { .. }))?;
    if status.order.is_some() {
        return None;
    }
    let index = context.projections.index()?;
    let class = session.ingress_class.as_deref();
    let names = certificate.spec.names();
    let mut names = names.iter();
    let sources = find_sources(certificate, context);
    names.find_map(|name| {
        let source = sources.get(name).map(String::as_str);
        index.class_for(source, class, name).err()
    })
}

/// Whether a route leads through a forwarder in the Certificate's namespace, and how far that is.
pub(super) fn find_forwarder(
    certificate: &Certificate,
    context: &Context,
    session: Option<&Session>,
) -> ForwarderState {
    let acme = session.filter(|s| matches!(s.signer, Signer::Acme { .. }));
    let (Some(session), Some(index)) = (acme, context.projections.index()) else {
        return ForwarderState::Unneeded;
    };
    let sources = find_sources(certificate, context);
    let issuers = session.ingress_class.as_deref();
    let class_of = |name: &str| {
        let source = sources.get(name).map(String::as_str);
        index.class_for(source, issuers, name).ok()
    };
    let names = certificate.spec.names();
    let mut classes = names.iter().filter_map(|name| class_of(name));
    let Some(class) = classes.find(|class| index.is_forwarded(session.placement, class)) else {
        return ForwarderState::Unneeded;
    };
    if context.config.forwarder.is_none() {
        let is_asked_for = session.placement.is_some();
        return ForwarderState::NotAllowed(describe_refusal(&class.0, is_asked_for));
    }
    let namespace = certificate.namespace().unwrap_or_default();
    ForwarderState::Needed(observe_solver(context.projections.forwarder(&namespace)))
}

/// Labels and annotations of a namespace.
fn labels_of(
    name: &str,
    context: &Context,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let namespace = context.namespaces.get(&ObjectRef::new(name));
    namespace
        .map(|n| (n.labels().clone(), n.annotations().clone()))
        .unwrap_or_default()
}

/// Why the policy of the issuer that `reference` names does not let the Certificate have its names.
pub(crate) fn check_issuer_policy(
    key: &ObjectKey,
    certificate: &Certificate,
    reference: &IssuerRef,
    session: Option<&Session>,
    context: &Context,
) -> Option<Refusal> {
    let policy = session.map(|s| s.policy.as_slice())?;
    let namespace = &key.namespace;
    let age = |c: &Certificate| {
        let since = c.metadata.creation_timestamp.as_ref();
        (since.map(|Time(at)| *at), c.name_any())
    };
    let others = context
        .certificates
        .state()
        .iter()
        .filter(|c| {
            c.namespace().as_deref() == Some(namespace)
                && c.spec.issuer_refs().any(|r| r == reference)
        })
        .filter(|c| c.metadata.name.as_deref() != Some(&key.name))
        .filter(|c| age(c) < age(certificate))
        .count();
    let (labels, _) = labels_of(namespace, context);
    let wanted = certificate.spec.names();
    check_policy(policy, namespace, &labels, &wanted, others)
}

/// Why a wanted name may not be had in this namespace.
pub(super) fn find_refusal(
    o: &Observed,
    certificate: &Certificate,
    context: &Context,
    session: Option<&Session>,
    now: Timestamp,
) -> Option<Refusal> {
    let namespace = &o.key.namespace;
    let wanted = o.wanted_names();
    if let Some(refusal) =
        check_issuer_policy(&o.key, certificate, o.issuer_ref(), session, context)
    {
        return Some(refusal);
    }
    if context.config.name_sharing_allowed {
        return None;
    }
    let in_place = o.issued().filter(|c| c.is_valid_at(now));
    let shares = |name: &str| {
        if context.config.territory.is_confined() {
            return Sharing::Unread;
        }
        Sharing::of(labels_of(name, context).1.get(keys::NAME_SHARING))
    };
    let certificates = context.certificates.state();
    let ingresses = context.ingresses.state();
    // One that is refused itself holds nothing.
    let is_refused = |c: &Certificate| {
        let conditions = c.status.iter().flat_map(|s| &s.conditions);
        let refused = Reason::NameHeldElsewhere.as_str();
        conditions
            .filter(|c| c.type_ == READY)
            .any(|c| c.status == "False" && c.reason == refused)
    };
    let by_certificate = certificates
        .iter()
        .filter(|c| !is_refused(c))
        .flat_map(|c| {
            let (namespace, since) = (
                c.metadata.namespace.as_deref(),
                c.metadata.creation_timestamp.as_ref(),
            );
            let (names, addresses) = (c.spec.dns_names.iter(), c.spec.ip_addresses.iter());
            names
                .chain(addresses)
                .map(move |host| (namespace, host.as_str(), since.map(|Time(at)| *at)))
        });
    // An Ingress that came after this Certificate does not take a name away that is in place. An older Certificate does:
    // whoever may write the Secret could put any certificate there, and a CA may remember an authorization.
    let since = |i: &Ingress| i.metadata.creation_timestamp.as_ref().map(|Time(at)| *at);
    let is_later = |i: &Ingress| since(i).is_some_and(|at| at > o.created_at);
    let is_in_place = |host: &str| in_place.is_some_and(|c| c.covers([host]));
    let by_ingress = ingresses.iter().filter(|i| !is_route(i)).flat_map(|i| {
        let later = is_later(i);
        let rules = i.spec.as_ref().and_then(|s| s.rules.as_ref());
        let namespace = i.metadata.namespace.as_deref();
        rules
            .into_iter()
            .flatten()
            .filter_map(|r| r.host.as_deref())
            .filter(move |host| !(later && is_in_place(host)))
            .map(move |host| (namespace, host, None))
    });
    let holders = by_certificate
        .chain(by_ingress)
        .filter(|(_, host, _)| wanted.iter().any(|n| n == host))
        .map(|(namespace, host, certificate_since)| {
            let namespace = namespace.unwrap_or_default();
            Holder {
                namespace,
                host,
                certificate_since,
                sharing: shares(namespace),
            }
        });
    check_holders(holders, namespace, o.created_at, &wanted)
}
