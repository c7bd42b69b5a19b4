"""The alarms, played through: each goes off once for what happened, and clears by itself, though its trace stays."""

import json
import re
from functools import cache

import pytest

from alarms import VARIANTS, Metrics, is_on, period, series_of
from conftest import CHECKOUT
from stack import Stack

HOUR, DAY = 60, 24 * 60
# When something happens in the following, long after the metrics began.
EVENT = 3 * DAY
ENABLED = {"ScheduleState": "ENABLED"}
FUNCTION, QUEUES, LAMBDA, API = "ghcr-to-ecr", "AWS/SQS", "AWS/Lambda", "AWS/ApiGateway"


@cache
def alarms(**parameters: object) -> dict[str, dict]:
    return Stack(**parameters).of_type("AWS::CloudWatch::Alarm")


def times_on(alarm: dict, metrics: Metrics, variant, start: int, end: int) -> list[tuple[int, int]]:
    """From when to when the alarm is on between two minutes."""
    times, since = [], None
    for minute in range(start, end + 1, 5 if period(alarm) < HOUR else 30):
        now = is_on(alarm, metrics, minute, variant)
        if now and since is None:
            since = minute
        elif not now and since is not None:
            times.append((since, minute))
            since = None
    return times if since is None else [*times, (since, None)]


def expect_on(alarm: dict, metrics: Metrics, events: list[int], end: int, within: int, cleared_after: int) -> None:
    """The alarm goes off for each event, soon after it, and clears by itself; and it goes off for nothing else."""
    for variant in VARIANTS:
        times = times_on(alarm, metrics, variant, HOUR, end)
        assert len(times) == len(events), (variant, times)
        for event, (since, until) in zip(events, times):
            assert event <= since <= event + within, (variant, times)
            assert until is not None and until - since <= cleared_after, (variant, times)


def depth(metrics: Metrics, queue: str, minutes: range, messages: int) -> None:
    """What SQS reports of a queue each minute."""
    for minute in minutes:
        metrics.put(QUEUES, "ApproximateNumberOfMessagesVisible", minute, messages, QueueName=f"{queue}.QueueName")


QUEUES_OF_FAILURES = [("DeadLetterAlarm", "DeadLetterQueue"), ("FailureAlarm", "FailureQueue")]


@pytest.mark.parametrize(("name", "queue"), QUEUES_OF_FAILURES)
@pytest.mark.parametrize("was_silent", [True, False], ids=["SQS reported nothing before", "SQS reported 0 before"])
def test_a_message_raises_the_alarm_when_it_arrives_and_not_while_it_lies_there(name, queue, was_silent):
    metrics = Metrics()
    if not was_silent:
        depth(metrics, queue, range(EVENT), 0)
    depth(metrics, queue, range(EVENT, EVENT + 14 * DAY), 1)

    expect_on(alarms()[name], metrics, [EVENT], EVENT + 15 * DAY, within=15, cleared_after=HOUR)


@pytest.mark.parametrize(("name", "queue"), QUEUES_OF_FAILURES)
def test_each_further_message_raises_the_alarm_again(name, queue):
    metrics, events = Metrics(), [EVENT, EVENT + 5 * HOUR, EVENT + DAY]
    depth(metrics, queue, range(events[0], events[1]), 1)
    depth(metrics, queue, range(events[1], events[2]), 2)
    depth(metrics, queue, range(events[2], EVENT + 14 * DAY), 7)

    expect_on(alarms()[name], metrics, events, EVENT + 5 * DAY, within=15, cleared_after=HOUR)


@pytest.mark.parametrize(("name", "queue"), QUEUES_OF_FAILURES)
def test_whoever_reads_sends_back_or_purges_messages_raises_no_alarm(name, queue):
    metrics = Metrics()
    depth(metrics, queue, range(EVENT), 4)
    # Read: each message is hidden for half a minute. Then some are sent back, and the others are purged.
    depth(metrics, queue, range(EVENT, EVENT + 1), 0)
    depth(metrics, queue, range(EVENT + 1, EVENT + HOUR), 4)
    depth(metrics, queue, range(EVENT + HOUR, EVENT + 2 * HOUR), 2)
    depth(metrics, queue, range(EVENT + 2 * HOUR, EVENT + 5 * HOUR), 0)

    expect_on(alarms()[name], metrics, [], EVENT + DAY, within=0, cleared_after=0)


def test_a_job_that_fails_again_after_it_was_sent_back_raises_the_alarm_again():
    metrics, queue = Metrics(), "DeadLetterQueue"
    depth(metrics, queue, range(EVENT - DAY, EVENT), 3)
    depth(metrics, queue, range(EVENT, EVENT + HOUR), 0)
    depth(metrics, queue, range(EVENT + HOUR, EVENT + DAY), 3)

    expect_on(alarms()["DeadLetterAlarm"], metrics, [EVENT - DAY, EVENT + HOUR], EVENT + DAY, within=15, cleared_after=HOUR)


def test_what_is_given_up_while_other_messages_are_sent_back_raises_the_alarm():
    metrics, queue = Metrics(), "DeadLetterQueue"
    depth(metrics, queue, range(EVENT), 9)
    depth(metrics, queue, range(EVENT, EVENT + DAY), 5)
    metrics.put(QUEUES, "NumberOfMessagesSent", EVENT, 1, QueueName=f"{queue}.QueueName")

    expect_on(alarms()["DeadLetterAlarm"], metrics, [EVENT], EVENT + DAY, within=15, cleared_after=HOUR)


# Each of the other alarms: the metric, and a value of it that raises the alarm when it is reported once.
SINGLE_EVENTS = {
    "JobAgeAlarm": (QUEUES, "ApproximateAgeOfOldestMessage", {"QueueName": "JobQueue.QueueName"}, 1800),
    "WebhookRefusalAlarm": (API, "5xx", {"ApiId": "WebhookApi"}, 1),
    "WebhookThrottlingAlarm": ("mirror", "WebhookThrottling", {}, 1),
    "WebhookErrorsAlarm": (LAMBDA, "Errors", {"FunctionName": "WebhookFunction"}, 1),
    "WebhookThrottlesAlarm": (LAMBDA, "Throttles", {"FunctionName": "WebhookFunction"}, 1),
    "CopyErrorsAlarm": (LAMBDA, "Errors", {"FunctionName": "CopyFunction"}, 1),
    "CopyThrottlesAlarm": (LAMBDA, "Throttles", {"FunctionName": "CopyFunction"}, 1),
    "CopyDurationAlarm": (LAMBDA, "Duration", {"FunctionName": "CopyFunction"}, 898_000),
    "RegistryThrottlingAlarm": (FUNCTION, "Throttled", {}, 100),
}


@pytest.mark.parametrize("name", SINGLE_EVENTS)
@pytest.mark.parametrize("is_alone", [True, False], ids=["and nothing else", "among others"])
def test_an_event_raises_its_alarm_and_the_alarm_clears(name, is_alone):
    namespace, metric, dimensions, value = SINGLE_EVENTS[name]
    metrics = Metrics()
    metrics.put(namespace, metric, EVENT, value, **dimensions)
    if not is_alone:
        for minute in range(0, EVENT + DAY):
            metrics.put(namespace, metric, minute, 0, **dimensions)

    expect_on(alarms()[name], metrics, [EVENT], EVENT + DAY, within=15, cleared_after=HOUR)


@pytest.mark.parametrize("name", SINGLE_EVENTS)
def test_less_than_the_threshold_raises_no_alarm(name):
    namespace, metric, dimensions, value = SINGLE_EVENTS[name]
    metrics = Metrics()
    metrics.put(namespace, metric, EVENT, value * 0.9, **dimensions)

    expect_on(alarms()[name], metrics, [], EVENT + DAY, within=0, cleared_after=0)


PERMANENT = ["Invalid", "Denied", "NotFound", "Immutable", "Internal"]
PASSING = ["Transient"]


@pytest.mark.parametrize("kind", PERMANENT)
def test_an_image_that_failed_for_good_raises_the_alarm_once(kind):
    metrics = Metrics()
    metrics.put(FUNCTION, "Failures", EVENT, 1, Kind=kind)

    expect_on(alarms()["PermanentFailuresAlarm"], metrics, [EVENT], EVENT + DAY, within=15, cleared_after=HOUR)
    expect_on(alarms()["PassingFailuresAlarm"], metrics, [], EVENT + DAY, within=0, cleared_after=0)


@pytest.mark.parametrize("kind", PASSING)
def test_an_outage_raises_the_alarm_a_single_failure_does_not(kind):
    metrics = Metrics()
    metrics.put(FUNCTION, "Failures", EVENT, 9, Kind=kind)
    for minute in range(EVENT + DAY, EVENT + DAY + HOUR):
        metrics.put(FUNCTION, "Failures", minute, 1, Kind=kind)

    expect_on(alarms()["PassingFailuresAlarm"], metrics, [EVENT + DAY], EVENT + 2 * DAY, within=15, cleared_after=3 * HOUR)
    expect_on(alarms()["PermanentFailuresAlarm"], metrics, [], EVENT + 2 * DAY, within=0, cleared_after=0)


def scheduled_runs(metrics: Metrics, minutes: range) -> None:
    """Runs that got to their end, in each of which one image failed for good."""
    for minute in minutes:
        metrics.put(FUNCTION, "CompletedRuns", minute, 1)
        metrics.put(FUNCTION, "Images", minute, 1, Outcome="failed")
        metrics.put(FUNCTION, "Images", minute, 1, Outcome="failed", Kind="Denied")
        metrics.put(LAMBDA, "Errors", minute, 0, FunctionName="CopyFunction")
        metrics.put(LAMBDA, "Duration", minute, 60_000, FunctionName="CopyFunction")


@pytest.mark.parametrize("name", alarms(**ENABLED))
def test_an_image_that_fails_in_every_hourly_run_holds_no_alarm_on(name):
    metrics = Metrics()
    scheduled_runs(metrics, range(0, 5 * DAY, HOUR))

    for variant in VARIANTS:
        assert times_on(alarms(**ENABLED)[name], metrics, variant, 2 * HOUR, 5 * DAY) == [], variant


@pytest.mark.parametrize("name", alarms(**ENABLED))
def test_a_run_that_fails_each_hour_for_what_may_pass_leaves_no_alarm_on_between_its_repetitions(name):
    metrics = Metrics()
    scheduled_runs(metrics, range(0, 3 * DAY, HOUR))
    for minute in range(0, 3 * DAY, HOUR):
        for attempt in (0, 1, 3):
            metrics.put(LAMBDA, "Errors", minute + attempt, 1, FunctionName="CopyFunction")
            metrics.put(FUNCTION, "Failures", minute + attempt, 1, Kind="Transient")
            metrics.put(FUNCTION, "Failures", minute + attempt, 1, Kind="Internal")

    for variant in VARIANTS:
        times = times_on(alarms(**ENABLED)[name], metrics, variant, 2 * HOUR, 3 * DAY - HOUR)
        assert all(until - since < HOUR for since, until in times), (variant, times)
        assert bool(times) == (name in ("CopyErrorsAlarm", "PermanentFailuresAlarm")), (variant, times)


@pytest.mark.parametrize("name", alarms())
def test_a_stack_that_nobody_uses_raises_no_alarm(name):
    for variant in VARIANTS:
        assert not is_on(alarms()[name], Metrics(), EVENT, variant), variant


@pytest.mark.parametrize("uses_a_day", [24, 1])
@pytest.mark.parametrize("new_token", [365, None], ids=["that expires in a year", "that does not expire"])
def test_a_token_that_expires_raises_the_alarm_until_a_day_after_there_is_another(uses_a_day, new_token):
    metrics = Metrics()
    for day in range(40):
        left = 20 - day if day < 10 else new_token
        for use in range(uses_a_day if left is not None else 0):
            metrics.put(FUNCTION, "TokenDaysLeft", day * DAY + use * DAY // uses_a_day, left)

    # On the seventh day fourteen are left; at the tenth the token is replaced.
    expect_on(alarms()["TokenExpiryAlarm"], metrics, [6 * DAY], 40 * DAY, within=HOUR, cleared_after=5 * DAY)


def test_a_token_that_one_of_two_owners_has_renewed_does_not_hide_the_others():
    metrics = Metrics()
    for hour in range(5 * 24):
        metrics.put(FUNCTION, "TokenDaysLeft", hour * HOUR, 300)
        metrics.put(FUNCTION, "TokenDaysLeft", hour * HOUR, 3)

    for variant in VARIANTS:
        assert times_on(alarms()["TokenExpiryAlarm"], metrics, variant, DAY, 5 * DAY) == [(DAY, None)], variant


def test_runs_that_stop_raise_the_alarm_after_a_day_and_the_next_one_clears_it():
    metrics = Metrics()
    scheduled_runs(metrics, range(0, EVENT, HOUR))
    scheduled_runs(metrics, range(EVENT + 3 * DAY, EVENT + 5 * DAY, HOUR))
    alarm = alarms(**ENABLED)["ScheduleAlarm"]

    for variant in VARIANTS:
        (since, until), = times_on(alarm, metrics, variant, 2 * HOUR, EVENT + 5 * DAY)
        assert DAY <= since - EVENT <= DAY + 2 * HOUR, variant
        assert until <= EVENT + 3 * DAY + HOUR, variant


@pytest.mark.parametrize(("hours", "interval"), [(25, DAY), (49, 2 * DAY), (168, 6 * DAY)])
def test_a_schedule_of_its_own_interval_raises_no_alarm_while_it_runs(hours, interval):
    metrics = Metrics()
    # EventBridge Scheduler may be five minutes late, and a run lasts for up to fifteen.
    scheduled_runs(metrics, [run * interval + (run % 2) * 20 for run in range(5)])
    alarm = alarms(**ENABLED, RunAlarmHours=hours)["ScheduleAlarm"]

    for variant in VARIANTS:
        assert times_on(alarm, metrics, variant, HOUR, 4 * interval) == [], variant


def test_no_runs_are_expected_where_there_is_no_schedule_or_somebody_says_so():
    assert "ScheduleAlarm" not in alarms()
    assert "ScheduleAlarm" not in alarms(**ENABLED, RunAlarmHours=0)


def test_all_alarms_are_played_through_and_tell_the_topic_what_to_do():
    played = {*SINGLE_EVENTS, *dict(QUEUES_OF_FAILURES), "PermanentFailuresAlarm", "PassingFailuresAlarm", "TokenExpiryAlarm",
              "ScheduleAlarm"}
    topic = "arn:aws:sns:eu-west-3:123456789012:operations"
    told = alarms(**ENABLED, AlarmTopicArn=topic)
    assert told.keys() == played
    assert all(alarm["AlarmActions"] == [topic] for alarm in told.values())
    assert not any("AlarmActions" in alarm for alarm in alarms(**ENABLED).values())
    # What happened, and what to do about it.
    assert all(alarm["AlarmDescription"].count(". ") >= 1 for alarm in told.values())


def test_an_alarm_looks_back_no_further_than_cloudwatch_does():
    for name, alarm in alarms(**ENABLED, RunAlarmHours=168).items():
        limit = 7 * DAY if period(alarm) >= HOUR else DAY
        assert period(alarm) * alarm["EvaluationPeriods"] <= limit, name
        assert len(alarm.get("Metrics", [])) <= 10, name


def test_an_old_value_would_hold_an_alarm_on_without_fill():
    """What FILL is for: the players above would see an alarm without it stay on."""
    alarm = {"Namespace": FUNCTION, "MetricName": "TokenDaysLeft", "Statistic": "Minimum", "Period": 86400,
             "EvaluationPeriods": 1, "Threshold": 14, "ComparisonOperator": "LessThanOrEqualToThreshold",
             "TreatMissingData": "notBreaching"}
    metrics = Metrics()
    metrics.put(FUNCTION, "TokenDaysLeft", EVENT, 10)
    farthest = max(VARIANTS, key=lambda variant: variant.further_periods)

    assert is_on(alarm, metrics, EVENT + 4 * DAY, farthest)
    assert not is_on(alarms()["TokenExpiryAlarm"], metrics, EVENT + 4 * DAY, farthest)
    assert series_of(alarm, metrics, EVENT + DAY, farthest)[-1] == 10


def reported() -> set[str]:
    """The metrics that the function reports."""
    code = (CHECKOUT / "src/metrics.rs").read_text()
    assert f'NAMESPACE: &str = "{FUNCTION}"' in code
    names = set(re.findall(r'\("([A-Z][A-Za-z]+)", ', code)) - {"Outcome", "Kind"}
    assert len(names) >= 14
    return names


@pytest.mark.parametrize("parameters", [{}, ENABLED], ids=["without a schedule", "with a schedule"])
def test_the_dashboard_shows_every_alarm_and_every_metric(parameters):
    stack = Stack(**parameters)
    dashboard, = stack.of_type("AWS::CloudWatch::Dashboard").values()
    widgets = json.loads(dashboard["DashboardBody"])["widgets"]
    shown = [metric for widget in widgets if widget["type"] == "metric" for metric in widget["properties"]["metrics"]]
    assert {name for namespace, name, *_ in shown if namespace == FUNCTION} == reported()
    named, = [widget["properties"]["alarms"] for widget in widgets if widget["type"] == "alarm"]
    assert sorted(named) == sorted(f"{name}.Arn" for name in stack.of_type("AWS::CloudWatch::Alarm"))
    for alarm in stack.of_type("AWS::CloudWatch::Alarm").values():
        queries = [entry["MetricStat"]["Metric"] for entry in alarm.get("Metrics", []) if "MetricStat" in entry] or [alarm]
        for query in queries:
            dimensions = [word for entry in query.get("Dimensions", []) for word in (entry["Name"], entry["Value"])]
            wanted = [query["Namespace"], query["MetricName"], *dimensions]
            assert any(metric[:len(wanted)] == wanted for metric in shown), wanted


def test_the_widgets_of_the_dashboard_lie_side_by_side():
    dashboard, = Stack().of_type("AWS::CloudWatch::Dashboard").values()
    cells = [(column, row) for widget in json.loads(dashboard["DashboardBody"])["widgets"]
             for column in range(widget.get("x", 0), widget.get("x", 0) + widget["width"])
             for row in range(widget.get("y", 0), widget.get("y", 0) + widget["height"])]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24
