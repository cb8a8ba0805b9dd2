//! What a person sees: each step with its time, as it happens.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use evercert_cluster::World;

/// Carries the start over into the process inside of the world, in the world's folder.
const STARTED: &str = "demo-started";

/// Lines with the seconds since the demo's start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    started: Duration,
}

impl Screen {
    /// Counts from now.
    pub(crate) fn new() -> Self {
        Self { started: now() }
    }

    /// Counts from where the process outside of `world` did.
    pub(crate) fn of(world: &World) -> Self {
        let text = fs::read_to_string(world.state().join(STARTED)).ok();
        let given = text
            .and_then(|text| text.parse().ok())
            .map(Duration::from_millis);
        Self {
            started: given.unwrap_or_else(now),
        }
    }

    /// Lets the process inside of `world` count from where this one does.
    pub(crate) fn hand_over(&self, world: &World) -> Result<()> {
        fs::write(
            world.state().join(STARTED),
            self.started.as_millis().to_string(),
        )
        .context("handing the clock over")
    }

    pub(crate) fn title(&self, text: &str) {
        self.write(&format!("\n── {text}\n"));
    }

    /// Something happened now.
    pub(crate) fn step(&self, text: &str) {
        let elapsed = now().saturating_sub(self.started).as_secs_f64();
        self.write(&format!("[{elapsed:6.1} s] {text}\n"));
    }

    /// More about the step before.
    pub(crate) fn detail(&self, text: &str) {
        let lines = text
            .lines()
            .fold(String::new(), |all, line| all + "           " + line + "\n");
        self.write(&lines);
    }

    /// Runs a command of a person and shows it with its output.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        self.step(&format!("$ {program} {}", args.join(" ")));
        let output = Command::new(program)
            .args(args)
            .output()
            .with_context(|| format!("starting {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        self.detail(text.trim_end());
        self.detail(String::from_utf8_lossy(&output.stderr).trim_end());
        ensure!(
            output.status.success(),
            "{program} {}: {}",
            args.join(" "),
            output.status
        );
        Ok(text)
    }

    #[expect(
        clippy::unused_self,
        reason = "everything that is shown goes through the screen"
    )]
    fn write(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // A closed pipe is no failure of what is shown.
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
