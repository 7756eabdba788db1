"""What the connections of one listener have in common, and who is told of their requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared_registry.proxy.access_log import AccessLog
from shared_registry.proxy.access_record import AccessRecord
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.forwarding import TrustedProxies
from shared_registry.proxy.limits import Limits
from shared_registry.proxy.refusal_log import RefusalLog
from shared_registry.proxy.refusals import Refusal
from shared_registry.proxy.request_ids import RequestIds
from shared_registry.proxy.session_trace import Tracing
from shared_registry.proxy.traffic import Traffic

if TYPE_CHECKING:
    from shared_registry.proxy.client import ClientConnection


@dataclass
class Site:
    """What the connections of one listener have in common.

    Attributes:
        begin: Called with each request when its turn has come. It must not raise.
        limits: The limits of each connection.
        scheme: The scheme of the clients' connections.
        ids: The ids of requests.
        refusals: Logs what is refused.
        access_log: Logs every request, unless it is `None`.
        traffic: Counts the requests that belong to no pool; `None` if requests are not counted.
        tracing: Traces every request, unless it is `None`.
        proxies: The proxies in front, whose word about their clients is believed.
        clients: The connections.
        is_stopping: Whether each connection closes after its next response.
        is_ending: Whether the connections that are left are being closed.
    """

    begin: Callable[[Exchange], None]
    limits: Limits
    scheme: str = "http"
    ids: RequestIds = field(default_factory=RequestIds)
    refusals: RefusalLog = field(default_factory=RefusalLog)
    access_log: AccessLog | None = None
    traffic: Traffic | None = None
    tracing: Tracing | None = None
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    clients: set[ClientConnection] = field(default_factory=set)
    is_stopping: bool = False
    is_ending: bool = False

    def begin_record(self) -> AccessRecord | None:
        """Return the record of a request that begins now; `None` if it is neither logged nor traced."""
        if self.access_log is not None:
            return AccessRecord(self.access_log.now())
        return None if self.tracing is None else AccessRecord(0.0)

    def end_record(self, exchange: Exchange) -> None:
        """Log and count a request that has ended, unless that was done before."""
        if (traffic := exchange.traffic) is not None:
            exchange.traffic = None
            traffic.add(exchange)
        if (record := exchange.record) is not None:
            exchange.record = None
            if self.access_log is not None:
                self.access_log.write(exchange, record)
            if record.trace is not None:
                record.trace.end(exchange)

    def refuse(self, refusal: Refusal, client: str | None, now: float) -> bytes:
        """Return the response to a client for which there is no room, and log the refusal."""
        request_id = self.ids.new()
        self.refusals.note(refusal.kind, refusal.message, request_id, now)
        if self.access_log is not None:
            self.access_log.write_refusal(refusal, request_id, client)
        return refusal.response(request_id)
