"""The README's picture of one copy: it shows what the demonstration shows now."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from conftest import CHECKOUT, run

PICTURE = CHECKOUT / "docs/one-copy.svg"
SVG = "{http://www.w3.org/2000/svg}"


def words(picture: Path) -> list[tuple[str | None, str]]:
    """What is written, and how it looks, with a zero for every number: each run has its own."""
    texts = ElementTree.parse(picture).getroot().iter(f"{SVG}text")
    return [(text.get("class"), re.sub(r"\d+(\.\d+)?", "0", text.text)) for text in texts]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """The picture of this moment. What `make demo` has built is not built again."""
    path = tmp_path_factory.mktemp("picture") / "one-copy.svg"
    run("make", "picture", "FEATURES=--features cli", f"PICTURE={path}")
    return path


def test_the_picture_shows_what_the_demonstration_shows_now(drawn):
    assert words(drawn) == words(PICTURE), "run `make picture`"


def test_the_picture_is_small_and_asks_for_nothing_elsewhere():
    text = PICTURE.read_text()
    assert len(text.encode()) < 20_000 and len({line.get("y") for line in ElementTree.fromstring(text).iter(f"{SVG}text")}) <= 40
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "<script" not in text and "@import" not in text and "url(" not in text
    root = ElementTree.fromstring(text)
    for name in root.get("aria-labelledby").split():
        assert root.find(f"*[@id='{name}']").text


def test_both_registries_have_the_same_digest_in_the_picture():
    source, destination = re.findall(r"sha256:[0-9a-f]{64}", PICTURE.read_text())
    assert source == destination
