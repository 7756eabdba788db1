"""Where a command's output goes: to streams that take not every character, that are full, or that were closed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shared_registry.embedded import EmbeddedServer
from tests.support.command import Done, command, environment

A, NAME = "http://127.0.0.1:1", "gpü-日"
ESCAPED = r"gp\xfc-\u65e5"
FULL = Path("/dev/full")
READING = [["status"], ["events", "--json"], ["keys"], ["--version"]]


def in_shell(server: EmbeddedServer, namespace: str, words: list[str], redirection: str, **others: str) -> Done:
    """Run a command whose streams a shell redirects."""
    variables = {"SHARED_REGISTRY_REDIS_URL": server.url, "SHARED_REGISTRY_NAMESPACE": namespace, **others}
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command(*words)]
    done = subprocess.run(
        shell, env=environment(**variables), capture_output=True, encoding="latin-1", timeout=55, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("drawing", [{}, {"FORCE_COLOR": "1"}], ids=["plain", "drawn"])
def test_names_are_escaped_where_the_encoding_lacks_them(
    server: EmbeddedServer, namespace: str, drawing: dict[str, str]
) -> None:
    add = ["add", A, "--name", NAME]
    changed = in_shell(server, namespace, add, "", PYTHONIOENCODING="ascii")
    assert (changed.code, changed.out, changed.err) == (0, f"{ESCAPED} {A}: registered\n", "")
    for words in (["status"], ["events"]):
        done = in_shell(server, namespace, words, "", PYTHONIOENCODING="ascii", **drawing)
        assert (done.code, done.err) == (0, "")
        assert ESCAPED in done.out
    done = in_shell(server, namespace, ["status"], "", PYTHONIOENCODING="latin-1", **drawing)
    assert r"gpü-\u65e5" in done.out


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_full_disk_is_one_clear_line(server: EmbeddedServer, namespace: str, words: list[str]) -> None:
    in_shell(server, namespace, ["add", A], "")
    done = in_shell(server, namespace, words, f">{FULL}")
    assert (done.code, done.err) == (1, "error: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_closed_streams_are_no_error(server: EmbeddedServer, namespace: str, words: list[str]) -> None:
    in_shell(server, namespace, ["add", A], "")
    done = in_shell(server, namespace, words, ">&-")
    assert (done.code, done.err) == (0, "")
    assert in_shell(server, namespace, ["drain", "nobody"], "2>&-").code == 1
