//! What a scripted CA is before anything happens.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::limits::Limits;

/// The shape of a CA. The default issues to everybody who answers the challenge, without limits, for 90 days.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens. Port 0 is a free one.
    pub listen: SocketAddr,
    /// How it comes to believe that a client controls a name.
    pub validation: Validation,
    /// The profiles that the directory offers, by name.
    pub profiles: BTreeMap<String, Profile>,
    /// That of an order that names none. The directory does not tell it.
    pub default_profile: Profile,
    /// The limits.
    pub limits: Limits,
    /// Domains below which a registered domain begins, beside every top-level domain.
    pub public_suffixes: Vec<String>,
    /// Whether an order for the same names, profile and account as a pending or ready one is that one.
    pub reuses_orders: bool,
    /// Whether a valid authorization of the account serves its next orders for as long as the profile says.
    pub reuses_authorizations: bool,
    /// What new accounts may or must be bound to.
    pub external_accounts: ExternalAccounts,
    /// Names that are refused, with all below them.
    pub refused_names: Vec<String>,
    /// What CAA records name it by.
    pub caa_identities: Vec<String>,
    /// The CAA records that it finds: values of `issue` by domain, such as `ca.example; validationmethods=http-01`.
    pub caa: BTreeMap<String, Vec<String>>,
    /// The terms of service, which a new account must agree to.
    pub terms: Option<String>,
    /// How many good nonces in a hundred are refused.
    pub nonce_refusals_percent: u8,
    /// Whether it offers renewal information (RFC 9773).
    pub renewal_info: bool,
    /// How many chains there are beside the default one, each to a root of its own.
    pub alternate_chains: usize,
    /// `Retry-After` of what is pending or processing, in seconds.
    pub poll: Option<u64>,
}

/// External accounts (RFC 8555 §7.3.4).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExternalAccounts {
    /// Key id to MAC key in base64url.
    pub keys: BTreeMap<String, String>,
    /// Whether a new account must be bound to one of them.
    pub required: bool,
    /// Whether each of them may be bound only once.
    pub once: bool,
}

/// What certificates an order can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// For people.
    pub description: String,
    /// From `notBefore` to `notAfter`.
    pub lifetime: Duration,
    /// How long before the instant of issue `notBefore` is.
    pub backdate: Duration,
    /// The most identifiers.
    pub most_names: usize,
    /// Whether identifiers may be IP addresses.
    pub addresses: bool,
    /// How long an order, and a pending authorization, is kept.
    pub order_lifetime: Duration,
    /// How long a valid authorization may serve.
    pub authorization_lifetime: Duration,
}

/// How a CA comes to believe in a challenge; a script may decide otherwise for single names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Validation {
    /// Without a look.
    Believing,
    /// By HTTP-01 (RFC 8555 §8.3), names resolved by this machine's resolver: inside a world its DNS.
    Resolving,
    /// By HTTP-01, a name's port 80 at the address that stands here; a name that does not is not found.
    At(BTreeMap<String, SocketAddr>),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            validation: Validation::Resolving,
            profiles: BTreeMap::new(),
            default_profile: Profile::default(),
            limits: Limits::none(),
            public_suffixes: Vec::new(),
            reuses_orders: false,
            reuses_authorizations: false,
            external_accounts: ExternalAccounts::default(),
            refused_names: Vec::new(),
            caa_identities: vec!["scripted.example".into()],
            caa: BTreeMap::new(),
            terms: Some("https://scripted.example/terms/1".into()),
            nonce_refusals_percent: 0,
            renewal_info: true,
            alternate_chains: 0,
            poll: Some(1),
        }
    }
}

impl Settings {
    /// The shape of Let's Encrypt: its profiles and its limits, what it uses again, one alternate chain.
    #[must_use]
    pub fn lets_encrypt() -> Self {
        let hours = Duration::from_hours;
        let short = |lifetime, addresses| Profile {
            lifetime,
            most_names: 25,
            addresses,
            order_lifetime: hours(8),
            authorization_lifetime: hours(7),
            ..Profile::default()
        };
        let profiles = [
            ("classic", Profile::default()),
            ("tlsserver", short(hours(24 * 45), false)),
            ("shortlived", short(hours(160), true)),
        ];
        Self {
            profiles: profiles
                .map(|(name, profile)| (name.to_owned(), profile))
                .into(),
            limits: Limits::lets_encrypt(),
            reuses_orders: true,
            reuses_authorizations: true,
            alternate_chains: 1,
            ..Self::default()
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        let days = |n: u64| Duration::from_hours(24 * n);
        Self {
            description: "the usual one".into(),
            lifetime: days(90),
            backdate: Duration::from_hours(1),
            most_names: 100,
            addresses: false,
            order_lifetime: days(7),
            authorization_lifetime: days(30),
        }
    }
}

impl Profile {
    /// One like the usual, of another lifetime.
    #[must_use]
    pub fn living(lifetime: Duration) -> Self {
        Self {
            lifetime,
            ..Self::default()
        }
    }
}
