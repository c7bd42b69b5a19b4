"""Draws the README's picture: what `make demo` shows of one copy, as an SVG.

    python3 docs/one-copy.py docs/one-copy.svg target/debug/demo target/debug/bootstrap

Nothing in it is made up: the demonstration runs on a terminal of its own, and the picture ends where its third scene begins.
"""

import os
import re
import subprocess
import sys
from html import escape
from pathlib import Path

COLUMN, ROW, MARGIN = 8.4, 20, 24
COLUMNS = 84
STYLE = """\
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre;fill:#24292f}
.page{fill:#f6f8fa;stroke:#d0d7de}.quiet{fill:#57606a}.title{font-weight:700}.good{fill:#1a7f37}.digest{fill:#0550ae}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117;stroke:#30363d}.quiet{fill:#8b949e}.good{fill:#3fb950}.digest{fill:#79c0ff}}"""
# The first that matches decides how a part of a line looks; the groups are the parts.
LOOKS = [
    (re.compile(r"(\$ )(.*)"), ["quiet", "title"]),
    (re.compile(r"(\d\. .*)"), ["title"]),
    (re.compile(r"(   events/.*)"), ["quiet"]),
    (re.compile(r"(  [█░]+)(.*)"), ["good", ""]),
    (re.compile(r"(  (?:GHCR|ECR ) +)(sha256:\w+)"), ["quiet", "digest"]),
    (re.compile(r"(  reply +)(200 \w+)(.*)"), ["quiet", "good", ""]),
    (re.compile(r"(  \w+  +)(.*)"), ["quiet", ""]),
    (re.compile(r"(.*)"), [""]),
]


def shown(command: list[str]) -> list[str]:
    """The lines that stay on a terminal on which the command has run."""
    terminal, screen = os.openpty()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=screen) as process:
        os.close(screen)
        output = b""
        try:
            while part := os.read(terminal, 65536):
                output += part
        except OSError:
            # Linux says so that nobody writes any more.
            pass
    os.close(terminal)
    if process.returncode:
        sys.exit(f"{' '.join(command)} has failed")
    # What was redrawn is there as it was drawn last.
    return [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in output.decode().split("\n")]


def one_copy(lines: list[str]) -> list[str]:
    """The push that is copied, and the same delivery again."""
    end = next(number for number, line in enumerate(lines) if line.startswith("3. "))
    return ["$ make demo", "", *"\n".join(lines[:end]).strip("\n").split("\n")]


def picture(lines: list[str]) -> str:
    width, height = round(COLUMNS * COLUMN + 2 * MARGIN), len(lines) * ROW + 2 * MARGIN
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title desc">',
        '<title id="title">One copy, as make demo shows it</title>',
        '<desc id="desc">A terminal: an image of two platforms is pushed, copied in seconds with the same digest on both sides, and '
        'is found to be up to date when the same delivery comes again.</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="page" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>',
    ]
    for number, line in enumerate(lines):
        pattern, looks = next((pattern, looks) for pattern, looks in LOOKS if pattern.fullmatch(line))
        found = pattern.fullmatch(line)
        for group, look in enumerate(looks, 1):
            part = found[group]
            text = part.strip()
            if not text:
                continue
            # Each part has its own place and length, so that columns meet in whatever font there is.
            column = found.start(group) + len(part) - len(part.lstrip())
            style = f' class="{look}"' if look else ""
            drawn.append(f'<text{style} x="{MARGIN + column * COLUMN:g}" y="{MARGIN + (number + 0.75) * ROW:g}" '
                         f'textLength="{len(text) * COLUMN:g}">{escape(text)}</text>')
    return "\n".join([*drawn, "</svg>", ""])


if __name__ == "__main__":
    path, *command = sys.argv[1:]
    Path(path).write_text(picture(one_copy(shown(command))))
