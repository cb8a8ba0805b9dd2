//! Pebble, the test CA: the one that every world has, and more of them with other settings.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::pki::Pki;
use crate::{World, address};

/// The settings of one Pebble. The default is that of the world's own; another one in the same world needs other ports.
///
/// Its HTTPS endpoints have the world's certificate for `198.18.0.1`, so [`World::pebble_ca`] verifies every Pebble. What it
/// issues comes from a root of its own, made anew at each start ([`Pebble::root_url`]).
#[derive(Clone, Debug)]
pub struct Pebble {
    /// The port of the ACME directory at [`address::NODE`]. 14000 is taken by the world's own.
    pub port: u16,
    /// The port of the management interface. 15000 is taken by the world's own.
    pub management_port: u16,
    /// Where HTTP-01 validation connects (RFC 8555 §8.3 says 80).
    pub http_port: u16,
    /// Where TLS-ALPN-01 validation connects.
    pub tls_port: u16,
    /// The DNS server that validation asks, `address:port`.
    pub dns: String,
    /// Profiles by name, each with the lifetime of its certificates, in whole seconds. With more than one, an order that names
    /// none gets one by chance.
    pub profiles: BTreeMap<String, Duration>,
    /// How often, in per cent, a valid authorization is used again for a new order.
    pub authz_reuse_percent: u8,
    /// How often, in per cent, a good nonce is refused with badNonce. The world's own refuses none, so that its log has one
    /// line for each order.
    pub nonce_reject_percent: u8,
    /// Names and their subdomains that get rejectedIdentifier.
    pub blocklist: Vec<String>,
    /// External accounts: key id to MAC key in base64url (RFC 8555 §7.3.4).
    pub external_accounts: BTreeMap<String, String>,
    /// Whether a new account must be bound to one of them.
    pub external_account_required: bool,
    /// Retry-After of a pending authorization and of a processing order, in seconds.
    pub retry_after: (u32, u32),
    /// More variables of its environment, such as `PEBBLE_ALTERNATE_ROOTS`.
    pub env: BTreeMap<String, String>,
}

impl Default for Pebble {
    fn default() -> Self {
        Self {
            port: address::PEBBLE_PORT,
            management_port: address::PEBBLE_MANAGEMENT_PORT,
            http_port: 80,
            tls_port: 443,
            dns: address::DNS.to_owned(),
            profiles: BTreeMap::from([("default".to_owned(), Duration::from_hours(90 * 24))]),
            authz_reuse_percent: 0,
            nonce_reject_percent: 0,
            blocklist: Vec::new(),
            external_accounts: BTreeMap::new(),
            external_account_required: false,
            retry_after: (1, 1),
            env: BTreeMap::new(),
        }
    }
}

impl Pebble {
    /// The directory's URL, for an Issuer.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("https://{}:{}/dir", address::NODE, self.port)
    }

    /// The URL of the root of what it issues, PEM. It changes with each start.
    #[must_use]
    pub fn root_url(&self) -> String {
        format!("https://{}:{}/roots/0", address::NODE, self.management_port)
    }

    /// Writes `pebble.json` into `dir` and gives the command that starts it inside `world`; it logs to its standard output.
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub fn command(&self, world: &World, dir: &Path) -> Result<Command> {
        let mut command = world.command("pebble");
        self.configure(&mut command, &world.pki(), dir)?;
        Ok(command)
    }

    pub(crate) fn configure(&self, command: &mut Command, pki: &Pki, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let file = dir.join("pebble.json");
        fs::write(&file, format!("{:#}\n", self.config(pki)))
            .with_context(|| format!("writing {}", file.display()))?;
        command
            .arg("-config")
            .arg(&file)
            .args(["-dnsserver", &self.dns])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", self.authz_reuse_percent.to_string())
            .env(
                "PEBBLE_WFE_NONCEREJECT",
                self.nonce_reject_percent.to_string(),
            )
            .envs(&self.env);
        Ok(())
    }

    fn config(&self, pki: &Pki) -> serde_json::Value {
        let profiles: BTreeMap<_, _> = self
            .profiles
            .iter()
            .map(|(name, lifetime)| {
                let profile =
                    serde_json::json!({"description": name, "validityPeriod": lifetime.as_secs()});
                (name.clone(), profile)
            })
            .collect();
        serde_json::json!({"pebble": {
            "listenAddress": format!("{}:{}", address::NODE, self.port),
            "managementListenAddress": format!("{}:{}", address::NODE, self.management_port),
            "certificate": pki.path("pebble.crt"),
            "privateKey": pki.path("pebble.key"),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": self.external_account_required,
            "externalAccountMACKeys": self.external_accounts,
            "domainBlocklist": self.blocklist,
            "retryAfter": {"authz": self.retry_after.0, "order": self.retry_after.1},
            "profiles": profiles,
            "keyAlgorithm": "ecdsa",
        }})
    }
}
