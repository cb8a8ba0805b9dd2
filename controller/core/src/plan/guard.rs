//! Rows that end a pass before anything of the certificate is looked at.

use evercert_api::{DnsName, Identifier, Reason};
use jiff::Timestamp;

use super::{Plan, RECHECK, RESYNC, State, Step, later};
use crate::adopt::find_obstacle;
use crate::observe::{Observed, SecretObservation};

/// A Certificate that is being deleted: what is open for it is forgotten; the Secret stays.
pub(super) fn plan_deleted(o: &Observed, now: Timestamp) -> Option<Plan> {
    o.deleted.then(|| Plan {
        step: Step::Forget,
        ..Plan::wait(
            "deleted",
            State::Idle,
            Reason::Idle,
            "the Certificate is being deleted",
            later(now, RESYNC),
        )
    })
}

/// An order under way for a Certificate that cannot have its Secret or its names any more: it is given up, and what is open for
/// it goes.
pub(super) fn plan_give_up(o: &Observed, now: Timestamp) -> Option<Plan> {
    o.status.order.as_ref()?;
    let why = [plan_invalid_spec, plan_secret_conflict, plan_foreign_secret]
        .iter()
        .find_map(|row| row(o, now))?
        .say
        .message;
    let message = format!("the order is given up: {why}");
    let step = Step::Abandon { why };
    Some(Plan::act(
        "give up",
        step,
        Reason::OrderAbandoned,
        message,
        now,
    ))
}

/// A spec that the schema let through and that cannot be fulfilled all the same.
pub(super) fn plan_invalid_spec(o: &Observed, now: Timestamp) -> Option<Plan> {
    let (names, addresses) = (&o.spec.dns_names, &o.spec.ip_addresses);
    let bad_name = names.iter().find_map(|n| DnsName::parse(n).err());
    let bad_address = || {
        addresses
            .iter()
            .find_map(|n| Identifier::parse_address(n).err())
    };
    let message = if let Some(error) = bad_name {
        format!("spec.dnsNames: {error}")
    } else if let Some(error) = bad_address() {
        format!("spec.ipAddresses: {error}")
    } else if names.is_empty() && addresses.is_empty() {
        "spec.dnsNames: the list is empty: list at least one host name, or an address in ipAddresses".to_owned()
    } else {
        return None;
    };
    Some(Plan::wait(
        "spec invalid",
        State::Stalled,
        Reason::InvalidSpec,
        message,
        later(now, RESYNC),
    ))
}

/// Another Certificate owns the Secret.
pub(super) fn plan_secret_conflict(o: &Observed, now: Timestamp) -> Option<Plan> {
    let owner = o.secret_owner.as_ref()?;
    let message = format!(
        "Secret {} belongs to Certificate {owner}: choose another spec.secretName. Looked at again every 30 s",
        o.spec.secret_name
    );
    Some(Plan::wait(
        "secret conflict",
        State::Stalled,
        Reason::SecretNameConflict,
        message,
        later(now, RECHECK),
    ))
}

/// The Secret is somebody else's, or of a type that cannot be changed: it is never touched.
pub(super) fn plan_foreign_secret(o: &Observed, now: Timestamp) -> Option<Plan> {
    let name = &o.spec.secret_name;
    let (reason, message) = match &o.secret {
        SecretObservation::Foreign(foreign) => {
            let why = find_obstacle(o, foreign, now)?;
            (
                Reason::SecretNotOurs,
                format!(
                    "Secret {name} exists, was not made for this Certificate, and is not taken over, since {why}: choose another \
                     spec.secretName, or delete it. Looked at again every 30 s"
                ),
            )
        }
        SecretObservation::WrongType(kind) => (
            Reason::SecretWrongType,
            format!(
                "Secret {name} is of type {kind}, which cannot be changed to kubernetes.io/tls: delete it, or choose another \
                 spec.secretName. Looked at again every 30 s"
            ),
        ),
        SecretObservation::Missing | SecretObservation::Ours(_) => return None,
    };
    Some(Plan::wait(
        "foreign secret",
        State::Stalled,
        reason,
        message,
        later(now, RECHECK),
    ))
}

#[cfg(test)]
mod tests;
