"""The servers around the function, started once, and the function itself in a container.

Everything listens on the address that the machine has on Docker's bridge, where a container reaches it and nobody
outside the machine does; ports are whatever is free.
"""

import base64
import ipaddress
import json
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import yaml

import images

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = CHECKOUT / ".tools"
# Taken instead of the base image of the `provided` runtimes.
LAMBDA_IMAGE = "ghcr-to-ecr/lambda:provided"
REGION = "eu-west-3"
START_SECONDS = 30
# SAM waits for ever where a container dies before it answers.
INVOCATION_SECONDS = 120
# The root file system that stands in for Lambda's is amd64; the template's own default is arm64.
PARAMETERS = ["--parameter-overrides", "Architecture=x86_64"]

GHCR_USER = "acme-bot"
GHCR_TOKEN = "ghp_realtestrealtestrealtestrealtestreal"
WRONG_TOKEN = "ghp_wrongtestwrongtestwrongtestwrongtest"
WEBHOOK_SECRET = "It's a Secret to Everybody"
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

    def copy(self, source: str, image: str) -> None:
        """Puts an image there, byte for byte."""
        run("skopeo", "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false",
            "--dest-creds", f"{self.user}:{self.password}", source, f"docker://{self.host}/{image}")

    def pull(self, image: str, layout: Path) -> None:
        """Takes an image and all that it refers to from there, byte for byte."""
        run("skopeo", "copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false",
            "--src-creds", f"{self.user}:{self.password}", f"docker://{self.host}/{image}", f"oci:{layout}:copy")

    def raw(self, image: str) -> str:
        """The manifest's own bytes."""
        return run("skopeo", "inspect", "--raw", "--tls-verify=false", "--creds", f"{self.user}:{self.password}",
                   f"docker://{self.host}/{image}")


@contextmanager
def registry(address: str, directory: Path, user: str, password: str):
    directory.mkdir()
    passwords = directory / "htpasswd"
    # Four is bcrypt's least cost: every request pays it.
    passwords.write_text(run("htpasswd", "-nbB", "-C", "4", user, password))
    with server(address, ["docker-registry", "serve", Path(__file__).with_name("registry.yml")], directory / "log",
                REGISTRY_HTTP_ADDR="HOST", REGISTRY_AUTH_HTPASSWD_PATH=str(passwords),
                REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=str(directory)) as host:
        yield Registry(host, user, password)


@pytest.fixture(scope="session")
def cache() -> Path:
    """The images, and in `layout` all of those in OCI's formats."""
    images.build(TOOLS / "images")
    return TOOLS / "images"


@pytest.fixture(scope="session")
def source(address, cache, tmp_path_factory):
    """In GHCR's place: the images as `acme/debian`, for the holder of the token only."""
    with registry(address, tmp_path_factory.mktemp("source") / "registry", GHCR_USER, GHCR_TOKEN) as source:
        source.copy(f"oci:{cache / 'layout'}:debian", "acme/debian:bookworm")
        source.copy(f"oci:{cache / 'layout'}:debian-amd64", "acme/debian:single")
        source.copy(f"dir:{cache / 'docker-list'}", "acme/debian:docker")
        yield source


@pytest.fixture(scope="session")
def aws(address, tmp_path_factory):
    """Secrets Manager and the ECR API, as moto has them; gives their URL."""
    log = tmp_path_factory.mktemp("aws") / "log"
    with server(address, ["moto_server", "--host", address, "--port", "PORT"], log) as host:
        yield f"http://{host}"


@pytest.fixture(scope="session")
def destination(address, aws, tmp_path_factory):
    """In ECR's place: takes what `GetAuthorizationToken` gives, and nothing else."""
    token = boto3.client("ecr", endpoint_url=aws).get_authorization_token()["authorizationData"][0]
    user, password = base64.b64decode(token["authorizationToken"]).decode().split(":", 1)
    assert user == "AWS"
    with registry(address, tmp_path_factory.mktemp("destination") / "registry", user, password) as destination:
        yield destination


@pytest.fixture(scope="session")
def built() -> Path:
    """The directory where `sam build` leaves the function and its template."""
    directory = TOOLS / "sam"
    run("sam", "build", *PARAMETERS, "--build-dir", directory)
    return directory


@pytest.fixture(scope="session")
def lambda_image(cache) -> str:
    """Imports the image, and lets SAM add its runtime emulator to the new one."""
    for stale in run("docker", "image", "ls", "--quiet", LAMBDA_IMAGE.split(":")[0]).split():
        subprocess.run(["docker", "image", "rm", "--force", stale], capture_output=True)
    run("docker", "import", cache / "lambda.tar", LAMBDA_IMAGE)
    return LAMBDA_IMAGE


@pytest.fixture(scope="session")
def function(built, lambda_image, aws, source, destination, tmp_path_factory):
    """Invokes the function in a new container: event in, reply out. Keyword arguments set its environment."""
    secrets = boto3.client("secretsmanager", endpoint_url=aws)
    secrets.create_secret(Name="ghcr", SecretString=json.dumps({"username": GHCR_USER, "token": GHCR_TOKEN}))
    secrets.create_secret(Name="ghcr-wrong", SecretString=json.dumps({"username": GHCR_USER, "token": WRONG_TOKEN}))
    secrets.create_secret(Name="webhook", SecretString=WEBHOOK_SECRET)

    # SAM hands over only what a template declares, and no deployment declares another AWS.
    template = yaml.safe_load((built / "template.yaml").read_text())
    resource = template["Resources"]["CopyFunction"]["Properties"]
    resource["Environment"]["Variables"]["AWS_ENDPOINT_URL"] = aws
    local = built / "local.yaml"
    local.write_text(yaml.safe_dump(template))

    def invoke(event: dict, **environment: str) -> dict:
        directory = tmp_path_factory.mktemp("invocation")
        (directory / "event.json").write_text(json.dumps(event))
        (directory / "environment.json").write_text(json.dumps({"CopyFunction": {
            "RULES": json.dumps(RULES), "GHCR_TOKEN_SECRET_ID": "ghcr", "WEBHOOK_SECRET_ID": "webhook",
            "SOURCE_REGISTRY": f"http://{source.host}", "DESTINATION_REGISTRY": f"http://{destination.host}",
            **environment,
        }}))
        output = run("sam", "local", "invoke", "CopyFunction", "--template", local, *PARAMETERS,
                     "--event", directory / "event.json", "--env-vars", directory / "environment.json",
                     "--invoke-image", lambda_image, "--skip-pull-image", "--region", REGION, timeout=INVOCATION_SECONDS)
        return json.loads(output)

    return invoke


@pytest.fixture
def layout(tmp_path) -> Path:
    """Where an image is pulled to."""
    return tmp_path / "layout"
