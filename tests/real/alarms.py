"""CloudWatch, as far as this stack's alarms use it: metrics, the functions of metric math, and when an alarm is on.

Where AWS does not say how CloudWatch behaves, or says that it may differ, `VARIANTS` has each possibility, and what is
shown of an alarm has to hold in all of them. (CloudWatch user guide, "Using metric math", "Configuring how CloudWatch alarms treat
missing data", "Alarm evaluation")
"""

import ast
import itertools
from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache

Series = list[float | None]


@dataclass(frozen=True)
class Variant:
    # CloudWatch looks at more periods than an alarm names, so that late data count; how many more is not said.
    further_periods: int
    # Whether FILL makes something of a metric that has nothing at all in these periods.
    fills_what_is_empty: bool


VARIANTS = [Variant(*choice) for choice in itertools.product((0, 4), (False, True))]


@dataclass
class Metrics:
    """What was measured: for each metric the minutes and values, in order."""

    values: dict[tuple, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))

    def put(self, namespace: str, name: str, minute: int, value: float, **dimensions: str) -> None:
        insort(self.values[namespace, name, *sorted(dimensions.items())], (minute, value))

    def statistic(self, query: dict, minute: int, periods: int) -> Series:
        """One metric in the last periods before `minute`, the oldest first. The window slides: it ends wherever it is asked for."""
        metric, length = query["Metric"], query["Period"] // 60
        dimensions = sorted((entry["Name"], entry["Value"]) for entry in metric.get("Dimensions", []))
        values = self.values.get((metric["Namespace"], metric["MetricName"], *dimensions), [])
        reduce = {"Sum": sum, "Maximum": max, "Minimum": min}[query["Stat"]]
        series = []
        for end in range(minute - (periods - 1) * length, minute + 1, length):
            window = values[bisect_left(values, (end - length,)):bisect_left(values, (end,))]
            series.append(reduce(value for _, value in window) if window else None)
        return series


def _points(function, *series: Series) -> Series:
    """Applies a function to what each period has; a period in which no series has anything has nothing."""
    columns = [[value for value in column if value is not None] for column in zip(*series)]
    return [function(column) if column else None for column in columns]


def _fill(series: Series, value: float, variant: Variant) -> Series:
    is_empty = all(point is None for point in series)
    return series if is_empty and not variant.fills_what_is_empty else [value if point is None else point for point in series]


def _diff(series: Series) -> Series:
    pairs = zip([None, *series], series)
    return [None if before is None or point is None else point - before for before, point in pairs]


@cache
def _parsed(expression: str) -> ast.expr:
    return ast.parse(expression, mode="eval").body


def _expression(node: ast.expr, series: dict[str, Series], variant: Variant):
    """An expression of metric math. Its syntax is Python's where this stack uses it."""
    match node:
        case ast.Constant(value=int() | float()):
            return node.value
        case ast.Name():
            return series[node.id]
        case ast.List():
            return [_expression(entry, series, variant) for entry in node.elts]
        case ast.Call(func=ast.Name(id=function)):
            arguments = [_expression(argument, series, variant) for argument in node.args]
            match function:
                case "FILL":
                    return _fill(*arguments, variant)
                case "DIFF":
                    return _diff(*arguments)
                case "SUM":
                    return _points(sum, *arguments[0])
                case "MAX":
                    return _points(max, *arguments[0])
    raise NotImplementedError(ast.unparse(node))


def period(alarm: dict) -> int:
    """The alarm's period in minutes."""
    lengths = {entry["MetricStat"]["Period"] for entry in alarm.get("Metrics", []) if "MetricStat" in entry}
    length, = lengths or {alarm["Period"]}
    return length // 60


def is_breaching(alarm: dict, value: float) -> bool:
    threshold = alarm["Threshold"]
    return {
        "GreaterThanThreshold": value > threshold,
        "GreaterThanOrEqualToThreshold": value >= threshold,
        "LessThanThreshold": value < threshold,
        "LessThanOrEqualToThreshold": value <= threshold,
    }[alarm["ComparisonOperator"]]


def series_of(alarm: dict, metrics: Metrics, minute: int, variant: Variant) -> Series:
    """What the alarm compares with its threshold, the oldest first."""
    periods = alarm["EvaluationPeriods"] + variant.further_periods
    if "Metrics" not in alarm:
        query = {"Metric": alarm, "Period": alarm["Period"], "Stat": alarm["Statistic"]}
        return metrics.statistic(query, minute, periods)
    series = {entry["Id"]: metrics.statistic(entry["MetricStat"], minute, periods)
              for entry in alarm["Metrics"] if "MetricStat" in entry}
    result, = [entry for entry in alarm["Metrics"] if entry.get("ReturnData", True)]
    return _expression(_parsed(result["Expression"]), series, variant)


def is_on(alarm: dict, metrics: Metrics, minute: int, variant: Variant) -> bool:
    """Whether the alarm is on. Where enough periods have values, the last of them count, whatever is missing between them; only
    what they lack is made up for by `TreatMissingData`."""
    needed = alarm["EvaluationPeriods"]
    found = [value for value in series_of(alarm, metrics, minute, variant) if value is not None][-needed:]
    made_up = {"breaching": True, "notBreaching": False}[alarm["TreatMissingData"]]
    breaching = [is_breaching(alarm, value) for value in found] + [made_up] * (needed - len(found))
    return sum(breaching) >= alarm.get("DatapointsToAlarm", needed)
