//! Waiting on a condition with a deadline: the only place where time passes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How soon a condition is looked at again at first.
const SOONEST: Duration = Duration::from_millis(50);
/// And how late at last: a state that is there for half a second is seen.
const LATEST: Duration = Duration::from_millis(400);

/// Looks at `condition` until it gives a value: every 50 ms at first, and the longer it has waited the more rarely, since the
/// looks of many stories side by side are half of what an API server of a world has to do.
///
/// # Errors
/// The time is up: the error says what was awaited and why the condition did not hold the last time.
pub async fn wait_for<T>(
    what: &str,
    within: Duration,
    mut condition: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    let mut last = String::new();
    loop {
        let left = within.saturating_sub(started.elapsed());
        last = match tokio::time::timeout(left.max(SOONEST), condition()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => "it does not hold".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("{last} (the last look at it took too long)"),
        };
        if started.elapsed() >= within {
            bail!("waited {within:?} for: {what}\n  last seen: {last}");
        }
        tokio::time::sleep(pause(started.elapsed())).await;
    }
}

/// A twentieth of the time waited so far, within bounds.
fn pause(waited: Duration) -> Duration {
    (waited / 20).clamp(SOONEST, LATEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rarer_with_the_time_waited() {
        let paused = |seconds| pause(Duration::from_secs(seconds)).as_millis();
        assert_eq!([0, 1, 4, 8, 60].map(paused), [50, 50, 200, 400, 400]);
    }

    #[tokio::test]
    async fn time_up_says_what_was_awaited_and_what_was_seen_last() {
        let never = wait_for::<()>("the moon", Duration::from_millis(60), async || {
            bail!("clouds")
        })
        .await;
        let text = never.unwrap_err().to_string();
        assert!(
            text.contains("the moon") && text.contains("clouds"),
            "{text}"
        );
    }
}
