"""The servers around the function, started once, and the function itself in a container.

Everything listens on the address that the machine has on Docker's bridge, where a container reaches it and nobody
outside the machine does; ports are whatever is free.
"""

import base64
import ipaddress
import itertools
import json
import os
import re
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
import yaml

import images
from triggers import WEBHOOK_SECRET, messages_of_sqs

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = CHECKOUT / ".tools"
# Taken instead of the base image of the `provided` runtimes.
LAMBDA_IMAGE = "ghcr-to-ecr/lambda:provided-x86_64"
REGION = "eu-west-3"
START_SECONDS = 30
# SAM waits for ever where a container dies before it answers.
INVOCATION_SECONDS = 120
# The root file system that stands in for Lambda's is amd64; the template's own default is arm64.
PARAMETERS = ["--parameter-overrides", "Architecture=x86_64"]

GHCR_USER = "acme-bot"
GHCR_TOKEN = "ghp_realtestrealtestrealtestrealtestreal"
WRONG_TOKEN = "ghp_wrongtestwrongtestwrongtestwrongtest"
# Pushed together, so that a webhook may name either.
TAGS_OF_ONE_PUSH = ["bookworm", "stable"]
RULES = [{"source": "acme/*", "destination": "mirror/{name}"}]

os.environ |= {
    "PATH": f"{TOOLS / 'venv/bin'}:{os.environ['PATH']}",
    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true", "SAM_CLI_TELEMETRY": "0",
}


def run(*command: object, **options) -> str:
    """A command's standard output; where it fails, the test does, with what the command wrote."""
    done = subprocess.run([str(word) for word in command], text=True, capture_output=True, cwd=CHECKOUT,
                          stdin=subprocess.DEVNULL, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def address() -> str:
    """The machine's own address on Docker's default bridge."""
    network = json.loads(run("docker", "network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]
    # Some engines name the gateway only where it was chosen; it is the subnet's first address otherwise.
    return network.get("Gateway") or str(ipaddress.ip_network(network["Subnet"])[1])


@contextmanager
def server(address: str, command: list, log: Path, **environment: str):
    """Runs `command`, in which PORT is a free port, until the block ends; gives `host:port` once it answers."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    host = f"{address}:{port}"
    fill = {name: value.replace("HOST", host) for name, value in environment.items()}
    with log.open("w") as output:
        process = subprocess.Popen([str(word).replace("PORT", str(port)) for word in command],
                                   stdout=output, stderr=output, env=os.environ | fill)
        try:
            end = time.monotonic() + START_SECONDS
            while True:
                try:
                    socket.create_connection((address, port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < end, log.read_text()
                    time.sleep(0.05)
            yield host
        finally:
            process.terminate()
            process.wait()


@dataclass(frozen=True)
class Registry:
    """A CNCF distribution registry, and skopeo's view of it."""

    host: str
    user: str
    password: str
    log: Path

    def copy(self, source: str, image: str) -> None:
        """Puts an image there, byte for byte."""
        run("skopeo", "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false",
            "--dest-creds", f"{self.user}:{self.password}", source, f"docker://{self.host}/{image}")

    def pull(self, image: str, layout: Path) -> None:
        """Takes an image and all that it refers to from there, byte for byte."""
        run("skopeo", "copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false",
            "--src-creds", f"{self.user}:{self.password}", f"docker://{self.host}/{image}", f"oci:{layout}:copy")

    def has(self, image: str) -> bool:
        """Whether there is such an image."""
        inspect = ["skopeo", "inspect", "--raw", "--tls-verify=false", "--creds", f"{self.user}:{self.password}",
                   f"docker://{self.host}/{image}"]
        return subprocess.run(inspect, capture_output=True).returncode == 0

    def raw(self, image: str) -> str:
        """The manifest's own bytes."""
        return run("skopeo", "inspect", "--raw", "--tls-verify=false", "--creds", f"{self.user}:{self.password}",
                   f"docker://{self.host}/{image}")

    def reads(self) -> list[tuple[str, int]]:
        """The blobs that were read so far, each with the bytes that were sent, in their order."""
        line = re.compile(r'"GET /v2/\S+/blobs/(sha256:\w+) HTTP/1.1" 20\d (\d+)')
        return [(digest, int(count)) for digest, count in line.findall(self.log.read_text())]


@contextmanager
def registry(address: str, directory: Path, user: str, password: str, **environment: str):
    """What it holds stays in `directory`, for one that is started there later."""
    directory.mkdir(exist_ok=True)
    passwords = directory / "htpasswd"
    # Four is bcrypt's least cost: every request pays it.
    passwords.write_text(run("htpasswd", "-nbB", "-C", "4", user, password))
    with server(address, ["docker-registry", "serve", Path(__file__).with_name("registry.yml")], directory / "log",
                REGISTRY_HTTP_ADDR="HOST", REGISTRY_AUTH_HTPASSWD_PATH=str(passwords),
                REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=str(directory), **environment) as host:
        yield Registry(host, user, password, directory / "log")


@pytest.fixture(scope="session")
def cache() -> Path:
    """The images, and in `layout` all of those in OCI's formats."""
    images.build(TOOLS / "images")
    return TOOLS / "images"


@pytest.fixture(scope="session")
def source(address, cache, tmp_path_factory):
    """In GHCR's place: the images as `acme/debian`, for the holder of the token only."""
    with registry(address, tmp_path_factory.mktemp("source") / "registry", GHCR_USER, GHCR_TOKEN) as source:
        for tag in TAGS_OF_ONE_PUSH:
            source.copy(f"oci:{cache / 'layout'}:debian", f"acme/debian:{tag}")
        source.copy(f"oci:{cache / 'layout'}:debian-amd64", "acme/debian:single")
        source.copy(f"dir:{cache / 'docker-list'}", "acme/debian:docker")
        yield source


@pytest.fixture(scope="session")
def aws(address, tmp_path_factory):
    """Secrets Manager, SQS, STS and the ECR API, as moto has them; gives their URL. boto3 and SAM, which asks for the
    account's number in each invocation, go there too."""
    log = tmp_path_factory.mktemp("aws") / "log"
    with server(address, ["moto_server", "--host", address, "--port", "PORT"], log) as host, \
            pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}")
        yield f"http://{host}"


@pytest.fixture(scope="session")
def destination(address, aws, tmp_path_factory):
    """In ECR's place: takes what `GetAuthorizationToken` gives, and nothing else."""
    token = boto3.client("ecr").get_authorization_token()["authorizationData"][0]
    user, password = base64.b64decode(token["authorizationToken"]).decode().split(":", 1)
    assert user == "AWS"
    with registry(address, tmp_path_factory.mktemp("destination") / "registry", user, password) as destination:
        yield destination


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "built: needs the functions as SAM builds them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs the built functions, so that run.sh can run the others meanwhile."""
    for item in items:
        if "built" in getattr(item, "fixturenames", ()):
            item.add_marker("built")


@pytest.fixture(scope="session")
def built() -> Path:
    """The directory where `sam build` leaves the function and its template."""
    directory = TOOLS / "sam"
    run("make", "local-build")
    return directory


@pytest.fixture(scope="session")
def lambda_image(cache) -> str:
    """Imports the image, and lets SAM add its runtime emulator to the new one."""
    for stale in run("docker", "image", "ls", "--quiet", LAMBDA_IMAGE.split(":")[0]).split():
        subprocess.run(["docker", "image", "rm", "--force", stale], capture_output=True)
    run("docker", "import", cache / "lambda.tar", LAMBDA_IMAGE)
    return LAMBDA_IMAGE


@pytest.fixture(scope="session")
def github(address, cache):
    """GitHub's list of packages and versions, for the holder of the token only; gives its URL."""
    digest = images.descriptor(cache / "layout", "debian")["digest"]
    answers = {
        "/orgs/acme/packages": [{"name": "debian", "package_type": "container"}],
        "/orgs/acme/packages/container/debian/versions": [
            {"name": digest, "metadata": {"package_type": "container", "container": {"tags": TAGS_OF_ONE_PUSH}}}],
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.get(self.path.split("?")[0])
            status = 200 if answer is not None else 404
            if self.headers["Authorization"] != f"Bearer {GHCR_TOKEN}":
                status, answer = 401, {"message": "Bad credentials"}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer or {"message": "Not Found"}).encode())

        def log_message(self, *_):
            """Nothing on the terminal of the tests."""

    with ThreadingHTTPServer((address, 0), Handler) as github:
        threading.Thread(target=github.serve_forever, daemon=True).start()
        yield f"http://{address}:{github.server_port}"
        github.shutdown()


@dataclass(frozen=True)
class Function:
    """The two functions of the template, each invocation in a new container."""

    template: Path
    image: str
    settings: dict[str, str]
    directory: Path
    numbers: itertools.count

    def __call__(self, event: dict, name: str = "CopyFunction", **environment: str) -> dict:
        """Event in, reply out. Keyword arguments set the function's environment, as far as the template declares it."""
        path = self.directory / f"event-{next(self.numbers)}.json"
        path.write_text(json.dumps(event))
        return json.loads(run("sam", "local", "invoke", name, "--event", path, *self.options(**environment),
                              timeout=INVOCATION_SECONDS))

    def options(self, **environment: str) -> list:
        """What every `sam local` command needs."""
        path = self.directory / f"environment-{next(self.numbers)}.json"
        path.write_text(json.dumps({"Parameters": self.settings | environment}))
        return ["--template", self.template, *PARAMETERS, "--env-vars", path, "--invoke-image", self.image,
                "--skip-pull-image", "--region", REGION]


@pytest.fixture(scope="session")
def function(built, lambda_image, aws, source, destination, github, tmp_path_factory) -> Function:
    """The functions, at first without a queue."""
    secrets = boto3.client("secretsmanager")
    secrets.create_secret(Name="ghcr", SecretString=json.dumps({"username": GHCR_USER, "token": GHCR_TOKEN}))
    secrets.create_secret(Name="ghcr-wrong", SecretString=json.dumps({"username": GHCR_USER, "token": WRONG_TOKEN}))
    secrets.create_secret(Name="webhook", SecretString=WEBHOOK_SECRET)

    # SAM hands over only what a template declares, and no deployment declares another AWS.
    template = yaml.safe_load((built / "template.yaml").read_text())
    template["Globals"]["Function"]["Environment"]["Variables"] |= {"AWS_ENDPOINT_URL": aws, "EVENT_BUS": ""}
    local = built / "local.yaml"
    local.write_text(yaml.safe_dump(template))

    return Function(local, lambda_image, {
        "RULES": json.dumps(RULES), "GHCR_TOKEN_SECRET_ID": "ghcr", "WEBHOOK_SECRET_ID": "webhook",
        "JOB_QUEUE_URL": "", "DEAD_LETTER_QUEUE_URL": "", "SOURCE_REGISTRY": f"http://{source.host}",
        "DESTINATION_REGISTRY": f"http://{destination.host}", "GITHUB_API_URL": github, "EVENT_BUS": "",
    }, tmp_path_factory.mktemp("invocations"), itertools.count(1))


class Queues:
    """A job queue and its dead-letter queue as the template makes them, and in the place of Lambda, who empties it."""

    def __init__(self, name: str, function: Function):
        self.sqs = boto3.client("sqs")
        self.function = function
        template = yaml.safe_load((CHECKOUT / ".tools/sam/template.yaml").read_text())["Resources"]
        given_up, jobs = (self.attributes(template[queue]["Properties"]) for queue in ("DeadLetterQueue", "JobQueue"))
        self.given_up = self.sqs.create_queue(QueueName=f"{name}-given-up.fifo", Attributes=given_up)["QueueUrl"]
        target = self.sqs.get_queue_attributes(QueueUrl=self.given_up, AttributeNames=["QueueArn"])
        policy = template["JobQueue"]["Properties"]["RedrivePolicy"]
        jobs["RedrivePolicy"] = json.dumps(policy | {"deadLetterTargetArn": target["Attributes"]["QueueArn"]})
        self.jobs = self.sqs.create_queue(QueueName=f"{name}.fifo", Attributes=jobs)["QueueUrl"]

    @staticmethod
    def attributes(properties: dict) -> dict[str, str]:
        """What the template says of a queue, in the words of SQS's API."""
        return {name: str(value).lower() if isinstance(value, bool) else str(value)
                for name, value in properties.items() if name != "RedrivePolicy"}

    @property
    def settings(self) -> dict[str, str]:
        """What tells the functions of these queues."""
        return {"JOB_QUEUE_URL": self.jobs, "DEAD_LETTER_QUEUE_URL": self.given_up}

    def send(self, body: str, group: str) -> None:
        """Somebody's message."""
        self.sqs.send_message(QueueUrl=self.jobs, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=group)

    def receive(self, url: str | None = None) -> list[dict]:
        """The messages that are there, with all that SQS knows of them."""
        received = self.sqs.receive_message(QueueUrl=url or self.jobs, MaxNumberOfMessages=10,
                                            AttributeNames=["All"], MessageAttributeNames=["All"])
        return received.get("Messages", [])

    def deliver(self, **environment: str) -> tuple[list[dict], list[str]]:
        """Brings the function what is in the queue, and deletes what it does not want again. Gives the messages, and
        the bodies of those that come back."""
        messages = self.receive()
        reply = self.function(messages_of_sqs(messages), **self.settings, **environment)
        failed = {failure["itemIdentifier"] for failure in reply["batchItemFailures"]}
        for message in messages:
            if message["MessageId"] not in failed:
                self.sqs.delete_message(QueueUrl=self.jobs, ReceiptHandle=message["ReceiptHandle"])
        return messages, [message["Body"] for message in messages if message["MessageId"] in failed]

    def count(self, url: str | None = None) -> int:
        """How many messages there are, those in work included."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = self.sqs.get_queue_attributes(QueueUrl=url or self.jobs, AttributeNames=names)["Attributes"]
        return sum(map(int, counts.values()))


@pytest.fixture
def queues(request, function) -> Queues:
    """Queues of a test's own."""
    # SQS takes 80 characters, and no brackets or dots.
    return Queues(re.sub(r"\W", "-", request.node.name)[-60:], function)


@pytest.fixture
def layout(tmp_path) -> Path:
    """Where an image is pulled to."""
    return tmp_path / "layout"
