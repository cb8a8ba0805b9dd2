//! The chart: Helm on it, what is written from it, and whether that is up to date.

mod values;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_yaml_ng::Value;
use tempfile::TempDir;

use crate::manifest::repository;
use crate::operator::NAMESPACE;

pub use values::{Documented, documented, insert_table};

/// The release's name in everything that is rendered.
pub const RELEASE: &str = "evercert";
/// Where the chart is, in the repository.
const FOLDER: &str = "charts/evercert";
/// What `kubectl apply` takes, rendered; beside it the namespace.
pub const MANIFESTS: &str = "deploy/20-evercert.yaml";
/// The operator's namespace, which Helm makes by an option.
const NAMESPACE_FILE: &str = "deploy/10-namespace.yaml";
/// Renderings that a reader of a change compares: (values, result).
const GOLDENS: &str = "e2e/tests/chart";

/// Where the chart is.
#[must_use]
pub fn folder() -> PathBuf {
    repository().join(FOLDER)
}

/// The operator's namespace, as YAML.
///
/// # Errors
/// The file cannot be read.
pub fn namespace() -> Result<String> {
    read(&repository().join(NAMESPACE_FILE))
}

/// Helm, with none of its user's settings.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    home: TempDir,
}

impl Helm {
    /// The program at this place.
    ///
    /// # Errors
    /// There is no place for its files.
    pub fn at(program: PathBuf) -> Result<Self> {
        Ok(Self {
            program,
            home: TempDir::new().context("a folder for Helm")?,
        })
    }

    /// A command of it, in the repository.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (variable, folder) in [
            ("HELM_CACHE_HOME", "cache"),
            ("HELM_CONFIG_HOME", "config"),
            ("HELM_DATA_HOME", "data"),
        ] {
            command.env(variable, self.home.path().join(folder));
        }
        command
            .env("HELM_NAMESPACE", NAMESPACE)
            .current_dir(repository());
        command
    }

    /// What it prints.
    ///
    /// # Errors
    /// Its code is not 0: with what it says.
    pub fn output<I: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = I>,
    ) -> Result<String> {
        let output = self.command().args(arguments).output();
        said(output.context("starting Helm")?)
    }

    /// The objects of a release with these values, without a cluster.
    ///
    /// # Errors
    /// Helm refuses the values: with its sentence.
    pub fn template(&self, arguments: &[String]) -> Result<String> {
        let chart = folder();
        let fixed = ["template", RELEASE].map(ToOwned::to_owned);
        let chart = [chart.display().to_string()];
        self.output(fixed.iter().chain(&chart).chain(arguments))
    }
}

/// What a command printed.
///
/// # Errors
/// Its code is not 0: with what it says.
pub fn said(output: Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// A file that is written from the chart.
#[derive(Debug)]
pub struct Rendered {
    /// Its place.
    pub file: PathBuf,
    /// What should be in it.
    pub text: String,
}

impl Rendered {
    /// Whether the file is as it should be.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|found| found == self.text)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self) -> Result<()> {
        fs::write(&self.file, &self.text)
            .with_context(|| format!("writing {}", self.file.display()))
    }
}

/// The chart's README, with the table of its values.
///
/// # Errors
/// A value has no comment, or the README has no place for the table.
pub fn build_readme() -> Result<Rendered> {
    let file = folder().join("README.md");
    let values = read(&folder().join("values.yaml"))?;
    let text = insert_table(&read(&file)?, &documented(&values)?)?;
    Ok(Rendered { file, text })
}

/// The plain manifests, and the renderings for readers.
///
/// # Errors
/// Helm refuses one of the sets of values.
pub fn render_all(helm: &Helm) -> Result<Vec<Rendered>> {
    let values = repository().join("deploy/values.yaml");
    let plain = helm.template(&with_values(&values))?;
    let without_crds = documents(&plain)?;
    let (crds, others): (Vec<_>, Vec<_>) = without_crds.into_iter().partition(|d| d.is_crd);
    ensure!(
        crds.is_empty(),
        "deploy/values.yaml: crds/ is applied by itself"
    );
    let mut all = vec![Rendered {
        file: repository().join(MANIFESTS),
        text: join(
            "Written by `make chart` from charts/evercert and deploy/values.yaml.",
            &others,
        ),
    }];
    for values in sets()? {
        let name = values.file_name().context("a set of values")?.to_owned();
        let documents = documents(&helm.template(&with_values(&values))?)?;
        all.push(Rendered {
            file: repository().join(GOLDENS).join("goldens").join(name),
            text: join("Written by `make chart`.", &documents),
        });
    }
    Ok(all)
}

/// The sets of values that are rendered for readers.
///
/// # Errors
/// Their folder cannot be read.
pub fn sets() -> Result<Vec<PathBuf>> {
    let folder = repository().join(GOLDENS).join("values");
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    Ok(files)
}

/// The arguments that make Helm read a file of values.
#[must_use]
pub fn with_values(file: &Path) -> Vec<String> {
    vec!["--values".to_owned(), file.display().to_string()]
}

/// An object as it was rendered, with its comments.
#[derive(Debug)]
struct Document {
    text: String,
    is_crd: bool,
}

/// Each object of a rendering. Of a custom resource's definition only the head: the rest is in crds/.
fn documents(rendered: &str) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for text in format!("\n{rendered}").split("\n---\n") {
        let object = Value::deserialize(serde_yaml_ng::Deserializer::from_str(text))
            .with_context(|| format!("a document is no YAML:\n{text}"))?;
        let is_crd = object.get("kind").and_then(Value::as_str) == Some("CustomResourceDefinition");
        let text = match object {
            Value::Null => continue,
            Value::Mapping(mut object) if is_crd => {
                object.remove("spec");
                let head = serde_yaml_ng::to_string(&object)?;
                format!("{head}# spec: as in crds/\n")
            }
            _ => format!("{}\n", without_source(text)),
        };
        documents.push(Document { text, is_crd });
    }
    if documents.is_empty() {
        bail!("nothing is rendered");
    }
    Ok(documents)
}

/// Without Helm's line about the template, and empty ones.
fn without_source(text: &str) -> String {
    let lines = text.lines().map(str::trim_end);
    let lines: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with("# Source: "))
        .collect();
    lines.join("\n")
}

fn join(head: &str, documents: &[Document]) -> String {
    let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).collect();
    format!("# {head}\n{}", texts.join("---\n"))
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_of_the_chart_is_up_to_date() {
        assert!(build_readme().unwrap().is_fresh(), "run make chart");
    }

    #[test]
    fn of_a_custom_resource_the_head_is_shown_and_of_others_everything() {
        let rendered = "---\n# Source: evercert/templates/a.yaml\n# Why.\nkind: Role\nrules: []\n---\nkind: CustomResourceDefinition\nmetadata:\n  name: a\nspec: {b: 1}\n";
        let documents = documents(rendered).unwrap();
        let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "# Why.\nkind: Role\nrules: []\n",
                "kind: CustomResourceDefinition\nmetadata:\n  name: a\n# spec: as in crds/\n"
            ]
        );
    }
}
