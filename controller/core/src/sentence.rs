//! Sentences: what failed, where, what to do about it.

use crate::fault::{Fault, FaultClass, Problem};
use crate::order::{OrderView, ProofState};
use crate::trouble::{find_problem, find_row};

/// The longest text of a CA that is shown.
const LONGEST: usize = 400;
/// The longest URL that is shown: one that is cut leads nowhere, and a page to end a pause has a token in its address.
const LONGEST_URL: usize = 2_000;
/// The longest account of a failed order; a condition's message holds 32,768 characters and repeats it.
const LONGEST_FAILURE: usize = 4_000;
/// How many names or problems one sentence lists.
const MOST_LISTED: usize = 5;

/// The CA's own words, cut at a character's boundary and without control characters.
#[must_use]
pub fn quote(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    cut(clean, LONGEST)
}

fn cut(text: String, most: usize) -> String {
    if text.chars().count() <= most {
        text
    } else {
        text.chars().take(most).chain(['…']).collect()
    }
}

/// A problem in the CA's own words, with its type and the names it blames, five of them at most.
#[must_use]
pub fn build_problem(problem: &Problem) -> String {
    let mut parts = vec![format!(
        "{} ({})",
        quote(&problem.detail),
        quote(&problem.kind)
    )];
    parts.extend(problem.subproblems.iter().take(MOST_LISTED).map(|sub| {
        let name = sub.identifier.as_deref().unwrap_or("a name");
        format!(
            "{}: {} ({})",
            quote(name),
            quote(&sub.detail),
            quote(&sub.kind)
        )
    }));
    parts.extend(build_rest(problem.subproblems.len()));
    parts.join("; ")
}

/// Names in a sentence, five of them at most.
#[must_use]
pub fn list(names: &[impl AsRef<str>]) -> String {
    let shown = names.iter().take(MOST_LISTED).map(|n| quote(n.as_ref()));
    shown
        .chain(build_rest(names.len()))
        .collect::<Vec<_>>()
        .join(", ")
}

fn build_rest(count: usize) -> Option<String> {
    (count > MOST_LISTED).then(|| format!("and {} more", count - MOST_LISTED))
}

/// A fault as one sentence: what was attempted, the CA's own words, where to look.
#[must_use]
pub fn build_fault(fault: &Fault) -> String {
    let said = |problem: &&Problem| fault.detail.contains(&problem.detail);
    let mut text = match fault.problem.as_ref().filter(|p| !said(p)) {
        Some(problem) => format!("{}: {}", fault.detail, build_problem(problem)),
        None => fault.detail.clone(),
    };
    if let Some(url) = fault.help_url.as_ref().filter(|url| !text.contains(*url)) {
        text.push_str("; see ");
        text.push_str(&quote_url(url));
    }
    text
}

fn quote_url(url: &str) -> String {
    let clean = url
        .chars()
        .filter(|c| !c.is_control() && !c.is_whitespace());
    cut(clean.collect(), LONGEST_URL)
}

/// What a person can do about a fault, as the end of a sentence; nothing where nothing is known.
#[must_use]
pub fn build_remedy(fault: &Fault) -> String {
    let kind = fault.problem.as_ref().map(|p| p.kind.as_str());
    let remedy = if fault.is_paused() {
        Some(UNPAUSE)
    } else if fault.class == FaultClass::Account && kind == Some("unauthorized") {
        Some(DENIED)
    } else {
        fault
            .problem
            .as_ref()
            .and_then(find_row)
            .map(|row| row.remedy)
    };
    remedy
        .map(|remedy| format!(". Remedy: {remedy}"))
        .unwrap_or_default()
}

/// What ends a pause.
const UNPAUSE: &str = "open that page and let the CA go on; it is looked at once a day, and at once when the spec changes or \
                       the annotation evercert.dev/renew-at is set";

/// What ends the refusal of an account that the CA knows; of a name, the same type means that its way is wrong.
const DENIED: &str =
    "ask the CA why it does not serve the issuer's account, or name another issuer";

/// What a person can do about a problem of type `kind`, if anything is known.
#[must_use]
pub fn find_remedy(kind: &str) -> Option<&'static str> {
    find_problem(kind).map(|row| row.remedy)
}

/// The problems that made an order fail: of its names where these have any, with the name, else its own.
#[must_use]
pub fn find_problems(view: &OrderView) -> Vec<(Option<&str>, &Problem)> {
    let of_names: Vec<_> = view
        .authorizations
        .iter()
        .filter(|a| a.state == ProofState::Invalid)
        .filter_map(|a| {
            let problem = a.challenge.as_ref()?.error.as_ref()?;
            Some((Some(a.name.as_str()), problem))
        })
        .collect();
    if of_names.is_empty() {
        view.error.iter().map(|p| (None, p)).collect()
    } else {
        of_names
    }
}

/// Why an order failed, name by name (five of them at most), in the CA's own words, with what to do about it; and the first
/// problem's type.
#[must_use]
pub fn build_order_failure(view: &OrderView) -> (Option<String>, String) {
    let problems = find_problems(view);
    let kind = problems.first().map(|(_, p)| p.kind.clone());
    let mut parts: Vec<String> = problems
        .iter()
        .take(MOST_LISTED)
        .map(|(name, problem)| match name {
            Some(name) => format!("{}: {}", quote(name), build_problem(problem)),
            None => build_problem(problem),
        })
        .collect();
    if parts.is_empty() {
        parts.push("the CA gave no reason".to_owned());
    }
    let rest = build_rest(problems.len())
        .map(|rest| format!("; {rest}"))
        .unwrap_or_default();
    let remedy = problems
        .first()
        .and_then(|(_, problem)| find_row(problem))
        .map(|row| format!(". Remedy: {}", row.remedy))
        .unwrap_or_default();
    let problems = cut(parts.join("; "), LONGEST_FAILURE);
    let message = format!("the CA refused the order: {problems}{rest}{remedy}");
    (kind, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Subproblem;
    use crate::order::OrderState;
    use crate::plan::fixtures::{fault, order, problem};

    #[test]
    fn words_of_a_ca_are_shown_without_control_characters_and_cut() {
        assert_eq!(quote("a\nb\u{1b}[31m\tc"), "a b [31m c");
        let long = quote(&"ü".repeat(500));
        assert_eq!(long.chars().count(), 401);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn page_that_ends_a_pause_is_told_whole_with_what_to_do_there() {
        let page = format!(
            "https://portal.example/sfe/v1/unpause?jwt={}",
            "a".repeat(900)
        );
        let mut paused = fault(FaultClass::Permanent);
        paused.problem = Some(problem("rateLimited", "temporarily prevented"));
        assert!(build_remedy(&paused).contains("waits until the CA allows it"));
        paused.help_url = Some(page.clone());
        assert!(build_fault(&paused).ends_with(&format!("; see {page}")));
        assert!(
            build_remedy(&paused).contains("open that page"),
            "a wait is no remedy"
        );
        paused.detail = format!("newOrder: temporarily prevented, see {page}");
        assert_eq!(build_fault(&paused), paused.detail, "nothing is said twice");
    }

    #[test]
    fn failed_order_names_the_host_the_cas_words_and_the_remedy() {
        let view = order(OrderState::Invalid).refusing(
            "b.example",
            &problem("dns", "NXDOMAIN looking up A for b.example"),
        );
        let (kind, text) = build_order_failure(&view);
        assert_eq!(kind.as_deref(), Some("dns"));
        assert_eq!(
            text,
            "the CA refused the order: b.example: NXDOMAIN looking up A for b.example (dns). Remedy: make the name resolve to your \
             ingress controller in public DNS"
        );
    }

    #[test]
    fn a_refused_account_is_no_name_whose_way_is_wrong() {
        let refused = |class| Fault {
            problem: Some(problem("unauthorized", "no")),
            ..fault(class)
        };
        assert!(build_remedy(&refused(FaultClass::Account)).contains("ask the CA"));
        assert!(build_remedy(&refused(FaultClass::Validation)).contains("acme-challenge"));
    }

    #[test]
    fn order_that_failed_as_a_whole_shows_its_own_problem_with_the_names_it_blames() {
        let mut view = order(OrderState::Invalid).proved();
        let mut compound = problem("compound", "Some identifiers are refused");
        compound.subproblems.push(Subproblem {
            identifier: Some("a.example".into()),
            kind: "caa".into(),
            detail: "CAA forbids it".into(),
        });
        view.error = Some(compound);
        assert_eq!(
            build_order_failure(&view).1,
            "the CA refused the order: Some identifiers are refused (compound); a.example: CAA forbids it (caa)"
        );
    }

    #[test]
    fn order_without_any_problem_says_that_there_is_none() {
        let (kind, text) = build_order_failure(&order(OrderState::Invalid));
        assert_eq!(
            (kind, text.as_str()),
            (None, "the CA refused the order: the CA gave no reason")
        );
    }

    #[test]
    fn fault_says_what_was_attempted_and_which_page_to_open() {
        let mut f = fault(FaultClass::Account);
        assert_eq!(build_fault(&f), "reading the order");
        f.problem = Some(problem("userActionRequired", "Terms changed"));
        f.help_url = Some("https://ca.example/terms".into());
        assert_eq!(
            build_fault(&f),
            "reading the order: Terms changed (userActionRequired); see https://ca.example/terms"
        );
    }

    /// A condition's message holds 32,768 characters, and an order has up to 100 names.
    #[test]
    fn hundred_names_do_not_make_a_sentence_that_the_api_server_refuses() {
        let mut view = order(OrderState::Invalid);
        let mut wordy = problem("dns", &"x".repeat(1000));
        let sub = Subproblem {
            identifier: Some("y".repeat(1000)),
            kind: "z".repeat(1000),
            detail: "w".repeat(1000),
        };
        wordy.subproblems = vec![sub; 100];
        let one = view.clone().refusing("a.example", &wordy).authorizations[0].clone();
        view.authorizations = vec![one; 100];
        let (_, text) = build_order_failure(&view);
        assert!(text.contains("; and 95 more"), "{text}");
        assert!(text.chars().count() < 5_000, "{}", text.chars().count());
    }

    #[test]
    fn names_are_listed_five_at_most() {
        assert_eq!(list(&["a", "b"]), "a, b");
        assert_eq!(
            list(&["a", "b", "c", "d", "e", "f", "g"]),
            "a, b, c, d, e, and 2 more"
        );
    }
}
