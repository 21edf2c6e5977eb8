"""`make architecture`: draws docs/architecture.png from what the modules import of each other."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import grimp
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs/architecture.png"
WIDTH, HEIGHT = 1.9, 0.56


def layers() -> list[list[str]]:
    """Return the layers that import-linter holds the modules to, the highest first."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [contract] = [
        found for found in config["tool"]["importlinter"]["contracts"] if found["type"] == "layers"
    ]
    return [layer.split(" | ") for layer in contract["layers"]]


def imports(names: list[str]) -> Counter[tuple[str, str]]:
    """Return, for each pair of parts, how many modules of the one import one of the other."""
    graph = grimp.build_graph("digitsum")

    def part_of(module: str) -> str | None:
        fitting = [name for name in names if module == name or module.startswith(f"{name}.")]
        return max(fitting, key=len) if fitting else None

    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = part_of(module), part_of(imported)
            if pair[0] and pair[1] and pair[0] != pair[1]:
                found[pair[0], pair[1]] += 1
    return found


def draw() -> None:
    """Draw a box for each part, layer below layer, and an arrow for what imports what."""
    rows = layers()
    places = {
        name: ((number - (len(row) - 1) / 2) * (WIDTH + 0.5), -depth * 1.15)
        for depth, row in enumerate(rows)
        for number, name in enumerate(row)
    }
    figure, axes = plt.subplots(figsize=(9, 7.5), layout="constrained")
    for (one, other), number in imports(list(places)).items():
        (x0, y0), (x1, y1) = places[one], places[other]
        style = f"arc3,rad={0.0 if x0 == x1 and abs(y0 - y1) < 1.2 else 0.18}"
        axes.add_patch(
            FancyArrowPatch(
                (x0, y0 - HEIGHT / 2),
                (x1, y1 + HEIGHT / 2),
                connectionstyle=style,
                arrowstyle="-|>",
                mutation_scale=9,
                linewidth=0.5 + 0.12 * number,
                color="#7a8794",
                alpha=0.55,
            )
        )
    for name, (x, y) in places.items():
        box = (x - WIDTH / 2, y - HEIGHT / 2)
        axes.add_patch(
            FancyBboxPatch(
                box,
                WIDTH,
                HEIGHT,
                boxstyle="round,pad=0.03",
                facecolor="#e9f0f8",
                edgecolor="#1f4e79",
            )
        )
        axes.text(x, y, name.removeprefix("digitsum."), ha="center", va="center", fontsize=11)
    axes.set_xlim(-5.2, 5.2)
    axes.set_ylim(min(y for _, y in places.values()) - 0.6, 0.6)
    axes.axis("off")
    figure.savefig(OUT, dpi=110)


if __name__ == "__main__":
    draw()
