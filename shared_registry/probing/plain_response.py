"""Reads the plainest responses at once: those that arrive whole, with their length.

Nearly every response to a probe is one of these, and a parser with callbacks takes many times as long for it. What is
not recognized here is left to `ResponseReader`. What is recognized means the same there; tests compare the two, and
both with h11.
"""

from __future__ import annotations

import re

_LINE = rb"[\t -~\x80-\xff]*\r\n"
_HEAD = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) " + _LINE + rb"(?:[0-9A-Za-z!#$%&'*+.^_`|~-]+:" + _LINE + rb")*\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,4})[ \t]*\r\n")
"""Of a longer body than 9,999 bytes only a part may be of interest."""
_LENGTH_NAME = b"content-length"
_WITHOUT_BODY = (b"204", b"205", b"304")
_OTHERWISE = (b"transfer-encoding", b"connection", b"upgrade")
"""What these headers mean, if they are there at all, is for a whole parser to say."""


def read_plain(data: bytes) -> tuple[int, bytes] | None:
    """Return the status and the body of a response to GET or POST, or `None` if the data is not just such a response.

    The connection stays usable after what is recognized.
    """
    found = _HEAD.match(data)
    if found is None:
        return None
    end = found.end()
    head = data[:end].lower()
    length = _LENGTH.search(head)
    if length is None or int(length[1]) != len(data) - end or head.count(_LENGTH_NAME) != 1:
        return None
    status = found[1]
    if status in _WITHOUT_BODY or any(name in head for name in _OTHERWISE):
        return None
    return int(status), data[end:]
