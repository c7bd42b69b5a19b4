"""What runs on GitHub and can't run here: linted, and held against what it calls. Nothing here asks GitHub whether the runners
that are named exist and have the tools, or whether the commits of the actions are what their comments say."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from conftest import CHECKOUT, run
from workflows import FOLDER, fill, jobs, matrix, read, steps, uploads

LINT_SECONDS = 60
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
# Programs that GitHub's runners have, beside make and scripts of ours.
PROGRAMS = {"rustup", "terraform"}


def tracked(*patterns: str) -> list[Path]:
    """Files of the project by their names, those too that are new and not yet committed."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns)
    return [CHECKOUT / name for name in listed.split() if (CHECKOUT / name).exists()]


def schema(file: Path) -> str:
    """The name of the schema that a file of GitHub's has to fit."""
    if file.name == "dependabot.yml":
        return "vendor.dependabot"
    return "vendor.github-workflows" if file.parent.name == "workflows" else "vendor.github-actions"


def linters(file: Path) -> dict[str, list]:
    """The commands that judge a file of GitHub's, by their names."""
    return {
        "schema": ["check-jsonschema", "--builtin-schema", schema(file), file],
        "zizmor": ["zizmor", "--offline", "--no-config", "--persona", "pedantic", "--quiet", file],
    }


@pytest.mark.parametrize("file", [
    *WORKFLOWS, *tracked(".github/dependabot.yml", "action.yml", "*/action.yml")], ids=lambda file: file.name)
def test_the_linters_are_content(file):
    for command in linters(file).values():
        run(*command, timeout=LINT_SECONDS)


def shell_scripts() -> list[Path]:
    return [file for file in tracked() if file.is_file() and not file.is_symlink()
            and re.match(rb"#!.*\b(ba)?sh\n", file.read_bytes()[:64])]


def test_shellcheck_is_content_with_every_script():
    scripts = shell_scripts()
    assert {"publish.sh", "run"} <= {script.name for script in scripts}
    run("shellcheck", *scripts, timeout=LINT_SECONDS)


CHECKOUT_STEP = "        with:\n          persist-credentials: false\n"


@pytest.mark.parametrize(("name", "old", "new", "linter"), [
    ("release.yml", "    runs-on: ubuntu-24.04\n", "    runs_on: ubuntu-24.04\n", "schema"),
    ("release.yml", "timeout-minutes: 10", "timeout-minutes: soon", "schema"),
    ("release.yml", "permissions: {}", "permissions: write-all", "zizmor"),
    ("release.yml", '"$TAG" release notes.md', "${{ github.ref_name }} release notes.md", "zizmor"),
    ("ci.yml", CHECKOUT_STEP, "", "zizmor"),
    ("ci.yml", "@3d3c42e5aac5ba805825da76410c181273ba90b1", "@v7", "zizmor"),
    ("ci.yml", "  pull_request:", "  pull_request_target:", "zizmor"),
])
def test_the_linters_find_what_is_wrong(tmp_path, name, old, new, linter):
    text = (FOLDER / name).read_text()
    assert old in text
    # zizmor knows a workflow by its place.
    broken = tmp_path / ".github/workflows" / name
    broken.parent.mkdir(parents=True)
    broken.write_text(text.replace(old, new, 1))
    done = subprocess.run([str(word) for word in linters(broken)[linter]], capture_output=True, timeout=LINT_SECONDS)
    assert done.returncode != 0


def test_shellcheck_finds_what_is_wrong(tmp_path):
    broken = tmp_path / "publish.sh"
    broken.write_text((CHECKOUT / "deploy/release/publish.sh").read_text().replace('"$downloaded"', "$downloaded"))
    done = subprocess.run(["shellcheck", broken], capture_output=True, text=True, timeout=LINT_SECONDS)
    assert "SC2086" in done.stdout


def targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):(?!=)", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))


def problem(command: str) -> str | None:
    """What is wrong with a step's command, if anything."""
    program, *words = command.split()
    if len(command.strip().splitlines()) > 2:
        return "it is long enough for a script, which a test could run"
    if "${{" in command:
        return "a value that is pasted into a script can be a script; pass it in the environment"
    if program == "make":
        missing = [word for word in words if "=" not in word and word not in targets()]
        return f"the Makefile has no {missing}" if missing or not words else None
    if "/" in program:
        return None if os.access(CHECKOUT / program, os.X_OK) else "there is no such script"
    return None if program in PROGRAMS else "it is neither make nor a script of ours"


@pytest.mark.parametrize(("name", "step"), [pytest.param(*entry, id=f"{entry[0]}: {entry[1].get('name')}")
                                            for entry in steps() if "run" in entry[1]])
def test_each_step_runs_something_of_ours_that_is_there(name, step):
    assert problem(step["run"]) is None, f"{name}: {step['run']}"


@pytest.mark.parametrize("command", [
    "make", "make tests", "deploy/release/versions.py", "README.md", "curl https://example.com",
    "make test FILE=${{ github.ref_name }}", "make demo\nmake test\nmake fuzz",
])
def test_a_step_of_another_kind_is_found(command):
    assert problem(command)


def test_every_action_is_one_commit_with_its_version_beside_it():
    pins = {}
    for file in WORKFLOWS:
        for line in re.findall(r"uses: (.+)", file.read_text()):
            pinned = re.fullmatch(r"([\w.-]+/[\w./-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", line)
            assert pinned, f"{file.name}: {line}"
            pins.setdefault(pinned[1], set()).add(pinned.groups()[1:])
    assert pins and all(len(versions) == 1 for versions in pins.values()), pins


@pytest.mark.parametrize(("name", "job"), jobs(), ids=[name for name, _ in jobs()])
def test_each_job_ends_and_has_its_own_rights_alone(name, job):
    assert 0 < int(job["timeout-minutes"]) <= 90
    rights = job["permissions"]
    writes = {right for right, level in rights.items() if level == "write"}
    # One job attests and another publishes: neither could do both.
    assert writes == {"release.yml: attest": {"id-token", "attestations"}, "release.yml: publish": {"contents"}}.get(name, set())
    # Builds run what others have written, so nothing that they do may be published without the checks after them.
    assert rights.keys() - writes <= {"contents"}


def test_nothing_is_published_but_by_a_tag_and_after_everything_else():
    described = read(FOLDER / "release.yml")
    assert described["on"].keys() == {"push", "workflow_dispatch"} and described["on"]["push"].keys() == {"tags"}
    needs = {name: [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
             for name, job in described["jobs"].items()}
    assert needs == {"version": [], "function": ["version"], "command": ["version"], "assemble": ["function", "command"],
                     "attest": ["assemble"], "publish": ["attest"]}
    for name in ("attest", "publish"):
        assert described["jobs"][name]["if"] == "github.event_name == 'push'"


@pytest.mark.parametrize(("name", "job"), jobs(), ids=[name for name, _ in jobs()])
def test_what_an_expression_names_is_there(name, job):
    """GitHub reads a name that there is not as nothing, without a word."""
    known = {"github.workflow", "github.ref", "github.event_name", "github.ref_type", "github.ref_name", "github.token",
             "github.repository", "github.event.repository.default_branch"}
    for values in matrix(job):
        for expression in [*re.findall(r"\$\{\{(.+?)\}\}", str(job)), job.get("if", "")]:
            for named in re.findall(r"\b[a-z]+(?:\.[a-z_]+)+", re.sub(r"'[^']*'", "", expression)):
                assert named in known | {f"matrix.{axis}" for axis in values}, f"{name}: {named}"


def test_what_is_downloaded_was_uploaded_once_before():
    uploaded = uploads("release.yml")
    assert len(uploaded) == len(set(uploaded))
    downloaded = {step["with"]["name"] for name, step in steps()
                  if step.get("uses", "").startswith("actions/download-artifact@") and "name" in step["with"]}
    assert downloaded == {"release", "notes"} and downloaded <= set(uploaded)


def test_each_processor_is_built_on_a_machine_of_its_own():
    described = read(FOLDER / "release.yml")["jobs"]
    runners = {values.get("architecture") or values["target"]: fill(described[name]["runs-on"], values)
               for name in ("function", "command") for values in matrix(described[name])}
    assert runners == {
        "arm64": "ubuntu-24.04-arm", "x86_64": "ubuntu-24.04",
        "aarch64-unknown-linux-gnu": "ubuntu-24.04-arm", "x86_64-unknown-linux-gnu": "ubuntu-24.04",
        "aarch64-apple-darwin": "macos-15", "x86_64-apple-darwin": "macos-15",
    }


def test_terraform_looks_at_every_folder_of_its_own():
    folders = {str(file.parent.relative_to(CHECKOUT)) for file in tracked("*.tf")}
    assert {values["folder"] for values in matrix(read(FOLDER / "ci.yml")["jobs"]["terraform"])} == folders


def test_tests_and_releases_use_the_same_rust_which_is_new_enough():
    versions = {read(file)["env"]["RUSTUP_TOOLCHAIN"] for file in WORKFLOWS}
    assert len(versions) == 1
    needed = tomllib.loads((CHECKOUT / "Cargo.toml").read_text())["package"]["rust-version"]
    used, = versions
    assert tuple(map(int, used.split("."))) >= tuple(map(int, needed.split(".")))
