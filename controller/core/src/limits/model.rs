//! The limits of the known CAs, by directory, as they publish them; and a careful guess for all others.

use super::bucket::Bucket;
use jiff::SignedDuration;
use url::Url;

/// What a CA allows. A limit that it does not have is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// New orders of one account.
    pub orders: Option<Bucket>,
    /// Certificates for one registered domain, of all accounts.
    pub domain: Option<Bucket>,
    /// Certificates for one exact set of names, of all accounts.
    pub name_set: Option<Bucket>,
    /// Failed validations of one name by one account.
    pub failures: Option<Bucket>,
    /// Failed validations of one name by one account without a success in between; the CA stops that pair until a person acts.
    pub streak: Option<Bucket>,
    /// Whether a renewal for the same set of names counts neither among the account's orders nor for the registered domains.
    pub same_set_exempt: bool,
    /// Whether a renewal that is due by the certificate's lifetime does not count for its set of names.
    pub due_renewal_exempt: bool,
    /// Whether an order that names the certificate it replaces (RFC 9773 §5) counts nowhere but among failures.
    pub replacement_exempt: bool,
}

/// At most four in any hour, with one CA or another (design §6): stricter than the five at once of Let's Encrypt.
const FAILURES: Bucket = Bucket {
    capacity: 3,
    refill: SignedDuration::from_hours(1),
    reserve: 0,
};
const WEEK: i64 = 7 * 24;

impl Model {
    /// The limits of the CA with the directory at `url`.
    #[must_use]
    pub fn of(url: &str) -> Self {
        let host = Url::parse(url)
            .ok()
            .and_then(|url| url.host_str().map(str::to_owned));
        match host.as_deref() {
            Some("acme-v02.api.letsencrypt.org") => Self::lets_encrypt(),
            Some("acme-staging-v02.api.letsencrypt.org") => Self::lets_encrypt_staging(),
            Some(_) | None => Self::unknown(),
        }
    }

    /// As published on 2026-08-05. A tenth of what an account and a domain have is left for those who are about to be without a
    /// certificate, and the last one for a set of names.
    #[must_use]
    pub fn lets_encrypt() -> Self {
        Self {
            orders: Some(Bucket::of(300, 3).keeping(30)),
            domain: Some(Bucket::of(50, WEEK).keeping(5)),
            name_set: Some(Bucket::of(5, WEEK).keeping(1)),
            failures: Some(FAILURES),
            // Of 1,152: far from the end, a name is tried once a day, which never gets there.
            streak: Some(Bucket::of(1_000, 1_000 * 24)),
            same_set_exempt: true,
            due_renewal_exempt: false,
            replacement_exempt: true,
        }
    }

    fn lets_encrypt_staging() -> Self {
        Self {
            orders: Some(Bucket::of(1_500, 3).keeping(30)),
            domain: Some(Bucket::of(30_000, WEEK).keeping(5)),
            name_set: Some(Bucket::of(30_000, WEEK).keeping(5)),
            failures: Some(Bucket::of(200, 1)),
            streak: Some(Bucket::of(3_600, 6)),
            ..Self::lets_encrypt()
        }
    }

    /// A CA that publishes nothing, or a private one. Thousands of certificates at once are no trouble, and neither is one that
    /// lives for an hour; what goes round in circles is stopped.
    fn unknown() -> Self {
        Self {
            orders: Some(Bucket::of(4_000, 4).keeping(100)),
            domain: None,
            name_set: Some(Bucket::of(12, 12).keeping(2)),
            failures: Some(FAILURES),
            streak: None,
            same_set_exempt: false,
            due_renewal_exempt: true,
            replacement_exempt: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_encrypt_is_known_by_its_directory_and_staging_is_another() {
        let production = Model::of("https://acme-v02.api.letsencrypt.org/directory");
        assert_eq!(production, Model::lets_encrypt());
        assert_eq!(production.orders.map(|b| b.refill.as_secs()), Some(36));
        assert_eq!(
            production.domain.map(|b| b.refill.as_secs() / 60),
            Some(201)
        );
        assert_eq!(
            production.name_set.map(|b| b.refill.as_secs() / 3600),
            Some(33)
        );
        let staging = Model::of("https://acme-staging-v02.api.letsencrypt.org/directory");
        assert_eq!(staging.orders.map(|b| b.capacity), Some(1_500));
        for other in [
            "https://ca.example/acme-v02.api.letsencrypt.org",
            "nonsense",
        ] {
            assert_eq!(Model::of(other), Model::unknown());
        }
    }

    #[test]
    fn four_failures_of_a_name_in_an_hour_are_the_most() {
        let most = FAILURES.capacity + 1;
        assert_eq!((most, FAILURES.refill.as_secs()), (4, 3600));
    }
}
