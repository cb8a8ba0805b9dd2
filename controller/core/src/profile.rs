//! Which of a CA's profiles is ordered (draft-ietf-acme-profiles).

use evercert_api::certificate::ProfilePolicy;
use evercert_api::issuer::directory_url;

use crate::observe::{IssuerObservation, Observed};
use crate::sentence::list;

/// What is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<'a> {
    /// Nobody wants a profile: the CA chooses.
    Any,
    /// This one, which the CA offers.
    Named(&'a str),
    /// Wanted is one that the CA does not offer: it chooses.
    Instead(&'a str),
    /// The spec requires one that the CA does not offer: nothing is ordered.
    Nothing(&'a str),
}

impl Choice<'_> {
    /// The profile that an order names.
    #[must_use]
    pub fn ordered(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::Any | Self::Instead(_) | Self::Nothing(_) => None,
        }
    }
}

/// The profile of the spec, else of the issuer, as far as the CA offers it. `Any` while the issuer is not ready.
#[must_use]
pub fn find_profile(o: &Observed) -> Choice<'_> {
    let IssuerObservation::Ready(issuer) = &o.issuer else {
        return Choice::Any;
    };
    let (wanted, policy) = match (&o.spec.profile, &issuer.profile) {
        (Some(profile), _) => (profile.name.as_str(), profile.policy),
        (None, Some(name)) => (name.as_str(), ProfilePolicy::Preferred),
        (None, None) => return Choice::Any,
    };
    let refused = o.refused_profile.as_deref() == Some(wanted);
    if issuer.profiles.iter().any(|name| name == wanted) && !refused {
        return Choice::Named(wanted);
    }
    match policy {
        ProfilePolicy::Preferred => Choice::Instead(wanted),
        ProfilePolicy::Required => Choice::Nothing(wanted),
    }
}

/// The profile with which Let's Encrypt signs IP addresses, and with no other.
const FOR_ADDRESSES: &str = "shortlived";

/// Why an order for IP addresses would be refused, where the CA is known to sign them with one profile only. Where another issuer
/// may sign, the CA is to say so itself: then that one does.
#[must_use]
pub fn find_refused_addresses(o: &Observed) -> Option<String> {
    let IssuerObservation::Ready(issuer) = &o.issuer else {
        return None;
    };
    let is_lets_encrypt = ["LetsEncrypt", "LetsEncryptStaging"]
        .iter()
        .any(|name| directory_url(name) == issuer.directory);
    if o.spec.ip_addresses.is_empty()
        || !o.spec.alternate_issuer_refs.is_empty()
        || !is_lets_encrypt
        || find_profile(o).ordered() == Some(FOR_ADDRESSES)
    {
        return None;
    }
    Some(format!(
        "Let's Encrypt signs IP addresses with the profile {FOR_ADDRESSES} only: set spec.profile.name to {FOR_ADDRESSES}, or remove \
         spec.ipAddresses"
    ))
}

/// Which field wants `profile`, and what the CA offers instead.
#[must_use]
pub fn build_not_offered(o: &Observed, profile: &str) -> String {
    let reference = &o.spec.issuer_ref;
    let field = match &o.spec.profile {
        Some(_) => "spec.profile.name".to_owned(),
        None => format!(
            "spec.acme.profile of {} {}",
            reference.kind.as_str(),
            reference.name
        ),
    };
    let offered = match &o.issuer {
        IssuerObservation::Ready(issuer) if !issuer.profiles.is_empty() => {
            format!("it offers {}", list(&issuer.profiles))
        }
        IssuerObservation::Ready(_)
        | IssuerObservation::Missing
        | IssuerObservation::NotReady { .. } => "it offers none".to_owned(),
    };
    format!("{field} asks for the profile {profile}, which the CA does not offer ({offered})")
}

#[cfg(test)]
mod tests {
    use evercert_api::Reason;
    use evercert_api::certificate::Profile;
    use evercert_api::condition::{self, PROFILE_PENDING, READY, STALLED};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    use super::*;
    use crate::observe::Marks;
    use crate::plan::fixtures::{due, good, marks, now, observed};
    use crate::plan::{Step, plan};
    use crate::report::build_status;

    fn wanting(name: &str, policy: ProfilePolicy) -> Observed {
        let mut o = observed().with_pending_key();
        o.spec.profile = Some(Profile {
            name: name.into(),
            policy,
        });
        o.offering_profiles(&["classic", "tlsserver"], None)
    }

    #[test]
    fn addresses_are_ordered_at_lets_encrypt_with_the_one_profile_that_it_signs_them_with() {
        let directory = directory_url("LetsEncrypt");
        let wanting_addresses = |profile: &str| {
            let mut o = wanting(profile, ProfilePolicy::Preferred)
                .with_issuer("Issuer/ca", directory)
                .offering_profiles(&["classic", "shortlived"], None);
            o.spec.ip_addresses = vec!["198.18.0.2".into()];
            o
        };
        let held = told(&wanting_addresses("classic"), STALLED).unwrap();
        assert!(
            held.status == "True" && held.message.contains("set spec.profile.name to shortlived"),
            "{held:?}"
        );
        assert_eq!(
            plan(&wanting_addresses("shortlived"), now()).step,
            Step::PlaceOrder
        );
        let mut names = wanting_addresses("classic");
        names.spec.ip_addresses.clear();
        assert_eq!(plan(&names, now()).step, Step::PlaceOrder);
        let elsewhere =
            wanting_addresses("classic").with_issuer("Issuer/ca", "https://ca.example/directory");
        assert_eq!(find_refused_addresses(&elsewhere), None);
        let mut with_another = wanting_addresses("classic");
        with_another.spec.alternate_issuer_refs = vec![with_another.spec.issuer_ref.clone()];
        assert_eq!(find_refused_addresses(&with_another), None);
    }

    fn told(o: &Observed, kind: &str) -> Option<Condition> {
        let status = build_status(o, &plan(o, now()), now());
        condition::find(&status.conditions, kind).cloned()
    }

    #[test]
    fn the_specs_profile_comes_before_the_issuers_and_both_only_where_the_ca_offers_them() {
        use ProfilePolicy::{Preferred, Required};
        let o = wanting("tlsserver", Preferred);
        assert_eq!(find_profile(&o), Choice::Named("tlsserver"));
        let o = o.offering_profiles(&["classic", "tlsserver"], Some("classic"));
        assert_eq!(find_profile(&o), Choice::Named("tlsserver"));
        let of_issuer = observed().offering_profiles(&["classic"], Some("classic"));
        assert_eq!(find_profile(&of_issuer), Choice::Named("classic"));
        let gone = observed().offering_profiles(&["classic"], Some("shortlived"));
        assert_eq!(find_profile(&gone), Choice::Instead("shortlived"));
        assert_eq!(find_profile(&wanting("x", Preferred)), Choice::Instead("x"));
        assert_eq!(find_profile(&wanting("x", Required)), Choice::Nothing("x"));
        assert_eq!(find_profile(&observed()), Choice::Any);
        assert_eq!(
            find_profile(&wanting("x", Required).without_issuer()),
            Choice::Any
        );
        let mut refused = wanting("tlsserver", Preferred);
        refused.refused_profile = Some("tlsserver".into());
        assert_eq!(find_profile(&refused), Choice::Instead("tlsserver"));
        assert_eq!(find_profile(&refused).ordered(), None);
    }

    #[test]
    fn a_required_profile_that_is_not_offered_is_a_persons_matter_and_costs_no_order() {
        let o = wanting("shortlived", ProfilePolicy::Required);
        let next = plan(&o, now());
        assert_eq!(
            (&next.step, next.say.reason),
            (&Step::Wait, Reason::ProfileNotOffered)
        );
        let words = "spec.profile.name asks for the profile shortlived, which the CA does not offer (it offers classic, tlsserver). \
                     Name one of these, or set spec.profile.policy to Preferred";
        assert!(next.say.message.contains(words), "{}", next.say.message);
        assert_eq!(told(&o, STALLED).map(|c| c.status), Some("True".to_owned()));
        let stays = o.clone().with_certificate(due()).with_marks(marks());
        assert_eq!(
            told(&stays, READY).map(|c| c.status),
            Some("True".to_owned())
        );
        assert_eq!(plan(&o.created(-31), now()).row, "fallback due");
        let preferred = wanting("shortlived", ProfilePolicy::Preferred);
        assert_eq!(plan(&preferred, now()).step, Step::PlaceOrder);
    }

    #[test]
    fn a_changed_profile_waits_for_the_renewal_and_a_condition_says_so() {
        let issued_with = |profile: Option<&str>, o: Observed| {
            let o = o.with_certificate(good()).with_last_good(good());
            o.with_marks(Marks {
                profile: profile.map(str::to_owned),
                ..marks()
            })
        };
        let pending = |profile: Option<&str>, o: Observed| {
            let o = issued_with(profile, o);
            assert!(matches!(
                plan(&o, now()).step,
                Step::DropPendingKey | Step::Wait
            ));
            told(&o, PROFILE_PENDING).map(|c| (c.reason, c.message))
        };
        let wanted = || wanting("tlsserver", ProfilePolicy::Required);
        assert_eq!(pending(Some("tlsserver"), wanted()), None);
        let (reason, message) = pending(Some("classic"), wanted()).unwrap();
        assert_eq!(reason, "ProfilePending");
        assert!(message.contains("was ordered with the profile classic, tlsserver is wanted: it comes with the renewal at 2027"), "{message}");
        let (_, message) = pending(None, wanted()).unwrap();
        assert!(message.contains("without a profile"), "{message}");
        let (_, message) = pending(Some("classic"), observed()).unwrap();
        assert!(message.contains("none is wanted"), "{message}");
        assert_eq!(pending(None, observed()), None);
        let (reason, message) = pending(None, wanting("x", ProfilePolicy::Preferred)).unwrap();
        assert_eq!(reason, "ProfileNotOffered");
        assert!(
            message.contains("does not offer (it offers classic, tlsserver): the CA chooses"),
            "{message}"
        );
    }
}
