//! Which of the issuers that a Certificate names is to sign: what core needs to know for it, CAA records among it.

use evercert_api::certificate::{IssuerRef, RefusalStatus};
use evercert_api::{Certificate, keys};
use evercert_core::caa::{CaaAnswer, Signing};
use evercert_core::choice::{Choice, Signatory, choose_issuer, find_refusal};
use evercert_core::key::ObjectKey;
use evercert_core::observe::{Gate, IssuerObservation, Other, build_fingerprint};
use evercert_probe::Dns;
use futures::future::join_all;
use jiff::Timestamp;
use kube::ResourceExt;

use crate::context::Context;
use crate::gather::{check_issuer_policy, observe_issuer};
use crate::issuer::{IssuerId, Session, Signer};

/// The one challenge that there is.
pub(crate) const METHOD: &str = "http-01";

/// The issuer that was chosen, and what is known of the others.
pub(crate) struct Chosen {
    /// The issuer.
    pub(crate) id: IssuerId,
    /// How the spec names it, where it is not the first.
    pub(crate) alternate: Option<IssuerRef>,
    /// The others.
    pub(crate) others: Vec<Other>,
    /// Why it is not the first.
    pub(crate) because: Option<String>,
    /// Why no other one is tried, where the first cannot issue.
    pub(crate) passed_over: Option<String>,
    /// Until when the first is not asked again.
    pub(crate) held: Option<Gate>,
}

/// Chooses: while an order is under way the issuer that it was placed with, else by [`choose_issuer`]; a certificate was last issued
/// at `last_issue`. DNS is asked only where the first issuer has refused for good, about all others at once, for 5 s at most.
pub(crate) async fn choose(
    key: &ObjectKey,
    context: &Context,
    certificate: &Certificate,
    last_issue: Option<Timestamp>,
    now: Timestamp,
) -> Chosen {
    let spec = &certificate.spec;
    let namespace = key.namespace.as_str();
    let renew_at = certificate.annotations().get(keys::RENEW_AT);
    let ids: Vec<IssuerId> = spec
        .issuer_refs()
        .map(|reference| IssuerId::of(reference, namespace))
        .collect();
    let sessions: Vec<Option<Session>> = ids.iter().map(|id| context.sessions.get(id)).collect();
    let mut all: Vec<Signatory> = ids
        .iter()
        .zip(&sessions)
        .map(|(id, session)| {
            let issuer = observe_issuer(id, context, session.as_ref(), None);
            Signatory {
                id: id.to_string(),
                fingerprint: build_fingerprint(
                    spec,
                    &id.to_string(),
                    &issuer,
                    renew_at.map(String::as_str),
                ),
                issuer,
                policy: None,
                caa: None,
            }
        })
        .collect();
    let status = certificate.status.as_ref();
    let order = status.and_then(|s| s.order.as_ref());
    let under_way = order.and_then(|o| all.iter().position(|s| s.id == o.issuer));
    let refusals = status.map(|s| s.refusals.as_slice()).unwrap_or_default();
    let choice = if let Some(at) = under_way {
        Choice {
            at,
            because: find_why(&all, at, refusals, last_issue, now),
            passed_over: None,
            held: None,
        }
    } else {
        let first = all.first().filter(|_| all.len() > 1);
        let refused = first.and_then(|s| find_refusal(s, refusals, last_issue, now));
        if refused.is_some() {
            let names = spec.names();
            let alternates = spec.issuer_refs().zip(all.iter_mut().zip(&sessions));
            let looks = alternates
                .skip(1)
                .filter(|(_, (signatory, _))| {
                    matches!(signatory.issuer, IssuerObservation::Ready(_))
                })
                .map(|(reference, (signatory, session))| {
                    let session = session.as_ref();
                    let policy = check_issuer_policy(key, certificate, reference, session, context);
                    signatory.policy = policy.map(|refusal| refusal.message);
                    look(context.dns.as_ref(), signatory, session, &names)
                });
            join_all(looks).await;
        }
        choose_issuer(&all, refusals, last_issue, now)
    };
    let others = all.iter().enumerate().filter(|(at, _)| *at != choice.at);
    let others = others.map(|(_, signatory)| {
        let facts = match &signatory.issuer {
            IssuerObservation::Ready(facts) => Some(facts.clone()),
            IssuerObservation::Missing | IssuerObservation::NotReady { .. } => None,
        };
        let directory = facts.as_ref().map(|facts| facts.directory.as_str());
        Other {
            id: signatory.id.clone(),
            gate: directory.and_then(|d| context.memory.gate_for(d, key, now)),
            facts,
        }
    });
    let alternate = choice
        .at
        .checked_sub(1)
        .and_then(|at| spec.alternate_issuer_refs.get(at));
    Chosen {
        id: IssuerId::of(alternate.unwrap_or(&spec.issuer_ref), namespace),
        alternate: alternate.cloned(),
        others: others.collect(),
        because: choice.because,
        passed_over: choice.passed_over,
        held: choice.held,
    }
}

/// Why the order that is under way is not the first issuer's.
fn find_why(
    all: &[Signatory],
    at: usize,
    refusals: &[RefusalStatus],
    last_issue: Option<Timestamp>,
    now: Timestamp,
) -> Option<String> {
    let first = all.first().filter(|_| at > 0)?;
    let why = find_refusal(first, refusals, last_issue, now);
    let why = why.unwrap_or_else(|| "had refused when the order was placed".to_owned());
    Some(format!("{} {why}", first.id))
}

/// Notes what CAA records say of a signatory that has a CA.
async fn look(
    dns: Option<&Dns>,
    signatory: &mut Signatory,
    session: Option<&Session>,
    names: &[String],
) {
    if let Some(Signer::Acme { acme, directory }) = session.map(|session| &session.signer) {
        let signing = Signing {
            identities: directory.caa_identities(),
            account: Some(acme.account_uri()),
            method: METHOD,
        };
        signatory.caa = Some(ask(dns, &signing, names).await);
    }
}

/// What the CAA records of `names` say of the CA, all names asked about at once: forbidden if one of them does.
async fn ask(dns: Option<&Dns>, signing: &Signing<'_>, names: &[String]) -> CaaAnswer {
    let Some(dns) = dns else {
        return CaaAnswer::Unknown("there is no DNS server to ask".to_owned());
    };
    let answers = join_all(names.iter().map(|name| dns.check_caa(name, signing))).await;
    let rank = |answer: &CaaAnswer| match answer {
        CaaAnswer::Forbidden(_) => 2,
        CaaAnswer::Unknown(_) => 1,
        CaaAnswer::Allowed => 0,
    };
    let worst = answers.into_iter().max_by_key(rank);
    worst.unwrap_or(CaaAnswer::Allowed)
}
