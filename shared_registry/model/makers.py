"""Makes records of replicas in a fifth of the time of their own `__init__`: thousands may change at once.

The `__init__` of a frozen dataclass sets each attribute by a call, because the class refuses plain assignments. So an
instance is made as one of a class that has the same attributes and is not frozen, and is given its own class then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, make_dataclass
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Maker(Generic[T]):
    """Makes instances of a frozen dataclass with slots. It does not call `__post_init__`.

    Attributes:
        defaults: The attributes in order, and the default of each; `None` for those that have none.
    """

    def __init__(self, kind: type[T]) -> None:
        """Set up.

        Args:
            kind: The dataclass. The defaults of its attributes are values, not factories.
        """
        self.defaults: Mapping[str, Any] = {
            one.name: None if one.default is MISSING else one.default
            for one in fields(kind)  # type: ignore[arg-type]
        }
        self._kind = kind
        self._unfrozen: Any = make_dataclass(kind.__name__, self.defaults, slots=True, eq=False, repr=False)
        self._replacers: dict[tuple[str, ...], Callable[..., T]] = {}

    def __call__(self, values: Iterable[object]) -> T:
        """Return an instance with these values of all attributes, in their order."""
        made = self._unfrozen(*values)
        made.__class__ = self._kind
        return cast("T", made)

    def replaced(self, one: T, **changes: object) -> T:
        """Return an instance with the values of another one, but for these."""
        return self.replacing(*changes)(one, *changes.values())

    def replacing(self, *names: str) -> Callable[..., T]:
        """Return a function of an instance and of values of these attributes, in their order, that does as `replaced`.

        Raises:
            KeyError: There is no such attribute.
        """
        replacer = self._replacers.get(names)
        if replacer is None:
            replacer = self._replacers[names] = self._compiled(names)
        return replacer

    def _compiled(self, names: Sequence[str]) -> Callable[..., T]:
        """Return that function, compiled as that of a dataclass is: each attribute is read and set by its own code."""
        if unknown := set(names).difference(self.defaults):
            raise KeyError(*unknown)
        lines = [f"_made.{name} = {name if name in names else f'_one.{name}'}" for name in self.defaults]
        head = [f"def _replacer(_one, {', '.join(names)}):", "_made = _new(_unfrozen)"]
        found: dict[str, Any] = {"_new": object.__new__, "_unfrozen": self._unfrozen, "_kind": self._kind}
        exec("\n ".join([*head, *lines, "_made.__class__ = _kind", "return _made"]), found)  # noqa: S102  names of ours
        return cast("Callable[..., T]", found["_replacer"])
