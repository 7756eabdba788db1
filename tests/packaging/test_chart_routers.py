"""The routers of the Helm chart as processes: the probes of Kubernetes, what clients need, and how they stop."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
from websockets.asyncio.client import connect

from shared_registry.embedded import EmbeddedServer
from tests.support.certificates import Authority
from tests.support.chart_containers import Pod
from tests.support.helm import EXAMPLES, named, rendered
from tests.support.programs import INIT, free_port, mock_replica
from tests.support.until import until

KEY = "a-key-of-a-client-of-the-router"


async def test_probes_pass_whatever_clients_need_and_a_stop_drains(
    server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    port, admin_port = free_port(), free_port()
    (tmp_path / "ca").mkdir()
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.sign("router")
    with mock_replica("gpu-a") as url:
        settings = [
            "tls.clientCa=true",
            f"config.namespace={namespace}",
            f"config.replicas[0].url={url}",
            "config.health_check.interval_seconds=0.2",
        ]
        objects = rendered(EXAMPLES / "production.yaml", settings=settings)
        (tmp_path / "pod").mkdir()
        pod = Pod(tmp_path / "pod", objects, "Deployment", redis_url=server.url)
        secrets = pod.folder / "secrets"
        for name, source in {"tls.crt": certificate, "tls.key": key, "ca.crt": authority.ca}.items():
            (secrets / "tls").mkdir(exist_ok=True)
            (secrets / "tls" / name).write_bytes(source.read_bytes())
        for name in ("api-keys", "admin-tokens"):
            (secrets / name).mkdir()
            right = " read" if name == "admin-tokens" else ""
            (secrets / name / name).write_text(f"team-a: {KEY}{right}\n")
        container = pod.container("router")
        words = [*container["command"], *container["args"]]
        words[words.index("--port") + 1] = str(port)
        probes = {
            kind: f"http://127.0.0.1:{admin_port}{container[f'{kind}Probe']['httpGet']['path']}"
            for kind in ("liveness", "readiness")
        }
        context = ssl.create_default_context(cafile=str(authority.ca))
        context.load_cert_chain(*authority.sign("client"))
        async with (
            httpx.AsyncClient(trust_env=False, timeout=20) as kubelet,
            pod.running("router", words, SHARED_REGISTRY_ADMIN_PORT=str(admin_port)) as process,
        ):

            async def passes(kind: str, status: int = 200) -> bool:
                assert process.returncode is None, pod.log("router")
                try:
                    return (await kubelet.get(probes[kind])).status_code == status
                except httpx.TransportError:
                    return False

            await until(lambda: passes("liveness"), "the router lives")
            await until(lambda: passes("readiness"), "the router is ready")
            assert (await kubelet.get(f"http://127.0.0.1:{admin_port}/status")).status_code == 401
            headers = {"Authorization": f"Bearer {KEY}"}
            metrics = await kubelet.get(f"http://127.0.0.1:{admin_port}/metrics", headers=headers)
            assert "sr_sessions_active" in metrics.text
            async with connect(
                f"wss://127.0.0.1:{port}/v1/stream", ssl=context, additional_headers=headers, proxy=None
            ) as session:
                await session.send(INIT)
                await session.recv()
                process.terminate()
                await until(lambda: passes("readiness", 503), "no new sessions come")
                assert await passes("liveness")
                await session.recv()
            assert await asyncio.wait_for(process.wait(), 30) == 0, pod.log("router")


async def test_a_router_without_redis_lives_and_is_not_ready(tmp_path: Path) -> None:
    objects = rendered()
    pod = Pod(tmp_path, objects, "Deployment", redis_url=f"redis://127.0.0.1:{free_port()}/0")
    port, admin_port = free_port(), free_port()
    container = pod.container("router")
    words = [*container["command"], *container["args"]]
    words[words.index("--port") + 1] = str(port)
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{admin_port}", trust_env=False, timeout=20) as kubelet,
        pod.running("router", words, SHARED_REGISTRY_ADMIN_PORT=str(admin_port)) as process,
    ):

        async def lives() -> bool:
            assert process.returncode is None, pod.log("router")
            try:
                return (await kubelet.get("/healthz")).status_code == 200
            except httpx.TransportError:
                return False

        await until(lives, "the router lives")
        assert (await kubelet.get("/readyz")).status_code == 503
    assert named(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
