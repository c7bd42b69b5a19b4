"""The GitHub Action: its steps as GitHub's runner runs them, with the real AWS CLI, curl and jq, and with GitHub's identity tokens,
STS and Lambda as strict servers on this machine."""

import base64
import json
import os
import re
import shutil
import subprocess
import threading
import xml.sax.saxutils
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from conftest import CHECKOUT, registry

ACTION = yaml.safe_load((CHECKOUT / "action.yml").read_text())
# Version 2, as GitHub's runners have it: Amazon's own, or Debian's, which tests/real/install.sh installs.
AWS_CLI = next((path for path in ("/usr/local/bin/aws", "/usr/bin/aws") if Path(path).exists()), "aws")
# What the step may start. Each is recorded with its arguments; the last two are not run.
COMMANDS = ["aws", "cat", "curl", "cut", "dirname", "jq", "mktemp", "od", "rm", "sed", "tr", "sudo", "sleep"]

# Far more than a step takes on a busy machine.
STEP_SECONDS = 180

REGION = "eu-west-3"
FUNCTION = f"arn:aws:lambda:{REGION}:123456789012:function:ghcr-to-ecr-CopyFunction-1A2B"
ROLE = "arn:aws:iam::123456789012:role/ghcr-to-ecr-workflow"
SUBJECT = "repo:acme@1234/api@5678:ref:refs/heads/main"
TOKEN = "ghs_lenttestlenttestlenttestlenttest0123"
REQUEST_TOKEN = "requesttestrequesttestrequesttest"
DIGEST = "sha256:40058a21d4d0dab3b357a4e3c583b3b50ee91617fc934f2eefa60c12ef702c27"
OTHER_DIGEST = DIGEST.replace("40058a21", "91617fc9")
REGISTRY = f"123456789012.dkr.ecr.{REGION}.amazonaws.com"
TAGS = "ghcr.io/acme/api:1.2.3\nghcr.io/acme/api:latest"


def report(tag: str = "1.2.3", **changes: object) -> dict:
    """As the function answers, README "Report"."""
    return {
        "outcome": "copied", "source": f"ghcr.io/acme/api:{tag}", "destination": f"{REGISTRY}/prod/api:{tag}",
        "digest": DIGEST, "source_digest": DIGEST, "manifests": {"pushed": 5, "present": 0},
        "blobs": {"copied": 10, "mounted": 0, "present": 2}, "bytes": {"copied": 104857600, "present": 4096},
        "referrers": {"copied": 0, "refused": 0}, "warnings": [], "requests": {"source": 25, "destination": 43},
        "elapsed_ms": 1234,
    } | changes


@dataclass(frozen=True)
class Failed:
    """A function error."""

    kind: str
    sentence: str


@dataclass(frozen=True)
class Refused:
    """What Lambda says instead of invoking the function."""

    status: int
    kind: str
    message: str


BUSY = Refused(429, "TooManyRequestsException", "Rate Exceeded.")
TIME_IS_UP = Failed("Deadline", "the deadline came")
# The connection is lost, and nothing was answered.
LOST = object()


class Services:
    """GitHub's identity tokens, STS and Lambda. Whatever they do not know is an answer 400, and fails the test."""

    def __init__(self):
        self.answers: list = []
        self.events: list[dict] = []
        self.identities: list[str] = []
        self.sessions: list[Credentials] = []
        self.trusted = SUBJECT
        self.gives_identities = True
        self.complaints: list[str] = []
        self.secrets = [TOKEN, REQUEST_TOKEN]
        # What the job has without a role.
        self.given = Credentials("AKIATESTTESTTESTTEST", "secret+key/of/the+job0000000000000000000", None)

    def identity(self, query: dict, headers) -> tuple[int, dict, str]:
        assert query == {"api-version": ["2.0"], "audience": ["sts.amazonaws.com"]}, query
        assert headers["Authorization"] == f"Bearer {REQUEST_TOKEN}", "the request token"
        if not self.gives_identities:
            return 403, {}, "no"
        claims = json.dumps({"sub": SUBJECT, "aud": "sts.amazonaws.com", "jti": len(self.identities)}).encode()
        parts = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (b'{"alg":"RS256"}', claims, b"signature??>")]
        self.identities.append(".".join(parts))
        self.secrets.append(self.identities[-1])
        return 200, {"Content-Type": "application/json"}, json.dumps({"count": 1, "value": self.identities[-1]})

    def role(self, form: dict, headers) -> tuple[int, dict, str]:
        assert "Authorization" not in headers, "the call is not signed: the identity token is what counts"
        assert form == {
            "Action": ["AssumeRoleWithWebIdentity"], "Version": ["2011-06-15"], "RoleArn": [ROLE], "DurationSeconds": ["900"],
            "RoleSessionName": ["ghcr-to-ecr-4711"], "WebIdentityToken": [self.identities[-1]]}, form
        if self.trusted != SUBJECT:
            return 403, {}, ("<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized to perform "
                             "sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>")
        number = len(self.sessions) + 1
        session = Credentials(f"ASIATESTTEST{number:08}", f"secret+key/of/session{number:019}", f"session//token+of+{number:040}==")
        self.sessions.append(session)
        self.secrets += [session.secret_key, session.token]
        values = {"AccessKeyId": session.access_key, "SecretAccessKey": session.secret_key, "SessionToken": session.token,
                  "Expiration": "2126-01-01T00:00:00Z"}
        xml_values = "".join(f"<{name}>{xml.sax.saxutils.escape(value)}</{name}>" for name, value in values.items())
        return 200, {"Content-Type": "text/xml"}, (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>'
            f"<Credentials>{xml_values}</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>")

    def invocation(self, path: str, body: bytes, headers) -> tuple[int, dict, str]:
        name = re.fullmatch(r"/2015-03-31/functions/([^/]+)/invocations", path)
        assert name and unquote(name[1]) == FUNCTION, path
        assert headers.get("X-Amz-Invocation-Type") == "RequestResponse", "nothing waits in a queue of Lambda's"
        self.check_signature(path, body, headers)
        self.events.append(json.loads(body))
        answer = self.answers.pop(0)
        if answer is LOST:
            raise ConnectionAbortedError
        if callable(answer):
            answer = answer(self.events[-1])
        match answer:
            case Refused(status, kind, message):
                return status, {"x-amzn-ErrorType": kind}, json.dumps({"Type": "User", "message": message})
            case Failed(kind, sentence):
                reply = {"errorType": kind, "errorMessage": sentence}
                return 200, {"X-Amz-Function-Error": "Unhandled", "X-Amz-Executed-Version": "$LATEST"}, json.dumps(reply)
        return 200, {"X-Amz-Executed-Version": "$LATEST"}, answer if isinstance(answer, str) else json.dumps(answer)

    def check_signature(self, path: str, body: bytes, headers) -> None:
        """As AWS checks it: with the secret key of the session, over what was received."""
        session = self.sessions[-1] if self.sessions else self.given
        found = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request, SignedHeaders=(\S+), "
                             r"Signature=(\w+)", headers["Authorization"])
        assert found and found.groups()[:3] == (session.access_key, REGION, "lambda"), headers["Authorization"]
        assert headers.get("X-Amz-Security-Token") == session.token, "the session's token"
        signed = {name: headers[name] for name in found[4].split(";")}
        request = AWSRequest("POST", f"http://{headers['Host']}{path}", headers=signed, data=body)
        moment = datetime.strptime(headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
        request.context["timestamp"] = moment.strftime("%Y%m%dT%H%M%SZ")
        auth = SigV4Auth(session, "lambda", REGION)
        text = auth.string_to_sign(request, auth.canonical_request(request))
        assert auth.signature(text, request) == found[5], "the signature"


@pytest.fixture
def services():
    services = Services()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            address = urlsplit(self.path)
            try:
                if self.command == "GET" and address.path == "/identity":
                    status, headers, text = services.identity(parse_qs(address.query), self.headers)
                elif self.command == "POST" and address.path == "/":
                    status, headers, text = services.role(parse_qs(body.decode()), self.headers)
                else:
                    assert self.command == "POST", self.command
                    status, headers, text = services.invocation(self.path, body, self.headers)
            except ConnectionAbortedError:
                self.close_connection = True
                return
            except Exception as error:  # noqa: BLE001 # the test shows it
                services.complaints.append(f"{self.command} {self.path}: {error!r}")
                status, headers, text = 400, {}, "not understood"
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = answer

        def log_message(self, *_):
            """Nothing on the terminal of the tests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        services.url = f"http://127.0.0.1:{server.server_port}"
        yield services
        server.shutdown()
    assert services.complaints == []
    assert services.answers == [], "an answer that nobody asked for"


@dataclass
class Step:
    """What became of the action."""

    status: int
    log: list[str]
    outputs: dict[str, str]
    summary: str
    commands: list[list[str]]
    annotations: list[tuple[str, str]] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.log)

    def started(self, name: str) -> list[list[str]]:
        return [arguments for command, *arguments in self.commands if command == name]


def filled(text: str, values: dict[str, str]) -> str:
    """An expression of action.yml, of which there are two kinds."""
    found = re.fullmatch(r"\$\{\{ ([a-z.-]+) }}", text)
    assert found and found[1] in values, text
    return values[found[1]]


def read_log(lines: list[str], secrets: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Annotations and masks, as the runner understands the log: any line may be a command, and the older form stands anywhere in
    one. (actions/runner, ActionCommandManager)"""
    annotations, masks, stopped = [], [], None
    for number, text in enumerate(lines):
        unmasked = [secret for secret in secrets if secret in text and secret not in masks]
        if stopped is not None:
            assert not unmasked, text
            stopped = None if text.strip() == f"::{stopped}::" else stopped
            continue
        command = re.match(r"\s*::(?P<name>[\w-]+)(?: (?P<properties>[^:]*))?::(?P<value>.*)$", text)
        if not command:
            assert not text.lstrip().startswith("::") and "##[" not in text, text
            assert not unmasked, text
            continue
        value = command["value"].replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%")
        if command["name"] == "add-mask":
            masks.append(value)
            continue
        assert not unmasked, text
        if command["name"] == "stop-commands":
            assert re.fullmatch("[0-9a-f]{32}", value), value
            stopped = value
        else:
            assert command["name"] in ("error", "warning", "notice") and command["properties"] == "title=ghcr-to-ecr", text
            annotations.append((command["name"], value))
    assert stopped is None, "the runner would obey nothing more of the whole job's step"
    return annotations, masks


def read_outputs(text: str) -> dict[str, str]:
    """GITHUB_OUTPUT, of which we write the form with a delimiter alone."""
    outputs, lines = {}, iter(text.splitlines())
    for first in lines:
        name, delimiter = re.fullmatch(r"([a-z]+)<<([0-9a-f]{32})", first).groups()
        value = []
        for text in lines:
            if text == delimiter:
                break
            value.append(text)
        else:
            pytest.fail(f"{name} does not end")
        assert name not in outputs
        outputs[name] = "\n".join(value)
    return outputs


@pytest.fixture
def action(services, tmp_path):
    """Runs the action with these inputs, as the runner does."""
    # A path with what a shell would split.
    checkout = tmp_path / "its own folder" / "action"
    (checkout / "deploy").mkdir(parents=True)
    shutil.copy(CHECKOUT / "action.yml", checkout)
    shutil.copytree(CHECKOUT / "deploy/action", checkout / "deploy/action")
    programs, started = tmp_path / "bin", tmp_path / "commands"
    programs.mkdir()
    for name in COMMANDS:
        real = AWS_CLI if name == "aws" else shutil.which(name)
        go_on = {"sudo": "", "sleep": "", "aws": f'exec {real} --endpoint-url {services.url} "$@"'}
        (programs / name).write_text(
            f"""#!/bin/bash\nprintf '%s\\0' {name} "$@" >>{started}\nprintf '\\n' >>{started}\n"""
            # Who needs the token gets it by its standard input.
            + f"env | grep -F {TOKEN} >>{started} || true\n"
            + go_on.get(name, f'exec {real} "$@"') + "\n")
        (programs / name).chmod(0o755)
    for name in ("bash", "env", "grep"):
        (programs / name).symlink_to(shutil.which(name))

    def run(inputs: dict[str, str], **environment: str) -> Step:
        started.write_text("")
        assert inputs.keys() <= ACTION["inputs"].keys()
        values = {}
        for name, given in ACTION["inputs"].items():
            assert name in inputs or not given.get("required"), name
            values[f"inputs.{name}"] = inputs.get(name, given.get("default", ""))
        home, temporary = tmp_path / "home", tmp_path / "runner temp"
        files = {name: tmp_path / name.lower() for name in
                 ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE")}
        for directory in (home, temporary):
            directory.mkdir(exist_ok=True)
        for path in files.values():
            path.write_text("")
        assert ACTION["runs"]["using"] == "composite"
        step, = ACTION["runs"]["steps"]
        assert step.keys() == {"id", "shell", "run", "env"} and step["shell"] == "bash"
        assert "${{" not in step["run"], "an input would become a part of the script"
        script = tmp_path / "step.sh"
        script.write_text(step["run"])
        variables = {
            "PATH": str(programs), "HOME": str(home), "RUNNER_TEMP": str(temporary), "LANG": "C.UTF-8",
            "GITHUB_ACTION_PATH": str(checkout), "GITHUB_RUN_ID": "4711", "RUNNER_OS": "Linux", "RUNNER_ENVIRONMENT": "github-hosted",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{services.url}/identity?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN, "AWS_EC2_METADATA_DISABLED": "true",
            # A role comes before them.
            "AWS_ACCESS_KEY_ID": services.given.access_key, "AWS_SECRET_ACCESS_KEY": services.given.secret_key,
            **{name: str(path) for name, path in files.items()},
            **{name: filled(text, values) for name, text in step["env"].items()}, **environment}
        done = subprocess.run(
            [shutil.which("bash"), "--noprofile", "--norc", "-eo", "pipefail", str(script)], cwd=tmp_path, timeout=STEP_SECONDS,
            env={name: value for name, value in variables.items() if value is not None}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="strict")
        log = done.stdout.split("\n")
        records = started.read_text()
        result = Step(done.returncode, log, read_outputs(files["GITHUB_OUTPUT"].read_text()), files["GITHUB_STEP_SUMMARY"].read_text(),
                      [line.split("\0")[:-1] for line in re.split(r"(?<=\0)\n", records) if line])
        result.annotations, result.masks = read_log(log, services.secrets)
        # What holds of every run. Only masks show secrets, and the runner shows no mask.
        for secret in services.secrets:
            assert secret not in records, "in the arguments of a command, or in its environment"
            assert secret not in "".join(result.outputs.values()) + result.summary
            assert not any(secret in text for level, text in result.annotations)
        if inputs.get("token"):
            assert log[0] == f"::add-mask::{TOKEN}", "nothing is printed before it"
        for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE"):
            assert files[name].read_text() == "", "another step would get something"
        left = [path for directory in (home, temporary) for path in directory.rglob("*") if path.is_file()]
        assert left == [], "a file stays"
        outputs = {f"steps.{step['id']}.outputs.{name}": value for name, value in result.outputs.items()}
        shown = {name: filled(output["value"], {name: "" for name in re.findall(r"steps[\w.]+", output["value"])} | outputs)
                 for name, output in ACTION["outputs"].items()}
        assert {name: value for name, value in shown.items() if value} == {name: value for name, value in result.outputs.items() if value}
        return result

    return run


PUSHED = {"function": FUNCTION, "tags": TAGS, "digest": DIGEST}
WITH_A_ROLE = PUSHED | {"role": ROLE}


def test_what_was_pushed_is_copied_with_a_role_and_a_lent_token(action, services):
    services.answers = [{"outcome": "copied", "reports": [report(), report("latest", elapsed_ms=4)]}]
    step = action(WITH_A_ROLE | {"token": f"{TOKEN}\n", "destination": "prod/api"})
    assert step.status == 0, step.text
    assert services.events == [{"image": "ghcr.io/acme/api", "tags": ["1.2.3", "latest"], "digest": DIGEST,
                                "destination": "prod/api", "token": TOKEN}]
    assert step.outputs == {
        "outcome": "copied", "digest": DIGEST, "destination": f"{REGISTRY}/prod/api:1.2.3\n{REGISTRY}/prod/api:latest",
        "report": json.dumps({"outcome": "copied", "reports": [report(), report("latest", elapsed_ms=4)]}, separators=(",", ":"))}
    assert f"copied ghcr.io/acme/api:1.2.3 to {REGISTRY}/prod/api:1.2.3" in step.log
    assert step.summary.count("100 MiB") == 2 and step.summary.startswith("### ghcr-to-ecr: copied\n")
    assert step.annotations == []
    session, = services.sessions
    assert step.masks == [TOKEN, *services.identities, session.access_key, session.secret_key, session.token]
    # The invocation is silent until it ends.
    assert ["-n", "sysctl", "-q", "-w", "net.ipv4.tcp_keepalive_time=60"] in step.started("sudo")


def test_without_a_role_the_jobs_own_credentials_are_used(action, services):
    services.answers = [report(outcome="current")]
    step = action({"function": FUNCTION, "source": "ghcr.io/acme/api:1.2.3"}, ACTIONS_ID_TOKEN_REQUEST_URL=None)
    assert (step.status, step.outputs["outcome"]) == (0, "current"), step.text
    assert services.events == [{"source": "ghcr.io/acme/api:1.2.3"}]
    assert step.masks == []


@pytest.mark.parametrize(("environment", "system", "changed"), [
    ("github-hosted", "macOS", [["-n", "sysctl", "-w", "net.inet.tcp.keepidle=60000"]]),
    # A machine of one's own is left as it is.
    ("self-hosted", "Linux", []),
    ("self-hosted", "macOS", []),
])
def test_the_connection_shows_signs_of_life_where_the_machine_is_thrown_away(action, services, environment, system, changed):
    services.answers = [report()]
    step = action(PUSHED, RUNNER_ENVIRONMENT=environment, RUNNER_OS=system)
    assert (step.status, step.started("sudo")) == (0, changed)


@pytest.mark.parametrize(("inputs", "events"), [
    ({"source": "ghcr.io/acme/api:1.2.3", "destination": "prod/api\nlambda/api:stable"},
     [{"source": "ghcr.io/acme/api:1.2.3", "destination": ["prod/api", "lambda/api:stable"]}]),
    ({"source": "ghcr.io/acme/api:1.2.3", "destination": '{"to": "lambda/api", "platform": "linux/arm64"}'},
     [{"source": "ghcr.io/acme/api:1.2.3", "destination": {"to": "lambda/api", "platform": "linux/arm64"}}]),
    ({"source": "ghcr.io/acme/api:1.2.3", "destination": "{owner}/{name}", "platform": "linux/arm64"},
     [{"source": "ghcr.io/acme/api:1.2.3", "destination": "{owner}/{name}", "platform": "linux/arm64"}]),
    ({"image": "ghcr.io/Acme/API", "tags": "1.2.3,latest", "platforms": "linux/amd64, linux/arm64", "referrers": "true"},
     [{"image": "ghcr.io/acme/api", "tags": ["1.2.3", "latest"], "platforms": ["linux/amd64", "linux/arm64"], "referrers": True}]),
    ({"image": "ghcr.io/acme/api", "digest": DIGEST, "force": "true", "dry-run": "false"},
     [{"source": f"ghcr.io/acme/api@{DIGEST}", "force": True}]),
    ({"tags": "ghcr.io/acme/api:1.2.3\nghcr.io/acme/worker:1.2.3", "digest": DIGEST},
     [{"image": "ghcr.io/acme/api", "tags": ["1.2.3"], "digest": DIGEST},
      {"image": "ghcr.io/acme/worker", "tags": ["1.2.3"], "digest": DIGEST}]),
    # Nothing in an input is a command or an option of one.
    ({"source": "$(touch x)`touch y`;'\"--debug", "destination": "--debug"},
     [{"source": "$(touch x)`touch y`;'\"--debug", "destination": "--debug"}]),
])
def test_inputs_become_direct_events(action, services, inputs, events, tmp_path):
    services.answers = [report() for _ in events]
    step = action({"function": FUNCTION} | inputs)
    assert step.status == 0, step.text
    assert services.events == events
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()


def test_images_of_other_registries_are_left_out_with_a_notice(action, services):
    services.answers = [report()]
    step = action(PUSHED | {"tags": "docker.io/acme/api:1.2.3\nghcr.io/acme/api:1.2.3\nlocalhost:5000/api:1"})
    assert services.events == [{"image": "ghcr.io/acme/api", "tags": ["1.2.3"], "digest": DIGEST}]
    (level, text), = step.annotations
    assert level == "notice" and text.endswith("docker.io/acme/api:1.2.3, localhost:5000/api:1")


@pytest.mark.parametrize(("inputs", "sentence"), [
    ({}, "nothing says what to copy"),
    ({"image": "ghcr.io/acme/api"}, "nothing says what to copy"),
    ({"tags": "1.2.3"}, "set `image` too"),
    ({"tags": "ghcr.io/acme/api"}, "has no tag"),
    ({"tags": "docker.io/acme/api:1"}, "none of `tags` is an image of ghcr.io: docker.io/acme/api:1"),
    ({"tags": "ghcr.io/acme/api:1", "image": "ghcr.io/acme/other"}, "none of `tags` is an image of ghcr.io/acme/other"),
    ({"source": "ghcr.io/acme/api:1", "tags": "1"}, "leave `image`, `tags` and `digest` out"),
    ({"source": "ghcr.io/acme/api:1", "dry-run": "yes"}, '`dry-run` is "yes": expected true or false'),
    ({"source": "ghcr.io/acme/api:1", "attempts": "0"}, "`attempts` is '0'"),
    ({"source": "ghcr.io/acme/api:1", "function": ""}, "`function` is empty"),
])
def test_inputs_that_say_nothing_are_refused_before_anything_is_asked(action, services, inputs, sentence):
    step = action({"function": FUNCTION, "role": ROLE} | inputs)
    (level, text), = step.annotations
    assert (step.status, level) == (1, "error") and sentence in text
    assert step.outputs == {"outcome": "failed"}
    assert services.identities == [] and services.events == []


def test_a_failure_is_the_functions_own_sentence(action, services):
    sentence = "source ghcr.io/acme/api:1.2.3: fetch manifest: 403 DENIED: 100% of it; give the token read:packages\nsecond line"
    services.answers = [Failed("Denied", sentence)]
    step = action(PUSHED | {"token": TOKEN})
    assert step.status == 1
    assert step.annotations == [("error", sentence.replace("\n", " "))]
    assert step.outputs["outcome"] == "failed"
    assert json.loads(step.outputs["report"]) == {
        "outcome": "failed", "source": "ghcr.io/acme/api:1.2.3, latest", "error_kind": "Denied", "error": sentence}
    assert step.started("sleep") == []


def test_a_sentence_longer_than_an_argument_or_a_variable_may_be_is_told_all_the_same(action, services):
    sentence = "no such repository; " * 10000
    services.answers = [Failed("NotFound", sentence)]
    step = action(PUSHED)
    assert (step.status, step.outputs["outcome"]) == (1, "failed"), step.text
    assert json.loads(step.outputs["report"])["error"] == sentence


def test_a_source_of_an_owner_with_capitals_is_found_and_its_tag_stays(action, services):
    services.answers = [report()]
    assert action({"function": FUNCTION, "source": "ghcr.io/Acme/API:1.2.3-RC1"}).status == 0
    assert services.events == [{"source": "ghcr.io/acme/api:1.2.3-RC1"}]


def test_one_image_that_fails_does_not_keep_the_others(action, services):
    services.answers = [Failed("NotFound", "there is no such repository"), report()]
    step = action(PUSHED | {"tags": "ghcr.io/acme/api:1\nghcr.io/acme/worker:1"})
    assert (step.status, step.outputs["outcome"], step.outputs["digest"]) == (1, "failed", DIGEST)
    assert [outcome["outcome"] for outcome in json.loads(step.outputs["report"])["reports"]] == ["failed", "copied"]


def test_a_copy_that_its_time_did_not_suffice_for_is_resumed_at_once_with_fresh_credentials(action, services):
    services.answers = [TIME_IS_UP, TIME_IS_UP, report()]
    step = action(WITH_A_ROLE | {"token": TOKEN})
    assert (step.status, step.outputs["outcome"]) == (0, "copied")
    assert [event["token"] for event in services.events] == [TOKEN] * 3
    assert len(services.sessions) == len(services.identities) == 3
    assert step.started("sleep") == []


def test_what_does_not_end_is_deferred(action, services):
    services.answers = [TIME_IS_UP] * 3
    step = action(PUSHED | {"attempts": "3"})
    assert (step.status, step.outputs["outcome"]) == (1, "deferred")
    assert step.annotations == [("error", TIME_IS_UP.sentence)]


def test_what_may_pass_is_tried_again_after_growing_pauses(action, services):
    services.answers = [BUSY, LOST, Refused(500, "ServiceException", "Internal."), Failed("Transient", "GHCR does not answer")] + \
        [BUSY] * 3 + [report()]
    step = action(PUSHED)
    assert (step.status, step.outputs["outcome"]) == (0, "copied"), step.text
    assert step.started("sleep") == [["5"], ["10"], ["20"], ["40"], ["60"], ["60"], ["60"]]


def test_what_does_not_pass_ends_with_lambdas_words(action, services):
    services.answers = [BUSY] * 2
    step = action(PUSHED | {"attempts": "2"})
    (level, text), = step.annotations
    assert step.status == 1 and "(TooManyRequestsException)" in text and FUNCTION in text
    assert json.loads(step.outputs["report"])["error_kind"] == "Transient"


@pytest.mark.parametrize(("kind", "named"), [("AccessDeniedException", "Denied"), ("ResourceNotFoundException", "NotFound")])
def test_a_refused_invocation_is_not_repeated(action, services, kind, named):
    services.answers = [Refused(403 if named == "Denied" else 404, kind, f"not for {ROLE}")]
    step = action(PUSHED)
    assert step.status == 1 and len(services.events) == 1
    assert json.loads(step.outputs["report"])["error_kind"] == named
    assert FUNCTION in step.annotations[0][1]


@pytest.mark.parametrize("reply", ["null", '{"statusCode": 200}', "no JSON"])
def test_a_reply_of_another_function_is_no_success(action, services, reply):
    services.answers = [reply]
    step = action(PUSHED)
    assert step.status == 1 and "is it the copy function" in step.annotations[0][1]


@pytest.mark.parametrize("answer", [Failed("Sandbox.Timedout", "Task timed out after 900.00 seconds"),
                                    Failed("Runtime.ExitError", "RequestId: 1 Error: Runtime exited")])
def test_a_function_that_lambda_ended_is_a_failure(action, services, answer):
    services.answers = [answer]
    step = action(PUSHED)
    assert (step.status, step.annotations) == (1, [("error", answer.sentence)])


def test_a_role_that_does_not_trust_the_workflow_says_whom_it_has_to_trust(action, services):
    services.trusted = "repo:acme/api:ref:refs/heads/main"
    step = action(WITH_A_ROLE)
    (level, text), = step.annotations
    assert step.status == 1 and ROLE in text and "AccessDenied" in text and text.endswith(f"the subject {SUBJECT}")
    assert step.outputs == {"outcome": "failed"}


def test_a_job_without_the_permission_for_identity_tokens_is_told_so(action, services):
    step = action(WITH_A_ROLE, ACTIONS_ID_TOKEN_REQUEST_URL=None, ACTIONS_ID_TOKEN_REQUEST_TOKEN=None)
    (level, text), = step.annotations
    assert step.status == 1 and "add `id-token: write` to the permissions of the job" in text


def test_that_github_gives_no_identity_token_is_said(action, services):
    services.gives_identities = False
    step = action(WITH_A_ROLE)
    (level, text), = step.annotations
    assert step.status == 1 and text.startswith("GitHub gave no identity token: ") and "403" in text
    assert services.events == []


def test_an_image_that_is_ignored_is_a_failure_as_it_was_asked_for_by_name(action, services):
    services.answers = [report(outcome="ignored", reason="ECR has archived it")]
    step = action(PUSHED)
    assert (step.status, step.outputs["outcome"]) == (1, "ignored")
    assert step.annotations == [("error", "ghcr.io/acme/api:1.2.3 was ignored: ECR has archived it")]
    services.answers = [{"outcome": "copied", "reports": [report(), report("latest", outcome="ignored", reason="archived")]}]
    step = action(PUSHED)
    assert (step.status, step.annotations) == (0, [("warning", "ghcr.io/acme/api:latest was ignored: archived")])


def test_digests_that_differ_stand_in_the_order_of_the_destinations(action, services):
    services.answers = [{"outcome": "copied", "reports": [
        report(), report(destination=f"{REGISTRY}/lambda/api:1.2.3", digest=OTHER_DIGEST, warnings=["the index is not copied"])]}]
    step = action(PUSHED | {"destination": "prod/api\nlambda/api"})
    assert step.outputs["digest"].split("\n") == [DIGEST, OTHER_DIGEST]
    assert step.outputs["destination"].split("\n") == [f"{REGISTRY}/prod/api:1.2.3", f"{REGISTRY}/lambda/api:1.2.3"]
    assert step.annotations == [("warning", "the index is not copied")]


def test_a_plan_is_shown(action, services):
    services.answers = [report(outcome="planned", plan=["push blob sha256:1 (5 bytes)"])]
    step = action(PUSHED | {"dry-run": "true"})
    assert services.events[0]["dry_run"] is True
    assert (step.status, step.outputs["outcome"]) == (0, "planned") and "  push blob sha256:1 (5 bytes)" in step.log


HOSTILE = ["::add-mask::a", "x\n::set-output name=digest::evil", "x\r\n  ::error::evil", "##[add-mask]a", "%0A::error::evil",
           "::stop-commands::x", "\x1b[2J\x9b2J\u202e", "| a | <script>alert(1)</script> ![x](https://evil.example/x) [y](z) `c` **b** @acme #1 &lt;",
           "EOF", "outcome<<x\nfailed\nx", "$(touch x) `touch y`"]


def test_hostile_texts_stay_texts(action, services, tmp_path):
    plain = [re.sub(r"[\x00-\x1f\x7f-\x9f\u202e]", " ", text) for text in HOSTILE]
    services.answers = [{"outcome": "copied", "reports": [
        report(source=text, destination=text, warnings=[text], plan=[text]) for text in HOSTILE]}]
    step = action(PUSHED)
    assert (step.status, step.annotations, step.masks) == (0, [("warning", text) for text in plain], [])
    assert step.outputs["destination"].split("\n") == plain
    assert [told["warnings"] for told in json.loads(step.outputs["report"])["reports"]] == [[text] for text in HOSTILE]
    shown = re.sub(r"&#\d+;|</?code>", "", step.summary.split("| ---: |\n")[1])
    assert set(shown) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,./-|\n")
    assert not {int(number) for number in re.findall(r"&#(\d+);", step.summary)} & {*range(32), *range(127, 160), 0x202e}
    # Six columns, whatever stands in them.
    assert [row.count("|") for row in shown.split("\n")[:len(HOSTILE)]] == [7] * len(HOSTILE)

    services.answers = [Failed("Invalid", "\n".join(HOSTILE)), Failed("Transient", "\n".join(HOSTILE)), Failed("\n::error::x", "x")]
    step = action(PUSHED)
    assert (step.status, step.annotations, step.masks) == (1, [("error", " ".join(plain))], [])
    step = action(PUSHED)
    assert (step.status, len(step.annotations), step.masks) == (1, 1, [])
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()


def test_every_input_reaches_the_step_and_every_output_is_written():
    step, = ACTION["runs"]["steps"]
    assert step["env"] == {f"INPUT_{name.replace('-', '_').upper()}": f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"]}
    assert {output["value"] for output in ACTION["outputs"].values()} == {
        f"${{{{ steps.copy.outputs.{name} }}}}" for name in ACTION["outputs"]}
    assert all(isinstance(given.get("default", ""), str) for given in ACTION["inputs"].values())


def test_the_page_for_workflows_has_every_input_and_output_and_its_example_uses_what_there_is():
    page = (CHECKOUT / "docs/from-a-workflow.md").read_text()
    rows = re.findall(r"(?m)^\| (`[^|]+) \|", page)
    assert sorted(name for row in rows for name in re.findall("`([a-z-]+)`", row)) == sorted([*ACTION["inputs"], *ACTION["outputs"]])
    example = yaml.safe_load(re.search(r"(?s)```yaml\n(.+?)```", page)[1])
    job, = example["jobs"].values()
    step, = [step for step in job["steps"] if "ghcr-to-ecr@" in step.get("uses", "")]
    assert step["with"].keys() <= ACTION["inputs"].keys()
    assert {name for name, given in ACTION["inputs"].items() if given.get("required")} <= step["with"].keys()
    assert job["permissions"] == {"contents": "read", "packages": "write", "id-token": "write"}
    used = set(re.findall(rf"steps\.{step['id']}\.outputs\.(\w+)", str(job)))
    assert used and used <= ACTION["outputs"].keys()


def test_the_built_function_copies_with_the_lent_token_and_has_none_of_its_own(
        action, services, function, destination, address, cache, tmp_path):
    """GHCR ignores the user's name; this registry does not, and the function says `token`."""
    with registry(address, tmp_path / "lent", "token", TOKEN) as source:
        source.copy(f"oci:{cache / 'layout'}:debian", "acme/lent:1.2.3")

        def invoked(event: dict) -> object:
            reply = function(event, SOURCE_REGISTRY=f"http://{source.host}", GHCR_TOKEN_SECRET_ID="")
            return Failed(reply["errorType"], reply["errorMessage"]) if "errorType" in reply else reply

        inputs = {"function": FUNCTION, "role": ROLE, "tags": "ghcr.io/acme/lent:1.2.3", "destination": "lent/debian"}
        services.answers = [invoked] * 2
        step = action(inputs | {"token": TOKEN})
        assert (step.status, step.outputs["outcome"]) == (0, "copied"), step.text
        assert step.outputs["destination"] == f"{destination.host}/lent/debian:1.2.3"
        assert destination.raw("lent/debian:1.2.3") == source.raw("acme/lent:1.2.3")
        # What was lent is gone with the invocation.
        step = action(inputs)
        assert (step.status, json.loads(step.outputs["report"])["error_kind"]) == (1, "Denied"), step.text
