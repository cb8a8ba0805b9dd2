//! `Certificate`: what a person wants, and what became of it.

// KubeSchema derives a private copy of each type, with `pub` fields that nobody outside can reach.
#![allow(unreachable_pub)]

mod status;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::status::{
    AttemptOutcome, AttemptStatus, CertificateStatus, FailureStatus, OrderStatus, RefusalStatus,
    RenewalInfoStatus, WindowStatus,
};
use crate::issuer::SecretRef;
use crate::{duration, schema};

/// A certificate that Evercert gets, keeps in a TLS Secret, and renews.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "evercert.dev",
    version = "v1",
    kind = "Certificate",
    plural = "certificates",
    shortname = "cert",
    shortname = "certs",
    category = "evercert",
    namespaced,
    status = "CertificateStatus",
    derive = "PartialEq",
    doc = "A certificate that Evercert gets, keeps in a TLS Secret, and renews.",
    crates(kube_core = "::kube_core"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Secret","type":"string","jsonPath":".spec.secretName"}"#,
    printcolumn = r#"{"name":"Issuer","type":"string","jsonPath":".spec.issuerRef.name","priority":1}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".status.notAfter"}"#,
    printcolumn = r#"{"name":"Renews","type":"string","jsonPath":".status.renewalTime","priority":1}"#,
    printcolumn = r#"{"name":"Next attempt","type":"string","jsonPath":".status.nextAttemptTime","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[x_kube(
    validation = Rule::new("(has(self.dnsNames) && size(self.dnsNames) > 0) || (has(self.ipAddresses) && size(self.ipAddresses) > 0)")
        .message("list the host names of the certificate, or its addresses in ipAddresses, 1 to 100 in all")
        .reason(Reason::FieldValueRequired)
        .field_path(".dnsNames"),
    validation = Rule::new("!has(self.dnsNames) || !has(self.ipAddresses) || size(self.dnsNames) + size(self.ipAddresses) <= 100")
        .message("with dnsNames there are more than 100: a certificate has 100 names and addresses at most")
        .reason(Reason::FieldValueInvalid)
        .field_path(".ipAddresses"),
    validation = Rule::new("!has(self.renewBefore) || !has(self.renewBeforePercentage)")
        .message("renewBefore and renewBeforePercentage exclude each other: keep one of them")
        .reason(Reason::FieldValueForbidden)
        .field_path(".renewBeforePercentage"),
    validation = Rule::new("!has(self.fallback) || !has(self.fallback.secretRef) || self.fallback.secretRef.name != self.secretName")
        .message("is the Secret of this Certificate itself: name another one, with your own certificate in it")
        .reason(Reason::FieldValueInvalid)
        .field_path(".fallback.secretRef.name")
)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSpec {
    /// Name of the `kubernetes.io/tls` Secret, in the Certificate's namespace, that holds the certificate.
    #[schemars(length(max = 253))]
    #[x_kube(validation = schema::object_name())]
    pub secret_name: String,
    /// The host names of the certificate: lower case, IDNA A-labels, no wildcards (HTTP-01 cannot prove them). With ipAddresses, 1 to
    /// 100 in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), transform = schema::host_names)]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub dns_names: Vec<String>,
    /// The IP addresses of the certificate, IPv4 and IPv6, each in its canonical form. Let's Encrypt signs them with the profile
    /// `shortlived` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), transform = schema::addresses)]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub ip_addresses: Vec<String>,
    /// Who signs.
    pub issuer_ref: IssuerRef,
    /// Who signs when the issuer of `issuerRef` refuses for good, in this order; the way back is taken at the next renewal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub alternate_issuer_refs: Vec<IssuerRef>,
    /// The kind of private key, and whether each certificate gets a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<PrivateKey>,
    /// How long before expiry the certificate is renewed, such as `720h`; at most two thirds of its lifetime, at least a twentieth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 21))]
    #[x_kube(
        validation = Rule::new(format!("self.matches('{}') && self.matches('[1-9]')", duration::PATTERN))
            .message("must be a duration above zero in hours, minutes and seconds, such as 720h, 1h30m or 90s")
            .reason(Reason::FieldValueInvalid)
    )]
    pub renew_before: Option<String>,
    /// The same as a percentage of the certificate's lifetime, 1 to 66.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::own_bounds)]
    #[x_kube(
        validation = Rule::new("self >= 1 && self <= 66")
            .message("must be 1 to 66: a renewal with more than two thirds of the lifetime left would only spend orders")
            .reason(Reason::FieldValueInvalid)
    )]
    pub renew_before_percentage: Option<u8>,
    /// The CA's profile for the certificate; else that of the issuer, else the CA's own choice. A change takes effect at the next
    /// renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// What stands in while no issued certificate can be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Labels and annotations that the Secret carries beside those of other people. A key that is taken out here is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_template: Option<SecretTemplate>,
    /// More forms of certificate and key in the Secret: `CombinedPEM` adds `tls-combined.pem`, the key and then the chain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1))]
    pub output_formats: Vec<OutputFormat>,
    /// `Retain` keeps the Secret when the Certificate is deleted, `Delete` deletes it too.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// True: nothing new is started. An open order is finished, and what is in place stays, but is not renewed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// Labels and annotations of the Secret.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct SecretTemplate {
    /// Labels, 32 at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = schema::template_labels)]
    pub labels: BTreeMap<String, String>,
    /// Annotations, 32 at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = schema::template_annotations)]
    pub annotations: BTreeMap<String, String>,
}

/// One more form of certificate and key.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputFormat {
    /// `tls-combined.pem`: the private key, then the chain.
    #[serde(rename = "CombinedPEM")]
    CombinedPem,
}

/// What becomes of the Secret when the Certificate is deleted.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is deleted too.
    Delete,
}

/// Which issuer signs.
#[derive(
    KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct IssuerRef {
    /// The issuer's name.
    #[schemars(length(max = 253))]
    #[x_kube(validation = schema::object_name())]
    pub name: String,
    /// `Issuer` (in the same namespace) or `ClusterIssuer`.
    #[serde(default)]
    pub kind: IssuerKind,
}

/// The two kinds of issuer.
#[derive(
    JsonSchema,
    Serialize,
    Deserialize,
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
)]
pub enum IssuerKind {
    /// Of one namespace.
    #[default]
    Issuer,
    /// Of the whole cluster.
    ClusterIssuer,
}

impl std::fmt::Display for IssuerRef {
    /// `Kind/name`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

impl IssuerKind {
    /// The kind's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "Issuer",
            Self::ClusterIssuer => "ClusterIssuer",
        }
    }
}

/// The private key of the certificate.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[x_kube(
    validation = Rule::new("self.algorithm != 'ECDSA' || !has(self.size) || self.size in [256, 384]")
        .message("an ECDSA key has size 256 or 384; the sizes 2048, 3072 and 4096 want algorithm RSA")
        .reason(Reason::FieldValueInvalid)
        .field_path(".size"),
    validation = Rule::new("self.algorithm != 'RSA' || !has(self.size) || self.size in [2048, 3072, 4096]")
        .message("an RSA key has size 2048, 3072 or 4096; the sizes 256 and 384 want algorithm ECDSA")
        .reason(Reason::FieldValueInvalid)
        .field_path(".size")
)]
#[serde(rename_all = "camelCase")]
pub struct PrivateKey {
    /// `ECDSA` or `RSA`.
    #[serde(default)]
    pub algorithm: KeyAlgorithm,
    /// ECDSA: 256 (default) or 384. RSA: 2048 (default), 3072 or 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::own_bounds)]
    pub size: Option<u16>,
    /// `Always` makes a new key for each certificate; `Never` keeps the key that is in the Secret.
    #[serde(default)]
    pub rotation_policy: RotationPolicy,
}

/// The algorithm of a private key.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// Elliptic curve.
    #[default]
    #[serde(rename = "ECDSA")]
    Ecdsa,
    /// RSA.
    #[serde(rename = "RSA")]
    Rsa,
}

/// Whether a renewed certificate gets a new key.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum RotationPolicy {
    /// A new key for each certificate.
    #[default]
    Always,
    /// The key in the Secret is used again as long as it is of the wanted kind.
    Never,
}

/// A profile of the CA's (draft-ietf-acme-profiles).
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct Profile {
    /// Its name, as the issuer's `status.profiles` lists it.
    #[schemars(length(max = 64))]
    #[x_kube(validation = schema::profile_name())]
    pub name: String,
    /// `Preferred`: where the CA does not offer it, the CA's own choice is taken. `Required`: then nothing is ordered.
    #[serde(default)]
    pub policy: ProfilePolicy,
}

/// What to do where the CA does not offer a profile.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ProfilePolicy {
    /// The CA chooses.
    #[default]
    Preferred,
    /// Nothing is ordered.
    Required,
}

/// What stands in while no issued certificate can be had.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[x_kube(
    validation = Rule::new("self.mode != 'Secret' || has(self.secretRef)")
        .message("mode Secret wants the name of the Secret with your own certificate in secretRef")
        .reason(Reason::FieldValueRequired)
        .field_path(".secretRef"),
    validation = Rule::new("self.mode == 'Secret' || !has(self.secretRef)")
        .message("secretRef goes with mode Secret: set the mode, or remove secretRef")
        .reason(Reason::FieldValueForbidden)
        .field_path(".secretRef")
)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// `SelfSigned`: a marked self-signed certificate for the same names. `Secret`: your own certificate from the Secret that
    /// `secretRef` names, while it is valid for all names, else a self-signed one. `None`: nothing.
    #[serde(default)]
    pub mode: FallbackMode,
    /// The Secret, in the Certificate's namespace, with your own certificate (`tls.crt`, `tls.key`), such as a wildcard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// `OnFailure`: when an attempt has failed, or none can begin for 30 s. `Immediately`: as soon as there is no certificate.
    #[serde(default)]
    pub trigger: FallbackTrigger,
}

/// When a fallback is written.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum FallbackTrigger {
    /// When an attempt has failed, or none can begin for 30 s.
    #[default]
    OnFailure,
    /// As soon as there is no certificate.
    Immediately,
}

/// The kind of fallback.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum FallbackMode {
    /// A marked self-signed certificate.
    #[default]
    SelfSigned,
    /// A certificate of the user's own.
    Secret,
    /// No fallback.
    None,
}

impl CertificateSpec {
    /// Every name and address, sorted, each once.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .dns_names
            .iter()
            .chain(&self.ip_addresses)
            .cloned()
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Every issuer that may sign, in the order in which they are tried.
    pub fn issuer_refs(&self) -> impl Iterator<Item = &IssuerRef> {
        std::iter::once(&self.issuer_ref).chain(&self.alternate_issuer_refs)
    }

    /// The private key wanted, defaults filled in.
    #[must_use]
    pub fn key(&self) -> PrivateKey {
        self.private_key.clone().unwrap_or_default()
    }

    /// The fallback's mode, default filled in.
    #[must_use]
    pub fn fallback_mode(&self) -> FallbackMode {
        self.fallback.as_ref().map(|f| f.mode).unwrap_or_default()
    }

    /// When a fallback is written, default filled in.
    #[must_use]
    pub fn fallback_trigger(&self) -> FallbackTrigger {
        let fallback = self.fallback.as_ref();
        fallback.map(|f| f.trigger).unwrap_or_default()
    }

    /// The Secret with the user's own certificate, where that is the fallback.
    #[must_use]
    pub fn own_fallback(&self) -> Option<&str> {
        let fallback = self.fallback.as_ref();
        let fallback = fallback.filter(|f| f.mode == FallbackMode::Secret)?;
        fallback.secret_ref.as_ref().map(|r| r.name.as_str())
    }
}

/// A `Time` of whole seconds, as the API server stores it.
#[must_use]
pub fn whole_seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
