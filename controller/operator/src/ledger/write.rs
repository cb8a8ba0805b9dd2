//! The one writer: what waits for a directory goes in one write, decided again by what the cluster holds.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use evercert_core::limits::Decision;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use tokio::time::{Instant, timeout_at};

use super::book::{Book, What};
use super::store::{Pages, WriteError, read_all};
use super::{LedgerError, Shared, Waiting};
use crate::apply::ApplyError;
use crate::effect::Effect;

/// How often a write that met another's is tried again.
const TRIES: u32 = 5;
/// How long what nobody waits for waits after a write that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Writes what is due, until the last handle is gone.
pub(super) async fn write_all(
    shared: Weak<Shared>,
    api: Api<ConfigMap>,
    namespace: String,
    mut pages: BTreeMap<String, Pages>,
) {
    while let Some(ledger) = shared.upgrade() {
        let now = Instant::now();
        let next = {
            let accounts = ledger.lock();
            let dues = accounts
                .iter()
                .filter_map(|(d, a)| Some((a.due?, d.clone())));
            dues.min()
        };
        match next {
            Some((due, directory)) if due <= now => {
                let of_directory = pages.entry(directory.clone()).or_default();
                write(&ledger, &api, &namespace, &directory, of_directory).await;
            }
            Some((due, _)) => {
                let _ = timeout_at(due, ledger.queued.notified()).await;
            }
            None => {
                // Looks now and then whether anybody is left.
                let _ = timeout_at(now + Duration::from_mins(1), ledger.queued.notified()).await;
            }
        }
    }
}

/// One write for all that waits for `directory`, its readers told.
async fn write(
    ledger: &Shared,
    api: &Api<ConfigMap>,
    namespace: &str,
    directory: &str,
    pages: &mut Pages,
) {
    let (mut batch, mut book, model) = {
        let mut accounts = ledger.lock();
        let Some(account) = accounts.get_mut(directory) else {
            return;
        };
        account.due = None;
        let batch = std::mem::take(&mut account.waiting);
        (batch, account.written.clone(), account.model.clone())
    };
    // A write that enters no order only tells what became of earlier ones.
    let enters = |waiting: &Waiting| matches!(waiting.entry.what, What::Order(_));
    let effect = if batch.iter().any(enters) {
        Effect::RecordIntent
    } else {
        Effect::SettleIntent
    };
    let known = book.intents.clone();
    let mut tries = TRIES;
    let result = loop {
        tries -= 1;
        let mut next = book.clone();
        if let Some(last) = batch.last() {
            next.tick(&model, last.entry.at);
        }
        let decisions: Vec<Decision> = batch
            .iter()
            .map(|waiting| next.enter(&model, &waiting.entry))
            .collect();
        match pages.write(api, effect, namespace, directory, &next).await {
            Ok(()) => {
                book = next;
                break Ok(decisions);
            }
            Err(WriteError::Changed) if tries > 0 => {}
            Err(WriteError::Changed) => {
                let why = "another writer was faster every time".to_owned();
                break Err(ApplyError::Conflict(why));
            }
            Err(WriteError::Api(error)) => {
                // Some of it may have been written: what is there is read before the next write.
                let _ = reread(api, directory, pages, &mut book).await;
                break Err(error);
            }
        }
        if let Err(error) = reread(api, directory, pages, &mut book).await {
            break Err(error);
        }
        // Two lead at once: whoever was second places no order.
        let is_raced = |waiting: &mut Waiting| {
            let name = &waiting.entry.certificate;
            let there = book.intents.get(name);
            enters(&*waiting) && there.is_some() && there != known.get(name)
        };
        for raced in batch.extract_if(.., is_raced) {
            if let Some(done) = raced.done {
                let _ = done.send(Err(LedgerError::anothers()));
            }
        }
    };
    let mut accounts = ledger.lock();
    let Some(account) = accounts.get_mut(directory) else {
        return;
    };
    account.last_write = Some(Instant::now());
    // What came meanwhile waits for the next write, and is put on top.
    account.adopt(book);
    match result {
        Ok(decisions) => {
            for (waiting, decision) in batch.iter().zip(&decisions) {
                if enters(waiting) && *decision == Decision::Granted {
                    account.own.insert(waiting.entry.certificate.clone());
                }
            }
            answer(batch, decisions);
        }
        Err(error) => {
            let error = LedgerError::Write(error);
            for waiting in batch {
                if let Some(done) = waiting.done {
                    let _ = done.send(Err(error.clone()));
                }
                let mut entry = waiting.entry;
                if matches!(entry.what, What::Order(_)) {
                    entry.what = What::Unplaced;
                }
                if pages.is_one() || !matches!(entry.what, What::Unplaced) {
                    account.current.enter(&account.model, &entry);
                    account.push(Waiting { entry, done: None }, AGAIN);
                }
            }
        }
    }
    if account.due.is_some() {
        let paced = account.last_write.map(|at| at + super::PACE);
        account.due = account.due.max(paced);
    }
}

/// A caller that is gone needs no answer; its order counts as spent.
fn answer(batch: Vec<Waiting>, decisions: Vec<Decision>) {
    for (waiting, decision) in batch.into_iter().zip(decisions) {
        if let Some(done) = waiting.done {
            let _ = done.send(Ok(decision));
        }
    }
}

/// Reads what is there; what this process knows beyond that stays known.
async fn reread(
    api: &Api<ConfigMap>,
    directory: &str,
    pages: &mut Pages,
    book: &mut Book,
) -> Result<(), ApplyError> {
    let mut all = read_all(api).await?;
    let (read_pages, read) = all.remove(directory).unwrap_or_default();
    *pages = read_pages;
    book.reread(read);
    Ok(())
}
