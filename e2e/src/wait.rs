//! Waiting on a condition with a deadline: the only place where time passes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Looks at `condition` every 50 ms until it gives a value.
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
        last = match tokio::time::timeout(left.max(POLL), condition()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => "it does not hold".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("{last} (the last look at it took too long)"),
        };
        if started.elapsed() >= within {
            bail!("waited {within:?} for: {what}\n  last seen: {last}");
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
