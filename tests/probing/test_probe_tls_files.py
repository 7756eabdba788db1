"""TLS for replicas by settings: authorities, client certificates, names, no verification, and files that change."""

from __future__ import annotations

import asyncio
import logging
import os
import pty
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared_registry.config import RouterConfig
from shared_registry.probing import Evidence, HttpProber, ProbeOutcome, guarded
from shared_registry.probing import tls as module
from shared_registry.probing.names import Names
from tests.support.certificates import Authority
from tests.support.scripted_server import LONG, answer_all, scripted, several_turns


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.0)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def prober_of(
    names: Names | None = None, *, server_name: str | None = None, verify: bool = True, **files: Any
) -> HttpProber:
    settings: dict[str, Any] = {f"replica_tls_{name}": str(file) for name, file in files.items()}
    config = RouterConfig(replica_tls_server_name=server_name, replica_tls_verify=verify, **settings)
    return HttpProber(config, names=names)


async def probe(prober: HttpProber, url: str) -> ProbeOutcome:
    return await guarded(prober, f"{url}/health", LONG, fresh=True)


async def probed_until(prober: HttpProber, url: str, is_right: Callable[[ProbeOutcome], bool]) -> None:
    """Probe until an outcome is right: files are read while probes go on."""

    async def is_there() -> bool:
        return is_right(await probe(prober, url))

    async with asyncio.timeout(30):
        while not await is_there():
            await several_turns()


def replace(source: Path, target: Path) -> None:
    """Replace a file in one step, as tools do."""
    shutil.copy(source, target.with_suffix(".new"))
    target.with_suffix(".new").replace(target)


async def test_only_the_given_authorities_are_trusted(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    async with scripted(answer_all, tls=authority.server()) as server:
        async with prober_of(ca_file=authority.ca) as prober:
            assert (await probe(prober, server.url)).error is None
        async with prober_of(ca_file=other.ca) as prober:
            outcome = await probe(prober, server.url)
            assert outcome.evidence is Evidence.FAILED
            assert (outcome.error or "").startswith("ConnectError: certificate verify failed")


async def test_the_name_of_the_certificate_may_be_another(authority: Authority) -> None:
    tls = authority.server(alternatives="DNS:replica.internal")
    sent: list[str | None] = []
    tls.sni_callback = lambda _, name, __: sent.append(name)
    async with scripted(answer_all, tls=tls) as server:
        async with prober_of(ca_file=authority.ca) as prober:
            assert "certificate is not valid for '127.0.0.1'" in str((await probe(prober, server.url)).error)
        async with prober_of(ca_file=authority.ca, server_name="replica.internal") as prober:
            assert (await probe(prober, server.url)).error is None
    assert sent[-1] == "replica.internal"


async def test_a_name_is_verified_although_its_address_is_connected_to(authority: Authority) -> None:
    tls = authority.server(alternatives="DNS:gpu-1.test")
    sent: list[str | None] = []
    tls.sni_callback = lambda _, name, __: sent.append(name)
    async with scripted(answer_all, tls=tls) as server:
        port = server.url.rpartition(":")[2]
        async with prober_of(Names(lambda _: ["127.0.0.1"]), ca_file=authority.ca) as prober:
            assert (await probe(prober, f"https://gpu-1.test:{port}")).error is None
            assert "is not valid for 'gpu-2.test'" in str((await probe(prober, f"https://gpu-2.test:{port}")).error)
    assert sent == ["gpu-1.test", "gpu-2.test"]


async def test_without_verification_any_certificate_will_do(authority: Authority) -> None:
    tls = authority.server(alternatives="DNS:other")
    async with scripted(answer_all, tls=tls) as server, prober_of(verify=False) as prober:
        assert (await probe(prober, server.url)).error is None


async def test_a_replica_may_ask_for_a_certificate(authority: Authority) -> None:
    tls = authority.server()
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(authority.ca)
    certificate, key = authority.sign("router", "DNS:router")
    async with scripted(answer_all, tls=tls) as server:
        async with prober_of(ca_file=authority.ca) as prober:
            assert (await probe(prober, server.url)).evidence is Evidence.FAILED
        async with prober_of(ca_file=authority.ca, certificate_file=certificate, key_file=key) as prober:
            for _ in range(2):
                assert (await probe(prober, server.url)).error is None


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda folder: (folder / "authority.pem").unlink(), "authority.pem: no such file or directory"),
        (lambda folder: (folder / "authority.pem").write_text("nothing"), "authority.pem: TLS: "),
        (lambda folder: (folder / "router.key").unlink(), "router.key: no such file or directory"),
        (lambda folder: (folder / "router.key").write_text(""), "router.key: TLS: "),
        (lambda folder: shutil.copy(folder / "replica.key", folder / "router.key"), "key values mismatch"),
    ],
)
async def test_unusable_files_are_this_routers_own_trouble(
    authority: Authority, break_it: Callable[[Path], object], reason: str
) -> None:
    certificate, key = authority.sign("router", "DNS:router")
    tls = authority.server()
    intact = [(file, file.read_bytes()) for file in (authority.ca, certificate, key)]
    break_it(authority.folder)
    prober_of_all = prober_of(ca_file=authority.ca, certificate_file=certificate, key_file=key)
    async with scripted(answer_all, tls=tls) as server, prober_of_all as prober:
        outcome = await probe(prober, server.url)
        assert outcome.evidence is Evidence.UNSURE
        assert reason in str(outcome.trouble)
        assert outcome.trouble is not None
        assert "replica_tls_" in outcome.trouble.remedy
        for file, content in intact:
            file.write_bytes(content)
        assert (await probe(prober, server.url)).error is None, "and is read again"


def test_a_key_with_a_password_asks_nobody(authority: Authority) -> None:
    """OpenSSL would ask, and wait for ever, where a router is started at a terminal."""
    certificate, key = authority.sign("router", "DNS:router")
    authority._openssl(f"ec -in {key} -aes256 -passout pass:secret -out {key}.locked")
    program = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from shared_registry.config import RouterConfig; from shared_registry.probing.tls import default_context;"
        "config = RouterConfig(replica_tls_certificate_file=sys.argv[1], replica_tls_key_file=sys.argv[2]);"
        "default_context(config)"
    )
    controller, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, certificate, f"{key}.locked"],
            cwd=Path(__file__).parents[2],
            check=False,
            stdin=terminal,
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=40,
        )
    finally:
        os.close(controller)
        os.close(terminal)
    assert done.returncode == 1
    assert "UnusableFile" in done.stderr


async def test_changed_files_are_used_by_new_connections(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "new").mkdir()
    new = Authority(tmp_path / "new")
    bundle = tmp_path / "bundle.pem"
    shutil.copy(authority.ca, bundle)
    async with (
        scripted(answer_all, tls=authority.server()) as before,
        scripted(answer_all, tls=new.server()) as after,
        prober_of(ca_file=bundle) as prober,
    ):
        assert (await probe(prober, before.url)).error is None
        assert (await probe(prober, after.url)).evidence is Evidence.FAILED
        replace(new.ca, bundle)
        await probed_until(prober, after.url, lambda outcome: outcome.error is None)
        assert (await probe(prober, before.url)).evidence is Evidence.FAILED
    assert caplog.messages.count("router: the TLS files for replicas have changed; new connections use them") == 1


async def test_broken_new_files_leave_the_former_in_use(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    bundle = tmp_path / "bundle.pem"
    shutil.copy(authority.ca, bundle)

    def said(words: str) -> int:
        return sum(words in message for message in caplog.messages)

    async with scripted(answer_all, tls=authority.server()) as server, prober_of(ca_file=bundle) as prober:
        assert (await probe(prober, server.url)).error is None
        bundle.write_text("-----BEGIN CERTIFICATE-----\nhalf")
        await probed_until(prober, server.url, lambda _: said("the former files stay in use") == 1)
        for text in ("other", "and another"):
            bundle.write_text(text)
            for _ in range(5):
                assert (await probe(prober, server.url)).error is None
        assert said("the former files stay in use") == 1, "an edge, not a line for each probe"
        replace(authority.ca, bundle)
        await probed_until(prober, server.url, lambda _: said("new connections use them") == 1)
        assert (await probe(prober, server.url)).error is None
        bundle.unlink()
        await probed_until(prober, server.url, lambda _: said("the former files stay in use") == 2)
        assert (await probe(prober, server.url)).error is None


async def test_files_that_hang_do_not_hold_up_the_end(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(module, "default_context", lambda _: release.wait(60))
    tls = authority.server()
    try:
        async with asyncio.timeout(20), scripted(answer_all, tls=tls) as server, prober_of(verify=False) as prober:
            outcome = await guarded(prober, f"{server.url}/health", 0.2)
            assert str(outcome.trouble) == "TLS settings of this router: reading its files takes too long"
    finally:
        release.set()


async def test_sessions_and_probes_that_come_together_read_once(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    real = module.default_context

    def counted(config: RouterConfig) -> ssl.SSLContext:
        nonlocal reads
        reads += 1
        return real(config)

    monkeypatch.setattr(module, "default_context", counted)
    contexts = module.TlsContexts(RouterConfig(replica_tls_ca_file=str(authority.ca)))
    found = await asyncio.gather(*(contexts.context() for _ in range(20)))
    assert len(set(map(id, found))) == 1
    assert await contexts.context() is found[0]
    assert reads == 1
