"""Draws the plots of docs/policies.md into docs/plots: `python -m benchmarks.plots`.

Needs matplotlib, which nothing else does: `pip install --constraint constraints.txt --editable '.[plots]'`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.policies import SIZES, best_microseconds
from benchmarks.spreading import Traffic, fleet, forever, lognormal, max_to_mean
from shared_registry.selection import policy_names
from shared_registry.selection.hash_ring import HashRing
from shared_registry.selection.loads import Loads
from shared_registry.selection.members import Members

FOLDER = Path(__file__).parent.parent / "docs" / "plots"
FLEETS = (10, 20, 50, 100, 200)
COLORS = {
    "least of what was read": "tab:red",
    "random": "tab:gray",
    "hash": "tab:purple",
    "round_robin": "tab:orange",
    "least_loaded": "tab:blue",
    "acquire()": "tab:green",
    "priority": "tab:gray",
}


def main() -> None:
    """Draw all."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PLOTS.items():
        figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        draw(axes)
        axes.grid(alpha=0.3)
        figure.savefig(FOLDER / f"{name}.png", dpi=90, metadata={"Software": None})
        plt.close(figure)
        print(FOLDER / f"{name}.png")


def herding(axes: Axes) -> None:
    """10,000 sessions that stay, by fleet size."""
    for policy in ("least of what was read", "random", "round_robin", "least_loaded"):
        found = [
            list(max_to_mean(policy, Traffic([1.0] * replicas, 1000.0, 10.0, forever)))[-1][1] for replicas in FLEETS
        ]
        axes.plot(FLEETS, found, marker="o", label=policy, color=COLORS[policy])
    axes.set(xscale="log", yscale="log", xlabel="replicas", ylabel="most loaded / mean")
    axes.set_title("20 routers select 10,000 sessions by loads up to 1 s old", fontsize=10)
    axes.axhline(1.3, color="black", linewidth=0.8, linestyle=":")
    axes.legend(fontsize=8)


def sessions(axes: Axes) -> None:
    """How far above its share the most loaded replica is, for long sessions and for short requests."""
    weights = [1.0, 1.0, 2.0, 2.0] * 5
    kinds = {
        "GPU sessions: median 10 min, few very long": Traffic(weights, 0.2, 7200.0, lognormal(600.0, 1.0)),
        "LLM requests: median 2 s": Traffic(weights, 200.0, 60.0, lognormal(2.0, 1.0)),
    }
    policies = ("random", "hash", "round_robin", "least_loaded", "acquire()")
    for place, (kind, traffic) in enumerate(kinds.items()):
        means = []
        for policy in policies:
            found = [value for at, value in max_to_mean(policy, traffic) if at > traffic.seconds / 3]
            means.append(sum(found) / len(found))
        bars = axes.bar([at + 0.4 * place for at in range(len(policies))], means, width=0.38, label=kind)
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.set_xticks([at + 0.2 for at in range(len(policies))], policies)
    axes.set(ylim=(1.0, None), ylabel="most loaded / its share")
    axes.set_title("20 replicas of weights 1 and 2, 20 routers; mean over time", fontsize=10)
    axes.legend(fontsize=8)


def movement(axes: Axes) -> None:
    """Keys that go elsewhere when one replica joins."""
    keys = [f"client-{number}" for number in range(20_000)]
    ours, modulo = [], []
    for replicas in FLEETS:
        group = fleet([1.0] * (replicas + 1))
        before, after = _owners(Members(group.replicas[:-1], group.weights[:-1]), keys), _owners(group, keys)
        ours.append(_differing(before, after))
        numbers = [hash(key) for key in range(20_000)]
        modulo.append(_differing([one % replicas for one in numbers], [one % (replicas + 1) for one in numbers]))
    axes.plot(FLEETS, [1 / (replicas + 1) for replicas in FLEETS], "k:", label="its share")
    axes.plot(FLEETS, ours, marker="o", label="hash", color=COLORS["hash"])
    axes.plot(FLEETS, modulo, marker="o", label="key modulo replicas", color="tab:red")
    axes.set(xscale="log", yscale="log", xlabel="replicas before", ylabel="keys that move")
    axes.set_title("One replica joins", fontsize=10)
    axes.legend(fontsize=8)


def bound(axes: Axes) -> None:
    """Evenness and affinity by `hash_max_load`, where some keys are much more popular than others."""
    rng = random.Random(5)
    popularity = [1 / rank for rank in range(1, 2001)]
    keys = [f"client-{number}" for number in rng.choices(range(2000), popularity, k=20_000)]
    group = fleet([1.0] * 20)
    home = dict(zip(keys, _owners(group, keys), strict=True))
    bounds = (1.05, 1.1, 1.25, 1.5, 2.0, 3.0)
    even, at_home = [], []
    for max_load in (*bounds, None):
        owners = _owners(group, keys, max_load=max_load)
        even.append(max(Counter(owners).values()) * 20 / len(keys))
        at_home.append(sum(home[key] == owner for key, owner in zip(keys, owners, strict=True)) / len(keys))
    labels = [*(f"{max_load:g}" for max_load in bounds), "none"]
    axes.plot(labels, even, marker="o", color="tab:red", label="most loaded / mean")
    axes.plot(labels, at_home, marker="o", color=COLORS["hash"], label="sessions at their key's own replica")
    axes.set(ylim=(0, None), xlabel="hash_max_load")
    axes.set_title("20 replicas, 2,000 keys of which the n-th is 1/n as popular", fontsize=10)
    axes.legend(fontsize=8)


def cost(axes: Axes) -> None:
    """What a call costs, by policy and fleet size."""
    best = asyncio.run(best_microseconds(60))
    for policy in policy_names():
        axes.plot(SIZES, [best[policy, size] for size in SIZES], marker="o", label=policy, color=COLORS[policy])
    axes.set(xscale="log", ylim=(0, None), xlabel="replicas", ylabel="µs a call")
    axes.set_title("select()", fontsize=10)
    axes.legend(fontsize=8)


def _owners(group: Members, keys: Sequence[str], *, max_load: float | None = None) -> list[str]:
    ring = HashRing(random.Random(1), Loads(), max_load=max_load)
    ring.update(group)
    return [replica.key for key in keys if (replica := ring.choose(key))]


def _differing(before: Sequence[object], after: Sequence[object]) -> float:
    return sum(one != other for one, other in zip(before, after, strict=True)) / len(before)


PLOTS: dict[str, Callable[[Axes], None]] = {
    "herding": herding,
    "sessions": sessions,
    "movement": movement,
    "bound": bound,
    "cost": cost,
}

if __name__ == "__main__":
    main()
