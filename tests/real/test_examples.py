"""The examples in deploy/examples: what the linters say, and what they make of the events that the function sends."""

import json
import re

import boto3
import botocore.session
import pytest
import yaml
from jsonata import Jsonata
from moto.events.models import EventPattern

from conftest import CHECKOUT, REGION, TOOLS, run

EXAMPLES = CHECKOUT / "deploy/examples"
REGISTRY = f"123456789012.dkr.ecr.{REGION}.amazonaws.com"
COMMIT = "6c62fb45fe66bfb1ea9a66abc38f6a0cc974292b"
PARAMETERS = {
    "AWS::AccountId": "123456789012", "AWS::Region": REGION, "AWS::URLSuffix": "amazonaws.com", "EventBusName": "images",
    "Repository": "arrived/debian", "Tag": "*", "Package": "acme/arrived",
}
# The states of deploy-on-arrival.yaml get the event's detail, those of commit-status.yaml the whole event.
TASK_DEFINITION = {
    "TaskDefinitionArn": f"arn:aws:ecs:{REGION}:123456789012:task-definition/api:7", "Family": "api", "Revision": 7, "Status": "ACTIVE",
    "Cpu": "256", "ContainerDefinitions": [{"Name": "api", "Image": "before", "Cpu": 0}, {"Name": "proxy", "Image": "kept"}],
}


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms, and fills in `Sub` and `Ref` as far as the parameters are known here."""


def _filled(loader: Loader, suffix: str, node: yaml.Node) -> object:
    match node:
        case yaml.SequenceNode():
            return {suffix: loader.construct_sequence(node, deep=True)}
        case yaml.MappingNode():
            return {suffix: loader.construct_mapping(node, deep=True)}
    text = loader.construct_scalar(node)
    if suffix == "Ref":
        return PARAMETERS.get(text, text)
    return re.sub(r"\$\{([^}]+)}", lambda name: PARAMETERS.get(name[1], name[0]), text)


Loader.add_multi_constructor("!", _filled)


def resources(example: str) -> dict:
    return yaml.load((EXAMPLES / example).read_text(), Loader)["Resources"]


def rule(example: str) -> dict:
    rule, = [resource["Properties"] for resource in resources(example).values() if resource["Type"] == "AWS::Events::Rule"]
    return rule


def matched(example: str, events: list[dict]) -> list[dict]:
    pattern = rule(example)["EventPattern"]
    return [event for event in events if EventPattern(json.dumps(pattern), pattern).matches_event(event)]


def evaluated(expression: object, states_input: object, **variables: object) -> object:
    """A JSONata expression of a state machine."""
    compiled = Jsonata(re.fullmatch(r"\{%(.*)%}", expression, re.DOTALL)[1])
    for name, value in {"states": {"input": states_input}, **variables}.items():
        compiled.assign(name, value)
    return compiled.evaluate(None)


@pytest.fixture(scope="module")
def events(function, source, destination, cache) -> dict[str, dict]:
    """What the function sends of an image that arrives, and of some that do not; by the detail's type and origin."""
    bus, queues = boto3.client("events"), boto3.client("sqs")
    bus.create_event_bus(Name="images")
    queue = queues.create_queue(QueueName="images")["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    bus.put_rule(Name="all", EventBusName="images", EventPattern=json.dumps({"source": ["ghcr-to-ecr"]}))
    bus.put_targets(Rule="all", EventBusName="images", Targets=[{"Id": "queue", "Arn": arn}])

    source.copy(f"oci:{cache / 'layout'}:debian-amd64", f"acme/arrived:sha-{COMMIT}")
    copy = {"source": f"ghcr.io/acme/arrived:sha-{COMMIT}", "destination": f"arrived/debian:sha-{COMMIT}"}
    assert function(copy, EVENT_BUS="images")["outcome"] == "copied"
    for origin in ({}, {"origin": "schedule"}):
        function({"source": "ghcr.io/acme/arrived:nowhere", "destination": "arrived/debian:nowhere"} | origin, EVENT_BUS="images")

    sent = {}
    while messages := queues.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            # In an account both registries have names of their own.
            body = message["Body"].replace(destination.host, REGISTRY).replace(source.host, "ghcr.io")
            event = json.loads(body)
            sent[f"{event['detail-type']} {event['detail']['origin']}"] = event
            queues.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    assert sent.keys() == {
        "Image Copied direct", "Image Available direct", "Image Copy Failed direct", "Image Copy Failed schedule"}
    return sent


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_the_linters_are_content(example):
    path = EXAMPLES / example
    run("cfn-lint", path)
    run(TOOLS / "checkov-venv/bin/checkov", "--file", path, "--framework", "cloudformation", "--compact", "--quiet",
        "--skip-download")


@pytest.mark.parametrize(("example", "names"), [
    ("deploy-on-arrival.yaml", ["Image Copied direct"]),
    ("notify.yaml", ["Image Copy Failed direct"]),
    ("commit-status.yaml", ["Image Available direct", "Image Copy Failed direct", "Image Copy Failed schedule"]),
])
def test_a_rule_takes_what_it_is_about_and_nothing_else(example, names, events):
    found = matched(example, list(events.values()))
    assert sorted(name for name, event in events.items() if event in found) == names


@pytest.mark.parametrize("kind", ["Transient", "Deadline", "Internal", "Denied"])
def test_people_are_told_of_whatever_is_not_tried_again(kind):
    event = {"source": "ghcr-to-ecr", "detail-type": "Image Copy Failed", "detail": {"origin": "webhook", "error_kind": kind}}
    assert matched("notify.yaml", [event]) == [event]
    assert matched("notify.yaml", [event | {"detail": {"origin": "schedule", "error_kind": kind}}]) == []


def test_each_field_that_an_example_reads_is_in_the_events_that_it_gets(events):
    target, = rule("notify.yaml")["Targets"]
    failed = events["Image Copy Failed direct"]["detail"]
    for path in target["InputTransformer"]["InputPathsMap"].values():
        assert failed[path.removeprefix("$.detail.")]
    text = (EXAMPLES / "commit-status.yaml").read_text()
    read = set(re.findall(r"\$states\.input\.detail\.(\w+)", text))
    assert read == {"source", "destinations", "error"}
    assert read <= events["Image Available direct"]["detail"].keys() | failed.keys()


def test_a_message_to_people_says_what_happened(events):
    target, = rule("notify.yaml")["Targets"]
    transformer, failed = target["InputTransformer"], events["Image Copy Failed direct"]["detail"]
    values = {name: failed[path.removeprefix("$.detail.")] for name, path in transformer["InputPathsMap"].items()}
    _, chat, text = transformer["InputTemplate"]["If"]
    for template in (chat, text):
        assert set(re.findall(r"<(\w+)>", template)) <= values.keys()
    filled = re.sub(r'"[^"]*"|<error>', lambda part: json.dumps(values["error"]) if part[0] == "<error>" else
                    re.sub(r"<(\w+)>", lambda name: values[name[1]], part[0]), chat)
    content = json.loads(filled)["content"]
    assert content == {"title": "ghcr.io/acme/arrived:nowhere could not be copied (NotFound)", "description": failed["error"]}


def test_what_arrives_is_deployed_by_its_digest(events):
    target, = rule("deploy-on-arrival.yaml")["Targets"]
    assert target["InputPath"] == "$.detail"
    copied = events["Image Copied direct"]["detail"]
    image = f"{REGISTRY}/arrived/debian@{copied['digest']}"
    machines = resources("deploy-on-arrival.yaml")
    states = machines["FunctionDeployment"]["Properties"]["Definition"]["States"]
    assert evaluated(states["Update"]["Arguments"]["ImageUri"], copied) == image

    states = machines["ServiceDeployment"]["Properties"]["Definition"]["States"]
    assert evaluated(states["Image"]["Assign"]["image"], copied) == image
    arguments = states["Revision"]["Arguments"].replace("${Container}", "api")
    tags = [{"Key": "team", "Value": "platform"}]
    assert states["Definition"]["Arguments"]["Include"] == ["TAGS"]
    revision = evaluated(arguments, {"TaskDefinition": TASK_DEFINITION, "Tags": tags}, image=image)
    assert revision == {"Family": "api", "Cpu": "256", "Tags": tags, "ContainerDefinitions": [
        {"Name": "api", "Image": image, "Cpu": 0}, {"Name": "proxy", "Image": "kept"}]}
    one = TASK_DEFINITION | {"ContainerDefinitions": [{"Name": "api", "Image": "before"}]}
    revision = evaluated(arguments, {"TaskDefinition": one, "Tags": []}, image=image)
    assert (revision["ContainerDefinitions"], revision["Tags"]) == ([{"Name": "api", "Image": image}], [])


def test_a_deployment_keeps_all_that_a_task_definition_may_be_given():
    ecs = botocore.session.get_session().get_service_model("ecs")
    given = ecs.operation_model("RegisterTaskDefinition").input_shape.members.keys()
    described = {name[0].upper() + name[1:]: "kept" for name in ecs.shape_for("TaskDefinition").members}
    described |= {"ContainerDefinitions": TASK_DEFINITION["ContainerDefinitions"]}
    states = resources("deploy-on-arrival.yaml")["ServiceDeployment"]["Properties"]["Definition"]["States"]
    revision = evaluated(states["Revision"]["Arguments"], {"TaskDefinition": described, "Tags": []}, image="new")
    assert revision.keys() == {name[0].upper() + name[1:] for name in given}


def test_a_commit_gets_the_status_of_its_image(events):
    states = resources("commit-status.yaml")["Status"]["Properties"]["Definition"]["States"]
    is_commit = states["Tag"]["Choices"][0]["Condition"]
    available, failed = events["Image Available direct"], events["Image Copy Failed direct"]
    assert evaluated(is_commit, available) is True
    assert evaluated(is_commit, failed) is False, "a tag that is no commit"
    arguments = states["Set"]["Arguments"]
    endpoint = arguments["ApiEndpoint"].replace("${GitHubRepository}", "acme/arrived")
    assert evaluated(endpoint, available) == f"https://api.github.com/repos/acme/arrived/statuses/{COMMIT}"
    body = arguments["RequestBody"]
    for event, state, words in ((available, "success", f"in {REGISTRY}/arrived/debian:"), (failed, "failure", "acme/arrived:nowhere")):
        assert evaluated(body["state"], event) == state
        description = evaluated(body["description"], event)
        assert words in description and len(description) <= 140


def test_a_workflows_role_may_invoke_one_function_and_trusts_the_named_subjects_alone():
    role = resources("github-actions-role.yaml")["Role"]["Properties"]
    trust, = role["AssumeRolePolicyDocument"]["Statement"]
    issuer = "token.actions.githubusercontent.com"
    assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert trust["Condition"] == {"StringEquals": {f"{issuer}:aud": "sts.amazonaws.com", f"{issuer}:sub": "Subjects"}}
    policy, = role["Policies"]
    assert policy["PolicyDocument"]["Statement"] == [
        {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": "FunctionArn"}]
    assert "ManagedPolicyArns" not in role


@pytest.mark.parametrize(("subject", "is_allowed"), [
    ("repo:acme/api:ref:refs/heads/main", True),
    ("repo:acme@1234/api@5678:environment:production", True),
    ("repo:acme/api:ref:refs/tags/v1.2.3", True),
    ("repo:acme/api:*", False),
    ("repo:acme/*:ref:refs/heads/main", False),
    ("repo:acme/api:ref:refs/heads/*", False),
    ("repo:acme/api:environment:prod?", False),
    ("repo:acme/api:pull_request", False),
    ("repo:acme/api", False),
    ("", False),
])
def test_a_workflows_role_trusts_no_pattern_of_subjects(subject, is_allowed):
    parameters = yaml.load((EXAMPLES / "github-actions-role.yaml").read_text(), Loader)["Parameters"]
    assert bool(re.fullmatch(parameters["Subjects"]["AllowedPattern"], subject)) == is_allowed
