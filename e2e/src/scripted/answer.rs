//! Answers that a script gives in the place of the CA's own, or makes of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use serde_json::Value;

use super::problem::{Problem, RetryAfter};

/// One answer. It is played at a request that a rule of the [`Script`](super::Script) names.
#[derive(Clone)]
pub struct Answer {
    pub(super) basis: Basis,
    headers: Vec<(String, String)>,
    nonce: Option<Nonce>,
    edit: Option<Edit>,
    pub(super) delivery: Delivery,
}

type Edit = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// Who answers.
#[derive(Clone)]
pub(super) enum Basis {
    /// The CA as ever: the request has its effect.
    Real,
    /// The CA, having verified the request, and nothing else of it is done.
    Ca(Reply),
    /// Whatever stands before the CA, which does not see the request.
    Front(Reply),
}

#[derive(Clone)]
enum Nonce {
    Missing,
    Text(String),
}

/// How the bytes get to the client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Before the first byte.
    pub(super) delay: Duration,
    /// From the first to the last byte of the body.
    pub(super) trickle: Duration,
    pub(super) ending: Ending,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Ending {
    #[default]
    Whole,
    /// Half of the body, then the connection ends.
    Cut,
    /// Not a byte, and the connection ends.
    Lost,
    /// Not a byte, and the connection stays.
    Never,
}

/// A whole answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Answer {
    /// The CA's own answer. Alone it changes nothing; delayed, cut, edited it is a fault after the effect.
    #[must_use]
    pub fn real() -> Self {
        Self::from(Basis::Real)
    }

    /// The request has its effect, and its answer never arrives: the connection ends.
    #[must_use]
    pub fn lost() -> Self {
        let mut answer = Self::real();
        answer.delivery.ending = Ending::Lost;
        answer
    }

    /// A problem in the CA's words.
    #[must_use]
    pub fn problem(problem: &Problem) -> Self {
        Self::from(Basis::Ca(Reply::problem(problem)))
    }

    /// 429 `rateLimited`, without a `Retry-After`.
    #[must_use]
    pub fn rate_limited(detail: &str) -> Self {
        Self::problem(&Problem::new(429, "rateLimited", detail))
    }

    /// 429 as Let's Encrypt sheds load: the client's quota has nothing to do with it.
    #[must_use]
    pub fn busy() -> Self {
        Self::rate_limited("Service busy; retry later.")
    }

    /// 429 for a paused pair of account and name, in Let's Encrypt's words, without a nonce.
    #[must_use]
    pub fn paused(name: &str, unpause_url: &str) -> Self {
        Self::problem(&paused(name, unpause_url)).without_nonce()
    }

    /// 500 `serverInternal`.
    #[must_use]
    pub fn internal_error() -> Self {
        Self::problem(&Problem::new(500, "serverInternal", "something went wrong"))
    }

    /// 503 with HTML, of a load balancer: without a nonce, and without a look at the request.
    #[must_use]
    pub fn unavailable() -> Self {
        let page = "<html><head><title>503 Service Temporarily Unavailable</title></head></html>";
        Self::page(503, page)
    }

    /// HTML of a load balancer.
    #[must_use]
    pub fn page(status: u16, html: &str) -> Self {
        Self::from(Basis::Front(Reply::new(status, "text/html", html)))
    }

    /// 200 with JSON that breaks off, as if it were whole.
    #[must_use]
    pub fn malformed() -> Self {
        let text = r#"{"status": "pending", "identifiers": [{"ty"#;
        Self::from(Basis::Ca(Reply::new(200, "application/json", text)))
    }

    /// JSON.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        Self::from(Basis::Ca(Reply::json(status, body)))
    }

    /// No answer, ever, and no effect.
    #[must_use]
    pub fn never() -> Self {
        let mut answer = Self::page(200, "");
        answer.delivery.ending = Ending::Never;
        answer
    }

    /// With a `Retry-After`.
    #[must_use]
    pub fn retry_after(self, at: &RetryAfter) -> Self {
        self.header("retry-after", &at.to_string())
    }

    /// With a header, in the place of one of the same name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_lowercase(), value.to_owned()));
        self
    }

    /// Without a `Replay-Nonce`.
    #[must_use]
    pub fn without_nonce(mut self) -> Self {
        self.nonce = Some(Nonce::Missing);
        self
    }

    /// With this `Replay-Nonce`, an empty one say.
    #[must_use]
    pub fn with_nonce(mut self, nonce: &str) -> Self {
        self.nonce = Some(Nonce::Text(nonce.to_owned()));
        self
    }

    /// With its JSON changed.
    #[must_use]
    pub fn edited(mut self, edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        self.edit = Some(Arc::new(edit));
        self
    }

    /// So much later.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delivery.delay = delay;
        self
    }

    /// With a body that takes so long from its first to its last byte.
    #[must_use]
    pub fn trickling(mut self, time: Duration) -> Self {
        self.delivery.trickle = time;
        self
    }

    /// Half of it, and then the connection ends.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.delivery.ending = Ending::Cut;
        self
    }

    /// The whole answer, with `own` as the CA's.
    pub(super) fn make(&self, own: Reply) -> Reply {
        let mut reply = match &self.basis {
            Basis::Real => own,
            Basis::Ca(reply) | Basis::Front(reply) => reply.clone(),
        };
        if let Some(edit) = &self.edit
            && let Ok(mut json) = serde_json::from_slice(&reply.body)
        {
            edit(&mut json);
            reply.body = json.to_string().into();
        }
        for (name, value) in &self.headers {
            reply.headers.retain(|(other, _)| other != name);
            reply.headers.push((name.clone(), value.clone()));
        }
        reply
    }

    /// The nonce that goes with it, from `fresh` unless the script has its own mind.
    pub(super) fn nonce(&self, fresh: impl FnOnce() -> String) -> Option<String> {
        match (&self.nonce, &self.basis) {
            (Some(Nonce::Text(text)), _) => Some(text.clone()),
            (Some(Nonce::Missing), _) | (None, Basis::Front(_)) => None,
            (None, Basis::Real | Basis::Ca(_)) => Some(fresh()),
        }
    }

    fn from(basis: Basis) -> Self {
        Self {
            basis,
            headers: Vec::new(),
            nonce: None,
            edit: None,
            delivery: Delivery::default(),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match &self.basis {
            Basis::Real => None,
            Basis::Ca(reply) | Basis::Front(reply) => Some(reply.status),
        };
        f.debug_struct("Answer")
            .field("status", &status)
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}

impl Reply {
    pub(super) fn new(status: u16, kind: &str, body: &str) -> Self {
        Self {
            status,
            headers: vec![("content-type".into(), kind.into())],
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", &body.to_string())
    }

    pub(super) fn problem(problem: &Problem) -> Self {
        let body = problem.to_json().to_string();
        let mut reply = Self::new(problem.status, "application/problem+json", &body);
        reply.headers.extend(problem.headers.iter().cloned());
        reply
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The type of the problem in it.
    pub(super) fn problem_kind(&self) -> Option<String> {
        let is_problem = self
            .headers
            .iter()
            .any(|(name, value)| name == "content-type" && value == "application/problem+json");
        let body: Value = is_problem.then(|| serde_json::from_slice(&self.body).ok())??;
        let kind = body.get("type")?.as_str()?;
        kind.rsplit(':').next().map(str::to_owned)
    }
}

/// 429 for a paused pair, in Let's Encrypt's words.
pub(super) fn paused(name: &str, unpause_url: &str) -> Problem {
    Problem::new(
        429,
        "rateLimited",
        format!(
            "Your account is temporarily prevented from requesting certificates for {name} and possibly others. Please visit: {unpause_url}"
        ),
    )
}

/// 403 for terms that the account has not agreed to (RFC 8555 §7.3.3).
pub(super) fn terms_changed(terms: &str) -> Problem {
    Problem::new(
        403,
        "userActionRequired",
        "the terms of service have changed",
    )
    .instance(terms)
    .header("link", &format!("<{terms}>;rel=\"terms-of-service\""))
}
