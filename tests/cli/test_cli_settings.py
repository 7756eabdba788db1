"""The commands that need no Redis: config, keys, and what --help says of all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from shared_registry.cli.app import app
from shared_registry.cli.global_options import GlobalOptions
from shared_registry.config import RouterConfig
from shared_registry.embedded import EmbeddedServer
from tests.support.command import is_one_error
from tests.support.in_process import invoke

SECRET = "geheim"
CLI_PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def all_commands() -> dict[str, Any]:
    """Return every command by its words, such as `config show`."""
    found: dict[str, Any] = {}
    for name, one in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found |= (
            {f"{name} {sub}": each for sub, each in one.commands.items()} if hasattr(one, "commands") else {name: one}
        )
    return found


COMMANDS = all_commands()
COMMON = {"--json", "--redis", "--namespace", "--config", "--by", "--reason"}
WITHOUT_REDIS = {"demo", "config validate", "api-key new", "api-key hash"}


def write(directory: Path, text: str) -> str:
    path = directory / "router.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_common_options_an_example_and_a_page(name: str) -> None:
    one = COMMANDS[name]
    options = {option for parameter in one.params for option in parameter.opts}
    assert "--json" in options
    if name not in WITHOUT_REDIS:
        assert {"--redis", "--config"} <= options
        assert ({"--namespace", "-n"} <= options) == (name != "namespaces")
    assert f"`shared-registry {name}" in one.epilog or f" shared-registry {name}" in one.epilog
    if name not in ("probe", "serve"):  # services, which log lines
        assert "--json prints one object" in one.help
    assert f"shared-registry {name}" in CLI_PAGE
    [section] = [part for part in CLI_PAGE.split("\n## ") if f"`{name}`" in part.partition("\n")[0]]
    own = {option for option in options if option.startswith("--")}
    assert not [option for option in own - COMMON if option not in section], "its options"


def test_help_is_plain_text_on_standard_output() -> None:
    done = invoke("config", "show", "--help")
    assert (done.code, done.err) == (0, "")
    assert "shared-registry config show" in done.out


# config validate


def test_validate_accepts_a_valid_file_with_warnings(tmp_path: Path) -> None:
    path = write(tmp_path, "router: {replicas: ['http://a', 'http://b'], health_check: {timout_seconds: 3}}")
    done = invoke("config", "validate", path, SHARED_REGISTRY_PORT="not of interest")
    assert (done.code, done.out) == (0, f"{path}: valid; 2 replicas\n")
    [warning] = done.err_lines
    assert "'timout_seconds'" in warning
    assert "did you mean timeout_seconds" in warning
    told = json.loads(invoke("config", "validate", path, "--json").out)
    assert list(told) == ["file", "is_valid", "problems", "warnings"]
    assert (told["file"], told["is_valid"], told["problems"], len(told["warnings"])) == (path, True, [], 1)


def test_validate_lists_every_mistake_in_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, f"router: {{port: 70000, replicas: ['http://u:{SECRET}@a'], lease_seconds: 1}}")
    done = invoke("config", "validate", path)
    assert (done.code, done.err) == (1, "")
    assert len(done.out.splitlines()) == 3
    assert all(name in done.out for name in ("port", "replicas[0].url", "renew_interval_seconds"))
    assert SECRET not in done.all
    told = json.loads(invoke("--json", "config", "validate", path).out)
    assert told["is_valid"] is False
    assert [list(one) for one in told["problems"]] == [["message", "settings"]] * 3
    assert ["port"] in [one["settings"] for one in told["problems"]]


@pytest.mark.parametrize(
    ("text", "named"), [("", "is empty"), ("router: {replicas: [", "not YAML"), ("a: 1", "router:")]
)
def test_validate_rejects_a_file_that_is_no_config(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path, text)
    done = invoke("config", "validate", path)
    assert (done.code, done.err) == (1, "")
    assert named in done.out


@pytest.mark.parametrize("name", ["none.yaml", "."])
def test_validate_reports_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    done = invoke("config", "validate", str(tmp_path / name))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert "cannot be read" in done.err


def test_validate_connects_where_asked(tmp_path: Path, own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server(config={"requirepass": SECRET})
    url = f"redis://:{SECRET}@127.0.0.1:{server.port}"
    path = write(tmp_path, f"router: {{replicas: ['http://a'], redis_url: '{url}'}}")
    done = invoke("config", "validate", path, "--connect")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{path}: valid; 1 replica; connected to redis://:***@127.0.0.1:{server.port}\n"
    server.kill()
    assert invoke("config", "validate", path).code == 0
    for one, what in ((url, "unavailable"), (url.replace("redis:", "rediss:") + "?ssl_ca_certs=/none", "/none cannot")):
        path = write(tmp_path, f"router: {{replicas: ['http://a'], redis_url: '{one}', redis_timeout_seconds: 0.5}}")
        done = invoke("config", "validate", path, "--connect")
        assert (done.code, len(done.out.splitlines())) == (1, 1)
        assert what in done.out
        assert SECRET not in done.all
    told = json.loads(invoke("config", "validate", path, "--connect", "--json").out)
    assert told["is_valid"] is False


def test_validate_reports_a_server_that_refuses(tmp_path: Path, own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server(config={"requirepass": SECRET})
    path = write(tmp_path, f"router: {{replicas: ['http://a'], redis_url: 'redis://:wrong@127.0.0.1:{server.port}'}}")
    told = json.loads(invoke("config", "validate", path, "--connect", "--json").out)
    [problem] = told["problems"]
    assert problem["settings"] == ["redis_url"]
    assert "check the user and password" in problem["message"]
    assert "wrong" not in problem["message"].replace("WRONGPASS", "")


# config show


def test_show_prints_every_setting_with_its_origin(tmp_path: Path) -> None:
    path = write(tmp_path, "router: {port: 9001, lease_seconds: 4, replicas: [{url: 'http://a', capacity: 2}]}")
    words = ["config", "show", "--config", path, "--redis", f"redis://ann:{SECRET}@h/0"]
    done = invoke(*words, "--json", SHARED_REGISTRY_LEASE_SECONDS="5", SHARED_REGISTRY_NAMESPACE="pool")
    told = json.loads(done.out)
    assert list(told) == ["fingerprint", "settings"]
    assert told["fingerprint"] == RouterConfig(lease_seconds=5.0).fingerprint()
    settings = told["settings"]
    assert list(settings) == list(RouterConfig().shown())
    assert settings["port"] == {"value": 9001, "origin": "file", "place": f"router.port in {path}"}
    assert settings["lease_seconds"] == {
        "value": 5.0,
        "origin": "environment",
        "place": "SHARED_REGISTRY_LEASE_SECONDS",
    }
    assert settings["redis_url"] == {"value": "redis://ann:***@h/0", "origin": "command line", "place": ""}
    assert settings["host"] == {"value": "0.0.0.0", "origin": "default", "place": ""}
    assert settings["replicas"]["value"][0]["capacity"] == 2
    lines = [line.split(maxsplit=1) for line in invoke(*words, SHARED_REGISTRY_NAMESPACE="pool").out.splitlines()]
    table = {line[0]: line[1].rstrip() for line in lines}
    assert table["port"].split(maxsplit=1) == ["9001", f"router.port in {path}"]
    assert table["namespace"].split() == ["pool", "SHARED_REGISTRY_NAMESPACE"]
    assert table["replicas"].startswith("http://a, primary no, weight 1, capacity 2")
    assert SECRET not in str(table)


def test_show_reports_wrong_settings_and_prints_nothing() -> None:
    done = invoke("config", "show", SHARED_REGISTRY_PORT="x")
    assert (done.code, done.out) == (2, "")
    assert "SHARED_REGISTRY_PORT" in done.err


# keys


def test_keys_connects_to_nothing() -> None:
    url = f"redis://ann:{SECRET}@127.0.0.1:1/2"
    done = invoke("keys", "-n", "pool", SHARED_REGISTRY_REDIS_URL=url)
    assert (done.code, done.err) == (0, "")
    assert "redis-cli -h 127.0.0.1 -p 1 -n 2 --user ann HGETALL 'sr:{pool}:meta'" in done.out.splitlines()
    assert SECRET not in done.out
    lines = done.out.splitlines()
    assert "REDISCLI_AUTH" in lines[0]
    told = json.loads(invoke("keys", "--json", "-n", "pool", SHARED_REGISTRY_REDIS_URL=url).out)
    assert list(told) == ["redis", "namespace", "redis_cli", "note", "commands"]
    assert [list(one) for one in told["commands"]] == [["shows", "words"]] * ((len(lines) - 1) // 2)
    assert SECRET not in str(told)
    unreachable = invoke("keys", "--show", SHARED_REGISTRY_REDIS_URL=url)
    assert (unreachable.code, unreachable.out) == (3, "")


POOLED = """
router:
  redis_url: redis://127.0.0.1:6399/0
  pools:
    - {name: llama, models: [llama], namespace: large, health_check_path: /readyz}
    - {name: video, redis_url: "redis://127.0.0.1:6399/3"}
"""


@pytest.mark.parametrize(
    ("options", "namespace", "database", "path"),
    [
        (GlobalOptions(namespace="llama"), "large", 0, "/readyz"),
        (GlobalOptions(namespace="large"), "large", 0, "/readyz"),
        (GlobalOptions(namespace="video"), "video", 3, "/health"),
        (GlobalOptions("redis://127.0.0.1:6399/5", "video"), "video", 5, "/health"),
        (GlobalOptions(namespace="other"), "other", 0, "/health"),
    ],
)
def test_commands_have_the_settings_of_a_pool(
    options: GlobalOptions, namespace: str, database: int, path: str, tmp_path: Path
) -> None:
    file = tmp_path / "router.yaml"
    file.write_text(POOLED)
    config = options.load(file)
    assert (config.namespace, config.redis_url) == (namespace, f"redis://127.0.0.1:6399/{database}")
    assert config.health_check_path == path


def test_a_pool_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "router.yaml"
    file.write_text(POOLED)
    monkeypatch.setenv("SHARED_REGISTRY_NAMESPACE", "video")
    assert GlobalOptions().load(file).namespace == "video"


@pytest.mark.parametrize("words", [["status"], ["join", "--url", "http://127.0.0.1:9", "--", "true"]])
def test_one_of_the_pools_must_be_named(words: list[str], tmp_path: Path) -> None:
    """Else `join` would announce a replica where no router is."""
    path = write(tmp_path, POOLED)
    done = invoke(words[0], "--config", path, *words[1:])
    assert is_one_error(done, 2)
    assert "they have large, video" in done.err
    path = write(tmp_path, "router:\n  pools: [{name: only, namespace: its-own}]\n")
    assert GlobalOptions().load(Path(path)).namespace == "its-own"
