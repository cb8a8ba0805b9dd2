//! What certificates cost: calls to the API server from its audit log, requests to CAs from their logs, for each certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::audit::{self, Audit};
use crate::stage::Stage;
use crate::{operator, pods};

/// How often what was done.
type Tally = BTreeMap<String, usize>;

/// Rows that are less than this for a certificate are one row.
const RARE: f64 = 0.05;

/// What the certificates of a stage cost so far. Only namespaces in which some were issued count; a story has one.
#[derive(Debug, Default)]
pub struct Costs {
    /// Certificates of a CA that were seen in Secrets, by namespace.
    issued: BTreeMap<String, usize>,
    /// The operator's mutating calls by namespace, dry runs and refused ones among them.
    writes: BTreeMap<String, Tally>,
    /// Its other calls by namespace.
    reads: BTreeMap<String, Tally>,
    /// Requests to each CA, by its name, which is that of the story's namespace.
    requests: BTreeMap<String, Tally>,
}

impl Costs {
    /// Reads the logs.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn of(stage: &Stage) -> Result<Self> {
        let mut costs = Self {
            issued: stage.history.issued(),
            ..Self::default()
        };
        let calls = Audit::from_start(&stage.world.audit_log()).calls(&operator::user())?;
        for call in calls.iter().filter(|call| !call.is_about_the_lease()) {
            let tally = if call.is_mutating() {
                &mut costs.writes
            } else {
                &mut costs.reads
            };
            let tally = tally.entry(call.namespace().to_owned()).or_default();
            *tally.entry(audit::kind(call)).or_default() += 1;
        }
        let cas = stage.world.state().join("cas");
        for folder in fs::read_dir(cas).into_iter().flatten().flatten() {
            let log = folder.path().join("pebble.log");
            if log.is_file() {
                let name = folder.file_name().to_string_lossy().into_owned();
                costs.requests.insert(name, requests(&log)?);
            }
        }
        Ok(costs)
    }

    /// The mutating calls in a namespace.
    #[must_use]
    pub fn writes_in(&self, namespace: &str) -> usize {
        sum(self.writes.get(namespace))
    }

    /// The requests to the CA of a namespace.
    #[must_use]
    pub fn requests_of(&self, namespace: &str) -> usize {
        sum(self.requests.get(namespace))
    }

    /// The certificates that were issued in a namespace.
    #[must_use]
    pub fn issued_in(&self, namespace: &str) -> usize {
        self.issued.get(namespace).copied().unwrap_or_default()
    }

    /// Some tables for a person: for one certificate, on average, at the median of the stories, and in the worst of them.
    #[must_use]
    pub fn table(&self) -> String {
        let all: usize = self.issued.values().sum();
        if all == 0 {
            return "No CA issued a certificate.\n".to_owned();
        }
        let mut text = format!(
            "What a certificate cost: {all} were issued in the namespaces of {} stories\n",
            self.issued.len()
        );
        let _ = writeln!(
            text,
            "{:<44}{:>8}{:>8}{:>8}",
            "", "average", "median", "worst"
        );
        for (title, tallies) in [
            ("mutating calls in its namespace", &self.writes),
            ("other calls in its namespace", &self.reads),
            ("requests to the CA", &self.requests),
        ] {
            text.push_str(&self.rows(title, tallies));
        }
        for (title, tallies) in [("mutating", &self.writes), ("other", &self.reads)] {
            for (place, what) in [
                (operator::NAMESPACE, "the operator's own namespace"),
                ("", "no namespace"),
            ] {
                let tally = tallies.get(place).cloned().unwrap_or_default();
                let title = format!("{title} calls in {what}");
                text.push_str(&averages(&title, &tally, all));
            }
        }
        let elsewhere = |tallies: &BTreeMap<String, Tally>| -> usize {
            let others = tallies.iter().filter(|(namespace, _)| {
                !self.issued.contains_key(*namespace)
                    && !["", operator::NAMESPACE].contains(&namespace.as_str())
            });
            others.map(|(_, tally)| sum(Some(tally))).sum()
        };
        let _ = writeln!(
            text,
            "in namespaces where no CA issued one: {} mutating calls, {} others, {} requests to CAs",
            elsewhere(&self.writes),
            elsewhere(&self.reads),
            elsewhere(&self.requests)
        );
        text
    }

    fn rows(&self, title: &str, tallies: &BTreeMap<String, Tally>) -> String {
        let here: Vec<(&str, usize, &Tally)> = self
            .issued
            .iter()
            .filter_map(|(namespace, issued)| {
                Some((namespace.as_str(), *issued, tallies.get(namespace)?))
            })
            .collect();
        let shares: Vec<(&str, usize, usize)> = here
            .iter()
            .map(|(namespace, issued, tally)| (*namespace, *issued, sum(Some(tally))))
            .collect();
        let Some(row) = Row::of(&shares) else {
            return String::new();
        };
        let mut text = row.line(title, true);
        let kinds: BTreeSet<&String> = here.iter().flat_map(|(_, _, tally)| tally.keys()).collect();
        let mut rows: Vec<(Row, &str)> = kinds
            .into_iter()
            .filter_map(|kind| {
                let of_kind = |tally: &Tally| tally.get(kind).copied().unwrap_or_default();
                let shares: Vec<_> = here
                    .iter()
                    .map(|(namespace, issued, tally)| (*namespace, *issued, of_kind(tally)))
                    .collect();
                Some((Row::of(&shares)?, kind.as_str()))
            })
            .collect();
        rows.sort_by(|a, b| b.0.average.total_cmp(&a.0.average));
        let (often, rare): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(row, _)| row.average >= RARE);
        for (row, kind) in often {
            text.push_str(&row.line(&format!("  {kind}"), false));
        }
        if !rare.is_empty() {
            let kinds: Vec<_> = rare.iter().map(|(_, kind)| *kind).collect();
            let _ = writeln!(text, "    seldom: {}", kinds.join(", "));
        }
        text
    }
}

/// One line of a table, each number for one certificate.
#[derive(Debug, PartialEq)]
struct Row {
    average: f64,
    median: f64,
    worst: f64,
    worst_in: String,
}

impl Row {
    /// From (story, certificates, calls).
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn of(shares: &[(&str, usize, usize)]) -> Option<Self> {
        let certificates: usize = shares.iter().map(|(_, certificates, _)| certificates).sum();
        let calls: usize = shares.iter().map(|(_, _, calls)| calls).sum();
        let mut each: Vec<(f64, &str)> = shares
            .iter()
            .filter(|(_, certificates, _)| *certificates > 0)
            .map(|(story, certificates, calls)| (*calls as f64 / *certificates as f64, *story))
            .collect();
        each.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (median, worst) = (each.get(each.len() / 2)?, each.last()?);
        Some(Self {
            average: calls as f64 / certificates as f64,
            median: median.0,
            worst: worst.0,
            worst_in: worst.1.to_owned(),
        })
    }

    fn line(&self, title: &str, with_story: bool) -> String {
        let story = if with_story {
            format!("  in {}", self.worst_in)
        } else {
            String::new()
        };
        format!(
            "{title:<44}{:>8.1}{:>8.1}{:>8.1}{story}\n",
            self.average, self.median, self.worst
        )
    }
}

/// What is not in one certificate's namespace: there is no worst one.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn averages(title: &str, tally: &Tally, certificates: usize) -> String {
    let of_each = |calls: usize| calls as f64 / certificates as f64;
    let mut text = format!("{title:<44}{:>8.1}\n", of_each(sum(Some(tally))));
    let mut kinds: Vec<_> = tally
        .iter()
        .filter(|(_, calls)| of_each(**calls) >= RARE)
        .collect();
    kinds.sort_by_key(|(_, calls)| std::cmp::Reverse(**calls));
    for (kind, calls) in kinds {
        let _ = writeln!(text, "{:<44}{:>8.1}", format!("  {kind}"), of_each(*calls));
    }
    text
}

fn sum(tally: Option<&Tally>) -> usize {
    tally.map_or(0, |tally| tally.values().sum())
}

/// Pebble's paths, and what they are in RFC 8555, §7.1.
const PATHS: [(&str, &str); 11] = [
    ("/dir", "directory"),
    ("/nonce-plz", "nonce"),
    ("/sign-me-up", "new account"),
    ("/my-account/", "account"),
    ("/order-plz", "new order"),
    ("/my-order/", "order"),
    ("/finalize-order/", "finalize"),
    ("/authZ/", "authorization"),
    ("/chalZ/", "challenge"),
    ("/certZ/", "certificate"),
    ("/revoke-cert", "revoke"),
];

fn requests(log: &Path) -> Result<Tally> {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    Ok(tally_requests(&text))
}

fn tally_requests(log: &str) -> Tally {
    let mut tally = Tally::new();
    for line in log.lines() {
        let Some(line) = line.strip_suffix(" -> calling handler()") else {
            continue;
        };
        let path = line.rsplit(' ').next().unwrap_or_default();
        let known = PATHS.iter().find(|(prefix, _)| *prefix == path);
        // Those of the management interface are the tests' own.
        if let Some((_, what)) = known {
            *tally.entry((*what).to_owned()).or_default() += 1;
        }
    }
    tally
}

/// Resident memory of controller and solver, a line each, and whether they are what is in the image.
#[must_use]
pub fn memory() -> String {
    let mut text = String::new();
    for role in ["controller", "solver"] {
        let Some(process) = pods::Process::of_role(role) else {
            let _ = writeln!(text, "resident memory of the {role}: it does not run now");
            continue;
        };
        let kind = if process.is_in_a_container() {
            "the image's program, in a pod"
        } else {
            "a development build, as a process"
        };
        let field = |name: &str| {
            process
                .status(name)
                .unwrap_or_else(|error| format!("{error:#}"))
        };
        let _ = writeln!(
            text,
            "resident memory of the {role}: {}, {} at most ({kind})",
            field("VmRSS"),
            field("VmHWM")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(entries: &[(&str, usize)]) -> Tally {
        entries
            .iter()
            .map(|(kind, calls)| ((*kind).to_owned(), *calls))
            .collect()
    }

    fn costs() -> Costs {
        Costs {
            issued: BTreeMap::from([("a".into(), 2), ("b".into(), 1), ("c".into(), 1)]),
            writes: BTreeMap::from([
                ("a".into(), tally(&[("update secrets", 4)])),
                (
                    "b".into(),
                    tally(&[("update secrets", 3), ("create events", 5)]),
                ),
                ("c".into(), tally(&[("update secrets", 2)])),
                ("nothing-issued".into(), tally(&[("update secrets", 7)])),
                (
                    operator::NAMESPACE.into(),
                    tally(&[("patch configmaps", 6)]),
                ),
            ]),
            ..Costs::default()
        }
    }

    #[test]
    fn average_is_by_certificates_and_worst_names_its_story() {
        let row = Row::of(&[("a", 2, 4), ("b", 1, 8), ("c", 1, 2)]).unwrap();
        assert_eq!((row.average, row.median, row.worst), (3.5, 2.0, 8.0));
        assert_eq!(row.worst_in, "b");
        assert!(Row::of(&[]).is_none());
    }

    #[test]
    fn table_has_each_kind_and_what_was_done_elsewhere() {
        let text = costs().table();
        for line in [
            "mutating calls in its namespace                  3.5     2.0     8.0  in b",
            "  update secrets                                 2.2     2.0     3.0",
            "  create events                                  1.2     0.0     5.0",
            "mutating calls in the operator's own namespace     1.5",
            "in namespaces where no CA issued one: 7 mutating calls, 0 others, 0 requests to CAs",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn requests_are_told_in_the_words_of_the_rfc() {
        let log = "Pebble 2026/11/22 20:00:00 GET /dir -> calling handler()\n\
                   Pebble 2026/11/22 20:00:00 HEAD /nonce-plz -> calling handler()\n\
                   Pebble 2026/11/22 20:00:00 POST /order-plz -> calling handler()\n\
                   Pebble 2026/11/22 20:00:00 Added order \"x\" to the db\n\
                   Pebble 2026/11/22 20:00:00 GET /roots/ -> calling handler()\n\
                   Pebble 2026/11/22 20:00:01 POST /chalZ/ -> calling handler()\n";
        let expected = [
            ("challenge", 1),
            ("directory", 1),
            ("new order", 1),
            ("nonce", 1),
        ];
        assert_eq!(tally_requests(log), tally(&expected));
    }
}
