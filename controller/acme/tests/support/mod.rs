//! What every test of the adapter needs: an account key and its account, the time.

use std::sync::Arc;

use evercert_acme::{Acme, Directory};
use evercert_core::contact::plan_contact;
use evercert_core::fault::Fault;
use jiff::Timestamp;
use rcgen::KeyPair;

/// A new account key, PKCS#8 DER.
pub(crate) fn account_key() -> Vec<u8> {
    KeyPair::generate().unwrap().serialize_der()
}

/// The instant that the tests call now.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// Looks the account of `key` up, makes it when the CA does not know it, and gives it `contact` when it has another.
pub(crate) async fn ensure_account(
    directory: &Arc<Directory>,
    key: &[u8],
    contact: Option<&str>,
) -> Result<Arc<dyn Acme>, Fault> {
    let account = match directory.account(key, None, now()).await {
        Err(fault) if fault.is_unknown_account() => directory.new_account(key, None, now()).await?,
        found => found?,
    };
    let contacts = plan_contact(contact, account.contacts(), None);
    if let Some(contacts) = contacts {
        account.update_contacts(&contacts, now()).await?;
    }
    Ok(account.into_acme())
}
