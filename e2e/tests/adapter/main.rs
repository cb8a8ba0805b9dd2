//! The adapter against the scripted CA: first everything that it does at Pebble, by the same tests, so that the scripted CA is
//! held to RFC 8555; then what the script can do to it.

// A test fails by panicking, in the functions that tests share too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod faults;
#[path = "../../../controller/acme/tests/suite/mod.rs"]
mod suite;
#[path = "../../../controller/acme/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use evercert_acme::DirectoryConfig;
use evercert_e2e::scripted::{ExternalAccounts, Profile, ScriptedCa, Settings, Validation};
use suite::{Authority, CAA_IDENTITY, Counted, EXTERNAL_ACCOUNT, Nothing, Shape};

suite::adapter_tests!(ScriptedCa);

impl Authority for ScriptedCa {
    async fn start(shape: &Shape) -> Option<Self> {
        let (kid, key) = EXTERNAL_ACCOUNT;
        let settings = Settings {
            validation: Validation::Believing,
            nonce_refusals_percent: shape.nonce_refusals,
            external_accounts: ExternalAccounts {
                keys: BTreeMap::from([(kid.to_owned(), key.to_owned())]),
                required: shape.external_account,
                once: false,
            },
            alternate_chains: shape.alternates,
            refused_names: shape.blocked.iter().map(|&name| name.to_owned()).collect(),
            caa_identities: vec![CAA_IDENTITY.to_owned()],
            default_profile: Profile {
                addresses: true,
                ..Profile::default()
            },
            ..Settings::default()
        };
        Some(Self::start(settings).await.unwrap())
    }

    fn config(&self) -> DirectoryConfig {
        let mut config = DirectoryConfig::new(self.directory(), "evercert/test");
        config.ca_bundle = Some(self.bundle().as_bytes().to_vec());
        config
    }

    fn nothing(&self, at: Nothing) -> String {
        let path = match at {
            Nothing::Account => "/account/999999",
            Nothing::Order => "/order/999999",
        };
        self.directory().replace("/dir", path)
    }

    fn count(&self, what: Counted) -> usize {
        let count = Self::count(self);
        match what {
            Counted::NewOrderRequests => count.orders,
            Counted::FinalizeRequests => count.finalized,
            Counted::Accounts => count.registered,
            Counted::Orders => count.placed,
        }
    }
}
