//! `make copy`, with a `cargo` that says what it is asked for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// A name from outside is one argument of the command, whatever it has in it, and standard output is the command's alone.
#[test]
fn make_copy_hands_on_its_names_as_they_are() {
    let folder = std::env::temp_dir().join(format!("ghcr-to-ecr-make-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let cargo = folder.join("cargo");
    let script = "#!/bin/sh\nfor argument; do printf '%s\\n' \"$argument\"; done\n";
    fs::write(&cargo, script).expect("a script");
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("that can be run");
    let marker = folder.join("marker");
    let source = format!(
        "ghcr.io/acme/api:`touch {0}`\"; touch {0}; \"' a b",
        marker.display()
    );
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let output = Command::new("make")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("PATH", path)
        .args(["copy", "OPTIONS=--dry-run --json"])
        .args([
            format!("SOURCE={source}"),
            "DESTINATION=prod/api".to_owned(),
        ])
        .output()
        .expect("make");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = ["copy", "--dry-run", "--json", "--", &source, "prod/api"];
    let expected = format!("\n--\n{}\n", expected.join("\n"));
    let is_touched = marker.exists();
    // What is left in a folder for temporary files does no harm.
    _ = fs::remove_dir_all(&folder);
    assert!(output.status.success(), "{output:?}");
    assert!(printed.starts_with("run\n"), "{printed}");
    assert!(printed.ends_with(&expected), "{printed}");
    assert!(!is_touched);
}
