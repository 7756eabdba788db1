"""What a page shows of commands: blocks `console`, in which a line `$ command` is followed by what the command printed.

Outputs are compared in shape: as lines of words, in which each number, id and time may differ.
A line `…` stands for any number of lines, and `…` at the end of a line for the rest of that line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

BLOCK = re.compile(r"^( *)```console\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
ID = re.compile(r"\b(?=\w*\d)[0-9a-f]{8,}\b|\bsk-[\w-]+")
REST = "…"


@dataclass(frozen=True)
class Shown:
    """A command of a page, and the lines that it printed."""

    command: str
    lines: list[str]


def read_shown(text: str) -> list[list[Shown]]:
    """Return the commands of each block `console` of a page."""
    found = []
    for _, body in BLOCK.findall(text):
        parts = re.split(r"^\$ ", body, flags=re.MULTILINE)
        assert not parts[0].strip(), f"a block begins with output: {parts[0]}"
        pairs = [part.partition("\n") for part in parts[1:]]
        found.append([Shown(command, output.splitlines()) for command, _, output in pairs])
    return found


def shape_of(line: str) -> str:
    """Return a line without what another run changes: numbers, ids, times, what is not measured yet, and widths."""
    line = re.sub(r"\d+([.-]\d+)*", "#", ID.sub("ID", line))
    line = re.sub(r"(?<=\s)-(?=\s)", "#", line.replace("ID", "#"))
    return " ".join(re.sub(r"# (?:m?s|min|h|d)\b", "#", line).split())


def is_alike(shown: Iterable[str], printed: Iterable[str]) -> bool:
    """Whether what a command printed has the shape of what its page shows."""
    pattern = ""
    for line in shown:
        if line.strip() == REST:
            pattern += "(?:.*\n)*"
        else:
            begin = re.escape(shape_of(line.removesuffix(REST)))
            pattern += begin + (".*\n" if line.endswith(REST) else "\n")
    return re.fullmatch(pattern, "".join(f"{shape_of(line)}\n" for line in printed)) is not None


def with_outputs(text: str, outputs: list[list[list[str]]]) -> str:
    """Return a page with these outputs of its commands. An output with `…` that still has its shape stays as it is."""
    blocks = iter(zip(read_shown(text), outputs, strict=True))

    def renew(found: re.Match[str]) -> str:
        commands, printed = next(blocks)
        lines = []
        for one, output in zip(commands, printed, strict=True):
            is_short = any(line.endswith(REST) for line in one.lines) and is_alike(one.lines, output)
            lines += [f"$ {one.command}", *(one.lines if is_short else map(str.rstrip, output))]
        return "\n".join([f"{found[1]}```console", *lines, f"{found[1]}```"])

    return BLOCK.sub(renew, text)
