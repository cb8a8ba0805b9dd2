//! What became of a Certificate.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube_derive::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lenient;

/// What became of a Certificate. Fields that this version does not know are kept; one that it cannot read counts as absent.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// `Ready`, `Issuing`, `FallbackInUse`, `Stalled`, `Served` while a certificate is issued, and while they hold `RenewBeforeClamped`, `RateLimited` and `Paused`.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The order under way at the CA.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub order: Option<OrderStatus>,
    /// Start of validity of the issued certificate in the Secret.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub not_before: Option<Time>,
    /// End of validity of the issued certificate in the Secret.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub not_after: Option<Time>,
    /// When the certificate in the Secret will be renewed.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub renewal_time: Option<Time>,
    /// Serial number of the issued certificate in the Secret, hexadecimal.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub serial_number: Option<String>,
    /// When the next attempt begins, while the last one has failed.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub next_attempt_time: Option<Time>,
    /// Attempts that failed since the last certificate was issued.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub failed_attempts: Option<u32>,
    /// Since when DNS that is not ready holds the next order back. It does for 10 minutes, once until a certificate is issued, DNS is
    /// seen ready, or other names are wanted.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub held_since: Option<Time>,
    /// The names that it was held back for, as a fingerprint.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub held_for: Option<String>,
    /// The issuers that refused for good; told only where there is another one, and until the first signs again.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub refusals: Vec<RefusalStatus>,
    /// The last attempt that failed; gone when a certificate is issued.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub last_failure: Option<FailureStatus>,
    /// The last ten attempts to have a certificate of the CA, newest first.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<AttemptStatus>,
    /// What the CA says about when to renew the certificate in the Secret (RFC 9773).
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub renewal_info: Option<RenewalInfoStatus>,
    /// Fields of later versions.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// What the CA says about when to renew a certificate (RFC 9773).
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct RenewalInfoStatus {
    /// The certificate that it is about: its authority's key identifier and its serial number (RFC 9773 §4.1).
    #[serde(rename = "certificateID")]
    pub certificate_id: String,
    /// The window in which the CA suggests to renew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowStatus>,
    /// A page of the CA's that says why.
    #[serde(
        default,
        rename = "explanationURL",
        skip_serializing_if = "Option::is_none"
    )]
    pub explanation_url: Option<String>,
    /// When the CA is asked next.
    pub next_poll_time: Time,
    /// How many times in a row the CA gave no answer that can be used.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Why the last time, while the last answer cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// From when until when the CA suggests to renew.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct WindowStatus {
    /// From when on.
    pub start: Time,
    /// Until when.
    pub end: Time,
    /// When it was first known. A renewal in a window that was over by then is spread from there on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_since: Option<Time>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks so
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The order under way at the CA.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct OrderStatus {
    /// The order's URL at the CA.
    pub url: String,
    /// The issuer that it was placed with, `Kind/name`.
    pub issuer: String,
    /// The names ordered.
    #[serde(default)]
    pub names: Vec<String>,
    /// When it was placed.
    pub created_at: Time,
    /// When the CA forgets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// The profile that was ordered, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// An issuer that refused for good.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct RefusalStatus {
    /// The issuer, `Kind/name`.
    pub issuer: String,
    /// When.
    pub time: Time,
    /// Why, in the CA's own words where it said any.
    pub message: String,
    /// A fingerprint of spec and issuer at that time: when it has changed, the issuer is tried again.
    pub fingerprint: String,
}

/// The last attempt that failed.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus {
    /// When it failed.
    pub time: Time,
    /// Why, as one word.
    pub reason: String,
    /// Why, in the CA's own words where it said any.
    pub message: String,
    /// What must change before the next attempt, or else one a day: a fingerprint of spec and issuer at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Or this: a fingerprint of the Ingresses that covered the names then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingresses: Option<String>,
    /// Whether nothing but a change helps.
    #[serde(default)]
    pub permanent: bool,
}

/// An attempt that has ended.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct AttemptStatus {
    /// When it ended.
    pub time: Time,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why, as one word.
    pub reason: String,
    /// What happened, in the CA's own words where it said any.
    pub message: String,
}

/// How an attempt ended.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// With a certificate in the Secret.
    Issued,
    /// Without one: the CA refused, or could not prove a name.
    Failed,
    /// The order was given up, since it was no longer what the spec asks for.
    Abandoned,
    /// No order: an earlier certificate was revoked, as was asked for.
    Revoked,
}
