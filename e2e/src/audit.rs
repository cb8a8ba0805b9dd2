//! What was asked of the API server, counted in its audit log.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// A place in the audit log from which calls are counted.
#[derive(Debug, Clone)]
pub struct Audit {
    log: PathBuf,
    from: u64,
}

/// One answered request.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// `create`, `update`, `patch`, `delete`, `get` and so on.
    pub verb: String,
    #[serde(default)]
    stage: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub uri: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    response_status: Answer,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
struct User {
    username: String,
}

#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Object {
    #[serde(default)]
    api_group: String,
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
struct Answer {
    #[serde(default)]
    code: u16,
}

impl Audit {
    /// Counts from the log's present end.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn from_now(log: &Path) -> Result<Self> {
        let from = std::fs::metadata(log)
            .with_context(|| format!("reading {}", log.display()))?
            .len();
        Ok(Self {
            log: log.to_path_buf(),
            from,
        })
    }

    /// Counts the whole log.
    #[must_use]
    pub fn from_start(log: &Path) -> Self {
        Self {
            log: log.to_path_buf(),
            from: 0,
        }
    }

    /// The mutating calls of `user` since then, dry runs and refused ones among them. The Lease is left out: its renewals are
    /// no certificate's.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn mutating(&self, user: &str) -> Result<Vec<Call>> {
        let mut calls = self.calls(user)?;
        calls.retain(|call| call.is_mutating() && !call.is_about_the_lease());
        Ok(calls)
    }

    /// All calls of `user` since then. A watch counts when it begins.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn calls(&self, user: &str) -> Result<Vec<Call>> {
        let mut file =
            File::open(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        file.seek(SeekFrom::Start(self.from))
            .context("finding the place in the audit log")?;
        let mut text = String::new();
        file.read_to_string(&mut text)
            .context("reading the audit log")?;
        // Most lines of a long log are somebody else's.
        let lines = text.lines().filter(|line| line.contains(user));
        Ok(parse(lines)
            .filter(|call| call.user.username == user && call.is_told_once())
            .collect())
    }
}

/// A line that is still being written cannot be parsed, and is left for the next time.
pub(crate) fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> impl Iterator<Item = Call> {
    lines.filter_map(|line| serde_json::from_str(line).ok())
}

impl Call {
    /// What lasts has a line at its beginning and one at its end.
    fn is_told_once(&self) -> bool {
        (self.verb == "watch") == (self.stage == "ResponseStarted")
    }

    /// Whether it changes something, or would if it were no dry run. A review is created and kept by nobody: it is a question.
    #[must_use]
    pub fn is_mutating(&self) -> bool {
        !self.is_review()
            && matches!(
                self.verb.as_str(),
                "create" | "update" | "patch" | "delete" | "deletecollection"
            )
    }

    /// Whether it asks what its user may do, which everybody may ask.
    #[must_use]
    pub fn is_review(&self) -> bool {
        self.object_ref.api_group == "authorization.k8s.io"
    }

    /// Whether its user had the right to it; admission may have refused it all the same.
    #[must_use]
    pub fn was_authorized(&self) -> bool {
        let decision = self.annotations.get("authorization.k8s.io/decision");
        decision.is_some_and(|decision| decision == "allow")
    }

    /// The API group of the object, empty for the core.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.object_ref.api_group
    }

    /// Whether it is about a Lease.
    #[must_use]
    pub fn is_about_the_lease(&self) -> bool {
        self.object_ref.resource == "leases"
    }

    /// The program that asked, as it calls itself.
    #[must_use]
    pub fn user_agent(&self) -> &str {
        &self.user_agent
    }

    /// The namespace of the object; empty for one of the whole cluster.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.object_ref.namespace
    }

    /// `resource` or `resource/subresource`.
    #[must_use]
    pub fn resource(&self) -> String {
        match self.object_ref.subresource.as_str() {
            "" => self.object_ref.resource.clone(),
            sub => format!("{}/{sub}", self.object_ref.resource),
        }
    }

    /// The object's name, empty where the server gave it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.object_ref.name
    }

    /// What was asked for, such as `patch`.
    #[must_use]
    pub fn verb(&self) -> &str {
        &self.verb
    }

    /// The HTTP status of the answer.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.response_status.code
    }

    /// Whether it made an object that was not there before: a POST, or an apply that answered 201.
    #[must_use]
    pub fn created(&self) -> bool {
        self.code() == 201 && !self.uri.contains("dryRun=")
    }
}

/// `patch certificates/status`, with a mark for a dry run.
#[must_use]
pub fn kind(call: &Call) -> String {
    let dry = if call.uri.contains("dryRun=") {
        " (dry run)"
    } else {
        ""
    };
    format!("{} {}{dry}", call.verb, call.resource())
}

/// `3 patch certificates/status`, a line each, most frequent first.
#[must_use]
pub fn table(calls: &[Call]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for call in calls {
        *counts.entry(kind(call)).or_default() += 1;
    }
    let mut rows: Vec<_> = counts
        .into_iter()
        .map(|(what, count)| (count, what))
        .collect();
    rows.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    rows.iter().fold(String::new(), |mut text, (count, what)| {
        let _ = writeln!(text, "{count:4} {what}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apply_that_made_an_object_counts_as_created_and_its_dry_run_does_not() {
        let line = |uri: &str| {
            format!(
                r#"{{"verb":"patch","requestURI":"{uri}","user":{{"username":"op"}},"objectRef":{{"resource":"ingresses","namespace":"x","name":"y"}},"responseStatus":{{"code":201}}}}"#
            )
        };
        let text = format!(
            "{}\n{}\n{{\"verb\":\"pat",
            line("/a?force=true"),
            line("/a?dryRun=All")
        );
        let calls: Vec<Call> = parse(text.lines()).collect();
        assert_eq!(
            calls.iter().map(Call::created).collect::<Vec<_>>(),
            [true, false]
        );
        assert_eq!(
            table(&calls),
            "   1 patch ingresses\n   1 patch ingresses (dry run)\n"
        );
    }

    #[test]
    fn a_review_is_no_write_and_a_token_is() {
        let line = |group: &str, resource: &str| {
            format!(
                r#"{{"verb":"create","requestURI":"/x","user":{{"username":"op"}},"objectRef":{{"apiGroup":"{group}","resource":"{resource}"}}}}"#
            )
        };
        let text = [
            line("authorization.k8s.io", "selfsubjectaccessreviews"),
            line("authentication.k8s.io", "tokenreviews"),
        ];
        let writes: Vec<bool> = parse(text.iter().map(String::as_str))
            .map(|call| call.is_mutating())
            .collect();
        assert_eq!(writes, [false, true]);
    }
}
