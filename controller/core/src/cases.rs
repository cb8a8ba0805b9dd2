//! How many cases every property has, in CI as everywhere: one place for the number, and the proof that it is so.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Cases of each property.
pub(crate) const CASES: u32 = 10_000;

/// What each property runs with. Nothing in the environment makes the cases fewer.
pub(crate) fn config() -> ProptestConfig {
    ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 400,
        // A case that proves nothing is none of them.
        max_global_rejects: CASES,
        ..ProptestConfig::default()
    }
}

#[test]
fn a_property_with_this_configuration_is_tried_ten_thousand_times() {
    let tried = std::cell::Cell::new(0_u32);
    let always = |_| {
        tried.set(tried.get() + 1);
        Ok(())
    };
    TestRunner::new(config()).run(&any::<u8>(), always).unwrap();
    assert!(tried.get() >= 10_000, "{} cases", tried.get());

    // And a hundredth is not too rare to be found.
    let rarely = |n: u16| match n % 100 {
        7 => Err(TestCaseError::fail("found")),
        _ => Ok(()),
    };
    let found = TestRunner::new(config()).run(&any::<u16>(), rarely);
    assert!(found.is_err(), "ten thousand cases find nothing");
}

/// The sources of the crates that decide or read without IO, in which a property could be.
fn sources() -> Vec<PathBuf> {
    let controller = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut left = vec![controller.to_owned()];
    let mut found = Vec::new();
    while let Some(place) = left.pop() {
        if place.is_dir() {
            left.extend(
                std::fs::read_dir(place)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if place.extension().is_some_and(|end| end == "rs") {
            found.push(place);
        }
    }
    found
}

/// The properties in a source, and those of its blocks that do not run with [`config`].
fn properties(source: &str) -> (usize, Vec<&str>) {
    let mut count = 0;
    let mut others = Vec::new();
    for block in source.split("\nproptest! {\n").skip(1) {
        let block = block.split("\n}\n").next().unwrap_or_default();
        count += block.matches("#[test]").count();
        let first = block.lines().next().unwrap_or_default().trim();
        if first != "#![proptest_config(config())]" {
            others.push(first);
        }
    }
    (count, others)
}

#[test]
fn every_property_has_as_many_cases() {
    let (mut count, mut blocks, mut words) = (0, Vec::new(), 0);
    for path in sources()
        .iter()
        .filter(|path| !path.ends_with("src/cases.rs"))
    {
        let text = std::fs::read_to_string(path).unwrap();
        let (here, others) = properties(&text);
        count += here;
        words += text.matches("prop_assert").count();
        let own = text.contains("ProptestConfig {") || text.contains("with_cases(");
        assert!(!own, "{} has a configuration of its own", path.display());
        let others = others
            .into_iter()
            .map(|first| format!("{}: {first}", path.display()));
        blocks.extend(others);
    }
    assert_eq!(blocks, Vec::<String>::new());
    assert!(
        count >= 12 && words > 30,
        "only {count} properties were found"
    );

    // It can find one.
    let bad =
        "\nproptest! {\n    #![proptest_config(config(5))]\n\n    #[test]\n    fn a() {}\n}\n";
    assert_eq!(properties(bad), (1, vec!["#![proptest_config(config(5))]"]));
}
