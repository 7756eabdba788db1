"""The recording in the README is of the demo as it is."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from shared_registry.demo import story
from tests.support.command import ROOT
from tests.tools import demo_recording

IMAGE = ET.fromstring((ROOT / "docs" / "images" / "demo.svg").read_text(encoding="utf-8"))


def test_it_shows_each_step_of_the_demo() -> None:
    shown = [text.strip() for text in IMAGE.itertext()]
    steps = [f"{number}. {title}" for number, (title, *_) in enumerate(story.STEPS, 1)]
    assert [line for line in shown if line in steps] == steps
    assert any(line.startswith("every step was observed") for line in shown)


def test_it_needs_no_script_and_no_other_file() -> None:
    assert {tag.tag.rpartition("}")[2] for tag in IMAGE.iter()}.isdisjoint({"script", "image", "foreignObject"})


def test_lines_are_cut_and_cannot_leave_the_picture() -> None:
    image = ET.fromstring(demo_recording.picture([(0.1, "1. <b>"), (9.0, "x" * 300)]))
    *_, last = (text for text in image.itertext() if text.strip())
    assert last == "x" * (demo_recording.COLUMNS - 1) + "…"
