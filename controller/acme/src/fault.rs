//! From an answer, or the lack of one, to a fault: nothing that the CA said is lost on the way.

use evercert_core::fault::{
    Fault, FaultClass, LONGEST_WAIT, Place, Problem, classify_problem, classify_status,
    rate_limit_instant, unpause_url,
};
use jiff::{SignedDuration, Timestamp};

use crate::client::{Answer, Outcome, WireError};
use crate::wire::{WireProblem, printable};

/// What is being attempted, where in the protocol, at whom and since when: enough to say what went wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub(crate) what: &'static str,
    pub(crate) place: Place,
    pub(crate) host: &'a str,
    pub(crate) now: Timestamp,
}

impl Attempt<'_> {
    /// An answer of status 2xx, else the fault.
    pub(crate) fn check(&self, outcome: Outcome) -> Result<Answer, Fault> {
        match outcome {
            Ok(answer) if answer.status.is_success() => Ok(answer),
            Ok(answer) => Err(self.refused(&answer)),
            Err(error) => Err(self.unanswered(&error)),
        }
    }

    /// The same for a call of instant-acme and its record.
    pub(crate) fn check_call<T>(
        &self,
        (result, last): (Result<T, instant_acme::Error>, Option<Outcome>),
    ) -> Result<(T, Answer), Fault> {
        match (result, last) {
            (Ok(value), Some(outcome)) => Ok((value, self.check(outcome)?)),
            (Err(error), Some(outcome)) => {
                let answer = self.check(outcome)?;
                Err(self.unexpected(&answer, &error.to_string()))
            }
            (Ok(_), None) => Err(self.local(FaultClass::Transient, "nothing was sent")),
            (Err(error), None) => Err(self.local(FaultClass::Transient, &error.to_string())),
        }
    }

    /// Reads the JSON of a good answer.
    pub(crate) fn parse<T: serde::de::DeserializeOwned>(
        &self,
        answer: &Answer,
    ) -> Result<T, Fault> {
        serde_json::from_slice(&answer.body).map_err(|e| self.unexpected(answer, &e.to_string()))
    }

    /// A fault that we find ourselves, without the CA having refused anything.
    pub(crate) fn local(&self, class: FaultClass, why: &str) -> Fault {
        Fault {
            class,
            problem: None,
            http_status: None,
            retry_after: None,
            help_url: None,
            unsent: false,
            detail: self.sentence(why),
        }
    }

    /// A good status with a body that is none of ours: a CA with something new, or no CA at all.
    pub(crate) fn unexpected(&self, answer: &Answer, why: &str) -> Fault {
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body).is_ok();
        let (class, body) = if is_json {
            (FaultClass::Transient, "JSON")
        } else {
            (FaultClass::Unavailable, "no JSON")
        };
        let status = answer.status.as_u16();
        let detail = self.sentence(&format!(
            "the answer, HTTP {status} with {body}, is not understood: {}",
            printable(why)
        ));
        Fault {
            class,
            problem: None,
            http_status: Some(status),
            retry_after: self.retry_after(answer),
            help_url: None,
            unsent: false,
            detail,
        }
    }

    /// No answer.
    pub(crate) fn unanswered(&self, error: &WireError) -> Fault {
        let class = match error {
            WireError::ForeignOrigin(_) if self.place == Place::Read => FaultClass::Gone,
            WireError::ForeignOrigin(_) => FaultClass::Permanent,
            WireError::NameNotFound
            | WireError::Refused
            | WireError::TimedOut
            | WireError::Untrusted(_)
            | WireError::TooLarge
            | WireError::NoNonce
            | WireError::NoLeave
            | WireError::Broken(_) => FaultClass::Unavailable,
        };
        let unsent = match error {
            WireError::NameNotFound
            | WireError::Refused
            | WireError::Untrusted(_)
            | WireError::ForeignOrigin(_)
            | WireError::NoNonce
            | WireError::NoLeave => true,
            WireError::TimedOut | WireError::TooLarge | WireError::Broken(_) => false,
        };
        Fault {
            unsent,
            ..self.local(class, &printable(&error.to_string()))
        }
    }

    /// The fault of an answer of another status than 2xx.
    pub(crate) fn refused(&self, answer: &Answer) -> Fault {
        let status = answer.status.as_u16();
        let wire = serde_json::from_slice::<WireProblem>(&answer.body).ok();
        let instance = wire.as_ref().and_then(|w| w.instance.clone());
        let problem = wire.and_then(WireProblem::into_problem);
        let retry_after = self.retry_after(answer);
        let Some(problem) = problem else {
            return Fault {
                class: classify_status(Some(status), self.place),
                problem: None,
                http_status: Some(status),
                retry_after,
                help_url: None,
                unsent: answer.is_for_nonce,
                detail: self.sentence(&format!("HTTP {status} without a problem document")),
            };
        };
        let help = unpause_url(&problem.detail)
            .map(str::to_owned)
            .or(instance)
            .or_else(|| answer.links("terms-of-service").into_iter().next());
        Fault {
            class: classify_problem(&problem, Some(status), self.place),
            http_status: Some(status),
            retry_after: retry_after
                .or_else(|| self.bounded(rate_limit_instant(&problem)?, answer)),
            // Before anything else of a request is looked at (RFC 8555 §6.5).
            unsent: problem.kind == "badNonce" || answer.is_for_nonce,
            help_url: help
                .filter(|u| u.starts_with("https://"))
                .map(|u| printable(&u)),
            detail: self.sentence(&format!(
                "{} (HTTP {status}): {}",
                problem.kind,
                blame(&problem)
            )),
            problem: Some(problem),
        }
    }

    /// When an answer arrived: after the attempt began, also by a clock that was set back meanwhile.
    pub(crate) fn arrival(&self, answer: &Answer) -> Timestamp {
        answer.at.max(self.now)
    }

    /// The `Retry-After` of an answer (RFC 9110 §10.2.3: seconds or a date) as an instant from its arrival to a day after that.
    pub(crate) fn retry_after(&self, answer: &Answer) -> Option<Timestamp> {
        let value = answer.header("retry-after")?;
        if value.bytes().all(|b| b.is_ascii_digit()) {
            let wait = value
                .parse()
                .map_or(LONGEST_WAIT, SignedDuration::from_secs)
                .min(LONGEST_WAIT);
            return self.arrival(answer).checked_add(wait).ok();
        }
        self.bounded(jiff::fmt::rfc2822::parse(value).ok()?.timestamp(), answer)
    }

    fn bounded(&self, at: Timestamp, answer: &Answer) -> Option<Timestamp> {
        let arrival = self.arrival(answer);
        Some(at.clamp(arrival, arrival.checked_add(LONGEST_WAIT).ok()?))
    }

    fn sentence(&self, why: &str) -> String {
        format!("{} at {}: {why}", self.what, self.host)
    }
}

/// The CA's words, and after them those for single names.
fn blame(problem: &Problem) -> String {
    let parts = problem.subproblems.iter().map(|sub| {
        let name = sub.identifier.as_deref().unwrap_or("a name");
        format!("; {name}: {}: {}", sub.kind, sub.detail)
    });
    let words: String = std::iter::once(problem.detail.clone())
        .chain(parts)
        .collect();
    printable(&words)
}
