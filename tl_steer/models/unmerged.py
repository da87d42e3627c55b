"""Adapters that hang on a model unmerged, as PEFT's do, and how they are switched off.

What counts is PEFT's interface and no class of it: a module with `enable_adapters(bool)` and a flag
`disable_adapters`, which every tuner layer has (LoRA, IA3, modules trained in full).
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import nn

from tl_steer.errors import ModelError
from tl_steer.files.undo import Scope, scoped
from tl_steer.models.model import HookedModel, model_name, modules_of
from tl_steer.models.state import set_flags

Adapters: TypeAlias = tuple[Any, ...]


def adapters_of(model: HookedModel) -> Adapters:
    """The model's modules that have an adapter.

    Raises:
        ModelError: there are none, or one is folded into the weights.
    """
    found = tuple(module for module in modules_of(model) if _switchable(module))
    if not found:
        raise ModelError(
            f"{model_name(model)} has no adapter that could be switched off: expected modules with "
            "enable_adapters() and disable_adapters, as PEFT's are. Weights into which an adapter "
            "was folded are like any others: load the model it was made from."
        )
    if any(getattr(module, "merged", False) for module in found):
        raise ModelError(
            f"An adapter of {model_name(model)} is merged into the weights, and switching it off "
            "would change them. Unmerge it first (unmerge_adapter()), or load the model that it "
            "was made from."
        )
    return found


def _switchable(module: nn.Module) -> bool:
    # transformers' models have methods of both names, which do something else; and a bridge passes
    # on what the module that it wraps has, which is found by itself.
    return callable(getattr(type(module), "enable_adapters", None)) and isinstance(
        getattr(module, "disable_adapters", None), bool
    )


@scoped
def switched_off(scope: Scope, adapters: Adapters) -> None:
    """Inside, the model runs without its adapters. Switches and flags are as before afterwards."""
    # PEFT's switch sets the adapters' flags as well.
    flags = [(p, p.requires_grad) for each in adapters for p in each.parameters()]
    switches = [(each, not each.disable_adapters) for each in adapters]
    scope.undo(set_flags, flags)
    scope.undo(_switch, switches)
    _switch([(each, False) for each in adapters])
    set_flags(flags)


def _switch(switches: Sequence[tuple[Any, bool]]) -> None:
    for each, on in switches:
        each.enable_adapters(on)
