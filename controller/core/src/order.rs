//! An order as read at the CA (RFC 8555 §7.1.3 to §7.1.5): the operator's view of it, never what a status says.

use evercert_api::Identifier;
use jiff::Timestamp;

use crate::fault::Problem;

/// The state of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderState {
    /// Authorizations are wanting.
    Pending,
    /// All authorizations are valid: finalize.
    Ready,
    /// The CA is signing.
    Processing,
    /// The certificate can be downloaded.
    Valid,
    /// The order failed.
    Invalid,
}

/// An order and its authorizations as they stood when read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderView {
    /// The order's URL.
    pub url: String,
    /// Its state.
    pub state: OrderState,
    /// The identifiers, as the CA gives them, sorted.
    pub names: Vec<String>,
    /// When the CA forgets it.
    pub expires: Option<Timestamp>,
    /// Why it is invalid.
    pub error: Option<Problem>,
    /// The authorizations, in the order's order; empty when the order's state made reading them needless.
    pub authorizations: Vec<AuthorizationView>,
    /// When the CA wants to be asked next.
    pub retry_after: Option<Timestamp>,
    /// When this view was read.
    pub read_at: Timestamp,
}

/// The state of an authorization or of a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProofState {
    /// Waits for the client.
    Pending,
    /// The CA is validating (challenges only).
    Processing,
    /// Proved.
    Valid,
    /// Failed.
    Invalid,
    /// Deactivated, expired or revoked.
    Ended,
}

/// One authorization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationView {
    /// The authorization's URL.
    pub url: String,
    /// The host name or IP address.
    pub name: String,
    /// Its state.
    pub state: ProofState,
    /// Its HTTP-01 challenge; `None` when the CA offers none.
    pub challenge: Option<ChallengeView>,
}

/// The HTTP-01 challenge of an authorization (RFC 8555 §8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeView {
    /// The challenge's URL.
    pub url: String,
    /// The token, of the RFC's alphabet.
    pub token: String,
    /// Token, dot, and the account key's thumbprint.
    pub key_authorization: String,
    /// Its state.
    pub state: ProofState,
    /// Why it failed.
    pub error: Option<Problem>,
}

impl OrderView {
    /// Whether the order is for exactly `names`.
    #[must_use]
    pub fn is_for(&self, names: &[Identifier]) -> bool {
        let mut wanted: Vec<&str> = names.iter().map(Identifier::as_str).collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.names.iter().map(String::as_str).eq(wanted)
    }

    /// The challenges that still wait for the client: what the solver must answer.
    pub fn open_challenges(&self) -> impl Iterator<Item = (&AuthorizationView, &ChallengeView)> {
        self.authorizations
            .iter()
            .filter(|a| a.state == ProofState::Pending)
            .filter_map(|a| a.challenge.as_ref().map(|c| (a, c)))
            .filter(|(_, c)| matches!(c.state, ProofState::Pending | ProofState::Processing))
    }
}
