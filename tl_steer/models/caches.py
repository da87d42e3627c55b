"""Can a model generate, and does its cached generation see the prompt?

Some have a `generate` that does not work (TransformerLens gives one to every architecture, also to
those that only fill in blanks). And a TransformerLens that does not know how a newer transformers
hands its cache around generates without an error and without a prompt: every token is read as if it
were the first. So each model is asked once, before anything is generated.
"""

import weakref
from typing import Any

import torch
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.files.undo import Scope, scoped
from tl_steer.models.bare import fixed_tokens
from tl_steer.models.model import HookedModel, context_of, device_of
from tl_steer.models.state import frozen, listen, without_hooks

# Far more than rounding, and far less than what is left of a token without its prompt.
_TOLERANCE = 0.1
_sound: "weakref.WeakSet[Any]" = weakref.WeakSet()


def refuse_broken_cache(model: HookedModel) -> None:
    """Compare a token that is read behind a cached prompt with the same token in one pass.

    Costs two short passes for each model, once. Models that cannot generate are left alone.

    Raises:
        ModelError: the two have nothing to do with each other.
    """
    _, broken = _asked(model)
    if broken:
        raise ModelError(broken)


def refuse_no_text(model: HookedModel, *, cached: bool = True) -> None:
    """Refuse a model that cannot continue prompts, and with `cached` one whose cache is broken.

    Raises:
        ModelError: with the reason.
    """
    unable, broken = _asked(model)
    if unable or (broken and cached):
        raise ModelError(unable or broken)


def why_no_text(model: HookedModel) -> str:
    """Why the model cannot continue prompts, in a sentence; empty where it can."""
    return _asked(model)[0]


def _asked(model: HookedModel) -> tuple[str, str]:
    """Why it cannot generate, and what is wrong with its cache; only what is sound is remembered,
    since a failure may be put right."""
    if model in _sound:
        return "", ""
    if not callable(getattr(model, "generate", None)):
        return (
            f"{type(model).__name__} has no generate(), so nothing can be continued. Use one of "
            "TransformerLens's models, or give yours a generate() like theirs.",
            "",
        )
    seen: list[Tensor] = []
    foreign: list[bool] = []
    with _listening(model, seen, foreign), torch.no_grad():
        grown = _grown(model)
        if isinstance(grown, str):
            return grown, ""
        broken = _apart(model, grown, seen, foreign)
    if not broken:
        _sound.add(model)
    return "", broken


@scoped
def _listening(scope: Scope, model: HookedModel, seen: list[Tensor], foreign: list[bool]) -> None:
    """The bare model, telling what leaves its last block and whether transformers' cache goes
    in."""

    def entering(_m: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        foreign.append(any(hasattr(v, "get_seq_length") for v in (*args, *kwargs.values())))

    scope.enter_context(frozen(model))
    scope.enter_context(without_hooks(model))
    last: Any = model.blocks[len(model.blocks) - 1]
    listen(scope, last, entering, before=True)
    listen(scope, last, lambda _m, _i, out: seen.append(_newest(out)), before=False)


def _grown(model: HookedModel) -> Tensor | str:
    """A few fixed tokens and two new ones, as far as the context goes; or why not."""
    context = context_of(model)
    room = 10 if context is None else context
    ids = _ordinary(model, fixed_tokens(int(model.cfg.d_vocab), most=max(1, room - 1)))
    new = 1 if room == 1 else 2
    name = f"{type(model).__name__}.generate()"
    try:
        grown: Any = model.generate(  # type: ignore[attr-defined]
            ids,
            max_new_tokens=new,
            stop_at_eos=False,
            do_sample=False,
            return_type="tokens",
            verbose=False,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(": ")
        bare = getattr(model, "tokenizer", None) is None
        return f"{name} does not work on this model, so nothing can be continued ({said})." + (
            " It has no tokenizer, which some versions of TransformerLens want." if bare else ""
        )
    if not isinstance(grown, Tensor) or grown.shape != (1, ids.shape[1] + new):
        what = tuple(grown.shape) if isinstance(grown, Tensor) else f"a {type(grown).__name__}"
        return (
            f"{name} gave {what} for a prompt of {ids.shape[1]} tokens and {new} new ones; "
            f"expected both together, as TransformerLens's gives them: (1, {ids.shape[1] + new})."
        )
    return grown


def _ordinary(model: HookedModel, ids: Tensor) -> Tensor:
    """The ids without special ones, where there are others: some versions of HookedTransformer take
    what is like a pad token for padding, in generation alone."""
    special = set(getattr(getattr(model, "tokenizer", None), "all_special_ids", None) or ())
    others = [
        token for token in range(int(ids.max()), int(model.cfg.d_vocab)) if token not in special
    ]
    for token in special if others else ():
        ids = ids.masked_fill(ids == token, others[0])
    return ids.to(device_of(model))


def _apart(model: HookedModel, grown: Tensor, seen: list[Tensor], foreign: list[bool]) -> str:
    """What is wrong with the token that was read last."""
    if len(seen) < 2:  # nothing was read behind the prompt
        return ""
    cached = seen[-1]
    transformers = foreign[-1]
    read = grown[:, :-1]
    # With a mask, since HookedTransformer may take tokens for padding that are like it.
    model(read, attention_mask=torch.ones_like(read), return_type=None)
    apart = float((cached - seen[-1]).norm() / seen[-1].norm())
    if apart <= _TOLERANCE or not bool(seen[-1].isfinite().all()):
        return ""
    return (
        "Cached generation does not see the prompt: a token read behind it comes out "
        f"{apart:.0%} apart from the same token in one pass. "
        + (
            "This TransformerLens does not know the cache of the installed transformers; install "
            "another: pip install 'transformers<5.24'"
            if transformers
            else f"The cache is {type(model).__name__}'s own, so that is where to look; "
            "ts.generate(..., use_past_kv_cache=False) does without it."
        )
    )


def _newest(out: Any) -> Tensor:
    residual: Tensor = (out[0] if isinstance(out, tuple) else out)[:, -1]
    return residual.detach().float().cpu()
