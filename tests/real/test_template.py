"""The template: what the linters say, who may do what, and what queues and alarms are to bear."""

import json
import re

import pytest
import yaml

from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

from conftest import CHECKOUT, REGION, TOOLS, run
from stack import Stack


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
    listed = [statement["Action"] for statement in statements(role) if statement["Effect"] == "Allow"]
    return {action for entry in listed for action in ([entry] if isinstance(entry, str) else entry)}


@pytest.mark.parametrize("command", [
    ["cfn-lint", "template.yaml"],
    ["sam", "validate", "--lint", "--template", "template.yaml"],
    [TOOLS / "checkov-venv/bin/checkov", "--file", "template.yaml", "--framework", "cloudformation", "--compact",
     "--quiet", "--skip-download"],
], ids=["cfn-lint", "sam validate", "checkov"])
def test_the_linters_are_content(command):
    run(*command)


def test_the_console_shows_each_parameter_in_one_group(template):
    """One in no group stands below all of them, under "Other parameters"."""
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(template["Parameters"])


def test_the_first_deployment_copies_nothing_until_somebody_says_so(template, resources):
    assert template["Parameters"]["ScheduleState"]["Default"] == "DISABLED"
    assert resources["CopyFunction"]["Properties"]["Events"]["Schedule"]["Properties"]["State"] == "ScheduleState"


def test_the_public_function_may_only_read_its_secrets_and_hand_jobs_over(resources):
    assert {statement["Action"] if isinstance(statement["Action"], str) else tuple(statement["Action"])
            for statement in role_statements(Stack(WebhookSecretArn="arn:aws:secretsmanager:s"), "WebhookRole").values()} == {
        "sqs:SendMessage", ("logs:CreateLogStream", "logs:PutLogEvents"), "secretsmanager:GetSecretValue"}
    variables = resources["WebhookFunction"]["Properties"]["Environment"]["Variables"]
    assert variables.keys() == {"WEBHOOK_SECRET_ID"}


def test_the_copy_function_deletes_images_only_where_a_parameter_says_so_and_is_not_public(template, resources):
    role = resources["CopyRole"]
    assert not [action for action in actions(role) if "*" in action]
    listed = role["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    deletes = [entry for entry in listed if re.search("ecr:[A-Za-z]*Delete", str(entry))]
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


def test_nothing_leads_from_the_stack_back_to_the_webhook_function():
    """So Lambda never takes the webhook function for part of a loop, which it would cut after about sixteen rounds."""
    stack = Stack(EventBusName="github", ScheduleState="ENABLED", ReportBus="arn:aws:events:eu-west-3:123456789012:event-bus/b")
    invokers = {permission["Principal"] for permission in stack.of_type("AWS::Lambda::Permission").values()
                if permission["FunctionName"] == "WebhookFunction"}
    assert invokers == {"apigateway.amazonaws.com"}
    mappings = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    assert [mapping["FunctionName"] for mapping in mappings] == ["CopyFunction"]
    allowed = [statement for role in stack.of_type("AWS::IAM::Role").values()
               for statement in role["Policies"][0]["PolicyDocument"]["Statement"]
               if "lambda:InvokeFunction" in statement["Action"]]
    assert [statement["Resource"] for statement in allowed] == ["CopyFunction.Arn"]


def test_lambda_does_not_drop_a_copy_that_is_continued_again_and_again(resources):
    assert resources["CopyFunction"]["Properties"]["RecursiveLoop"] == "Allow"


def test_copies_leave_some_of_a_new_accounts_ten_invocations_to_the_webhook(template):
    new_account, scheduled_run, webhooks = 10, 1, 4
    copies = template["Parameters"]["MaximumConcurrency"]["Default"]
    assert copies + scheduled_run + webhooks <= new_account
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


def test_the_readme_names_outputs_that_there_are(template):
    readme = (CHECKOUT / "README.md").read_text()
    named = set(re.findall(r"<([A-Z][A-Za-z]+)>", readme))
    assert named >= {"FunctionName", "JobQueueArn", "DeadLetterQueueArn"}
    assert named <= template["Outputs"].keys()


def test_the_readme_invokes_the_function_once_and_waits_for_it():
    readme = (CHECKOUT / "README.md").read_text()
    commands = [line for line in readme.splitlines() if "aws lambda invoke " in line]
    assert commands
    assert all("AWS_MAX_ATTEMPTS=1" in command and "--cli-read-timeout 0" in command for command in commands)


# What governed accounts ask for. Without these parameters the template is as if it did not know of them.

BOUNDARY = "arn:aws:iam::123456789012:policy/boundary"
KEY = "arn:aws:kms:eu-west-3:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
EVERYTHING = {"EventBusName": "github", "ScheduleState": "ENABLED", "ManageRepositories": "true"}


SECRET = "arn:aws:secretsmanager:eu-west-3:123456789012:secret:ghcr/token-AbCdEf"
# All that gives the copy function further rights.
EVERY_RIGHT = {
    "ManageRepositories": "true", "AllowPrune": "true", "XRayTracing": "true", "SubnetIds": "subnet-1", "SecurityGroupIds": "sg-1",
    "ReportBus": "arn:aws:events:eu-west-3:123456789012:event-bus/images", "RepositoryKeyArn": KEY, "QueueKeyArn": KEY,
    "SecretsKeyArn": KEY, "RulesSecretArn": SECRET, "GhcrTokenSecretArn": SECRET, "RuleTokenSecretArns": SECRET,
    "TrustedRootSecretArn": SECRET,
}


def role_statements(stack: Stack, role: str) -> dict[str, dict]:
    listed = stack.of_type("AWS::IAM::Role")[role]["Policies"][0]["PolicyDocument"]["Statement"]
    return {statement["Sid"]: statement for statement in listed}


@pytest.mark.parametrize(("repositories", "options"), [(30, {}), (15, EVERY_RIGHT)], ids=["alone", "with every option"])
def test_the_copy_function_may_be_given_as_many_repositories_as_the_limits_say(repositories, options):
    row = "| ARNs in `DestinationRepositories` | some 30, and 15 where every option of the template is used"
    assert row in (CHECKOUT / "docs/operations.md").read_text()
    arns = [f"arn:aws:ecr:eu-west-3:123456789012:repository/team-{team:02}/*" for team in range(repositories)]
    role = Stack(DestinationRepositories=",".join(arns), **options).of_type("AWS::IAM::Role")["CopyRole"]
    policy = json.dumps(role["Policies"][0]["PolicyDocument"], separators=(",", ":"))
    # A queue stands there by its name in the template.
    queue = "arn:aws:sqs:eu-west-3:123456789012:ghcr-to-ecr-development-DeadLetterQueue-AbCdEfGhIjKl.fifo"
    assert len(re.sub(r'"\w+Queue\.Arn"', json.dumps(queue), policy)) <= 10_240


def test_every_role_has_the_boundary_and_the_path(template):
    roles = Stack(**EVERYTHING, PermissionsBoundaryArn=BOUNDARY, RolePath="/platform/mirror/").of_type("AWS::IAM::Role")
    # Those that SAM would make have neither.
    assert roles.keys() == {name for name, resource in template["Resources"].items() if resource["Type"] == "AWS::IAM::Role"}
    assert len(roles) == 3
    assert {(role["PermissionsBoundary"], role["Path"]) for role in roles.values()} == {(BOUNDARY, "/platform/mirror/")}

    roles = Stack(**EVERYTHING).of_type("AWS::IAM::Role")
    assert not any("PermissionsBoundary" in role for role in roles.values())
    assert {role["Path"] for role in roles.values()} == {"/"}


@pytest.mark.parametrize("path", ["platform/", "/platform", "/plat form/", ""])
def test_a_path_that_iam_would_refuse_is_refused_by_the_template(path):
    with pytest.raises(AssertionError, match="RolePath"):
        Stack(RolePath=path)


def test_the_schedule_runs_the_copy_function_by_a_role_for_nothing_else():
    stack = Stack(**EVERYTHING)
    schedule, = stack.of_type("AWS::Scheduler::Schedule").values()
    assert schedule["Target"]["RoleArn"] == "ScheduleRole.Arn"
    statement, = role_statements(stack, "ScheduleRole").values()
    assert (statement["Action"], statement["Resource"]) == ("lambda:InvokeFunction", "CopyFunction.Arn")
    trust, = stack.of_type("AWS::IAM::Role")["ScheduleRole"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_both_functions_are_attached_to_the_subnets_and_their_code_may_not_touch_the_network():
    stack = Stack(SubnetIds="subnet-1,subnet-2", SecurityGroupIds="sg-1")
    for function in stack.of_type("AWS::Lambda::Function").values():
        assert function["VpcConfig"] == {"SubnetIds": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    for role in ("WebhookRole", "CopyRole"):
        statements = role_statements(stack, role)
        assert {"ec2:CreateNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DeleteNetworkInterface"} <= set(
            statements["NetworkInterfaces"]["Action"])
        denied = statements["NoNetworkInterfacesForTheCode"]
        assert (denied["Effect"], denied["Action"]) == ("Deny", "ec2:*")
        assert denied["Condition"] == {
            "ArnLike": {"lambda:SourceFunctionArn": "arn:aws:lambda:eu-west-3:123456789012:function:*"}}


@pytest.mark.parametrize("half", [{"SubnetIds": "subnet-1"}, {"SecurityGroupIds": "sg-1"}])
def test_half_a_vpc_is_left_to_lambda_to_refuse(half):
    assert all("VpcConfig" in function for function in Stack(**half).of_type("AWS::Lambda::Function").values())


def test_without_subnets_there_is_no_vpc_and_no_right_to_one():
    stack = Stack(**EVERYTHING)
    assert not any("VpcConfig" in function for function in stack.of_type("AWS::Lambda::Function").values())
    assert "ec2:" not in str(stack.of_type("AWS::IAM::Role"))


def test_queues_and_logs_have_the_keys_and_the_roles_may_use_the_queues():
    stack = Stack(QueueKeyArn=KEY, LogKeyArn=KEY)
    for queue in stack.of_type("AWS::SQS::Queue").values():
        assert queue["KmsMasterKeyId"] == KEY
        # SQS refuses both.
        assert "SqsManagedSseEnabled" not in queue
    assert [group["KmsKeyId"] for group in stack.of_type("AWS::Logs::LogGroup").values()] == [KEY] * 3
    for role in ("WebhookRole", "CopyRole"):
        statement = role_statements(stack, role)["QueueKey"]
        assert (set(statement["Action"]), statement["Resource"]) == ({"kms:Decrypt", "kms:GenerateDataKey"}, KEY)
        assert statement["Condition"] == {"StringEquals": {"kms:ViaService": "sqs.eu-west-3.amazonaws.com"}}


def test_without_keys_aws_has_its_own():
    stack = Stack()
    for queue in stack.of_type("AWS::SQS::Queue").values():
        assert queue["SqsManagedSseEnabled"] is True and "KmsMasterKeyId" not in queue
    assert not any("KmsKeyId" in group for group in stack.of_type("AWS::Logs::LogGroup").values())
    assert "kms:" not in str(stack.of_type("AWS::IAM::Role"))


def variables_of(stack: Stack) -> list[dict[str, str]]:
    return [function["Environment"]["Variables"] for function in stack.of_type("AWS::Lambda::Function").values()]


def test_both_functions_use_the_proxy_except_for_lambda_itself_and_what_is_named():
    proxy = "http://proxy.example.com:3128"
    for variables in variables_of(Stack(HttpsProxy=proxy, NoProxy="eu-west-3.amazonaws.com")):
        assert variables["HTTPS_PROXY"] == variables["HTTP_PROXY"] == proxy
        assert variables["NO_PROXY"].split(",") == ["127.0.0.1", "localhost", "eu-west-3.amazonaws.com"]
    for variables in variables_of(Stack()):
        assert not [name for name in variables if name.endswith("PROXY")]


def test_traces_are_recorded_only_where_a_parameter_says_so():
    for traces, mode in (("true", "Active"), ("false", "PassThrough")):
        stack = Stack(XRayTracing=traces)
        for function in stack.of_type("AWS::Lambda::Function").values():
            assert function["TracingConfig"] == {"Mode": mode}
        for role in ("WebhookRole", "CopyRole"):
            assert ("Traces" in role_statements(stack, role)) == (traces == "true")


def test_a_function_has_no_variable_without_a_value():
    for variables in variables_of(Stack()):
        assert all(str(value) for value in variables.values()), variables


def test_tags_of_the_stack_reach_everything_that_takes_tags_but_what_its_page_names():
    kinds = {resource["Type"] for resource in Stack(**EVERYTHING).resources.values()}
    untagged = {kind for kind in kinds
                if not PROVIDER_SCHEMA_MANAGER.get_resource_schema(REGION, kind).schema["tagging"]["taggable"]}
    # Those besides the schedule are parts of something that has tags.
    assert untagged == {
        "AWS::Scheduler::Schedule", "AWS::ECR::PullTimeUpdateExclusion", "AWS::Lambda::EventInvokeConfig",
        "AWS::Lambda::Permission", "AWS::Logs::MetricFilter", "AWS::SQS::QueuePolicy"}
    assert "the schedule takes none" in (CHECKOUT / "docs/permissions.md").read_text()
