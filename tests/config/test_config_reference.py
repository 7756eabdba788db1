"""docs/configuration.md says what the settings say, and its example is one that loads."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from shared_registry.config import RouterConfig, load_yaml
from shared_registry.config.yaml_file import read_yaml
from tests.tools.config_reference import PAGE, reference

SETTINGS = [item.name for item in dataclasses.fields(RouterConfig)]


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m tests.tools.config_reference"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_section_with_its_default(name: str) -> None:
    _, _, section = reference().partition(f"\n## {name}\n")
    assert "default " in section.splitlines()[1]
    assert f"`SHARED_REGISTRY_{name.upper()}`" in section.splitlines()[1]
    assert len(section.splitlines()[3]) > 40


def test_the_example_loads_and_warns_of_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", reference(), re.DOTALL)
    path = tmp_path / "router.yaml"
    path.write_text(example)
    config = load_yaml(path)
    assert [replica.name for replica in config.replicas] == ["gpu-1", None]
    assert (config.health_check_path, config.health_check_expect) == ("/readyz", {"status": "ready"})
    assert caplog.text == ""


@pytest.mark.parametrize(("name", "key"), re.findall(r"\| \[`(\w+)`\].*\| `([\w.]+)` \|", reference()))
def test_every_yaml_key_of_the_table_is_read(name: str, key: str, tmp_path: Path) -> None:
    default = getattr(RouterConfig(), name)
    value = json.dumps(9 if default is None else default)
    block, _, inner = key.rpartition(".")
    path = tmp_path / "router.yaml"
    path.write_text(f"router: {{{block}: {{{inner}: {value}}}}}" if block else f"router: {{{inner}: {value}}}")
    assert list(read_yaml(path).values) == [name]
