//! What happened at a CA, for counts and for people.

use std::fmt;

use jiff::Timestamp;

use super::endpoint::Endpoint;

/// What happened, in order.
#[derive(Debug, Clone, Default)]
pub struct Journal(Vec<Entry>);

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When, by the CA's clock.
    pub at: Timestamp,
    /// What a request was for; `None` for what the CA did of itself.
    pub endpoint: Option<Endpoint>,
    /// The URL of the account that signed the request, or that it concerns.
    pub account: Option<String>,
    /// The names that it concerns.
    pub names: Vec<String>,
    /// The HTTP status of the answer, whether or not it arrived.
    pub status: Option<u16>,
    /// The type of the problem that was answered, without its prefix.
    pub problem: Option<String>,
    /// What came of it: an order's number, a state, a fault that the script played.
    pub note: String,
}

impl Journal {
    /// Of this kind.
    #[must_use]
    pub fn of(&self, endpoint: Endpoint) -> Self {
        self.filter(|entry| entry.endpoint == Some(endpoint))
    }

    /// That concern this name.
    #[must_use]
    pub fn naming(&self, name: &str) -> Self {
        self.filter(|entry| entry.names.iter().any(|other| other == name))
    }

    /// Of this account, by its URL.
    #[must_use]
    pub fn by(&self, account: &str) -> Self {
        self.filter(|entry| entry.account.as_deref() == Some(account))
    }

    /// Not before `at`.
    #[must_use]
    pub fn since(&self, at: Timestamp) -> Self {
        self.filter(|entry| entry.at >= at)
    }

    /// Requests only.
    #[must_use]
    pub fn requests(&self) -> Self {
        self.filter(|entry| entry.endpoint.is_some())
    }

    /// Those that hold.
    #[must_use]
    pub fn filter(&self, holds: impl Fn(&Entry) -> bool) -> Self {
        let kept = self.0.iter().filter(|entry| holds(entry));
        Self(kept.cloned().collect())
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.0.push(entry);
    }
}

impl fmt::Display for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  ", self.at.strftime("%H:%M:%S%.3f"))?;
        match self.endpoint {
            Some(endpoint) => write!(f, "{endpoint:<13}")?,
            None => write!(f, "{:<13}", "*")?,
        }
        match self.status {
            Some(status) => write!(f, " {status:<3} ")?,
            None => f.write_str("     ")?,
        }
        if let Some(problem) = &self.problem {
            write!(f, "{problem} ")?;
        }
        f.write_str(&self.note)?;
        if !self.names.is_empty() {
            write!(f, "  [{}]", self.names.join(", "))?;
        }
        let account = self
            .account
            .as_deref()
            .and_then(|url| url.rsplit('/').next());
        account.map_or(Ok(()), |account| write!(f, "  account {account}"))
    }
}
