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
    let text = read(page);
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
    let (template, runbook) = (read("template.yaml"), read("docs/runbook.md"));
    let lines: Vec<&str> = template.lines().collect();
    let is_alarm = |pair: &&[&str]| pair[1].trim() == "Type: AWS::CloudWatch::Alarm";
    let alarms: Vec<&str> = lines
        .windows(2)
        .filter(is_alarm)
        .map(|pair| pair[0].trim().trim_end_matches(':'))
        .collect();
    assert!(alarms.len() >= 12, "{alarms:?}");
    assert_eq!(
        first_column(section(&runbook, "## Alarms")),
        alarms.into_iter().collect(),
        "docs/runbook.md against template.yaml"
    );
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// A source file without its comments and unit tests.
fn code_of(name: &str) -> String {
    let text = read(name);
    let code = text.split("#[cfg(test)]").next().unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    code.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The names of a structure's fields as far as they are written, or of an enumeration's variants.
fn members(code: &str, declaration: &str) -> Vec<String> {
    let body = code.split(declaration).nth(1).unwrap();
    let body = body.split("\n}").next().unwrap();
    let name = |line: &str| {
        let line = line.trim().trim_start_matches("pub ");
        let name = line.split([':', ',', '(']).next()?;
        let is_name = |it: char| it.is_alphanumeric() || it == '_';
        (!name.is_empty() && name.chars().all(is_name)).then(|| name.to_owned())
    };
    let lines = body.lines().skip(1).zip(body.lines());
    let is_written = |(_, before): &(&str, &str)| before.trim() != "#[serde(skip)]";
    let written = lines.filter(is_written);
    let names: Vec<String> = written.filter_map(|(line, _)| name(line)).collect();
    assert!(names.len() > 3, "{declaration}: {names:?}");
    names
}

/// What is below a heading, up to the next one that is no deeper.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let level = heading.split(' ').next().unwrap();
    let line = format!("\n{heading}\n");
    assert!(page.contains(&line), "there is no {heading}");
    let (_, below) = page.split_once(&line).unwrap();
    below.split(&format!("\n{level} ")).next().unwrap()
}

/// What is written as code in the first column of a section's tables.
fn first_column(section: &str) -> BTreeSet<&str> {
    let cells = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(codes).collect()
}

/// Texts between quotation marks that begin with a capital letter.
fn capitalised(code: &str) -> BTreeSet<&str> {
    let texts = code.split('"').skip(1).step_by(2);
    texts
        .filter(|text| text.starts_with(|first: char| first.is_ascii_uppercase()))
        .filter(|text| !text.contains("::"))
        .collect()
}

/// The anchors that GitHub gives a page's headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let mut found = BTreeSet::new();
    for line in page.lines() {
        is_code ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        if is_code || !line.starts_with('#') || !heading.starts_with(' ') {
            continue;
        }
        let kept = |it: &char| it.is_alphanumeric() || " -_".contains(*it);
        let words = heading.trim().to_lowercase();
        found.insert(
            words
                .chars()
                .filter(kept)
                .collect::<String>()
                .replace(' ', "-"),
        );
    }
    found
}

/// Of pages to files and to headings; those to other sites are left to the reader.
#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<_> = fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "md"))
        .collect();
    let others = [
        "README.md",
        "CONTRIBUTING.md",
        "events/README.md",
        "tests/fuzz/README.md",
    ];
    pages.extend(others.map(|name| root.join(name)));
    let mut links = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let targets = text
            .split("](")
            .skip(1)
            .map(|it| it.split(')').next().unwrap());
        for target in targets.filter(|it| !it.contains("://") && !it.contains(' ')) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(to.exists(), "{}: {target}", page.display());
            let is_there = || anchors(&fs::read_to_string(&to).unwrap()).contains(anchor);
            assert!(
                anchor.is_empty() || is_there(),
                "{}: {target}",
                page.display()
            );
            links += 1;
        }
    }
    assert!(links > 30, "{links} links");
}

#[test]
fn the_readme_has_every_field_of_a_rule() {
    let readme = read("README.md");
    let rules = section(&readme, "### Rules");
    let code = code_of("src/rules.rs");
    let fields: BTreeSet<String> = members(&code, "struct RuleFields").into_iter().collect();
    let listed = first_column(rules);
    for field in &fields {
        assert!(listed.contains(field.as_str()), "no row for {field}");
    }
    for name in listed {
        assert!(fields.contains(name), "{name} is no field of a rule");
    }
    for field in members(&code_of("src/rules/tags.rs"), "struct TagFields") {
        assert!(rules.contains(&format!("`{field}`")), "`tags`: {field}");
    }
    let code = code_of("src/rules/require.rs");
    let asked = section(&readme, "### Only what is signed");
    let fields = members(&code, "struct AttestationFields");
    let fields = fields.iter().map(|field| field.trim_start_matches("git_"));
    for field in fields.chain(["attestation", "cosign_key"]) {
        assert!(asked.contains(&format!("`{field}`")), "`require`: {field}");
    }
    let fields = members(&code_of("src/rules/repository.rs"), "struct Fields");
    let listed = first_column(section(&readme, "### Repositories"));
    let fields = fields.iter().map(String::as_str).chain(["repository"]);
    assert_eq!(listed, fields.collect(), "fields of `repository`");
}

#[test]
fn the_readme_has_every_metric() {
    // Units, dimensions and the words of the format.
    const OTHERS: [&str; 11] = [
        "Bytes",
        "CloudWatchMetrics",
        "Count",
        "Dimensions",
        "Kind",
        "Metrics",
        "Name",
        "Namespace",
        "None",
        "Outcome",
        "Timestamp",
    ];
    let code = code_of("src/metrics.rs");
    let mut written = capitalised(&code);
    written.retain(|name| !OTHERS.contains(name) && *name != "Unit");
    let readme = read("README.md");
    assert_eq!(first_column(section(&readme, "## Metrics")), written);
}

#[test]
fn the_readme_has_every_event_that_goes_out() {
    let code = code_of("src/publisher.rs");
    let readme = read("README.md");
    let mut listed = first_column(section(&readme, "## Events out"));
    listed.remove("detail-type");
    assert_eq!(listed, capitalised(&code));
}

#[test]
fn the_readme_has_every_field_of_a_report() {
    let readme = read("README.md");
    let code = code_of("src/copy/report.rs");
    let fields = members(&code, "pub struct Figures");
    let outcomes = members(&code, "pub enum Outcome");
    let outcomes = outcomes.iter().map(|name| name.to_lowercase());
    for name in fields.into_iter().chain(outcomes) {
        let is_there = [format!("`{name}`"), format!("\"{name}\":")];
        let text = section(&readme, "## Report");
        assert!(is_there.iter().any(|it| text.contains(it)), "{name}");
    }
}

#[test]
fn the_runbook_has_every_kind_of_error() {
    let runbook = read("docs/runbook.md");
    let code = code_of("src/error.rs");
    let listed = first_column(section(&runbook, "## What a message means"));
    let kinds = members(&code, "pub enum Kind");
    assert_eq!(listed, kinds.iter().map(String::as_str).collect());
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
