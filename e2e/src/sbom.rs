//! The software bill of materials of a program, in CycloneDX 1.5: every package that cargo links into it, with version, licence and
//! checksum, and who needs whom. The same input gives the same bytes: neither a time nor a random number is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use cargo_lock::Lockfile;
use cyclonedx_bom::models::component::Classification;
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::external_reference::{
    ExternalReference, ExternalReferenceType, ExternalReferences, Uri as ReferenceUri,
};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::prelude::{
    Bom, Component, Components, Metadata, Purl, SpdxExpression, SpecVersion, Uri, Validate,
};

use crate::leaf::hex;
use crate::manifest::repository;

/// One line of `cargo tree` for each package below another.
const FORMAT: &str = "|{p}|{l}|{r}";

/// A version of a package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
}

impl Package {
    fn purl(&self) -> Result<Purl> {
        Purl::new("cargo", &self.name, &self.version)
            .with_context(|| format!("the package URL of {} {}", self.name, self.version))
    }
}

/// What its manifest says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    license: String,
    repository: String,
}

/// The packages that are linked into a program.
#[derive(Debug, PartialEq, Eq)]
struct Linked {
    program: Package,
    packages: BTreeMap<Package, Said>,
    /// Who needs whom; everybody is there.
    needs: BTreeMap<Package, BTreeSet<Package>>,
}

impl Linked {
    /// From what `cargo tree --prefix depth --format FORMAT` prints: a package's first line is followed by those that it needs.
    fn parse(tree: &str) -> Result<Self> {
        let mut packages = BTreeMap::new();
        let mut needs: BTreeMap<Package, BTreeSet<Package>> = BTreeMap::new();
        let mut above: Vec<Package> = Vec::new();
        for line in tree.lines().filter(|line| !line.is_empty()) {
            let (depth, package, said) =
                parse_line(line).with_context(|| format!("cargo tree says {line:?}"))?;
            ensure!(
                depth <= above.len(),
                "cargo tree leaves a step out: {line:?}"
            );
            above.truncate(depth);
            if let Some(parent) = above.last() {
                needs
                    .entry(parent.clone())
                    .or_default()
                    .insert(package.clone());
            }
            needs.entry(package.clone()).or_default();
            packages.entry(package.clone()).or_insert(said);
            above.push(package);
        }
        let program = above
            .into_iter()
            .next()
            .context("cargo tree says nothing")?;
        Ok(Self {
            program,
            packages,
            needs,
        })
    }
}

/// `2|clap v4.6.9 (…)|MIT OR Apache-2.0|https://…`; ` (*)` at the end where the package has been told before.
fn parse_line(line: &str) -> Option<(usize, Package, Said)> {
    let mut fields = line.split('|');
    let depth = fields.next()?.parse().ok()?;
    let mut words = fields.next()?.split(' ');
    let package = Package {
        name: words.next()?.to_owned(),
        version: words.next()?.strip_prefix('v')?.to_owned(),
    };
    let said = Said {
        license: fields.next()?.to_owned(),
        repository: fields.next()?.trim_end_matches(" (*)").to_owned(),
    };
    Some((depth, package, said))
}

/// An SPDX expression; before there were any, packages wrote `MIT/Apache-2.0`.
fn license(said: &str) -> LicenseChoice {
    let expression = said.replace('/', " OR ");
    match SpdxExpression::try_from(expression) {
        Ok(expression) => LicenseChoice::Expression(expression),
        Err(_) => LicenseChoice::license(said),
    }
}

fn sha256(hex: impl Into<String>) -> Hashes {
    Hashes(vec![Hash {
        alg: HashAlgorithm::SHA_256,
        content: HashValue(hex.into()),
    }])
}

fn component(kind: Classification, package: &Package, said: &Said) -> Result<Component> {
    let purl = package.purl()?;
    let mut component = Component::new(
        kind,
        &package.name,
        &package.version,
        Some(purl.to_string()),
    );
    component.purl = Some(purl);
    if !said.license.is_empty() {
        component.licenses = Some(Licenses(vec![license(&said.license)]));
    }
    if !said.repository.is_empty() {
        component.external_references = Some(ExternalReferences(vec![ExternalReference::new(
            ExternalReferenceType::Vcs,
            ReferenceUri::Url(Uri::new(&said.repository)),
        )]));
    }
    Ok(component)
}

fn build(linked: &Linked, lock: &Lockfile, program: &[u8]) -> Result<Bom> {
    let said = |package| linked.packages.get(package).cloned().unwrap_or_default();
    let checksum = |package: &Package| {
        let mut all = lock.packages.iter();
        all.find(|p| p.name.as_str() == package.name && p.version.to_string() == package.version)
            .with_context(|| format!("Cargo.lock has no {} {}", package.name, package.version))
            .map(|p| p.checksum.as_ref().map(ToString::to_string))
    };
    let mut whole = component(
        Classification::Application,
        &linked.program,
        &said(&linked.program),
    )?;
    whole.hashes = Some(sha256(hex(digest(&SHA256, program).as_ref())));

    let mut components = Vec::new();
    for package in linked.packages.keys().filter(|p| **p != linked.program) {
        let mut part = component(Classification::Library, package, &said(package))?;
        part.hashes = checksum(package)?.map(sha256);
        components.push(part);
    }
    let mut dependencies = Vec::new();
    for (package, needs) in &linked.needs {
        let needs = needs.iter().map(|p| Ok(p.purl()?.to_string()));
        dependencies.push(Dependency {
            dependency_ref: package.purl()?.to_string(),
            dependencies: needs.collect::<Result<_>>()?,
        });
    }
    let bom = Bom {
        serial_number: None,
        metadata: Some(Metadata {
            component: Some(whole),
            ..Metadata::default()
        }),
        components: Some(Components(components)),
        dependencies: Some(Dependencies(dependencies)),
        ..Bom::default()
    };
    let checked = bom.validate_version(SpecVersion::V1_5);
    ensure!(checked.passed(), "no valid CycloneDX: {checked:?}");
    Ok(bom)
}

fn tree(package: &str, target: &str) -> Result<String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(repository())
        .args(["tree", "--locked", "--edges", "normal", "--prefix", "depth"])
        .args(["--package", package, "--target", target, "--format", FORMAT])
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("cargo tree prints no UTF-8")
}

/// Writes that of `package`, built for `target` as `program`, to `output`, as JSON.
///
/// # Errors
/// The program cannot be read, cargo does not know the package or the target, or Cargo.lock is not up to date.
pub fn write(package: &str, target: &str, program: &Path, output: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
    let linked = Linked::parse(&tree(package, target)?)?;
    let lock = Lockfile::load(repository().join("Cargo.lock")).context("reading Cargo.lock")?;
    let mut json = Vec::new();
    build(&linked, &lock, &bytes)?.output_as_json(&mut json, SpecVersion::V1_5)?;
    fs::write(output, json).with_context(|| format!("writing {}", output.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0|evercert v0.1.0 (/src/controller/evercert)|Apache-2.0|\n\
         1|clap v4.6.9|MIT/Apache-2.0|https://github.com/clap-rs/clap\n\
         2|utf8parse v0.2.2|Apache-2.0 OR MIT|\n\
         1|ring v0.17.0|a licence of its own|https://example.com/ring\n\
         2|utf8parse v0.2.2|Apache-2.0 OR MIT| (*)\n";

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
        }
    }

    #[test]
    fn a_package_is_told_once_and_needs_what_stands_below_it() {
        let linked = Linked::parse(TREE).unwrap();
        assert_eq!(linked.program, package("evercert", "0.1.0"));
        assert_eq!(linked.packages.len(), 4);
        let needs = |name, version| -> Vec<&str> {
            let found = &linked.needs[&package(name, version)];
            found.iter().map(|p| p.name.as_str()).collect()
        };
        assert_eq!(needs("evercert", "0.1.0"), ["clap", "ring"]);
        assert_eq!(needs("ring", "0.17.0"), ["utf8parse"]);
        assert!(needs("utf8parse", "0.2.2").is_empty());
        assert_eq!(
            linked.packages[&package("utf8parse", "0.2.2")].repository,
            ""
        );
    }

    #[test]
    fn what_cargo_does_not_print_is_an_error_that_shows_it() {
        for (wrong, told) in [
            ("", "says nothing"),
            ("0|evercert\n", "\"0|evercert\""),
            ("1|clap v4.6.9|MIT|\n", "leaves a step out"),
        ] {
            let error = format!("{:#}", Linked::parse(wrong).unwrap_err());
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_licence_is_an_expression_or_a_name() {
        let is_expression = |said| matches!(license(said), LicenseChoice::Expression(e) if e.to_string().contains(" OR "));
        assert!(is_expression("MIT OR Apache-2.0"));
        assert!(is_expression("MIT/Apache-2.0"));
        assert!(matches!(
            license("a licence of its own"),
            LicenseChoice::License(_)
        ));
    }

    #[test]
    fn a_package_that_the_lock_does_not_name_is_an_error() {
        let lock: Lockfile = "version = 4\n".parse().unwrap();
        let error = build(&Linked::parse(TREE).unwrap(), &lock, b"program").unwrap_err();
        assert_eq!(error.to_string(), "Cargo.lock has no clap 4.6.9");
    }
}
