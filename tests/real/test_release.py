"""A release, from the tag to what everybody sees: each script that .github/workflows/release.yml runs, run here."""

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from conftest import CHECKOUT, run
from github import REPOSITORY, TOKEN, github
from workflows import uploads

SCRIPTS = CHECKOUT / "deploy/release"
VERSION = tomllib.loads((CHECKOUT / "Cargo.toml").read_text())["package"]["version"]
SECONDS = 120


def tried(*command: object, **options) -> subprocess.CompletedProcess:
    """A command that may fail; what it says is one text."""
    return subprocess.run([str(word) for word in command], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=SECONDS, **options)


# The version


@pytest.fixture
def sources(tmp_path):
    """A repository whose main branch has version 1.2.0, which the tag v1.2.0 names."""
    def git(*words: str) -> None:
        run("git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.com", *words)

    (tmp_path / "Cargo.toml").write_text('[package]\nname = "ghcr-to-ecr"\nversion = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n- Later.\n\n## 1.2.0 (2026-12-01)\n\n- New.\n\n- More.\n\n## 1.1.0\n\n- Old.\n")
    git("init", "--quiet", "--initial-branch", "main")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    git("tag", "--annotate", "v1.2.0", "--message", "1.2.0")
    return tmp_path, git


def version(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return tried(SCRIPTS / "version.py", *arguments, cwd=folder)


@pytest.mark.parametrize("arguments", [(), ("", "main"), ("v1.2.0", "main")])
def test_where_all_agree_the_notes_are_the_changelogs_section(sources, arguments):
    done = version(sources[0], *arguments)
    assert (done.returncode, done.stdout) == (0, "- New.\n\n- More.\n")


@pytest.mark.parametrize(("file", "old", "new", "message"), [
    ("Cargo.toml", "1.2.0", "1.3.0", "the tag is v1.2.0, but Cargo.toml says 1.3.0"),
    ("Cargo.toml", "1.2.0", "1.1.0", "the tag is v1.2.0, but Cargo.toml says 1.1.0"),
    ("Cargo.toml", "1.2.0", "1.2", "is no version"),
    ("Cargo.toml", "1.2.0", "1.2.0+build", "is no version"),
    ("CHANGELOG.md", "## 1.2.0 (2026-12-01)", "## Next", "expected one section '## 1.2.0' and found 0"),
    ("CHANGELOG.md", "## 1.2.0", "## 1.2.01", "expected one section '## 1.2.0' and found 0"),
    ("CHANGELOG.md", "## 1.1.0", "## 1.2.0", "found 2"),
    ("CHANGELOG.md", "- New.\n\n- More.\n", "", "is empty"),
])
def test_what_does_not_agree_is_refused(sources, file, old, new, message):
    folder, _ = sources
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    done = version(folder, "v1.2.0", "main")
    assert done.returncode == 1 and message in done.stdout


def test_a_tag_of_another_version_is_refused(sources):
    folder, git = sources
    git("tag", "v1.2.1")
    assert "the tag is v1.2.1, but Cargo.toml says 1.2.0" in version(folder, "v1.2.1", "main").stdout


def test_a_tag_beside_the_default_branch_is_refused(sources):
    folder, git = sources
    git("checkout", "--quiet", "-b", "other")
    git("commit", "--quiet", "--allow-empty", "--message", "second")
    git("tag", "--force", "v1.2.0")
    done = version(folder, "v1.2.0", "main")
    assert done.returncode == 1 and "the tag v1.2.0 is not on main" in done.stdout
    # And on it once it is merged, whatever has come after it.
    git("checkout", "--quiet", "main")
    git("merge", "--quiet", "other")
    git("commit", "--quiet", "--allow-empty", "--message", "third")
    assert version(folder, "v1.2.0", "main").returncode == 0


@pytest.mark.parametrize(("tag", "branch"), [("v1.2.0", "origin/main"), ("v1.2.0", "")])
def test_a_branch_that_is_not_in_the_clone_is_no_permission(sources, tag, branch):
    done = version(sources[0], tag, branch)
    assert done.returncode == 1 and "git could not say whether v1.2.0 is on" in done.stdout


# The function's binary


@pytest.fixture(scope="module")
def package(built) -> Path:
    """The zip that `make package` makes, of what the other tests have had compiled."""
    run("make", "package", "ARCHITECTURE=x86_64")
    return CHECKOUT / "target/package"


@pytest.fixture
def bootstrap(package, tmp_path) -> Path:
    """The binary in that zip, and nothing else is in it."""
    with zipfile.ZipFile(package / "ghcr-to-ecr-x86_64.zip") as opened:
        assert opened.namelist() == ["bootstrap"]
        return Path(opened.extract("bootstrap", tmp_path))


def binary(architecture: str, glibc: str, file: Path) -> subprocess.CompletedProcess:
    return tried(SCRIPTS / "linux_binary.py", architecture, glibc, file)


def test_the_function_runs_on_amazon_linux_2023(bootstrap):
    done = binary("x86_64", "2.34", bootstrap)
    assert done.returncode == 0, done.stdout
    needed = re.search(r"needs glibc (\d+)\.(\d+),", done.stdout)
    # By number: as texts, 2.9 would be more than 2.34.
    older = f"{needed[1]}.{int(needed[2]) - 1}"
    refused = binary("x86_64", older, bootstrap)
    assert refused.returncode == 1 and f"and where it is to run there is {older}" in refused.stdout
    assert binary("x86_64", "2.9", bootstrap).returncode == 1


def test_no_path_of_this_machine_is_in_the_function(bootstrap):
    content = bootstrap.read_bytes()
    # With the slash: a home such as /root is part of words.
    assert f"{CHECKOUT}/".encode() not in content and f"{Path.home()}/".encode() not in content


def test_a_binary_for_another_processor_is_refused(bootstrap):
    done = binary("arm64", "2.34", bootstrap)
    assert done.returncode == 1 and "X86-64, and arm64 was asked for" in done.stdout


@pytest.mark.parametrize(("options", "message"), [
    ([], "needs glibc 2.36, and where it is to run there is 2.34"),
    (["-static"], "names no version of glibc"),
])
def test_a_binary_that_asks_for_more_than_amazon_linux_has_is_refused(tmp_path, options, message):
    # glibc has this function since 2.36.
    (tmp_path / "new.c").write_text("unsigned arc4random(void);\nint main(void) { return (int) arc4random(); }\n")
    run("cc", *options, "-o", tmp_path / "new", tmp_path / "new.c")
    machine = "arm64" if os.uname().machine == "aarch64" else "x86_64"
    done = binary(machine, "2.34", tmp_path / "new")
    assert done.returncode == 1 and message in done.stdout


def test_what_is_no_binary_is_refused():
    done = binary("x86_64", "2.34", CHECKOUT / "README.md")
    assert done.returncode == 1 and "readelf could not read" in done.stdout


# The licences


@pytest.fixture(scope="module")
def licences() -> str:
    return run(CHECKOUT / "deploy/third_party.py")


def test_every_crate_of_every_binary_comes_with_its_licence(licences):
    for name in ("arm64", "x86_64-apple-darwin"):
        bill = json.loads(run(CHECKOUT / "deploy/bill_of_materials.py", name))
        assert len(bill["components"]) > 150
        for component in bill["components"]:
            assert f"\n{component['name']} {component['version']} (" in licences
    # What the Apache licence, the MIT licence and the standard library ask for.
    for text in ("Apache License\n", "Permission is hereby granted, free of charge",
                 "Redistribution and use in source and binary", "Copyright notices for The Rust Standard Library"):
        assert text in licences
    # Of crates that only tests and builds use there is none.
    assert "\nproptest " not in licences


# The laptop's command


def test_the_commands_archive_is_the_same_bytes_each_time_and_has_what_belongs_to_it(tmp_path):
    command, licences = tmp_path / "bootstrap", tmp_path / "licences"
    folder = "ghcr-to-ecr-1.2.0-aarch64-apple-darwin"
    licences.write_text("MIT")
    archives = []
    for number, mode in enumerate((0o600, 0o755)):
        command.write_bytes(b"binary")
        command.chmod(mode)
        os.utime(command, (number, number))
        run(SCRIPTS / "tarball.py", folder, command, CHECKOUT / "LICENSE", licences, tmp_path / str(number))
        made, = (tmp_path / str(number)).iterdir()
        assert made.name == f"{folder}.tar.gz"
        archives.append(made.read_bytes())
    assert archives[0] == archives[1]
    with tarfile.open(fileobj=io.BytesIO(archives[0])) as opened:
        assert [(member.name, oct(member.mode), member.uid, member.mtime) for member in opened] == [
            (f"{folder}/ghcr-to-ecr", "0o755", 0, 0), (f"{folder}/LICENSE", "0o644", 0, 0),
            (f"{folder}/THIRD-PARTY.txt", "0o644", 0, 0)]
        assert opened.extractfile(f"{folder}/THIRD-PARTY.txt").read() == b"MIT"
        assert opened.extractfile(f"{folder}/LICENSE").read() == (CHECKOUT / "LICENSE").read_bytes()
    # As somebody would unpack it.
    run("tar", "--extract", "--gzip", "--file", made, "--directory", tmp_path)
    assert os.access(tmp_path / folder / "ghcr-to-ecr", os.X_OK)


# The whole


def lay_out(folder: Path, package: Path) -> Path:
    """What all builds leave, under the names that the workflow gives them. The zip for x86_64 is real."""
    for name in uploads("release.yml"):
        (folder / name).mkdir(parents=True)
        kind, _, what = name.partition("-")
        if kind == "function":
            architecture, _, _ = what.rpartition("-")
            for file in package.glob("ghcr-to-ecr-x86_64.*"):
                content = file.read_bytes() if architecture == "x86_64" else b"for another processor"
                (folder / name / file.name.replace("x86_64", architecture)).write_bytes(content)
        if kind == "command":
            for ending in ("tar.gz", "cdx.json"):
                (folder / name / f"ghcr-to-ecr-{VERSION}-{what}.{ending}").write_bytes(name.encode())
    return folder


@pytest.fixture
def builds(package, tmp_path) -> Path:
    return lay_out(tmp_path / "builds", package)


def assemble(builds: Path, folder: Path, repository: str = REPOSITORY) -> subprocess.CompletedProcess:
    return tried("make", "release", f"BUILDS={builds}", cwd=CHECKOUT,
                 env=os.environ | {"GITHUB_REPOSITORY": repository, "RELEASE": str(folder)})


@pytest.fixture(scope="module")
def release(package, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "release"
    done = assemble(lay_out(folder.parent / "builds", package), folder)
    assert done.returncode == 0, done.stdout
    return folder


def test_a_release_has_its_files_and_their_checksums(release, package, licences):
    commands = ["aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu", "aarch64-apple-darwin", "x86_64-apple-darwin"]
    expected = {
        *(f"ghcr-to-ecr-lambda-{VERSION}-{name}.{ending}" for name in ("arm64", "x86_64") for ending in ("zip", "cdx.json")),
        *(f"ghcr-to-ecr-{VERSION}-{name}.{ending}" for name in commands for ending in ("tar.gz", "cdx.json")),
        "template.yaml", "install.sh", "THIRD-PARTY.txt", "SHA256SUMS"}
    assert {file.name for file in release.iterdir()} == expected
    listed = {line.split("  ")[1] for line in (release / "SHA256SUMS").read_text().splitlines()}
    assert listed == expected - {"SHA256SUMS"}
    checked = tried("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=release)
    assert checked.returncode == 0, checked.stdout

    assert (release / f"ghcr-to-ecr-lambda-{VERSION}-x86_64.zip").read_bytes() == (
        package / "ghcr-to-ecr-x86_64.zip").read_bytes()
    assert (release / f"ghcr-to-ecr-lambda-{VERSION}-arm64.zip").read_bytes() == b"for another processor"
    assert (release / "THIRD-PARTY.txt").read_text() == licences
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(
        (release / f"ghcr-to-ecr-lambda-{VERSION}-x86_64.cdx.json").read_text())
    assert error is None, error


def test_the_released_template_and_installer_name_this_release(release):
    script = (release / "install.sh").read_text()
    assert f"\nVERSION={VERSION}\n" in script and f"\nREPOSITORY={REPOSITORY}\n" in script
    assert os.access(release / "install.sh", os.X_OK)
    assert f"ghcr-to-ecr-lambda-{VERSION}-" in (release / "template.yaml").read_text()


def test_two_builds_that_differ_are_not_assembled(builds, tmp_path):
    second = builds / "function-x86_64-second/ghcr-to-ecr-x86_64.zip"
    changed = bytearray(second.read_bytes())
    changed[len(changed) // 2] ^= 1
    second.write_bytes(changed)
    done = assemble(builds, tmp_path / "release")
    assert done.returncode != 0 and "two builds of the same sources differ" in done.stdout
    # Both are named, for whoever looks for the reason.
    assert hashlib.sha256(changed).hexdigest() in done.stdout
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize(("file", "content"), [
    ("function-arm64-second/ghcr-to-ecr-arm64.zip", None),
    ("command-x86_64-apple-darwin/ghcr-to-ecr-{}-x86_64-apple-darwin.tar.gz", None),
    ("command-aarch64-apple-darwin/surprise.txt", b""),
])
def test_a_build_that_left_too_little_or_too_much_is_not_assembled(builds, tmp_path, file, content):
    path = builds / file.format(VERSION)
    path.unlink() if content is None else path.write_bytes(content)
    done = assemble(builds, tmp_path / "release")
    assert done.returncode != 0 and f"{path.parent}: expected " in done.stdout
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize("repository", ["", "acme", "acme/api; id", "acme/api/x"])
def test_a_repository_that_github_could_not_have_is_refused(builds, tmp_path, repository):
    done = assemble(builds, tmp_path / "release", repository)
    assert done.returncode != 0 and "is no repository of GitHub" in done.stdout


# On GitHub


@pytest.fixture
def files(tmp_path) -> Path:
    """The smallest release."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "function.zip").write_bytes(b"zip")
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(b'zip').hexdigest()}  function.zip\n")
    (tmp_path / "notes.md").write_text("- New: `a` & $HOME\n")
    return folder


def publish(environment: dict, folder: Path, tag: str = "v1.2.0") -> subprocess.CompletedProcess:
    return tried(SCRIPTS / "publish.sh", tag, folder, folder.parent / "notes.md",
                 env=os.environ | environment | {"GH_CONFIG_DIR": str(folder.parent / "gh"), "TMPDIR": str(folder.parent)})


@pytest.mark.parametrize(("tag", "early"), [("v1.2.0", False), ("v1.2.0-rc.1", True)])
def test_a_release_is_published_once_when_all_of_it_is_there(files, tag, early):
    with github(tag) as (repository, environment):
        done = publish(environment, files, tag)
        assert done.returncode == 0, done.stdout
        assert repository.history[0] == f"draft {tag}" and repository.history[-1] == f"published {tag}"
        assert sorted(repository.history[1:-1]) == ["uploaded SHA256SUMS", "uploaded function.zip"]
        release, = repository.published()
        assert release.assets == {file.name: file.read_bytes() for file in files.iterdir()}
        assert (release.tag, release.body, release.prerelease) == (tag, "- New: `a` & $HOME\n", early)
        assert TOKEN not in done.stdout

        again = publish(environment, files, tag)
        assert again.returncode == 1 and "never replaced" in again.stdout
        assert repository.published() == [release] and len(repository.history) == 4
    assert not list(files.parent.glob("tmp*"))


def test_a_draft_of_an_attempt_that_broke_off_is_made_anew(files):
    with github("v1.1.0", "v1.2.0") as (repository, environment):
        assert publish(environment, files, "v1.1.0").returncode == 0
        repository.storage["function.zip"] = b"half of it"
        broken = publish(environment, files)
        assert broken.returncode != 0 and "function.zip" in broken.stdout
        assert [release.tag for release in repository.published()] == ["v1.1.0"]

        repository.storage.clear()
        done = publish(environment, files)
        assert done.returncode == 0, done.stdout
        assert "deleted v1.2.0" in repository.history
        assert [release.tag for release in repository.releases.values()] == ["v1.1.0", "v1.2.0"]
        assert len(repository.published()) == 2


def test_a_tag_that_github_does_not_have_is_not_made(files):
    with github("v1.1.0") as (repository, environment):
        done = publish(environment, files)
        assert done.returncode != 0 and "v1.2.0" in done.stdout
        assert not repository.releases


def test_without_the_right_token_nothing_happens(files):
    with github("v1.2.0") as (repository, environment):
        assert publish(environment | {"GH_TOKEN": "ghs_wrong"}, files).returncode != 0
        assert not repository.history
