"""GitHub's workflows as the tests read them."""

import itertools
from pathlib import Path

import yaml

from conftest import CHECKOUT

FOLDER = CHECKOUT / ".github/workflows"


class Loader(yaml.SafeLoader):
    """Reads `on` as the word that GitHub reads, and not as YAML 1.1's true."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}


def read(file: Path) -> dict:
    return yaml.load(file.read_text(), Loader)


def jobs() -> list[tuple[str, dict]]:
    """Every job of every workflow, each with a name that says where it is."""
    return [(f"{file.name}: {name}", job) for file in sorted(FOLDER.glob("*.yml"))
            for name, job in read(file)["jobs"].items()]


def steps() -> list[tuple[str, dict]]:
    """Every step, likewise."""
    return [(name, step) for name, job in jobs() for step in job["steps"]]


def matrix(job: dict) -> list[dict[str, str]]:
    """The values of each job that GitHub makes of this one: all combinations, and what `include` adds to those that have its
    values, or else as a combination of its own."""
    axes = dict(job.get("strategy", {}).get("matrix", {}))
    included = axes.pop("include", [])
    made = [dict(zip(axes, values)) for values in itertools.product(*axes.values())] if axes else []
    originals = len(made)
    for entry in included:
        fitting = [values for values in made[:originals]
                   if all(values.get(name, value) == value for name, value in entry.items() if name in axes)]
        if axes and fitting:
            for values in fitting:
                values |= entry
        else:
            made.append(dict(entry))
    return made or [{}]


def fill(text: str, values: dict[str, str]) -> str:
    """A text with the matrix's values filled in."""
    for name, value in values.items():
        text = text.replace("${{ matrix.%s }}" % name, value)
    assert "${{ matrix." not in text, text
    return text


def uploads(workflow: str) -> list[str]:
    """The names of all artifacts that a workflow uploads."""
    return [fill(step["with"]["name"], values) for job in read(FOLDER / workflow)["jobs"].values() for values in matrix(job)
            for step in job["steps"] if step.get("uses", "").startswith("actions/upload-artifact@")]
