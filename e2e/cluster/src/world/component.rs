//! The parts of a world, one by one: frozen, thawed, started again.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{POLL, World, record};

const FROZEN_WITHIN: Duration = Duration::from_secs(5);

impl World {
    /// The pid of a component inside the world, where a test may stop and continue it; `None` if it is not a component.
    #[must_use]
    pub fn component_pid(&self, component: &str) -> Option<u32> {
        fs::read_to_string(self.state.join(record::PIDS).join(component))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Stops a component as SIGSTOP does, and returns when it stands still: its connections stay open, and nobody answers on
    /// them until [`World::thaw`]. For a component that is frozen already it does nothing.
    ///
    /// # Errors
    /// It is not a component, or does not run.
    pub fn freeze(&self, component: &str) -> Result<()> {
        let pid = self.signal(component, "STOP")?;
        let deadline = Instant::now() + FROZEN_WITHIN;
        while !self.stands_still(pid)? {
            if Instant::now() > deadline {
                bail!("{component} did not stand still within {FROZEN_WITHIN:?}");
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Lets a frozen component go on; for one that is not frozen it does nothing.
    ///
    /// # Errors
    /// It is not a component, or does not run.
    pub fn thaw(&self, component: &str) -> Result<()> {
        self.signal(component, "CONT").map(drop)
    }

    /// Ends a component by SIGKILL, frozen or not, and starts it again with the same arguments; its log goes on. Returns when
    /// the new process runs, which is some time before it answers. Such an end is no failure of the world.
    ///
    /// # Errors
    /// It is not a component (the error names those), or cannot be started.
    pub fn restart(&self, component: &str) -> Result<()> {
        crate::init::control::restart(&self.state, component)
    }

    fn signal(&self, component: &str, signal: &str) -> Result<u32> {
        let pid = self
            .component_pid(component)
            .with_context(|| format!("no component is named {component}"))?;
        // The pid is the inner one: the shell is started inside.
        let output = self
            .command("sh")
            .args([
                "-c",
                "kill -s \"$1\" \"$2\"",
                "sh",
                signal,
                &pid.to_string(),
            ])
            .output()
            .context("starting a shell in the world")?;
        if !output.status.success() {
            bail!(
                "sending SIG{signal} to {component}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(pid)
    }

    fn stands_still(&self, pid: u32) -> Result<bool> {
        let status = self
            .command("cat")
            .arg(format!("/proc/{pid}/status"))
            .output()
            .context("reading a process's state")?;
        Ok(String::from_utf8_lossy(&status.stdout).contains("\nState:\tT"))
    }
}
