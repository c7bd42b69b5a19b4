"""From a webhook or a schedule through SQS to the copy, by both functions in containers."""

import json

import boto3
import pytest

import images
from conftest import CHECKOUT, GHCR_TOKEN, run, server
from triggers import WEBHOOK_SECRET, headers, push, webhook


def rules(destination: str, source: str = "acme/*", **rule) -> str:
    return json.dumps([{"source": source, "destination": f"{destination}/{{name}}", **rule}])


def event(name: str) -> dict:
    return json.loads((CHECKOUT / "events" / name).read_text())


@pytest.fixture
def delivery(cache) -> str:
    """GitHub's webhook for `bookworm`."""
    return push("bookworm", images.descriptor(cache / "layout", "debian")["digest"])


def test_a_webhook_becomes_a_job_and_the_job_a_copy_of_all_that_was_pushed(
        function, queues, source, destination, delivery):
    settings = queues.settings | {"RULES": rules("pushed")}
    reply = function(webhook(delivery), "WebhookFunction", **settings)
    assert reply["statusCode"] == 202, reply
    assert json.loads(reply["body"])["outcome"] == "queued"
    assert queues.count() == 1

    messages, failed = queues.deliver(RULES=settings["RULES"])
    assert failed == []
    assert json.loads(messages[0]["Body"])["destination"] == "pushed/debian"
    assert GHCR_TOKEN not in str(messages) and WEBHOOK_SECRET not in str(messages)
    assert destination.raw("pushed/debian:bookworm") == source.raw("acme/debian:bookworm")

    # The webhook named one of two tags that were pushed together; the copy has learnt of the other.
    messages, failed = queues.deliver(RULES=settings["RULES"])
    assert failed == []
    assert json.loads(messages[0]["Body"])["destination"] == "pushed/debian"
    assert destination.raw("pushed/debian:stable") == source.raw("acme/debian:stable")
    assert queues.count() == queues.count(queues.given_up) == 0


def test_a_delivery_that_comes_again_finds_the_image_current(function, queues, destination, cache, delivery):
    destination.copy(f"oci:{cache / 'layout'}:debian", "again/debian:bookworm")
    settings = queues.settings | {"RULES": rules("again", tags={"include": ["bookworm"]})}
    for _ in range(2):
        reply = function(webhook(delivery), "WebhookFunction", **settings)
        assert reply["statusCode"] == 202, reply
    assert queues.count() == 2, "a delivery that is repeated is enqueued again"

    report = function(json.loads(queues.receive()[0]["Body"]), **settings)
    assert report["outcome"] == "current"
    assert queues.count() == 2, "there is no other tag that the rule admits"


def test_what_can_never_succeed_is_moved_to_the_dead_letter_queue_with_its_reason(queues):
    missing = json.dumps({"source": "ghcr.io/acme/debian:nowhere", "destination": "poison/debian:nowhere"})
    queues.send(missing, "missing")
    queues.send("not JSON", "unreadable")
    _, failed = queues.deliver()

    assert failed == [] and queues.count() == 0
    given_up = {message["Body"]: {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
                for message in queues.receive(queues.given_up)}
    assert given_up.keys() == {missing, "not JSON"}
    assert given_up[missing]["error_kind"] == "NotFound"
    assert "acme/debian:nowhere" in given_up[missing]["error"]
    assert given_up["not JSON"]["error_kind"] == "Invalid"


def test_what_fails_for_a_passing_reason_comes_back(queues, address):
    job = json.dumps({"source": "ghcr.io/acme/debian:single", "destination": "later/debian:single"})
    queues.send(job, "later")
    # Nobody listens on a port that the machine keeps for itself.
    _, failed = queues.deliver(DESTINATION_REGISTRY=f"http://{address}:1")

    assert failed == [job]
    assert queues.count() == 1 and queues.count(queues.given_up) == 0


def test_a_webhook_secret_may_be_rotated(function, queues, delivery):
    secrets = boto3.client("secretsmanager")
    secrets.create_secret(Name="rotated", SecretString="the first")
    for text in ("the second", "the third"):
        secrets.put_secret_value(SecretId="rotated", SecretString=text)

    def status(secret: str) -> int:
        settings = queues.settings | {"WEBHOOK_SECRET_ID": "rotated"}
        return function(webhook(delivery, secret), "WebhookFunction", **settings)["statusCode"]

    assert status("the third") == 202
    assert status("the second") == 202
    assert status("the first") == 401
    assert queues.count() == 2, "each of those that were signed"


def test_a_scheduled_run_finds_what_no_webhook_told(function, queues, source, destination):
    settings = {"RULES": rules("scheduled", "acme/debian", tags={"exclude": ["docker"]})}
    report = function(event("scheduler.json"), **settings, **queues.settings)
    assert report["outcome"] == "queued"
    assert sorted(job["source"].rsplit(":")[-1] for job in report["reports"]) == ["bookworm", "single", "stable"]

    messages, failed = queues.deliver(**settings)
    assert len(messages) == 3 and failed == []
    for tag in ("bookworm", "single", "stable"):
        assert destination.raw(f"scheduled/debian:{tag}") == source.raw(f"acme/debian:{tag}")

    report = function(event("schedule-rule.json"), **settings, **queues.settings)
    assert report["outcome"] == "current"
    assert queues.count() == 0


def test_a_dry_run_lists_packages_by_the_token_and_copies_nothing(function, queues, destination):
    report = function(event("reconcile-globs.json"), RULES=rules("planned"), **queues.settings)

    assert {job["outcome"] for job in report["reports"]} == {"planned"}
    assert len(report["reports"]) == 4
    assert queues.count() == 0
    assert not destination.has("planned/debian:bookworm")


@pytest.mark.parametrize(("name", "status", "outcome"), [
    ("package-published.apigw.json", 202, "queued"), ("package-published.rest-api.json", 202, "queued"),
    ("ping.apigw.json", 200, "ignored"), ("npm-package.apigw.json", 200, "ignored"),
    ("bad-signature.apigw.json", 401, "failed"),
])
def test_the_examples_of_webhooks_come_to_what_their_list_says(function, queues, name, status, outcome):
    reply = function(event(name), "WebhookFunction", **queues.settings)

    assert reply["statusCode"] == status, reply
    assert json.loads(reply["body"])["outcome"] == outcome


def test_the_example_of_a_bus_becomes_a_job(function, queues):
    report = function(event("package-published.eventbridge.json"), **queues.settings)

    assert report["outcome"] == "queued"
    assert queues.count() == 1


def test_the_api_answers_a_webhook(function, queues, address, delivery, tmp_path):
    def status(url: str, secret: str) -> int:
        fields = [word for field in headers(delivery, secret).items() for word in ("--header", ": ".join(field))]
        return int(run("curl", "--silent", "--output", tmp_path / "reply", "--write-out", "%{http_code}",
                       "--noproxy", "*", *fields, "--data-binary", delivery, f"{url}/webhook"))

    command = ["sam", "local", "start-api", "--host", address, "--port", "PORT", *function.options(**queues.settings)]
    with server(address, command, tmp_path / "log") as host:
        assert status(f"http://{host}", WEBHOOK_SECRET) == 202, (tmp_path / "log").read_text()
        assert status(f"http://{host}", "guessed") == 401
    assert queues.count() == 1
