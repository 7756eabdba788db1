"""What a chat completion costs the proxy, beside routers for language models that are written in Rust.

They come from PyPI wheels, in an environment of their own, and are part of no other test or requirement:

    python3 -m venv /tmp/gateways && /tmp/gateways/bin/pip install vllm-router sglang-router smg
    GATEWAYS=/tmp/gateways/bin python -m benchmarks --only gateways

The origin is nginx, which answers each completion at once, and wrk sends them. CPU is that of the router's process,
with all of its threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import cpu_seconds, find_program, free_port, listening, missing_programs, running
from benchmarks.processes import Child
from benchmarks.proxying import CONNECTIONS, Load, until_served
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer

TITLE = "chat completions, beside routers for language models"
VARIABLE = "GATEWAYS"
ROUNDS, QUICK_ROUNDS = 3, 1
SECONDS, QUICK_SECONDS = 6, 2
CONFIG = {"host": "127.0.0.1", "port": 0, "grace_seconds": 0.0}
OURS = {"exact leases": {}, "placement: local": {"placement": "local"}}
MODEL = "m"
ASKED = {
    "model": MODEL,
    "messages": [
        {"role": "system", "content": "You are a helpful assistant. " * 8},
        {"role": "user", "content": "Say something about the weather in spring. " * 4},
    ],
    "max_tokens": 64,
}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "It rains now and then, and it gets warmer. " * 5},
        }
    ],
    "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
}
MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "vllm"}], "model_path": MODEL}
SCRIPT = 'wrk.method = "POST"\nwrk.body = [[{body}]]\nwrk.headers["Content-Type"] = "application/json"\n'
ORIGIN = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/body;
    default_type application/json;
    server {{
        listen 127.0.0.1:{port};
        location /v1/chat {{ return 200 '{answer}'; }}
        location / {{ return 200 '{models}'; }}
    }}
}}
"""


@dataclass(frozen=True)
class Rival:
    """Another router.

    Attributes:
        words: Its command line, without the addresses.
        limit: What our CPU may be, in its own.
    """

    words: tuple[str, ...]
    limit: Target


RIVALS = {
    "vllm-router": Rival(("vllm-router", "--policy", "round_robin"), Target(1.3, "ratio")),
    "sglang-router": Rival(("sglang-router", "launch", "--policy", "round_robin"), Target(1.0, "ratio")),
    "smg": Rival(("smg", "launch", "--policy", "round_robin"), Target(1.0, "ratio")),
}


@dataclass(frozen=True)
class Contender:
    """A running router: its address, and its process."""

    url: str
    pid: int


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the CPU of a completion beside that of each rival that is installed."""
    if missing := missing_programs("nginx", "wrk"):
        return [missing]
    found = {name: program for name, rival in RIVALS.items() if (program := _find(rival.words[0]))}
    if not found:
        return [Row("not measured", 0, "", note=f"needs {', '.join(RIVALS)} in the folder that {VARIABLE} names")]
    with tempfile.TemporaryDirectory() as name, EmbeddedServer() as redis:
        folder, origin = Path(name), free_port()
        (folder / "post.lua").write_text(SCRIPT.format(body=json.dumps(ASKED)))
        config = ORIGIN.format(folder=name, port=origin, answer=json.dumps(ANSWER), models=json.dumps(MODELS))
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(running(folder, [find_program("nginx"), "-p", name, "-c"], config, origin))
            contenders = {
                way: await stack.enter_async_context(_ours(way, redis.url, origin, settings))
                for way, settings in OURS.items()
            }
            for rival, program in found.items():
                contenders[rival] = await stack.enter_async_context(_theirs(folder, rival, program, origin))
            load = Load(find_program("wrk"), folder / "post.lua", QUICK_SECONDS if is_quick else SECONDS)
            return _rows(await _costs(contenders, load, QUICK_ROUNDS if is_quick else ROUNDS))


async def _costs(contenders: Mapping[str, Contender], load: Load, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the CPU of a completion, and how many were served in a second, for each contender."""
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            before = cpu_seconds(contender.pid)
            count = await load.run(f"{contender.url}/v1/chat/completions")
            costs[name].append(((cpu_seconds(contender.pid) - before) / count * 1e6, count / load.seconds))
    return {
        name: (statistics.median(cpu for cpu, _ in values), statistics.median(rate for _, rate in values))
        for name, values in costs.items()
    }


def _rows(costs: Mapping[str, tuple[float, float]]) -> list[Row]:
    rows = []
    for way in OURS:
        for rival in (name for name in RIVALS if name in costs):
            (cpu, rate), (their_cpu, their_rate) = costs[way], costs[rival]
            what = f"chat completion, {way}, {CONNECTIONS} connections"
            rows.append(Row(f"{what}: CPU a request", cpu, "µs", their_cpu, rival, RIVALS[rival].limit))
            rows.append(Row(f"{what}: requests/s", rate, "", their_rate, rival))
    return rows


@contextlib.asynccontextmanager
async def _ours(way: str, redis_url: str, origin: int, settings: Mapping[str, str]) -> AsyncIterator[Contender]:
    config = CONFIG | {"redis_url": redis_url, "namespace": way[:5]} | dict(settings)
    asked = {"config": config, "replicas": [f"http://127.0.0.1:{origin}"]}
    async with Child("serving_process", asked) as router:
        await until_served(f"{router.ready['url']}/v1/chat/completions")
        yield Contender(router.ready["url"], router.pid)


@contextlib.asynccontextmanager
async def _theirs(folder: Path, name: str, program: str, origin: int) -> AsyncIterator[Contender]:
    port = free_port()
    addresses = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
    quiet = ["--log-level", "error"]
    command = [program, *RIVALS[name].words[1:], *addresses, *quiet, "--worker-urls", f"http://127.0.0.1:{origin}"]
    async with listening(folder, command, port) as process:
        await until_served(f"http://127.0.0.1:{port}/v1/chat/completions", ASKED)
        yield Contender(f"http://127.0.0.1:{port}", process.pid)


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get(VARIABLE) or os.environ["PATH"])
