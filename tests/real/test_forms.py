"""Forms, tags and repositories as rules ask for them, between two real registries and AWS's APIs; skopeo and boto3 are
the judges."""

import hashlib
import json

import boto3

from conftest import run


def digest(manifest: str) -> str:
    return "sha256:" + hashlib.sha256(manifest.encode()).hexdigest()


def rules(destination, **fields) -> str:
    return json.dumps([{"source": "acme/debian", "destination": destination, **fields}])


def test_one_read_gives_every_form_and_the_next_run_knows_them_all(function, source, destination):
    settings = {"RULES": rules([
        "forms/whole",
        {"to": "forms/one", "platform": "linux/arm64"},
        {"to": "forms/some", "platforms": ["linux/amd64"]},
        "forms/whole:{tag}-{digest8}",
    ])}
    event = {"source": "ghcr.io/acme/debian:bookworm"}
    reply = function(event, **settings)

    original = source.raw("acme/debian:bookworm")
    entries = json.loads(original)["manifests"]
    of = {entry["platform"]["architecture"]: entry["digest"] for entry in entries}
    assert reply["outcome"] == "copied", reply
    assert destination.raw("forms/whole:bookworm") == original
    assert destination.raw(f"forms/whole:bookworm-{digest(original)[7:15]}") == original
    assert digest(destination.raw("forms/one:bookworm")) == of["arm64"]
    some = json.loads(destination.raw("forms/some:bookworm"))
    attestation, = [entry["digest"] for entry in entries if of["amd64"] in str(entry.get("annotations"))]
    assert [entry["digest"] for entry in some["manifests"]] == [of["amd64"], attestation]
    assert [report["digest"] for report in reply["reports"]] == [
        digest(original), of["arm64"], digest(destination.raw("forms/some:bookworm")), digest(original)]

    again = function(event, **settings)
    assert again["outcome"] == "current", again
    assert [report["requests"] for report in again["reports"]] == [{"source": 1, "destination": 1}] * 4


def test_a_client_runs_what_was_rewritten(function, destination, tmp_path):
    function({"source": "ghcr.io/acme/debian:bookworm", "destination": {"to": "forms/pulled", "platforms": ["linux/arm64"]}})

    destination.pull("forms/pulled:bookworm", tmp_path / "layout")
    inspected = run("skopeo", "inspect", "--override-arch", "arm64", "--tls-verify=false",
                    "--creds", f"{destination.user}:{destination.password}",
                    f"docker://{destination.host}/forms/pulled:bookworm")
    assert json.loads(inspected)["Architecture"] == "arm64"


def test_a_platform_that_there_is_not_is_named_with_those_that_there_are(function):
    error = function({"source": "ghcr.io/acme/debian:bookworm",
                      "destination": {"to": "forms/none", "platform": "linux/s390x"}})

    assert error["errorType"] == "Invalid", error
    assert "only for linux/amd64, linux/arm64" in error["errorMessage"]


def test_a_repository_is_created_as_its_rule_says(function, destination):
    settings = {"RULES": rules("created/debian", repository={
        "create": True, "scan_on_push": True, "tag_mutability": "IMMUTABLE", "lifecycle_keep": 10,
        "resource_tags": {"team": "platform"}})}
    reply = function({"source": "ghcr.io/acme/debian:single"}, **settings)

    assert reply["outcome"] == "copied", reply
    assert "created" in reply["repository"]
    ecr = boto3.client("ecr")
    repository, = ecr.describe_repositories(repositoryNames=["created/debian"])["repositories"]
    assert repository["imageTagMutability"] == "IMMUTABLE"
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    policy = ecr.get_lifecycle_policy(repositoryName="created/debian")["lifecyclePolicyText"]
    assert 10 in [rule["selection"]["countNumber"] for rule in json.loads(policy)["rules"]]
    tags = ecr.list_tags_for_resource(resourceArn=repository["repositoryArn"])["tags"]
    assert {"Key": "team", "Value": "platform"} in tags
    assert destination.has("created/debian:single")


def test_an_immutable_tag_is_known_before_a_byte_moves(function, source, destination):
    boto3.client("ecr").create_repository(repositoryName="locked/debian", imageTagMutability="IMMUTABLE")
    assert function({"source": "ghcr.io/acme/debian:single", "destination": "locked/debian:1"})["outcome"] == "copied"
    before = destination.raw("locked/debian:1")

    error = function({"source": "ghcr.io/acme/debian:bookworm", "destination": "locked/debian:1"})

    assert error["errorType"] == "Immutable", error
    assert destination.raw("locked/debian:1") == before
    entry = json.loads(source.raw("acme/debian:bookworm"))["manifests"][1]["digest"]
    assert not destination.has(f"locked/debian@{entry}"), "nothing of the other image was sent"
