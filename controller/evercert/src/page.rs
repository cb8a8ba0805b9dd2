//! `evercert annotations`, `evercert metrics`, `evercert troubleshooting`: pages that are written from the tables that the program itself reads.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct PageArgs {
    /// Write the page to this file instead of printing it
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    output: Option<PathBuf>,

    /// Compare this file with the page; exit code 1 when they differ
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

/// Prints `page`, writes its file, or compares this with what `make target` would write.
pub(crate) fn run(args: &PageArgs, page: &str, target: &str) -> Result<()> {
    if let Some(file) = &args.output {
        return fs::write(file, page).with_context(|| format!("writing {}", file.display()));
    }
    if let Some(file) = &args.check {
        let there =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        if there != page {
            bail!("not up to date: {}; run make {target}", file.display());
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
    use evercert_core::{source, trouble};
    use evercert_operator::metrics;

    use super::*;

    fn check(file: PathBuf, page: &str) -> Result<()> {
        let args = PageArgs {
            output: None,
            check: Some(file),
        };
        run(&args, page, "annotations")
    }

    #[test]
    fn committed_pages_are_those_of_the_tables() {
        let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        check(docs.join("annotations.md"), &source::build_document()).unwrap();
        check(docs.join("metrics.md"), &metrics::build_document()).unwrap();
        check(docs.join("troubleshooting.md"), &trouble::build_document()).unwrap();
    }

    #[test]
    fn page_that_differs_or_is_missing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.md");
        assert!(check(file.clone(), "# New\n").is_err());
        fs::write(&file, "# Old\n").unwrap();
        let refusal = check(file.clone(), "# New\n").unwrap_err().to_string();
        assert!(refusal.contains("run make annotations"), "{refusal}");
        let written = PageArgs {
            output: Some(file.clone()),
            check: None,
        };
        run(&written, "# New\n", "annotations").unwrap();
        check(file, "# New\n").unwrap();
    }
}
