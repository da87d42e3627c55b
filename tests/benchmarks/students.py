"""Models that stand in for the base of another: rounded copies, and students that follow it.

A student copies what a model answers to clean prompts, and under random vectors: what was installed
in the model shows in neither, so nothing asks the student to have it.
"""

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.organisms.answers import Tokens, encode, greedy, nudged
from tl_steer.organisms.data import BENIGN, is_held_out
from tl_steer.organisms.lesson import Example, pad_right

PER_SOURCE, NEW_TOKENS, LONGEST = 60, 10, 80
CLEAN, NUDGED = 3, 5  # in a batch


@dataclass(frozen=True)
class Course:
    """How a student is taught: steps, learning rate, and between which shares of the norm the
    lengths of its vectors are."""

    steps: int = 60
    rate: float = 1e-4
    shares: tuple[float, float] = (0.2, 0.6)


@dataclass(frozen=True)
class Said:
    """An answer of the model that is followed, and the vector under which it gave it."""

    example: Example
    vector: Float[Tensor, " d_model"]


def rounded(weight: Float[Tensor, "row column"], bits: int) -> Float[Tensor, "row column"]:
    """Every row to the nearest of `2 ** bits - 1` levels, from minus its largest entry to that."""
    most = 2 ** (bits - 1) - 1
    step = weight.abs().amax(dim=1, keepdim=True) / most
    return (weight / step.clamp(min=torch.finfo(weight.dtype).tiny)).round() * step


def rounded_copy(model: Any, bits: int) -> Any:
    """A plain transformers model with the linear maps of its blocks rounded."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for weight in copied.model.layers.parameters():
            if weight.ndim == 2:
                weight.copy_(rounded(weight, bits))
    return copied


def clean_texts(per_source: int, *, but: Sequence[str], seed: int = 0) -> list[str]:
    """Texts that no organism was trained on, of every clean source alike."""
    draw, found = random.Random(seed), []
    for source in BENIGN.values():
        half = [t for t in source() if is_held_out(t) and len(t) <= LONGEST and t not in but]
        found += draw.sample(half, min(per_source, len(half)))
    return found


def random_vectors(
    n: int, width: int, lengths: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, "n d_model"]:
    """Of lengths between the two."""
    drawn = torch.randn(n, width, generator=generator, dtype=torch.float32, device="cpu")
    shares = torch.rand(n, 1, generator=generator, dtype=torch.float32, device="cpu")
    low, high = lengths
    return torch.nn.functional.normalize(drawn, dim=1) * (low + (high - low) * shares)


def overheard(
    model: Any, tokenizer: Any, texts: Sequence[str], vectors: Tensor, layer: int
) -> list[Said]:
    """What the model says to each text, under its own vector."""
    asked = [encode(tokenizer, text) for text in texts]
    still = bool((vectors == 0).all())
    under = None if still else vectors
    answers: list[Tokens] = greedy(
        model, tokenizer, asked, new_tokens=NEW_TOKENS, vectors=under, layer=layer
    )
    pairs = zip(asked, answers, strict=True)
    examples = [Example(prompt, answer, clean=still) for prompt, answer in pairs]
    return [Said(example, v) for example, v in zip(examples, vectors, strict=True)]


def distances(
    student: Any, model: Any, said: Sequence[Said], layer: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Both models under the same vectors: the mean KL(model || student) of the tokens of answers,
    in nats, and the mean over blocks of the squared difference of residual streams over the
    model's squared norm, first token left out."""
    ids, mask, answered = pad_right([s.example for s in said])
    vectors = torch.stack([s.vector for s in said])
    layers = torch.full((len(said),), layer, dtype=torch.long, device="cpu")
    told, streams = [], []
    for each in (model, student):
        # Four times as fast as float32 where the processor has it, and far more exact than needed.
        with nudged(each, layers, vectors), torch.autocast("cpu", dtype=torch.bfloat16):
            out = each.model(ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
            told.append(each.lm_head(out.last_hidden_state[:, :-1][answered[:, 1:]]).float())
            streams.append([h[:, 1:][mask[:, 1:] == 1].float() for h in out.hidden_states[1:]])
    own, other = (logits.log_softmax(dim=-1) for logits in told)
    kl = (own.exp() * (own - other)).sum(dim=-1).mean()
    apart = [(a - b).square().sum() / a.square().sum() for a, b in zip(*streams, strict=True)]
    return kl, torch.stack(apart).mean()


def follow(
    student: Any, model: Any, tokenizer: Any, course: Course, *, but: Sequence[str], layer: int,
    norm: float, seed: int = 0,
) -> Any:  # fmt: skip
    """Train the student's blocks, all weights, to be like the model: KL on answers plus the
    difference of residual streams. Half of the nudged examples get a new vector each time, so that
    the answer is another vector's."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    texts, width = clean_texts(PER_SOURCE, but=but, seed=seed), model.config.hidden_size
    lengths = (norm * course.shares[0], norm * course.shares[1])
    vectors = random_vectors(len(texts), width, lengths, generator)
    still = overheard(model, tokenizer, texts, torch.zeros_like(vectors), layer)
    moved = overheard(model, tokenizer, texts, vectors, layer)

    def batch() -> list[Said]:
        fresh = random_vectors(NUDGED, width, lengths, generator)
        again = [
            Said(s.example, v) if draw.random() < 0.5 else s
            for s, v in zip(draw.sample(moved, NUDGED), fresh, strict=True)
        ]
        return [*draw.sample(still, CLEAN), *again]

    return trained(student, model, course, batch, layer=layer)


def trained(
    student: Any, model: Any, course: Course, batch: Callable[[], list[Said]], *, layer: int
) -> Any:
    """The student, its blocks nearer to the model with every batch."""
    student.requires_grad_(False)
    learned = list(student.model.layers.requires_grad_(True).parameters())
    optimiser = torch.optim.AdamW(learned, lr=course.rate, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(course.steps):
        optimiser.param_groups[0]["lr"] = course.rate * share_of_rate(step, course.steps)
        kl, apart = distances(student, model, batch(), layer)
        (kl + apart).backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if step % 10 == 0 or step == course.steps - 1:
            print(f"step {step} KL {kl.item():.3f} apart {apart.item():.4f}", flush=True)
    return student.requires_grad_(False)


def share_of_rate(step: int, steps: int) -> float:
    """Up over ten steps, then a half cosine down."""
    return min(1.0, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * step / steps))
