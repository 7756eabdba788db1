"""What the benchmarks find: rows of one table, with what they are held against, for people and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from redis import Redis
from rich import box
from rich.console import Console
from rich.table import Table

from shared_registry.embedded import EmbeddedServer


@dataclass(frozen=True)
class Target:
    """What a row has to reach.

    Attributes:
        limit: The bound.
        of: Whether it bounds the figure or its ratio to what stands beside it.
    """

    limit: float
    of: Literal["figure", "ratio"] = "figure"


@dataclass(frozen=True)
class Row:
    """One finding.

    Attributes:
        what: What was measured, and under which conditions.
        figure: What it came to, in `unit`.
        beside: The rival's figure, measured in the same run, or a setting that the figure is to be read against.
        beside_is: What that is.
        target: The most that is acceptable.
        note: What else a reader must know.
    """

    what: str
    figure: float
    unit: str
    beside: float | None = None
    beside_is: str = ""
    target: Target | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Figure / beside."""
        return None if self.beside is None or self.beside == 0 else self.figure / self.beside

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; `None` where there is none."""
        if self.target is None:
            return None
        value = self.figure if self.target.of == "figure" else self.ratio
        return value is not None and value <= self.target.limit

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return {
            "what": self.what,
            "figure": self.figure,
            "unit": self.unit,
            "beside": self.beside,
            "beside_is": self.beside_is or None,
            "ratio": self.ratio,
            "target": self.target.limit if self.target else None,
            "target_of": self.target.of if self.target else None,
            "is_met": self.is_met,
            "note": self.note or None,
        }


def machine_facts() -> dict[str, Any]:
    """Return what the figures depend on."""
    with EmbeddedServer() as server:
        store = server_name(server)
    return {
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "redis_py": version("redis"),
        "server": store,
        "load_average": round(os.getloadavg()[0], 2),
    }


def server_name(server: EmbeddedServer) -> str:
    """Return what a server calls itself, and its version."""
    with Redis.from_url(server.url) as client:
        info: dict[str, Any] = client.info("server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def show(console: Console, rows: Mapping[str, Sequence[Row]], facts: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(box=box.SIMPLE_HEAD, caption=", ".join(f"{name} {value}" for name, value in facts.items()))
    table.add_column("what", overflow="fold")
    for name in ("figure", "beside", "ratio", "target"):
        table.add_column(name, justify="right" if name != "beside" else "left", no_wrap=name != "beside")
    notes: list[str] = []
    for subject, found in rows.items():
        if table.row_count:
            table.add_row()
        table.add_row(f"[bold]{subject}[/bold]")
        for row in found:
            table.add_row(*_cells(row, notes))
    console.print(table)
    for number, note in enumerate(notes, start=1):
        console.print(f"[{number}] {note}", markup=False, highlight=False)


def _cells(row: Row, notes: list[str]) -> tuple[str, ...]:
    mark = ""
    if row.note:
        if row.note not in notes:
            notes.append(row.note)
        mark = rf" \[{notes.index(row.note) + 1}]"
    beside = "" if row.beside is None else f"{_quantity(row.beside, row.unit)} {row.beside_is}"
    ratio = "" if row.ratio is None else f"{_number(row.ratio)}x"
    return f"  {row.what}{mark}", _quantity(row.figure, row.unit), beside, ratio, _target_cell(row)


def _target_cell(row: Row) -> str:
    if row.target is None:
        return ""
    bound = f"{_number(row.target.limit)}x" if row.target.of == "ratio" else _quantity(row.target.limit, row.unit)
    return f"[green]≤ {bound}[/green]" if row.is_met else f"[red]≤ {bound} missed[/red]"


def _quantity(value: float, unit: str) -> str:
    return f"{_number(value)} {unit}".rstrip()


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
