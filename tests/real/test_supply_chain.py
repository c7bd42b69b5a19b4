"""What the function is made of: licences and sources of its dependencies, its bill of materials, and its zip."""

import hashlib
import json
import os
import re
import subprocess
import zipfile

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from conftest import CHECKOUT, TOOLS, run

CARGO_DENY = TOOLS / "cargo/bin/cargo-deny"
FETCH_SECONDS = 120


def cargo_deny(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([CARGO_DENY, "--locked", *map(str, arguments)], cwd=CHECKOUT, text=True, capture_output=True,
                          timeout=FETCH_SECONDS)


def test_every_dependency_has_a_known_licence_and_source_and_none_is_banned():
    done = cargo_deny("--offline", "check", "bans", "licenses", "sources")
    assert done.returncode == 0, done.stderr
    assert "bans ok, licenses ok, sources ok" in done.stderr + done.stdout


@pytest.mark.parametrize(("line", "check"), [
    ('  "ISC",\n', "licenses"),
    ('allow-registry = ["https://github.com/rust-lang/crates.io-index"]\n', "sources"),
])
def test_what_the_configuration_does_not_allow_is_refused(tmp_path, line, check):
    text = (CHECKOUT / "deny.toml").read_text()
    assert text.count(line) == 1
    narrower = tmp_path / "deny.toml"
    narrower.write_text(text.replace(line, "" if check == "licenses" else "allow-registry = []\n"))
    done = cargo_deny("--offline", "--config", narrower, "check", check)
    assert done.returncode != 0
    assert f"{check} FAILED" in done.stderr + done.stdout


def test_no_dependency_has_a_known_flaw():
    """Asks the RustSec database, which lies on GitHub. Where it can't be fetched, nothing is known, and the test says so."""
    done = cargo_deny("check", "advisories")
    if "failed to fetch advisory database" in done.stderr:
        pytest.skip("the RustSec database can't be fetched here: run `make advisories` where github.com is reached")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=["arm64", "x86_64", "aarch64-apple-darwin"])
def bill(request) -> str:
    return run(CHECKOUT / "deploy/bill_of_materials.py", request.param)


def test_the_bill_of_materials_is_what_cyclonedx_says_and_the_same_each_time(bill, request):
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill)
    assert error is None, error
    assert run(CHECKOUT / "deploy/bill_of_materials.py", request.node.callspec.params["bill"]) == bill


def test_the_bill_of_materials_lists_what_is_linked_with_licences_and_checksums(bill, request):
    of_command = request.node.callspec.params["bill"].endswith("-darwin")
    described = json.loads(bill)
    names = {component["name"] for component in described["components"]}
    direct, = [entry["dependsOn"] for entry in described["dependencies"]
               if entry["ref"] == described["metadata"]["component"]["bom-ref"]]
    manifest = (CHECKOUT / "Cargo.toml").read_text().partition("[dependencies]")[2].partition("[dev-dependencies]")[0]
    # What is optional is the laptop's command's.
    of_binary = [line for line in manifest.splitlines() if of_command or "optional = true" not in line]
    declared = {name for line in of_binary for name in re.findall(r"^([a-z0-9_-]+) ", line)}
    assert len(declared) >= 25
    assert {reference.split("/")[1].split("@")[0] for reference in direct} == declared
    # Neither what only tests use nor macros.
    assert names >= declared | {"rustls", "aws-lc-sys"} and not names & {"proptest", "support", "serde_derive"}
    assert ("clap" in names) == of_command

    lock = (CHECKOUT / "Cargo.lock").read_text()
    for component in described["components"]:
        assert component["licenses"][0]["expression"]
        checksum, = [entry["content"] for entry in component["hashes"]]
        assert f'name = "{component["name"]}"\nversion = "{component["version"]}"' in lock
        assert f'checksum = "{checksum}"' in lock


def test_the_zip_of_one_binary_is_the_same_bytes_whenever_and_wherever_it_is_made(tmp_path):
    content = os.urandom(1024) * 512
    archives = []
    for number, (time, mode) in enumerate([(0, 0o600), (1_700_000_000, 0o755)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        binary, archive = folder / f"binary-{number}", folder / "function.zip"
        binary.write_bytes(content)
        binary.chmod(mode)
        os.utime(binary, (time, time))
        printed = run(CHECKOUT / "deploy/package.py", binary, archive)
        assert printed == f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  function.zip\n"
        archives.append(archive)

    first, second = (archive.read_bytes() for archive in archives)
    assert first == second
    with zipfile.ZipFile(archives[0]) as opened:
        entry, = opened.infolist()
        assert (entry.filename, opened.read(entry)) == ("bootstrap", content)
        # Lambda runs it as another user.
        assert entry.external_attr >> 16 == 0o100755
    # Bytes that repeat get smaller.
    assert len(first) < len(content) / 10
