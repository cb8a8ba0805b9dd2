//! Sentences: what failed, where, what to do about it.

use crate::fault::{Fault, Problem};
use crate::order::{OrderView, ProofState};

/// The longest text of a CA that is shown.
const LONGEST: usize = 400;

/// The CA's own words, cut at a character's boundary and without control characters.
#[must_use]
pub fn quote(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.chars().count() <= LONGEST {
        clean
    } else {
        clean.chars().take(LONGEST).chain(['…']).collect()
    }
}

/// A problem in the CA's own words, with its type and the names it blames.
#[must_use]
pub fn build_problem(problem: &Problem) -> String {
    let mut text = format!("{} ({})", quote(&problem.detail), problem.kind);
    for sub in &problem.subproblems {
        let name = sub.identifier.as_deref().unwrap_or("a name");
        text.push_str(&format!("; {name}: {} ({})", quote(&sub.detail), sub.kind));
    }
    text
}

/// A fault as one sentence: what was attempted, the CA's own words, where to look.
#[must_use]
pub fn build_fault(fault: &Fault) -> String {
    let mut text = match &fault.problem {
        Some(problem) => format!("{}: {}", fault.detail, build_problem(problem)),
        None => fault.detail.clone(),
    };
    if let Some(url) = &fault.help_url {
        text.push_str(&format!("; see {}", quote(url)));
    }
    text
}

/// What a person can do about a problem of type `kind`, if anything is known.
#[must_use]
pub fn find_remedy(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "dns" => "make the name resolve to your ingress controller in public DNS",
        "connection" => "let the CA reach port 80 of the name's address, and make the name lead to your ingress controller",
        "unauthorized" | "incorrectResponse" => "make http://<name>/.well-known/acme-challenge/ lead to your ingress controller",
        "tls" => "the name redirects to https and that fails: let the challenge path through without a redirect",
        "caa" => "allow this CA in the name's CAA record",
        "rejectedIdentifier" | "unsupportedIdentifier" => "this CA will not sign that name: remove it from dnsNames, or use another issuer",
        "externalAccountRequired" => "this CA wants an external account binding, which this Issuer has not",
        "userActionRequired" => "open the page that the CA names and do what it asks, such as agreeing to new terms",
        "accountDoesNotExist" => "the account will be registered again with the same key",
        "badPublicKey" | "badCSR" => "choose another spec.privateKey",
        "rateLimited" => "nothing: the next attempt waits until the CA allows it",
        _ => return None,
    })
}

/// Why an order failed, name by name, in the CA's own words, with what to do about it.
#[must_use]
pub fn build_order_failure(view: &OrderView) -> (Option<String>, String) {
    let mut kind = None;
    let mut parts = Vec::new();
    for authorization in &view.authorizations {
        let problem = authorization.challenge.as_ref().and_then(|c| c.error.as_ref());
        if authorization.state == ProofState::Invalid
            && let Some(problem) = problem
        {
            kind.get_or_insert_with(|| problem.kind.clone());
            parts.push(format!("{}: {}", authorization.name, build_problem(problem)));
        }
    }
    if parts.is_empty()
        && let Some(problem) = &view.error
    {
        kind = Some(problem.kind.clone());
        parts.push(build_problem(problem));
    }
    if parts.is_empty() {
        parts.push("the CA gave no reason".to_owned());
    }
    let remedy = kind.as_deref().and_then(find_remedy).map(|r| format!(". Remedy: {r}")).unwrap_or_default();
    (kind, format!("the CA refused the order: {}{remedy}", parts.join("; ")))
}
