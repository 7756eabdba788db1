"""The openai client, before routers: completions, streams, errors, and a hundred at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter, all_healthy, until_idle
from tests.support.backend import Backend
from tests.support.chat import WORDS, Chat
from tests.support.foreign import find_module
from tests.support.until import until

if TYPE_CHECKING:
    import openai
else:
    openai = find_module("openai")

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "".join(WORDS)
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest_asyncio.fixture(loop_scope="module")
async def chat() -> Chat:
    return Chat()


@pytest_asyncio.fixture(loop_scope="module")
async def replica(chat: Chat) -> AsyncIterator[Backend]:
    async with Backend(routes=chat.routes) as replica:
        yield replica


def client_of(router: RunningRouter, **settings: Any) -> openai.AsyncOpenAI:
    chosen = {"max_retries": 0, "timeout": SECONDS} | settings
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="a-key", http_client=http, **chosen)


async def start(start_router: StartRouter, *urls: str, capacity: int, **settings: Any) -> RunningRouter:
    replicas = [ReplicaEndpoint(url, primary=True, capacity=capacity) for url in urls]
    router = await start_router(is_awaited=False, replicas=replicas, **settings)
    await until(lambda: all_healthy(router, len(urls)), "all replicas are healthy")
    return router


async def until_free(router: RunningRouter, *chats: Chat) -> None:
    await until_idle(router)
    await until(lambda: not any(chat.under_way for chat in chats), "the replicas know that the clients have gone")


async def test_a_completion_and_a_stream_come_whole(start_router: StartRouter, replica: Backend, chat: Chat) -> None:
    # The first release on a new Redis server waits for its script, and the next request is earlier.
    router = await start(start_router, replica.url, capacity=1, queue_timeout_seconds=10.0)
    async with client_of(router) as client:
        for _ in range(3):
            whole = await client.chat.completions.create(model="m", **ASKED)
            assert whole.choices[0].message.content == TEXT
            stream = await client.chat.completions.create(model="m", stream=True, **ASKED)
            assert [chunk.choices[0].delta.content async for chunk in stream] == [*WORDS, None]
    assert set(chat.keys) == {"Bearer a-key"}
    await until_free(router, chat)


async def test_a_replicas_errors_are_the_clients_exceptions(
    start_router: StartRouter, replica: Backend, chat: Chat
) -> None:
    router = await start(start_router, replica.url, capacity=1)
    wanted = {
        400: openai.BadRequestError,
        401: openai.AuthenticationError,
        404: openai.NotFoundError,
        422: openai.UnprocessableEntityError,
        429: openai.RateLimitError,
        500: openai.InternalServerError,
        503: openai.InternalServerError,
    }
    async with client_of(router) as client:
        for status, kind in wanted.items():
            for is_stream in (False, True):
                with pytest.raises(kind, match=f"the replica says {status}") as caught:
                    await client.chat.completions.create(model=str(status), stream=is_stream, **ASKED)
                assert (caught.value.status_code, caught.value.code) == (status, "replica")
    await until_free(router, chat)


async def test_the_routers_refusals_are_the_clients_exceptions(
    start_router: StartRouter, replica: Backend, chat: Chat
) -> None:
    router = await start(start_router, replica.url, capacity=1, routes="[]")
    async with client_of(router) as client:
        holding = asyncio.create_task(client.chat.completions.create(model="hold", **ASKED))
        await until(lambda: chat.under_way, "the slot is taken")
        with pytest.raises(openai.InternalServerError, match="full") as caught:
            await client.chat.completions.create(model="m", **ASKED)
        assert (caught.value.status_code, caught.value.code) == (503, "gpu_unavailable")
        assert int(caught.value.response.headers["retry-after"]) > 0
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await client.post("/load_lora_adapter", cast_to=object, body={})
        assert refused.value.status_code == 403
        chat.go_on.set()
        assert (await holding).choices[0].message.content == TEXT
    await until_free(router, chat)


async def test_the_clients_retries_get_the_slot_that_is_freed(
    start_router: StartRouter, replica: Backend, chat: Chat
) -> None:
    router = await start(start_router, replica.url, capacity=1)
    async with client_of(router, max_retries=20) as client:
        holding = asyncio.create_task(client.chat.completions.create(model="hold", **ASKED))
        await until(lambda: chat.under_way, "the slot is taken")
        refusals: list[int] = []

        async def count(response: Any) -> None:
            if response.status_code == 503:
                refusals.append(response.status_code)

        client._client.event_hooks["response"].append(count)
        waiting = asyncio.create_task(client.chat.completions.create(model="m", **ASKED))
        await until(lambda: refusals, "the client was refused")
        chat.go_on.set()
        assert [(await one).choices[0].message.content for one in (holding, waiting)] == [TEXT, TEXT]
    assert chat.most == 1
    await until_free(router, chat)


async def test_a_hundred_at_once_never_exceed_the_capacity(start_router: StartRouter) -> None:
    chats = [Chat(), Chat()]
    async with Backend(routes=chats[0].routes) as one, Backend(routes=chats[1].routes) as two:
        settings = {"queue_timeout_seconds": 50.0, "lease_seconds": 60.0}
        first = await start(start_router, one.url, two.url, capacity=3, **settings)
        second = await start(start_router, one.url, two.url, capacity=3, **settings)
        async with client_of(first, timeout=55.0) as client, client_of(second, timeout=55.0) as other:

            async def ask(at: int) -> str | None:
                asked = (client, other)[at % 2].chat.completions
                if at % 4 < 2:
                    whole: str | None = (await asked.create(model="hold", **ASKED)).choices[0].message.content
                    return whole
                stream = await asked.create(model="m", stream=True, **ASKED)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            asking = asyncio.gather(*(ask(at) for at in range(100)))
            await until(lambda: all(chat.under_way == 3 for chat in chats), "all slots are taken")
            for chat in chats:
                chat.go_on.set()
            assert await asking == [TEXT] * 100
        assert [chat.most for chat in chats] == [3, 3]
        await until_free(first, *chats)


@pytest.mark.parametrize("way", ["break", "cancel", "time out"])
async def test_a_stream_that_the_client_leaves_frees_its_slot(
    start_router: StartRouter, replica: Backend, chat: Chat, way: str
) -> None:
    router = await start(start_router, replica.url, capacity=1)
    async with client_of(router) as client:
        if way == "time out":
            with pytest.raises(openai.APITimeoutError):
                await client.chat.completions.create(model="hold", timeout=0.5, **ASKED)
            chat.go_on.set()  # this replica computes on until it is done
        else:
            stream = await client.chat.completions.create(model="endless", stream=True, **ASKED)
            if way == "break":
                async for _ in stream:
                    break
                await stream.close()
            else:
                reading = asyncio.create_task(anext(stream))
                await reading
                reading = asyncio.create_task(read_on(stream))
                await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait((reading,))
        await until_free(router, chat)
        assert (await client.chat.completions.create(model="m", **ASKED)).choices[0].message.content == TEXT
        assert chat.most == 1


async def read_on(stream: openai.AsyncStream[Any]) -> None:
    async with stream:
        async for _ in stream:
            pass


async def test_a_stream_that_breaks_off_does_not_look_complete(
    start_router: StartRouter, replica: Backend, chat: Chat
) -> None:
    router = await start(start_router, replica.url, capacity=1)
    async with client_of(router) as client:
        stream = await client.chat.completions.create(model="broken", stream=True, **ASKED)
        got: list[str | None] = []

        async def read() -> None:
            async for chunk in stream:
                got.append(chunk.choices[0].delta.content)  # noqa: PERF401  what came before the end counts

        with pytest.raises(openai.APIConnectionError):
            await read()
        assert got == WORDS
    await until_free(router, chat)
