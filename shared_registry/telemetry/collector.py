"""Makes the samples of a scrape into what `prometheus_client` writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from shared_registry.tallies import Distribution
from shared_registry.telemetry.exposition import number
from shared_registry.telemetry.families import Family


class Samples:
    """The values of one scrape, by the name of the metric. A name that is not in the table of metrics is an error."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = {family.name: family for family in families}
        self._metrics: dict[str, Metric] = {}

    def put(self, name: str, value: float, *labels: str) -> None:
        """Add a sample. `labels` are the values of all labels of the metric, in the order of the table."""
        self._metric(name).add_sample(name, self._labels(name, labels), value)

    def put_distribution(self, name: str, values: Distribution, *labels: str) -> None:
        """Add the samples of a histogram."""
        metric, named = self._metric(name), self._labels(name, labels)
        count = 0
        for bound, more in zip((*values.bounds, float("inf")), values.counts, strict=True):
            count += more
            metric.add_sample(f"{name}_bucket", {**named, "le": number(bound)}, count)
        metric.add_sample(f"{name}_count", named, count)
        metric.add_sample(f"{name}_sum", named, values.total)

    def metrics(self) -> list[Metric]:
        """Return the metrics that have samples, in the order of the table."""
        return [self._metrics[name] for name in self._families if name in self._metrics]

    def _metric(self, name: str) -> Metric:
        if name not in self._metrics:
            family = self._families[name]
            self._metrics[name] = Metric(name.removesuffix("_total"), family.help, family.kind)
        return self._metrics[name]

    def _labels(self, name: str, values: Sequence[str]) -> dict[str, str]:
        return dict(zip(self._families[name].all_labels, values, strict=True))


class OneMetric(CollectorRegistry):
    """One metric as a registry of `prometheus_client`, which writes a whole registry at once."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        """Return the metric."""
        yield self._metric
