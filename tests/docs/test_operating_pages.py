"""Commands of the pages for operators, run as they stand on a machine that has what the pages assume."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.docs.conftest import RunScript
from tests.support.command import ROOT
from tests.support.page_commands import read_page
from tests.support.shown_commands import is_alike, read_shown

FASTVIDEO = (ROOT / "examples" / "fastvideo" / "README.md").read_text(encoding="utf-8")
INSTALL = "pip install 'shared-registry[all]'"
REDIS = """
redis-server --port 6379 --save '' &
until (exec 3<>/dev/tcp/127.0.0.1/6379) 2>/dev/null; do :; done
"""
ROUTER = "printf 'router:\\n  replicas: [http://127.0.0.1:8001, http://127.0.0.1:8002]\\n' > router.yaml\n"
SERVERS = """
mkdir programs
printf '#!/bin/sh\\nexec python -m shared_registry.demo.replica --port 8000 --name gpu-7\\n' > programs/vllm
chmod +x programs/vllm
cp programs/vllm programs/fastvideo
PATH=$PWD/programs:$PATH
"""
"""Stand in for GPU servers, whatever model they are asked for."""


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def commands_of(page: str) -> str:
    """Return the page's commands as a script that shows each before its output."""
    [block] = read_page(text_of(page)).commands
    lines = (line for line in block.splitlines() if not line.startswith("#"))
    return "\n".join(f"printf '\\n### %s\\n' {line.split()[1]}\n{line}" for line in lines)


def beside(block: str) -> str:
    """Return the commands of a block, each running beside what follows."""
    return "".join(f"{line.partition('  #')[0].rstrip()} &\n" for line in block.splitlines())


def shown_after(command: str, output: str) -> str:
    return output.rpartition(f"### {command}\n")[2].partition("\n### ")[0]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_server_joins_and_an_operator_takes_it_out(run_as_reader: RunScript) -> None:
    script = f"""set -eu
{INSTALL}{REDIS}{ROUTER}{SERVERS}
shared-registry probe --config router.yaml &
python -m shared_registry.demo.replica --port 8001 &
{beside(*read_page(text_of("joining.md")).commands)}
shared-registry wait --ready 2 --timeout 100
{commands_of("operations.md")}
shared-registry wait --ready 2 --timeout 100
printf '\\n### wide\\n'
shared-registry status --wide
kill -TERM %4
wait %4 || test $? = 143
printf '\\n### left\\n'
shared-registry status --json
"""
    done = run_as_reader(script)
    assert done.returncode == 0, done.stdout
    drained = shown_after("drain", done.stdout)
    assert "gpu-7 http://127.0.0.1:8000: draining\n" in drained
    assert "0 sessions left\n" in drained
    assert "gpu-7 http://127.0.0.1:8000: enabled" in shown_after("enable", done.stdout)
    assert re.search(r"gpu-7 .* announced .* gpu-7", shown_after("wide", done.stdout)), done.stdout
    assert "127.0.0.1:8000" not in shown_after("left", done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_prober_leads_and_a_router_never_does(run_as_reader: RunScript) -> None:
    script = f"""set -eu
{INSTALL}{REDIS}{ROUTER}
{beside(*read_page(text_of("scaling.md")).commands)}
until shared-registry status | grep --quiet 'routers  *2 live'; do sleep 0.2; done
until shared-registry status | grep --quiet 'leads since'; do sleep 0.2; done
{commands_of("health-checks.md")}
shared-registry routers --json
"""
    done = run_as_reader(script)
    assert done.returncode == 0, done.stdout
    assert re.findall(r"^http://127.0.0.1:8000: (\w+)$", done.stdout, re.MULTILINE) == ["registered", "updated"]
    assert re.findall(r'"url": (null|"[^"]+").*?"is_leader": (\w+)', done.stdout, re.DOTALL)
    leaders = re.findall(r'"is_leader": (true|false)', done.stdout)
    assert sorted(leaders) == ["false", "true"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_fastvideo_router_runs_as_its_page_says(run_as_reader: RunScript) -> None:
    variables, programs, _ = read_page(FASTVIDEO).commands
    script = f"""set -eu
ln -s {ROOT}/examples examples
{INSTALL}{REDIS}
{variables}
{programs.rstrip()} &
shared-registry wait --ready 2 --timeout 100
shared-registry status --wide
"""
    done = run_as_reader(script)
    assert done.returncode == 0, done.stdout
    assert "2 of 2 replicas healthy" in done.stdout
    assert "namespace  wan22 at redis://127.0.0.1:6379/0" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_fastvideo_server_joins_as_its_page_says(run_as_reader: RunScript) -> None:
    *_, joining = read_page(FASTVIDEO).commands
    variables, _, programs = joining.partition("\n")
    script = f"""set -eu
ln -s {ROOT}/examples examples
{INSTALL}{REDIS}{SERVERS}
{variables}
{beside(programs)}
shared-registry wait --config examples/fastvideo/joining.yaml --ready 1 --timeout 100
shared-registry status --config examples/fastvideo/joining.yaml --wide
"""
    done = run_as_reader(script)
    assert done.returncode == 0, done.stdout
    assert re.search(r"gpu-a .* announced .* gpu-a", done.stdout), done.stdout


@pytest.mark.timeout(180)
@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="needs redis-cli")
def test_questions_to_redis_are_answered(run_as_reader: RunScript) -> None:
    script = f"""set -eu
{INSTALL}{REDIS}
shared-registry add http://127.0.0.1:8000
{commands_of("redis-keys.md")}
{commands_of("waiting.md")}
"""
    done = run_as_reader(script)
    assert done.returncode == 0, done.stdout
    assert "(error)" not in done.stdout
    assert "ERR" not in done.stdout
    assert "http://127.0.0.1:8000" in done.stdout.partition("redis-keys")[0]


@pytest.mark.timeout(180)
def test_a_file_of_settings_is_tried_out(run_as_reader: RunScript) -> None:
    [[shown]] = read_shown(text_of("redis.md"))
    script = f"""set -eu
{INSTALL}
redis-server --port 6380 --requirepass secret --save '' &
until (exec 3<>/dev/tcp/127.0.0.1/6380) 2>/dev/null; do :; done
{ROUTER}printf '  redis_url: redis://:secret@127.0.0.1:6380\\n' >> router.yaml
printf '\\n### shown\\n'
{shown.command}
"""
    done = run_as_reader(script)
    assert done.returncode == 0, done.stdout
    printed = [line for line in shown_after("shown", done.stdout).splitlines() if not re.match(r"\d+:[A-Z]", line)]
    assert is_alike(shown.lines, [line for line in printed if line]), done.stdout
