//! Why an issuer cannot sign, in words with a remedy, from what a CA has answered.

use evercert_acme::{ConnectError, ExternalAccount};
use evercert_api::Reason;
use evercert_api::issuer::AcmeIssuer;
use evercert_core::fault::{Fault, FaultClass};
use evercert_core::sentence::{build_fault, find_remedy};

use super::external;
use super::ready::{Again, NotReady};

/// The CA takes accounts only that are bound to one of its own (RFC 8555 §7.3.4).
const EXTERNAL_ACCOUNT_REQUIRED: &str = "externalAccountRequired";

/// Why a directory cannot be used.
pub(super) fn explain_connect(error: &ConnectError) -> NotReady {
    let (reason, remedy, retry_after) = match error {
        ConnectError::InvalidUrl { .. } => {
            let message =
                format!("spec.acme.directory: {error}: write the https URL of an ACME directory");
            return NotReady::here(Reason::InvalidDirectory, message);
        }
        ConnectError::InvalidBundle(_) => {
            let message = format!(
                "spec.acme.caBundle: {error}: give PEM certificates (-----BEGIN CERTIFICATE-----)"
            );
            return NotReady::here(Reason::InvalidCABundle, message);
        }
        ConnectError::Untrusted { .. } => (
            Reason::UntrustedDirectory,
            "give the CA's root certificate in spec.acme.caBundle or caBundleSecretRef",
            None,
        ),
        ConnectError::Unreachable { .. } => (
            Reason::CAUnavailable,
            "check spec.acme.directory, and that the operator may reach it; it is tried again",
            None,
        ),
        ConnectError::Outage { retry_after, .. } => (
            Reason::CAUnavailable,
            "nothing to mend here; it is tried again",
            *retry_after,
        ),
        ConnectError::NotAcme { .. } => (
            Reason::NotAnAcmeDirectory,
            "write the URL of the CA's ACME directory into spec.acme.directory",
            None,
        ),
    };
    NotReady {
        retry_after,
        ..NotReady::outage(reason, format!("{error}: {remedy}"))
    }
}

/// Where on the way to an account the CA refused.
pub(super) enum At<'a> {
    /// The account of a key was looked up.
    LookUp,
    /// An account was to be made, bound to this one where there is one.
    Registration(Option<&'a ExternalAccount>),
    /// The account was given its contact.
    Contact,
    /// The account asked for something.
    Request,
}

/// Why there is no account, with what to do about it.
pub(super) fn explain_account(
    fault: &Fault,
    at: &At<'_>,
    is_binding_wanted: bool,
    acme: &AcmeIssuer,
) -> NotReady {
    let kind = fault
        .problem
        .as_ref()
        .map(|p| p.kind.as_str())
        .unwrap_or_default();
    let (reason, again) = match (fault.class, at) {
        (FaultClass::Unavailable, _) => (Reason::CAUnavailable, Again::AsInALongOutage),
        (FaultClass::RateLimited, _) => (Reason::RateLimited, Again::Seldom),
        _ if kind == "userActionRequired" => (Reason::UserActionRequired, Again::Seldom),
        (_, At::Registration(Some(_))) if is_about_binding(kind) => {
            (Reason::EABRejected, Again::OnChange)
        }
        (FaultClass::Account, At::LookUp) if kind.is_empty() || kind == "unauthorized" => {
            (Reason::AccountDeactivated, Again::OnChange)
        }
        (_, At::Registration(None)) if is_binding_wanted || kind == EXTERNAL_ACCOUNT_REQUIRED => {
            (Reason::ExternalAccountRequired, Again::Seldom)
        }
        (FaultClass::Transient, _) => (Reason::AccountRefused, Again::AsInALongOutage),
        (
            FaultClass::Validation
            | FaultClass::Account
            | FaultClass::Permanent
            | FaultClass::Gone
            | FaultClass::NotReady,
            _,
        ) => (Reason::AccountRefused, Again::Seldom),
    };
    let remedy = match reason {
        Reason::EABRejected => Some(external::build_remedy(acme)),
        Reason::AccountDeactivated => Some(format!(
            "an account that its CA has ended does not come back; to have another one, write the name of a Secret that does not \
             exist yet into spec.acme.accountKeySecretRef in place of {}",
            acme.account_key_secret_ref.name
        )),
        Reason::ExternalAccountRequired => {
            find_remedy(EXTERNAL_ACCOUNT_REQUIRED).map(str::to_owned)
        }
        _ => find_remedy(kind).map(str::to_owned),
    };
    let remedy = remedy.map(|r| format!(". Remedy: {r}")).unwrap_or_default();
    let message = format!("{}{remedy}", build_fault(fault));
    NotReady {
        retry_after: fault.retry_after,
        again,
        ..NotReady::here(reason, message)
    }
}

/// Whether a refusal of a bound registration is about the binding. CAs have no type of their own for it.
fn is_about_binding(kind: &str) -> bool {
    !matches!(
        kind,
        "invalidContact" | "unsupportedContact" | "badPublicKey" | "badSignatureAlgorithm"
    )
}
