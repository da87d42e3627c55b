"""llama.cpp itself with the files that are exported, against our hooks, on SmolLM2-135M-Instruct.

    pip install llama-cpp-python==0.3.36    # builds llama.cpp, some minutes
    python tests/benchmarks/llamacpp.py

Both run the same tokens of the same GGUF file: llama.cpp with its weights of 4 bits, we with those
dequantised. What is compared are the logits of all tokens, and what steering adds to them: steered
minus unsteered, each engine by itself, so that what the two have in common without steering does
not help. The control is the same edit with our hooks one block earlier and one block later. Writes
docs/evidence/llama_cpp.md.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from llamacpp_engine import LlamaCpp
from page import table, write_section
from torch import Tensor

import tl_steer as ts
from tl_steer.perturbations import Adapter, MultiSite
from tl_steer.perturbations.sphere import random_on_sphere

PROMPTS = ["How do I make my house safer?", "Tell me a story about a fox.", "What is 12 times 12?"]
# Of the norm of the residual stream, for vectors; R in W + R B A^T, for adapters.
SHARE, R = 0.16, 128.0
Make = Callable[[int], Any]


@dataclass(frozen=True)
class Near:
    """How near llama.cpp is to our hooks.

    Attributes:
        logits: correlation of the logits.
        effect: correlation of what steering adds to them.
    """

    logits: float
    effect: float


@dataclass(frozen=True)
class Row:
    """What was exported; how near llama.cpp is to the same with our hooks, to the hooks one block
    earlier, and to those one later."""

    what: str
    near: tuple[Near, Near, Near]


class Comparison:
    """Both engines on the same tokens."""

    def __init__(self, model: Any, engine: LlamaCpp, folder: Path) -> None:
        self.model, self.engine, self.folder = model, engine, folder
        self.tokens = [ts.tokenize(model, [ts.chat(prompt)]) for prompt in PROMPTS]
        self.clean, self.ours_clean = self.theirs(), self.ours(None)

    def theirs(self, **steering: Any) -> Tensor:
        found = [self.engine.logits(t.ids[0].tolist(), **steering) for t in self.tokens]
        return torch.cat(found)

    def ours(self, edit: Any) -> Tensor:
        hooks = [] if edit is None else edit.hooks()
        with torch.no_grad():
            found = [self.model.run_with_hooks(t.ids, fwd_hooks=hooks)[0] for t in self.tokens]
        return torch.cat(found)

    def export(self, edit: Any, *, to: str) -> Path:
        bank = ts.Bank.from_vectors(self.model, edit, prompts=self.tokens[0], target=29)
        path = self.folder / f"{len(list(self.folder.iterdir()))}.gguf"
        return ts.interop.export(bank, path, to=to, model=self.model)

    def row(self, what: str, make: Make, *, at: int, to: str) -> Row:
        path = self.export(make(at), to=to)
        theirs = self.theirs(**({"vector": path} if to == "gguf" else {"loras": {path: 1.0}}))
        right, earlier, later = (self.near(theirs, make(i)) for i in (at, at - 1, at + 1))
        return Row(what, (right, earlier, later))

    def near(self, theirs: Tensor, edit: Any) -> Near:
        ours = self.ours(edit)
        effect = correlation(theirs - self.clean, ours - self.ours_clean)
        return Near(correlation(theirs, ours), effect)


def correlation(one: Tensor, two: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]).double())[0, 1])


def learned(model: Any) -> Make:
    """A vector that was learned behind block 12, to stand behind other blocks too."""
    bank = ts.elicit(
        model,
        [ts.chat(PROMPTS[0])],
        source="blocks.12.hook_resid_post",
        target="blocks.22.hook_resid_post",
        n=1,
        radius=ts.radii.ShareOfNorm(SHARE),
        method=ts.methods.Power(steps=4),
        progress=False,
    )
    return lambda at: ts.Additive(at, bank.vectors)


def random_vector(comparison: Comparison, block: int) -> Make:
    """One of the same share of the norm behind that block."""
    name = f"blocks.{block}.hook_resid_post"
    _, cache = comparison.model.run_with_cache(comparison.tokens[0].ids, names_filter=name)
    radius = SHARE * float(cache[name][0, 1:].norm(dim=-1).median())
    generator = torch.Generator().manual_seed(block)
    row = random_on_sphere(1, cache[name].shape[-1], radius=radius, generator=generator)
    return lambda at: ts.Additive(at, row)


def adapter(model: Any, kind: str, *, rank: int = 1, layers: int = 1) -> Make:
    """A random one."""
    reads = {"hook_mlp_out": "mlp.hook_post", "hook_attn_out": "attn.hook_z"}[kind]
    sizes = [ts.models.resolve(model, f"blocks.12.{name}").width for name in (reads, kind)]
    generator = torch.Generator().manual_seed(rank + layers)
    a, b = (
        torch.nn.functional.normalize(torch.randn(1, layers, rank, d, generator=generator), dim=-1)
        for d in sizes
    )

    def made(at: int) -> Any:
        there = ts.models.resolve(model, f"blocks.{at}.{kind}")
        return Adapter(there, a, b, layers=range(at, at + layers), radius=R)

    return made


def rows(comparison: Comparison) -> Iterator[Row]:
    model, row = comparison.model, comparison.row
    yield row("vector, learned, block 12", learned(model), at=12, to="gguf")
    vectors = {block: random_vector(comparison, block) for block in (2, 7, 20, 27)}
    for block, make in vectors.items():
        yield row(f"vector, random, block {block}", make, at=block, to="gguf")

    def two(at: int) -> Any:
        return MultiSite([vectors[7](at), vectors[20](at + 13)])

    yield row("vectors, random, blocks 7 and 20", two, at=7, to="gguf")
    adapters = {
        "MLP, rank 1, block 12": adapter(model, "hook_mlp_out"),
        "MLP, rank 4, block 12": adapter(model, "hook_mlp_out", rank=4),
        "MLP, rank 1, blocks 12 to 14": adapter(model, "hook_mlp_out", layers=3),
        "attention, rank 1, block 12": adapter(model, "hook_attn_out"),
    }
    for what, make in adapters.items():
        yield row(f"adapter, {what}", make, at=12, to="gguf-lora")


def page(comparison: Comparison) -> str:
    columns: Sequence[str] = ("exported", "that block", "one block earlier", "one block later")
    cells = [
        (row.what, *(f"{near.logits:.4f} / {near.effect:.3f}" for near in row.near))
        for row in rows(comparison)
    ]
    used = ", ".join(f"{name} {version(name)}" for name in ("llama-cpp-python", "gguf"))
    unsteered = correlation(comparison.clean, comparison.ours_clean)
    return (
        f"`python tests/benchmarks/llamacpp.py`, with {used}; {len(comparison.clean)} tokens of "
        f"{len(PROMPTS)} prompts.\nWithout steering, the logits correlate to {unsteered:.4f}.\n\n"
        + table(columns, cells)
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(ts.load_model(), LlamaCpp(), Path(folder))
        write_section("evidence/llama_cpp.md", "llama.cpp", page(comparison))


if __name__ == "__main__":
    main()
