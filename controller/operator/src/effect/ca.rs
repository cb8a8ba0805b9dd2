//! The CA's port, each change by its name. Reads pass as they are.

// Anywhere else in this crate the lint refuses these calls.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that asks for changes at a CA, each time by the name of an effect"
)]

use std::sync::Arc;

use async_trait::async_trait;
use evercert_acme::{Acme, Directory, OrderRequest};
use evercert_core::fault::Fault;
use evercert_core::order::OrderView;
use jiff::Timestamp;

use super::{Effect, perform};

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
    let account = match directory.account(key, None, now).await {
        Err(fault) if fault.is_unknown_account() => {
            perform(Effect::NewAccount, directory.new_account(key, now)).await?
        }
        found => found?,
    };
    if let Some(contact) = contact.filter(|c| !account.has_contact(c)) {
        let update = account.update_contact(contact, now);
        perform(Effect::UpdateContact, update).await?;
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

    async fn new_order(
        &self,
        request: OrderRequest<'_>,
        now: Timestamp,
    ) -> Result<OrderView, Fault> {
        perform(Effect::NewOrder, self.0.new_order(request, now)).await
    }

    async fn read_order(&self, url: &str, now: Timestamp) -> Result<OrderView, Fault> {
        self.0.read_order(url, now).await
    }

    async fn accept(&self, challenge_urls: &[String], now: Timestamp) -> Result<(), Fault> {
        let accept = self.0.accept(challenge_urls, now);
        perform(Effect::AcceptChallenges, accept).await
    }

    async fn finalize(
        &self,
        order_url: &str,
        csr_der: &[u8],
        now: Timestamp,
    ) -> Result<OrderView, Fault> {
        let finalize = self.0.finalize(order_url, csr_der, now);
        perform(Effect::Finalize, finalize).await
    }

    async fn certificate(&self, order_url: &str, now: Timestamp) -> Result<String, Fault> {
        self.0.certificate(order_url, now).await
    }

    async fn deactivate(&self, authorization_urls: &[String], now: Timestamp) -> Result<(), Fault> {
        let deactivate = self.0.deactivate(authorization_urls, now);
        perform(Effect::DeactivateAuthorizations, deactivate).await
    }
}
