//! CAA records as a CA would find them (RFC 8659 §3): the closest ancestor that has some, with CNAMEs followed.

use std::net::IpAddr;
use std::time::Duration;

use evercert_core::caa::{CaaAnswer, CaaRecord, Signing, check_caa};
use futures::future::join_all;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::timeout;

use crate::dns::Dns;

/// The longest time for one name, all its ancestors together.
const IN_ALL: Duration = Duration::from_secs(3);

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

impl Dns {
    /// Whether the CAA records for `name`, which is no wildcard, let the CA sign. [`CaaAnswer::Unknown`] where DNS gives no
    /// definite answer within 3 s: a CA would look for itself. All ancestors are asked at once. CAA records are about domain names
    /// only (RFC 8659 §3): an IP address is allowed.
    pub async fn check_caa(&self, name: &str, signing: &Signing<'_>) -> CaaAnswer {
        if name.parse::<IpAddr>().is_ok() {
            return CaaAnswer::Allowed;
        }
        match timeout(IN_ALL, self.climb(name, signing)).await {
            Ok(answer) => answer,
            Err(_) => CaaAnswer::Unknown(format!("no answer within {IN_ALL:?}")),
        }
    }

    async fn climb(&self, name: &str, signing: &Signing<'_>) -> CaaAnswer {
        let name = name.trim_end_matches('.');
        let lineage: Vec<&str> = std::iter::successors(Some(name), |at| parent(at)).collect();
        let found = join_all(lineage.iter().map(|at| self.read(at))).await;
        for (at, records) in lineage.iter().zip(found) {
            match records {
                Ok(records) if records.is_empty() => {}
                Ok(records) => return check_caa(at, &records, signing),
                Err(error) => {
                    return CaaAnswer::Unknown(format!(
                        "the CAA records of {at} cannot be read: {error}"
                    ));
                }
            }
        }
        CaaAnswer::Allowed
    }

    async fn read(&self, name: &str) -> Result<Vec<CaaRecord>, NetError> {
        match self.lookup(name, RecordType::CAA).await {
            Ok(found) => Ok(found
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::CAA(caa) => Some(CaaRecord {
                        critical: caa.issuer_critical,
                        tag: caa.tag.clone(),
                        value: String::from_utf8_lossy(&caa.value).into_owned(),
                    }),
                    _ => None,
                })
                .collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
