//! What a CA answers, as JSON (RFC 8555 §7.1), read with tolerance: unknown fields and missing optional ones are no error.

use std::collections::BTreeMap;
use std::net::IpAddr;

use evercert_core::fault::{Problem, Subproblem};
use evercert_core::order::{OrderState, ProofState};
use jiff::Timestamp;
use serde::Deserialize;

/// Longest text of a CA that is kept: it ends up in conditions and events.
const LONGEST_TEXT: usize = 2_048;
/// Most subproblems kept: an order has at most 100 names.
const MOST_SUBPROBLEMS: usize = 100;

/// The directory (RFC 8555 §7.1.1).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireDirectory {
    pub(crate) new_nonce: String,
    pub(crate) new_account: String,
    pub(crate) new_order: String,
    pub(crate) revoke_cert: Option<String>,
    pub(crate) key_change: Option<String>,
    pub(crate) renewal_info: Option<String>,
    #[serde(default)]
    pub(crate) meta: WireMeta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireMeta {
    pub(crate) terms_of_service: Option<String>,
    #[serde(default)]
    pub(crate) caa_identities: Vec<String>,
    #[serde(default)]
    pub(crate) external_account_required: bool,
    #[serde(default)]
    pub(crate) profiles: BTreeMap<String, serde_json::Value>,
}

/// An account (RFC 8555 §7.1.2).
#[derive(Debug, Default, Deserialize)]
pub(crate) struct WireAccount {
    pub(crate) status: Option<String>,
    pub(crate) contact: Option<Vec<String>>,
}

/// Renewal information (RFC 9773 §4.2).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireRenewalInfo {
    pub(crate) suggested_window: WireWindow,
    #[serde(rename = "explanationURL")]
    pub(crate) explanation_url: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct WireWindow {
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
}

/// An order (RFC 8555 §7.1.3).
#[derive(Debug, Deserialize)]
pub(crate) struct WireOrder {
    pub(crate) status: WireOrderStatus,
    pub(crate) identifiers: Vec<WireIdentifier>,
    pub(crate) expires: Option<String>,
    pub(crate) error: Option<WireProblem>,
    pub(crate) authorizations: Vec<String>,
    pub(crate) finalize: String,
    pub(crate) certificate: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WireOrderStatus {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
}

/// An authorization (RFC 8555 §7.1.4).
#[derive(Debug, Deserialize)]
pub(crate) struct WireAuthorization {
    pub(crate) identifier: WireIdentifier,
    pub(crate) status: WireProofStatus,
    #[serde(default)]
    pub(crate) challenges: Vec<WireChallenge>,
    #[serde(default)]
    pub(crate) wildcard: bool,
}

/// A challenge (RFC 8555 §7.1.5, §8); other types than http-01 may lack a token.
#[derive(Debug, Deserialize)]
pub(crate) struct WireChallenge {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) url: String,
    pub(crate) status: WireProofStatus,
    #[serde(default)]
    pub(crate) token: String,
    pub(crate) error: Option<WireProblem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WireProofStatus {
    Pending,
    Processing,
    Valid,
    Invalid,
    Deactivated,
    Expired,
    Revoked,
}

#[derive(Debug, Deserialize)]
pub(crate) struct WireIdentifier {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) value: String,
}

/// A problem document (RFC 7807, RFC 8555 §6.7).
#[derive(Debug, Deserialize)]
pub(crate) struct WireProblem {
    #[serde(rename = "type")]
    kind: Option<String>,
    detail: Option<String>,
    pub(crate) instance: Option<String>,
    subproblems: Option<Vec<WireSubproblem>>,
}

#[derive(Debug, Deserialize)]
struct WireSubproblem {
    identifier: Option<WireIdentifier>,
    #[serde(rename = "type")]
    kind: Option<String>,
    detail: Option<String>,
}

impl WireProblem {
    /// `None` for a JSON object that says neither what nor why, which is no problem document.
    pub(crate) fn into_problem(self) -> Option<Problem> {
        if self.kind.is_none() && self.detail.is_none() {
            return None;
        }
        let subproblems = self
            .subproblems
            .unwrap_or_default()
            .into_iter()
            .take(MOST_SUBPROBLEMS);
        Some(Problem {
            kind: bare_kind(self.kind),
            detail: printable(self.detail.as_deref().unwrap_or_default()),
            subproblems: subproblems
                .map(|s| Subproblem {
                    identifier: s.identifier.map(|i| printable(&i.name())),
                    kind: bare_kind(s.kind),
                    detail: printable(s.detail.as_deref().unwrap_or_default()),
                })
                .collect(),
        })
    }
}

impl WireOrder {
    /// The names, sorted; an identifier of another type keeps its type before it, so that it equals no name.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.identifiers.iter().map(WireIdentifier::name).collect();
        names.sort_unstable();
        names
    }

    /// When the CA forgets the order; `None` also for a date that cannot be read.
    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.expires.as_deref().and_then(|e| e.parse().ok())
    }

    /// Every URL that we may follow from here.
    pub(crate) fn urls(&self) -> impl Iterator<Item = &str> {
        self.authorizations
            .iter()
            .chain([&self.finalize])
            .chain(&self.certificate)
            .map(String::as_str)
    }
}

impl WireIdentifier {
    pub(crate) fn name(&self) -> String {
        let is_address = self.value.parse::<IpAddr>();
        match (self.kind.as_str(), is_address) {
            ("dns", Err(_)) => self.value.clone(),
            ("ip", Ok(address)) => address.to_string(),
            _ => format!("{}:{}", self.kind, self.value),
        }
    }
}

impl From<WireOrderStatus> for OrderState {
    fn from(status: WireOrderStatus) -> Self {
        match status {
            WireOrderStatus::Pending => Self::Pending,
            WireOrderStatus::Ready => Self::Ready,
            WireOrderStatus::Processing => Self::Processing,
            WireOrderStatus::Valid => Self::Valid,
            WireOrderStatus::Invalid => Self::Invalid,
        }
    }
}

impl From<WireProofStatus> for ProofState {
    fn from(status: WireProofStatus) -> Self {
        match status {
            WireProofStatus::Pending => Self::Pending,
            WireProofStatus::Processing => Self::Processing,
            WireProofStatus::Valid => Self::Valid,
            WireProofStatus::Invalid => Self::Invalid,
            WireProofStatus::Deactivated | WireProofStatus::Expired | WireProofStatus::Revoked => {
                Self::Ended
            }
        }
    }
}

fn bare_kind(kind: Option<String>) -> String {
    let kind = kind.unwrap_or_else(|| "about:blank".into());
    let bare = kind
        .strip_prefix("urn:ietf:params:acme:error:")
        .unwrap_or(&kind);
    printable(bare)
}

/// A foreign text as it may stand in a status: no control characters, bounded.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_TEXT)
        .collect()
}
