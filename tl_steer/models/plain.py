"""A plain transformers model, seen as a `HookedModel`, with no TransformerLens in the process.

A hook point is one of PyTorch's own hooks, in front of a module of the model or behind it; nothing
is put on the model but those. Which modules they are is not known by their names: the residual
stream is what enters and leaves the blocks, and the rest is found by running the model once
(`models.plain_parts`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tl_steer.errors import HookPointError, ModelError, PromptError
from tl_steer.files.text import said


@dataclass(frozen=True)
class Sizes:
    """What `HookedModel` calls `cfg`."""

    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_vocab: int
    n_ctx: int | None
    model_name: str


class PlainPoint:
    """A tensor of a module as a hook point: what comes out of it, or what goes into it.

    Where a module gives or gets several values it is the first.
    """

    def __init__(self, name: str, module: nn.Module, *, before: bool = False) -> None:
        self.name, self.module, self.before = name, module, before
        self.fwd_hooks: list[Any] = []

    def add_hook(self, function: Callable[..., Any]) -> None:
        """A function `(activation, hook) -> activation`, as TransformerLens's hook points take."""
        found = self.register_forward_hook(lambda _m, _a, out: function(out, hook=self))
        self.fwd_hooks.append(_Hung(found))

    def register_forward_hook(self, hook: Callable[..., Any]) -> Any:
        """As if a module that does nothing stood here."""
        return self._before(hook) if self.before else self._behind(hook)

    def _behind(self, hook: Callable[..., Any]) -> Any:
        def behind(_m: Any, _args: Any, out: Any) -> Any:
            several = isinstance(out, (tuple, list))
            new = hook(self, (), out[0] if several else out)
            return None if new is None else (new, *out[1:]) if several else new

        return self.module.register_forward_hook(behind)

    def _before(self, hook: Callable[..., Any]) -> Any:
        def before(_m: Any, args: tuple[Any, ...]) -> Any:
            if not args:
                raise HookPointError(
                    f"{self.name} cannot be steered on this model: it hands that activation on by "
                    "name. Choose another hook point."
                )
            new = hook(self, (), args[0])
            return None if new is None else (new, *args[1:])

        return self.module.register_forward_pre_hook(before)

    # The module's own, so that whoever takes a hook off here has taken it off there.
    @property
    def _forward_hooks(self) -> Any:
        return self.module._forward_pre_hooks if self.before else self.module._forward_hooks

    @_forward_hooks.setter
    def _forward_hooks(self, hooks: Any) -> None:
        setattr(self.module, "_forward_pre_hooks" if self.before else "_forward_hooks", hooks)

    @property
    def _forward_pre_hooks(self) -> Any:
        return self.module._forward_hooks if self.before else self.module._forward_pre_hooks

    @_forward_pre_hooks.setter
    def _forward_pre_hooks(self, hooks: Any) -> None:
        setattr(self.module, "_forward_hooks" if self.before else "_forward_pre_hooks", hooks)


@dataclass(frozen=True)
class _Hung:
    """As TransformerLens keeps what `add_hook` registered."""

    hook: Any


class PlainModel:
    """See this file's first lines. Made anew whenever it is needed; the model is not copied.

    Raises:
        ModelError: no model of transformers with one stack of decoder blocks.
    """

    def __init__(self, model: Any) -> None:
        config = _config_of(model)
        self.original_model: nn.Module = model
        self.cfg = _sizes(model, config)
        self.blocks = _stack(model, self.cfg.n_layers)
        self.embed: nn.Module = model.get_input_embeddings()
        self.bos = _token(getattr(config, "bos_token_id", None))
        self.hook_dict: dict[str, PlainPoint] = {}
        for i, block in enumerate(self.blocks):
            self.add(f"blocks.{i}.hook_resid_pre", block, before=True)
            self.add(f"blocks.{i}.hook_resid_post", block)

    def add(self, name: str, module: nn.Module, *, before: bool = False) -> None:
        """One more hook point."""
        self.hook_dict[name] = PlainPoint(name, module, before=before)

    def parameters(self) -> Any:
        return self.original_model.parameters()

    def to_tokens(self, *_: Any) -> Any:
        raise PromptError("is text, and a plain model has no tokenizer.")

    def __call__(self, ids: Tensor, *, attention_mask: Tensor | None = None, **_: Any) -> Any:
        """The whole model, whatever else `HookedModel`s are asked.

        Raises:
            ModelError: it does not run on token ids alone.
        """
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask
        try:
            return self.original_model(input_ids=ids, attention_mask=mask, use_cache=False)
        except (HookPointError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ModelError(
                f"{self.cfg.model_name} does not run on {ids.shape[1]} token ids: "
                f"{said(error, most=200)}."
            ) from error


def _config_of(model: Any) -> Any:
    """The part of a config that is the text model's."""
    config, kind = getattr(model, "config", None), type(model).__name__
    if hasattr(model, "hook_dict"):
        raise ModelError(
            f"{kind} is no plain model of transformers but one of TransformerLens: use "
            "tl_steer.perturbing(model, bank[4])."
        )
    if not isinstance(model, nn.Module) or not callable(getattr(config, "get_text_config", None)):
        raise ModelError(
            f"{kind} is no model of transformers; expected what "
            "AutoModelForCausalLM.from_pretrained(...) gives."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{kind} is an encoder-decoder, which keeps its blocks in two stacks: "
            "use a decoder-only model."
        )
    return config.get_text_config()  # type: ignore[union-attr]


def _sizes(model: Any, config: Any) -> Sizes:
    try:
        heads, width = int(config.num_attention_heads), int(config.hidden_size)
        limit = getattr(config, "max_position_embeddings", None)
        return Sizes(
            n_layers=int(config.num_hidden_layers),
            d_model=width,
            n_heads=heads,
            d_head=int(getattr(config, "head_dim", None) or width // heads),
            d_vocab=int(config.vocab_size),
            n_ctx=limit if isinstance(limit, int) else None,
            model_name=str(getattr(config, "_name_or_path", "") or type(model).__name__),
        )
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(
            f"The config of {type(model).__name__} does not say how large it is ({error}); "
            "expected num_hidden_layers, hidden_size, num_attention_heads and vocab_size."
        ) from error


def _stack(model: nn.Module, n: int) -> list[nn.Module]:
    """The decoder's blocks: the one list of as many modules as the config has layers."""
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n
    }
    # Not the experts within a block, which may be as many.
    outer = [name for name in lists if not any(name.startswith(f"{o}.") for o in lists)]
    if len(outer) != 1:
        raise ModelError(
            f"{type(model).__name__} has {n} layers by its config and {len(outer)} lists of as "
            f"many modules ({', '.join(outer)[:200] or 'none'}), so its blocks cannot be told. "
            "Wrap it: TransformerBridge.boot_transformers(name, hf_model=model)."
        )
    return list(lists[outer[0]])


def _token(value: Any) -> int | None:
    return value if isinstance(value, int) else None
