//! Orders that are given up: what the CA still holds open for them is given back.

use evercert_api::Reason;
use evercert_core::observe::Gate;
use evercert_core::order::ProofState;
use evercert_core::report::{Change, Ending};
use evercert_core::sentence::build_fault;
use jiff::Timestamp;

use super::Outcome;
use super::order::order_url;
use crate::context::Context;
use crate::gather::Gathered;
use crate::ledger::Settlement;
use crate::memory::Entry;

/// Gives the order up; what the CA still holds open for it is given back where it can be.
pub(super) async fn abandon(
    gathered: &mut Gathered,
    why: &str,
    context: &Context,
    now: Timestamp,
) -> Outcome {
    let key = gathered.observed.key.clone();
    context.projections.clear(&key);
    context.ledger.settle(&key, &Settlement::Spent, now).await;
    // A status can be forged: only what this process placed itself is given back.
    let mut entry = context.memory.entry(&key);
    context.memory.update(&key, |e| e.placed = None);
    entry.placed = entry
        .placed
        .filter(|p| Some(&p.url) == order_url(gathered).as_ref());
    give_back(&entry, context.memory.gate(&directory_of(&entry)), now).await;
    tracing::info!(certificate = %key, why, "order given up");
    let text = format!("the order under way was given up: {why}");
    let ending = Ending::abandoned(text.clone());
    Outcome::changed(Change::Cleared(ending)).noted(false, Reason::OrderAbandoned, text)
}

/// Gives back what the CA holds open for a Certificate that was deleted, as `entry` remembers it. Nobody waits for it.
pub(super) fn give_back_later(entry: Entry, context: &Context) {
    if entry.under_way().is_some() {
        let gate = context.memory.gate(&directory_of(&entry));
        tokio::spawn(async move { give_back(&entry, gate, Timestamp::now()).await });
    }
}

fn directory_of(entry: &Entry) -> String {
    entry
        .placed
        .as_ref()
        .map(|p| p.directory.clone())
        .unwrap_or_default()
}

/// Deactivates the pending authorizations of the order under way, with the account that placed it (RFC 8555 §7.5.2). Advice to
/// the CA: where it does not answer, they expire.
async fn give_back(entry: &Entry, gate: Option<Gate>, now: Timestamp) {
    let Some((placed, view)) = entry.under_way() else {
        return;
    };
    if gate.is_some_and(|g| now < g.until) {
        return;
    }
    let read = match view {
        Some(view) => Ok(view.clone()),
        None => placed.acme.read_order(&placed.url, now).await,
    };
    let given = match read {
        Ok(view) => {
            let open: Vec<String> = view
                .authorizations
                .iter()
                .filter(|a| a.state == ProofState::Pending)
                .map(|a| a.url.clone())
                .collect();
            if open.is_empty() {
                return;
            }
            placed.acme.deactivate(&open, now).await
        }
        Err(fault) => Err(fault),
    };
    if let Err(fault) = given {
        tracing::debug!(order = %placed.url, fault = %build_fault(&fault), "authorizations were not given back");
    }
}
