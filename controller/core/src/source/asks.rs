//! Who asks for which Secret's Certificate, and with which names.

use std::collections::{BTreeMap, BTreeSet};

use evercert_api::{Identifier, Reason};
use k8s_openapi::api::networking::v1::{Ingress, IngressTLS};

use super::read::{Reading, Said};

/// The longest name of an object.
const LONGEST_NAME: usize = 253;

/// An Ingress that asks.
pub(super) struct Asker<'a> {
    pub(super) ingress: &'a Ingress,
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
    pub(super) reading: Box<Reading>,
    pub(super) said: Said,
}

/// Who asks for a Secret's Certificate, and with which names.
#[derive(Default)]
pub(super) struct Ask {
    /// Indices of the askers, the oldest first, and whether anything they ask with can be certified.
    pub(super) askers: BTreeSet<usize>,
    pub(super) names: BTreeSet<String>,
    /// What is there stays, and nothing new is made.
    pub(super) holds: bool,
}

/// Who asks for which Secret.
pub(super) fn gather_asks(askers: &mut [Asker<'_>]) -> BTreeMap<String, Ask> {
    let mut asks: BTreeMap<String, Ask> = BTreeMap::new();
    for (index, asker) in askers.iter_mut().enumerate() {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let spec = asker.ingress.spec.as_ref();
        for entry in spec.iter().flat_map(|s| s.tls.iter().flatten()) {
            let Some(secret) = entry.secret_name.as_deref().filter(|s| !s.is_empty()) else {
                let hosts = words_of(entry);
                let sentence = format!("the tls entry{hosts} names no Secret: set its secretName");
                asker.said.push((Reason::EntryIncomplete, sentence));
                continue;
            };
            if !seen.insert(secret) {
                let sentence = format!(
                    "several tls entries name Secret {secret}: one certificate has the hosts of all of them"
                );
                asker.said.push((Reason::SecretShared, sentence));
            }
            let names = parse_hosts(entry, secret, &mut asker.said);
            if asker.reading.per_host && names.len() > 1 {
                split(secret, names, index, &mut asks, &mut asker.said);
                continue;
            }
            let ask = asks.entry(secret.to_owned()).or_default();
            ask.askers.insert(index);
            ask.names.extend(names);
        }
    }
    asks
}

fn words_of(entry: &IngressTLS) -> String {
    match entry.hosts.as_deref().unwrap_or_default() {
        [] => String::new(),
        hosts => format!(" for {}", hosts.join(", ")),
    }
}

/// The hosts of an entry that can be certified.
fn parse_hosts(entry: &IngressTLS, secret: &str, said: &mut Said) -> BTreeSet<String> {
    let hosts = entry.hosts.as_deref().unwrap_or_default();
    if hosts.is_empty() {
        let sentence = format!(
            "the tls entry for Secret {secret} lists no hosts: list those that the certificate is for"
        );
        said.push((Reason::EntryIncomplete, sentence));
    }
    let mut names = BTreeSet::new();
    for host in hosts {
        match Identifier::parse(host) {
            Ok(name) => drop(names.insert(name.to_string())),
            Err(error) => said.push((Reason::HostLeftOut, format!("Secret {secret}: {error}"))),
        }
    }
    names
}

/// A certificate for each host, in Secrets that the entry does not name: whoever reads the event makes an entry for each. Until then
/// the entry's own Secret is what it was.
fn split(
    secret: &str,
    names: BTreeSet<String>,
    index: usize,
    asks: &mut BTreeMap<String, Ask>,
    said: &mut Said,
) {
    let own = asks.entry(secret.to_owned()).or_default();
    own.askers.insert(index);
    own.holds = true;
    let mut entries = Vec::new();
    for name in names {
        let own = format!("{secret}-{name}");
        if own.len() > LONGEST_NAME {
            let sentence = format!(
                "Secret {secret}-{name} would have a name of more than {LONGEST_NAME} characters: shorten secretName"
            );
            said.push((Reason::HostLeftOut, sentence));
            continue;
        }
        entries.push(own.clone());
        let ask = asks.entry(own).or_default();
        ask.askers.insert(index);
        ask.names.insert(name);
    }
    let sentence = format!(
        "each host has a certificate of its own, and a tls entry can name one Secret only: replace the entry for {secret} by one for \
         each host, with the Secrets {}",
        entries.join(", ")
    );
    said.push((Reason::EntrySplit, sentence));
}
