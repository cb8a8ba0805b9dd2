//! The image as `make image` leaves it: what is in it, and that it is enough.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use evercert_e2e::image::{ALL, EVERCERT, Image};
use evercert_e2e::leaf::hex;
use evercert_e2e::manifest::repository;
use evercert_e2e::operator::sibling;
use serde_json::Value;
use tempfile::TempDir;

/// An image's archive, unpacked.
struct Unpacked {
    dir: TempDir,
    manifest: Value,
}

impl Unpacked {
    fn new(image: Image) -> Result<Self> {
        let dir = TempDir::new()?;
        untar(&image.archive()?, dir.path())?;
        let manifest = read_json(&dir.path().join("manifest.json"))?;
        Ok(Self { dir, manifest })
    }

    fn file(&self, pointer: &str) -> Result<PathBuf> {
        let name = self.manifest.pointer(pointer).and_then(Value::as_str);
        Ok(self
            .dir
            .path()
            .join(name.context("no such file in the manifest")?))
    }

    fn config(&self) -> Result<Value> {
        read_json(&self.file("/0/Config")?)
    }

    /// What a container sees as its root, in a folder.
    fn root(&self) -> Result<TempDir> {
        let root = TempDir::new()?;
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
        untar(&self.file("/0/Layers/0")?, root.path())?;
        Ok(root)
    }

    fn program(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.root()?.path().join(name)).context("reading the program")
    }
}

fn untar(archive: &Path, dir: &Path) -> Result<()> {
    said(
        Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(dir),
    )
    .map(drop)
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn read_json(file: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}

/// Whether a program asks for a loader (ELF-64, a program header of type PT_INTERP): a static one does not.
fn asks_for_a_loader(program: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| {
        program[at..at + bytes]
            .iter()
            .rev()
            .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    assert_eq!(
        &program[..6],
        b"\x7fELF\x02\x01",
        "a little-endian ELF-64 program"
    );
    let (first, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    assert!(count > 0);
    (0..count).any(|header| number(first + header * size, 4) == 3)
}

fn contains(program: &[u8], bytes: &[u8]) -> bool {
    program.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn an_image_holds_one_static_program_and_nothing_else() {
    for image in ALL {
        let unpacked = Unpacked::new(image).unwrap();
        let layers = unpacked.manifest.pointer("/0/Layers").unwrap();
        assert_eq!(layers.as_array().unwrap().len(), 1, "{layers:?}");
        let layer = unpacked.file("/0/Layers/0").unwrap();
        let files = said(Command::new("tar").arg("-tf").arg(layer)).unwrap();
        assert_eq!(files.trim(), image.program);
        let program = unpacked.program(image.program).unwrap();
        assert!(!asks_for_a_loader(&program), "{}", image.program);
    }
    // The test can tell.
    let dynamic = fs::read(sibling("evercert").unwrap()).unwrap();
    assert!(asks_for_a_loader(&dynamic));
}

#[test]
fn an_image_says_what_it_is_and_runs_as_nobody() {
    let unpacked = Unpacked::new(EVERCERT).unwrap();
    let tag = unpacked.manifest.pointer("/0/RepoTags/0").unwrap();
    assert_eq!(tag, EVERCERT.reference);
    let config = unpacked.config().unwrap();
    let config = config.get("config").unwrap();
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/evercert"]));
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str();
    assert_eq!(label("title"), Some("Evercert"));
    assert_eq!(label("licenses"), Some("Apache-2.0"));
    assert_eq!(label("version"), Some(env!("CARGO_PKG_VERSION")));
    assert!(label("description").is_some());
}

/// In a root where nothing else is, as the user that the image names. Only root may enter one.
#[test]
fn the_program_of_the_image_runs_in_an_empty_root() {
    let root = Unpacked::new(EVERCERT).unwrap().root().unwrap();
    let crds = said(
        Command::new("chroot")
            .arg("--userspec=65532:65532")
            .arg(root.path())
            .args(["/evercert", "crds"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    )
    .unwrap();
    for file in fs::read_dir(repository().join("crds")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(crds.contains(text.trim()), "{crds}");
    }
}

/// Issuers trust public CAs by these: nothing in the image's root has any. That they are used is proved in `evercert-acme`.
#[test]
fn the_public_roots_are_in_the_program() {
    let program = Unpacked::new(EVERCERT)
        .unwrap()
        .program("evercert")
        .unwrap();
    // Those of the CAs that an Issuer may name by a word.
    for name in [
        "ISRG Root X1",
        "ISRG Root X2",
        "GTS Root R1",
        "USERTrust RSA",
    ] {
        let named = |subject: &[u8]| contains(subject, name.as_bytes());
        let root = webpki_roots::TLS_SERVER_ROOTS
            .iter()
            .find(|root| named(&root.subject));
        let mut key = root.unwrap().subject_public_key_info.to_vec();
        assert!(contains(&program, &key), "{name}");
        // The test can tell.
        key.reverse();
        assert!(!contains(&program, &key), "{name}");
    }
}

/// They are in every development build, and stop the process where a variable says so.
#[test]
fn no_failpoint_is_in_the_image() {
    let variable = evercert_operator::effect::failpoint::VARIABLE.as_bytes();
    let program = Unpacked::new(EVERCERT)
        .unwrap()
        .program("evercert")
        .unwrap();
    assert!(!contains(&program, variable));
    // The test can tell: its own program has them.
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(contains(&own, variable));
}

#[test]
fn the_image_is_built_by_the_toolchain_of_the_tests() {
    let toolchain = fs::read_to_string(repository().join("rust-toolchain.toml")).unwrap();
    let version = toolchain.split('"').nth(1).unwrap();
    let dockerfile = fs::read_to_string(repository().join("Dockerfile")).unwrap();
    let base = dockerfile
        .lines()
        .find(|line| line.starts_with("FROM rust:"))
        .unwrap();
    assert!(base.starts_with(&format!("FROM rust:{version}-")), "{base}");
    assert!(
        dockerfile.contains(&format!("RUSTUP_TOOLCHAIN={version}\n")),
        "{dockerfile}"
    );
}

/// Where a package can panic its source file is named in the program, below its name and version: what is there has to be told.
#[test]
fn the_bill_of_materials_names_what_is_in_the_program() {
    let bill = read_json(&EVERCERT.bill_of_materials()).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let program = Unpacked::new(EVERCERT)
        .unwrap()
        .program("evercert")
        .unwrap();
    let hash = hex(digest(&SHA256, &program).as_ref());
    assert_eq!(bill["metadata"]["component"]["hashes"][0]["content"], hash);

    let components = bill["components"].as_array().unwrap();
    let told: BTreeSet<String> = components
        .iter()
        .map(|c| {
            [&c["name"], &c["version"]]
                .map(|v| v.as_str().unwrap())
                .join("-")
        })
        .collect();
    let text = String::from_utf8_lossy(&program);
    let named: BTreeSet<&str> = text
        .split("/registry/src/")
        .skip(1)
        .filter_map(|path| path.split('/').nth(1))
        .collect();
    assert!(named.len() > 50, "the program names {named:?} only");
    let untold: Vec<_> = named.iter().filter(|name| !told.contains(**name)).collect();
    assert!(untold.is_empty(), "{untold:?}");
    // And nothing that only tests need.
    assert!(!components.iter().any(|c| c["name"] == "proptest"));
    for component in components {
        let is_ours = component["name"].as_str().unwrap().starts_with("evercert");
        assert_eq!(component.get("hashes").is_none(), is_ours, "{component}");
        assert!(component.get("licenses").is_some(), "{component}");
    }
}

/// The bound of the issue, for what is pulled at its largest: the archive is not compressed.
#[test]
fn the_image_is_below_twenty_five_megabytes() {
    let bytes = fs::metadata(EVERCERT.archive().unwrap()).unwrap().len();
    assert!(bytes < 25_000_000, "{bytes} bytes");
}
