//! The log as JSON: an object a line, which says what it is about, and nothing that is secret.

use anyhow::{Context, Result, ensure};
use evercert_e2e::Story;
use evercert_e2e::story::SOON;
use k8s_openapi::ByteString;
use serde_json::{Map, Value};

use crate::{Tale, tales};

/// As much as our own parts can say.
const EVERYTHING: &str = "info,evercert=trace,evercert_operator=trace,evercert_core=trace,evercert_acme=trace,evercert_probe=trace,evercert_pki=trace";

pub(crate) fn tales() -> Vec<Tale> {
    tales![the_log_is_an_object_a_line_with_a_span_for_each_pass_and_no_secret_in_it]
}

async fn the_log_is_an_object_a_line_with_a_span_for_each_pass_and_no_secret_in_it(
    story: Story<'_>,
) -> Result<()> {
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    let from = std::fs::read(operator.log())?.len();
    operator.restart_with(&[
        ("EVERCERT_LOG_FORMAT", "json"),
        ("EVERCERT_LOG", EVERYTHING),
    ])?;
    operator.ready().await?;
    let told = issue(&story).await;
    let log = std::fs::read(operator.log())?;
    operator.kill()?;
    operator.ensure_ready().await?;
    told?;

    let log = std::str::from_utf8(log.get(from..).context("the log was cut")?)?;
    // What is being written when it is read is no line yet.
    let (log, _) = log.rsplit_once('\n').context("nothing is logged")?;
    let lines: Vec<Map<String, Value>> = log
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            ensure!(
                line.get(field).is_some_and(Value::is_string),
                "{field} in {line:?}"
            );
        }
    }
    for (kind, object) in [("Certificate", "site"), ("Issuer", "ca")] {
        let of_it = |line: &&Map<String, Value>| {
            let span = line.get("span");
            let says = |field: &str, value: &str| {
                span.and_then(|span| span.get(field))
                    .and_then(Value::as_str)
                    == Some(value)
            };
            says("name", "reconcile")
                && says("kind", kind)
                && says("namespace", story.namespace)
                && says("object", object)
        };
        let count = lines.iter().filter(of_it).count();
        ensure!(count > 0, "no line is said to be about {kind} {object}");
        println!("{count} lines of {} are about {kind} {object}", lines.len());
    }
    let stray = lines.iter().find(|line| {
        let message = line.get("message").and_then(Value::as_str);
        message == Some("planned") && line.get("span").is_none()
    });
    ensure!(stray.is_none(), "{stray:?}");
    has_no_secret(&story, log).await
}

async fn issue(story: &Story<'_>) -> Result<()> {
    let _ca = story.ca().await?;
    story.certificate("site", &[story.host("site")]).await?;
    story.ready("site", SOON).await.map(drop)
}

/// No line of a private key is in it, nor what the API server takes for the operator.
async fn has_no_secret(story: &Story<'_>, log: &str) -> Result<()> {
    let mut lines = 0;
    for (secret, key) in [("site", "tls.key"), ("ca-account", "")] {
        let data = story.secret(secret).await?.data.unwrap_or_default();
        let keys = data.iter().filter(|(name, _)| name.contains(key));
        for (name, ByteString(bytes)) in keys {
            let text = String::from_utf8_lossy(bytes);
            for line in text
                .lines()
                .filter(|line| line.len() > 30 && !line.contains("-----"))
            {
                lines += 1;
                ensure!(
                    !log.contains(line),
                    "{name} of Secret {secret} is in the log"
                );
            }
        }
    }
    ensure!(lines > 1, "no key was looked for");
    for words in ["PRIVATE KEY", "Bearer ", "Authorization:"] {
        ensure!(!log.contains(words), "{words} is in the log");
    }
    Ok(())
}
