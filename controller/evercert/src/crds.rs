//! `evercert crds`: the custom resource definitions as YAML.

use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use evercert_api::crd;

#[derive(Args, Debug)]
pub(crate) struct CrdsArgs {
    /// Write a file for each definition into this folder instead of printing
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    output: Option<PathBuf>,

    /// Compare the files in this folder with the definitions; exit code 1 when they differ
    #[arg(long, value_name = "DIR")]
    check: Option<PathBuf>,
}

/// The first line of each file.
const HEADER: &str =
    "# Written by `evercert crds`: change the types in controller/api, not this file.\n";

/// Prints the definitions, writes their files, or compares these with what would be written.
pub(crate) fn run(args: &CrdsArgs) -> Result<()> {
    let files = render()?;
    match (&args.output, &args.check) {
        (Some(folder), _) => write(folder, &files),
        (None, Some(folder)) => match find_stale(folder, &files)?.as_slice() {
            [] => Ok(()),
            stale => bail!(
                "not up to date in {}: {}; run make crds",
                folder.display(),
                stale.join(", ")
            ),
        },
        (None, None) => print(&files),
    }
}

/// One file of `crds/`.
struct File {
    name: String,
    text: String,
}

fn render() -> Result<Vec<File>> {
    let crds = crd::all().context("building the definitions")?;
    crds.iter()
        .map(|crd| {
            let name = crd
                .metadata
                .name
                .as_deref()
                .context("a definition without a name")?;
            let yaml =
                serde_yaml_ng::to_string(crd).with_context(|| format!("writing {name} as YAML"))?;
            Ok(File {
                name: format!("{name}.yaml"),
                text: format!("{HEADER}{}", quote_booleans(&yaml)),
            })
        })
        .collect()
}

/// The values of an enum in quotes where they are booleans in YAML 1.1, which kubectl and Helm read.
fn quote_booleans(yaml: &str) -> String {
    let quote = |line: &str| match line.trim_start().strip_prefix("- ") {
        Some(word) if is_boolean(word) => line.replacen(word, &format!("\"{word}\""), 1),
        _ => line.to_owned(),
    };
    yaml.lines().map(|line| quote(line) + "\n").collect()
}

/// Of YAML 1.1 alone: `true` and `false` are quoted already.
fn is_boolean(word: &str) -> bool {
    ["y", "n", "yes", "no", "on", "off"].contains(&word.to_lowercase().as_str())
}

fn print(files: &[File]) -> Result<()> {
    let mut text = String::new();
    for file in files {
        write!(text, "---\n{}", file.text)?;
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough, as `head` does.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.context("printing the definitions"),
    }
}

fn write(folder: &Path, files: &[File]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    for file in files {
        let path = folder.join(&file.name);
        fs::write(&path, &file.text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Names of the files that are missing, different, or left over.
fn find_stale(folder: &Path, files: &[File]) -> Result<Vec<String>> {
    let mut stale = Vec::new();
    for file in files {
        match fs::read_to_string(folder.join(&file.name)) {
            Ok(text) if text == file.text => {}
            Ok(_) => stale.push(file.name.clone()),
            Err(e) if e.kind() == ErrorKind::NotFound => stale.push(file.name.clone()),
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("reading {}", folder.join(&file.name).display()));
            }
        }
    }
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
            && !files.iter().any(|file| file.name == name)
        {
            stale.push(name.into_owned());
        }
    }
    Ok(stale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_definitions_are_those_of_the_types() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
        let stale = find_stale(&folder, &render().unwrap()).unwrap();
        assert!(stale.is_empty(), "not up to date: {stale:?}; run make crds");
    }

    #[test]
    fn what_yaml_1_1_takes_for_a_boolean_is_in_quotes() {
        let quoted = quote_booleans("enum:\n  - Off\n  - Offer\n- y\n");
        assert_eq!(quoted, "enum:\n  - \"Off\"\n  - Offer\n- \"y\"\n");
        let files = render().unwrap();
        let quoted = |file: &&File| file.text.contains("- \"Off\"\n");
        assert_eq!(
            files.iter().filter(quoted).count(),
            2,
            "both kinds of issuers"
        );
    }

    #[test]
    fn stale_missing_and_left_over_files_are_all_named() {
        let folder = tempfile::tempdir().unwrap();
        let files = render().unwrap();
        write(folder.path(), &files).unwrap();
        assert!(find_stale(folder.path(), &files).unwrap().is_empty());

        fs::write(
            folder.path().join("certificates.evercert.dev.yaml"),
            "kind: Other\n",
        )
        .unwrap();
        fs::remove_file(folder.path().join("issuers.evercert.dev.yaml")).unwrap();
        fs::write(
            folder.path().join("orders.evercert.dev.yaml"),
            "kind: Gone\n",
        )
        .unwrap();
        let mut stale = find_stale(folder.path(), &files).unwrap();
        stale.sort();
        let expected = [
            "certificates.evercert.dev.yaml",
            "issuers.evercert.dev.yaml",
            "orders.evercert.dev.yaml",
        ];
        assert_eq!(stale, expected);
    }
}
