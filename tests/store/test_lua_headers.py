"""The header of every command says what its body does: read from the text, and seen in a run of the whole scenario."""

from __future__ import annotations

import asyncio
import re

import pytest
from fakeredis import FakeRedis
from lupa import lua51

from shared_registry.store.keys import Keys
from shared_registry.store.lua import LUA_DIR, assemble, command_names
from tests.support.lua_header import FIELDS, read_header, source
from tests.support.lua_sandbox import Run, Sandbox
from tests.support.scenario import run_scenario
from tests.support.space import on_fake

REFUSALS = {"wrong_type", "wrong_schema"}
# What may stand beside `..` apart from literals, whole(…), KEYS, ARGV and names taken from them: known to be text.
TEXT = {
    "elsewhere",
    "entry.url",
    "far",
    "former",
    "heir",
    "held",
    "keys.affinity_prefix",
    "keys.inbox_prefix",
    "keys.leases_prefix",
    "keys.several_prefix",
    "keys.sequence_prefix",
    "keys.replica_prefix",
    "keys.router_prefix",
    "lease_id",
    "leader",
    "namespace",
    "other",
    "least",
    "one.url",
    "one.session",
    "session",
    "status",
    "tier",
    "name",
    "prefix",
    "result.url",
    "router",
    "url",
    "id",
}

# What the scenario passes as arguments of these names: no two are alike that a store could mix up.
PASSED = {
    "by": "(me|dns:pods|file:fleet)?",
    "history_id": "[0-9a-f]{16}",
    "view_history_id": "[0-9a-f]{16}",
    "view_revision": r"\d+-\d+",
    "first_event": r"(\d+-\d+)?",
    "router": r"r~\d",
    "replica_url": "http://.+",
    "reason": "(why|deploy|still|refresh|done|refused)?",
    "request": r"[abc]\d|[0-9a-f]{16}",
    "token": r"t\d|other",
    "epoch": r"\d+",
    "failure_threshold": "3",
    "recovery_threshold": "2",
    "lease_ms": "60000",
    "seen_epoch": "0",
    "sit_out_ms": "9000",
    "weight": r"\d+\.\d+",
}

commands = pytest.mark.parametrize("name", command_names())


def code_of(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text)


def body(name: str) -> str:
    return code_of(source(name))


def unpacked(name: str, what: str) -> list[str]:
    found = re.findall(rf"local\s+([\w,\s]+?)\s*=\s*unpack\({what}\b", body(name))
    assert len(found) <= 1
    return re.split(r",\s*", found[0]) if found else []


@commands
def test_a_header_has_all_fields_in_order_with_a_purpose(name: str) -> None:
    header = read_header(name)
    assert list(header.fields) == FIELDS
    assert header.purpose.endswith(".")
    assert re.fullmatch(r"O\(.+\)", header.fields["COST"])
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)


@commands
def test_arguments_are_named_as_in_the_header(name: str) -> None:
    header = read_header(name)
    assert unpacked(name, "ARGV") == header.names("ARGV")


@commands
def test_every_argument_is_used(name: str) -> None:
    header = read_header(name)
    rest = re.sub(r"local\s+[\w,\s]+?=\s*unpack\([^)]*\)", "", body(name))
    for word in header.names("ARGV"):
        assert re.search(rf"(?<![\w.'{{]){word}(?![\w'])(?!\s*=[^=])", rest), f"{word} is not used"


@commands
def test_a_repeated_group_has_the_width_the_body_reads(name: str) -> None:
    group = read_header(name).group("ARGV")
    text = body(name)
    if not group:
        assert "ARGV[" not in text
    elif len(group) == 1:
        fixed = len(read_header(name).names("ARGV"))
        assert (f"FIRST_{group[0].upper()} = {fixed + 1}\n" if fixed else "ipairs(ARGV)") in text
    elif group[-2].endswith(","):
        # Entries have heads of these, and pairs follow whose number the head has; a run shows that they fit.
        first, width = len(read_header(name).names("ARGV")) + 1, len(group) - 1
        assert f"FIRST_ENTRY, HEAD_WIDTH = {first}, {width}\n" in text
    else:
        text = code_of(assemble(name))  # reports share the code that reads results
        assert re.search(rf"_WIDTH = {len(group)}\n", text)
        offsets = {int(offset or 0) for offset in re.findall(r"ARGV\[i(?: \+ (\d+))?\]", text)}
        assert offsets == set(range(len(group)))


@commands
def test_the_status_words_are_those_of_the_body(name: str) -> None:
    declared = read_header(name).statuses()
    text = body(name)
    if "reply, is_changed = register(" in text:
        text += code_of((LUA_DIR / "lib" / "registration.lua").read_text(encoding="utf-8"))
    returned: set[str] = set()
    for first in re.findall(r"(?:return|reply =) \{([^,}\n]*)", text):
        returned |= set(re.findall(r"'(\w+)'", first))
    if re.search(r"= refusal\(|\bschema_refusal\(", text):
        returned |= REFUSALS
    elif "type_refusal(" in text:
        returned.add("wrong_type")
    assert declared == returned


@commands
def test_commands_use_nothing_random_or_missing_on_some_servers(name: str) -> None:
    text = assemble(name)
    assert not text.startswith("#!")
    code = code_of(text)
    for word in ("cjson", "cmsgpack", "random", "struct", "bit.", "loadstring", "setmetatable", "goto"):
        assert word not in code
    assert not re.search(r"(?<!redis\.)\bx?pcall\b", code)
    assert len(re.findall(r"'TIME'", code)) <= 1
    assert len(re.findall(r"server_now_ms\(\)", body(name))) <= 1


@commands
def test_commands_assign_only_to_locals(name: str) -> None:
    """A run shows this too, but only for the lines that it reaches."""
    code = code_of(assemble(name))
    declared = set(re.findall(r"\bfor\s+(\w+)", code)) | set(re.findall(r"\bfor\s+\w+,\s*(\w+)", code))
    for names in re.findall(r"\blocal\s+(?!function)([\w,\s]+?)(?:=|(?<!,)\n)", code):
        declared |= {part.strip() for part in names.split(",")}
    for parameters in re.findall(r"\bfunction\s*\w*\(([^)]*)\)", code):
        declared |= {part.strip() for part in parameters.split(",")}
    assigned = re.findall(r"^\s*(\w+(?:,\s*\w+)*)\s*=[^=]", re.sub(r"\{[^{}]*\}", "", code), re.MULTILINE)
    assert {part.strip() for names in assigned for part in names.split(",")} <= declared
    assert not re.findall(r"(?<!local )\bfunction\s+\w", code)


@commands
def test_commands_concatenate_only_text(name: str) -> None:
    """`..` writes a number past 14 digits as 1e+14."""
    header = read_header(name)
    text = TEXT | set(header.names("ARGV"))
    code = code_of(assemble(name))
    for match in re.finditer(r"\.\.(?!\.)", code):
        left = re.search(r"('[^']*'|[\w.]+(?:\[[^\]]*\])?)\s*$", code[: match.start()])
        right = re.match(r"\s*('[^']*'|[\w.]+(?:\([^)]*\)|\[[^\]]*\])?)", code[match.end() :])
        assert left is not None
        assert right is not None
        for operand in (left[1], right[1]):
            is_text = operand in text or re.match(r"'|whole\(|(KEYS|ARGV)\[", operand)
            assert is_text, f"{operand} beside `..` may be a number"


def test_lua_derives_the_keys_that_python_spells() -> None:
    keys = Keys("a.namespace")
    text = (LUA_DIR / "lib" / "keys.lua").read_text()
    lua = lua51.LuaRuntime(unpack_returned_tuples=True)
    found, types = lua.execute(f"local KEYS = {{'{keys.meta}'}} {text} return keys, TYPES")
    assert dict(found) == {name: key for name, key in vars(keys).items() if name not in ("namespace", "prefix")}
    fixed = {name: key for name, key in found.items() if not name.endswith("_prefix") and name != "meta"}
    assert dict(types) == {name: keys.expected_type(key) for name, key in fixed.items()}


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """Every execution in one run of the scenario."""

    async def run() -> list[Run]:
        async with on_fake() as space:
            server = space.raw.connection_pool.connection_kwargs["server"]
            with FakeRedis(server=server, decode_responses=True, protocol=2) as fake:
                sandbox = Sandbox(fake)
                await run_scenario(space, sandbox)
            assert {(name, word) for name, word in sandbox.answers} == {
                (name, word) for name in command_names() for word in read_header(name).statuses() - REFUSALS
            }
            return sandbox.runs

    return asyncio.run(run())


def executions(runs: list[Run], name: str) -> list[Run]:
    found = [run for run in runs if run.name == name]
    assert found, f"the scenario does not run {name}"
    return found


def names_of(keys: set[str], run: Run) -> set[str]:
    """Return the names of keys that a run touched."""
    spelled = {name: key for name, key in vars(Keys("fake")).items() if name not in ("namespace", "prefix")}
    names: set[str] = set()
    for key in keys:
        exact = {name for name, given in spelled.items() if given == key}
        derived = {name for name, given in spelled.items() if name.endswith("_prefix") and key.startswith(given)}
        assert exact or derived, f"{run.name} touches {key}, which is no key of the namespace"
        names |= exact or derived
    return names


@commands
def test_a_run_receives_one_key_and_the_headers_arguments(name: str, runs: list[Run]) -> None:
    header = read_header(name)
    for run in executions(runs, name):
        assert [*run.keys] == [Keys("fake").meta]
        rest = len(run.args) - len(header.names("ARGV"))
        width = len(header.group("ARGV"))
        if name in ("restore_view", "register_replicas"):
            entries = list(run.args[len(header.names("ARGV")) :])
            while entries:
                assert name != "restore_view" or entries[0] in ("replica", "removed", "absent")
                del entries[: 4 + 2 * int(entries[3])]
        elif name == "repair_affinities":
            entries = list(run.args[len(header.names("ARGV")) :])
            while entries:
                assert entries[2] in ("0", "1")
                del entries[: 5 + 2 * (int(entries[3]) + int(entries[4]))]
        else:
            assert rest % width == 0 if width else rest == 0


@commands
def test_a_store_packs_arguments_in_the_order_of_the_header(name: str, runs: list[Run]) -> None:
    passed = PASSED | ({"key": "r~[236]", "by": "r~1"} if name == "reap_router" else {})
    for run in executions(runs, name):
        for word, value in zip(read_header(name).names("ARGV"), run.args, strict=False):
            assert re.fullmatch(passed.get(word, ".*"), value), f"{word} is {value!r}"


@commands
def test_a_run_uses_only_the_keys_its_header_names(name: str, runs: list[Run]) -> None:
    """It writes only what the header says."""
    header = read_header(name)
    written: set[str] = set()
    touched: set[str] = set()
    for run in executions(runs, name):
        written |= names_of(run.written(), run)
        touched |= names_of(run.touched(), run)
    assert written == set(header.names("WRITES"))
    assert touched == set(header.names("KEYS"))


@commands
def test_a_run_reads_the_clock_at_most_once(name: str, runs: list[Run]) -> None:
    for run in executions(runs, name):
        assert [command for command, _ in run.calls].count("TIME") <= 1


@pytest.mark.parametrize(
    "text",
    ["x = 1", "return cjson.encode({})", "return math.random()", "return os.time()", "return undeclared", "_G.x = 1"],
)
async def test_the_sandbox_refuses_global_variables(text: str) -> None:
    with FakeRedis(decode_responses=True) as fake, pytest.raises(lua51.LuaError, match=r"global|nil"):
        await Sandbox(fake).run("trial", text, [], [])
