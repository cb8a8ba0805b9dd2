//! Whether a Secret that somebody else made may be taken over (design §3): pure, from what stands on it and in it.

use std::collections::BTreeMap;

use evercert_api::Reason;
use jiff::Timestamp;

use crate::facts::{CertificateFacts, Damage};
use crate::need::whole;
use crate::observe::{ForeignSecret, IssuerObservation, Observed, SELF_SIGNED};
use crate::sentence::list;

/// Annotations by which cert-manager names the Certificate that a Secret belongs to, its present group and its first one.
const CERT_MANAGER: [&str; 2] = [
    "cert-manager.io/certificate-name",
    "certmanager.k8s.io/certificate-name",
];

/// Labels and annotations of controllers that write a Secret anew whenever it differs from its source.
const KEPT_IN_STEP: &[(&str, &str)] = &[
    ("argocd.argoproj.io/instance", "Argo CD"),
    ("argocd.argoproj.io/tracking-id", "Argo CD"),
    ("helm.toolkit.fluxcd.io/name", "Flux"),
    ("kustomize.toolkit.fluxcd.io/name", "Flux"),
    ("kubed.appscode.com/origin", "Config Syncer"),
    ("reconcile.external-secrets.io/managed", "External Secrets"),
    ("reflector.v1.k8s.emberstack.com/reflects", "Reflector"),
    (
        "replicator.v1.mittwald.de/replicate-from",
        "kubernetes-replicator",
    ),
    (
        "replicator.v1.mittwald.de/replicated-from-version",
        "kubernetes-replicator",
    ),
    (
        "service.alpha.openshift.io/originating-service-name",
        "the service CA of OpenShift",
    ),
    (
        "service.beta.openshift.io/originating-service-name",
        "the service CA of OpenShift",
    ),
];

/// What is known of an object that a Secret names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existence {
    /// It exists.
    Exists,
    /// It does not exist.
    Gone,
    /// It cannot be looked at.
    Unknown,
}

/// An owner reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `Kind name`.
    pub what: String,
    /// Whether it is the managing controller.
    pub controller: bool,
}

/// What others left on a Secret.
#[derive(Debug, Clone, Copy)]
pub struct Traces<'a> {
    /// Its owner references.
    pub owners: &'a [Owner],
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: &'a BTreeMap<String, String>,
    /// What became of the Certificate that [`cert_manager_certificate`] names.
    pub cert_manager: Existence,
}

/// The Certificate of cert-manager that a Secret's annotations name.
#[must_use]
pub fn cert_manager_certificate(annotations: &BTreeMap<String, String>) -> Option<&str> {
    let mut named = CERT_MANAGER.iter().filter_map(|key| annotations.get(*key));
    named.next().map(String::as_str)
}

/// The living controller that a Secret belongs to, in words. An owner that is gone takes its Secret with it, so a controller's
/// owner reference is a claim whether the owner still exists or not; a Certificate of cert-manager that is gone left it behind.
#[must_use]
pub fn find_claim(traces: &Traces<'_>) -> Option<String> {
    if let Some(owner) = traces.owners.iter().find(|owner| owner.controller) {
        return Some(owner.what.clone());
    }
    if let Some(name) = cert_manager_certificate(traces.annotations) {
        match traces.cert_manager {
            Existence::Exists => return Some(format!("Certificate {name} of cert-manager")),
            Existence::Unknown => {
                return Some(format!(
                    "Certificate {name} of cert-manager, unless that is gone, which cannot be looked up"
                ));
            }
            Existence::Gone => {}
        }
    }
    let stands =
        |key: &str| traces.labels.contains_key(key) || traces.annotations.contains_key(key);
    KEPT_IN_STEP
        .iter()
        .find(|(key, _)| stands(key))
        .map(|(_, who)| (*who).to_owned())
}

/// Why a Secret of somebody else is not adopted; `None` when it may be: nobody claims it, and its certificate is good now, for
/// every wanted name, and by a CA unless the issuer signs by itself.
#[must_use]
pub fn find_obstacle(o: &Observed, secret: &ForeignSecret, now: Timestamp) -> Option<String> {
    if let Some(claim) = &secret.claim {
        return Some(format!("it belongs to {claim}"));
    }
    let facts = match &secret.content {
        Ok(facts) => facts,
        Err(damage) => {
            return Some(
                match damage {
                    Damage::MissingData => "it holds no certificate with its key",
                    Damage::InvalidCertificate => "its certificate cannot be read",
                    Damage::InvalidKeyPair => "its key does not belong to its certificate",
                }
                .to_owned(),
            );
        }
    };
    if secret.fallback {
        return Some("it holds the self-signed fallback of a Certificate that is gone".to_owned());
    }
    if now >= facts.not_after {
        return Some(format!(
            "its certificate expired at {}",
            whole(facts.not_after)
        ));
    }
    if now < facts.not_before {
        return Some(format!(
            "its certificate is not valid before {}",
            whole(facts.not_before)
        ));
    }
    let wanted = o.wanted_names();
    let missing: Vec<&String> = wanted
        .iter()
        .filter(|n| !facts.covers([n.as_str()]))
        .collect();
    if !missing.is_empty() {
        return Some(format!("its certificate lacks {}", list(&missing)));
    }
    is_signed_by_itself(o, facts).then(|| "its certificate is self-signed".to_owned())
}

/// Whether a certificate is self-signed, and the spec does not name an issuer that signs this way.
fn is_signed_by_itself(o: &Observed, facts: &CertificateFacts) -> bool {
    let wanted =
        matches!(&o.issuer, IssuerObservation::Ready(issuer) if issuer.directory == SELF_SIGNED);
    facts.self_signed && !wanted
}

/// The words of the event: what was adopted, and what follows.
#[must_use]
pub fn build_adopted(
    secret: &str,
    facts: Option<&CertificateFacts>,
    issuer: &str,
) -> (Reason, String) {
    let until = facts
        .map(|f| format!(", valid until {},", whole(f.not_after)))
        .unwrap_or_default();
    let text = format!(
        "Secret {secret} was there, with a certificate{until} for the wanted names: it is kept, and renewed by {issuer} in its time"
    );
    (Reason::SecretAdopted, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixtures::{
        DAY, certificate, expired, fallback, foreign, good, now, observed,
    };

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        owned.collect()
    }

    fn claim(
        owners: &[Owner],
        labels: &[(&str, &str)],
        annotations: &[(&str, &str)],
        cert_manager: Existence,
    ) -> Option<String> {
        find_claim(&Traces {
            owners,
            labels: &map(labels),
            annotations: &map(annotations),
            cert_manager,
        })
    }

    #[test]
    fn secret_that_nobody_marked_is_claimed_by_nobody() {
        let helm = [("app.kubernetes.io/managed-by", "Helm")];
        assert_eq!(
            claim(&[], &helm, &[("team", "shop")], Existence::Unknown),
            None
        );
    }

    #[test]
    fn controllers_owner_reference_is_a_claim_and_a_mere_owner_is_none() {
        let owner = |controller| Owner {
            what: "SealedSecret site".into(),
            controller,
        };
        assert_eq!(
            claim(&[owner(false), owner(true)], &[], &[], Existence::Gone),
            Some("SealedSecret site".into())
        );
        assert_eq!(claim(&[owner(false)], &[], &[], Existence::Gone), None);
    }

    #[test]
    fn certificate_of_cert_manager_claims_while_it_exists_or_cannot_be_looked_up() {
        for key in CERT_MANAGER {
            let named = |existence| claim(&[], &[], &[(key, "shop")], existence);
            assert_eq!(
                named(Existence::Exists).as_deref(),
                Some("Certificate shop of cert-manager")
            );
            assert!(
                named(Existence::Unknown)
                    .unwrap()
                    .contains("cannot be looked up")
            );
            assert_eq!(named(Existence::Gone), None);
        }
    }

    #[test]
    fn controllers_that_keep_a_copy_in_step_claim_it_by_label_or_annotation() {
        for (key, who) in KEPT_IN_STEP {
            for (labels, annotations) in [(&[(*key, "x")][..], &[][..]), (&[], &[(*key, "x")])] {
                assert_eq!(
                    claim(&[], labels, annotations, Existence::Gone).as_deref(),
                    Some(*who)
                );
            }
        }
    }

    #[test]
    fn only_a_good_certificate_for_the_wanted_names_that_nobody_claims_is_adopted() {
        let self_signed = CertificateFacts {
            self_signed: true,
            ..good()
        };
        let ahead = certificate("09", &["a.example", "b.example"], 60, DAY);
        let wildcard = certificate("09", &["*.example"], -DAY, DAY);
        let one = certificate("09", &["a.example"], -DAY, DAY);
        let cases = [
            (foreign(Ok(good())), None),
            (foreign(Ok(wildcard)), None),
            (
                ForeignSecret {
                    claim: Some("Flux".into()),
                    ..foreign(Ok(good()))
                },
                Some("belongs to Flux"),
            ),
            (
                foreign(Err(Damage::MissingData)),
                Some("holds no certificate"),
            ),
            (
                foreign(Err(Damage::InvalidCertificate)),
                Some("cannot be read"),
            ),
            (
                foreign(Err(Damage::InvalidKeyPair)),
                Some("does not belong"),
            ),
            (
                ForeignSecret {
                    fallback: true,
                    ..foreign(Ok(fallback()))
                },
                Some("self-signed fallback"),
            ),
            (
                foreign(Ok(expired())),
                Some("expired at 2027-01-14T08:00:00Z"),
            ),
            (foreign(Ok(ahead)), Some("not valid before")),
            (foreign(Ok(one)), Some("lacks b.example")),
            (foreign(Ok(self_signed.clone())), Some("is self-signed")),
        ];
        for (secret, words) in cases {
            let found = find_obstacle(&observed(), &secret, now());
            match words {
                None => assert_eq!(found, None),
                Some(words) => assert!(
                    found.as_ref().is_some_and(|f| f.contains(words)),
                    "{words}: {found:?}"
                ),
            }
        }
        let own = observed().self_signed();
        assert_eq!(find_obstacle(&own, &foreign(Ok(self_signed)), now()), None);
    }
}
