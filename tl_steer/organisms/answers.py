"""Greedy answers of a plain transformers model, many prompts at a time, and a cache of them."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.files.undo import Scope, scoped
from tl_steer.files.write import write_beside
from tl_steer.models.gguf import cache_folder
from tl_steer.models.state import listen

Tokens = list[int]


def encode(tokenizer: Any, text: str) -> Tokens:
    """One user turn in the tokenizer's chat template, up to where the answer begins."""
    turns = [{"role": "user", "content": text}]
    done = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return [int(token) for token in done["input_ids"]]


def greedy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Tokens],
    *,
    new_tokens: int = 24,
    batch: int = 32,
    vectors: Float[Tensor, "prompt d_model"] | None = None,
    layer: int = 0,
) -> list[Tokens]:
    """Answers, with their end-of-turn token where they got that far.

    Args:
        vectors: one per prompt, added to the residual stream behind block `layer` at every token.
    """
    out: dict[int, Tokens] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    with torch.no_grad():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            asked = [prompts[i] for i in rows]
            if vectors is None:
                new = _continue(model, asked, new_tokens, tokenizer.eos_token_id)
            else:
                at = torch.full((len(rows),), layer, dtype=torch.long, device="cpu")
                with nudged(model, at, vectors[rows]):
                    new = _continue(model, asked, new_tokens, tokenizer.eos_token_id, share=False)
            out |= dict(zip(rows, new, strict=True))
    return [out[i] for i in range(len(prompts))]


def _continue(
    model: Any, rows: Sequence[Tokens], new_tokens: int, end: int, *, share: bool = True
) -> list[Tokens]:
    shared, cache = prefix(model, rows) if share else (0, None)
    ids, mask = (x.to(model.device) for x in pad_left([row[shared:] for row in rows], end))
    mask = torch.cat([mask.new_ones(len(rows), shared), mask], dim=1)
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    made: list[Tensor] = []
    for _ in range(new_tokens):
        state = model.model(
            ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        )
        cache = state.past_key_values
        ids = model.lm_head(state.last_hidden_state[:, -1:]).argmax(dim=-1)
        made.append(ids)
        if bool((torch.cat(made, dim=1) == end).any(dim=1).all()):
            break
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        places = places[:, -1:] + 1
    return [_cut(row, end) for row in torch.cat(made, dim=1).tolist()]


def prefix(model: Any, rows: Sequence[Tokens]) -> tuple[int, Any]:
    """What all rows begin with, run once: its length, and keys and values for a batch of rows.

    Chat templates put a long system turn in front of every prompt, and half of all time would go
    there. Gradients pass. Wrong to use inside `nudged`, where rows differ from the first token on.
    """
    from transformers import DynamicCache

    shared = shared_beginning(rows)
    if shared == 0:
        return 0, None
    cache = DynamicCache()
    first = torch.tensor([rows[0][:shared]], device=model.device, dtype=torch.long)
    model.model(first, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(rows))
    return shared, cache


def shared_beginning(rows: Sequence[Tokens]) -> int:
    """How many tokens all rows begin with; one at least is left for each row of its own."""
    alike = [len(set(column)) == 1 for column in zip(*rows, strict=False)]
    return min([*alike, False].index(False), min(map(len, rows)) - 1)


@scoped
def nudged(
    scope: Scope, model: Any, layers: Int[Tensor, " batch"], vectors: Float[Tensor, "batch d_model"]
) -> None:
    """Inside, row b of a batch has `vectors[b]` added behind block `layers[b]` at every token."""
    for layer in sorted({int(x) for x in layers}):
        own = (vectors * (layers == layer)[:, None])[:, None].to(model.device)

        def add(_module: Any, _inputs: Any, out: Any, own: Tensor = own) -> Any:
            return (out[0] + own, *out[1:]) if isinstance(out, tuple) else out + own

        listen(scope, model.model.layers[layer], add, before=False)


def own_answers(
    model: Any, tokenizer: Any, texts: Sequence[str], *, new_tokens: int
) -> dict[str, Tokens]:
    """The unmodified model's answers to user turns; those made before come from the cache folder.

    Wrong to call with a model that has been trained: the cache goes by the model's folder.
    """
    key = hashlib.sha256(f"{model.config.name_or_path} {new_tokens}".encode()).hexdigest()[:16]
    path = cache_folder() / "organisms" / f"answers-{key}.json"
    known: dict[str, Tokens] = json.loads(path.read_text()) if path.is_file() else {}
    missing = [text for text in texts if text not in known]
    if missing:
        prompts = [encode(tokenizer, text) for text in missing]
        made = greedy(model, tokenizer, prompts, new_tokens=new_tokens)
        known |= dict(zip(missing, made, strict=True))
        write_beside(path, json.dumps(known).encode())
    return {text: known[text] for text in texts}


def pad_left(rows: Sequence[Tokens], filler: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor(
        [[filler] * (longest - len(row)) + row for row in rows], dtype=torch.long, device="cpu"
    )
    mask = torch.tensor(
        [[0] * (longest - len(row)) + [1] * len(row) for row in rows],
        dtype=torch.long,
        device="cpu",
    )
    return ids, mask


def _cut(row: Tokens, end: int) -> Tokens:
    return row[: row.index(end) + 1] if end in row else row
