"""The README's examples run as they stand, or with other addresses of Redis and the replicas."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from shared_registry.embedded import EmbeddedServer
from tests.support import own_network
from tests.support.programs import free_port, mock_replica

README = Path(__file__).parents[2] / "README.md"
EXAMPLE: str
PLACING: str
EXAMPLE, PLACING = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
ADDRESSES = ("http://127.0.0.1:8000", "http://127.0.0.1:8001")


def program(server: EmbeddedServer, namespace: str, *replicas: str, then: str = "") -> str:
    """Return the first example, with these addresses, and with something else to do once replicas are ready."""
    there = f'redis_url="{server.url}", namespace="{namespace}"'
    text = EXAMPLE.replace('redis_url="redis://127.0.0.1:6379/0"', there)
    for address, replica in zip(ADDRESSES, replicas, strict=True):
        assert address in text
        text = text.replace(address, replica)
    head, wait, tail = text.partition("timeout_seconds=10)")
    assert there in head
    assert wait
    if not then:
        return text
    end = tail.index("\n\nasyncio.run")
    return head + wait + "\n" + textwrap.indent(then, " " * 8) + tail[end:]


AS_IT_STANDS = """
import sys
from pathlib import Path
from shared_registry.embedded import EmbeddedServer
from tests.support.programs import program

replica = ("-I", "shared_registry/demo/replica.py", "--port", "8000")
with EmbeddedServer(port=6379, binary=Path(sys.argv[1])), program(*replica) as process:
    process.stdout.readline()
    exec(sys.argv[2], {"__name__": "__main__"})
"""


def run(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=45, check=False)


def test_the_first_example_prints_a_url_on_a_fresh_redis(server: EmbeddedServer, namespace: str) -> None:
    with mock_replica("gpu-1") as replica:
        done = run(program(server, namespace, replica, f"http://127.0.0.1:{free_port()}"))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{replica}\n", "")


@pytest.mark.skipif(not own_network.is_possible(), reason="needs unshare, ip, and the right to use them")
def test_the_first_fifteen_lines_run_as_they_stand(redis_binary: Path) -> None:
    lines = EXAMPLE.splitlines()
    assert len(lines) <= 15
    words = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-c", AS_IT_STANDS, str(redis_binary)]
    done = subprocess.run(
        ["unshare", "-rn", *words, EXAMPLE],
        cwd=README.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "http://127.0.0.1:8000\n", "")


def test_the_first_example_reports_in_time_that_replicas_are_missing(server: EmbeddedServer, namespace: str) -> None:
    text = program(server, namespace, *(f"http://127.0.0.1:{free_port()}" for _ in ADDRESSES))
    assert "timeout_seconds=10)" in text
    begun = time.monotonic()
    done = run(text.replace("timeout_seconds=10)", "timeout_seconds=1)"))
    assert (done.returncode, done.stdout) == (0, "no healthy replica\n"), done.stderr
    assert time.monotonic() - begun >= 1


def test_the_lease_example_places_a_session_on_a_fresh_redis(server: EmbeddedServer, namespace: str) -> None:
    then = f"async def serve(url):\n    print(url)\n{PLACING}"
    with mock_replica("gpu-1") as replica:
        done = run(program(server, namespace, replica, f"http://127.0.0.1:{free_port()}", then=then))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{replica}\n", "")


def test_examples_name_replicas_on_this_machine_only() -> None:
    root = README.parent
    pages = [README, *root.glob("docs/*.md"), *root.glob("examples/**/*.*"), *root.glob("shared_registry/**/*.py")]
    for page in pages:
        if page.suffix in {".md", ".py", ".yaml"}:
            text = page.read_text(encoding="utf-8")
            named = re.findall(r"https?://(\d+\.\d+\.\d+\.\d+)", text)
            assert [one for one in named if not one.startswith("127.0.0.")] == [], page
