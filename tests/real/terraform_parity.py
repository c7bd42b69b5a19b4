"""The module's resources and the template's in one form, CloudFormation's, so that they can be compared.

Every property is in it. What only one side can say is named here; anything else is a difference.
"""

import json

from stack import Stack
from terraform_module import Module

ACCOUNT, REGION, NAME = "123456789012", "eu-west-3", "mirror"
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:ghcr/token-AbCdEf"

# What stands for a resource of the template in Terraform. Where one side has a part of its own for what the other writes into the
# whole, the part is named after it.
ADDRESSES = {
    "aws_apigatewayv2_api.webhook": "WebhookApi",
    "aws_apigatewayv2_integration.webhook": "WebhookApi/integration",
    "aws_apigatewayv2_route.webhook": "WebhookApi/route",
    "aws_apigatewayv2_stage.webhook": "WebhookApiApiGatewayDefaultStage",
    "aws_cloudwatch_dashboard.this": "Dashboard",
    "aws_cloudwatch_event_rule.github[0]": "GitHubEvents",
    "aws_cloudwatch_event_target.github[0]": "GitHubEvents/target",
    "aws_cloudwatch_log_group.access": "AccessLogGroup",
    "aws_cloudwatch_log_group.copy": "CopyLogGroup",
    "aws_cloudwatch_log_group.webhook": "WebhookLogGroup",
    "aws_cloudwatch_log_metric_filter.webhook_throttling": "WebhookThrottlingFilter",
    'aws_cloudwatch_metric_alarm.of_expression["dead-letters"]': "DeadLetterAlarm",
    'aws_cloudwatch_metric_alarm.of_expression["failures"]': "FailureAlarm",
    'aws_cloudwatch_metric_alarm.of_expression["passing-failures"]': "PassingFailuresAlarm",
    'aws_cloudwatch_metric_alarm.of_expression["permanent-failures"]': "PermanentFailuresAlarm",
    'aws_cloudwatch_metric_alarm.of_expression["registry-throttling"]': "RegistryThrottlingAlarm",
    'aws_cloudwatch_metric_alarm.of_expression["schedule"]': "ScheduleAlarm",
    'aws_cloudwatch_metric_alarm.of_expression["token-expiry"]': "TokenExpiryAlarm",
    'aws_cloudwatch_metric_alarm.of_metric["copy-duration"]': "CopyDurationAlarm",
    'aws_cloudwatch_metric_alarm.of_metric["copy-errors"]': "CopyErrorsAlarm",
    'aws_cloudwatch_metric_alarm.of_metric["copy-throttles"]': "CopyThrottlesAlarm",
    'aws_cloudwatch_metric_alarm.of_metric["job-age"]': "JobAgeAlarm",
    'aws_cloudwatch_metric_alarm.of_metric["webhook-errors"]': "WebhookErrorsAlarm",
    'aws_cloudwatch_metric_alarm.of_metric["webhook-refusal"]': "WebhookRefusalAlarm",
    'aws_cloudwatch_metric_alarm.of_metric["webhook-throttles"]': "WebhookThrottlesAlarm",
    'aws_cloudwatch_metric_alarm.of_metric["webhook-throttling"]': "WebhookThrottlingAlarm",
    "aws_ecr_pull_time_update_exclusion.copy[0]": "CopyRolePullTimes",
    "aws_iam_role.copy": "CopyRole",
    "aws_iam_role.schedule": "ScheduleRole",
    "aws_iam_role.webhook": "WebhookRole",
    "aws_iam_role_policy.copy": "CopyRole/policy",
    "aws_iam_role_policy.schedule": "ScheduleRole/policy",
    "aws_iam_role_policy.webhook": "WebhookRole/policy",
    "aws_lambda_event_source_mapping.jobs": "CopyFunctionJobs",
    "aws_lambda_function.copy": "CopyFunction",
    "aws_lambda_function.webhook": "WebhookFunction",
    "aws_lambda_function_event_invoke_config.copy": "CopyFunctionEventInvokeConfig",
    "aws_lambda_function_recursion_config.copy": "CopyFunction/recursion",
    "aws_lambda_permission.github[0]": "GitHubEventsPermission",
    "aws_lambda_permission.webhook": "WebhookFunctionWebhookPermission",
    "aws_scheduler_schedule.runs": "CopyFunctionSchedule",
    "aws_secretsmanager_secret.rules[0]": "RulesSecret",
    "aws_secretsmanager_secret_version.rules[0]": "RulesSecret/version",
    "aws_sqs_queue.dead_letters": "DeadLetterQueue",
    "aws_sqs_queue.failures": "FailureQueue",
    "aws_sqs_queue.jobs": "JobQueue",
    'aws_sqs_queue_policy.only_tls["dead_letters"]': "DeadLetterQueuePolicy",
    'aws_sqs_queue_policy.only_tls["failures"]': "FailureQueuePolicy",
    'aws_sqs_queue_policy.only_tls["jobs"]': "JobQueuePolicy",
}

# How the template writes an attribute of the resource that stands for {}.
ATTRIBUTES = {
    "aws_apigatewayv2_api": {
        "id": "{}", "api_endpoint": "{}.ApiEndpoint", "execution_arn": f"arn:aws:execute-api:{REGION}:{ACCOUNT}:{{}}"},
    "aws_apigatewayv2_integration": {"id": "{}"},
    "aws_cloudwatch_event_rule": {"arn": "{}.Arn", "name": "{}"},
    "aws_cloudwatch_log_group": {"name": "{}", "arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{{}}"},
    "aws_cloudwatch_metric_alarm": {"arn": "{}.Arn"},
    "aws_iam_role": {"arn": "{}.Arn", "id": "{}"},
    "aws_lambda_function": {
        "arn": "{}.Arn", "function_name": "{}",
        "invoke_arn": f"arn:aws:apigateway:{REGION}:lambda:path/2015-03-31/functions/{{}}.Arn/invocations"},
    "aws_secretsmanager_secret": {"arn": SECRET, "id": "{}"},
    "aws_sqs_queue": {"arn": "{}.Arn", "name": "{}.QueueName", "url": "{}"},
}
DATA = {
    "data.aws_caller_identity.this.account_id": ACCOUNT, "data.aws_partition.this.dns_suffix": "amazonaws.com",
    "data.aws_partition.this.partition": "aws", "data.aws_region.this.region": REGION,
}

# Terraform's words for properties that CloudFormation calls otherwise. All others differ in their spelling alone.
RENAMED = {
    "aws_cloudwatch_event_target": {"TargetId": "Id"},
    "aws_cloudwatch_log_group": {"Name": "LogGroupName"},
    "aws_iam_role": {"AssumeRolePolicy": "AssumeRolePolicyDocument"},
    "aws_iam_role_policy": {"Name": "PolicyName", "Policy": "PolicyDocument", "Role": "RoleName"},
    "aws_sqs_queue": {"VisibilityTimeoutSeconds": "VisibilityTimeout", "MessageRetentionSeconds": "MessageRetentionPeriod"},
    "aws_apigatewayv2_integration": {"TimeoutMilliseconds": "TimeoutInMillis"},
    "aws_apigatewayv2_stage": {"Name": "StageName"},
}
# CloudFormation makes these names up. In Terraform they have to begin with the module's, so that two of them stand side by side.
NAMES = {
    "aws_apigatewayv2_api": "Name", "aws_cloudwatch_event_rule": "Name", "aws_cloudwatch_log_metric_filter": "Name",
    "aws_cloudwatch_metric_alarm": "AlarmName", "aws_iam_role": "NamePrefix", "aws_lambda_function": "FunctionName",
    "aws_scheduler_schedule": "Name", "aws_sqs_queue": "Name",
}
# Where Terraform takes JSON as a text.
JSON = {"AssumeRolePolicyDocument", "DashboardBody", "EventPattern", "PolicyDocument", "RedrivePolicy"}
# A test of its own looks at the code: the template gets it from `sam package`.
CODE = {"Filename", "SourceCodeHash", "S3Bucket", "S3Key", "S3ObjectVersion"}


def attribute_of(address: str, attribute: str) -> object:
    """What a resource or data source has once it is there, as the template would write it."""
    if address.startswith("data."):
        return DATA[f"{address}.{attribute}"]
    return ATTRIBUTES[address.split(".")[0]][attribute].format(ADDRESSES[address])


def pascal(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def renamed(block: dict) -> dict:
    """A block's arguments as CloudFormation spells them. A list of blocks is one of dictionaries; a map keeps its keys."""
    properties = {}
    for name, value in block.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = [renamed(entry) for entry in value]
        properties[pascal(name)] = value
    return properties


def unwrapped(value: object) -> object:
    """Without the lists that Terraform puts single blocks into."""
    match value:
        case dict():
            return {name: unwrapped(entry) for name, entry in value.items()}
        case [dict() as block]:
            return unwrapped(block)
    return value


def dimensions(values: dict) -> list[dict]:
    return sorted(({"Name": name, "Value": value} for name, value in values.items()), key=str)


def alarm(properties: dict) -> dict:
    """An alarm with its metrics in one form: CloudFormation's, in the order of their ids."""
    def query(written: dict) -> dict:
        if "Metric" not in written:
            return written
        metric, = written.pop("Metric")
        around = {name: metric.pop(name) for name in ("Period", "Stat")}
        if named := metric.pop("Dimensions"):
            metric["Dimensions"] = dimensions(named)
        return written | {"MetricStat": {"Metric": metric} | around}

    if "MetricQuery" in properties:
        properties["Metrics"] = sorted(map(query, properties.pop("MetricQuery")), key=lambda entry: entry["Id"])
    if properties.get("Dimensions"):
        properties["Dimensions"] = dimensions(properties["Dimensions"])
    return {name: value for name, value in properties.items() if value not in ([], {})}


def listed(value: object) -> list:
    return sorted(value) if isinstance(value, list) else [value]


def policy(document: dict) -> dict:
    """A policy whose order does not matter: statements by their Sid, one action or resource as a list of one."""
    statements = {}
    for statement in document["Statement"]:
        sid = statement.get("Sid", "")
        assert sid not in statements, sid
        assert {"Effect", "Action"} <= statement.keys() <= {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
        statements[sid] = statement | {name: listed(statement[name]) for name in ("Action", "Resource") if name in statement}
    return document | {"Statement": statements}


def same_form(properties: dict) -> dict:
    for name in ("PolicyDocument", "AssumeRolePolicyDocument"):
        if name in properties:
            properties[name] = policy(properties[name])
    if "Environment" in properties:
        variables = properties["Environment"]["Variables"]
        properties["Environment"] = {"Variables": {name: str(value) for name, value in variables.items()}}
    return properties


def of_module(made: Module) -> dict[str, dict]:
    """What the module makes, in the template's words."""
    parts = {}
    for address, block in made.resources.items():
        kind = address.split(".")[0]
        properties = {RENAMED.get(kind, {}).get(name, name): value for name, value in renamed(block).items()}
        if kind in NAMES:
            assert properties.pop(NAMES[kind]).startswith(NAME), address
        if kind == "aws_cloudwatch_metric_alarm":
            properties = alarm(properties)
        elif kind == "aws_cloudwatch_log_metric_filter":
            transformation, = properties.pop("MetricTransformation")
            properties["MetricTransformations"] = [
                {"Metric" + name if name != "Unit" else name: value for name, value in transformation.items()}]
            properties["FilterPattern"] = properties.pop("Pattern")
        elif kind == "aws_sqs_queue_policy":
            properties = {"Queues": [properties.pop("QueueUrl")], "PolicyDocument": properties.pop("Policy")} | properties
        elif kind == "aws_lambda_function":
            properties = {name: value for name, value in properties.items() if name not in CODE}
        if kind != "aws_cloudwatch_metric_alarm":
            properties = {name: unwrapped(value) if name != "MetricTransformations" else value for name, value in properties.items()}
        if kind == "aws_apigatewayv2_stage":
            settings = properties["AccessLogSettings"]
            settings["Format"] = json.loads(settings["Format"])
        for name in JSON & properties.keys():
            properties[name] = json.loads(properties[name])
        parts[ADDRESSES[address]] = same_form(properties)
    return parts


def of_template(stack: Stack) -> dict[str, dict]:
    """What the template makes, with a part of its own for what Terraform has a resource for."""
    parts = {}
    for name, resource in stack.resources.items():
        properties = dict(resource["Properties"])
        match resource["Type"]:
            case "AWS::IAM::Role":
                inline, = properties.pop("Policies")
                parts[f"{name}/policy"] = inline | {"RoleName": name}
            case "AWS::Lambda::Function":
                assert properties.pop("Tags") == [{"Key": "lambda:createdBy", "Value": "SAM"}]
                del properties["Code"]
                if loop := properties.pop("RecursiveLoop", None):
                    parts[f"{name}/recursion"] = {"FunctionName": name, "RecursiveLoop": loop}
            case "AWS::Lambda::EventInvokeConfig":
                # Terraform's default.
                assert properties.pop("Qualifier") == "$LATEST"
            case "AWS::Events::Rule":
                target, = properties.pop("Targets")
                parts[f"{name}/target"] = target | {"Rule": name, "EventBusName": properties["EventBusName"]}
            case "AWS::ApiGatewayV2::Api":
                body = properties.pop("Body")
                (path, methods), = body["paths"].items()
                (method, operation), = methods.items()
                integration = operation["x-amazon-apigateway-integration"]
                (authorization,), = operation["security"]
                parts[f"{name}/route"] = {
                    "ApiId": name, "RouteKey": f"{method.upper()} {path}", "AuthorizationType": authorization,
                    "Target": f"integrations/{name}/integration"}
                parts[f"{name}/integration"] = {
                    "ApiId": name, "IntegrationType": integration.pop("type").upper(), "IntegrationUri": integration.pop("uri"),
                    "IntegrationMethod": integration.pop("httpMethod")} | {
                    key[0].upper() + key[1:]: value for key, value in integration.items()}
                properties |= {"Description": body["info"]["description"], "ProtocolType": "HTTP"}
            case "AWS::ApiGatewayV2::Stage":
                assert properties.pop("Tags") == {"httpapi:createdBy": "SAM"}
                log = properties["AccessLogSettings"]
                group = log["DestinationArn"].removesuffix(".Arn")
                properties["AccessLogSettings"] = {
                    "DestinationArn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}", "Format": json.loads(log["Format"])}
            case "AWS::CloudWatch::Alarm":
                for metric in properties.get("Metrics", []):
                    metric.setdefault("ReturnData", True)
                if "Metrics" in properties:
                    properties["Metrics"] = sorted(properties["Metrics"], key=lambda metric: metric["Id"])
            case "AWS::CloudWatch::Dashboard":
                properties["DashboardBody"] = json.loads(properties["DashboardBody"])
        parts[name] = properties
    return {name: same_form(properties) for name, properties in parts.items()}
