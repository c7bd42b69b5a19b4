"""The template as CloudFormation sees it: transformed by SAM, then with its parameters and conditions filled in."""

import copy
import re
from functools import cache

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from conftest import CHECKOUT

PSEUDO_PARAMETERS = {
    "AWS::AccountId": "123456789012", "AWS::Partition": "aws", "AWS::Region": "eu-west-3", "AWS::StackName": "mirror",
    "AWS::URLSuffix": "amazonaws.com",
}
# Those without a default.
REQUIRED = {"Rules": "[]", "DestinationRepositories": "arn:aws:ecr:eu-west-3:123456789012:repository/prod/*"}
NOTHING = object()


class NoManagedPolicies:
    """What SAM asks for the managed policies of AWS; the template has roles of its own."""

    @staticmethod
    def load() -> dict:
        return {}


@cache
def _template() -> dict:
    template = yaml_parse((CHECKOUT / "template.yaml").read_text())
    # Before the transform, `sam package` puts what was built into S3.
    template["Globals"]["Function"]["CodeUri"] = "s3://artifacts/function"
    return template


class Stack:
    """The template with these parameters; those that are not named have their defaults."""

    def __init__(self, **parameters: object):
        template = copy.deepcopy(_template())
        declared = template["Parameters"]
        assert parameters.keys() <= declared.keys(), parameters.keys() - declared.keys()
        given = REQUIRED | parameters
        texts = {name: str(given.get(name, declaration.get("Default"))) for name, declaration in declared.items()}
        for name, text in texts.items():
            self._expect_allowed(name, text, declared[name])
        self._values = PSEUDO_PARAMETERS | {
            name: self._typed(text, declared[name]["Type"]) for name, text in texts.items()}
        transformed = transform(template, texts, NoManagedPolicies())
        self._conditions = transformed["Conditions"]
        self.resources = {
            name: self._filled(resource) for name, resource in transformed["Resources"].items()
            if "Condition" not in resource or self._holds(resource["Condition"])}
        self.outputs = {name: self._filled(output["Value"]) for name, output in transformed["Outputs"].items()}

    def of_type(self, kind: str) -> dict[str, dict]:
        """The properties of all resources of one type, by their names."""
        return {name: resource.get("Properties", {}) for name, resource in self.resources.items()
                if resource["Type"] == kind}

    @staticmethod
    def _expect_allowed(name: str, text: str, declaration: dict) -> None:
        assert text in [str(value) for value in declaration.get("AllowedValues", [text])], f"{name}: {text}"
        # CloudFormation holds the pattern against each entry of a list.
        entries = text.split(",") if declaration["Type"] == "CommaDelimitedList" else [text]
        pattern = declaration.get("AllowedPattern", ".*")
        assert all(re.fullmatch(pattern, entry, re.DOTALL) for entry in entries), f"{name}: {text}"

    @staticmethod
    def _typed(text: str, kind: str) -> object:
        match kind:
            case "Number":
                return int(text)
            case "CommaDelimitedList":
                return text.split(",")
            case _:
                return text

    def _holds(self, condition: str) -> bool:
        return self._filled(self._conditions[condition])

    def _filled(self, value: object) -> object:
        if isinstance(value, list):
            return [entry for entry in map(self._filled, value) if entry is not NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (function, argument), = value.items()
            if function == "Ref" or function == "Condition" and argument in self._conditions or function.startswith("Fn::"):
                return self._call(function.removeprefix("Fn::"), argument)
        filled = {name: self._filled(entry) for name, entry in value.items()}
        return {name: entry for name, entry in filled.items() if entry is not NOTHING}

    def _call(self, function: str, argument: object) -> object:
        """One of CloudFormation's functions. A resource stands for itself by its name, `Queue` or `Queue.Arn`."""
        match function:
            case "Ref":
                return NOTHING if argument == "AWS::NoValue" else self._values.get(argument, argument)
            case "Condition":
                return self._holds(argument)
            case "If":
                condition, then, otherwise = argument
                return self._filled(then if self._holds(condition) else otherwise)
            case "GetAtt":
                return ".".join(argument) if isinstance(argument, list) else argument
            case "Sub":
                return self._substituted(argument)
        operands = self._filled(argument)
        match function:
            case "Equals":
                return str(operands[0]) == str(operands[1])
            case "Not":
                return not operands[0]
            case "And":
                return all(operands)
            case "Or":
                return any(operands)
            case "Join":
                return operands[0].join(operands[1])
        raise NotImplementedError(function)

    def _substituted(self, argument: str | list) -> str:
        text, own = argument if isinstance(argument, list) else (argument, {})
        values = self._values | self._filled(own)
        return re.sub(r"\$\{([^!}]+)}", lambda match: str(values.get(match[1], match[1])), text)
