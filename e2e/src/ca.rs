//! A Pebble of a story's own: what one story orders does not count in another.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use evercert_cluster::{Pebble, World};

use crate::{curl, wait_for};

/// A running Pebble and what its log tells. It ends when this value is dropped.
#[derive(Debug)]
pub struct TestCa {
    settings: Pebble,
    bundle: PathBuf,
    root: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// How many requests of which kind a CA has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Requests for a new order (RFC 8555 §7.4), refused ones among them.
    pub orders: usize,
    /// Challenges that it was told to validate (RFC 8555 §7.5.1).
    pub challenges: usize,
    /// Requests to finalize an order.
    pub finalized: usize,
    /// Certificates that it signed.
    pub certificates: usize,
    /// Requests for a new account (RFC 8555 §7.3).
    pub accounts: usize,
    /// Requests of any kind, the directory and nonces among them.
    pub requests: usize,
}

impl TestCa {
    /// Starts a Pebble in the world that this process is in, and waits until it answers.
    ///
    /// # Errors
    /// It does not answer within 20 s: the error has the end of its log.
    pub async fn start(world: &World, name: &str, settings: Pebble) -> Result<Self> {
        let dir = world.state().join("cas").join(name);
        let mut command = settings.command(world, &dir)?;
        let log = dir.join("pebble.log");
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("sharing a log")?)
            .stderr(file)
            .spawn()
            .context("starting pebble")?;
        let ca = Self {
            bundle: world.pebble_ca(),
            root: dir.join("root.pem"),
            settings,
            log,
            child: Some(child),
        };
        ca.fetch_root().await?;
        Ok(ca)
    }

    /// The Pebble that every world has. It stays when this value is dropped.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn of_world(world: &World) -> Result<Self> {
        let dir = world.state().join("cas").join("world");
        fs::create_dir_all(&dir).context("creating a folder")?;
        let ca = Self {
            settings: Pebble::default(),
            bundle: world.pebble_ca(),
            root: dir.join("root.pem"),
            log: world.log("pebble"),
            child: None,
        };
        ca.fetch_root().await?;
        Ok(ca)
    }

    async fn fetch_root(&self) -> Result<()> {
        let url = self.settings.root_url();
        let root = wait_for("Pebble's root", Duration::from_secs(20), async || {
            curl::download(&url, &self.bundle).map(Some)
        })
        .await
        .with_context(|| crate::stage::tail(&self.log, 20))?;
        fs::write(&self.root, root).context("writing Pebble's root")
    }

    /// The directory's URL.
    #[must_use]
    pub fn directory(&self) -> String {
        self.settings.directory()
    }

    /// The URL of the management interface: https, and no ACME directory.
    #[must_use]
    pub fn management_url(&self) -> String {
        self.settings.root_url()
    }

    /// The file with the root of what it issues, PEM.
    #[must_use]
    pub fn root(&self) -> &std::path::Path {
        &self.root
    }

    /// The PEM text that its HTTPS endpoint is verified with: an Issuer's `caBundle`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn bundle(&self) -> Result<String> {
        fs::read_to_string(&self.bundle).context("reading the CA bundle")
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &std::path::Path {
        &self.log
    }

    /// What the log tells.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn count(&self) -> Result<Count> {
        let text = fs::read_to_string(&self.log)
            .with_context(|| format!("reading {}", self.log.display()))?;
        Ok(Count::of(&text))
    }
}

impl Drop for TestCa {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Count {
    fn of(log: &str) -> Self {
        let handled = |what: &str| {
            log.lines()
                .filter(|line| line.ends_with("-> calling handler()") && line.contains(what))
                .count()
        };
        Self {
            orders: handled(" POST /order-plz "),
            challenges: handled(" POST /chalZ/ "),
            finalized: handled(" POST /finalize-order/ "),
            accounts: handled(" POST /sign-me-up "),
            certificates: log
                .lines()
                .filter(|line| line.contains("Issued certificate serial"))
                .count(),
            requests: handled(""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_log_are_counted_by_kind() {
        let log = "Pebble 2026/11/22 20:00:00 GET /dir -> calling handler()\n\
                   Pebble 2026/11/22 20:00:00 POST /order-plz -> calling handler()\n\
                   Pebble 2026/11/22 20:00:00 Added order \"x\" to the db\n\
                   Pebble 2026/11/22 20:00:01 POST /chalZ/ -> calling handler()\n\
                   Pebble 2026/11/22 20:00:02 POST /order-plz -> calling handler()\n\
                   Pebble 2026/11/22 20:00:02 Issued certificate serial 1 for order x\n";
        let count = Count::of(log);
        assert_eq!((count.orders, count.challenges, count.finalized), (2, 1, 0));
        assert_eq!((count.certificates, count.requests), (1, 4));
    }
}
