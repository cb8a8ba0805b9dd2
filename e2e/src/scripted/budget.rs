//! What a CA's limits let through, and what they count, by Let's Encrypt's rules. An order is refused when one of its
//! limits has no token; a certificate is counted when it is issued, a failure when it happens.

use super::answer::paused;
use super::identifier::{Identifier, set_key};
use super::limits::{Limit, Refusal};
use super::problem::Problem;
use super::state::State;

/// Why an order is not counted as a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exemption {
    None,
    /// The set has a certificate already.
    SameSet,
    /// It replaces a certificate, with renewal information.
    Replaces,
}

/// A limit, the key of its bucket, and what it counts by in words.
type Bucket = (Limit, String, String);

impl State {
    /// RFC 9773 §5, and what it exempts from.
    pub(super) fn check_replacement(
        &self,
        replaces: Option<&str>,
        account: u64,
        identifiers: &[Identifier],
    ) -> Result<Exemption, Problem> {
        let Some(id) = replaces.filter(|_| self.settings.renewal_info) else {
            return Ok(if self.has_certificate(&set_key(identifiers)) {
                Exemption::SameSet
            } else {
                Exemption::None
            });
        };
        let Some((_, predecessor)) = self.certificate_by(id) else {
            return Err(Problem::not_found("certificate to replace"));
        };
        if predecessor.account != account {
            return Err(Problem::unauthorized(
                "the certificate to replace is of another account",
            ));
        }
        let shared = |identifier: &Identifier| predecessor.identifiers.contains(identifier);
        if !identifiers.iter().any(shared) {
            let detail = "the certificate to replace has none of the identifiers";
            return Err(Problem::malformed(detail));
        }
        let now = self.now();
        let successor = self.orders.iter().find(|(_, order)| {
            order.replaces.as_deref() == Some(id) && order.may_come_to_something(now)
        });
        match successor {
            Some((number, _)) => Err(Problem::new(
                409,
                "alreadyReplaced",
                format!("the certificate is replaced by order {number} already"),
            )),
            None => Ok(Exemption::Replaces),
        }
    }

    /// The first refusal by a pause, else that of the limit that lasts longest.
    pub(super) fn check_order_limits(
        &self,
        account: u64,
        identifiers: &[Identifier],
        exempt: Exemption,
    ) -> Result<(), Problem> {
        if exempt == Exemption::Replaces {
            return Ok(());
        }
        let names: Vec<String> = identifiers.iter().map(|i| i.base().value).collect();
        let is_paused = |name: &&String| self.paused.contains(&(account, (*name).clone()));
        if let Some(name) = names.iter().find(is_paused) {
            return Err(paused(name, &self.unpause_url(account)));
        }
        let mut buckets: Vec<Bucket> = names
            .iter()
            .map(|name| (Limit::Failures, pair(account, name), name.clone()))
            .collect();
        buckets.push((Limit::ExactSet, set_key(identifiers), String::new()));
        if exempt == Exemption::None {
            buckets.push((Limit::Orders, account.to_string(), String::new()));
            let domains = self.registered_domains(identifiers).into_iter();
            buckets.extend(domains.map(|d| (Limit::RegisteredDomain, d.clone(), d)));
        }
        self.check_limits(&buckets)
    }

    /// The refusal by that of these limits that lasts longest.
    pub(super) fn check_limits(&self, buckets: &[Bucket]) -> Result<(), Problem> {
        let now = self.now();
        let refusals = buckets.iter().filter_map(|(limit, key, of)| {
            let rate = *self.settings.limits.rates.get(limit)?;
            let until = self.buckets.next_token(*limit, rate, key, now)?;
            Some(Refusal {
                limit: *limit,
                rate,
                of: of.clone(),
                until,
            })
        });
        match refusals.max_by_key(|refusal| refusal.until) {
            Some(refusal) => Err(refusal.problem(self.settings.limits.style, now)),
            None => Ok(()),
        }
    }

    /// Counts a new order.
    pub(super) fn spend_order(&mut self, account: u64, exempt: Exemption) {
        if exempt == Exemption::None {
            self.spend(Limit::Orders, &account.to_string());
        }
    }

    /// Counts a certificate that is about to be kept.
    pub(super) fn spend_certificate(&mut self, identifiers: &[Identifier], replaces: bool) {
        if replaces && self.settings.renewal_info {
            return;
        }
        let set = set_key(identifiers);
        let renews = self.has_certificate(&set);
        self.spend(Limit::ExactSet, &set);
        if !renews {
            for domain in self.registered_domains(identifiers) {
                self.spend(Limit::RegisteredDomain, &domain);
            }
        }
    }

    /// Counts a validation. A failure that was the last one allowed in a row pauses the pair.
    pub(super) fn count_validation(&mut self, account: u64, name: &str, good: bool) {
        let key = pair(account, name);
        if good {
            self.buckets.fill(Limit::FailuresInARow, &key);
            return;
        }
        self.spend(Limit::Failures, &key);
        self.spend(Limit::FailuresInARow, &key);
        if self.tokens(Limit::FailuresInARow, &key) == Some(0) {
            self.paused.insert((account, name.to_owned()));
        }
    }

    /// A person has unpaused every pair.
    pub(super) fn unpause(&mut self) {
        for (account, name) in std::mem::take(&mut self.paused) {
            let key = pair(account, &name);
            self.buckets.fill(Limit::FailuresInARow, &key);
        }
    }

    /// Takes a token of a limit, where there is such a limit.
    pub(super) fn spend(&mut self, limit: Limit, key: &str) {
        if let Some(rate) = self.settings.limits.rates.get(&limit) {
            let now = self.now();
            self.buckets.spend(limit, *rate, key, now);
        }
    }

    /// Whole tokens left; `None` without such a limit.
    pub(super) fn tokens(&self, limit: Limit, key: &str) -> Option<u32> {
        let rate = self.settings.limits.rates.get(&limit)?;
        Some(self.buckets.left(limit, *rate, key, self.now()))
    }

    fn has_certificate(&self, set: &str) -> bool {
        let mut all = self.certificates.values();
        all.any(|certificate| set_key(&certificate.identifiers) == set)
    }

    fn registered_domains(&self, identifiers: &[Identifier]) -> Vec<String> {
        let suffixes = &self.settings.public_suffixes;
        let mut domains: Vec<String> = identifiers
            .iter()
            .map(|identifier| identifier.registered_domain(suffixes))
            .collect();
        domains.sort_unstable();
        domains.dedup();
        domains
    }

    fn unpause_url(&self, account: u64) -> String {
        format!("{}/unpause?jwt=account-{account}", self.base)
    }
}

/// The key of a limit by account and name.
pub(super) fn pair(account: u64, name: &str) -> String {
    format!("{account} {name}")
}
