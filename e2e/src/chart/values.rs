//! The values of a chart with their comments, as a table.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use serde_yaml_ng::Value;

/// Where the table begins and ends in the README.
const BEGIN: &str = "<!-- values.yaml, by `make chart` -->";
const END: &str = "<!-- end of values.yaml -->";

/// A value that a user may set, with what stands above it.
#[derive(Debug, Clone, PartialEq)]
pub struct Documented {
    /// Its keys, such as `["image", "tag"]`.
    pub path: Vec<String>,
    /// What it is where nobody sets it.
    pub default: Value,
    /// The comment, as one line.
    pub comment: String,
}

impl Documented {
    /// Its keys with points between them.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.join(".")
    }
}

/// Every value of a values.yaml, in its order. A mapping whose members have comments is no value; its members are.
///
/// # Errors
/// It is no YAML, or a value has no comment.
pub fn documented(text: &str) -> Result<Vec<Documented>> {
    let defaults: Value = serde_yaml_ng::from_str(text).context("values.yaml")?;
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    // The indentation of a value whose block is being skipped.
    let mut skipped = None;
    for (number, line) in lines.iter().enumerate() {
        let words = line.trim_start();
        let depth = line.len() - words.len();
        if words.is_empty() {
            comment.clear();
            continue;
        }
        if skipped.is_some_and(|of| depth > of) {
            continue;
        }
        skipped = None;
        if let Some(words) = words.strip_prefix('#') {
            comment.push(words.trim());
            continue;
        }
        let (key, inline) = words
            .split_once(':')
            .with_context(|| format!("values.yaml:{}: neither a key nor a comment", number + 1))?;
        path.retain(|(at, _)| *at < depth);
        path.push((depth, key.to_owned()));
        let keys: Vec<String> = path.iter().map(|(_, key)| key.clone()).collect();
        let block = lines.iter().skip(number + 1);
        let mut block = block.take_while(|line| {
            line.trim().is_empty() || line.len() - line.trim_start().len() > depth
        });
        if inline.trim().is_empty() && block.any(|line| line.trim_start().starts_with('#')) {
            ensure!(
                comment.is_empty(),
                "values.yaml:{}: {} is no value, its members have the comments",
                number + 1,
                keys.join(".")
            );
            continue;
        }
        if comment.is_empty() {
            bail!(
                "values.yaml:{}: {} has no comment",
                number + 1,
                keys.join(".")
            );
        }
        let default = keys
            .iter()
            .try_fold(&defaults, |value, key| value.get(key.as_str()))
            .with_context(|| format!("values.yaml: {} is not there", keys.join(".")))?;
        found.push(Documented {
            path: keys,
            default: default.clone(),
            comment: comment.join(" "),
        });
        comment.clear();
        skipped = Some(depth);
    }
    Ok(found)
}

/// `readme` with the table of `values` between its two marks.
///
/// # Errors
/// A mark is missing.
pub fn insert_table(readme: &str, values: &[Documented]) -> Result<String> {
    let (before, rest) = readme
        .split_once(BEGIN)
        .with_context(|| format!("README.md has no line {BEGIN}"))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("README.md has no line {END}"))?;
    let mut table = String::from("| value | default | what it does |\n|---|---|---|\n");
    for value in values {
        let default = serde_json::to_string(&value.default)?;
        let cell = |text: &str| text.replace('|', "\\|");
        let (default, comment) = (cell(&default), cell(&value.comment));
        // Infallible: it is written into memory.
        let _ = writeln!(table, "| `{}` | `{default}` | {comment} |", value.name());
    }
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_comments_above_them_and_blocks_without_comments_are_one_value() {
        let text = "# About the file.\n\n# Of a\n# value.\na: 1\nb:\n  # Of c.\n  c: [x]\n  # Of d.\n  d:\n    e: 2\n    f: 3\n# Of g.\ng: {}\n";
        let found = documented(text).unwrap();
        let told: Vec<(String, &str)> = found
            .iter()
            .map(|value| (value.name(), value.comment.as_str()))
            .collect();
        let expected = [
            ("a", "Of a value."),
            ("b.c", "Of c."),
            ("b.d", "Of d."),
            ("g", "Of g."),
        ];
        assert_eq!(told, expected.map(|(name, words)| (name.to_owned(), words)));
        assert_eq!(found[2].default["f"], Value::from(3));
    }

    #[test]
    fn a_value_without_a_comment_is_refused_by_name_and_line() {
        let refusal = documented("# A.\na: 1\nb:\n  # C.\n  c: 1\n  d: 2\n").unwrap_err();
        assert_eq!(refusal.to_string(), "values.yaml:6: b.d has no comment");
        let refusal = documented("# Lost.\na:\n  # B.\n  b: 1\n").unwrap_err();
        assert!(refusal.to_string().contains("a is no value"), "{refusal}");
    }

    #[test]
    fn the_table_replaces_what_stands_between_its_marks() {
        let readme = format!("Before\n{BEGIN}\nold\n{END}\nAfter\n");
        let values = documented("# One | two.\na: \"x\"\n").unwrap();
        let table =
            "| value | default | what it does |\n|---|---|---|\n| `a` | `\"x\"` | One \\| two. |\n";
        assert_eq!(
            insert_table(&readme, &values).unwrap(),
            format!("Before\n{BEGIN}\n{table}{END}\nAfter\n")
        );
        assert!(insert_table("nothing", &values).is_err());
    }
}
