//! What the documents say of tests, alarms and names, held against those.
#![expect(clippy::unwrap_used, reason = "a test reads its own repository")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Files with this ending, in `folder` and below it, by their stems: that is how tests are named after them.
fn sources(folder: &Path, ending: &str, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, ending, found);
        } else if path.extension().is_some_and(|it| it == ending) {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Every file that may have a test: those of the function, unit tests, those of the repository itself, and the real ones.
fn all_sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(&root.join("src"), "rs", &mut found);
    sources(&root.join("tests/function"), "rs", &mut found);
    sources(&root.join("tests/real"), "py", &mut found);
    for entry in fs::read_dir(root.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "rs") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// Whether `file::name`, or `file::tests::name` of a unit test, is a test; in Python, one that pytest finds by its name.
fn is_test(reference: &str, sources: &[(String, String)]) -> bool {
    let Some((file, rest)) = reference.split_once("::") else {
        return false;
    };
    let name = rest.trim_start_matches("tests::");
    let functions = [format!(" fn {name}("), format!("\nfn {name}(")];
    let python = format!("\ndef {name}(");
    sources.iter().any(|(stem, text)| {
        let is_there = functions.iter().any(|function| {
            text.find(function.as_str()).is_some_and(|at| {
                // The attribute is at most a few lines above the function, with its documentation.
                let above = text[..at].rsplit("\n\n").next().unwrap_or_default();
                above.contains("#[test]") || above.contains("#[tokio::test")
            })
        });
        let is_pytest = name.starts_with("test_") && text.contains(&python);
        stem == file && (is_there || is_pytest)
    })
}

/// What is written as code in a line of Markdown.
fn codes(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The rows of a page's tables whose last column is `shown by`, without the heads.
fn shown_rows(page: &str) -> Vec<&str> {
    let mut rows = Vec::new();
    let mut is_shown = false;
    for line in page.lines() {
        if !line.starts_with('|') {
            is_shown = false;
        } else if line.ends_with("| shown by |") {
            is_shown = true;
        } else if is_shown && !line.starts_with("|---") {
            rows.push(line);
        }
    }
    rows
}

/// Fails unless each row of the page names a test, and only tests that exist.
fn expect_tests(page: &str, least_rows: usize) {
    let found = all_sources();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(page)).unwrap();
    let rows = shown_rows(&text);
    assert!(rows.len() >= least_rows, "{page}: {} rows", rows.len());
    for row in rows {
        let last = row.trim_end_matches('|').rsplit(" | ").next().unwrap();
        assert!(last.contains("::"), "{page}: no test is named: {row}");
    }
    let names = text.lines().flat_map(codes);
    for name in names.filter(|code| code.contains("::")) {
        // The pages say how tests are named.
        let is_example = name.starts_with("file::") || name == "tests::";
        assert!(
            is_example || is_test(name, &found),
            "{page}: {name} is no test"
        );
    }
}

#[test]
fn every_edge_case_names_a_test_that_exists() {
    expect_tests("docs/edge-cases.md", 250);
}

#[test]
fn every_row_about_security_names_tests_that_exist() {
    expect_tests("docs/security.md", 50);
}

/// Whoever is woken by an alarm looks it up.
#[test]
fn the_runbook_has_every_alarm_of_the_template() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let template = fs::read_to_string(root.join("template.yaml")).unwrap();
    let runbook = fs::read_to_string(root.join("docs/runbook.md")).unwrap();
    let lines: Vec<&str> = template.lines().collect();
    let is_alarm = |pair: &&[&str]| pair[1].trim() == "Type: AWS::CloudWatch::Alarm";
    let alarms: Vec<&str> = lines
        .windows(2)
        .filter(is_alarm)
        .map(|pair| pair[0].trim().trim_end_matches(':'))
        .collect();
    assert!(alarms.len() >= 12, "{alarms:?}");
    let section = runbook.split("\n## ").find(|it| it.starts_with("Alarms\n"));
    let rows = section.unwrap().lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("| `")?.split_once('`')?;
        Some(name)
    });
    assert_eq!(
        rows.collect::<BTreeSet<_>>(),
        alarms.into_iter().collect(),
        "docs/runbook.md against template.yaml"
    );
}

#[test]
fn a_name_without_a_test_is_found_out() {
    let python = "def helper():\n    pass\n\ndef test_five(function):\n    pass\n";
    let text = "#[test]\nfn one() {}\n\n/// Helps.\nfn two() {}\n\n    #[tokio::test]\n    async fn three() {}\n";
    let sources = [
        ("file".to_owned(), text.to_owned()),
        ("test_file".to_owned(), python.to_owned()),
    ];
    for name in [
        "file::one",
        "file::tests::one",
        "file::three",
        "test_file::test_five",
    ] {
        assert!(is_test(name, &sources), "{name}");
    }
    for name in [
        "file::two",
        "file::four",
        "other::one",
        "one",
        "test_file::helper",
    ] {
        assert!(!is_test(name, &sources), "{name}");
    }
}

#[test]
fn a_row_is_one_of_a_table_that_shows_something() {
    let page = "| a | shown by |\n|---|---|\n| b | `c::d` |\n\n| e | f |\n|---|---|\n| g | h |\n";
    assert_eq!(shown_rows(page), ["| b | `c::d` |"]);
}
