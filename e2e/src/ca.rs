//! A Pebble of a story's own: what one story orders does not count in another.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_cluster::{Pebble, World};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
    /// Orders that it made.
    pub placed: usize,
    /// Challenges that it was told to validate (RFC 8555 §7.5.1).
    pub challenges: usize,
    /// Authorizations that it found valid.
    pub validated: usize,
    /// Requests to finalize an order.
    pub finalized: usize,
    /// Certificates that it signed.
    pub certificates: usize,
    /// Requests for a new account (RFC 8555 §7.3).
    pub accounts: usize,
    /// Accounts that it made.
    pub registered: usize,
    /// Requests for an order, a validation or a certificate that it did not look at, each of which it logs when it does. In a
    /// CA that refuses nothing else, these are the ones whose nonce it refused (RFC 8555 §6.5).
    pub turned_away: usize,
    /// Requests of any kind, the directory and nonces among them.
    pub requests: usize,
    /// Looks at renewal information (RFC 9773 §4.1) among them, which come at times of their own.
    pub polls: usize,
}

/// What a CA says of a certificate that it signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is not revoked.
    Good,
    /// It is, for a reason by its number (RFC 5280 §5.3.1).
    Revoked(Option<u64>),
}

impl Count {
    /// Requests for the sake of an order or an account.
    #[must_use]
    pub fn without_polls(&self) -> usize {
        self.requests.saturating_sub(self.polls)
    }

    /// What was changed at the CA: orders asked for, challenges accepted, orders finalized, accounts registered.
    #[must_use]
    pub fn changes(&self) -> [usize; 4] {
        [
            self.orders,
            self.challenges,
            self.finalized,
            self.registered,
        ]
    }
}

impl TestCa {
    /// Starts a Pebble in the world that this process is in, and waits until it answers.
    ///
    /// # Errors
    /// It does not answer within 20 s: the error has the end of its log.
    pub async fn start(world: &World, name: &str, settings: Pebble) -> Result<Self> {
        let dir = world.state().join("cas").join(name);
        let mut ca = Self {
            bundle: world.pebble_ca(),
            root: dir.join("root.pem"),
            settings,
            log: dir.join("pebble.log"),
            child: None,
        };
        ca.begin(world).await?;
        Ok(ca)
    }

    /// Starts it after its [end](Self::end), on the same ports. It has forgotten accounts, orders and its root; its log is
    /// continued.
    ///
    /// # Errors
    /// It runs already, or does not answer within 20 s: the error has the end of its log.
    pub async fn begin(&mut self, world: &World) -> Result<()> {
        ensure!(self.child.is_none(), "this CA runs already");
        let dir = self.log.parent().context("a log without a folder")?;
        let mut command = self.settings.command(world, dir)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening {}", self.log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing a log")?)
            .stderr(log)
            .spawn()
            .context("starting pebble")?;
        self.child = Some(child);
        self.fetch_root().await
    }

    /// Ends it by SIGKILL and waits until it is gone: connections to it are refused from now on.
    ///
    /// # Errors
    /// It does not run, or is the world's own.
    pub fn end(&mut self) -> Result<()> {
        let mut child = self.child.take().context("this CA does not run")?;
        child.kill().context("ending pebble")?;
        child.wait().context("waiting for pebble's end").map(drop)
    }

    /// Ends it and starts it again.
    ///
    /// # Errors
    /// As [`Self::end`] and [`Self::begin`].
    pub async fn restart(&mut self, world: &World) -> Result<()> {
        self.end()?;
        self.begin(world).await
    }

    /// Freezes it: who connects waits for an answer.
    ///
    /// # Errors
    /// It does not run, or is the world's own.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It does not run, or is the world's own.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("this CA does not run")?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)
            .with_context(|| format!("sending {signal}"))
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
        fs::write(&self.root, root).context("writing Pebble's root")?;
        // Its other port opens later.
        let directory = self.directory();
        wait_for("Pebble's directory", Duration::from_secs(20), async || {
            curl::download(&directory, &self.bundle).map(Some)
        })
        .await
        .map(drop)
        .with_context(|| crate::stage::tail(&self.log, 20))
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

    /// The file with the roots that its HTTPS endpoint is verified with.
    #[must_use]
    pub fn endpoint_roots(&self) -> &std::path::Path {
        &self.bundle
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &std::path::Path {
        &self.log
    }

    /// What became of each certificate that it signed since it was started, by serial number in the order of the log.
    ///
    /// # Errors
    /// The log cannot be read, or the management interface does not answer.
    pub fn certificates(&self) -> Result<Vec<(String, Standing)>> {
        let text = fs::read_to_string(&self.log).context("reading Pebble's log")?;
        let signed = text.lines().filter_map(|line| {
            let (_, rest) = line.split_once("Issued certificate serial ")?;
            rest.split_whitespace().next().map(str::to_owned)
        });
        signed
            .map(|serial| {
                let url = self.settings.root_url();
                let base = url.trim_end_matches("/roots/0");
                let url = format!("{base}/cert-status-by-serial/{serial}");
                let answer = curl::download(&url, &self.bundle)?;
                let said: serde_json::Value = serde_json::from_slice(answer.as_ref())?;
                let standing = match said["Status"].as_str() {
                    Some("Revoked") => Standing::Revoked(said["Reason"].as_u64()),
                    Some("Valid") => Standing::Good,
                    other => anyhow::bail!("{serial}: {other:?}"),
                };
                Ok((serial, standing))
            })
            .collect()
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
        let told = |what: &str| log.lines().filter(|line| line.contains(what)).count();
        let (orders, placed) = (handled(" POST /order-plz "), told(" Added order "));
        let (challenges, taken) = (
            handled(" POST /chalZ/ "),
            told("Pulled a task from the Tasks queue"),
        );
        let (finalized, signed) = (
            handled(" POST /finalize-order/ "),
            told("is fully authorized. Processing finalization"),
        );
        Self {
            orders,
            placed,
            challenges,
            validated: told(" set VALID by completed challenge "),
            finalized,
            accounts: handled(" POST /sign-me-up "),
            registered: told("accounts in memory"),
            certificates: told("Issued certificate serial"),
            turned_away: (orders + challenges + finalized).saturating_sub(placed + taken + signed),
            requests: handled(""),
            polls: handled("/renewalInfo/"),
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
                   Pebble 2026/11/22 20:00:02 Issued certificate serial 1 for order x\n\
                   Pebble 2026/11/22 20:00:02 There are now 1 accounts in memory\n";
        let count = Count::of(log);
        assert_eq!((count.orders, count.challenges, count.finalized), (2, 1, 0));
        assert_eq!((count.certificates, count.requests), (1, 4));
        assert_eq!((count.placed, count.registered), (1, 1));
        assert_eq!(count.turned_away, 2, "an order and a challenge");
    }
}
