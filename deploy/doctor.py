#!/usr/bin/env python3
"""Prints the function's answer to {"check": true}, which is read from standard input, for a person: a line for each test, and
below it what to do. Ends with 1 if a test failed, and with 2 if there is no checklist. Needs Python 3 alone.

    doctor.py NAME <answer.json
"""

import json
import sys
import textwrap

MARKS = {"ok": "\u2713", "warning": "!", "failed": "\u2717", "remedy": "\u2192"}
# For a terminal that has only ASCII.
PLAIN_MARKS = {"ok": "+", "warning": "!", "failed": "x", "remedy": "->"}
WIDTH = 100


def wrapped(text: str, first: str, rest: str) -> str:
    """The text on lines of at most WIDTH characters; names and commands stay whole."""
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest,
                         break_long_words=False, break_on_hyphens=False)


def mark(name: str) -> str:
    try:
        MARKS[name].encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return PLAIN_MARKS[name]
    return MARKS[name]


def shown(line: dict) -> str:
    text = wrapped(f"{line['check']}: {line['detail']}", f"  {mark(line['status'])} ", "    ")
    if line.get("remedy"):
        text += "\n" + wrapped(line["remedy"], f"      {mark('remedy')} ", "        ")
    return text


def summed_up(lines: list) -> str:
    counts = {status: sum(line["status"] == status for line in lines) for status in ("failed", "warning", "ok")}
    return f"{counts['failed']} failed, {counts['warning']} to look at, {counts['ok']} ok"


def main(name: str, text: str) -> int:
    print(name)
    if not text.strip():
        print(wrapped("it could not be invoked; the AWS CLI says why, above", f"  {mark('failed')} ", "    "))
        return 2
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict) or "checks" not in answer:
        # A function that can't start says why, and one of an older version that it does not know the event.
        message = answer.get("errorMessage") if isinstance(answer, dict) else None
        print(wrapped(message or "the function gave no checklist; its log says why", f"  {mark('failed')} ", "    "))
        return 2
    for line in answer["checks"]:
        print(shown(line))
    print(f"  {summed_up(answer['checks'])}")
    return 1 if answer["outcome"] == "failed" else 0


if __name__ == "__main__":
    # What names and texts have beside ASCII is replaced where the terminal can't show it.
    sys.stdout.reconfigure(errors="replace")
    sys.exit(main(" ".join(sys.argv[1:]), sys.stdin.read()))
