"""The examples of the page about discovery are settings and files as routers read them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from shared_registry.config import load_config
from shared_registry.config.discovery_rules import KEYS, KINDS, DiscoveryRule
from shared_registry.discovery.file import FileSource

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "discovery.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
CONFIGS = [text for text in EXAMPLES if "discovery:" in text]
FILES = [text for text in EXAMPLES if "discovery:" not in text]


@pytest.mark.parametrize("text", CONFIGS)
def test_each_config_of_the_page_is_valid(tmp_path: Path, text: str) -> None:
    path = tmp_path / "router.yaml"
    path.write_text(text)
    assert load_config(path, environ={}).config.discovery


def test_the_page_shows_each_kind() -> None:
    shown = [rule["kind"] for text in CONFIGS for rule in yaml.safe_load(text)["router"]["discovery"]]
    assert set(shown) == set(KINDS)


@pytest.mark.parametrize("text", FILES)
async def test_each_file_of_the_page_is_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_text(text)
    answers = FileSource(DiscoveryRule("file", "fleet", path=str(path))).answers()
    answer = await anext(answers)
    await answers.aclose()
    assert len(answer.found) == 2


def test_the_page_lists_every_key() -> None:
    listed = {name for row in re.findall(r"^\| ([^|]+) \|", PAGE, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert {key for keys in KEYS.values() for key in keys} - {"path"} <= listed
