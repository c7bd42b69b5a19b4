"""Real images, made from Debian packages and kept in a cache directory, so that a second run is quick.

`build` makes one OCI layout, whose images are named in `index.json`:

* `debian-amd64`, `debian-arm64`: single manifests;
* `debian`: an index of both, each with an attestation as BuildKit writes them;
* `debian-plain`: the same without attestations, for conversion to Docker's formats;

then `docker-list`, the last one as a Docker manifest list (skopeo's `dir:`), and `lambda.tar`, the amd64 root file
system with what the Lambda runtime expects in it.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

ARCHITECTURES = ("amd64", "arm64")
SUITE = "bookworm"
# Times inside the images, so that the same packages give the same digests.
EPOCH = 1_767_225_600
CREATED = "2026-01-01T00:00:00Z"

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
REFERENCE_NAME = "org.opencontainers.image.ref.name"


def build(cache: Path) -> None:
    """Makes the images under `cache`, unless this very program made them before."""
    stamp = cache / "made-by"
    program = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == program:
        return
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)

    layout = cache / "layout"
    run("umoci", "init", "--layout", layout)
    for architecture in ARCHITECTURES:
        root = cache / f"{architecture}.tar"
        root_file_system(architecture, root)
        certificates = cache / "certificates.tar"
        certificate_layer(root, certificates)
        single(layout, architecture, [root, certificates])
    run("umoci", "gc", "--layout", layout)

    platforms = [descriptor(layout, f"debian-{architecture}") for architecture in ARCHITECTURES]
    for platform, architecture in zip(platforms, ARCHITECTURES):
        platform["platform"] = {"architecture": architecture, "os": "linux"}
    name(layout, "debian-plain", index(layout, platforms))
    name(layout, "debian", index(layout, platforms + [attestation(layout, platform) for platform in platforms]))

    run("skopeo", "copy", "--quiet", "--all", "--format", "v2s2",
        f"oci:{layout}:debian-plain", f"dir:{cache / 'docker-list'}")
    lambda_root(cache / "amd64.tar", cache / "certificates.tar", cache / "lambda.tar")
    stamp.write_text(program)


def run(*command: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(word) for word in command], check=True, **options)


def root_file_system(architecture: str, root: Path) -> None:
    """Debian's essential packages and certificates, unpacked and not configured: no foreign code has to run."""
    mirror = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)",
         "Created-By: Packages", f"Codename: {SUITE}", "Origin: Debian"],
        capture_output=True, text=True).stdout.split()[:1]
    become_root = [] if os.geteuid() == 0 else ["sudo", "--preserve-env=SOURCE_DATE_EPOCH"]
    with root.open("wb") as archive:
        run(*become_root, "mmdebstrap", "--quiet", "--variant=extract", f"--architectures={architecture}",
            "--include=?essential", "--include=ca-certificates", "--format=tar", SUITE, "-", *mirror,
            stdout=archive, env=os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)})


def certificate_layer(root: Path, layer: Path) -> None:
    """The certificate bundle that `update-ca-certificates` would make: the same bytes on every platform."""
    with tarfile.open(root) as archive:
        certificates = [member for member in archive if "/share/ca-certificates/" in member.name and member.isfile()]
        certificates.sort(key=lambda member: member.name)
        bundle = b"".join(archive.extractfile(member).read() for member in certificates)
    with tarfile.open(layer, "w") as archive:
        archive.addfile(*file("etc/ssl/certs/ca-certificates.crt", bundle))


def file(path: str, content: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    member = tarfile.TarInfo(path)
    member.size, member.mtime, member.mode = len(content), EPOCH, 0o644
    return member, io.BytesIO(content)


def single(layout: Path, architecture: str, layers: list[Path]) -> None:
    image = f"{layout}:debian-{architecture}"
    run("umoci", "new", "--image", image)
    for layer in layers:
        run("umoci", "raw", "add-layer", "--image", image, "--history.created", CREATED, layer)
    run("umoci", "config", "--image", image, "--os", "linux", "--architecture", architecture,
        "--created", CREATED, "--history.created", CREATED, "--config.cmd", "/bin/bash")


def attestation(layout: Path, subject: dict) -> dict:
    """What BuildKit adds to an index for each platform: an in-toto statement in a manifest of no platform."""
    statement = write(layout, "application/vnd.in-toto+json", {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": "https://slsa.dev/provenance/v0.2",
        "subject": [{"name": "debian", "digest": {"sha256": subject["digest"].removeprefix("sha256:")}}],
        "predicate": {"buildType": "https://mobyproject.org/buildkit@v1"},
    })
    config = write(layout, OCI_CONFIG, {
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [statement["digest"]]},
    })
    statement["annotations"] = {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}
    manifest = write(layout, OCI_MANIFEST, {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [statement],
    })
    manifest["annotations"] = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": subject["digest"],
    }
    manifest["platform"] = {"architecture": "unknown", "os": "unknown"}
    return manifest


def index(layout: Path, manifests: list[dict]) -> dict:
    return write(layout, OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})


def write(layout: Path, media_type: str, content: dict) -> dict:
    """Stores a JSON blob and describes it."""
    data = json.dumps(content, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def name(layout: Path, reference: str, image: dict) -> None:
    path = layout / "index.json"
    content = json.loads(path.read_text())
    content["manifests"].append(image | {"annotations": {REFERENCE_NAME: reference}})
    path.write_text(json.dumps(content))


def descriptor(layout: Path, reference: str) -> dict:
    """The descriptor of a named image, without the name."""
    for image in json.loads((layout / "index.json").read_text())["manifests"]:
        if image["annotations"][REFERENCE_NAME] == reference:
            return {key: image[key] for key in ("mediaType", "digest", "size")}
    raise KeyError(reference)


def content(layout: Path, reference: str) -> tuple[int, dict[str, int]]:
    """How many manifests an image has, and its blobs, each with its size in bytes: what a first copy must move."""
    manifests, blobs, pending = set(), {}, [descriptor(layout, reference)]
    while pending:
        digest = pending.pop()["digest"]
        manifests.add(digest)
        manifest = json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())
        pending += manifest.get("manifests", [])
        for blob in [manifest["config"], *manifest["layers"]] if "config" in manifest else []:
            blobs[blob["digest"]] = blob["size"]
    return len(manifests), blobs


def lambda_root(root: Path, certificates: Path, target: Path) -> None:
    """A root file system that stands in for the base image of Lambda's `provided` runtimes."""
    shutil.copyfile(root, target)
    with tarfile.open(target, "a") as archive, tarfile.open(certificates) as layer:
        for member in layer:
            archive.addfile(member, layer.extractfile(member))
        for directory in ("var/task", "var/runtime"):
            member = tarfile.TarInfo(directory)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, EPOCH
            archive.addfile(member)
