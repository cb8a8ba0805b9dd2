//! Waiting on a condition, with evidence when time is up.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Returns when `check` has nothing to say against; else fails with its last answer.
pub(crate) fn until(
    what: &str,
    mut check: impl FnMut() -> std::result::Result<(), String>,
) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    while let Err(evidence) = check() {
        if Instant::now() > deadline {
            bail!("{what}: not within {WITHIN:?}\n{evidence}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
