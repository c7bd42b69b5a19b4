"""What `make deploy` hands to AWS, and `make remote-invoke` to the AWS CLI. make and SAM are the real ones; cargo, the AWS
CLI and AWS itself, which cost time or an account, are stand-ins."""

import json
import os
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import yaml

from conftest import CHECKOUT, TOOLS

STACK = "ghcr-to-ecr-development"
REGION = "eu-north-1"
DEPLOYMENT_SECONDS = 120
RULES = [{"source": "acme/*", "destination": ["prod/{name}", "a b/{name}"], "tags": {"include": ["v*", "it's, so"]}}]

# Each writes down how it was called: its own name, its arguments, and what SAM sets for cargo-lambda.
RECORD = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $* # $CARGO_LAMBDA_BUILD" >>"$CALLS"
"""
CARGO = RECORD + """case $1 in
  metadata) printf '{"target_directory": "%s/target", "packages": []}' "$PWD" ;;
  lambda) mkdir -p target/lambda/bootstrap && echo binary >target/lambda/bootstrap/bootstrap ;;
esac
"""
AWS = RECORD + """case $1 in cloudformation) echo the-copy-function ;; esac
"""


class CloudFormation(BaseHTTPRequestHandler):
    """CloudFormation, S3 and STS, as far as `sam deploy` speaks to them: every change set succeeds."""

    def do_HEAD(self):
        """S3: nothing has been uploaded yet."""
        self.reply(404, "")

    def do_PUT(self):
        """S3: an upload."""
        self.body()
        self.reply(200, "")

    def do_POST(self):
        """CloudFormation and STS."""
        form = {name: values[0] for name, values in parse_qs(self.body().decode(), keep_blank_values=True).items()}
        action, stack = form["Action"], form.get("StackName")
        if action == "CreateChangeSet":
            self.server.change_set = form
        known = stack == "aws-sam-cli-managed-default" or self.server.executed
        if action == "DescribeStacks" and not known:
            return self.reply(400, "<ErrorResponse><Error><Code>ValidationError</Code>"
                                   f"<Message>Stack with id {stack} does not exist</Message></Error></ErrorResponse>")
        self.server.executed |= action == "ExecuteChangeSet"
        arn = f"arn:aws:cloudformation:{REGION}:123456789012:stack/{stack}/1"
        # SAM follows the events that are newer than those from before the execution.
        year = 2026 + self.server.executed
        time = f"<CreationTime>2026-01-01T00:00:00Z</CreationTime><Timestamp>{year}-01-01T00:00:00Z</Timestamp>"
        result = {
            "DescribeStacks": f"<Stacks><member><StackName>{stack}</StackName><StackId>{arn}</StackId>{time}"
                              "<StackStatus>CREATE_COMPLETE</StackStatus>"
                              "<Tags><member><Key>ManagedStackSource</Key><Value>AwsSamCli</Value></member></Tags>"
                              "<Outputs><member><OutputKey>SourceBucket</OutputKey><OutputValue>artifacts</OutputValue>"
                              "</member></Outputs></member></Stacks>",
            "CreateChangeSet": f"<Id>{arn}</Id><StackId>{arn}</StackId>",
            "DescribeChangeSet": "<Status>CREATE_COMPLETE</Status><Changes/>",
            "ExecuteChangeSet": "",
            "GetCallerIdentity": "<Account>123456789012</Account>",
            "DescribeStackEvents": f"<StackEvents><member><EventId>{year}</EventId><StackId>{arn}</StackId>{time}"
                                   f"<StackName>{stack}</StackName><LogicalResourceId>{stack}</LogicalResourceId>"
                                   f"<PhysicalResourceId>{arn}</PhysicalResourceId>"
                                   "<ResourceType>AWS::CloudFormation::Stack</ResourceType>"
                                   "<ResourceStatus>CREATE_COMPLETE</ResourceStatus></member></StackEvents>",
        }[action]
        self.reply(200, f"<{action}Response><{action}Result>{result}</{action}Result></{action}Response>")

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status: int, text: str) -> None:
        self.server.regions |= set(re.findall(r"/\d{8}/([a-z0-9-]+)/", self.headers.get("Authorization", "")))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def log_message(self, *_):
        """Nothing on the terminal of the tests."""


@pytest.fixture
def cloudformation():
    with ThreadingHTTPServer(("127.0.0.1", 0), CloudFormation) as server:
        server.change_set, server.executed, server.regions = None, False, set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A clone, with the tools that `make deploy` would install there."""
    for name in ("Makefile", "template.yaml", "samconfig.toml", "Cargo.toml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    (tmp_path / "deploy").mkdir()
    for name in ("install.sh", "requirements.txt", "example.yaml"):
        shutil.copy(CHECKOUT / "deploy" / name, tmp_path / "deploy")
    (tmp_path / ".tools").symlink_to(TOOLS)
    (tmp_path / "bin").mkdir()
    for name, text in (("cargo", CARGO), ("aws", AWS)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def shell(checkout: Path, *command: object, answers: str = "", server: ThreadingHTTPServer | None = None):
    """Runs a command as a newcomer's shell does, with `server` in AWS's place.

    That shell's PATH knows nothing of `.tools`, and nothing of a make that runs these tests reaches it."""
    path = [entry for entry in os.environ["PATH"].split(":") if entry != str(TOOLS / "venv/bin")]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MAKE", "MFLAGS"))}
    environment = inherited | {
        "PATH": ":".join([str(checkout / "bin"), *path]), "CALLS": str(checkout / "calls"),
        "SAM_CLI_POLL_DELAY": "0.01", "SAM_CLI_TELEMETRY": "0",
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": REGION, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port if server else 1}"}
    return subprocess.run([str(word) for word in command], cwd=checkout, text=True, capture_output=True, input=answers,
                          timeout=DEPLOYMENT_SECONDS, env=environment)


def calls(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().splitlines()


def write_parameters(checkout: Path, **parameters: object) -> None:
    (checkout / "deploy/development.yaml").write_text(yaml.safe_dump(parameters))


def deploy(checkout: Path, server: ThreadingHTTPServer, **parameters: object) -> dict[str, str]:
    """Deploys with these parameters, and gives those that reached CloudFormation."""
    write_parameters(checkout, **parameters)
    done = shell(checkout, "make", "deploy", server=server)
    assert done.returncode == 0, done.stdout + done.stderr
    form = server.change_set
    assert form["StackName"] == STACK and server.executed
    numbers = [name.split(".")[2] for name in form if re.fullmatch(r"Parameters\.member\.\d+\.ParameterValue", name)]
    return {form[f"Parameters.member.{number}.ParameterKey"]: form[f"Parameters.member.{number}.ParameterValue"]
            for number in numbers}


def test_rules_with_quotes_commas_and_spaces_arrive_as_they_were_written(checkout, cloudformation):
    rules = json.dumps(RULES, indent=2)
    arrived = deploy(checkout, cloudformation, Rules=rules, DestinationRepositories=["arn:a/*", "arn:b"])

    assert arrived == {"Rules": rules, "DestinationRepositories": "arn:a/*,arn:b"}


def test_the_example_is_deployed_with_the_rules_in_it(checkout, cloudformation):
    example = yaml.safe_load((checkout / "deploy/example.yaml").read_text())
    arrived = deploy(checkout, cloudformation, **example)

    assert arrived.keys() == example.keys()
    assert arrived["Rules"] == example["Rules"]
    rule, = json.loads(arrived["Rules"])
    assert rule.keys() >= {"source", "destination"}
    # Whoever enables the schedule without a further look does not mirror the whole history.
    assert rule["tags"]["newest"] == 10
    assert arrived["ScheduleState"] == "DISABLED"


@pytest.mark.parametrize(("architecture", "flag"), [("arm64", True), ("x86_64", False)])
def test_the_build_and_the_deployment_have_one_architecture(checkout, cloudformation, architecture, flag):
    arrived = deploy(checkout, cloudformation, Rules="[]", DestinationRepositories="arn:a", Architecture=architecture)

    assert arrived["Architecture"] == architecture
    build, = [call for call in calls(checkout) if call.startswith("cargo lambda build")]
    assert ("--arm64" in build.split()) == flag
    # What cargo-lambda takes where no flag says otherwise, whatever this machine's own architecture is.
    assert build.endswith("# {x86_64=true}")


def test_everything_is_deployed_in_the_region_of_the_shell(checkout, cloudformation):
    deploy(checkout, cloudformation, Rules="[]", DestinationRepositories="arn:a")

    assert cloudformation.regions == {REGION}


def test_a_missing_parameter_file_is_named_before_anything_is_built(checkout):
    done = shell(checkout, "make", "deploy", "ENVIRONMENT=production")

    assert done.returncode != 0
    assert "there is no deploy/production.yaml: copy deploy/example.yaml there" in done.stderr
    assert not (checkout / "calls").exists()


def test_a_parameter_that_the_template_does_not_have_is_refused_by_name(checkout):
    write_parameters(checkout, Rules="[]", GhcrTokenSecret="arn:a")
    done = shell(checkout, "make", "deploy")

    assert done.returncode != 0
    assert "template.yaml has no parameter GhcrTokenSecret" in done.stderr
    assert not (checkout / "calls").exists()


def test_enter_to_every_question_of_a_guided_deployment_deploys(checkout, cloudformation):
    write_parameters(checkout, Rules="[]", DestinationRepositories="arn:a")
    assert shell(checkout, "make", "build", server=cloudformation).returncode == 0
    done = shell(checkout, TOOLS / "venv/bin/sam", "deploy", "--guided", "--region", REGION, "--parameter-overrides",
                 "file://deploy/development.yaml", answers="\n" * 100, server=cloudformation)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "has no authentication" not in done.stdout
    assert cloudformation.executed


def test_a_remote_invocation_waits_for_the_copy_and_is_made_once(checkout):
    done = shell(checkout, "make", "remote-invoke", "EVENT=events/direct.json", "ENVIRONMENT=production")

    assert done.returncode == 0, done.stderr
    assert "AWS_MAX_ATTEMPTS=1 aws lambda invoke" in done.stdout
    lookup, invocation = calls(checkout)
    assert "--stack-name ghcr-to-ecr " in lookup
    assert "--cli-read-timeout 0" in invocation and "--function-name the-copy-function" in invocation


@pytest.mark.parametrize("target", ["build", "deploy", "invoke", "start-api"])
def test_sam_finds_its_tools_though_make_ignores_an_exported_path(checkout, target):
    write_parameters(checkout, Rules="[]")
    done = shell(checkout, "make", "--dry-run", target, "EVENT=events/direct.json")

    commands = [line for line in done.stdout.splitlines() if "/bin/sam " in line]
    assert commands, done.stderr
    path = f'PATH="{checkout}/.tools/venv/bin:$PATH" '
    assert all(path in command.split(" .tools/venv/bin/sam ")[0] for command in commands)
    assert all(" .tools/venv/bin/sam " in command for command in commands)


@pytest.mark.parametrize(("architecture", "flag"), [("arm64", "--arm64"), ("x86_64", "--x86-64")])
def test_a_package_is_built_for_its_processor_without_the_paths_of_this_machine(checkout, architecture, flag):
    done = shell(checkout, "make", "--dry-run", "package", f"ARCHITECTURE={architecture}", "CARGO_HOME=/home/somebody/.cargo")

    commands = done.stdout.replace("\\\n", " ")
    build, = [line for line in commands.splitlines() if "cargo lambda build" in line]
    assert flag in build.split() and "--release" in build and "--locked" in build
    for folder, name in ((checkout, "/source"), ("/home/somebody/.cargo", "/cargo")):
        assert f"--remap-path-prefix={folder}={name}" in build
        assert f"-ffile-prefix-map={folder}={name}" in build
    assert f"target/package/ghcr-to-ecr-{architecture}.zip" in commands


def test_an_old_python_is_refused_with_what_to_do(checkout):
    (checkout / ".tools").unlink()
    old = checkout / "bin/python3"
    old.write_text('#!/bin/sh\ncase $1 in --version) echo Python 3.9.6 ;; *) exit 1 ;; esac\n')
    old.chmod(0o755)
    done = shell(checkout, "make", "build", "PARAMETERS=deploy/example.yaml")

    assert done.returncode != 0
    assert "AWS SAM needs Python 3.10 or newer, and python3 is Python 3.9.6: install one" in done.stderr
