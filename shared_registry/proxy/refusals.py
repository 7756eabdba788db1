"""The refusals of clients whose requests cannot be read. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client is disconnected before its request was read.

    Attributes:
        status: The HTTP status that the client gets.
        code: The error's code, for programs.
        message: The reason for people.
        fields: Further lines of the response's head.
    """

    status: int
    code: str
    message: str
    fields: bytes = b""

    @property
    def kind(self) -> str:
        """The kind under which the refusal is counted."""
        return f"{self.status} {self.code}"

    def response(self, request_id: bytes) -> bytes:
        """Return the whole response. It has no body."""
        line = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n".encode()
        return b"%b%bx-request-id: %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % (
            line,
            self.fields,
            request_id,
        )


FULL = Refusal(503, "gpu_unavailable", "this router has no room for more clients; try again", b"retry-after: 1\r\n")
BAD = Refusal(400, "bad_request", "a request cannot be parsed, or is ambiguous")
TOO_LONG = Refusal(431, "head_too_long", "a request's head, or the framing of its body, is too long")
TOO_SLOW = Refusal(408, "request_timeout", "a request's head did not arrive in time")
