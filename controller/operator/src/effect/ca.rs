//! The CA's port, each change by its name. Reads pass as they are.

// Anywhere else in this crate the lint refuses these calls.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that asks for changes at a CA, each time by the name of an effect"
)]

use std::sync::Arc;

use async_trait::async_trait;
use evercert_acme::{Acme, Directory};
use evercert_api::DnsName;
use evercert_core::fault::Fault;
use evercert_core::order::OrderView;
use jiff::Timestamp;

use super::{Effect, perform};
use crate::metrics::{Endpoint, note_request};

/// Looks the account of `key` up, makes it where the CA does not know the key, and gives it `contact` where it has another.
/// Idempotent.
///
/// # Errors
/// What the CA says; see [`Directory::account`].
pub(crate) async fn ensure_account(
    directory: &Arc<Directory>,
    key: &[u8],
    contact: Option<&str>,
    now: Timestamp,
) -> Result<Arc<dyn Acme>, Fault> {
    let found = directory.account(key, None, now).await;
    note_request(Endpoint::Account, &found);
    let account = match found {
        Err(fault) if fault.is_unknown_account() => {
            let made = perform(Effect::NewAccount, directory.new_account(key, now)).await;
            note_request(Endpoint::NewAccount, &made);
            made?
        }
        found => found?,
    };
    if let Some(contact) = contact.filter(|c| !account.has_contact(c)) {
        let update = account.update_contact(contact, now);
        let updated = perform(Effect::UpdateContact, update).await;
        note_request(Endpoint::Account, &updated);
        updated?;
    }
    Ok(Arc::new(Named(account.into_acme())))
}

/// An account whose changes have names.
struct Named(Arc<dyn Acme>);

#[async_trait]
impl Acme for Named {
    fn account_uri(&self) -> &str {
        self.0.account_uri()
    }

    async fn new_order(&self, names: &[DnsName], now: Timestamp) -> Result<OrderView, Fault> {
        let placed = perform(Effect::NewOrder, self.0.new_order(names, now)).await;
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

    async fn certificate(&self, order_url: &str, now: Timestamp) -> Result<String, Fault> {
        let chain = self.0.certificate(order_url, now).await;
        note_request(Endpoint::Certificate, &chain);
        chain
    }

    async fn deactivate(&self, authorization_urls: &[String], now: Timestamp) -> Result<(), Fault> {
        let deactivate = self.0.deactivate(authorization_urls, now);
        let given_back = perform(Effect::DeactivateAuthorizations, deactivate).await;
        note_request(Endpoint::Authorization, &given_back);
        given_back
    }
}
