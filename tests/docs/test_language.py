"""The language of the pages: short sentences, the words of the glossary, and none of the words that they replaced."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
MAX_WORDS = 35
MAX_TERMS = 25
"""Rows of the glossary: more than these nobody learns."""
RETIRED = {
    r"lest|in vain|befalls?|befell|heeds?|heeded|hence|nay": "a bookish word",
    r"hears?|heard|told|tells?": "report, receive, say which",
    r"strangers?": "an orphaned lease, or somebody who is new",
    r"beats?": "heartbeat",
    r"birth": "history id",
    r"(?:event|news) feeds?": "event stream",
    r"operator's word": "admin state",
    r"(?:GPU|backend|model|inference) (?:workers?|nodes?|targets?)": "replica",
    r"(?:waiting )?line moves|stands? in (?:the )?line|waiting line": "queue",
}
"""Retired words, and what to write."""
CODE_BLOCK = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
INDENTED_CODE = re.compile(r"(?<=\n\n)(?: {4}.*\n)+")
CODE_SPAN = re.compile(r"`[^`]+`")
NAMES = re.compile(r"Code(?:(?:,|,? and|,? or) Code)+")
"""An enumeration of names is one word."""
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
ITEM = re.compile(r"^(?:[-*+]|\d{1,2}\.) ")
SENTENCE_END = re.compile(r"(?<=[.!?…])[)*\"”_]*\s+(?=[A-Z0-9“(*\[…])")
CELL_END = re.compile(rf"; |: |\), |{SENTENCE_END.pattern}")
"""A cell of a table is a list of phrases, not a sentence."""


def blocks(text: str) -> Iterator[tuple[bool, str]]:
    """Yield paragraphs, items and cells of tables; with each whether it is a cell."""
    lines: list[str] = []
    for line in [*INDENTED_CODE.sub("\n", CODE_BLOCK.sub("\n", text)).splitlines(), ""]:
        stripped = line.strip()
        if lines and (not stripped or stripped[0] in "#|<" or ITEM.match(stripped)):
            yield False, " ".join(lines)
            lines = []
        if stripped.startswith("|"):
            yield from ((True, cell.strip()) for cell in re.split(r"(?<!\\)\|", stripped.strip("|")))
        elif stripped and stripped[0] not in "#<":
            lines.append(ITEM.sub("", stripped, count=1))


def sentences(text: str) -> Iterator[tuple[str, int]]:
    """Yield each sentence with its number of words. A piece of code is one word, in a cell none."""
    for is_cell, block in blocks(text):
        plain = NAMES.sub("Code", LINK.sub(r"\1", CODE_SPAN.sub("" if is_cell else "Code", block)))
        for sentence in (CELL_END if is_cell else SENTENCE_END).split(plain):
            yield sentence, sum(bool(re.search(r"\w", word)) for word in sentence.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_sentence_is_too_long(page: Path) -> None:
    long = [(count, text) for text, count in sentences(page.read_text(encoding="utf-8")) if count > MAX_WORDS]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_retired_word_is_used(page: Path) -> None:
    text = CODE_SPAN.sub("", CODE_BLOCK.sub("", page.read_text(encoding="utf-8")))
    used = {
        f"{found!r}: {better}"
        for words, better in RETIRED.items()
        for found in re.findall(rf"\b(?:{words})\b", text, re.IGNORECASE)
    }
    assert used == set()


def test_the_glossary_is_short_and_its_terms_are_used() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!term|---)([^|]+) \|", glossary, re.MULTILINE)
    assert len(rows) <= MAX_TERMS
    others = "\n".join(page.read_text(encoding="utf-8").lower() for page in PAGES if page.name != "glossary.md")
    terms = [term for row in rows for term in row.lower().split(", ")]
    assert [term for term in terms if not re.search(rf"\b{term.replace(' ', '[ _]')}", others)] == []


def test_a_long_sentence_is_seen_in_each_place() -> None:
    words = "word " * 36
    places = (
        f"{words}.",
        f"- {words}.",
        f"A short one. {words}.",
        f"| a | {words} |",
        f"Short\n{words}\n\n```\nx\n```",
    )
    for text in places:
        assert [count for _, count in sentences(text) if count > MAX_WORDS], text
    assert all(count <= MAX_WORDS for _, count in sentences(f"```\n{words}\n```\n| a | {words[:100]}; {words[:100]} |"))
