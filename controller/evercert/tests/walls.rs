//! What the crates may depend on. Told by `cargo tree` for each package alone: over a workspace features are unified, and
//! `cargo metadata` then shows what no single build has.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What does IO in this workspace.
const IO: [&str; 4] = ["tokio", "hyper", "tower", "kube-client"];

/// Licences that the shipped program may be built from; one of the alternatives is enough.
const LICENCES: [&str; 8] = [
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Crates that stand twice in the shipped program's graph, each because two well-kept dependencies move at their own pace.
/// `getrandom`: ahash, by kube-runtime, wants 0.3; rand and uuid, by hickory-resolver, 0.4.
const TWICE: [&str; 7] = [
    // kube_quantity has 8, x509-parser 7.
    "nom",
    "base64",
    "getrandom",
    "hashbrown",
    "syn",
    "synstructure",
    "untrusted",
];

/// The house: each crate and those of its neighbours that it may import.
const HOUSE: [(&str, &[&str]); 8] = [
    ("evercert-api", &[]),
    ("evercert-core", &["evercert-api"]),
    ("evercert-pki", &["evercert-api", "evercert-core"]),
    ("evercert-acme", &["evercert-api", "evercert-core"]),
    ("evercert-probe", &["evercert-api", "evercert-core"]),
    ("evercert-solver", &["evercert-api"]),
    (
        "evercert-operator",
        &[
            "evercert-api",
            "evercert-core",
            "evercert-pki",
            "evercert-acme",
            "evercert-probe",
        ],
    ),
    (
        "evercert",
        &[
            "evercert-api",
            "evercert-core",
            "evercert-pki",
            "evercert-acme",
            "evercert-probe",
            "evercert-solver",
            "evercert-operator",
        ],
    ),
];

/// Lines of `cargo tree`, without the marks of repetition.
fn tree(args: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--prefix", "none", "--no-dedupe"])
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo can be started");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    text.lines()
        .filter(|line| !line.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

/// Names of every crate in the graph of a package as it is built, itself left out.
fn crates_of(package: &str) -> BTreeSet<String> {
    let lines = tree(&["-p", package, "-e", "normal", "--format", "{p}"]);
    let names = lines.iter().filter_map(|line| line.split(' ').next());
    names
        .filter(|name| *name != package)
        .map(ToOwned::to_owned)
        .collect()
}

fn io_of(package: &str) -> Vec<&'static str> {
    let crates = crates_of(package);
    IO.into_iter()
        .filter(|name| crates.contains(*name))
        .collect()
}

#[test]
fn nouns_decisions_and_x509_do_no_io() {
    for package in ["evercert-api", "evercert-core", "evercert-pki"] {
        assert_eq!(io_of(package), Vec::<&str>::new(), "{package}");
    }
    // The same look does find them where they are.
    assert_eq!(io_of("evercert-operator"), IO);
}

#[test]
fn nouns_need_the_small_half_of_kube_only() {
    let crates = crates_of("evercert-api");
    assert!(crates.contains("kube-core") && crates.contains("kube-derive"));
    assert!(!crates.contains("kube") && !crates.contains("kube-runtime"));
}

#[test]
fn imports_go_one_way() {
    for (package, allowed) in HOUSE {
        let neighbours: Vec<String> = crates_of(package)
            .into_iter()
            .filter(|name| name.starts_with("evercert"))
            .collect();
        let foreign: Vec<&String> = neighbours
            .iter()
            .filter(|name| !allowed.contains(&name.as_str()))
            .collect();
        assert!(foreign.is_empty(), "{package} imports {foreign:?}");
    }
    // The look does find neighbours.
    assert!(crates_of("evercert").contains("evercert-operator"));
}

#[test]
fn there_is_one_crypto_provider() {
    let lines = tree(&["--workspace", "-e", "normal,build,dev", "--format", "{p}"]);
    let names: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.contains("aws-lc-rs"));
    for other in ["ring", "openssl", "native-tls", "boring"] {
        assert!(!names.contains(other), "{other} is in the graph");
    }
}

#[test]
fn licences_let_the_program_be_given_away() {
    let lines = tree(&["-p", "evercert", "-e", "normal", "--format", "{p}|{l}"]);
    let licences: BTreeMap<&str, &str> = lines
        .iter()
        .filter_map(|line| line.split_once('|'))
        .collect();
    assert!(licences.len() > 100, "{} crates", licences.len());
    let refused: Vec<_> = licences
        .iter()
        .filter(|(_, licence)| !may_be_used(licence))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert!(!may_be_used("MIT AND GPL-3.0") && !may_be_used(""));
}

/// Each part that is joined by AND has an alternative that is allowed.
fn may_be_used(licence: &str) -> bool {
    licence
        .replace(['(', ')'], "")
        .replace('/', " OR ")
        .split(" AND ")
        .all(|part| {
            part.split(" OR ")
                .any(|alternative| LICENCES.contains(&alternative.trim()))
        })
}

#[test]
fn no_crate_is_there_twice_without_being_known() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in tree(&["-p", "evercert", "-e", "normal", "--format", "{p}"]) {
        let mut words = line.split(' ').map(ToOwned::to_owned);
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            versions.entry(name).or_default().insert(version);
        }
    }
    let twice: Vec<_> = versions
        .iter()
        .filter(|(name, all)| all.len() > 1 && !TWICE.contains(&name.as_str()))
        .collect();
    assert!(twice.is_empty(), "{twice:?}");
}
