"""What pages show can be typed: commands and options exist, settings load, and Redis knows what is asked of it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import typer.main
from redis import Redis

from shared_registry.cli.app import app
from shared_registry.config import load_config
from shared_registry.embedded import EmbeddedServer
from tests.docs.conftest import RunScript
from tests.docs.test_docs import PAGES
from tests.support.command import ROOT
from tests.support.page_commands import read_page

GROUP = typer.main.get_command(app)
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`(shared-registry [^`]+)`")
WRITES = {"FLUSHALL", "DEL", "SET", "HSET", "DEBUG", "CLIENT", "CONFIG", "INFO"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def lines_of(page: Path) -> list[str]:
    """Return the lines of a page's blocks that begin a command, and the commands within its text."""
    text = page.read_text(encoding="utf-8")
    found = [
        line.strip().removeprefix("$ ").removeprefix("sudo ")
        for _, language, body in BLOCK.findall(text)
        if language in {"", "sh", "console"}
        for line in body.replace("\\\n", " ").splitlines()
    ]
    spans = [" ".join(span.split()) for span in SPAN.findall(BLOCK.sub("", text))]
    return found + spans


def commands_of(page: Path) -> list[str]:
    return [line for line in lines_of(page) if re.match(r"shared-registry [a-z-]", line)]


def words_of(command: str) -> list[str]:
    """Return the words of a command up to where a shell goes on with something else."""
    words = shlex.split(command.replace("…", "").replace("...", ""), comments=True)[1:]
    ends = [at for at, word in enumerate(words) if word[0:1] in {"|", "&", ";", ">", "<"} or word[:2] in {"2>", ">>"}]
    return words[: ends[0]] if ends else words


def refusal(words: list[str]) -> str | None:
    """Return why the command does not understand these words, without running it; options may lack their values."""
    context = typer.Context(GROUP, info_name="shared-registry", resilient_parsing=True)
    command = GROUP
    rest = list(words)
    while rest and hasattr(command, "get_command"):
        while rest and rest[0].startswith("-"):
            rest = rest[2:]
        if not rest:
            return None
        found = command.get_command(context, rest[0])
        if found is None:
            return f"no command {rest[0]}"
        command, rest = found, rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.partition("=")[0] for word in (rest[: rest.index("--")] if "--" in rest else rest)]
    return next((f"no option {word}" for word in given if re.match(r"--?[a-z]", word) and word not in known), None)


def test_pages_show_many_commands() -> None:
    assert sum(len(commands_of(page)) for page in PAGES) > 100


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_command_of_a_page_exists(page: Path) -> None:
    wrong = {command: why for command in commands_of(page) if (why := refusal(words_of(command)))}
    assert wrong == {}


@pytest.mark.parametrize("page", [page for page in PAGES if "```yaml\nrouter:" in page.read_text()], ids=name_of)
def test_each_file_of_settings_loads(page: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _, language, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "yaml" and body.startswith("router:"):
            path = tmp_path / "router.yaml"
            path.write_text(body)
            assert load_config(path, environ={}).config is not None
    assert caplog.text == ""


@pytest.mark.parametrize("page", [page for page in PAGES if "redis-cli " in page.read_text()], ids=name_of)
def test_each_question_to_redis_is_understood(page: Path, server: EmbeddedServer) -> None:
    asked = [shlex.split(line, comments=True)[1:] for line in lines_of(page) if line.startswith("redis-cli ")]
    with Redis.from_url(server.url) as redis:
        for words in asked:
            question = words[: words.index("|")] if "|" in words else words
            if question and re.fullmatch(r"[A-Z]+", question[0]) and question[0] not in WRITES:
                redis.execute_command(*question)


@pytest.mark.timeout(180)
def test_the_llm_gateway_runs_as_its_page_says(run_as_reader: RunScript) -> None:
    page = read_page((ROOT / "examples" / "llm_gateway" / "README.md").read_text(encoding="utf-8"))
    assert page.commands
    done = run_as_reader(f"ln -s {ROOT}/examples examples\npip install 'shared-registry[all]'\n{page.script}")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^gpu-[ab] heard: good morning$", done.stdout, re.MULTILINE), done.stdout


RUN_BY = {
    ("CONTRIBUTING.md", "python"): "docs/test_contributing.py",
    ("CONTRIBUTING.md", "sh"): "docs/test_contributing.py",
    ("README.md", "python"): "docs/test_readme.py",
    ("README.md", "sh"): "docs/test_readme.py",
    ("docs/access-log.md", "yaml"): "docs/test_commands_of_pages.py",
    ("docs/api.md", "go"): "api/test_api_page.py",
    ("docs/api.md", "js"): "api/test_api_page.py",
    ("docs/api.md", "rust"): "api/test_api_page.py",
    ("docs/api.md", "sh"): "api/test_api_page.py",
    ("docs/cli.md", "console"): "cli/test_cli_page.py",
    ("docs/compose.md", "sh"): "compose/test_compose_page.py",
    ("docs/configuration.md", "yaml"): "docs/test_commands_of_pages.py",
    ("docs/discovery.md", "yaml"): "docs/test_discovery_page.py",
    ("docs/events.md", "python"): "docs/test_fragments_of_pages.py",
    ("docs/health-checks.md", "sh"): "docs/test_operating_pages.py",
    ("docs/health-checks.md", "yaml"): "docs/test_commands_of_pages.py",
    ("docs/joining.md", "sh"): "docs/test_operating_pages.py",
    ("docs/kubernetes.md", "sh"): "packaging/test_kubernetes_page.py",
    ("docs/operations.md", "sh"): "docs/test_operating_pages.py",
    ("docs/placement.md", "python"): "docs/test_fragments_of_pages.py",
    ("docs/policies.md", "python"): "docs/test_fragments_of_pages.py",
    ("docs/quickstart.md", "python"): "docs/test_quickstart.py",
    ("docs/quickstart.md", "sh"): "docs/test_quickstart.py",
    ("docs/quickstart.md", "yaml"): "docs/test_quickstart.py",
    ("docs/redis.md", "console"): "docs/test_operating_pages.py",
    ("docs/redis-cli.md", "console"): "docs/test_redis_cli_guide.py",
    ("docs/redis-keys.md", "sh"): "docs/test_operating_pages.py",
    ("docs/runbook.md", "sh"): "docs/test_runbook.py",
    ("docs/scaling.md", "sh"): "docs/test_operating_pages.py",
    ("docs/waiting.md", "python"): "docs/test_fragments_of_pages.py",
    ("docs/waiting.md", "sh"): "docs/test_operating_pages.py",
    ("examples/fastvideo/README.md", "sh"): "docs/test_operating_pages.py",
    ("examples/llm_gateway/README.md", "sh"): "docs/test_commands_of_pages.py",
}
"""Which test runs the blocks in a language of a page as they stand."""
NOT_RUN = {
    ("docs/kubernetes.md", "# in a cluster"): "needs a cluster; its names and options are compared with the chart's",
    ("docs/migration.md", "diff"): "the lines of a program that is not here; tests/fastvideo runs the new import",
    ("examples/fastvideo/README.md", "diff"): "the lines of a program that is not here, as in docs/migration.md",
    ("docs/placement.md", "console"): "one session's traces, between which minutes pass; Redis is asked each question",
    ("docs/redis-cli.md", "console"): "needs containers; its questions are asked, and its fields compared, elsewhere",
    ("docs/runbook.md", "sh"): "each symptom has a drill; here its first command is run where all is well",
}
"""What is not run as it stands, or not with what the page shows, and why."""
COMMAND = re.compile(
    r"^(?:\$ |sudo |(?:shared-registry|redis-cli|docker|helm|kubectl|curl|pip|make|python|git) \S)", re.MULTILINE
)


def test_every_block_that_can_run_is_run() -> None:
    there = {(name_of(page), language) for page in PAGES for _, language, _ in BLOCK.findall(page.read_text())}
    kinds = {kind for kind in there if kind[1]}
    assert kinds - RUN_BY.keys() - NOT_RUN.keys() == set()
    assert RUN_BY.keys() - kinds == set()
    assert {page for page, _ in NOT_RUN} <= {page for page, _ in kinds}
    for (page, _), test in RUN_BY.items():
        assert Path(page).name in (ROOT / "tests" / test).read_text(), (page, test)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_with_commands_has_a_language(page: Path) -> None:
    plain = [body for _, language, body in BLOCK.findall(page.read_text(encoding="utf-8")) if not language]
    assert [body for body in plain if COMMAND.search(body)] == []
