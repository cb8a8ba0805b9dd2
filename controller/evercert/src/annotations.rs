//! `evercert annotations`: the page about the annotations of an Ingress, from the table that reads them.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use evercert_core::source::build_document;

#[derive(Args, Debug)]
pub(crate) struct AnnotationsArgs {
    /// Write the page to this file instead of printing it
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    output: Option<PathBuf>,

    /// Compare this file with the page; exit code 1 when they differ
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

/// Prints the page, writes its file, or compares this with what would be written.
pub(crate) fn run(args: &AnnotationsArgs) -> Result<()> {
    let page = build_document();
    if let Some(file) = &args.output {
        return fs::write(file, page).with_context(|| format!("writing {}", file.display()));
    }
    if let Some(file) = &args.check {
        let there =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        if there != page {
            bail!("not up to date: {}; run make annotations", file.display());
        }
        return Ok(());
    }
    match std::io::stdout().write_all(page.as_bytes()) {
        // The reader has seen enough, as `head` does.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.context("printing the page"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: PathBuf) -> Result<()> {
        run(&AnnotationsArgs {
            output: None,
            check: Some(file),
        })
    }

    #[test]
    fn committed_page_is_that_of_the_table() {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        check(root.join("docs/annotations.md")).unwrap();
    }

    #[test]
    fn page_that_differs_or_is_missing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.md");
        assert!(check(file.clone()).is_err());
        fs::write(&file, "# Old\n").unwrap();
        let refusal = check(file.clone()).unwrap_err().to_string();
        assert!(refusal.contains("run make annotations"), "{refusal}");
        let written = AnnotationsArgs {
            output: Some(file.clone()),
            check: None,
        };
        run(&written).unwrap();
        check(file).unwrap();
    }
}
