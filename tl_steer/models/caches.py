"""Does cached generation see the prompt?

A TransformerLens that does not know how a newer transformers hands its cache around generates
without an error and without a prompt: every token is read as if it were the first. So each model is
asked once, before anything is generated.
"""

import weakref
from typing import Any

import torch
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.files.undo import Scope
from tl_steer.models.bare import fixed_tokens
from tl_steer.models.model import HookedModel, device_of
from tl_steer.models.state import frozen, listen, without_hooks

# Far more than rounding, and far less than what is left of a token without its prompt.
_TOLERANCE = 0.1
_sound: "weakref.WeakSet[Any]" = weakref.WeakSet()


def refuse_broken_cache(model: HookedModel) -> None:
    """Compare a token that is read behind a cached prompt with the same token in one pass.

    Costs two short passes for each model, once. Models without `generate` are left alone.

    Raises:
        ModelError: the two have nothing to do with each other.
    """
    if model in _sound or not hasattr(model, "generate"):
        return
    seen: list[Tensor] = []
    with frozen(model), without_hooks(model), torch.no_grad(), Scope() as scope:
        ids = fixed_tokens(int(model.cfg.d_vocab)).to(device_of(model))
        last: Any = model.blocks[len(model.blocks) - 1]
        listen(scope, last, lambda _m, _i, out: seen.append(_newest(out)), before=False)
        grown = model.generate(
            ids,
            max_new_tokens=2,
            stop_at_eos=False,
            do_sample=False,
            return_type="tokens",
            verbose=False,
        )
        cached = seen[-1]
        model(grown[:, :-1], return_type=None)
    apart = float((cached - seen[-1]).norm() / seen[-1].norm())
    if not apart <= _TOLERANCE:
        raise ModelError(
            "Cached generation does not see the prompt: a token read behind it comes out "
            f"{apart:.0%} apart from the same token in one pass. This TransformerLens does not "
            "know the cache of the installed transformers; install another: "
            "pip install 'transformers<5.24'"
        )
    _sound.add(model)


def _newest(out: Any) -> Tensor:
    residual: Tensor = (out[0] if isinstance(out, tuple) else out)[:, -1]
    return residual.detach().float().cpu()
