//! The Lease as an object (coordination.k8s.io/v1).

use evercert_core::lease::LeaseRecord;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::config::LeaseConfig;

/// What a Lease says.
pub(super) fn read_record(lease: &Lease) -> LeaseRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    LeaseRecord {
        holder: spec.holder_identity,
        duration_seconds: spec.lease_duration_seconds,
        transitions: spec.lease_transitions,
        renewed: spec.renew_time.map(|at| at.0),
    }
}

/// The Lease as `holder` writes it, on top of `before`, whose metadata stay: a write is conditional on its version. The instants
/// in it are for people.
pub(super) fn build_lease(
    config: &LeaseConfig,
    before: Option<&Lease>,
    holder: Option<&str>,
    transition: i32,
) -> Lease {
    let now = Some(MicroTime(Timestamp::now()));
    let spec = before.and_then(|b| b.spec.clone()).unwrap_or_default();
    let stays = spec.lease_transitions == Some(transition) && spec.holder_identity.is_some();
    let seconds = config.candidacy.duration.as_secs();
    let metadata = before.map(|b| b.metadata.clone());
    Lease {
        metadata: metadata.unwrap_or_else(|| ObjectMeta {
            name: Some(config.name.clone()),
            ..ObjectMeta::default()
        }),
        spec: Some(LeaseSpec {
            holder_identity: holder.map(ToOwned::to_owned),
            lease_duration_seconds: i32::try_from(seconds).ok(),
            acquire_time: if stays {
                spec.acquire_time
            } else {
                now.clone()
            },
            renew_time: now,
            lease_transitions: Some(transition),
            ..spec
        }),
    }
}
