"""The template: what the linters say, who may do what, and what queues and alarms are to bear."""

import json
import re

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


# How long the function lets a message wait after a failure that may pass: the first time, at most, and the least part
# that jitter leaves of it.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, SHORTEST_PART = 15, 900, 1 / 2
OUTAGE_SECONDS = 30 * 60


@pytest.fixture(scope="module")
def template() -> dict:
    return yaml.load((CHECKOUT / "template.yaml").read_text(), Loader)


@pytest.fixture(scope="module")
def resources(template) -> dict:
    return template["Resources"]


def statements(role: dict) -> list[dict]:
    """All statements of a role, the optional ones included."""
    listed = role["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    return [statement if isinstance(statement, dict) else statement[1] for statement in listed]


def actions(role: dict) -> set[str]:
    """All that a role allows."""
    listed = [statement["Action"] for statement in statements(role)]
    return {action for entry in listed for action in ([entry] if isinstance(entry, str) else entry)}


@pytest.mark.parametrize("command", [
    ["cfn-lint", "template.yaml"],
    ["sam", "validate", "--lint", "--template", "template.yaml"],
    [TOOLS / "checkov-venv/bin/checkov", "--file", "template.yaml", "--framework", "cloudformation", "--compact",
     "--quiet", "--skip-download"],
], ids=["cfn-lint", "sam validate", "checkov"])
def test_the_linters_are_content(command):
    run(*command)


def test_the_first_deployment_copies_nothing_until_somebody_says_so(template, resources):
    assert template["Parameters"]["ScheduleState"]["Default"] == "DISABLED"
    assert resources["CopyFunction"]["Properties"]["Events"]["Schedule"]["Properties"]["State"] == "ScheduleState"


def test_the_public_function_may_only_read_its_secrets_and_hand_jobs_over(resources):
    assert actions(resources["WebhookRole"]) == {
        "sqs:SendMessage", "logs:CreateLogStream", "logs:PutLogEvents", "secretsmanager:GetSecretValue", "kms:Decrypt",
    }
    variables = resources["WebhookFunction"]["Properties"]["Environment"]["Variables"]
    assert variables.keys() == {"WEBHOOK_SECRET_ID"}


def test_the_copy_function_deletes_images_only_where_a_parameter_says_so_and_is_not_public(template, resources):
    role = resources["CopyRole"]
    assert not [action for action in actions(role) if "*" in action]
    listed = role["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    deletes = [entry for entry in listed if "Delete" in str(entry).replace("sqs:DeleteMessage", "")]
    assert [(entry[0], entry[1]["Action"]) for entry in deletes] == [("AllowsPrune", "ecr:BatchDeleteImage")]
    assert template["Parameters"]["AllowPrune"]["Default"] == "false"
    triggers = {event["Type"] for event in resources["CopyFunction"]["Properties"]["Events"].values()}
    assert triggers == {"SQS", "ScheduleV2"}


def test_repositories_are_managed_only_where_a_parameter_says_so(template):
    assert template["Parameters"]["ManageRepositories"]["Default"] == "false"
    role = template["Resources"]["CopyRole"]
    listed = role["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    conditions = {entry[1]["Sid"]: entry[0] for entry in listed if isinstance(entry, list)}
    assert conditions["ManageRepositories"] == conditions["CreationTemplates"] == "ManagesRepositories"
    assert conditions["RepositoryKey"] == "HasRepositoryKey"
    always = [statement for statement in listed if isinstance(statement, dict)]
    assert not [action for statement in always for action in statement["Action"] if action == "ecr:CreateRepository"]


def test_what_the_function_reads_does_not_count_as_a_pull(resources):
    exclusions = [
        resource["Properties"]["PrincipalArn"]
        for resource in resources.values()
        if resource["Type"] == "AWS::ECR::PullTimeUpdateExclusion"
    ]
    assert exclusions == ["CopyRole.Arn"]


@pytest.mark.parametrize("role", ["WebhookRole", "CopyRole"])
def test_both_functions_may_read_the_secret_that_holds_the_rules(resources, role):
    rules, = [statement for statement in statements(resources[role]) if statement["Sid"] == "Rules"]
    assert (rules["Action"], rules["Resource"]) == ("secretsmanager:GetSecretValue", "RulesSecretArn")


def test_a_route_of_the_webhooks_api_is_closed_unless_it_says_otherwise(resources):
    assert resources["WebhookApi"]["Properties"]["Auth"]["DefaultAuthorizer"] == "AWS_IAM"
    webhook = resources["WebhookFunction"]["Properties"]["Events"]["Webhook"]["Properties"]
    assert (webhook["Path"], webhook["Auth"]["Authorizer"]) == ("/webhook", "NONE")


def test_a_message_that_lambda_holds_back_does_not_run_twice(resources):
    timeout = resources["CopyFunction"]["Properties"]["Timeout"]
    assert resources["JobQueue"]["Properties"]["VisibilityTimeout"] == 2 * timeout


def test_an_outage_of_half_an_hour_does_not_fill_the_dead_letter_queue(resources):
    receives = resources["JobQueue"]["Properties"]["RedrivePolicy"]["maxReceiveCount"]
    waits = [min(FIRST_WAIT_SECONDS * 2**wait, LONGEST_WAIT_SECONDS) * SHORTEST_PART for wait in range(receives - 1)]
    assert sum(waits) > OUTAGE_SECONDS
    days = resources["JobQueue"]["Properties"]["MessageRetentionPeriod"] / (24 * 60 * 60)
    assert days == 14


def test_lambda_does_not_drop_a_copy_that_is_continued_again_and_again(resources):
    assert resources["CopyFunction"]["Properties"]["RecursiveLoop"] == "Allow"


def test_copies_leave_some_of_a_new_accounts_ten_invocations_to_the_webhook(template):
    assert template["Parameters"]["MaximumConcurrency"]["Default"] == 5
    scaling = template["Resources"]["CopyFunction"]["Properties"]["Events"]["Jobs"]["Properties"]["ScalingConfig"]
    assert scaling == {"MaximumConcurrency": "MaximumConcurrency"}


def test_a_webhook_that_is_answered_429_raises_an_alarm(resources):
    log = resources["WebhookApi"]["Properties"]["AccessLogSettings"]
    line = json.loads(re.sub(r"\$context\.([A-Za-z.]+)", r"\1", log["Format"]))
    metric_filter = resources["WebhookThrottlingFilter"]["Properties"]
    assert f"{metric_filter['LogGroupName']}.Arn" == log["DestinationArn"]
    field, = [name for name, value in line.items() if value == "status"]
    assert metric_filter["FilterPattern"] == f'{{ $.{field} = "429" }}'

    metric, = metric_filter["MetricTransformations"]
    alarm = resources["WebhookThrottlingAlarm"]["Properties"]
    assert (alarm["Namespace"], alarm["MetricName"]) == (metric["MetricNamespace"], metric["MetricName"])


def test_the_readme_names_parameters_outputs_and_actions_that_there_are(template):
    readme = (CHECKOUT / "README.md").read_text()
    named = set(re.findall(r"<([A-Z][A-Za-z]+)>", readme))
    assert named >= {"FunctionName", "JobQueueArn", "DeadLetterQueueArn"}
    assert named <= template["Outputs"].keys()

    permissions = readme.partition("## Permissions")[2].partition("##")[0]
    allowed = {action for role in ("WebhookRole", "CopyRole") for action in actions(template["Resources"][role])}
    listed, last_service = set(), None
    for row in permissions.splitlines():
        actions_of_row = row.split("|")[1] if "|" in row else ""
        for service, action in re.findall(r"`(?:([a-z]+):)?([A-Z][A-Za-z]+)`", actions_of_row):
            last_service = service or last_service
            listed.add(f"{last_service}:{action}")
    assert listed == allowed


def test_the_readme_invokes_the_function_once_and_waits_for_it():
    readme = (CHECKOUT / "README.md").read_text()
    commands = [line for line in readme.splitlines() if "aws lambda invoke " in line]
    assert commands
    assert all("AWS_MAX_ATTEMPTS=1" in command and "--cli-read-timeout 0" in command for command in commands)
