"""What a model is: any object that meets `HookedModel`.

HookedTransformer, TransformerBridge (raw or in compatibility mode), or a model of your own. No
class is tested for and no version is looked at.
"""

import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, _ProtocolMeta, runtime_checkable

import torch
from torch import Tensor, nn

from tl_steer.errors import ModelError


class _ByAttribute(_ProtocolMeta):
    """Asks an object for what it needs. Protocols do that before Python 3.12 only: since then they
    look without calling `__getattr__`, and find no submodule of any torch module."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if cls is not HookedModel:  # a class of one's own that declares to be one
            return super().__instancecheck__(instance)
        # The class first: TransformerBridge makes its whole `hook_dict` anew whenever it is asked.
        own = type(instance)
        return callable(instance) and all(
            hasattr(own, name) or hasattr(instance, name) for name in _NEEDED
        )

    def why_not(cls, instance: Any) -> None:
        """Raises what `instance` lacks, and what to do."""
        own = type(instance)
        if isinstance(instance, str):
            raise ModelError(f"The model is a string; load it: load_model({instance[:60]!r}).")
        missing = [n for n in _NEEDED if not (hasattr(own, n) or hasattr(instance, n))]
        config = getattr(getattr(instance, "original_model", instance), "config", None)
        if getattr(config, "is_encoder_decoder", False):
            advice = (
                "it is an encoder-decoder, which keeps its blocks in two stacks. tl_steer steers "
                "models with one stack of blocks: use a decoder-only model."
            )
        elif config is not None and "hook_dict" in missing:
            advice = (
                "it is a transformers model: wrap it with "
                "TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer), "
                "or only steer it: bank[4].install(model)."
            )
        else:
            advice = "load one by load_model(...), or see HookedModel for what yours needs."
        what = ", ".join(missing) or "__call__"
        raise ModelError(f"{own.__name__} cannot be steered: it has no {what}; {advice}")


_NEEDED = ("cfg", "hook_dict", "blocks", "to_tokens", "parameters")


@runtime_checkable
class HookedModel(Protocol, metaclass=_ByAttribute):
    """What tl_steer needs of a model; TransformerLens's classes have it.

    `cfg` has `n_layers`, `d_model`, `n_heads`, `d_head` and `d_vocab`; `hook_dict` maps names to
    hook points with `add_hook` and `fwd_hooks`; `blocks` are called with the residual stream first.
    Calling the model takes `(ids, attention_mask=, stop_at_layer=, return_type=)`.
    """

    cfg: Any
    hook_dict: Any
    blocks: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def to_tokens(self, *args: Any, **kwargs: Any) -> Any: ...

    def parameters(self, *args: Any, **kwargs: Any) -> Any: ...


def device_of(model: HookedModel) -> torch.device:
    """Where token ids have to be: the device of the model's first parameter."""
    first = next(iter(model.parameters()), None)
    return torch.device("cpu") if first is None else first.device


def dtype_of(model: HookedModel) -> torch.dtype:
    first = next(iter(model.parameters()), None)
    return torch.float32 if first is None else first.dtype


def context_of(model: HookedModel) -> int | None:
    """How many tokens the model reads at most; `None` where its config names no limit."""
    found = getattr(model.cfg, "n_ctx", None)
    return int(found) if isinstance(found, int) and found > 0 else None


def model_name(model: HookedModel) -> str:
    return str(getattr(model.cfg, "model_name", "") or type(model).__name__)


# What most attributes are, and what holds no module.
_PLAIN = {str, int, float, bool, type(None), type, types.ModuleType, torch.dtype, torch.device}


def modules_of(model: object) -> list[nn.Module]:
    """Every module that may run when the model does, each once.

    `model.modules()` knows those that are registered. A TransformerBridge does not register the
    whole model that it wraps, and wrappers keep models in lists, dictionaries, plain objects,
    patched methods and closures.
    """
    return [one for one in _reached(model) if isinstance(one, nn.Module)]


def parameters_of(model: Any) -> list[Tensor]:
    """Every parameter of the model and of `modules_of` it, each once, and other leaves that want
    gradients; first what the model itself calls its parameters, in its order."""
    return modules_and_parameters(model)[1]


def modules_and_parameters(model: Any) -> tuple[list[nn.Module], list[Tensor]]:
    """`modules_of` and `parameters_of`, in one walk."""
    reached = _reached(model)
    found: dict[int, Tensor] = {id(p): p for p in model.parameters()}
    for one in reached:
        if isinstance(one, nn.Parameter) or (
            isinstance(one, Tensor) and one.is_leaf and one.requires_grad
        ):
            found.setdefault(id(one), one)
    return [one for one in reached if isinstance(one, nn.Module)], list(found.values())


def _reached(model: Any) -> list[object]:
    """What hangs on a model, through whatever holds modules."""
    seen: dict[int, object] = {id(model): model}
    left: list[Iterable[object]] = [_own(model), tuple(getattr(model, "blocks", ()))]
    while left:
        for one in left.pop():
            if type(one) not in _PLAIN and id(one) not in seen:
                seen[id(one)] = one
                left.append(_held(one))
    return list(seen.values())


def _held(one: object) -> Iterable[object]:
    if isinstance(one, nn.Module):
        return _own(one)
    if isinstance(one, Tensor):
        return ()
    if isinstance(one, (list, tuple, set, frozenset)):
        return one
    if isinstance(one, Mapping):
        return one.values()
    if isinstance(one, types.MethodType):
        return (one.__self__,)
    if isinstance(one, functools.partial):
        return (one.func, *one.args, *one.keywords.values())
    if isinstance(one, types.FunctionType):
        return tuple(_contents(one.__closure__ or ()))
    # Not further into plain objects (tokenizers, configs) than to those that hold a module.
    own = _own(one)
    return own if any(isinstance(value, nn.Module) for value in own) else ()


def _own(one: object) -> list[object]:
    # Hooks belong to others, and so do the modules in them: a perturbation that is being trained.
    attributes = getattr(one, "__dict__", {})
    return [value for name, value in attributes.items() if not name.endswith("_hooks")]


def _contents(cells: Iterable[types.CellType]) -> Iterator[object]:
    for cell in cells:
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
