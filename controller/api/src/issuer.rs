//! `Issuer` and `ClusterIssuer`: who signs, and with which account.

// KubeSchema derives a private copy of each type, with `pub` fields that nobody outside can reach.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration, lenient, schema};

/// The directories that may be named by a word.
/// The names of directories that need no URL.
pub const WELL_KNOWN: [&str; 4] = [
    "LetsEncrypt",
    "LetsEncryptStaging",
    "ZeroSSL",
    "GoogleTrustServices",
];

/// The one rule of both kinds.
fn one_kind() -> kube_core::Rule {
    kube_core::Rule::new("has(self.acme) != has(self.selfSigned)")
        .message("set exactly one of acme and selfSigned (written selfSigned: {})")
        .reason(kube_core::Reason::FieldValueInvalid)
}

/// Who signs the certificates of one namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "evercert.dev",
    version = "v1",
    kind = "Issuer",
    plural = "issuers",
    category = "evercert",
    namespaced,
    status = "IssuerStatus",
    derive = "PartialEq",
    doc = "Who signs the certificates of one namespace.",
    crates(kube_core = "::kube_core"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Directory","type":"string","jsonPath":".spec.acme.directory"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(crates(kube_core = "::kube_core"), validation = one_kind())]
#[serde(rename_all = "camelCase")]
pub struct IssuerSpec {
    /// An ACME certificate authority (RFC 8555).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<AcmeIssuer>,
    /// Certificates signed by their own key: for development, and for names that no public CA signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signed: Option<SelfSignedIssuer>,
}

/// Who signs the certificates of every namespace that its policy allows. Its Secrets are in the operator's namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "evercert.dev",
    version = "v1",
    kind = "ClusterIssuer",
    plural = "clusterissuers",
    category = "evercert",
    status = "IssuerStatus",
    derive = "PartialEq",
    doc = "Who signs the certificates of every namespace that its policy allows.",
    crates(kube_core = "::kube_core"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Directory","type":"string","jsonPath":".spec.acme.directory"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(crates(kube_core = "::kube_core"), validation = one_kind())]
#[serde(rename_all = "camelCase")]
pub struct ClusterIssuerSpec {
    /// An ACME certificate authority (RFC 8555).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<AcmeIssuer>,
    /// Certificates signed by their own key: for development, and for names that no public CA signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signed: Option<SelfSignedIssuer>,
    /// Which namespace may have which names; a name must match a rule that selects its namespace. No rule: every namespace,
    /// every name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40))]
    pub policy: Vec<PolicyRule>,
}

/// An ACME certificate authority (RFC 8555).
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[x_kube(
    validation = Rule::new("!has(self.caBundle) || !has(self.caBundleSecretRef)")
        .message("caBundle and caBundleSecretRef exclude each other: keep one of them")
        .reason(Reason::FieldValueForbidden)
        .field_path(".caBundleSecretRef")
)]
#[serde(rename_all = "camelCase")]
pub struct AcmeIssuer {
    /// The directory's URL, https only, or one of `LetsEncrypt`, `LetsEncryptStaging`, `ZeroSSL`, `GoogleTrustServices`.
    #[schemars(length(max = 2048))]
    #[x_kube(
        validation = Rule::new(format!("self in {WELL_KNOWN:?} || self.matches('^https://[^/?#@[:space:]]+([/?][^#[:space:]]*)?$')"))
            .message(format!("must be an https:// URL, or one of {}", WELL_KNOWN.join(", ")).as_str())
            .reason(Reason::FieldValueInvalid)
    )]
    pub directory: String,
    /// The account's contact, optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 254))]
    #[x_kube(
        validation = Rule::new(r"self.matches('^[A-Za-z0-9.!#$*+/=^_{|}~-]+@[A-Za-z0-9-]+(\\.[A-Za-z0-9-]+)+$')")
            .message("must be one mail address, such as certificates@example.com, without a name or mailto:")
            .reason(Reason::FieldValueInvalid)
    )]
    pub email: Option<String>,
    /// Must be true: you agree to the CA's terms of service, whose URL is in the status.
    #[serde(default)]
    pub terms_of_service_agreed: bool,
    /// The Secret with the account's key (`tls.key`); created when missing, never replaced.
    pub account_key_secret_ref: SecretRef,
    /// What a new account is bound to, for a CA that wants it (RFC 8555 §7.3.4). Needed once, when the account is registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_account_binding: Option<ExternalAccountBinding>,
    /// The root that certificates should lead to, by its common name, where the CA offers several chains; its default chain
    /// when absent, and when the CA does not offer it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    #[x_kube(
        validation = Rule::new("self.matches('[^[:space:]]') && !self.matches('-----BEGIN')")
            .message("must be the common name of a root certificate, such as ISRG Root X1")
            .reason(Reason::FieldValueInvalid)
    )]
    pub preferred_chain: Option<String>,
    /// Root certificates, PEM, that the directory's TLS certificate is checked against beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262_144))]
    #[x_kube(
        validation = Rule::new("self.contains('-----BEGIN CERTIFICATE-----')")
            .message("must be certificates in PEM (-----BEGIN CERTIFICATE-----), not in base64 once more")
            .reason(Reason::FieldValueInvalid)
    )]
    pub ca_bundle: Option<String>,
    /// The same from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_secret_ref: Option<SecretKeyRef>,
    /// The CA's profile for certificates that name none, where the CA offers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = schema::profile_name())]
    pub profile: Option<String>,
    /// How the HTTP-01 challenge is routed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http01: Option<Http01>,
}

/// An account at the CA that a new ACME account is bound to (RFC 8555 §7.3.4).
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct ExternalAccountBinding {
    /// The key identifier that the CA gave.
    #[serde(rename = "keyID")]
    #[schemars(length(max = 1024))]
    #[x_kube(
        validation = Rule::new("self.matches('^[!-~]+$')")
            .message("must be the key identifier as the CA gave it, without spaces")
            .reason(Reason::FieldValueInvalid)
    )]
    pub key_id: String,
    /// The Secret with the MAC key that the CA gave beside it, as it gave it: base64url.
    pub key_secret_ref: MacKeyRef,
}

/// One key of a Secret, which has to be named.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct MacKeyRef {
    /// The Secret's name.
    #[schemars(length(max = 253))]
    #[x_kube(validation = schema::object_name())]
    pub name: String,
    /// The key in the Secret's data.
    #[schemars(length(max = 253))]
    #[x_kube(validation = schema::data_key())]
    pub key: String,
}

/// A Secret by name: in the Issuer's namespace, or in the operator's for a ClusterIssuer.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct SecretRef {
    /// The Secret's name.
    #[schemars(length(max = 253))]
    #[x_kube(validation = schema::object_name())]
    pub name: String,
}

/// One key of a Secret.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[schemars(length(max = 253))]
    #[x_kube(validation = schema::object_name())]
    pub name: String,
    /// The key in the Secret's data; `ca.crt` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = schema::data_key())]
    pub key: Option<String>,
}

/// How the HTTP-01 challenge is routed.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct Http01 {
    /// The ingress class of the route to the solver; the cluster's default class when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = schema::object_name())]
    pub ingress_class_name: Option<String>,
    /// Annotations of the route Ingresses, 32 at most, beside those that Evercert knows to be right for the ingress controller, and
    /// in place of them. From an Issuer only keys that the operator's configuration allows are taken.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = schema::route_annotations)]
    pub annotations: BTreeMap<String, String>,
    /// True: the challenge's path goes into the Ingress that serves the name, in the Certificate's namespace, and out of it again.
    /// False: into an Ingress of Evercert's own. As the ingress controller needs it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit_in_place: Option<bool>,
    /// Who is behind the route. `Operator`: the solver in the operator's namespace. `Namespace`: a small pod without credentials in the
    /// Certificate's namespace that passes challenges on to the solver, for load balancers that take no other pods; only where the
    /// operator was given the rights for it. As the ingress controller needs it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// How much it counts what the way to the solver looks like from here before the CA is told that a challenge is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_check: Option<SelfCheck>,
}

/// Who is behind a route.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// The solver, in the operator's namespace.
    Operator,
    /// A forwarder in the Certificate's namespace.
    Namespace,
}

/// How much it counts what the way to the solver looks like from here.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[x_kube(
    validation = Rule::new("!has(self.budget) || self.mode == 'Advisory'")
        .message("is how long a wrong answer holds an order back in mode Advisory: leave it out in the others")
        .reason(Reason::FieldValueForbidden)
        .field_path(".budget")
)]
#[serde(rename_all = "camelCase")]
pub struct SelfCheck {
    /// `Advisory` (default): only a wrong answer holds the order back, and not for long. `Required`: anything but a good answer
    /// does, until the order expires. `Off`, in quotes since YAML has it for a boolean: nothing is looked at.
    #[serde(default)]
    pub mode: SelfCheckMode,
    /// How long a wrong answer holds the order back in mode `Advisory`, 10m at most; 30s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 21))]
    #[x_kube(
        validation = Rule::new(format!("self.matches('{}') && self.matches('[1-9]') && duration(self) <= duration('10m')", duration::PATTERN))
            .message("must be a duration above zero in minutes and seconds such as 30s or 2m, 10m at most")
            .reason(Reason::FieldValueInvalid)
    )]
    pub budget: Option<String>,
}

/// What the self-check may hold back.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum SelfCheckMode {
    /// A wrong answer, for a while.
    #[default]
    Advisory,
    /// Anything but a good answer, until the order expires.
    Required,
    /// Nothing: nobody looks.
    Off,
}

/// Certificates signed by their own key.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
pub struct SelfSignedIssuer {}

/// A rule of who may have which names.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    /// The namespaces that the rule is for, by their labels; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Host names, or `*.suffix` for every name below a suffix; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), transform = schema::allowed_names)]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_names: Vec<String>,
    /// The most Certificates that one selected namespace may have with this issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::own_bounds)]
    #[x_kube(
        validation = Rule::new("self >= 1 && self <= 1000000")
            .message("must be 1 to 1000000; to allow none, let no rule select the namespace")
            .reason(Reason::FieldValueInvalid)
    )]
    pub max_certificates: Option<u32>,
}

/// What became of an Issuer or ClusterIssuer. Fields that this version does not know are kept; one that it cannot read counts
/// as absent.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct IssuerStatus {
    /// `Ready`.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The account's URL at the CA.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        rename = "accountURI",
        skip_serializing_if = "Option::is_none"
    )]
    pub account_uri: Option<String>,
    /// The contact that the account was last given.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub contact: Option<String>,
    /// Where the CA's terms of service can be read.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub terms_of_service: Option<String>,
    /// The directory URL that `accountURI` belongs to.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub directory: Option<String>,
    /// The profiles that the CA offers.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub profiles: Vec<String>,
    /// What the CA's limits leave for the account, as the operator knows it.
    #[serde(
        default,
        deserialize_with = "lenient::field",
        skip_serializing_if = "Option::is_none"
    )]
    pub budget: Option<BudgetStatus>,
    /// Fields of later versions.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// What a CA's limits leave for an account.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// New orders that may be placed now, rounded to a tenth of the most; renewals may be exempt.
    pub orders: u32,
    /// The most that may be placed at once.
    pub most: u32,
    /// When the next order may be placed, while none may be now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_order_time: Option<Time>,
}

/// The directory's URL for a well-known name, or the text itself.
#[must_use]
pub fn directory_url(directory: &str) -> &str {
    match directory {
        "LetsEncrypt" => "https://acme-v02.api.letsencrypt.org/directory",
        "LetsEncryptStaging" => "https://acme-staging-v02.api.letsencrypt.org/directory",
        "ZeroSSL" => "https://acme.zerossl.com/v2/DV90",
        "GoogleTrustServices" => "https://dv.acme-v02.api.pki.goog/directory",
        url => url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_well_known_directory_has_an_https_url() {
        for name in WELL_KNOWN {
            assert!(directory_url(name).starts_with("https://"), "{name}");
        }
    }
}
