"""Reads the plainest responses at once: those that arrive whole, with their length.

Nearly every response to a probe is one of these, and a parser with callbacks takes many times as long for it. What is
not recognized here is left to `ResponseReader`. What is recognized means the same there; tests compare the two, and
both with h11.
"""

from __future__ import annotations

import re

_VALUE = rb"[\t -~\x80-\xff]*\r\n"
_KEPT = rb"connection:[ \t]*keep-alive[ \t]*\r\n"
_OTHER = rb"(?!content-length|transfer-encoding|connection|upgrade)[0-9a-z!#$%&'*+.^_`|~-]+:" + _VALUE
_OTHERS = rb"(?:" + _OTHER + rb"|" + _KEPT + rb")*"
"""What the headers that are left out mean, if they are there, is for a whole parser to say."""
_LENGTH = rb"content-length:[ \t]*([0-9]{1,4})[ \t]*\r\n"
"""Of a longer body than 9,999 bytes only a part may be of interest."""
_HEAD = re.compile(
    rb"(?-i:HTTP)/1\.1 (?!204|205|304)([2-5][0-9]{2}) " + _VALUE + _OTHERS + _LENGTH + _OTHERS + rb"\r\n", re.IGNORECASE
)


def read_plain(data: bytes) -> tuple[int, bytes] | None:
    """Return the status and the body of a response to GET or POST, or `None` if the data is not just such a response.

    The connection stays usable after what is recognized.
    """
    found = _HEAD.match(data)
    if found is None:
        return None
    status, length = found.groups()
    end = found.end()
    return (int(status), data[end:]) if int(length) == len(data) - end else None
