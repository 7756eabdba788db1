"""Writes docs/configuration.md from the settings themselves: their docstrings, defaults, bounds and names.

python -m tests.tools.config_reference            write it
python -m tests.tools.config_reference --check    exit with 1 if it is not what would be written
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from shared_registry.config import RouterConfig
from shared_registry.config.env import VARIABLES
from shared_registry.config.reload_rules import RELOADABLE
from shared_registry.config.settings import SHARED_SETTINGS
from shared_registry.config.yaml_file import BLOCKS

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
HEAD = """\
# Configuration

Made from the settings' own docstrings by `python -m tests.tools.config_reference`: change them in
`registry_settings.py` and `serving_settings.py` in `shared_registry/config`.

A setting is read from four sources, and the first that has it is used. They are the command line (`--redis`,
`--namespace`, and further options in a command's `--help`), the environment (`SHARED_REGISTRY_<SETTING>`), the YAML
file given with `--config`, and the default. Code that builds `RouterConfig(...)` itself reads neither file nor
environment. `shared-registry config show` prints the values in force and the source of each.

```yaml
router:
  port: 9000
  redis_url: redis://127.0.0.1:6379/0
  namespace: video
  replicas:
    - {url: "http://127.0.0.1:8000", name: gpu-1, primary: true, weight: 2.0, capacity: 4, labels: {zone: a}}
    - http://127.0.0.1:8001
  health_check:
    path: /readyz
    expect: {status: ready}
```

If a value is wrong, the router does not start. One message lists all wrong values, each with its place and a remedy. An
unknown key inside `router:` causes a warning that names the nearest known key. Other top-level blocks are ignored,
because they may belong to other programs.

A key that stands twice, anywhere in the file, is refused with both lines. A value in `router:` is refused if YAML 1.1
reads it as something else than it looks like: `90:01` (5401), `010` (8), a date, and `no`, `on`, `1.10` or `1_000`
where a text is expected. Put such a text in quotes.

In the environment, `SHARED_REGISTRY_REPLICAS` holds urls separated by commas, or a JSON list such as
`[{"url": "http://127.0.0.1:8000", "capacity": 4}, "http://127.0.0.1:8001"]`. `SHARED_REGISTRY_HEALTH_CHECK_EXPECT` and
`SHARED_REGISTRY_HEALTH_CHECK_HEADERS` hold a JSON object. The value `none` unsets
`SHARED_REGISTRY_MAX_STALENESS_SECONDS` and `SHARED_REGISTRY_PANIC_PERCENT`. An empty variable is ignored.

What an operator has changed or removed wins over the file, however long ago that was. A router that starts logs each
replica that its file does not get, or not as the file says, with the reason: who removed it and when, or which values
an operator has set. If routers have different lists, the values of the router that started last are used, and it logs
what it changed.

A replica has a `url` and, optionally, a `name`, `primary`, `weight`, `capacity`, `order` and `labels`, and a
`health_check_path` and `health_check_port` in place of the routers' settings. It may have up to 16 labels, such as
`{zone: a, gpu: h100}`, for people and policies. A label's name has 1 to 128 letters, digits and `-_./`, and begins and
ends with a letter or digit. Its value has up to 128 letters, digits and `-_./:@+`, and may be empty. Labels of
Kubernetes have this form. [Health checks](health-checks.md) describes what probes may ask and expect.

All routers of a namespace should have the same values for the settings marked *shared*: any of them may become the
leader, and every router decides whether another one has expired. Each router publishes a fingerprint of these settings
(`config_fingerprint` in its Redis record), so that differences can be found.

`shared-registry serve` reads its settings again on SIGHUP. Settings marked *reloaded* then take effect at once; the
others need a restart. See *Reading the settings again* in [router.md](router.md).

| setting | default | YAML key below `router:` |
|---|---|---|
"""
COMPUTED_DEFAULTS = {
    "router_id": "the host's name",
    "replicas": "none",
    "health_check_expect": "none",
    "health_check_headers": "none",
}
KINDS = {float: "number", int: "whole number", str: "text", bool: "true or false"}


def reference() -> str:
    """Return the page."""
    hints = get_type_hints(RouterConfig, include_extras=True)
    settings = {item.name: item.default for item in fields(RouterConfig)}
    rows = [f"| [`{name}`](#{name}) | {_default(name, settings[name])} | `{_yaml_key(name)}` |" for name in settings]
    sections = [_section(name, settings[name], hints[name]) for name in settings]
    return HEAD + "\n".join(rows) + "\n\n" + "\n".join(sections)


def docstring(name: str) -> str:
    """Return the text below the declaration of a setting."""
    return _docstrings().get(name, "")


@functools.cache
def _docstrings() -> dict[str, str]:
    """Return the docstrings of all settings.

    Pydantic reads them with `use_attribute_docstrings`, but at each start of a process: that takes 50 ms.
    """
    found = {}
    for kind in RouterConfig.__mro__[1:-1]:
        [declared] = ast.parse(inspect.getsource(kind)).body
        assert isinstance(declared, ast.ClassDef)
        for one, text in itertools.pairwise(declared.body):
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(text, ast.Expr):
                found[one.target.id] = inspect.cleandoc(str(ast.literal_eval(text.value)))
    return found


def _section(name: str, default: object, hint: object) -> str:
    text = docstring(name)
    if not text:
        raise SystemExit(f"{name} has no docstring")
    facts = [_kind(hint), f"default {_default(name, default)}", f"`{_variable(name)}`"]
    if name in SHARED_SETTINGS:
        facts.append("*shared*")
    if name in RELOADABLE:
        facts.append("*reloaded*")
    return f"## {name}\n\n{', '.join(facts)}\n\n{_prose(text)}\n"


def _prose(docstring: str) -> str:
    """Return a docstring as Markdown: what is indented in it is a formula."""
    return re.sub(r"(?m)^ {4}(\S.*)$", r"```\n\1\n```", docstring)


def _kind(hint: object) -> str:
    """Say what a setting may be, as far as its type tells; the docstring tells the rest."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, *notes = parts
        return " ".join([_kind(kind), *(bound for note in notes for bound in _bounds(note))])
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if type(None) in parts:
        return f"{_kind(parts[0])}, or none"
    return next((word for kind, word in KINDS.items() if kind is hint), "") or ("mapping" if origin is dict else "list")


def _bounds(note: Any) -> list[str]:
    words = {"Gt": "above", "Ge": "from", "Le": "to"}
    found = []
    for one in getattr(note, "metadata", ()):
        kind = type(one).__name__
        if kind in words:
            found.append(f"{words[kind]} {getattr(one, kind.lower()):g}")
    return found


def _default(name: str, value: object) -> str:
    if name in COMPUTED_DEFAULTS:
        return COMPUTED_DEFAULTS[name]
    return "none" if value is None else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _yaml_key(name: str) -> str:
    inside = {setting: f"{block}.{key}" for block, keys in BLOCKS.items() for key, setting in keys.items()}
    return inside.get(name, name)


def _variable(name: str) -> str:
    [variable] = [variable for variable, setting in VARIABLES.items() if setting == name]
    return variable


def main() -> int:
    """Write or check the page, and return the exit status."""
    page = reference()
    if sys.argv[1:] == ["--check"]:
        is_current = PAGE.read_text(encoding="utf-8") == page
        print(f"{PAGE.name}: {'current' if is_current else 'not current; run python -m tests.tools.config_reference'}")
        return 0 if is_current else 1
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
