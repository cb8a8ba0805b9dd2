//! The CA's port, each change by its name. Reads pass as they are.

// Anywhere else in this crate the lint refuses these calls.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that asks for changes at a CA, each time by the name of an effect"
)]

use std::sync::Arc;

use async_trait::async_trait;
use evercert_acme::{Acme, Chain, Directory, ExternalAccount, FoundAccount, OrderRequest};
use evercert_core::fault::Fault;
use evercert_core::order::OrderView;
use evercert_core::revocation::RevocationReason;
use jiff::Timestamp;

use super::{Effect, perform};
use crate::metrics::{Endpoint, note_request};

/// Makes the account of `key` at the CA, bound to `external` where there is one. Idempotent.
///
/// # Errors
/// What the CA says; see [`Directory::new_account`].
pub(crate) async fn register(
    directory: &Arc<Directory>,
    key: &[u8],
    external: Option<&ExternalAccount>,
    now: Timestamp,
) -> Result<FoundAccount, Fault> {
    let made = directory.new_account(key, external, now);
    let made = perform(Effect::NewAccount, made).await;
    note_request(Endpoint::NewAccount, &made);
    made
}

/// Replaces the account's contacts. Idempotent.
///
/// # Errors
/// What the CA says; see [`FoundAccount::update_contacts`].
pub(crate) async fn update_contacts(
    account: &FoundAccount,
    contacts: &[String],
    now: Timestamp,
) -> Result<(), Fault> {
    let update = account.update_contacts(contacts, now);
    let updated = perform(Effect::UpdateContact, update).await;
    note_request(Endpoint::Account, &updated);
    updated
}

/// Gives the account another key.
///
/// # Errors
/// What the CA says; see [`FoundAccount::change_key`].
pub(crate) async fn change_key(
    account: FoundAccount,
    next: &[u8],
    now: Timestamp,
) -> Result<FoundAccount, Fault> {
    let changed = perform(Effect::ChangeAccountKey, account.change_key(next, now)).await;
    note_request(Endpoint::KeyChange, &changed);
    changed
}

/// The port to the account. Nothing is sent.
pub(crate) fn open(account: FoundAccount) -> Arc<dyn Acme> {
    Arc::new(Named(account.into_acme()))
}

/// An account whose changes have names.
struct Named(Arc<dyn Acme>);

#[async_trait]
impl Acme for Named {
    fn account_uri(&self) -> &str {
        self.0.account_uri()
    }

    async fn new_order(
        &self,
        request: OrderRequest<'_>,
        now: Timestamp,
    ) -> Result<OrderView, Fault> {
        let placed = perform(Effect::NewOrder, self.0.new_order(request, now)).await;
        note_request(Endpoint::NewOrder, &placed);
        placed
    }

    async fn read_order(&self, url: &str, now: Timestamp) -> Result<OrderView, Fault> {
        let read = self.0.read_order(url, now).await;
        note_request(Endpoint::Order, &read);
        read
    }

    async fn accept(&self, challenge_urls: &[String], now: Timestamp) -> Result<(), Fault> {
        let accept = self.0.accept(challenge_urls, now);
        let accepted = perform(Effect::AcceptChallenges, accept).await;
        note_request(Endpoint::Challenge, &accepted);
        accepted
    }

    async fn finalize(
        &self,
        order_url: &str,
        csr_der: &[u8],
        now: Timestamp,
    ) -> Result<OrderView, Fault> {
        let finalize = self.0.finalize(order_url, csr_der, now);
        let finalized = perform(Effect::Finalize, finalize).await;
        note_request(Endpoint::Finalize, &finalized);
        finalized
    }

    async fn certificate(&self, order_url: &str, now: Timestamp) -> Result<Chain, Fault> {
        let chain = self.0.certificate(order_url, now).await;
        note_request(Endpoint::Certificate, &chain);
        chain
    }

    async fn alternate(&self, url: &str, now: Timestamp) -> Result<String, Fault> {
        let chain = self.0.alternate(url, now).await;
        note_request(Endpoint::Certificate, &chain);
        chain
    }

    async fn revoke(
        &self,
        certificate_der: &[u8],
        reason: RevocationReason,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let revoke = self.0.revoke(certificate_der, reason, now);
        let revoked = perform(Effect::Revoke, revoke).await;
        note_request(Endpoint::RevokeCert, &revoked);
        revoked
    }

    async fn deactivate(&self, authorization_urls: &[String], now: Timestamp) -> Result<(), Fault> {
        let deactivate = self.0.deactivate(authorization_urls, now);
        let given_back = perform(Effect::DeactivateAuthorizations, deactivate).await;
        note_request(Endpoint::Authorization, &given_back);
        given_back
    }
}
