"""The Terraform module: that it makes what the template makes, that the function takes its rules, and what the linters say."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from conftest import CHECKOUT, TOOLS, run
from stack import Stack
from terraform_module import MODULE, Module, Refused, attributes, blocks, nodes, parsed, text_of, tokens
from terraform_parity import ACCOUNT, CODE, NAME, NAMES, REGION, SECRET, attribute_of, of_module, of_template, pascal
from test_template import Loader

KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
BUS = f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/images"
RULES = [{"source": "acme/*", "destinations": [{"to": "prod/{name}"}]}]
WRITTEN_RULES = '[{"destination":[{"to":"prod/{name}"}],"source":"acme/*"}]'
REPOSITORIES = [f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/prod/*"]

PARAMETERS = yaml.load((CHECKOUT / "template.yaml").read_text(), Loader)["Parameters"]
VARIABLES = {labels[0] for kind, labels, _ in blocks(nodes(parsed(MODULE / "variables.tf"))[0]) if kind == "variable"}
# Those that are no parameter's: in CloudFormation the stack's name, the code and the rules' secret come from elsewhere.
OF_THE_MODULE_ALONE = {"name", "zip_path", "s3_bucket", "s3_key", "s3_object_version", "rules_in_secret"}


@pytest.fixture(scope="session")
def zip_path(tmp_path_factory) -> str:
    """Stands for the function's zip: the module reads it for its hash."""
    path = tmp_path_factory.mktemp("module") / "function.zip"
    path.write_bytes(b"zip")
    return str(path)


@pytest.fixture(scope="session")
def module(zip_path) -> Callable[..., Module]:
    def of(directory: Path = MODULE, **variables: object) -> Module:
        required = {"name": NAME, "zip_path": zip_path, "rules": RULES, "destination_repositories": REPOSITORIES}
        return Module(attribute_of, directory, **required | variables)
    return of


@cache
def template(parameters: tuple[tuple[str, str], ...]) -> tuple[dict[str, dict], dict[str, str]]:
    """What the template makes with these parameters, and its outputs."""
    stack = Stack(**dict(parameters))
    return of_template(stack), {name.lower(): value for name, value in stack.outputs.items()}


def expect_same(made: Module, variables: dict, rules: str) -> None:
    """The module made of these variables makes what the template makes of its parameters with the same values."""
    parameters = {"Rules": rules} | {parameter_of(name): written(value) for name, value in variables.items()}
    ours, (theirs, outputs) = of_module(made), template(tuple(parameters.items()))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == theirs[name], name
    assert {name.replace("_", ""): value for name, value in made.outputs.items()} == outputs


def parameter_of(variable: str) -> str:
    """The parameter that a variable has its words from."""
    word, = [name for name in PARAMETERS if name.lower() == variable.replace("_", "")]
    return word


def written(value: object) -> str:
    """A variable's value as a parameter of CloudFormation has it."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ",".join(value)
    return str(value)


# Each of these is set by itself, and all of them together.
OPTIONS = {
    "alarm_topic_arn": f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms",
    "allow_prune": True,
    "architecture": "x86_64",
    "blob_concurrency": 12,
    "destination_registry": "registry.example.com",
    "destination_repositories": [*REPOSITORIES, f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/dr/*"],
    "event_bus_name": "github",
    "event_sources": ["github.com"],
    "exclude_pull_times": False,
    "ghcr_token_secret_arn": SECRET,
    "github_api_url": "https://github.example.com/api/v3",
    "https_proxy": "http://proxy.example.com:3128",
    "log_key_arn": KEY,
    "log_level": "FATAL",
    "log_retention_days": 365,
    "manage_repositories": True,
    "maximum_concurrency": 50,
    "memory_size": 1024,
    "permissions_boundary_arn": f"arn:aws:iam::{ACCOUNT}:policy/boundary",
    "queue_key_arn": KEY,
    "report_bus": BUS,
    "repository_key_arn": KEY,
    "role_path": "/platform/mirror/",
    "rule_token_secret_arns": [SECRET, f"{SECRET}2"],
    "run_alarm_hours": 49,
    "schedule_expression": "rate(1 day)",
    "schedule_state": "ENABLED",
    "secrets_key_arn": KEY,
    "source_registry": "https://containers.example.com",
    "trusted_root_secret_arn": SECRET,
    "webhook_rate_limit": 5,
    "webhook_secret_arn": SECRET,
    "xray_tracing": True,
}
# Those that mean something only beside another.
TOGETHER = [
    {"subnet_ids": ["subnet-1", "subnet-2"], "security_group_ids": ["sg-1"]},
    {"https_proxy": "http://proxy.example.com:3128", "no_proxy": "eu-west-3.amazonaws.com,example.com"},
    {"manage_repositories": True, "repository_key_arn": KEY},
    {"schedule_state": "ENABLED", "run_alarm_hours": 0},
]
CASES = [{}, *({name: value} for name, value in OPTIONS.items()), *TOGETHER,
         {name: value for case in [OPTIONS, *TOGETHER[:3]] for name, value in case.items()}]


@pytest.mark.parametrize("variables", CASES, ids=lambda case: "+".join(case) if len(case) < 4 else "everything")
def test_the_module_makes_what_the_template_makes(module, variables):
    expect_same(module(**variables), variables, WRITTEN_RULES)


def test_every_variable_of_a_parameter_is_set_somewhere():
    assert {name for case in CASES for name in case} | {"rules", "rules_secret_arn"} == VARIABLES - OF_THE_MODULE_ALONE


def test_rules_in_a_secret_of_the_callers_are_read_by_both_functions(module):
    made = module(rules=[], rules_secret_arn=SECRET)
    expect_same(made, {"rules_secret_arn": SECRET}, f"secret:{SECRET}")


def test_the_module_puts_rules_into_a_secret_of_its_own(module):
    made = module(rules_in_secret=True)
    secret = {address: made.resources.pop(address) for address in list(made.resources) if "secretsmanager" in address}
    expect_same(made, {"rules_secret_arn": SECRET}, f"secret:{SECRET}")
    assert secret == {
        "aws_secretsmanager_secret.rules[0]": {
            "name_prefix": "mirror-rules-", "recovery_window_in_days": 0,
            "description": "The rules of mirror: which packages are copied, and where to"},
        "aws_secretsmanager_secret_version.rules[0]": {"secret_id": "RulesSecret", "secret_string": WRITTEN_RULES}}
    encrypted = module(rules_in_secret=True, secrets_key_arn=KEY).resources["aws_secretsmanager_secret.rules[0]"]
    assert encrypted["kms_key_id"] == KEY


def test_no_function_is_told_of_rules_before_they_are_in_their_secret():
    """The function's environment names the secret, which is there before its first version."""
    text = (CHECKOUT / "terraform/functions.tf").read_text()
    functions = re.findall(r'(?ms)^resource "aws_lambda_function" .+?^}', text)
    assert len(functions) == 2
    for function in functions:
        assert "aws_secretsmanager_secret_version.rules" in re.search(r"depends_on = \[(.+)\]", function)[1]


def test_two_things_of_a_kind_have_different_names(module):
    named = []
    for address, block in module(**CASES[-1]).resources.items():
        kind = address.split(".")[0]
        named += [(kind, value) for name, value in block.items() if pascal(name) == NAMES.get(kind)]
    assert len(named) == len(set(named)) > 25


# Each makes the module other than the template: where, what, and by what it is replaced.
CHANGES = [
    ("roles.tf", '"ecr:PutImage",', '"ecr:PutImage", "ecr:DeleteRepository",'),
    ("roles.tf", "Resource = var.webhook_secret_arn", 'Resource = "*"'),
    ("roles.tf", "] : statement if var.allow_prune]", "] : statement if true]"),
    ("roles.tf", 'Effect   = "Deny"', 'Effect   = "Allow"'),
    ("roles.tf", 'Principal = { Service = "scheduler.amazonaws.com" }', 'Principal = { Service = "lambda.amazonaws.com" }'),
    ("roles.tf", 'permissions_boundary = local.permissions_boundary\n  assume_role_policy = jsonencode', "assume_role_policy = jsonencode"),
    ("functions.tf", "SOURCE_REGISTRY = var.source_registry", 'SOURCE_REGISTRY = "https://ghcr.io"'),
    ("functions.tf", "EVENT_BUS            = var.report_bus", ""),
    ("functions.tf", "timeout = 900", "timeout = 300"),
    ("functions.tf", "maximum_retry_attempts       = 2", "maximum_retry_attempts       = 0"),
    ("functions.tf", "batch_size              = 1", "batch_size              = 10"),
    ("functions.tf", 'recursive_loop = "Allow"', 'recursive_loop = "Terminate"'),
    ("queues.tf", "visibility_timeout_seconds = 1800", "visibility_timeout_seconds = 900"),
    ("queues.tf", "maxReceiveCount     = 12", "maxReceiveCount     = 3"),
    ("queues.tf", 'Bool = { "aws:SecureTransport" = "false" }', 'Bool = { "aws:SecureTransport" = "true" }'),
    ("alarms.tf", "threshold   = 870000", "threshold   = 900000"),
    ("alarms.tf", '"FILL(days, 365)"', '"FILL(days, 0)"'),
    ("alarms.tf", 'period = 3600, dimensions = {} }', 'period = 300, dimensions = {} }'),
    ("alarms.tf", 'treat_missing_data  = "breaching"', 'treat_missing_data  = "notBreaching"'),
    ("alarms.tf", "Nothing is lost.", ""),
    ("dashboard.tf", '{ label = "waiting" }', '{ label = "queue" }'),
    ("dashboard.tf", '"copy-throttles", "copy-duration"]', '"copy-throttles"]'),
    ("webhook.tf", 'authorization_type = "NONE"', 'authorization_type = "AWS_IAM"'),
    ("webhook.tf", "throttling_burst_limit = 100", "throttling_burst_limit = 1000"),
    ("webhook.tf", "/*/POST/webhook", "/*/*/*"),
    ("schedule.tf", "maximum_event_age_in_seconds = 900", "maximum_event_age_in_seconds = 86400"),
    ("events.tf", '["package", "registry_package"]', '["package"]'),
    ("logs.tf", 'retention_in_days = var.log_retention_days\n  kms_key_id        = var.log_key_arn == "" ? null : var.log_key_arn\n}\n\nresource',
     'retention_in_days = var.log_retention_days\n}\n\nresource'),
    ("outputs.tf", "value       = aws_iam_role.copy.arn", "value       = aws_iam_role.webhook.arn"),
]


@pytest.mark.parametrize(("file", "text", "other"), CHANGES, ids=lambda value: value if value.endswith(".tf") else "")
def test_what_differs_from_the_template_is_found_out(module, tmp_path, file, text, other):
    directory = shutil.copytree(MODULE, tmp_path / "module")
    source = (directory / file).read_text()
    assert text in source
    (directory / file).write_text(source.replace(text, other, 1))
    # With everything that is optional, and without.
    changed = [(module(directory, **variables), variables) for variables in (CASES[-1], CASES[0])]
    with pytest.raises(AssertionError):
        for made, variables in changed:
            expect_same(made, variables, WRITTEN_RULES)


@pytest.mark.parametrize("line", ["x = 1 + 1", "x = upper(var.name)", 'x = "%{if true}a%{endif}"', "x = path.module"])
def test_what_the_test_does_not_understand_is_an_error(module, tmp_path, line):
    directory = shutil.copytree(MODULE, tmp_path / "module")
    (directory / "new.tf").write_text(f'resource "aws_sqs_queue" "new" {{\n  {line}\n}}\n')
    with pytest.raises((NotImplementedError, AssertionError)):
        module(directory)


# The function's code.

def code(made: Module, function: str) -> dict:
    return {name: value for name, value in made.resources[f"aws_lambda_function.{function}"].items() if pascal(name) in CODE}


@pytest.mark.parametrize("function", ["webhook", "copy"])
def test_the_code_is_a_zip_whose_hash_shows_that_it_changed_or_an_object(module, zip_path, function):
    # printf zip | openssl dgst -sha256 -binary | base64
    assert code(module(), function) == {"filename": zip_path, "source_code_hash": "SnD+mqZDbgLC3qNA+9HjUuTvLYzmylKtJdS5VHH8i/I="}
    versioned = {"s3_bucket": "artifacts", "s3_key": "function.zip", "s3_object_version": "3"}
    assert code(module(zip_path=None, **versioned), function) == versioned
    del versioned["s3_object_version"]
    assert code(module(zip_path=None, **versioned), function) == versioned


@pytest.mark.parametrize("source", [
    {"zip_path": ""}, {"s3_bucket": "artifacts", "s3_key": "function.zip"}, {"zip_path": "", "s3_bucket": "artifacts"},
    {"zip_path": "", "s3_key": "function.zip"}, {"s3_object_version": "3"}, {"zip_path": "missing.zip"},
], ids=str)
def test_the_code_is_in_one_place(module, source):
    with pytest.raises(Refused, match="zip_path|s3_bucket|filebase64sha256"):
        module(**source)


# Variables and parameters.

def test_each_parameter_is_a_variable_with_its_default(module):
    variables = module().variables
    of_parameters = variables.keys() - OF_THE_MODULE_ALONE
    assert {parameter_of(name) for name in of_parameters} == PARAMETERS.keys()
    defaults = {parameter_of(name): written(variables[name]) for name in of_parameters - {"rules", "destination_repositories"}}
    assert defaults == {name: str(PARAMETERS[name]["Default"]) for name in defaults}
    assert not any("Default" in PARAMETERS[name] for name in ("Rules", "DestinationRepositories"))


def limits() -> list[tuple[str, object, bool]]:
    """A value on either side of each limit that a parameter has: the parameter, the value, and whether it is allowed."""
    samples = []
    for name, parameter in PARAMETERS.items():
        least, most = parameter.get("MinValue"), parameter.get("MaxValue")
        samples += [(name, least, True), (name, least - 1, False)] if least is not None else []
        samples += [(name, most, True), (name, most + 1, False)] if most is not None else []
        if allowed := parameter.get("AllowedValues"):
            samples += [(name, value, True) for value in allowed]
            samples += [(name, 2 if isinstance(allowed[0], int) else "other", False)]
        if pattern := parameter.get("AllowedPattern"):
            texts = ["", SECRET, KEY, BUS, "arn:aws:sns:r:a:t", "arn:aws:iam::a:policy/p", "arn:", "/", "/a/", "/a b/", "a/", "/a",
                     "https://proxy", "proxy", " arn:aws:kms:r:a:k"]
            samples += [(name, text, bool(re.fullmatch(pattern, text))) for text in texts]
    return samples


@pytest.mark.parametrize(("parameter", "value", "is_allowed"), limits(), ids=str)
def test_a_variable_takes_what_its_parameter_takes(module, parameter, value, is_allowed):
    variable, = [name for name in VARIABLES if name.replace("_", "") == parameter.lower()]
    # What is a text there is true or false here.
    value = {"true": True, "false": False}.get(value, value)
    rules = {"rules": []} if (variable, value) == ("rules_secret_arn", SECRET) else {}
    if is_allowed:
        assert module(**rules, **{variable: value}).variables[variable] == value
    else:
        with pytest.raises(Refused, match=variable):
            module(**{variable: value})


# Rules.

POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "ecr:BatchGetImage"}]}
LIFECYCLE = {"rules": [{"rulePriority": 1, "selection": {"tagStatus": "any"}, "action": {"type": "expire"}}]}


def rule(**fields: object) -> dict:
    return {"source": "acme/*", "destinations": [{"to": "prod/{name}"}]} | fields


# A rule of the module, and what the function gets of it besides source and destination.
RULE_FIELDS = [
    ({}, {}),
    ({"tags": {"include": ["v*"], "exclude": ["pr-*"], "semver": ">=1.2, <3", "newest": 10, "min_age": "24h"}},) * 2,
    ({"tags": {}},) * 2,
    ({"platforms": ["linux/amd64", "linux/arm64"]},) * 2,
    ({"platform": "linux/arm64"},) * 2,
    ({"referrers": True, "prune": True, "token_secret_id": "ghcr/acme"},) * 2,
    ({"referrers": False, "prune": False},) * 2,
    ({"repository": {"create": True, "scan_on_push": False, "tag_mutability": "IMMUTABLE_WITH_EXCLUSION",
                     "tag_mutability_exclusions": ["latest*"], "lifecycle_keep": 10, "resource_tags": {"Team": "a"}}},) * 2,
    ({"repository": {"tag_mutability": "MUTABLE", "policy": json.dumps(POLICY), "lifecycle_policy": json.dumps(LIFECYCLE)}},
     {"repository": {"tag_mutability": "MUTABLE", "policy": POLICY, "lifecycle_policy": LIFECYCLE}}),
    ({"repository": {"encryption": {}}}, {"repository": {"encryption": "AES256"}}),
    ({"repository": {"encryption": {"kms_key": KEY}}},) * 2,
]


def expect_function_takes(rules: str) -> None:
    """Starts the command with these rules, which it checks before it misses a Region."""
    command = CHECKOUT / "target/debug/ghcr-to-ecr"
    assert command.exists(), "the command is not built: cargo build --locked --workspace --features cli"
    done = subprocess.run([command, "reconcile"], text=True, capture_output=True, timeout=60, env={"RULES": rules})
    assert "setting AWS_REGION" in done.stderr, done.stderr


@pytest.mark.parametrize("field", ["referrers", "prune"])
def test_the_function_refuses_null_so_that_it_must_not_be_written(field):
    with pytest.raises(AssertionError, match="setting RULES .* null"):
        expect_function_takes(json.dumps([{"source": "acme/*", "destination": "prod/{name}", field: None}]))


@pytest.mark.parametrize(("given", "expected"), RULE_FIELDS, ids=lambda fields: ",".join(fields))
def test_the_function_gets_the_fields_that_are_given_and_takes_them(module, given, expected):
    rules = module(rules=[rule(**given)]).local("rules_json")
    assert json.loads(rules) == [{"source": "acme/*", "destination": [{"to": "prod/{name}"}]} | expected]
    expect_function_takes(rules)


def test_the_function_gets_each_destination_in_its_form(module):
    destinations = [{"to": "prod/{name}:{tag}-{digest8}"}, {"to": "lambda/{name}", "platform": "linux/arm64"},
                    {"to": "small/{name}", "platforms": ["linux/arm64"]}]
    rules = module(rules=[rule(destinations=destinations), rule(source="other/api")]).local("rules_json")
    assert [entry["destination"] for entry in json.loads(rules)] == [destinations, [{"to": "prod/{name}"}]]
    expect_function_takes(rules)


REQUIREMENTS = [{"attestation": {"workflow": ".github/workflows/release.yml", "ref": "refs/tags/*"}}, {"attestation": {}},
                {"cosign_key": "secret:keys/cosign.pub"}]


def test_the_function_gets_each_signature_that_is_required(module):
    rules = module(rules=[rule(require=REQUIREMENTS)]).local("rules_json")
    assert json.loads(rules)[0]["require"] == REQUIREMENTS


@pytest.mark.parametrize(("wrong", "message"), [
    ({"source": "Acme/*"}, "source"), ({"source": "*/api"}, "source"), ({"source": "acme"}, "source"), ({"source": None}, "source"),
    ({"destinations": []}, "destinations"), ({"destinations": [{"to": "a"}] * 65}, "destinations"),
    ({"destinations": None}, "destinations"),
    ({"destinations": [{"platform": "linux/arm64"}]}, "to is required"), ({"destinations": [{"to": None}]}, "destinations"),
    ({"platform": "linux/arm64", "platforms": ["linux/arm64"]}, "platform"),
    ({"destinations": [{"to": "a", "platform": "linux/arm64", "platforms": []}]}, "platform"),
    ({"tags": {"newest": 0}}, "newest"), ({"tags": {"newest": 1.5}}, "newest"), ({"tags": {"newest": "ten"}}, "newest"),
    ({"tags": {"min_age": "24"}}, "min_age"), ({"tags": {"min_age": "0h"}}, "min_age"),
    ({"require": []}, "require"), ({"require": [{}]}, "require"), ({"require": [{"attestation": {}, "cosign_key": "k"}]}, "require"),
    ({"repository": {"tag_mutability": "FIXED"}}, "tag_mutability"),
    ({"repository": {"tag_mutability": "MUTABLE_WITH_EXCLUSION"}}, "tag_mutability_exclusions"),
    ({"repository": {"tag_mutability": "MUTABLE", "tag_mutability_exclusions": ["a"]}}, "tag_mutability_exclusions"),
    ({"repository": {"tag_mutability_exclusions": ["a"]}}, "tag_mutability_exclusions"),
    ({"repository": {"lifecycle_keep": 3, "lifecycle_policy": "{}"}}, "lifecycle_keep"),
    ({"repository": {"policy": "not JSON"}}, "JSON"), ({"repository": {"lifecycle_policy": "[]"}}, "JSON"),
], ids=str)
def test_a_rule_that_the_function_would_refuse_is_refused_by_the_plan(module, wrong, message):
    with pytest.raises(Refused, match=message):
        module(rules=[rule(**wrong)])


def test_rules_are_given_in_one_way(module):
    for given in ({"rules": []}, {"rules_secret_arn": SECRET}, {"rules": [], "rules_secret_arn": SECRET, "rules_in_secret": True}):
        with pytest.raises(Refused, match="rules"):
            module(**given)


def test_rules_that_leave_no_room_in_the_environment_are_refused_with_the_way_out(module):
    many = [rule(source=f"acme/service-{number}") for number in range(40)]
    with pytest.raises(Refused, match="rules_in_secret = true"):
        module(rules=many)
    assert module(rules=many, rules_in_secret=True).local("rules_json")


def test_a_full_environment_fits_into_what_lambda_allows(module):
    """4 KB for all names and values. (AWS Lambda developer guide, "Lambda quotas")"""
    many = [rule(source=f"acme/service-{number}") for number in range(20)]
    for resource in ("copy", "webhook"):
        made = module(**CASES[-1] | {"rules": many})
        variables = made.resources[f"aws_lambda_function.{resource}"]["environment"][0]["variables"]
        others = {name: value for name, value in variables.items() if name != "RULES"}
        queue = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{'n' * 28}-dead-letters.fifo"
        size = sum(len(name) + max(len(value), len(queue) if name.endswith("_QUEUE_URL") else 0) for name, value in others.items())
        assert size + len("RULES") + 2000 <= 4096


# What Terraform and the linters read besides.

@pytest.mark.parametrize("example", ["minimal", "organisation", "vpc"])
def test_an_example_gives_the_module_what_it_takes(example):
    body, = nodes(parsed(MODULE / "examples" / example / "main.tf"))
    call, = [attributes(block) for kind, _, block in blocks(body) if kind == "module"]
    assert text_of(nodes(call.pop("source"))[0]) == "../.."
    assert {"destination_repositories", "rules"} <= call.keys() <= VARIABLES


def test_the_module_s_own_tests_name_variables_that_there_are():
    body, = nodes(parsed(MODULE / "tests/module.tftest.hcl"))
    runs = [block for kind, _, block in blocks(body) if kind == "run"]
    assert len(runs) > 10
    given = [attributes(inner) for kind, _, inner in blocks(body) if kind == "variables"]
    given += [attributes(inner) for block in runs for kind, _, inner in blocks(block) if kind == "variables"]
    assert {name for variables in given for name in variables} <= VARIABLES
    # With a mocked provider another command would make resources of random values, which the provider would refuse.
    assert {tokens(nodes(attributes(block)["command"])[0])[0] for block in runs} == {"plan"}


def test_checkov_is_content():
    run(TOOLS / "checkov-venv/bin/checkov", "--directory", "terraform", "--framework", "terraform", "--compact", "--quiet",
        "--skip-download")


@pytest.mark.skipif(not shutil.which("terraform"), reason="Terraform is not installed")
def test_terraform_would_write_the_files_in_the_same_way():
    run("terraform", "fmt", "-check", "-recursive", "terraform", env=os.environ | {"CHECKPOINT_DISABLE": "1"})
