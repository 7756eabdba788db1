"""Writes docs/metrics.md from the table of the metrics.

python -m tests.tools.metrics_reference            write it
python -m tests.tools.metrics_reference --check    exit with 1 if it is not what would be written
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from shared_registry.telemetry.families import OF_POOL, OF_REPLICA, OF_REPLICA_COUNTS, OF_ROUTER, Family

RULES = Path(__file__).parents[2] / "examples" / "monitoring" / "alerts.yml"
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
HEAD = """\
# Metrics

Made from `shared_registry/telemetry/families.py` by `python -m tests.tools.metrics_reference`.

Each router serves its metrics on its admin address, for Prometheus: `GET /metrics`. The clients' port answers 404 there
and asks no replica. `examples/monitoring` has a configuration of Prometheus, alerts and a dashboard for Grafana.

- Every router shows its own view of the whole namespace. For what is the same everywhere, such as the number of healthy
  replicas, take `max` over the routers, or the leader's; for what each router counts itself, such as sessions, `sum`.
- The metrics of a router with several pools have the label `pool`. Without several pools it is absent.
- A name keeps its meaning. New metrics and new values of labels may come with any version.
- Prometheus' own client library adds `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`,
  `process_max_fds`, `process_start_time_seconds` and `process_virtual_memory_bytes` on Linux.
- A page is at most `refresh_seconds` old, and Redis is read no more often than that, however many ask. While Redis is
  away, the page shows the router's last view, `sr_view_age_seconds` says how old it is, `sr_store_read_failed` is 1,
  and what only Redis knows (routers, the queue) is absent.
- Not exported: the replica of a connect time, because that would be a histogram for each replica
  (`sr_upstream_failures_total` has its failures). Sessions, clients and leases are never labels.
"""


ALERTS = """\
## Alerts

`examples/monitoring/alerts.yml`. `page`: sessions fail, or soon will. `ticket`: it can wait until morning. A test makes
each of them fire by a real fault. The commands need `--redis` and `--namespace`, or the environment of the routers.
"""


def _alerts() -> str:
    rows = ["| alert | severity | after | it says | first command |", "|---|---|---|---|---|"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            said = rule["annotations"]
            summary = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", said["summary"])
            summary = re.sub(r"\{\{ \$value[^}]*\}\}", "*n*", summary)
            command = said["command"].replace("|", "\\|")
            hold = rule.get("for", "at once")
            rows.append(f"| {rule['alert']} | {rule['labels']['severity']} | {hold} | {summary} | `{command}` |")
    return "\n".join(rows) + "\n"


def reference() -> str:
    """Return the page."""
    parts = [
        HEAD,
        "## Of a router\n",
        _table(OF_ROUTER),
        "## Of each pool\n",
        _table(OF_POOL),
        "## Of each replica\n",
        "The label `replica` is the replica's name, or its url without the scheme if it has no name of its own. The",
        "samples go when the replica is removed.\n",
        _table((*OF_REPLICA, *OF_REPLICA_COUNTS)),
        ALERTS,
        _alerts(),
    ]
    return "\n".join(parts)


def _table(families: Sequence[Family]) -> str:
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for one in families:
        labels = ", ".join(f"`{name}`" for name in one.labels) or "-"
        rows.append(f"| `{one.name}` | {one.kind} | {labels} | {one.help} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Write the page, or compare it."""
    text = reference()
    if sys.argv[1:] == ["--check"]:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
