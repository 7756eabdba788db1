"""Reads the header of a Lua command."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared_registry.store.lua import LUA_DIR

FIELDS = ["KEYS", "ARGV", "RETURNS", "WRITES", "COST"]


@dataclass
class Header:
    purpose: str
    fields: dict[str, str]

    def names(self, field: str) -> list[str]:
        """Return the names of a field, without the repeated group that may end it."""
        return self.fields[field].partition("…")[0].split()

    def group(self, field: str) -> list[str]:
        """Return the names of the repeated group that ends a field."""
        match = re.search(r"…\s+\(([^)]*)\)", self.fields[field])
        return match[1].split() if match else []

    def statuses(self) -> set[str]:
        words: set[str] = set()
        for answer in self.fields["RETURNS"].split("  |  "):
            words |= set(re.split(r"[\s,]", answer.strip().replace(" …", ""), maxsplit=1)[0].split("|"))
        return words


def read_header(name: str) -> Header:
    purpose, fields, current = [], dict[str, str](), ""
    for line in source(name).splitlines():
        if not line.startswith("--"):
            break
        text = line.removeprefix("--")
        match = re.fullmatch(r" ([A-Z]+)\b\s*(.*)", text)
        if match and match[1] in FIELDS:
            current = match[1]
            fields[current] = match[2]
        elif current:
            assert text.startswith("  "), f"{line!r} continues {current} and should be indented"
            fields[current] += "  " + text.strip()
        else:
            purpose.append(text.strip())
    return Header(" ".join(purpose).strip(), fields)


def source(name: str) -> str:
    return (LUA_DIR / f"{name}.lua").read_text(encoding="utf-8")
