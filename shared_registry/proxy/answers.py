"""The router's own responses, in place of a replica's. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NO_REFUSALS = frozenset({"internal_error", "method_not_allowed", "not_found", "worker_failed"})
"""The codes of errors that are no refusals. Failures are logged one by one, and own pages may be read by anybody."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response of the router itself.

    Attributes:
        status: The HTTP status.
        document: The body, as JSON.
        fields: Further headers, with names in lower case.
        pieces: The body as JSON, in place of the document, for a body too long to be written in one piece.
    """

    status: int
    document: Mapping[str, Any]
    fields: tuple[tuple[bytes, bytes], ...] = field(default=())
    pieces: Sequence[bytes] = ()

    def content(self) -> Sequence[bytes]:
        """Return the body, in pieces."""
        return self.pieces or (as_json(self.document).encode(),)

    @property
    def error(self) -> str | None:
        """The error's code; `None` if the answer is no error."""
        return self.document["code"] if self.document.get("type") == "error" else None


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def as_json(document: object) -> str:
    """Return a document as compact JSON."""
    return _encode(document)


def error_answer(
    status: int,
    code: str,
    message: str,
    *,
    is_retryable: bool | None = None,
    retry_after: int | None = None,
    fields: tuple[tuple[bytes, bytes], ...] = (),
) -> Answer:
    """Return the answer to a request that cannot be served. Its body is an error frame, as WebSockets get it.

    Args:
        status: The HTTP status.
        code: The error's code, for programs.
        message: The error for people.
        is_retryable: Whether the same request may succeed later; by default for statuses from 500 on.
        retry_after: The value of `Retry-After`, in seconds.
        fields: Further headers.
    """
    if retry_after is not None:
        fields = (*fields, (b"retry-after", str(retry_after).encode()))
    return Answer(
        status, error_frame(code, message, is_retryable=status >= 500 if is_retryable is None else is_retryable), fields
    )


def error_frame(code: str, message: str, *, is_retryable: bool) -> dict[str, Any]:
    """Return the document by which a client learns of an error."""
    return {"type": "error", "code": code, "message": message, "retryable": is_retryable}
