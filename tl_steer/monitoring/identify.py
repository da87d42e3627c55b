"""What a model and its prompts look like, so that a monitor knows them again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tl_steer.banks.fingerprint import fingerprint
from tl_steer.models.bare import fixed_tokens
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel, model_name
from tl_steer.models.rows import end_of_text
from tl_steer.models.state import without_hooks
from tl_steer.models.taps import glance, host_of
from tl_steer.models.tokens import TokenBatch, chat, tokenize
from tl_steer.monitoring.identity import Identity, shared_ends


def identity_of(model: HookedModel, tokens: TokenBatch, sites: Sequence[str]) -> Identity:
    """What a monitor on these prompts is tied to."""
    mark = fingerprint(model)
    host = host_of(model, [resolve(model, name, target=True) for name in sites])
    with without_hooks(model):
        seen = glance(host, fixed_tokens(mark.d_vocab))
    prefix, suffix = _template(model, tokens)
    return Identity(
        model=model_name(model),
        fingerprint=mark,
        checked=torch.stack([at[0].float().cpu() for at in seen]),
        prefix=prefix,
        suffix=suffix,
        end=end_of_text(model),
    )


def _template(model: HookedModel, tokens: TokenBatch) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens around every prompt: the chat template's where all prompts end as it does, else a
    BOS token that all begin with."""
    rows: list[Tensor] = [row.cpu() for row in tokens.rows()]
    bos = (int(rows[0][0]),) if bool(tokens.has_bos.all()) else ()
    if getattr(getattr(model, "tokenizer", None), "chat_template", None) is None:
        return bos, ()
    # Two contents that differ, also in length, leave the template between them.
    asked = tokenize(model, [chat("Why? 7"), chat("No, zebras please.")])
    prefix, suffix = shared_ends([row.cpu() for row in asked.rows()])
    m = len(suffix)
    ends = all(len(row) > m and tuple(row[len(row) - m :].tolist()) == suffix for row in rows)
    if not suffix or not ends:
        return bos, ()
    # A system turn of one's own changes how prompts begin: keep what all have in common.
    start = shared_ends([*(row[: len(prefix)] for row in rows), torch.tensor(prefix)])[0]
    return start, suffix
