//! The port: what Evercert asks of a CA for one account.

use async_trait::async_trait;
use evercert_api::Identifier;
use evercert_core::fault::Fault;
use evercert_core::order::OrderView;
use evercert_core::revocation::RevocationReason;
use jiff::Timestamp;

/// What is ordered.
#[derive(Debug, Clone, Copy)]
pub struct OrderRequest<'a> {
    /// The names.
    pub names: &'a [Identifier],
    /// The identifier of the certificate that the new one replaces (RFC 9773 §5); left out where the CA offers no renewal
    /// information.
    pub replaces: Option<&'a str>,
    /// The profile (draft-ietf-acme-profiles); the CA chooses where there is none.
    pub profile: Option<&'a str>,
}

impl<'a> OrderRequest<'a> {
    /// For `names`, and nothing else.
    #[must_use]
    pub fn of(names: &'a [Identifier]) -> Self {
        Self {
            names,
            replaces: None,
            profile: None,
        }
    }
}

/// A certificate as downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The CA's default chain, PEM, leaf first.
    pub pem: String,
    /// Where other chains of the same certificate are (Link `alternate`), as the CA orders them.
    pub alternates: Vec<String>,
}

/// One account at one CA. Every call ends in bounded time, sends the fewest requests that the protocol allows, and never
/// sleeps; `now` only turns a `Retry-After` into an instant and dates the view.
///
/// A URL that is not https on an origin of the directory is refused before any request: [`FaultClass::Gone`] where it was to
/// be read, since an order that cannot be asked for is as good as lost, else [`FaultClass::Permanent`].
///
/// [`FaultClass::Gone`]: evercert_core::fault::FaultClass::Gone
/// [`FaultClass::Permanent`]: evercert_core::fault::FaultClass::Permanent
#[async_trait]
pub trait Acme: Send + Sync {
    /// The account's URL (RFC 8555 §7.3).
    fn account_uri(&self) -> &str;

    /// Places an order (RFC 8555 §7.4): one request. Refused as [`Permanent`](evercert_core::fault::FaultClass::Permanent)
    /// unless the CA's order is for exactly the names and all its URLs are on the directory's origins. The view's
    /// authorizations are empty, whatever its state, so that the caller can record the URL at once: read the order next.
    async fn new_order(
        &self,
        request: OrderRequest<'_>,
        now: Timestamp,
    ) -> Result<OrderView, Fault>;

    /// Reads an order (RFC 8555 §7.1.3) and, while it is pending or when it is invalid, its authorizations (§7.1.4), some of
    /// them at a time.
    async fn read_order(&self, url: &str, now: Timestamp) -> Result<OrderView, Fault>;

    /// Tells the CA that these challenges can be validated (RFC 8555 §7.5.1). Idempotent: a challenge that the CA is
    /// validating or has decided already is left as it is, and what it decided is seen at the next read.
    async fn accept(&self, challenge_urls: &[String], now: Timestamp) -> Result<(), Fault>;

    /// Finalizes a ready order with a certificate signing request (RFC 8555 §7.4). Idempotent: an order in any other state is
    /// returned as it was read, and nothing is sent.
    async fn finalize(
        &self,
        order_url: &str,
        csr_der: &[u8],
        now: Timestamp,
    ) -> Result<OrderView, Fault>;

    /// Downloads the certificate of a valid order as a PEM chain, leaf first (RFC 8555 §7.4.2). May be repeated. An order
    /// that is not valid yet is [`NotReady`](evercert_core::fault::FaultClass::NotReady).
    async fn certificate(&self, order_url: &str, now: Timestamp) -> Result<Chain, Fault>;

    /// Downloads one of a certificate's [`Chain::alternates`] as a PEM chain. May be repeated.
    async fn alternate(&self, url: &str, now: Timestamp) -> Result<String, Fault>;

    /// Revokes a certificate that this account ordered (RFC 8555 §7.6): one request. Idempotent: one that is revoked already
    /// counts as done. [`Permanent`](evercert_core::fault::FaultClass::Permanent) where it is not this account's, or the CA does
    /// not take the reason.
    async fn revoke(
        &self,
        certificate_der: &[u8],
        reason: RevocationReason,
        now: Timestamp,
    ) -> Result<(), Fault>;

    /// Gives authorizations back (RFC 8555 §7.5.2). Idempotent: one that has ended already, or is gone, counts as done.
    async fn deactivate(&self, authorization_urls: &[String], now: Timestamp) -> Result<(), Fault>;
}

/// Whether this process may ask a CA anything: asked before each single request, reads among them.
pub trait Leave: std::fmt::Debug + Send + Sync {
    /// Whether it may, now.
    fn is_given(&self) -> bool;
}

/// What time it is: asked when an answer has arrived, since that is what a `Retry-After` counts from.
pub trait Clock: std::fmt::Debug + Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
