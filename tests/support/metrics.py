"""Reads a page of metrics as Prometheus does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """The samples of one page."""

    def __init__(self, page: Sequence[bytes]) -> None:
        self.families = list(text_string_to_metric_families(b"".join(page).decode()))
        self.samples = [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of the one sample that has these labels; `None` if there is none."""
        found = [one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items()]
        assert len(found) <= 1, f"several samples of {name} with {labels}"
        return float(found[0]) if found else None

    def labels_of(self, name: str) -> Iterator[dict[str, str]]:
        """Yield the labels of each sample of a metric."""
        return (dict(one.labels) for one in self.samples if one.name == name)
