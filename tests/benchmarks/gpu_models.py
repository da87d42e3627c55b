"""What `gpu.py` measures on: random weights of a known shape, made where they are to be, and clocks
that wait for the device."""

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

# Before TransformerLens is imported: it installs a package of images, and asks the Hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["PIP_NO_INDEX"] = os.environ["UV_OFFLINE"] = "1"

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

import tl_steer as ts
from tl_steer.hook_points.positions import LAST_THREE
from tl_steer.models.load import wrap
from tl_steer.models.segment import Segment
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.sphere import random_on_sphere


@dataclass(frozen=True)
class Shape:
    """A Llama of that size, and where vectors are learned in it: behind block `source`, by what
    they do behind block `target`."""

    layers: int
    width: int
    inner: int
    heads: int
    source: int
    target: int
    vocabulary: int = 32000

    @property
    def blocks(self) -> int:
        return self.target - self.source

    @property
    def weights(self) -> int:
        """Of the blocks between source and target; norms do not count."""
        return self.blocks * (4 * self.width**2 + 3 * self.width * self.inner)

    def flops(self, vectors: int, tokens: int) -> int:
        """Of one step: 2 a weight and token forward, and 2 backward, since only activations get
        gradients. Attention between tokens is left out: 1% at 27 of them."""
        return 4 * self.weights * vectors * tokens

    def config(self, **changed: Any) -> LlamaConfig:
        given = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": 4096,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        }
        return LlamaConfig(**(given | changed))


# Source and target of the published runs: ten blocks of Qwen1.5-7B, eight of Qwen-1.8B.
SHAPES = {
    "7b": Shape(32, 4096, 11008, 32, 10, 20),
    "1.8b": Shape(24, 2048, 5504, 16, 7, 15),
}
TINY = {
    "7b": Shape(4, 32, 88, 2, 0, 2, vocabulary=101),
    "1.8b": Shape(4, 24, 64, 2, 1, 3, vocabulary=101),
}
TOKENS = 27


def words(vocabulary: int) -> Any:
    """A tokenizer of so many words. TransformerLens loads it anew, so it needs a folder."""
    known = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"t{i}": i for i in range(3, vocabulary)}
    inner = Tokenizer(WordLevel(known, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    folder = tempfile.mkdtemp()
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, add_bos_token=True)


def weights_of(config: LlamaConfig, dtype: torch.dtype, device: str, **kind: Any) -> Any:
    """Random weights, drawn on the device: on a CPU 7B of them take minutes."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, **kind)
    # Nothing that a constructor made elsewhere stays there.
    return model.to(device).eval().requires_grad_(False)


@dataclass
class Made:
    """A model, and a segment of it for some prompts."""

    shape: Shape
    model: Any
    segment: Segment
    seconds: float
    radius: float = field(default=0.0)

    def objective(self, vec_batch: int | None = None) -> Objective:
        measured = LAST_THREE.measure(self.segment.mask, self.segment.tokens.has_bos)
        return Objective(self.segment, Displacement(), measured, vec_batch=vec_batch)

    def start(self, n: int) -> Additive:
        generator = torch.Generator().manual_seed(0)
        width, radius = self.shape.width, self.radius or 0.5 * self.segment.source_norm()
        rows = random_on_sphere(n, width, radius=radius, generator=generator)
        return Additive(self.segment.source, rows.to(self.segment.clean.device), radius=radius)


def made(shape: Shape, dtype: torch.dtype, device: str) -> Made:
    began = clock(device)
    model = wrap(
        weights_of(shape.config(), dtype, device),
        words(shape.vocabulary),
        name="random-llama",
        dtype=dtype,
    )
    segment = segment_of(model, shape, prompts(shape, 1))
    return Made(shape, model, segment, clock(device) - began)


def prompts(shape: Shape, n: int, *, tokens: int = TOKENS, common: int = 0) -> list[Any]:
    """Random token ids, of which the first `common` are the same in all prompts."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, shape.vocabulary, (n, tokens), generator=draw)
    ids[:, :common] = ids[0, :common]
    ids[:, 0] = 0
    return list(ids)


def segment_of(model: Any, shape: Shape, asked: list[Any], kind: Any = Segment) -> Segment:
    ends = (f"blocks.{layer}.hook_resid_post" for layer in (shape.source, shape.target))
    segment: Segment = kind(model, ts.tokenize(model, asked), *ends)
    return segment


def clock(device: str) -> float:
    """Now, when the device has done what it was given; on a CPU, the process's own seconds, which
    neighbours do not stretch (give it one thread)."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(work: Callable[[], Any], device: str, *, times: int = 5, warm: int = 2) -> float:
    """The median of some runs."""
    for _ in range(warm):
        work()
    taken = []
    for _ in range(times):
        began = clock(device)
        work()
        taken.append(clock(device) - began)
    return median(taken)


def room(device: str) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


@contextmanager
def peak(device: str) -> Iterator[dict[str, float]]:
    """The most memory that was taken inside, in GB; nothing on a CPU."""
    found: dict[str, float] = {}
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device != "cpu":
        found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
