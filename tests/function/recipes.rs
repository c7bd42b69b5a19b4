//! The README's recipes, tried: each rule is read from it, and copies what it says.

use std::path::Path;

use serde_json::{Value, json};
use support::deployment::Deployment;
use support::image::{Blob, Image, ImageBuilder};

use crate::scenario::{BINARY, layers};

/// The registry of another account and Region that the README names.
const ELSEWHERE: &str = "210987654321.dkr.ecr.us-east-1.amazonaws.com";

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    std::fs::read_to_string(path).expect("the README")
}

fn section() -> String {
    let readme = readme();
    let (_, section) = readme.split_once("### Recipes\n").expect("the recipes");
    let (section, _) = section.split_once("\n### ").expect("the next section");
    section.to_owned()
}

/// The rules in the table, in their order.
fn rules() -> Vec<Value> {
    let section = section();
    let rows = section
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(r#"`{"source""#));
    let rule = |row: &str| {
        let from = row.find(r#"`{"source""#).expect("a rule");
        let rule = row[from + 1..].split('`').next().expect("a rule");
        serde_json::from_str(rule).unwrap_or_else(|error| panic!("{rule}: {error}"))
    };
    rows.map(rule).collect()
}

fn destinations(rule: &Value) -> Vec<Value> {
    match &rule["destination"] {
        Value::Array(many) => many.clone(),
        one => vec![one.clone()],
    }
}

/// The repository that a destination names, without host and tag, for the package `acme/api` or `acme/charts/api`.
fn repository(destination: &Value) -> (bool, String) {
    let text = destination["to"]
        .as_str()
        .or(destination.as_str())
        .expect("a destination");
    let (is_elsewhere, name) = match text.strip_prefix(&format!("{ELSEWHERE}/")) {
        Some(name) => (true, name),
        None => (false, text),
    };
    let name = name.split(':').next().unwrap_or(name);
    (
        is_elsewhere,
        name.replace("{name}", "api").replace("{basename}", "api"),
    )
}

#[tokio::test]
async fn every_recipe_copies_what_it_says() {
    let [a, b, _] = layers();
    let image = Image::buildx(&[
        ("linux/amd64", std::slice::from_ref(&a)),
        ("linux/arm64", &[b]),
    ]);
    let chart = ImageBuilder::oci()
        .config(
            "application/vnd.cncf.helm.config.v1+json",
            Blob::bytes("{}"),
        )
        .layer(
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            Blob::bytes("chart"),
        )
        .build();
    let rules = rules();
    assert!(rules.len() >= 10, "{rules:?}");
    for rule in rules {
        let text = json!([rule]).to_string();
        let settings = [("RULES", text.as_str())];
        let (deployment, elsewhere) =
            Deployment::start_with_registries(Path::new(BINARY), &[ELSEWHERE], &settings).await;
        let is_chart = rule["source"] == "acme/charts/*";
        let (package, tag, image) = match is_chart {
            true => ("acme/charts/api", "1.2.3", &chart),
            false => ("acme/api", "v1.2.3", &image),
        };
        deployment.push(package, tag, image);
        for destination in destinations(&rule) {
            match repository(&destination) {
                (true, name) => elsewhere[0].create_repository(&name),
                (false, name) if name.starts_with("locked/") => {
                    deployment.ecr.create_immutable_repository(&name)
                }
                (false, name) => deployment.ecr.create_repository(&name),
            }
        }
        let event = json!({"source": format!("ghcr.io/{package}:{tag}")});
        let reply = deployment.function.invoke(&event).await.reply();
        assert_eq!(reply["outcome"], "copied", "{rule}: {reply}");
        for destination in destinations(&rule) {
            let stored = match repository(&destination) {
                (true, name) => elsewhere[0].repository(&name),
                (false, name) => deployment.ecr.repository(&name),
            };
            assert!(!stored.tags.is_empty(), "{rule}: {destination}");
            for (tag, digest) in &stored.tags {
                assert!(stored.missing_from(digest).is_empty(), "{rule}: {tag}");
                let is_one = destination.get("platform").is_some();
                let is_some = rule.get("platforms").is_some();
                assert_eq!(digest == &image.top, !is_one && !is_some, "{rule}: {tag}");
            }
        }
        let reply = deployment.function.invoke(&event).await.reply();
        assert_eq!(reply["outcome"], "current", "{rule}: {reply}");
    }
}

/// The statements are JSON, and name actions that there are.
#[test]
fn every_statement_can_be_read() {
    let section = section();
    let mut statements = 0;
    for block in section.split("```json").skip(1) {
        let text = block.split("```").next().unwrap_or_default();
        let value: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let listed = match value {
            Value::Array(listed) => listed,
            one => vec![one],
        };
        for statement in listed {
            statements += 1;
            assert_eq!(statement["Effect"], "Allow", "{statement}");
            let actions = statement["Action"].to_string();
            assert!(
                actions.contains("ecr:") && !actions.contains('*'),
                "{statement}"
            );
        }
    }
    assert_eq!(statements, 5);
}
