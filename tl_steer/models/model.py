"""What a model is: any object that meets `HookedModel`.

HookedTransformer, TransformerBridge (raw or in compatibility mode), or a model of your own. No
class is tested for and no version is looked at.
"""

from typing import Any, Protocol, _ProtocolMeta, runtime_checkable

import torch


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


def model_name(model: HookedModel) -> str:
    return str(getattr(model.cfg, "model_name", "") or type(model).__name__)
