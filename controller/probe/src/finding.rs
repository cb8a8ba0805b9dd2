//! What was seen, in words that a tenant may read.

use std::fmt;

/// What the entry point is for this challenge. Its `Display` is one sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The right answer, some times in a row.
    Reachable,
    /// No answer at all: hairpin NAT, split DNS, a firewall, PROXY protocol. The CA may see better from where it is.
    UnreachableFromHere {
        /// What happened instead, as a sentence.
        what: String,
    },
    /// Every address gave another answer than the challenge's: the CA would see the same.
    Wrong {
        /// The HTTP status of the last answer.
        status: u16,
        /// Its `Server` header: who it was that answered.
        server: Option<String>,
        /// Its `Location` header without query.
        location: Option<String>,
        /// What is wrong with it.
        what: Seen,
    },
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Seen {
    /// 404: no rule leads to the solver, or the solver does not know the challenge yet.
    NotFound,
    /// 401, 403 or 407: something asks for a login, or refuses the client.
    Refused,
    /// 500 and above: a rule leads somewhere that does not answer.
    ServerError,
    /// Another status that is not 200.
    OtherStatus,
    /// 200 with another body: a site answers in the solver's place.
    OtherBody,
    /// 200 with a body that is longer than any challenge's.
    TooLong,
    /// A redirect without a usable location, or to a scheme, port or address where no CA goes.
    BadRedirect,
    /// More than ten redirects.
    TooManyRedirects,
}

impl Finding {
    pub(crate) fn unreachable(what: impl Into<String>) -> Self {
        Self::UnreachableFromHere { what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reachable => f.write_str("the entry point answers the challenge"),
            Self::UnreachableFromHere { what } => {
                write!(f, "the entry point cannot be reached from here: {what}")
            }
            Self::Wrong {
                status,
                server,
                location,
                what,
            } => {
                write!(f, "the entry point answers {status}")?;
                if let Some(server) = server {
                    write!(f, " (server {server:?})")?;
                }
                if let Some(location) = location {
                    write!(f, " with a redirect to {location}")?;
                }
                write!(f, ": {what}")
            }
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no rule leads to the solver yet",
            Self::Refused => {
                "it wants a login or refuses the client; leave the challenge's path open"
            }
            Self::ServerError => "a rule is there, and what is behind it does not answer",
            Self::OtherStatus => "this is not the answer of the solver",
            Self::OtherBody => "another site answers in the solver's place",
            Self::TooLong => "another site answers in the solver's place, at length",
            Self::BadRedirect => {
                "no CA follows it (only http and https, ports 80 and 443, public addresses)"
            }
            Self::TooManyRedirects => "the redirects do not end",
        })
    }
}
