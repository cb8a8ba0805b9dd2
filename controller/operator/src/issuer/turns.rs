//! Registrations at one directory, one after the other: what a CA says to one of them of its limits is for all that follow.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

/// The longest time that one waits for those before it: a CA that answers none of them is no CA to wait for.
const PATIENCE: Duration = Duration::from_mins(1);

/// Whose turn it is to register an account, by directory.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Does `register` when no other one is under way at `directory`, first come, first served; after a minute in any case.
    pub(super) async fn take<T>(&self, directory: &str, register: impl Future<Output = T>) -> T {
        let turn = {
            // What is kept here is whole after each statement, so a panic elsewhere leaves nothing half done.
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.entry(directory.to_owned()).or_default().clone()
        };
        let _turn = timeout(PATIENCE, turn.lock()).await;
        register.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use evercert_core::fault::{Fault, FaultClass};
    use futures::future::join_all;
    use jiff::Timestamp;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::memory::Memory;

    const ANSWER: Duration = Duration::from_millis(200);

    /// A CA that takes no accounts, asked by forty at the same time; by how many it was.
    async fn asked_by_forty(directory: impl Fn(usize) -> String) -> usize {
        let (turns, memory) = (Turns::default(), Memory::default());
        let asked = AtomicUsize::new(0);
        let limited = Fault {
            class: FaultClass::RateLimited,
            problem: None,
            http_status: Some(429),
            retry_after: None,
            help_url: None,
            unsent: false,
            detail: "too many new registrations".into(),
        };
        let all = (0..40).map(|i| {
            let (directory, turns, memory) = (directory(i), &turns, &memory);
            let (asked, limited) = (&asked, &limited);
            async move {
                let register = async {
                    let now = Timestamp::now();
                    if memory.find_held_accounts(&directory, false, now).is_none() {
                        asked.fetch_add(1, Ordering::Relaxed);
                        sleep(ANSWER).await;
                        memory.hold_accounts(&directory, limited, false, now);
                    }
                };
                turns.take(&directory, register).await;
            }
        });
        join_all(all).await;
        asked.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn of_forty_that_want_an_account_at_once_one_hears_that_there_are_none() {
        assert_eq!(asked_by_forty(|_| "d".to_owned()).await, 1);
        // Directories have nothing to do with each other.
        let began = Instant::now();
        assert_eq!(asked_by_forty(|i| format!("d{i}")).await, 40);
        assert!(began.elapsed() < 2 * ANSWER, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_one_that_is_not_answered() {
        let turns = Turns::default();
        let stuck = turns.take("d", std::future::pending::<()>());
        let bound = PATIENCE + Duration::from_secs(1);
        let other = timeout(bound, turns.take("d", std::future::ready(7)));
        tokio::select! {
            () = stuck => panic!("it was answered"),
            other = other => assert_eq!(other, Ok(7)),
        }
    }
}
