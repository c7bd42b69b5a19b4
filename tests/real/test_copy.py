"""Direct copies by the built function in a container, between two real registries and AWS's APIs; what it copied is
judged by skopeo."""

import hashlib
import json

import pytest

import images
from conftest import WRONG_TOKEN


def digest(manifest: str) -> str:
    return "sha256:" + hashlib.sha256(manifest.encode()).hexdigest()


def copy_event(tag: str, destination: str) -> dict:
    return {"source": f"ghcr.io/acme/debian:{tag}", "destination": destination}


@pytest.mark.parametrize(("tag", "image"), [("bookworm", "debian"), ("single", "debian-amd64")])
def test_an_image_arrives_byte_for_byte_and_whole(function, source, destination, cache, layout, tag, image):
    repository = f"first/{image}"
    report = function(copy_event(tag, repository))

    expected = images.descriptor(cache / "layout", image)["digest"]
    manifests, blobs = images.content(cache / "layout", image)
    assert report.pop("elapsed_ms") > 0
    assert report.pop("requests").keys() == {"source", "destination"}
    assert report == {
        "outcome": "copied",
        "source": f"{source.host}/acme/debian:{tag}", "destination": f"{destination.host}/{repository}:{tag}",
        "digest": expected, "source_digest": expected,
        "manifests": {"pushed": manifests, "present": 0},
        "blobs": {"copied": len(blobs), "mounted": 0, "present": 0},
        "bytes": {"copied": sum(blobs.values()), "present": 0},
        "referrers": {"copied": 0, "refused": 0},
        "warnings": [],
    }
    assert destination.raw(f"{repository}:{tag}") == source.raw(f"acme/debian:{tag}")
    destination.pull(f"{repository}:{tag}", layout)
    assert images.descriptor(layout, "copy")["digest"] == expected
    assert images.content(layout, "copy") == (manifests, blobs)


def test_a_docker_manifest_list_stays_one(function, source, destination):
    report = function(copy_event("docker", "docker/debian:renamed"))

    original = source.raw("acme/debian:docker")
    assert json.loads(original)["mediaType"] == "application/vnd.docker.distribution.manifest.list.v2+json"
    assert report["outcome"] == "copied"
    assert report["digest"] == digest(original)
    assert destination.raw("docker/debian:renamed") == original


def test_a_second_invocation_finds_the_image_current(function):
    function(copy_event("single", "twice/debian"))
    report = function(copy_event("single", "twice/debian"))

    assert report["outcome"] == "current"
    assert report["blobs"]["copied"] == report["bytes"]["copied"] == report["manifests"]["pushed"] == 0
    assert report["requests"] == {"source": 1, "destination": 1}


def test_a_wrong_token_is_denied_with_what_to_do(function):
    error = function(copy_event("bookworm", "denied/debian"), GHCR_TOKEN_SECRET_ID="ghcr-wrong")

    assert error["errorType"] == "Denied", error
    assert "read:packages" in error["errorMessage"]
    assert WRONG_TOKEN not in error["errorMessage"]


def test_a_missing_image_is_not_found_by_its_name(function):
    error = function(copy_event("nowhere", "missing/debian"))

    assert error["errorType"] == "NotFound", error
    assert "acme/debian:nowhere" in error["errorMessage"]
