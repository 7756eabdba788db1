"""Writes docs/images/demo.svg, what the demo prints in a terminal, at the speed at which it does.

python -m tests.tools.demo_recording

The picture is one SVG without scripts: all lines are there, and an animation moves them through a window. Pauses are
shortened.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from xml.sax.saxutils import escape

IMAGE = Path(__file__).parents[2] / "docs" / "images" / "demo.svg"
COLUMNS, ROWS = 112, 24
WIDTH, LINE, TOP = 7.85, 18, 40
LONGEST_PAUSE = 1.2
SHORTEST_PAUSE = 0.06
END_PAUSE = 6.0
STYLE = (
    "text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#d4d4d8;white-space:pre}"
    ".step{fill:#fafafa;font-weight:700}.good{fill:#4ade80}.leader{fill:#a5b4fc}.command{fill:#fcd34d}"
)


def record() -> list[tuple[float, str]]:
    """Run the demo; return its lines, each with the seconds since the line before."""
    command = [sys.executable, "-m", "shared_registry", "demo"]
    settings = os.environ | {"COLUMNS": str(COLUMNS), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings) as demo:
        assert demo.stdout is not None
        last = time.monotonic()
        for line in demo.stdout:
            now = time.monotonic()
            lines.append((now - last, line.rstrip()))
            last = now
    if demo.returncode:
        raise SystemExit(f"the demo has failed with {demo.returncode}")
    return lines


def shown_as(line: str) -> str:
    """Return the class of a line."""
    text = line.strip()
    if text[:2].rstrip(".").isdigit() and text[1:3] == ". ":
        return "step"
    if " leads in epoch" in text:
        return "leader"
    if text.startswith(("shared-registry ", "SIGKILL ")):
        return "command"
    return "good" if text.startswith("every step was observed") or "  yes  " in line else ""


def moves(times: list[float], whole: float, places: list[int]) -> str:
    """Return the steps of an animation that is at each place from its time on."""
    first = f"0%{{transform:translateY({places[0]}px)}}"
    steps = (f"{at / whole:.2%}{{transform:translateY({place}px)}}" for at, place in zip(times, places, strict=True))
    return f"{first}{''.join(steps)}to{{transform:translateY({places[-1]}px)}}"


def picture(lines: list[tuple[float, str]]) -> str:
    """Return the SVG."""
    lines = [(0.0, "$ make demo"), *lines]
    at = 0.0
    times = []
    for pause, _ in lines:
        at += min(max(pause, SHORTEST_PAUSE), LONGEST_PAUSE)
        times.append(at)
    whole = at + END_PAUSE
    rolled = [-max(0, number + 1 - ROWS) * LINE for number in range(len(lines))]
    covered = [min(number + 1, ROWS) * LINE for number in range(len(lines))]
    rows = []
    for number, (_, line) in enumerate(lines):
        text = line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…"
        kind = f' class="{shown}"' if (shown := shown_as(line)) else ""
        if text:
            rows.append(f'<text x="16" y="{TOP + number * LINE + 13}"{kind}>{escape(text)}</text>')
    width, height = round(COLUMNS * WIDTH) + 32, TOP + ROWS * LINE + 12
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>What the demo prints</title>
<style>{STYLE}
#lines{{animation:roll {whole:.1f}s step-end infinite;transform:translateY({rolled[-1]}px)}}
#cover{{animation:cover {whole:.1f}s step-end infinite;transform:translateY({covered[-1]}px)}}
@keyframes roll{{{moves(times, whole, rolled)}}}
@keyframes cover{{{moves(times, whole, covered)}}}
@media (prefers-reduced-motion:reduce){{#lines,#cover{{animation:none}}}}
</style>
<clipPath id="window"><rect x="0" y="{TOP}" width="{width}" height="{ROWS * LINE}"/></clipPath>
<rect width="{width}" height="{height}" rx="10" fill="#18181b"/>
<circle cx="22" cy="20" r="6" fill="#f87171"/><circle cx="42" cy="20" r="6" fill="#fbbf24"/>
<circle cx="62" cy="20" r="6" fill="#4ade80"/>
<g clip-path="url(#window)"><g id="lines">
{chr(10).join(rows)}
</g><rect id="cover" y="{TOP}" width="{width}" height="{ROWS * LINE}" fill="#18181b"/></g>
</svg>
"""


if __name__ == "__main__":
    IMAGE.write_text(picture(record()), encoding="utf-8")
