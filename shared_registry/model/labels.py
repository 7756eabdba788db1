"""Labels of a replica."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NoReturn


class Labels(dict[str, str]):
    """Labels of a replica, such as its zone and model: sorted by name, immutable, hashable.

    It is a dict, so that JSON and `dataclasses.asdict` can handle it. Its text form is `gpu=h100,zone=a`.
    """

    __slots__ = ()

    def __init__(self, labels: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        """Copy labels. They are validated when the replica enters the registry, not here."""
        super().__init__(sorted(dict(labels).items(), key=lambda label: str(label[0])))

    @classmethod
    def parse(cls, text: str) -> Labels:
        """Return the labels from their text form.

        Raises:
            ValueError: A part of the text has no `=`.
        """
        if not text:
            return NO_LABELS
        parts = [part.partition("=") for part in text.split(",")]
        if not all(equals for _, equals, _ in parts):
            raise ValueError(text)
        return cls((name, value) for name, _, value in parts)

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.items())

    def __hash__(self) -> int:  # type: ignore[override]  # a dict is mutable and has no hash
        return hash(tuple(self.items()))

    def __reduce__(self) -> tuple[type[Labels], tuple[dict[str, str]]]:
        return Labels, (dict(self),)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("labels cannot be changed; use dataclasses.replace(endpoint, labels={...})")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


NO_LABELS = Labels()
