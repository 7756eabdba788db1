"""The README's example runs as it stands, but for the address of Redis."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from shared_registry.embedded import EmbeddedServer

README = Path(__file__).parents[2] / "README.md"


def test_example(server: EmbeddedServer, namespace: str) -> None:
    example, placing = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    there = f'redis_url="{server.url}", namespace="{namespace}"'
    program = example.replace('redis_url="redis://127.0.0.1:6379/0"', there)
    assert there in program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "no healthy replica\n"), done.stderr
    assert "timeout=30" in placing
    block = textwrap.indent(placing.replace("timeout=30", "timeout=0.3"), " " * 8)
    program = program.replace("        replica = registry.select()\n", f"        serve = print\n{block}")
    program = program.replace('        print(replica.url if replica else "no healthy replica")\n', "")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.splitlines()[-1].startswith("shared_registry.errors.NoHealthyReplica: no replica is healthy")
