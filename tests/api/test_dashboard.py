"""The dashboard in a real browser."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from shared_registry.admin.operator import Operator
from shared_registry.admin.replica_changes import Target
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import UnknownReplica
from shared_registry.model import AdminState, ReplicaEndpoint, RouterInfo
from tests.support.programs import free_port
from tests.support.replica_server import ReplicaServer
from tests.support.shown_fleet import shown_fleet
from tests.support.space import on_server
from tests.support.until import until
from tests.support.webdriver import Browser, browser

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
SECONDS = 60.0
NO_SCROLLING = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
ROWS = "return document.querySelectorAll('#replicas tr').length"
SEARCH = """
const field = document.getElementById('search');
field.value = arguments[0];
field.dispatchEvent(new Event('input'));
"""
FOREIGN = """
const own = location.origin + '/';
return performance.getEntriesByType('resource').map((one) => one.name)
  .filter((name) => !name.startsWith(own) && !name.startsWith('data:'));
"""
BACKGROUND = "return getComputedStyle(document.body).backgroundColor"


@pytest_asyncio.fixture(loop_scope="module")
async def page(tmp_path: Path) -> AsyncIterator[Browser]:
    async with browser(tmp_path) as page:
        await page.resize(1200, 900)
        yield page


async def is_level(page: Browser, level: str) -> None:
    """Wait until the sentence has the colour of a level."""

    async def has_class() -> bool:
        return bool(await page.run("return document.getElementById('sentence').className") == f"level {level}")

    await until(has_class, f"the sentence is {level}", SECONDS)


async def shows(page: Browser, selector: str, *parts: str) -> None:
    """Wait until an element's text has all these parts."""

    async def has_all() -> bool:
        text = await page.text(selector)
        return all(part in text for part in parts)

    await until(has_all, f"{selector} shows {parts}", SECONDS)


@pytest.mark.parametrize("count", [3, 60])
async def test_the_page_tells_how_the_fleet_is(server: EmbeddedServer, page: Browser, count: int) -> None:
    async with shown_fleet(server.url, count) as fleet:
        await page.open(fleet.router.admin_url + "/")
        await shows(page, "#sentence", f"Serving: {count} of {count} replicas healthy, 0 of {4 * count} slots taken")
        await shows(page, "#sentence", "nobody waits", "leads since")
        await shows(page, "#trouble", "nothing")
        await shows(page, "#events", "replica healthy")
        await shows(page, "#routers", fleet.router.url)
        await is_level(page, "green")
        assert await page.run(ROWS) == count

        await page.run("window.mark = 'the same page'")
        fleet.replica(1).status = 503
        await shows(page, "#sentence", f"Serving: {count - 1} of {count} replicas healthy")
        await shows(page, "#trouble", "gpu-1 unhealthy for", "503", "disable gpu-1")
        assert (await page.text("#replicas tr")).startswith("gpu-1 ")
        await is_level(page, "yellow")
        assert await page.run("return window.mark") == "the same page"

        await page.run(SEARCH, "GPU-2 zone=a")
        assert "gpu-2 " in await page.text("#replicas")
        assert "gpu-1 " not in await page.text("#replicas")
        await page.run(SEARCH, "unhealthy")
        assert await page.run(ROWS) == 1

        await fits_all_sizes(page)
        assert await page.run(FOREIGN) == []
        assert await page.problems() == []


async def fits_all_sizes(page: Browser) -> None:
    """Check that nothing needs horizontal scrolling, and that light and dark differ."""
    colours = set()
    for width, is_dark in ((400, False), (400, True), (3840, False)):
        await page.resize(width, 900, is_dark=is_dark)
        assert await page.run(NO_SCROLLING)
        colours.add(await page.run(BACKGROUND))
    assert len(colours) == 2


async def test_two_thousand_replicas_are_shown_and_found(server: EmbeddedServer, page: Browser) -> None:
    async with shown_fleet(server.url, 2_000, is_awaited=False) as fleet:
        await page.open(fleet.router.admin_url + "/")
        await shows(page, "#sentence", "of 2000 replicas healthy")
        await shows(page, "#found", "2000 in all")
        assert await page.run(ROWS) == 200
        await page.run("document.getElementById('more').click()")
        assert await page.run(ROWS) == 400
        await page.run(SEARCH, "gpu-1999")
        assert await page.text("#found") == "1 of 2000"
        before = await page.text("#sentence")

        async def is_live() -> bool:
            return await page.text("#sentence") != before

        await until(is_live, "the page follows the first probes", SECONDS)
        await fits_all_sizes(page)
        assert await page.run(FOREIGN) == []
        assert await page.problems() == []


HOSTILE = "<script>document.title='owned'</script>"
IMAGE = "<img src=x onerror=document.title='owned'>"


async def registered(operator: Operator, url: str) -> Target:
    """Return a replica as soon as it is registered."""
    found: list[Target] = []

    async def is_there() -> bool:
        with contextlib.suppress(UnknownReplica):
            found.extend(await operator.find([url]))
        return bool(found)

    await until(is_there, "the replica is registered")
    return found[0]


async def test_hostile_texts_stay_texts(server: EmbeddedServer, page: Browser) -> None:
    async with ReplicaServer() as replicas:
        replicas.replica().body = '{"status": "' + IMAGE + '"}'
        endpoint = ReplicaEndpoint(replicas.url(), HOSTILE, capacity=1)
        settings = {"health_check_expect": {"status": "ok"}, "replicas": [endpoint]}
        async with shown_fleet(server.url, 0, is_awaited=False, **settings) as fleet:
            async with Operator(fleet.config, by=HOSTILE) as operator:
                target = await registered(operator, replicas.url())
                await operator.set_admin(target, AdminState.DRAINING, reason=IMAGE)
            await page.open(fleet.router.admin_url + "/")
            await shows(
                page,
                "#trouble",
                HOSTILE,
                IMAGE,
                "unhealthy",
                "enable '<script>document.title='\\''owned'\\''</script>'",
            )
            await shows(page, "#replicas", HOSTILE, IMAGE)
            await shows(page, "#events", HOSTILE, IMAGE, "replica admin draining")
            assert await page.run("return document.querySelectorAll('main script, main img').length") == 0
            assert "owned" not in await page.run("return document.title")
            assert await page.problems() == []


async def test_the_leader_is_what_other_settings_differ_from(server: EmbeddedServer, page: Browser) -> None:
    async with shown_fleet(server.url, 1) as fleet:
        [pool] = fleet.router.router.pools.values()
        key = f"0.{pool.registry.router_key}"  # listed before the leader
        other = RouterInfo(key, "host", 1, "0.1", time.time(), config_fingerprint="another")
        async with on_server(server.url, fleet.config.namespace) as space:
            await space.store.heartbeat(other, expiry_seconds=60)
        await page.open(fleet.router.admin_url + "/")
        await shows(page, "#routers", pool.registry.router_key, "another")
        await shows(page, "#trouble", f"{key} has other settings than the leader.")
        yellow = "return [...document.querySelectorAll('#routers td.yellow')].map((one) => one.textContent)"
        assert await page.run(yellow) == ["another"]


async def test_a_name_like_an_option_is_no_option(server: EmbeddedServer, page: Browser) -> None:
    async with ReplicaServer() as replicas:
        replicas.replica().status = 500
        endpoint = ReplicaEndpoint(replicas.url(), "--help", capacity=1)
        async with shown_fleet(server.url, 0, is_awaited=False, replicas=[endpoint]) as fleet:
            await page.open(fleet.router.admin_url + "/")
            await shows(page, "#trouble", "disable -- --help")


async def test_the_page_shows_the_last_view_while_redis_is_away(
    own_server: Callable[..., EmbeddedServer], page: Browser
) -> None:
    redis = own_server()
    async with shown_fleet(redis.url, 3, redis_timeout_seconds=0.5) as fleet:
        await page.open(fleet.router.admin_url + "/")
        await shows(page, "#sentence", "Serving: 3 of 3 replicas healthy")
        redis.stop()
        await shows(page, "#sentence", "Redis is away for", "serving: 3 of 3 replicas healthy")
        await shows(page, "#trouble", "Redis cannot be read", "ago")
        assert await page.run(ROWS) == 3
        redis.start()
        await shows(page, "#sentence", "Serving: 3 of 3 replicas healthy", "leads since")


async def test_a_router_without_a_view_knows_no_leader(page: Browser) -> None:
    async with shown_fleet(f"redis://127.0.0.1:{free_port()}/0", 1, is_awaited=False) as fleet:
        await page.open(fleet.router.admin_url + "/")
        await shows(page, "#sentence", "Not serving, because Redis has not been read yet: 0 of 1 replicas healthy")
        await shows(page, "#trouble", "Redis has not been read since this router's start")
        assert "Nobody leads" not in await page.text("#trouble")
        assert await page.problems() == []


async def test_the_page_says_when_its_router_is_gone(server: EmbeddedServer, page: Browser) -> None:
    async with shown_fleet(server.url, 3) as fleet:
        await page.open(fleet.router.admin_url + "/")
        await shows(page, "#sentence", "Serving: 3 of 3")
    await shows(page, "#sentence", "This router does not answer", "old.", "3 of 3 replicas healthy")
    await is_level(page, "red")


async def test_each_pool_has_its_sentence(server: EmbeddedServer, namespace: str, page: Browser) -> None:
    async with ReplicaServer("0.0.0.0") as replicas:
        replicas.replica("127.1.0.2").status = 500
        urls = {"well": replicas.url("127.1.0.1"), "ill": replicas.url("127.1.0.2")}
        pools = [{"name": name, "namespace": f"{namespace}.{name}", "replicas": [url]} for name, url in urls.items()]
        async with shown_fleet(server.url, 0, is_awaited=False, pools=pools) as fleet:
            await page.open(fleet.router.admin_url + "/")
            await shows(page, "#sentence", "ill: Not serving: 0 of 1 replicas healthy")
            await shows(page, "#replicas", urls["ill"])
            await page.run("document.querySelector('#pools button').click()")
            await shows(page, "#replicas", urls["well"])
            await shows(page, "#sentence", "ill: Not serving: 0 of 1 replicas healthy")
