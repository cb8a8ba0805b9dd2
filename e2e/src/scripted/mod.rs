//! A CA that does what its script says: an ACME server (RFC 8555, RFC 9773) for the faults that no real CA plays on demand.
//!
//! Without a script it is a CA like others: it verifies signatures and nonces, keeps accounts, orders and authorizations,
//! connects to the HTTP-01 responder, and signs with a hierarchy of its own. The adapter's tests run against it as they run
//! against Pebble (`tests/adapter`). With a script it does to a client what real CAs do on their bad days:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use evercert_e2e::scripted::{Answer, Endpoint, Problem, RetryAfter, ScriptedCa, Settings, Signing, Verdict};
//! # async fn story() -> anyhow::Result<()> {
//! let ca = ScriptedCa::start(Settings::lets_encrypt()).await?;
//! ca.script().next_order(Answer::rate_limited("too many…").retry_after(&RetryAfter::Seconds(30)));
//! ca.script().next_finalize(Answer::lost());
//! ca.script().signing(Signing::After(Duration::from_secs(70)));
//! ca.script().validation("caa.test", Verdict::Invalid(Problem::new(403, "caa", "CAA record for caa.test prevents issuance")));
//! ca.script().on(Endpoint::Order).naming("slow.test").always(Answer::real().after(Duration::from_secs(5)));
//! // …
//! assert_eq!(ca.count().orders, 1, "{}", ca.journal());
//! # Ok(())
//! # }
//! ```
//!
//! A fault is either of the CA (the request was verified, and nothing else was done) or of what stands before it (nobody looked
//! at the request), or it comes after the effect ([`Answer::real`], [`Answer::lost`]). Rules use up only what was verified, so
//! a refused nonce spoils no script.

mod accounts;
mod answer;
mod authorizations;
mod budget;
mod caa;
mod certificates;
mod endpoint;
mod identifier;
mod issue;
mod journal;
mod jws;
mod limits;
mod orders;
mod problem;
mod request;
mod script;
mod serve;
mod settings;
mod state;
#[cfg(test)]
mod tests;
mod validate;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use answer::Answer;
pub use certificates::Advice;
pub use endpoint::Endpoint;
pub use journal::{Entry, Journal};
pub use limits::{Limit, Limits, Rate, RetryStyle};
pub use problem::{Problem, RetryAfter};
pub use script::{Script, Signing, Verdict, When};
pub use settings::{ExternalAccounts, Profile, Settings, Validation};

use crate::ca::Count;
use issue::Hierarchy;
use serve::{Shared, Tls};
use state::State;

/// A running CA. It ends with this value; what it knew is gone then.
pub struct ScriptedCa {
    address: SocketAddr,
    tls: Tls,
    shared: Arc<Shared>,
    serving: Option<JoinHandle<()>>,
}

impl ScriptedCa {
    /// Starts one on the current runtime, which has to go on while the CA is in use.
    ///
    /// # Errors
    /// It cannot listen where the settings say.
    pub async fn start(settings: Settings) -> Result<Self> {
        let listener = bind(settings.listen).await?;
        let address = listener.local_addr().context("finding the own address")?;
        let tls = Tls::new(address.ip())?;
        let hierarchy = Hierarchy::new(1, settings.alternate_chains)?;
        let state = State::new(format!("https://{address}"), settings, hierarchy);
        let mut ca = Self {
            address,
            tls,
            shared: Arc::new(Shared::new(state)),
            serving: None,
        };
        ca.serve(listener);
        Ok(ca)
    }

    /// What a story changes at it.
    #[must_use]
    pub fn script(&self) -> Script<'_> {
        Script(&self.shared)
    }

    /// The directory's URL.
    #[must_use]
    pub fn directory(&self) -> String {
        self.shared.lock().url(&endpoint::Resource::Directory)
    }

    /// The PEM text that its HTTPS endpoint is verified with: an Issuer's `caBundle`.
    #[must_use]
    pub fn bundle(&self) -> &str {
        &self.tls.bundle
    }

    /// The roots of what it issues now, PEM, that of the default chain first.
    #[must_use]
    pub fn roots(&self) -> Vec<String> {
        self.shared.lock().hierarchy.roots()
    }

    /// How many requests of which kind it has had, those among them that it refused or that the script answered; and what it
    /// has made, whether or not it knows it still.
    #[must_use]
    pub fn count(&self) -> Count {
        let state = self.shared.lock();
        let entries = || state.journal.entries().iter();
        let asked = |endpoint| entries().filter(|e| e.endpoint == Some(endpoint)).count();
        let turned_away = entries().filter(|e| {
            matches!(
                e.endpoint,
                Some(Endpoint::NewOrder | Endpoint::Challenge | Endpoint::Finalize)
            ) && e.problem.as_deref() == Some("badNonce")
        });
        Count {
            orders: asked(Endpoint::NewOrder),
            placed: state.made.orders,
            challenges: asked(Endpoint::Challenge),
            validated: state.made.validated,
            finalized: asked(Endpoint::Finalize),
            certificates: state.certificates.len(),
            accounts: asked(Endpoint::NewAccount),
            registered: state.made.accounts,
            turned_away: turned_away.count(),
            requests: entries().filter(|e| e.endpoint.is_some()).count(),
            polls: asked(Endpoint::RenewalInfo),
        }
    }

    /// What happened, to be counted by endpoint, account and name, and to be read.
    #[must_use]
    pub fn journal(&self) -> Journal {
        self.shared.lock().journal.clone()
    }

    /// Whole tokens that a limit has left; `None` without such a limit. The key is an account's URL for [`Limit::Orders`], the
    /// domain, the names sorted and joined by commas, or the client's address.
    #[must_use]
    pub fn tokens(&self, limit: Limit, key: &str) -> Option<u32> {
        let state = self.shared.lock();
        let key = key
            .strip_prefix(
                &state
                    .url(&endpoint::Resource::NewAccount)
                    .replace("new-account", "account/"),
            )
            .unwrap_or(key);
        state.tokens(limit, key)
    }

    /// Nobody listens any more, and every connection ends. What the CA knows stays.
    pub async fn go_down(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // Cancelled, which was the purpose.
            let _ = serving.await;
        }
    }

    /// Listens again, at the same address.
    ///
    /// # Errors
    /// Somebody else has the port.
    pub async fn come_back(&mut self) -> Result<()> {
        if self.serving.is_none() {
            let listener = bind(self.address).await?;
            self.serve(listener);
        }
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener) {
        let serving = serve::listen(listener, self.tls.acceptor(), Arc::clone(&self.shared));
        self.serving = Some(tokio::spawn(serving));
    }
}

impl Drop for ScriptedCa {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

impl std::fmt::Debug for ScriptedCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScriptedCa")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening at {address}"))
}
