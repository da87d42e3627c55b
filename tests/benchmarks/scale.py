"""What a step costs, in seconds and bytes: writes the tables of docs/scale.md and real_models.md.

    python tests/benchmarks/scale.py                     # from the points that are kept
    python tests/benchmarks/scale.py --measure           # this machine's CPU, one thread, anew
    python tests/benchmarks/scale.py --card gpu.jsonl    # points of a `make bench-gpu`

Points are kept in scale_points.json. The last of each machine is not fitted on; neither are the
searches of `make bench-gpu` that are held against the law.
"""

import argparse
import json
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gpu_cost
import torch
from gpu_bench import FP32
from gpu_cost import Cost, fitted
from gpu_models import SHAPES, TOKENS
from page import runs_in, table, write_section

KEPT = Path(__file__).with_name("scale_points.json")
CPU = (
    (2, 8, 8, 256),
    (6, 8, 8, 256),
    (2, 8, 64, 256),
    (2, 24, 8, 512),
    (4, 24, 16, 512),
    (2, 64, 8, 512),
    (2, 27, 16, 1024),
    (4, 8, 32, 384),
    (6, 8, 2, 512),
    (6, 16, 16, 512),
)
# inner / width of the blocks that were measured.
INNER = 2.75


@dataclass(frozen=True)
class Large:
    """A model's shape, and the blocks of a segment; 70B, and as deep as that of the 7B shape."""

    layers: int = 80
    width: int = 8192
    inner: int = 28672
    key_width: int = 1024
    vocabulary: int = 128256
    blocks: int = 25
    tied: bool = False

    @property
    def block(self) -> int:
        return 2 * self.width * (self.width + self.key_width) + 3 * self.width * self.inner

    @property
    def weights(self) -> int:
        tables = 1 if self.tied else 2
        return self.layers * self.block + tables * self.vocabulary * self.width


# Of Llama 3: layers, width, MLP, keys; a segment from a quarter of the model to two thirds.
SIZES = {
    "1B": Large(16, 2048, 8192, 512, blocks=7, tied=True),
    "3B": Large(28, 3072, 8192, 1024, blocks=12, tied=True),
    "8B": Large(32, 4096, 14336, 1024, blocks=13),
}


@dataclass(frozen=True)
class Card:
    """`bandwidth`: that of the card's memory over that of the card that was measured, as its
    vendor states it. `cards`: how many of them share one copy of the model."""

    name: str
    gb: float
    bandwidth: float
    cards: int
    node: int = 8


CARDS = (Card("H200", 141, 1.0, 2), Card("H100", 80, 3.35 / 4.8, 4))


def wider(cost: Cost, of: Large) -> Cost:
    """For blocks whose MLP is wider than measured: all that grows with numbers, in proportion,
    which is too much, since not all of it is in the MLP."""
    more = of.inner / of.width / INNER
    return replace(cost, number=cost.number * more, kept=cost.kept * more)


def searched(cost: Cost, of: Large, card: Card, *, vectors: int, steps: int) -> dict[str, float]:
    """A search of that many vectors on one node.

    Each copy of the model lies on `card.cards` cards, one after the other, so it is as fast as on
    one; copies share the vectors.
    """
    own = wider(cost, of)
    own = replace(own, number=own.number / card.bandwidth)
    copies = card.node // card.cards
    each = (of.blocks, TOKENS, 1, of.width)
    kept = own.kept_bytes(each)
    on_card = min(1.0, of.layers / card.cards / of.blocks)
    free = card.gb * 1e9 - 2 * of.weights / card.cards
    batch = int(0.8 * free / (kept * on_card))
    passes = -(-vectors // copies // batch)
    point = (of.blocks, TOKENS, -(-vectors // copies // passes), of.width)
    step = passes * own.seconds(point, 4 * of.blocks * of.block * point[1] * point[2])
    return {
        "copies": copies,
        "kept_gb": kept / 1e9,
        "vec_batch": batch,
        "step_s": step,
        "all_s": step * (steps + 1),
    }


def against(cost: Cost, lines: list[dict[str, Any]]) -> str:
    """Measured and predicted."""
    cells = [
        [
            " x ".join(map(str, line["point"])),
            f"{line['seconds']:.4g}",
            f"{cost.seconds(line['point'], line['flops']) / line['seconds'] - 1:+.1%}",
            f"{line['kept_bytes'] / 1e9:.3g}",
            f"{cost.kept_bytes(line['point']) / line['kept_bytes'] - 1:+.1%}",
        ]
        for line in lines
    ]
    cells[-1][0] += " (held out)"
    columns = ["blocks x tokens x vectors x width", "s", "law", "kept, GB", "law"]
    return table(columns, cells)


def others(cost: Cost) -> str:
    """Whole searches that were not fitted on; seconds of a step, from docs/benchmarks.md."""
    cells = []
    for name, vectors, what, seconds, free in (
        ("7b", 512, "launched", 0.2838, False),
        ("1.8b", 100, "launched", 0.0434, False),
        ("1.8b", 100, "from a CUDA graph", 0.01792, True),
    ):
        shape = SHAPES[name]
        own = replace(cost, launch=0.0) if free else cost
        point = (shape.blocks, TOKENS, vectors, shape.width)
        law = own.seconds(point, shape.flops(vectors, TOKENS))
        cells.append([f"{name}, {vectors} vectors", what, seconds, f"{law:.3g}",
                      f"{law / seconds - 1:+.0%}"])  # fmt: skip
    return table(["not fitted on", "", "s a step", "law", "off"], cells)


def constants(cost: Cost, name: str) -> str:
    return (
        f"{name}: launch {1e3 * cost.launch:.2g} ms a block; rate "
        f"{1e-9 / cost.flop:,.0f} GFLOP/s; {1e9 * cost.number:.2g} ns a number; "
        f"kept {cost.kept:.1f} + {cost.attention:.1f} x tokens / {gpu_cost.HEAD} bytes a number."
    )


def large(cost: Cost) -> str:
    of, cells = Large(), []
    for card in CARDS:
        got = searched(cost, of, card, vectors=10_000, steps=12)
        cells.append([
            f"{card.node} x {card.name}", f"{got['copies']:.0f} of {card.cards} cards each",
            f"{1e3 * got['kept_gb']:.0f}", f"{got['vec_batch']:.0f}", f"{got['step_s']:.0f}",
            f"{got['all_s'] / 60:.0f}",
        ])  # fmt: skip
    columns = ["node", "copies of the model", "MB kept a vector", "vec_batch at most",
               "s a step of all", "minutes in all"]  # fmt: skip
    size = (
        f"Weights: {of.weights / 1e9:.0f}B, {2 * of.weights / 1e9:.0f} GB in bf16, "
        f"{of.weights / 1e9:.0f} GB in int8."
    )
    return f"{size}\n\n{table(columns, cells)}"


def sizes(cost: Cost, *, steps: int = 12) -> str:
    """What a search on one card takes by the law; its last evaluation costs no more than a step."""
    cells = []
    for name, of in SIZES.items():
        own, row = wider(cost, of), [name, f"{2 * of.weights / 1e9:.1f}", of.blocks]
        for vectors in (32, 512):
            point = (of.blocks, TOKENS, vectors, of.width)
            step = own.seconds(point, 4 * of.blocks * of.block * TOKENS * vectors)
            row += [f"{own.kept_bytes(point) / 1e9:.1f}", f"{step * (steps + 1):.1f}"]
        cells.append(row)
    columns = ["model", "weights, GB", "blocks", "32 vectors: GB", "s", "512 vectors: GB", "s"]
    return table(columns, cells)


def measured() -> dict[str, Any]:
    torch.set_num_threads(1)
    name = f"one thread of {platform.machine()}, torch {torch.__version__}, fp32"
    return {"machine": name, "points": gpu_cost.measured(CPU, FP32, "cpu")}


def carried(path: Path) -> dict[str, Any]:
    """The points of the newest run on a card."""
    row = [line for line in runs_in(path) if line["row"] == "cost"][-1]
    return {"machine": f"{row['card']}, torch {row['torch']}, bf16", "points": row["points"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--card", type=Path)
    given = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if given.measure:
        kept["cpu"] = measured()
    if given.card:
        kept["card"] = carried(given.card)
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    parts = []
    for name, one in kept.items():
        cost = fitted(one["points"][:-1], overlapped=name == "card")
        parts += [constants(cost, one["machine"]), against(cost, one["points"])]
        if name == "card":
            parts.append(others(cost))
            write_section("scale.md", "large", large(cost))
            write_section("real_models.md", "sizes", sizes(cost))
    write_section("scale.md", "points", "\n\n".join(parts))


if __name__ == "__main__":
    main()
