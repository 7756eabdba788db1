"""The error that reports all wrong settings at once, and the translation of pydantic's errors into it."""

from __future__ import annotations

import difflib
import functools
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared_registry.errors import ConfigError

_T = TypeVar("_T")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 2

_LIMITS = {
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with the settings.

    Attributes:
        text: The name of the setting, the problem with its value, and the remedy.
        fields: The settings concerned: several if their values do not fit together, none if the problem is about no
            existing setting.
        origin: The source of the value; empty for a caller's own argument.
    """

    text: str
    fields: tuple[str, ...] = ()
    origin: str = ""

    def __str__(self) -> str:
        return f"{self.text} (set by {self.origin})" if self.origin else self.text


class InvalidSettings(ConfigError):
    """All problems with the given settings, in one error. `problems` has them one by one."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        return "\n  - ".join([f"{len(self.problems)} settings are wrong:", *map(str, self.problems)])


def shorten(value: object) -> str:
    """Return a value's representation for a message, shortened if it is long."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python refuses to print whole numbers of thousands of digits
        return f"a huge {type(value).__name__}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a misspelt one; `None` if no name is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown setting, with the most similar known name if there is one."""
    guess = nearest(name, known)
    return f"{name}: no such setting; " + (f"did you mean {guess}?" if guess else "remove it")


def in_one_error(settings: type[_T]) -> type[_T]:
    """Make the constructor of a pydantic dataclass raise `InvalidSettings` instead of pydantic's own error."""
    validate: Callable[..., None] = settings.__init__

    @functools.wraps(validate)
    def checked_init(self: _T, *args: Any, **values: Any) -> None:
        try:
            validate(self, *args, **values)
        except ValidationError as error:
            defaults = {item.name: item.default for item in fields(settings)}  # type: ignore[arg-type]
            found = [problem for details in error.errors(include_url=False) for problem in _explain(details, defaults)]
            raise InvalidSettings(dict.fromkeys(found)) from None

    settings.__init__ = checked_init  # type: ignore[assignment, method-assign]
    return settings


def _explain(details: ErrorDetails, defaults: Mapping[str, object]) -> list[Problem]:
    """Translate one of pydantic's errors into problems."""
    name, kind, context = str((*details["loc"], "")[0]), details["type"], details.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, InvalidSettings):
        return [Problem(problem.text, problem.fields or tuple(filter(None, [name]))) for problem in cause.problems]
    if isinstance(cause, ConfigError):
        return [Problem(str(cause), (name,))]
    if kind == "unexpected_keyword_argument":
        return [Problem(unknown_setting(name, defaults))]
    if kind == "unexpected_positional_argument":
        return [Problem(f"too many values: there are {len(defaults)} settings; give them by name")]
    limit = _LIMITS[kind].format_map(context) if kind in _LIMITS else details["msg"]
    return [Problem(f"{name}: {limit}, got {shorten(details['input'])}; the default is {defaults[name]}", (name,))]
