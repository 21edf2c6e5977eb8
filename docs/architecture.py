"""`make architecture`: writes the diagram in docs/architecture.md from what modules import.

Nodes are the packages and modules of import-linter's layers (pyproject.toml), layer by layer. An
arrow is an import; arrows that follow from others (A -> B -> C gives A -> C) are left out.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- written by make architecture -->\n", "<!-- end -->\n"


def layers() -> list[list[str]]:
    """Return the names in each layer that import-linter enforces, the highest layer first."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [contract] = [c for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    return [layer.replace(":", "|").split(" | ") for layer in contract["layers"]]


def imports(names: list[str]) -> set[tuple[str, str]]:
    """Return the pairs of names of which the first imports the second."""
    graph = grimp.build_graph("digitsum")
    owners = {
        module: max((n for n in names if f"{module}.".startswith(f"{n}.")), key=len, default="")
        for module in graph.modules
    }
    pairs = {
        (owners[module], owners[imported])
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    return {(one, other) for one, other in pairs if one and other and one != other}


def direct(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the pairs that do not follow from others; there must be no loop."""
    reached: dict[str, set[str]] = {}

    def reach(name: str) -> set[str]:
        if name not in reached:
            below = [other for one, other in pairs if one == name]
            reached[name] = set(below).union(*map(reach, below))
        return reached[name]

    return {
        (one, other)
        for one, other in pairs
        if not any(other in reach(between) for first, between in pairs if first == one)
    }


def diagram() -> str:
    """Return the diagram, Mermaid in a Markdown block."""
    rows = layers()
    lines = ["```mermaid", "flowchart TB"]
    for number, row in enumerate(rows, 1):
        nodes = [f"    {name.removeprefix('digitsum.')}" for name in row]
        lines += [f'  subgraph layer{number}[" "]', *nodes, "  end"]
    pairs = direct(imports([name for row in rows for name in row]))
    lines += [
        f"  {one.removeprefix('digitsum.')} --> {other.removeprefix('digitsum.')}"
        for one, other in sorted(pairs)
    ]
    return "\n".join([*lines, "```", ""])


def page() -> str:
    """Return the page with its diagram made again."""
    head, rest = PAGE.read_text().split(BEGIN)
    return head + BEGIN + diagram() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page())
