"""The template: what the linters say, and who may do what."""

import pytest
import yaml

from conftest import CHECKOUT, TOOLS, run


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as the value alone."""


Loader.add_multi_constructor("!", lambda loader, _, node: {
    yaml.ScalarNode: loader.construct_scalar,
    yaml.SequenceNode: lambda node: loader.construct_sequence(node, deep=True),
    yaml.MappingNode: lambda node: loader.construct_mapping(node, deep=True),
}[type(node)](node))


@pytest.fixture(scope="module")
def resources() -> dict:
    return yaml.load((CHECKOUT / "template.yaml").read_text(), Loader)["Resources"]


def actions(role: dict) -> set[str]:
    """All that a role allows, its optional statements included."""
    statements = role["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    statements = [statement if isinstance(statement, dict) else statement[1] for statement in statements]
    listed = [statement["Action"] for statement in statements]
    return {action for entry in listed for action in ([entry] if isinstance(entry, str) else entry)}


@pytest.mark.parametrize("command", [
    ["cfn-lint", "template.yaml"],
    ["sam", "validate", "--lint", "--template", "template.yaml"],
    [TOOLS / "checkov-venv/bin/checkov", "--file", "template.yaml", "--framework", "cloudformation", "--compact",
     "--quiet", "--skip-download"],
], ids=["cfn-lint", "sam validate", "checkov"])
def test_the_linters_are_content(command):
    run(*command)


def test_the_public_function_may_only_read_its_secret_and_hand_jobs_over(resources):
    assert actions(resources["WebhookRole"]) == {
        "sqs:SendMessage", "logs:CreateLogStream", "logs:PutLogEvents", "ssm:GetParameter",
        "secretsmanager:GetSecretValue", "kms:Decrypt",
    }
    variables = resources["WebhookFunction"]["Properties"]["Environment"]["Variables"]
    assert variables.keys() == {"WEBHOOK_SECRET_ID"}


def test_the_copy_function_deletes_no_image_and_is_not_public(resources):
    allowed = actions(resources["CopyRole"])
    assert not [action for action in allowed if "*" in action or action == "ecr:BatchDeleteImage"]
    triggers = {event["Type"] for event in resources["CopyFunction"]["Properties"]["Events"].values()}
    assert triggers == {"SQS", "ScheduleV2"}


def test_the_queue_waits_no_longer_than_the_function_runs(resources):
    timeout = resources["CopyFunction"]["Properties"]["Timeout"]
    assert resources["JobQueue"]["Properties"]["VisibilityTimeout"] == timeout
