//! `docs/edge-cases.md`, held: each row names a test, and each test that is named exists.
#![expect(clippy::unwrap_used, reason = "a test reads its own repository")]

use std::fs;
use std::path::Path;

/// Source files whose tests are named by the file's own name: those of the function, and unit tests.
fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Whether `file::name`, or `file::tests::name` of a unit test, is a test.
fn is_test(reference: &str, sources: &[(String, String)]) -> bool {
    let Some((file, rest)) = reference.split_once("::") else {
        return false;
    };
    let name = rest.trim_start_matches("tests::");
    let functions = [format!(" fn {name}("), format!("\nfn {name}(")];
    sources.iter().any(|(stem, text)| {
        let is_there = functions.iter().any(|function| {
            text.find(function.as_str()).is_some_and(|at| {
                // The attribute is at most a few lines above the function, with its documentation.
                let above = text[..at].rsplit("\n\n").next().unwrap_or_default();
                above.contains("#[test]") || above.contains("#[tokio::test")
            })
        });
        stem == file && is_there
    })
}

/// What is written as code in a line of Markdown.
fn codes(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn every_edge_case_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(&root.join("src"), &mut found);
    sources(&root.join("tests/function"), &mut found);
    found.push((
        "regressions".to_owned(),
        fs::read_to_string(root.join("tests/regressions.rs")).unwrap(),
    ));
    let page = fs::read_to_string(root.join("docs/edge-cases.md")).unwrap();
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| case |");
    let mut rows = 0;
    for row in page.lines().filter(is_row) {
        rows += 1;
        let (mut tests, names) = (0, codes(row).filter(|code| code.contains("::")));
        for name in names {
            assert!(is_test(name, &found), "{name} is no test: {row}");
            tests += 1;
        }
        assert!(tests > 0, "no test is named: {row}");
    }
    assert!(rows > 50, "{rows} rows");
}

#[test]
fn a_name_without_a_test_is_found_out() {
    let text = "#[test]\nfn one() {}\n\n/// Helps.\nfn two() {}\n\n    #[tokio::test]\n    async fn three() {}\n";
    let sources = [("file".to_owned(), text.to_owned())];
    for name in ["file::one", "file::tests::one", "file::three"] {
        assert!(is_test(name, &sources), "{name}");
    }
    for name in ["file::two", "file::four", "other::one", "one"] {
        assert!(!is_test(name, &sources), "{name}");
    }
}
