"""What `make doctor` makes of the function's answer, for a person. make and the script are the real ones; the AWS CLI, which costs
an account, is a stand-in."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

GOOD = {"outcome": "current", "checks": [
    {"check": "rules", "status": "ok", "detail": "RULES: 1 rule, for acme/*", "remedy": ""},
    {"check": "token in ghcr/token", "status": "warning", "detail": "it expires in 3 days", "remedy": "make a new one"}]}
BAD = {"outcome": "failed", "checks": GOOD["checks"] + [
    {"check": "destination prod/api", "status": "failed", "detail": "the repository does not exist " * 5,
     "remedy": "create it with `aws ecr create-repository --repository-name prod/api`"}]}

# Writes the answer of each function, as the AWS CLI does, to the file that is named last.
AWS = """#!/bin/sh
printf '%s\\n' "$*" >>"$CALLS"
case $1 in
  cloudformation) echo "the-$4" ;;
  lambda) for file; do :; done; cat "answers/$(echo "$*" | grep -o 'the-[A-Za-z]*')" >"$file"; echo '{"StatusCode": 200}' ;;
esac
"""


def doctor(answer: object, encoding: str = "utf-8") -> subprocess.CompletedProcess:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return subprocess.run([sys.executable, CHECKOUT / "deploy/doctor.py", "CopyFunction"], input=text, encoding=encoding,
                          capture_output=True, timeout=60, env=os.environ | {"PYTHONIOENCODING": encoding})


def test_each_line_has_its_mark_and_below_it_its_remedy():
    done = doctor(BAD)

    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "CopyFunction"
    assert lines[1] == "  ✓ rules: RULES: 1 rule, for acme/*"
    assert lines[2:4] == ["  ! token in ghcr/token: it expires in 3 days", "      → make a new one"]
    assert lines[4].startswith("  ✗ destination prod/api: the repository")
    assert lines[-2] == "      → create it with `aws ecr create-repository --repository-name prod/api`"
    assert lines[-1] == "  1 failed, 1 to look at, 1 ok"
    assert max(map(len, lines)) <= 100


def test_a_warning_is_no_failure():
    assert doctor(GOOD).returncode == 0


def test_a_terminal_without_the_marks_gets_others():
    done = doctor(BAD, "ascii")

    assert done.returncode == 1
    assert "  + rules: " in done.stdout and "  x destination prod/api: " in done.stdout
    assert "      -> make a new one" in done.stdout


@pytest.mark.parametrize(("answer", "words"), [
    ({"errorType": "Runtime.ExitError", "errorMessage": "setting RULES is malformed"}, "setting RULES is malformed"),
    ("", "could not be invoked"), ("[]", "no checklist"), ("<html>", "no checklist")])
def test_what_is_no_checklist_is_told(answer, words):
    done = doctor(answer)

    assert done.returncode == 2 and words in done.stdout


@pytest.mark.parametrize(("of_webhook_function", "status"), [(GOOD, 0), (BAD, 2)])
def test_make_doctor_asks_both_functions_and_fails_if_one_does(tmp_path, of_webhook_function, status):
    for name in ("Makefile", "samconfig.toml", "template.yaml", "deploy/doctor.py", "events/check.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(CHECKOUT / name, tmp_path / name)
    for name, answer in (("CopyFunction", GOOD), ("WebhookFunction", of_webhook_function)):
        (tmp_path / "answers").mkdir(exist_ok=True)
        (tmp_path / "answers" / f"the-{name}").write_text(json.dumps(answer))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/aws").write_text(AWS)
    (tmp_path / "bin/aws").chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MAKE", "MFLAGS"))}
    environment = inherited | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    done = subprocess.run(["make", "doctor", "ENVIRONMENT=production"], cwd=tmp_path, text=True, capture_output=True,
                          timeout=60, env=environment)

    # make ends with 2 whatever its commands ended with.
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout.index("CopyFunction") < done.stdout.index("WebhookFunction")
    calls = (tmp_path / "calls").read_text().splitlines()
    invocations = [call for call in calls if call.startswith("lambda invoke")]
    assert len(invocations) == 2
    assert all("--payload file://events/check.json" in call for call in invocations)
    assert all("--stack-name ghcr-to-ecr " in call for call in calls if call.startswith("cloudformation"))
