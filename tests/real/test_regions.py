"""One read of the source for registries in three Regions and two accounts, under the host names that ECR gives them: with
TLS, through a proxy that knows where they are. skopeo is the judge."""

import base64
import dataclasses
import json
import socket
import threading
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
import yaml

from conftest import Function, Registry, registry, run

HOSTS = [
    "123456789012.dkr.ecr.eu-west-3.amazonaws.com",
    "123456789012.dkr.ecr.us-east-1.amazonaws.com",
    "210987654321.dkr.ecr.eu-central-1.amazonaws.com",
]


def relay(reader: socket.socket, writer: socket.socket) -> None:
    """Passes bytes on in one direction until it ends."""
    with suppress(OSError):
        while received := reader.recv(1 << 16):
            writer.sendall(received)
    with suppress(OSError):
        writer.shutdown(socket.SHUT_WR)


class Tunnel(BaseHTTPRequestHandler):
    """Takes `CONNECT` to the registries that run, and to nothing else."""

    rbufsize = 0

    def do_CONNECT(self):
        try:
            host, port = self.server.routes[self.path].split(":")
            upstream = socket.create_connection((host, int(port)))
        except (KeyError, OSError):
            self.send_error(502)
            return
        with upstream:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=relay, args=(upstream, self.connection), daemon=True)
            back.start()
            relay(self.connection, upstream)
            back.join()

    def log_message(self, *_):
        """Nothing on the terminal of the tests."""


class Regions:
    """A registry for each of the hosts. Each takes what `GetAuthorizationToken` gives in its Region."""

    def __init__(self, address: str, directory: Path, certificate: Path, routes: dict[str, str]):
        self.address, self.directory, self.routes = address, directory, routes
        self.tls = {"REGISTRY_HTTP_TLS_CERTIFICATE": str(certificate),
                    "REGISTRY_HTTP_TLS_KEY": str(certificate.with_suffix(".key"))}
        self.running: dict[str, tuple[Registry, ExitStack]] = {}

    def start(self, host: str) -> None:
        region = host.split(".")[3]
        token = boto3.client("ecr", region_name=region).get_authorization_token()["authorizationData"][0]
        user, password = base64.b64decode(token["authorizationToken"]).decode().split(":", 1)
        stack = ExitStack()
        started = stack.enter_context(registry(self.address, self.directory / host, user, password, **self.tls))
        self.running[host] = started, stack
        self.routes[f"{host}:443"] = started.host

    def stop(self, host: str) -> None:
        del self.routes[f"{host}:443"]
        self.running.pop(host)[1].close()

    def __getitem__(self, host: str) -> Registry:
        return self.running[host][0]


def certify(directory: Path) -> Path:
    """A certificate for all hosts, with its key, and beside it `authority.pem`, whom to trust for it."""
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    authority = ["-out", directory / "authority.pem", "-keyout", directory / "authority.key"]
    run(*new, *authority, "-subj", "/CN=authority of the tests", "-addext", "keyUsage=keyCertSign")
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    run(*new, "-out", directory / "registries.pem", "-keyout", directory / "registries.key",
        "-CA", directory / "authority.pem", "-CAkey", directory / "authority.key", "-subj", "/CN=registries",
        "-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE")
    return directory / "registries.pem"


@pytest.fixture
def proxy(address):
    with ThreadingHTTPServer((address, 0), Tunnel) as proxy:
        proxy.routes = {}
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@pytest.fixture
def certificate(tmp_path) -> Path:
    return certify(tmp_path)


@pytest.fixture
def regions(address, aws, tmp_path, certificate, proxy):
    regions = Regions(address, tmp_path, certificate, proxy.routes)
    with ExitStack() as stack:
        stack.callback(lambda: [regions.stop(host) for host in list(regions.running)])
        for host in HOSTS:
            regions.start(host)
        yield regions


@pytest.fixture
def mirror(function, built, address, certificate, proxy) -> Function:
    """The function, which trusts the registries' certificate alone, with a rule for all of them."""
    template = yaml.safe_load(function.template.read_text())
    # What a container sees of this machine is the code.
    code = built / template["Resources"]["CopyFunction"]["Properties"]["CodeUri"]
    trusted = code / "authority.pem"
    trusted.write_bytes(certificate.with_name("authority.pem").read_bytes())
    network = {"HTTPS_PROXY": f"http://{address}:{proxy.server_port}", "SSL_CERT_FILE": f"/var/task/{trusted.name}"}
    # Declared here, and set below: this machine's own variables of these names would beat the template's.
    template["Globals"]["Function"]["Environment"]["Variables"] |= network
    regional = built / "regions.yaml"
    regional.write_text(yaml.safe_dump(template))
    rules = [{"source": "acme/debian", "destination": [f"{host}/mirror/debian" for host in HOSTS]}]
    settings = function.settings | network | {"RULES": json.dumps(rules)}
    yield dataclasses.replace(function, template=regional, settings=settings)
    trusted.unlink()
    regional.unlink()


def blobs(source: Registry, image: str) -> dict[str, int]:
    """Every blob that an image or the entries of an index are made of, with its size."""
    manifest = json.loads(source.raw(image))
    repository = image.split(":")[0]
    entries = [f"{repository}@{entry['digest']}" for entry in manifest.get("manifests", [])]
    found = [manifest["config"], *manifest["layers"]] if "layers" in manifest else []
    sizes = {blob["digest"]: blob["size"] for blob in found}
    for entry in entries:
        sizes |= blobs(source, entry)
    return sizes


def outcomes(reply: dict) -> list[tuple[str, str]]:
    return [(report["destination"].split("/")[0], report["outcome"]) for report in reply["reports"]]


def test_three_regions_are_fed_by_one_read(mirror, source, regions):
    image = "acme/debian:bookworm"
    expected = blobs(source, image)
    before = len(source.reads())

    reply = mirror({"source": f"ghcr.io/{image}"})

    assert outcomes(reply) == [(host, "copied") for host in HOSTS], reply
    read = source.reads()[before:]
    assert dict(read) == expected and len(read) == len(expected), "each blob is read whole, and once"
    for host in HOSTS:
        assert regions[host].raw("mirror/debian:bookworm") == source.raw(image)
        assert {report["bytes"]["copied"] for report in reply["reports"]} == {sum(expected.values())}

    again = mirror({"source": f"ghcr.io/{image}"})
    assert again["outcome"] == "current", again
    assert [report["requests"] for report in again["reports"]] == [{"source": 1, "destination": 1}] * 3


def test_a_region_that_is_down_fails_alone_and_gets_the_image_later(mirror, source, regions, tmp_path):
    image, arrived = "acme/debian:bookworm", "mirror/debian:bookworm"
    *up, down = HOSTS
    regions.stop(down)

    error = mirror({"source": f"ghcr.io/{image}"})

    assert error["errorType"] == "Transient", error
    assert down in error["errorMessage"] and not any(host in error["errorMessage"] for host in up)
    for host in up:
        regions[host].pull(arrived, tmp_path / f"{host}.layout")
        assert regions[host].raw(arrived) == source.raw(image)

    regions.start(down)
    assert not regions[down].has(arrived)
    before = len(source.reads())
    reply = mirror({"source": f"ghcr.io/{image}"})
    assert outcomes(reply) == [(host, "current") for host in up] + [(down, "copied")], reply
    assert regions[down].raw(arrived) == source.raw(image)
    assert dict(source.reads()[before:]) == blobs(source, image), "read for the one that lacked it"
