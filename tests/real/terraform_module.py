"""The Terraform module as Terraform plans it: with its variables filled in, and its expressions evaluated.

Only what the module uses is understood. Anything else is an error, so that nothing is taken for equal that was not read.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import hcl2
from lark import Token, Tree

from conftest import CHECKOUT

MODULE = CHECKOUT / "terraform"
# What Terraform itself reads in a resource's block, and no provider.
META_ARGUMENTS = {"count", "for_each", "depends_on", "lifecycle"}
ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


class Refused(Exception):
    """Terraform would refuse this, and say so."""


@dataclass(frozen=True)
class Reference:
    """A resource that an expression names; its attributes are known once it is there."""

    address: str
    attributes: Callable[[str, str], object]


@dataclass(frozen=True)
class Namespace:
    """What stands before a dot and is no value itself: `var`, `local`, `data` or a resource's type."""

    entry: Callable[[str], object]


@cache
def parsed(path: Path) -> Tree:
    """A file's syntax tree."""
    return hcl2.parses_to_tree(path.read_text())


def nodes(tree: Tree) -> list[Tree]:
    """What stands below, without punctuation and comments."""
    return [child for child in tree.children if isinstance(child, Tree) and child.data != "new_line_or_comment"]


def tokens(tree: Tree) -> list[str]:
    return [str(child) for child in tree.children if isinstance(child, Token)]


def attributes(body: Tree) -> dict[str, Tree]:
    return {tokens(name)[0]: value for name, value in (nodes(entry) for entry in nodes(body) if entry.data == "attribute")}


def blocks(body: Tree) -> Iterator[tuple[str, list[str], Tree]]:
    """The blocks directly inside: kind, labels and body of each."""
    for block in nodes(body):
        if block.data == "block":
            *head, inner = nodes(block)
            kind, *labels = [text_of(word) for word in head]
            yield kind, labels, inner


def text_of(word: Tree) -> str:
    """A name, or a text without anything to fill in."""
    return "".join(text_of(part) for part in nodes(word)) if word.data == "string" else tokens(word)[0]


class Module:
    """The module with these variables; those that are not named have their defaults.

    `attribute_of` gives what a resource or data source has once it is there, by its address and the attribute's name.
    """

    def __init__(self, attribute_of: Callable[[str, str], object], directory: Path = MODULE, **variables: object):
        self._attribute_of = attribute_of
        files = sorted(directory.glob("*.tf"))
        declared = [block for file in files for block in blocks(nodes(parsed(file))[0])]
        kinds = {kind for kind, _, _ in declared}
        if kinds - {"terraform", "variable", "locals", "data", "resource", "output"}:
            raise NotImplementedError(f"blocks {sorted(kinds)}")
        self.declarations = {labels[0]: body for kind, labels, body in declared if kind == "variable"}
        self._locals = {name: value for kind, _, body in declared if kind == "locals" for name, value in attributes(body).items()}
        self._resources = {".".join(labels): body for kind, labels, body in declared if kind == "resource"}
        self._data = {".".join(labels) for kind, labels, _ in declared if kind == "data"}
        self._known: dict[str, object] = {}

        if variables.keys() - self.declarations.keys():
            raise Refused(f"no such variable: {sorted(variables.keys() - self.declarations.keys())}")
        self.variables = {name: self._variable(name, variables) for name in self.declarations}
        for name, body in self.declarations.items():
            self._expect_valid(name, body)
        self.resources = {
            address: instance for name, body in self._resources.items() for address, instance in self._instances(name, body)}
        self.outputs = {labels[0]: self._value(attributes(body)["value"], {}) for kind, labels, body in declared if kind == "output"}

    def local(self, name: str) -> object:
        """The value of a local."""
        if name not in self._known:
            self._known[name] = self._value(self._locals[name], {})
        return self._known[name]

    def _variable(self, name: str, given: dict) -> object:
        declaration = attributes(self.declarations[name])
        value = given.get(name)
        if value is None:
            if "default" not in declaration:
                raise Refused(f"variable {name} has no default, and is not given")
            # A variable that takes null would have to be told apart here.
            assert self._value(declaration["nullable"], {}) is False, name
            value = self._value(declaration["default"], {})
        return self._converted(value, declaration["type"], name)

    def _converted(self, value: object, kind: Tree, name: str) -> object:
        """As Terraform converts what is given to a variable's type. It drops what an object's type does not have."""
        while kind.data == "expr_term":
            kind, = nodes(kind)
        if value is None:
            return None
        if kind.data == "identifier":
            return self._converted_primitive(value, tokens(kind)[0], name)
        function, arguments = nodes(kind)
        argument = nodes(arguments)[0]
        match tokens(function)[0], value:
            case "list", list():
                return [self._converted(entry, argument, f"{name}[{at}]") for at, entry in enumerate(value)]
            case "map", dict():
                return {key: self._converted(entry, argument, f"{name}.{key}") for key, entry in value.items()}
            case "object", dict():
                return {field: self._field(value, field, of, name) for field, of in self._fields(argument).items()}
        raise Refused(f"{name} is {value!r}: expected {tokens(function)[0]}")

    @staticmethod
    def _converted_primitive(value: object, kind: str, name: str) -> object:
        match kind, value:
            case ("string", str()) | ("bool", bool()):
                return value
            case "number", int() | float() if not isinstance(value, bool):
                return value
        raise Refused(f"{name} is {value!r}: expected {kind}")

    def _fields(self, kind: Tree) -> dict[str, Tree]:
        while kind.data == "expr_term":
            kind, = nodes(kind)
        return {self._key(key, {}): value for key, value in map(nodes, nodes(kind))}

    def _field(self, value: dict, field: str, kind: Tree, name: str) -> object:
        while kind.data == "expr_term":
            kind, = nodes(kind)
        if kind.data == "function_call" and tokens(nodes(kind)[0]) == ["optional"]:
            kind, = nodes(nodes(kind)[1])
        elif field not in value:
            raise Refused(f"{name}: the attribute {field} is required")
        return self._converted(value.get(field), kind, f"{name}.{field}")

    def _expect_valid(self, name: str, body: Tree) -> None:
        for kind, _, validation in blocks(body):
            assert kind == "validation", kind
            self._expect(f"variable {name}", validation, {})

    def _expect(self, subject: str, body: Tree, scope: dict) -> None:
        condition = attributes(body)
        if self._value(condition["condition"], scope) is not True:
            raise Refused(f"{subject}: {self._value(condition['error_message'], scope)}")

    def _keys(self, name: str) -> object:
        """The instances of a resource: None for the one without a key, else numbers or names with their values."""
        meta = attributes(self._resources[name])
        if "count" in meta:
            return list(range(self._value(meta["count"], {})))
        if "for_each" in meta:
            return self._value(meta["for_each"], {})
        return None

    def _reference(self, name: str) -> object:
        if name not in self._resources:
            raise Refused(f"there is no resource {name}")
        match self._keys(name):
            case None:
                return Reference(name, self._attribute_of)
            case list() as numbers:
                return [Reference(f"{name}[{number}]", self._attribute_of) for number in numbers]
            case dict() as each:
                return {key: Reference(f'{name}["{key}"]', self._attribute_of) for key in each}

    def _instances(self, name: str, body: Tree) -> Iterator[tuple[str, dict]]:
        match self._keys(name):
            case None:
                yield name, self._block(name, body, {})
            case list() as numbers:
                for number in numbers:
                    yield f"{name}[{number}]", self._block(name, body, {})
            case dict() as each:
                for key, value in each.items():
                    yield f'{name}["{key}"]', self._block(name, body, {"each": {"key": key, "value": value}})

    def _block(self, subject: str, body: Tree, scope: dict) -> dict:
        """A block's arguments, and a list for each kind of block in it. What is null is left out, as Terraform does."""
        filled = {name: self._value(value, scope) for name, value in attributes(body).items() if name not in META_ARGUMENTS}
        filled = {name: value for name, value in filled.items() if value is not None}
        for kind, labels, inner in blocks(body):
            if kind == "lifecycle":
                for condition, _, terms in blocks(inner):
                    assert condition == "precondition", condition
                    self._expect(subject, terms, scope)
            elif kind == "dynamic":
                (content, _, terms), = blocks(inner)
                assert content == "content", content
                for key, value in in_order(self._value(attributes(inner)["for_each"], scope)):
                    within = scope | {labels[0]: {"key": key, "value": value}}
                    filled.setdefault(labels[0], []).append(self._block(subject, terms, within))
            else:
                assert not labels, labels
                filled.setdefault(kind, []).append(self._block(subject, inner, scope))
        return filled

    def _value(self, tree: Tree, scope: dict) -> object:
        evaluate = getattr(self, f"_value_of_{tree.data}", None)
        if evaluate is None:
            raise NotImplementedError(f"{tree.data}: {tree.pretty()}")
        return evaluate(tree, scope)

    def _value_of_expr_term(self, tree: Tree, scope: dict) -> object:
        inner, = nodes(tree)
        return self._value(inner, scope)

    def _value_of_conditional(self, tree: Tree, scope: dict) -> object:
        condition, then, otherwise = nodes(tree)
        return self._value(then if self._truth(condition, scope) else otherwise, scope)

    def _truth(self, tree: Tree, scope: dict) -> bool:
        value = self._value(tree, scope)
        if not isinstance(value, bool):
            raise Refused(f"{value!r} is no bool")
        return value

    def _value_of_binary_op(self, tree: Tree, scope: dict) -> object:
        left, term = nodes(tree)
        operator, right = nodes(term)
        match tokens(operator)[0]:
            # Terraform before 1.12 evaluates both sides, and fails where either does.
            case "&&":
                return all([self._truth(left, scope), self._truth(right, scope)])
            case "||":
                return any([self._truth(left, scope), self._truth(right, scope)])
            case sign:
                return self._compared(sign, self._value(left, scope), self._value(right, scope))

    @staticmethod
    def _compared(sign: str, left: object, right: object) -> bool:
        if sign in ("==", "!="):
            # To Terraform, true is not 1.
            equal = isinstance(left, bool) == isinstance(right, bool) and left == right
            return equal == (sign == "==")
        if None in (left, right):
            raise Refused("null has no order")
        match sign:
            case "<=":
                return left <= right
            case ">=":
                return left >= right
            case ">":
                return left > right
        raise NotImplementedError(sign)

    def _value_of_unary_op(self, tree: Tree, scope: dict) -> bool:
        if tokens(tree) != ["!"]:
            raise NotImplementedError(tokens(tree))
        return not self._truth(nodes(tree)[0], scope)

    def _value_of_int_lit(self, tree: Tree, _: dict) -> int:
        return int(tokens(tree)[0])

    def _value_of_literal_value(self, tree: Tree, _: dict) -> object:
        return {"true": True, "false": False, "null": None}[tokens(tree)[0]]

    def _value_of_string(self, tree: Tree, scope: dict) -> object:
        values = [self._part(part, scope) for part in nodes(tree)]
        if len(values) == 1:
            return values[0]
        if any(isinstance(value, (dict, list, Reference, Namespace)) or value is None for value in values):
            raise Refused(f"no text: {values}")
        return "".join(text(value) for value in values)

    def _part(self, part: Tree, scope: dict) -> object:
        if inner := nodes(part):
            assert inner[0].data == "interpolation", inner[0].data
            return self._value(nodes(inner[0])[0], scope)
        token, = part.children
        if token.type != "STRING_CHARS":
            raise NotImplementedError(token.type)
        return re.sub(r"\\(.)", lambda escape: ESCAPES[escape[1]], str(token))

    def _value_of_tuple(self, tree: Tree, scope: dict) -> list:
        return [self._value(entry, scope) for entry in nodes(tree)]

    def _value_of_object(self, tree: Tree, scope: dict) -> dict:
        return {self._key(key, scope): self._value(value, scope) for key, value in map(nodes, nodes(tree))}

    def _key(self, tree: Tree, scope: dict) -> str:
        key, = nodes(tree)
        while key.data == "expr_term" and not tokens(key):
            key, = nodes(key)
        return tokens(key)[0] if key.data in ("identifier", "keyword") else self._value(key, scope)

    def _value_of_identifier(self, tree: Tree, scope: dict) -> object:
        name, = tokens(tree)
        match name:
            case _ if name in scope:
                return scope[name]
            case "var":
                return Namespace(lambda variable: self.variables[variable])
            case "local":
                return Namespace(self.local)
            case "data":
                return Namespace(lambda kind: Namespace(lambda label: self._data_source(f"{kind}.{label}")))
            case _ if name.startswith("aws_"):
                return Namespace(lambda label: self._reference(f"{name}.{label}"))
        raise NotImplementedError(name)

    def _data_source(self, name: str) -> Reference:
        if name not in self._data:
            raise Refused(f"there is no data source {name}")
        return Reference(f"data.{name}", self._attribute_of)

    def _value_of_get_attr_expr_term(self, tree: Tree, scope: dict) -> object:
        base, attribute = nodes(tree)
        return self._attribute(self._value(base, scope), tokens(nodes(attribute)[0])[0])

    @staticmethod
    def _attribute(base: object, name: str) -> object:
        match base:
            case Namespace():
                return base.entry(name)
            case Reference():
                return base.attributes(base.address, name)
            case dict() if name in base:
                return base[name]
        raise Refused(f"{base!r} has no attribute {name}")

    def _value_of_index_expr_term(self, tree: Tree, scope: dict) -> object:
        base, index = nodes(tree)
        value, at = self._value(base, scope), self._value(nodes(index)[0], scope)
        try:
            return value[at]
        except (KeyError, IndexError) as error:
            raise Refused(f"nothing at {at!r}") from error

    def _value_of_full_splat_expr_term(self, tree: Tree, scope: dict) -> list:
        base, splat = nodes(tree)
        values = self._value(base, scope)
        assert isinstance(values, list), values
        for attribute in nodes(splat):
            values = [self._attribute(value, tokens(nodes(attribute)[0])[0]) for value in values]
        return values

    def _value_of_for_tuple_expr(self, tree: Tree, scope: dict) -> list:
        intro, value, *condition = nodes(tree)
        return [self._value(value, within) for within in self._iterated(intro, condition, scope)]

    def _value_of_for_object_expr(self, tree: Tree, scope: dict) -> dict:
        intro, key, value, *condition = nodes(tree)
        assert "..." not in tokens(tree)
        return {self._value(key, within): self._value(value, within) for within in self._iterated(intro, condition, scope)}

    def _iterated(self, intro: Tree, condition: list[Tree], scope: dict) -> Iterator[dict]:
        *names, collection = nodes(intro)
        for key, value in in_order(self._value(collection, scope)):
            within = scope | dict(zip([tokens(name)[0] for name in names], [key, value] if len(names) == 2 else [value]))
            if not condition or self._truth(nodes(condition[0])[0], within):
                yield within

    def _value_of_function_call(self, tree: Tree, scope: dict) -> object:
        name, *arguments = nodes(tree)
        given = nodes(arguments[0]) if arguments else []
        assert not arguments or "..." not in tokens(arguments[0])
        match tokens(name)[0]:
            case "can":
                return self._attempt(given[0], scope) is not None
            case "try":
                attempts = [self._attempt(attempt, scope) for attempt in given]
                found = [attempt for attempt in attempts if attempt]
                if not found:
                    raise Refused("try: nothing succeeds")
                return found[0][0]
            case function if function in FUNCTIONS:
                values = [self._value(argument, scope) for argument in given]
                if None in values and function not in TAKE_NULL:
                    raise Refused(f"{function}: an argument is null")
                return FUNCTIONS[function](*values)
            case function:
                raise NotImplementedError(function)

    def _attempt(self, tree: Tree, scope: dict) -> tuple | None:
        try:
            return (self._value(tree, scope),)
        except Refused:
            return None


def in_order(values: dict | list) -> list[tuple]:
    """What Terraform goes through: a list as it is, an object in the order of its keys."""
    return sorted(values.items(), key=lambda pair: pair[0]) if isinstance(values, dict) else list(enumerate(values))


def text(value: object) -> str:
    """As Terraform writes a value into a text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def encoded(value: object) -> str:
    """Terraform's `jsonencode`, which is safe inside HTML."""
    written = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def decoded(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError as error:
        raise Refused(f"jsondecode: {error}") from error


def matched(pattern: str, value: str) -> str:
    # Terraform's `$` does not match before a line break at the end, as Python's does.
    found = re.search(re.sub(r"\$$", r"\\Z", pattern), value)
    if not found:
        raise Refused(f"regex: {value!r} is not {pattern}")
    return found[0]


def flat(values: list) -> list:
    return [entry for value in values for entry in (flat(value) if isinstance(value, list) else [value])]


def only(values: list) -> object:
    if len(values) > 1:
        raise Refused("one: there are several")
    return values[0] if values else None


def first(*values: object) -> object:
    found = [value for value in values if value not in (None, "")]
    if not found:
        raise Refused("coalesce: there is no value")
    return found[0]


def named(value: object) -> list[str]:
    if not isinstance(value, dict):
        raise Refused(f"keys: {value!r} is no object")
    return sorted(value)


def hashed(path: str) -> str:
    try:
        return base64.b64encode(hashlib.sha256(Path(path).read_bytes()).digest()).decode()
    except OSError as error:
        raise Refused(f"filebase64sha256: {error}") from error


def merged(*values: dict) -> dict:
    return {key: entry for value in values for key, entry in value.items()}


FUNCTIONS: dict[str, Callable] = {
    "alltrue": all, "coalesce": first, "concat": lambda *lists: [entry for one in lists for entry in one],
    "contains": lambda values, value: value in values, "endswith": lambda value, ending: value.endswith(ending),
    "filebase64sha256": hashed, "flatten": flat, "floor": math.floor, "join": lambda glue, values: glue.join(values),
    "jsondecode": decoded, "jsonencode": encoded, "keys": named, "length": len, "lower": str.lower, "merge": merged,
    "one": only, "regex": matched, "tostring": text,
}
TAKE_NULL = {"coalesce", "jsonencode"}
