"""Parses YAML, and finds what its author cannot have meant: keys that stand twice, and values that YAML 1.1 changes.

YAML 1.1 reads `90:01` as 5401, `010` as 8, `no` as false and `2026-11-01` as a date. Its parsers keep the last of two
equal keys. All of these are refused here, with their lines, in place of a router that runs with other settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_NULL = f"{_TAG}null"
_BASE_SIXTY = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_INDEX = re.compile(r"\[[0-9]+\]")
_OCTAL = re.compile(r"[-+]?0[0-7_]+")


@dataclass(frozen=True, slots=True)
class Surprise:
    """One thing that the author of a file cannot have meant.

    Attributes:
        line: The line, from 1.
        path: The key, with those that it lies under.
        text: What is wrong, and the remedy.
    """

    line: int
    path: str
    text: str


class YamlSource:
    """One YAML document. It is checked before it is turned into values."""

    def __init__(self, content: bytes) -> None:
        """Parse.

        Raises:
            yaml.YAMLError: The content is not YAML.
        """
        self._loader = yaml.SafeLoader(content)
        self._root = self._loader.get_single_node()

    def repeated_keys(self) -> list[Surprise]:
        """Return the keys that stand more than once in a mapping, at any depth."""
        found: list[Surprise] = []
        for path, node in _walk(self._root, ""):
            lines: dict[object, int] = {}
            for key, _ in node.value if isinstance(node, MappingNode) else ():
                if not isinstance(key, ScalarNode):
                    continue
                name = "<<" if key.tag == _MERGE else _value_of(key)
                line = key.start_mark.line + 1
                if name in lines:
                    remedy = "keep one of them" if key.tag != _MERGE else "write one, as <<: [*first, *second]"
                    where = f"lines {lines[name]} and {line}" if lines[name] != line else f"line {line}"
                    found.append(Surprise(line, _below(path, key.value), f"stands twice, in {where}; {remedy}"))
                lines[name] = line
        return found

    def changed_values(self, block: str, texts: frozenset[str]) -> list[Surprise]:
        """Return the values and keys of a top-level block that YAML reads as something else than they look like.

        Those values count as absent then, so that a later check does not report them again.

        Args:
            block: The key of the block.
            texts: The paths at which a text is expected. `[]` stands for any item of a list, `.*` for any key, and `{}`
                after a mapping's path for its keys.
        """
        found: list[Surprise] = []
        for path, node in _walk(_child(self._root, block), block):
            if isinstance(node, SequenceNode):
                for index, item in enumerate(node.value):
                    _check(item, f"{path}[{index}]", found, is_text=True, instead=f"{_TAG}str")
            elif isinstance(node, MappingNode):
                for key, value in node.value:
                    if key.tag == _MERGE:
                        continue
                    below = _below(path, str(key.value))
                    if f"{_INDEX.sub('[]', path)}{{}}" in texts:
                        _check(key, below, found, is_text=True, instead=f"{_TAG}str")
                    is_text = not texts.isdisjoint({_INDEX.sub("[]", below), _INDEX.sub("[]", path) + ".*"})
                    _check(value, below, found, is_text=is_text, instead=_NULL)
        return found

    def value(self) -> object:
        """Return the document's value; `None` if it is empty.

        Raises:
            yaml.YAMLError: A value cannot be built.
        """
        try:
            return None if self._root is None else self._loader.construct_document(self._root)
        finally:
            self._loader.dispose()


def _check(node: Node, path: str, found: list[Surprise], *, is_text: bool, instead: str) -> None:
    if not isinstance(node, ScalarNode) or node.style is not None:
        return
    kind = node.tag.removeprefix(_TAG)
    problem = _problem_of(node, kind) or (_problem_of_text(node, kind) if is_text else "")
    if problem:
        node.tag = instead
        found.append(Surprise(node.start_mark.line + 1, path, problem))


def _problem_of_text(node: ScalarNode, kind: str) -> str:
    if kind == "bool":
        truth = "true" if _value_of(node) else "false"
        return f'{node.value} is read as {truth}; write "{node.value}"'
    if kind in ("int", "float"):
        number = _value_of(node)
        if str(number) != node.value:
            return f'{node.value} is read as the number {number}; write "{node.value}"'
    return ""


def _problem_of(node: ScalarNode, kind: str) -> str:
    text = node.value
    if kind in ("int", "float") and _BASE_SIXTY.fullmatch(text):
        return f'{text} is read as a number of base 60; write the number without colons, or "{text}" for text'
    if kind == "int" and _OCTAL.fullmatch(text):
        number = int(text.replace("_", ""), 8)
        return f'{text} is read as the octal number {number}; write it without the leading 0, or "{text}" for text'
    if kind == "timestamp":
        return f'{text} is read as a date; write "{text}"'
    return ""


def _value_of(node: ScalarNode) -> object:
    try:
        return yaml.SafeLoader.yaml_constructors[node.tag](yaml.SafeLoader(""), node)
    except (KeyError, ValueError):
        return node.value


def _child(root: Node | None, name: str) -> Node | None:
    """Return the value of a key, which another mapping may contribute."""
    pairs: list[tuple[Node, Node]] = root.value if isinstance(root, MappingNode) else []
    for key, value in pairs:
        if isinstance(key, ScalarNode) and key.value == name:
            return value
    merged = (value for key, value in pairs if key.tag == _MERGE)
    return next((found for one in merged if (found := _child(one, name)) is not None), None)


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _walk(root: Node | None, path: str) -> Iterator[tuple[str, Node]]:
    """Yield each node below a node once, with its path. An alias may repeat a node, also within itself."""
    seen: set[int] = set()
    left = [] if root is None else [(path, root)]
    while left:
        path, node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield path, node
        below: list[tuple[str, Node]] = []
        if isinstance(node, MappingNode):
            for key, value in node.value:
                if key.tag != _MERGE:
                    below.append((_below(path, str(key.value)), value))
                else:
                    below += [(path, one) for one in (value.value if isinstance(value, SequenceNode) else [value])]
        elif isinstance(node, SequenceNode):
            below = [(f"{path}[{index}]", item) for index, item in enumerate(node.value)]
        left += reversed(below)
