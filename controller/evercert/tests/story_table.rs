//! `docs/stories.md` names the tests that tell each acceptance story, `docs/security.md` those of each threat: those that they name exist.

// A test fails by panicking, in the functions that tests share too.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

const ROWS: usize = 28;

/// A test as the table names it: `place::module::sentence`.
#[derive(Debug)]
struct Named<'a> {
    place: &'a str,
    module: &'a str,
    sentence: &'a str,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where the tests of a place are.
fn folder(place: &str) -> Option<&'static str> {
    Some(match place {
        "stories" => "e2e/tests/stories",
        "adapter" => "e2e/tests/adapter",
        "chart" => "e2e/tests/chart",
        "ca" => "e2e/src/scripted",
        "core" => "controller/core/src",
        "simulate" => "controller/core/tests/simulate",
        "acme" => "controller/acme",
        "probe" => "controller/probe/src",
        "solver" => "controller/solver/src",
        "evercert" => "controller/evercert/tests",
        "e2e" => "e2e",
        "crds" => "e2e/src/crd_cases",
        _ => return None,
    })
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The tests that a row names, each between back-ticks.
fn named(row: &str) -> Vec<Named<'_>> {
    let quoted = row.split('`').skip(1).step_by(2);
    let parts = quoted.filter_map(|name| {
        let mut parts = name.split("::");
        Some(Named {
            place: parts.next()?,
            module: parts.next()?,
            sentence: parts.next()?,
        })
    });
    parts.collect()
}

fn rows(table: &str) -> Vec<(&str, Vec<Named<'_>>)> {
    let rows = table.lines().filter_map(|line| {
        let number = line.strip_prefix("| ")?.split(' ').next()?;
        number.parse::<u32>().ok()?;
        Some((number, named(line)))
    });
    rows.collect()
}

/// Whether the module has a function of that name, or puts such names together.
fn exists(test: &Named<'_>) -> bool {
    let Some(folder) = folder(test.place) else {
        return false;
    };
    let mut files = Vec::new();
    sources(&root().join(folder), &mut files);
    let of_module = files.iter().filter(|path| {
        let inside = path.strip_prefix(root()).unwrap_or(path).with_extension("");
        inside
            .components()
            .any(|part| part.as_os_str() == test.module)
    });
    let function = format!("fn {}(", test.sentence);
    let pattern = test.sentence.replace('*', "{}");
    let last = pattern.rsplit("{}").next().unwrap_or_default();
    let first = pattern.split("{}").next().unwrap_or_default();
    of_module
        .map(|path| fs::read_to_string(path).unwrap())
        .any(|text| {
            let composed =
                |line: &str| line.contains(first) && line.contains(last) && line.contains('{');
            text.contains(&function) || test.sentence.contains('*') && text.lines().any(composed)
        })
}

#[test]
fn every_test_that_the_table_of_stories_names_exists() {
    let table = fs::read_to_string(root().join("docs/stories.md")).unwrap();
    let rows = rows(&table);
    assert_eq!(rows.len(), ROWS, "stories 1 to 28");
    let mut count = 0;
    for (number, tests) in &rows {
        assert!(!tests.is_empty(), "nothing tells story {number}");
        for test in tests {
            assert!(exists(test), "story {number}: there is no {test:?}");
            count += 1;
        }
    }
    assert!(count > 50, "only {count} tests are named");
}

#[test]
fn every_line_of_the_threats_has_tests_and_they_exist() {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).collect();
    let lines = lines.iter().filter(|line| !line.starts_with("| who "));
    let mut count = 0;
    for line in lines {
        let tests = named(line);
        assert!(!tests.is_empty(), "nothing shows {line}");
        for test in &tests {
            assert!(exists(test), "there is no {test:?}");
            count += 1;
        }
    }
    assert!(count > 20, "only {count} tests are named");
}

#[test]
fn a_test_that_does_not_exist_is_missed() {
    let row = "| 4 | x | `stories::limits::nobody_has_told_this` `stories::nowhere::a_deleted_secret_comes_back_without_an_order` `elsewhere::a::b` `stories::quota::the_bound_of_*_is_kept` |";
    let tests = named(row);
    assert_eq!(tests.len(), 4);
    for test in &tests {
        assert!(!exists(test), "{test:?}");
    }
    assert!(exists(
        &named("`stories::damage::a_deleted_secret_comes_back_without_an_order`")[0]
    ));
}
