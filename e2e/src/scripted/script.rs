//! The script: what a story makes its CA do. Each line is a sentence of the story.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use super::answer::Answer;
use super::certificates::Advice;
use super::endpoint::Endpoint;
use super::problem::{Problem, RetryAfter};
use super::serve::Shared;
use super::settings::Settings;
use super::state::{OrderState, State};

/// What a story changes at its CA. Every change holds from the next request on.
#[derive(Debug, Clone, Copy)]
pub struct Script<'a>(pub(super) &'a Arc<Shared>);

/// How long a finalized order is `processing`, and how that ends.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Signing {
    /// It is valid when the client looks.
    #[default]
    AtOnce,
    /// It is processing for so long.
    After(Duration),
    /// It is processing until [`Script::finish_processing`] or [`Script::fail_processing`].
    Held,
    /// It is invalid when the client looks.
    Fails(Problem),
}

/// How a validation ends, whatever the responder says.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Well.
    Valid,
    /// With this error at the challenge.
    Invalid(Problem),
    /// Not at all, until there is another verdict for the name.
    Held,
}

/// All that a script has changed.
#[derive(Default)]
pub(super) struct Play {
    rules: Vec<Rule>,
    pub(super) clock_ahead: SignedDuration,
    pub(super) date_ahead: SignedDuration,
    pub(super) signing: Signing,
    pub(super) processing_retry_after: Option<RetryAfter>,
    verdicts: BTreeMap<String, Verdict>,
    advice: Advice,
    advice_of: BTreeMap<String, Advice>,
    /// For certificates issued before.
    advice_before: Option<(Timestamp, Advice)>,
}

/// An answer for some requests.
#[derive(Debug)]
struct Rule {
    endpoint: Option<Endpoint>,
    name: Option<String>,
    account: Option<String>,
    /// How often it is played yet; `None` for ever.
    left: Option<u32>,
    answer: Answer,
}

/// The requests that a rule is for: see [`Script::on`].
#[derive(Debug)]
#[must_use]
pub struct When<'a> {
    shared: &'a Arc<Shared>,
    rule: Rule,
}

impl<'a> Script<'a> {
    /// The next newOrder is answered so.
    pub fn next_order(self, answer: Answer) {
        self.on(Endpoint::NewOrder).once(answer);
    }

    /// The next finalize is answered so.
    pub fn next_finalize(self, answer: Answer) {
        self.on(Endpoint::Finalize).once(answer);
    }

    /// Requests of a kind are answered as said next.
    pub fn on(self, endpoint: Endpoint) -> When<'a> {
        When::new(self.0, Some(endpoint))
    }

    /// Requests of any kind are answered as said next.
    pub fn on_all(self) -> When<'a> {
        When::new(self.0, None)
    }

    /// Every request is answered by the CA itself again.
    pub fn calm(self) {
        self.change(|state| state.play.rules.clear());
    }

    /// Finalized orders go on so.
    pub fn signing(self, signing: Signing) {
        self.change(|state| state.play.signing = signing);
    }

    /// While an order is processing, its answers have this `Retry-After`, or none.
    pub fn processing_retry_after(self, retry_after: Option<RetryAfter>) {
        self.change(|state| state.play.processing_retry_after = retry_after);
    }

    /// Every order that is processing gets its certificate.
    pub fn finish_processing(self) {
        self.end_processing(&Ok(()));
    }

    /// Every order that is processing becomes invalid, with this error.
    pub fn fail_processing(self, problem: &Problem) {
        self.end_processing(&Err(problem.clone()));
    }

    fn end_processing(self, verdict: &Result<(), Problem>) {
        self.change(|state| {
            let orders = state.orders.iter();
            let processing = orders.filter(|(_, o)| matches!(o.state, OrderState::Processing(_)));
            let numbers: Vec<u64> = processing.map(|(number, _)| *number).collect();
            for number in numbers {
                state.end_processing(number, verdict.clone());
            }
        });
    }

    /// Validations of a name end so from now on, those that are held back too.
    pub fn validation(self, name: &str, verdict: Verdict) {
        self.change(|state| {
            state.play.verdicts.insert(name.to_owned(), verdict);
            state.resume(name);
        });
    }

    /// Validations of a name are made as the settings say again.
    pub fn validation_as_ever(self, name: &str) {
        self.change(|state| {
            state.play.verdicts.remove(name);
            state.resume(name);
        });
    }

    /// Renewal information of every certificate is this, save where a name has its own.
    pub fn renewal(self, advice: Advice) {
        self.change(|state| state.play.advice = advice);
    }

    /// Renewal information of every certificate for a name is this.
    pub fn renewal_of(self, name: &str, advice: Advice) {
        self.change(|state| {
            state.play.advice_of.insert(name.to_owned(), advice);
        });
    }

    /// Renewal information of every certificate issued before `at` is this: it is going to be revoked, say.
    pub fn renewal_of_older(self, at: Timestamp, advice: Advice) {
        self.change(|state| state.play.advice_before = Some((at, advice)));
    }

    /// The CA knows none of its orders any more, nor their authorizations. Certificates stay where they are.
    pub fn forget_orders(self) {
        self.change(|state| {
            state.orders.clear();
            state.authorizations.clear();
        });
    }

    /// The CA knows none of its accounts any more. Which external accounts were used it still knows.
    pub fn forget_accounts(self) {
        self.change(|state| state.accounts.clear());
    }

    /// The CA has deactivated every account.
    pub fn deactivate_accounts(self) {
        self.change(|state| {
            for account in state.accounts.values_mut() {
                account.deactivated = true;
            }
        });
    }

    /// The terms of service are these; accounts have to agree to them on the page first.
    pub fn change_terms(self, url: &str) {
        self.change(|state| state.settings.terms = Some(url.to_owned()));
    }

    /// A person has opened the page and agreed to the terms, for every account.
    pub fn agree_to_terms(self) {
        self.change(|state| {
            for account in state.accounts.values_mut() {
                account.agreed.clone_from(&state.settings.terms);
            }
        });
    }

    /// Every pair of account and `name` is paused.
    pub fn pause(self, name: &str) {
        self.change(|state| {
            let pairs = state.accounts.keys().map(|id| (*id, name.to_owned()));
            state.paused.extend(pairs);
        });
    }

    /// A person has opened the page: nothing is paused any more, and failures in a row count from the beginning.
    pub fn unpause(self) {
        self.change(State::unpause);
    }

    /// The settings are changed: profiles, limits, whatever a running CA can change.
    pub fn settings(self, change: impl FnOnce(&mut Settings)) {
        self.change(|state| change(&mut state.settings));
    }

    /// The CA's clock goes so far ahead of the machine's, or behind: its `Date`, its limits, the validity of what it issues.
    pub fn clock_ahead(self, by: SignedDuration) {
        self.change(|state| state.play.clock_ahead = by);
    }

    /// Only the `Date` header goes so far ahead, or behind.
    pub fn date_ahead(self, by: SignedDuration) {
        self.change(|state| state.play.date_ahead = by);
    }

    /// What is issued from now on comes from another intermediate below the same roots.
    ///
    /// # Errors
    /// The machine has no randomness.
    pub fn change_intermediate(self) -> Result<()> {
        self.change(|state| {
            let number = usize::try_from(state.number()).unwrap_or_default();
            state.hierarchy.change_intermediate(number)
        })
    }

    /// What is issued from now on comes from other roots, with so many alternates.
    ///
    /// # Errors
    /// The machine has no randomness.
    pub fn change_hierarchy(self, alternates: usize) -> Result<()> {
        self.change(|state| {
            state.hierarchy = state.hierarchy.successor(alternates)?;
            Ok(())
        })
    }

    fn change<T>(self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.0.lock());
        self.0.begin_validations();
        changed
    }
}

impl<'a> When<'a> {
    fn new(shared: &'a Arc<Shared>, endpoint: Option<Endpoint>) -> Self {
        let rule = Rule {
            endpoint,
            name: None,
            account: None,
            left: None,
            answer: Answer::real(),
        };
        Self { shared, rule }
    }

    /// Only those that concern a name.
    pub fn naming(mut self, name: &str) -> Self {
        self.rule.name = Some(name.to_owned());
        self
    }

    /// Only those of an account, by its URL.
    pub fn by(mut self, account: &str) -> Self {
        self.rule.account = Some(account.to_owned());
        self
    }

    /// The next one is answered so.
    pub fn once(self, answer: Answer) {
        self.times(1, answer);
    }

    /// The next so many are answered so, after those that were said before.
    pub fn times(mut self, times: u32, answer: Answer) {
        self.rule.left = Some(times);
        self.always(answer);
    }

    /// They are answered so until [`Script::calm`], save for those that are to be answered otherwise a number of times.
    pub fn always(mut self, answer: Answer) {
        self.rule.answer = answer;
        self.shared.lock().play.rules.push(self.rule);
    }
}

impl Play {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            processing_retry_after: settings.poll.map(RetryAfter::Seconds),
            ..Self::default()
        }
    }

    /// The rule for a request: a counted one first, then the newest of the others.
    pub(super) fn rule(
        &self,
        endpoint: Endpoint,
        names: &[String],
        account: Option<&str>,
    ) -> Option<(usize, &Answer)> {
        let fits = |rule: &Rule| {
            rule.endpoint.is_none_or(|e| e == endpoint)
                && rule.name.as_ref().is_none_or(|n| names.contains(n))
                && rule.account.as_deref().is_none_or(|a| Some(a) == account)
        };
        let mut fitting = self.rules.iter().enumerate().filter(|(_, r)| fits(r));
        let mut newest = None;
        let counted = fitting.find(|(at, rule)| {
            if rule.left.is_none() {
                newest = Some((*at, &rule.answer));
            }
            rule.left.is_some()
        });
        counted.map(|(at, rule)| (at, &rule.answer)).or(newest)
    }

    /// The rule at `at` was played.
    pub(super) fn used(&mut self, at: usize) {
        if let Some(rule) = self.rules.get_mut(at)
            && let Some(left) = &mut rule.left
        {
            *left -= 1;
            if *left == 0 {
                self.rules.remove(at);
            }
        }
    }

    pub(super) fn verdict(&self, name: &str) -> Option<&Verdict> {
        self.verdicts.get(name)
    }

    pub(super) fn advice_for(&self, names: &[String], issued: Timestamp) -> Advice {
        let before = self.advice_before.as_ref();
        if let Some((_, advice)) = before.filter(|(at, _)| issued < *at) {
            return advice.clone();
        }
        let own = names.iter().find_map(|name| self.advice_of.get(name));
        own.unwrap_or(&self.advice).clone()
    }
}
