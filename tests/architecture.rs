//! The structure that `src/lib.rs` draws, held: imports go one way, vendor crates stay in the module that owns them, and the
//! settings have the same names in the code, the template and the README.
#![expect(clippy::unwrap_used, reason = "a test reads its own repository")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each module and the other modules of this crate that it may use.
const IMPORTS: [(&str, &[&str]); 44] = [
    (
        "main",
        &[
            "aws", "clients", "config", "error", "handler", "logging", "metrics", "registry",
        ],
    ),
    ("bin", &["command"]),
    (
        "handler",
        &[
            "check",
            "clients",
            "copy",
            "deadline",
            "error",
            "event",
            "invocation",
            "job",
            "kept",
            "reconcile",
            "reports",
            "worker",
        ],
    ),
    (
        "command",
        &[
            "aws",
            "check",
            "clients",
            "config",
            "copy",
            "deadline",
            "error",
            "event",
            "logging",
            "observer",
            "reconcile",
            "registry",
            "reports",
            "rules",
        ],
    ),
    (
        "clients",
        &[
            "aws",
            "check",
            "config",
            "copier",
            "copy",
            "deadline",
            "error",
            "github",
            "invocation",
            "publisher",
            "redaction",
            "registries",
            "repositories",
            "roots_in_force",
            "rules_in_force",
            "verification",
        ],
    ),
    (
        "worker",
        &[
            "aws",
            "copy",
            "deadline",
            "error",
            "event",
            "invocation",
            "job",
            "reports",
        ],
    ),
    (
        "event",
        &[
            "aws",
            "copy",
            "destination",
            "endpoint",
            "error",
            "job",
            "manifest",
            "platform",
            "reconcile",
            "reference",
            "reports",
            "rules",
        ],
    ),
    (
        "reconcile",
        &[
            "allowance",
            "aws",
            "copier",
            "copy",
            "deadline",
            "destination",
            "error",
            "github",
            "invocation",
            "job",
            "manifest",
            "metrics",
            "observer",
            "platform",
            "reference",
            "referrers",
            "registry",
            "reports",
            "repositories",
            "retry",
            "rules",
            "token",
            "verification",
        ],
    ),
    (
        "check",
        &[
            "allowance",
            "aws",
            "config",
            "copier",
            "deadline",
            "destination",
            "error",
            "github",
            "kept",
            "manifest",
            "reference",
            "registry",
            "repositories",
            "retry",
            "rules",
            "rules_in_force",
            "token",
        ],
    ),
    ("reports", &["copy", "error", "job", "metrics"]),
    ("logging", &["metrics"]),
    ("metrics", &["copy", "error"]),
    ("publisher", &["aws", "copy", "error", "job", "manifest"]),
    (
        "invocation",
        &[
            "aws",
            "copier",
            "copy",
            "error",
            "job",
            "publisher",
            "rules",
        ],
    ),
    (
        "copier",
        &[
            "allowance",
            "copy",
            "destination",
            "error",
            "github",
            "job",
            "manifest",
            "observer",
            "platform",
            "public_key",
            "reference",
            "referrers",
            "registries",
            "registry",
            "repositories",
            "retry",
            "roots_in_force",
            "rules",
            "token",
            "verification",
        ],
    ),
    (
        "referrers",
        &[
            "allowance",
            "copy",
            "error",
            "manifest",
            "platform",
            "reference",
            "registry",
            "retry",
        ],
    ),
    (
        "copy",
        &[
            "allowance",
            "deadline",
            "destination",
            "error",
            "manifest",
            "observer",
            "platform",
            "reference",
            "registry",
            "retry",
            "verification",
        ],
    ),
    (
        "repositories",
        &[
            "aws",
            "copy",
            "destination",
            "endpoint",
            "error",
            "manifest",
            "rules",
        ],
    ),
    (
        "registries",
        &[
            "aws",
            "config",
            "destination",
            "endpoint",
            "error",
            "kept",
            "public_key",
            "redaction",
            "reference",
            "registry",
            "rules",
            "token",
        ],
    ),
    (
        "roots_in_force",
        &["aws", "config", "error", "kept", "verification"],
    ),
    (
        "rules_in_force",
        &["aws", "config", "endpoint", "error", "kept", "rules"],
    ),
    (
        "registry",
        &[
            "allowance",
            "endpoint",
            "error",
            "kept",
            "link",
            "manifest",
            "observer",
            "redaction",
        ],
    ),
    (
        "github",
        &["error", "link", "manifest", "redaction", "token"],
    ),
    ("aws", &["endpoint", "error", "kept", "manifest", "rules"]),
    ("config", &["endpoint", "error", "rules", "verification"]),
    ("verification", &["manifest", "public_key", "rules"]),
    (
        "rules",
        &[
            "destination",
            "endpoint",
            "manifest",
            "platform",
            "public_key",
            "reference",
        ],
    ),
    ("job", &["destination", "manifest", "reference"]),
    (
        "destination",
        &["endpoint", "manifest", "platform", "reference"],
    ),
    ("platform", &[]),
    ("reference", &["endpoint", "manifest"]),
    ("endpoint", &[]),
    ("token", &[]),
    ("retry", &["error", "observer"]),
    ("deadline", &["error"]),
    ("allowance", &["manifest"]),
    ("observer", &["manifest"]),
    ("kept", &["error"]),
    ("public_key", &["manifest"]),
    ("redaction", &[]),
    ("manifest", &[]),
    ("link", &[]),
    ("error", &[]),
    ("lib", &[]),
];

/// The engine copies: what a command on a laptop uses too. It knows of no trigger, no setting and no API of AWS.
const ENGINE: [&str; 2] = ["copy", "referrers"];

/// The triggers' ring, the settings and AWS, which the engine must not know.
const OUTSIDE_THE_ENGINE: [&str; 17] = [
    "command",
    "clients",
    "logging",
    "metrics",
    "publisher",
    "handler",
    "worker",
    "event",
    "reconcile",
    "check",
    "reports",
    "invocation",
    "copier",
    "repositories",
    "registries",
    "aws",
    "config",
];

/// Adapters speak, each for itself.
const ADAPTERS: [&str; 3] = ["registry", "github", "aws"];

/// Each vendor crate and the only modules that may name it.
const VENDORS: [(&str, &[&str]); 17] = [
    ("lambda_runtime", &["main", "handler", "logging"]),
    ("aws_lambda_events", &["event"]),
    ("aws_config", &["aws"]),
    ("aws_credential_types", &["aws"]),
    ("clap", &["command"]),
    ("clap_complete", &["command"]),
    ("indicatif", &["command"]),
    ("aws_sdk_ecr", &["aws"]),
    ("aws_sdk_eventbridge", &["aws"]),
    ("aws_sdk_secretsmanager", &["aws"]),
    ("aws_sdk_sqs", &["aws"]),
    ("oci_client", &["manifest"]),
    (
        "reqwest",
        &[
            "main",
            "clients",
            "registries",
            "github",
            "link",
            "registry",
            "aws",
        ],
    ),
    ("http_auth", &["registry"]),
    ("httpdate", &["registry"]),
    ("globset", &["rules"]),
    ("backon", &["retry"]),
];

/// Every source file with the module that it belongs to, comments and unit tests left out.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    let source = |path: PathBuf| {
        let first = path.strip_prefix(&root).unwrap().iter().next().unwrap();
        let module = first.to_str().unwrap().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        (module, path.clone(), code.collect::<Vec<_>>().join("\n"))
    };
    files.into_iter().map(source).collect()
}

/// The identifiers that follow `prefix`, also those in braces: `crate::{a, b::c}` gives `a` and `b`.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let first_name = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|character| character.is_alphanumeric() || *character == '_')
            .collect()
    };
    let mut names = BTreeSet::new();
    for (position, _) in code.match_indices(prefix) {
        let rest = &code[position + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(list.split('}').next().unwrap().split(',').map(first_name)),
            None => _ = names.insert(first_name(rest)),
        }
    }
    names.remove("");
    names
}

#[test]
fn imports_go_one_way() {
    for (module, path, code) in sources() {
        let (_, allowed) = IMPORTS
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{} is not in the table", path.display()));
        let used = names_after(&code, "crate::").into_iter();
        for name in used.chain(names_after(&code, "ghcr_to_ecr::")) {
            assert!(
                name == module || allowed.contains(&name.as_str()),
                "{} uses {name}",
                path.display()
            );
        }
    }
}

/// Three rings: triggers ask, the engine copies, adapters speak.
#[test]
fn the_engine_knows_no_trigger_and_adapters_do_not_know_each_other() {
    for (module, uses) in IMPORTS {
        let is_used = |others: &[&str]| {
            let mut uses = uses.iter().filter(|used| **used != module);
            uses.any(|used| others.contains(used))
        };
        assert!(
            !ENGINE.contains(&module) || !is_used(&OUTSIDE_THE_ENGINE),
            "{module}"
        );
        assert!(
            !ADAPTERS.contains(&module) || !is_used(&ADAPTERS),
            "{module}"
        );
    }
}

/// `src/lib.rs` declares the modules in reading order, and each uses only those after it: so there is no cycle.
#[test]
fn modules_use_only_those_declared_after_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let order: Vec<&str> = map
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let position = |module: &str| order.iter().position(|name| *name == module);
    for (module, uses) in IMPORTS {
        for used in uses.iter().filter(|used| **used != module) {
            assert!(position(module) < position(used), "{module} uses {used}");
        }
        let in_map =
            map.contains(&format!("| [`{module}`]")) || map.contains(&format!(", [`{module}`]"));
        assert!(
            in_map || ["main", "bin", "lib"].contains(&module),
            "{module} is not in the map"
        );
    }
}

#[test]
fn vendor_crates_stay_where_they_belong() {
    for (module, path, code) in sources() {
        for (vendor, owners) in VENDORS {
            let is_used = code.contains(&format!("{vendor}::"));
            assert!(
                !is_used || owners.contains(&module.as_str()),
                "{} uses {vendor}",
                path.display()
            );
        }
        let reads_environment = code.contains("std::env") || code.contains("env::var");
        assert!(
            !reads_environment || ["main", "bin"].contains(&module.as_str()),
            "{} reads the environment",
            path.display()
        );
    }
}

/// Without them the AWS SDK would bring a second, older HTTP and TLS stack into the binary.
#[test]
fn one_http_stack_is_linked() {
    let lock =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    for (name, version) in [("hyper", "0.14"), ("rustls", "0.21"), ("h2", "0.3")] {
        let entry = format!("name = \"{name}\"\nversion = \"{version}");
        assert!(!lock.contains(&entry), "{name} {version} is in Cargo.lock");
    }
}

/// What only the laptop's command is made of would cost the function size and time to start.
#[test]
fn the_function_is_built_without_the_command() {
    let crates = |features: &[&str]| {
        let tree = ["tree", "--locked", "--offline", "--edges", "normal"];
        let output = Command::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(tree)
            .args(["--prefix", "none", "--format", "{p} {f}"])
            .args(features)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (function, command) = (crates(&[]), crates(&["--features", "cli"]));
    let own = [
        "clap v",
        "indicatif v",
        "aws-sdk-sso v",
        "signal-hook-registry v",
    ];
    for name in own {
        assert!(!function.contains(name), "the function has {name}");
        assert!(command.contains(name), "the command lacks {name}");
    }
}

/// The names below every `Variables:` of the template.
fn template_variables(template: &str) -> BTreeSet<String> {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let mut names = BTreeSet::new();
    let mut block = None;
    let is_content = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with('#');
    for line in template.lines().filter(is_content) {
        if block.is_some_and(|outer| indentation(line) <= outer) {
            block = None;
        }
        if block.is_some() {
            let name = line.trim().split(':').next().unwrap();
            names.insert(name.to_owned());
        }
        if line.trim() == "Variables:" {
            block = Some(indentation(line));
        }
    }
    names
}

/// Variables of the template that are no settings of ours: the HTTP client follows them, as every program does.
const NETWORK: [&str; 3] = ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"];

/// What only the laptop's command reads: a function's environment can be read by too many.
const OF_THE_COMMAND: [&str; 1] = ["GHCR_TOKEN"];

/// A setting that only one of them knows is a setting that somebody will miss.
#[test]
fn settings_have_the_same_names_everywhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let code = read("src/config.rs");
    let code = code.split("#[cfg(test)]").next().unwrap();
    let mut supported: BTreeSet<String> = names_after(code, "lookup(\"")
        .into_iter()
        .chain(names_after(code, "endpoint(\""))
        .chain(names_after(code, "queue_url(\""))
        .collect();
    assert!(supported.len() >= 10, "{supported:?}");
    let readme = read("README.md");
    let mut in_template = template_variables(&read("template.yaml"));
    in_template.retain(|name| !NETWORK.contains(&name.as_str()));
    for name in OF_THE_COMMAND {
        assert!(supported.remove(name) && readme.contains(&format!("`{name}`")));
    }
    assert_eq!(
        in_template, supported,
        "template.yaml against src/config.rs"
    );
    for name in supported {
        let row = format!("| `{name}` |");
        assert!(readme.contains(&row), "README.md has no row for {name}");
    }
}
