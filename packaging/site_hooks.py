"""What mkdocs needs to make a site of pages that are written for the repository.

Links in pages lead from file to file of the repository. So pages and files outside docs/ become parts of the site, and
each link is rewritten to where its file is there. Lists are read as repositories show them: without a blank line before
them, nested by two spaces.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from markdown import Extension, Markdown
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ROOT_PAGES = ("CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "LICENSE", "SECURITY.md")
LISTING = "examples/index.md"
LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)((?:#[^)\s]*)?\))")
CODE = re.compile(r"^( *)(```+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
LIST_AFTER_TEXT = re.compile(r"(?<=\n)(?![ ]*(?:[-*+]|\d+\.) |\|)([^\n]*\S[^\n]*\n)(?=(?:[-*+]|1\.) )")


class TwoSpaces(Extension):
    """Nest lists by two spaces. It must be the first extension, because it builds the parser anew."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  the name is markdown's
        """Set the width of an indentation."""
        md.tab_length = 2
        md.build_parser()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out pages that are not there, list the decisions, and read lists as repositories do."""
    config.markdown_extensions.insert(0, TwoSpaces())  # type: ignore[arg-type]  # mkdocs passes objects on
    decisions = [f"decisions/{path.name}" for path in sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))]
    config.nav = [_with_decisions(_existing(entry), decisions) for entry in config.nav or []]
    return config


def _existing(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _existing(inner) for title, inner in entry.items()}
    if isinstance(entry, list):
        found = (_existing(inner) for inner in entry)
        return [inner for inner in found if inner not in (None, {}) and list(_values(inner)) != [None]]
    is_made = entry in {"index.md", LISTING}
    return entry if is_made or (ROOT / "docs" / entry).exists() or (ROOT / entry).exists() else None


def _values(entry: Any) -> list[Any]:
    return list(entry.values()) if isinstance(entry, dict) else [entry]


def _with_decisions(entry: Any, decisions: list[str]) -> Any:
    if isinstance(entry, dict) and "Decisions" in entry:
        return {"Decisions": [*entry["Decisions"], *decisions]}
    return entry


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and examples that lie outside docs/."""
    outside = [ROOT / name for name in ROOT_PAGES if (ROOT / name).exists()]
    examples = [
        path for path in sorted((ROOT / "examples").rglob("*")) if path.is_file() and "__pycache__" not in path.parts
    ]
    outside += sorted((ROOT / "packaging" / "systemd").iterdir())
    for path in (*outside, *examples):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    files.append(File.generated(config, LISTING, content=_listing(examples)))
    return files


def _listing(examples: list[Path]) -> str:
    lines = ["# Examples\n", "Each of them is run by a test.\n"]
    folder = None
    for path in examples:
        if path.parent != folder:
            folder = path.parent
            lines.append(f"\n## {folder.relative_to(ROOT).as_posix()}\n")
        lines.append(f"- [{path.name}](/{path.relative_to(ROOT).as_posix()})")
    return "\n".join(lines) + "\n"


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite links from places in the repository to places in the site."""
    uri = page.file.src_uri
    here = {"index.md": "README.md", LISTING: LISTING}.get(uri)
    if here is None:
        here = uri if uri in ROOT_PAGES or uri.startswith("examples/") else f"docs/{uri}"
    pieces: list[str] = []
    end = 0
    for code in CODE.finditer(markdown):
        pieces += [_prose(markdown[end : code.start()], here, uri), code[0]]
        end = code.end()
    return "".join([*pieces, _prose(markdown[end:], here, uri)])


def _prose(text: str, here: str, uri: str) -> str:
    text = LIST_AFTER_TEXT.sub(r"\1\n", text)
    return LINK.sub(lambda link: link[1] + _relocated(link[2], here, uri) + link[3], text)


def _relocated(target: str, here: str, uri: str) -> str:
    there = (
        target[1:] if target.startswith("/") else posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    )
    if (ROOT / there).is_dir():
        there = f"{there}/README.md" if (ROOT / there / "README.md").exists() else LISTING
    placed = {"README.md": "index.md"}.get(there, there.removeprefix("docs/"))
    return posixpath.relpath(placed, posixpath.dirname(uri) or ".")
