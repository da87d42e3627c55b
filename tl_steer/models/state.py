"""A model's state, put back as it was: flags and modes, hooks, random numbers."""

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tl_steer.errors import ModelError
from tl_steer.files.undo import Scope, scoped
from tl_steer.models.model import (
    HookedModel,
    device_of,
    model_name,
    modules_and_parameters,
    parameters_of,
)


@scoped
def seeded(scope: Scope, model: HookedModel, seed: int) -> None:
    """Inside, sampling from the model is fixed by `seed`; the global random state is left as it
    was."""
    scope.undo(torch.set_rng_state, torch.get_rng_state())
    device = device_of(model)
    if device.type == "cuda":
        scope.undo(torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device)
    torch.manual_seed(seed)


_thread = threading.local()


def own_depth() -> int:
    """How many of tl_steer's own verbs are running the model in this thread, one inside another."""
    return getattr(_thread, "depth", 0)


@scoped
def own_run(scope: Scope) -> None:
    """Inside, this thread runs the model for tl_steer: whoever listens to requests hears nothing
    (`models.taps`)."""
    scope.undo(setattr, _thread, "depth", own_depth())
    _thread.depth = own_depth() + 1


@scoped
def frozen(scope: Scope, model: HookedModel) -> None:
    """Inside: no parameter wants gradients, all modules are in eval mode, autograd is on. It is a
    run of tl_steer's own (`own_run`).

    Afterwards every flag and mode is what it was. Modes are set module by module, because
    `TransformerBridge.train` does more than set them. Works inside `no_grad` and `inference_mode`;
    autocast is off, so that the model is the one that it is outside of it, and what is compiled
    runs as it was written.

    Raises:
        ModelError: the weights are on the meta device.
    """
    modules, weights = modules_and_parameters(model)
    _refuse_meta(model)
    # Those made in inference mode want none as it is, and take no flag outside of it.
    flags = [(p, p.requires_grad) for p in weights if not p.is_inference()]
    scope.undo(set_flags, flags)
    set_flags([(p, False) for p, _ in flags])
    evaluating(scope, modules)
    scope.enter_context(own_run())
    scope.enter_context(torch.inference_mode(False))
    scope.enter_context(torch.enable_grad())
    uncompiled(scope)
    device = device_of(model).type
    if torch.is_autocast_enabled(device):
        scope.enter_context(torch.autocast(device, enabled=False))


# How the first who ran compiled code as written found the compiler, and a place for each other.
_stances: list[Any] = []


def uncompiled(scope: Scope) -> None:
    """Whatever is compiled runs as it was written while the scope lasts: a compiled graph knows
    nothing of hooks that come later, and cannot hold those that keep what they see."""
    if "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import takes seconds
        scope.undo(_compiled_again)
        _stances.append(None if _stances else torch.compiler.set_stance("force_eager"))


def _compiled_again() -> None:
    # The last one out, and not the first one in: scopes may end in any order.
    stance = _stances.pop() if _stances else None
    if stance is not None:
        stance.__exit__(None, None, None)


def refuse_inference_weights(model: HookedModel) -> None:
    """For what needs gradients.

    Raises:
        ModelError: they do not flow through this model's weights.
    """
    if any(p.is_inference() for p in parameters_of(model)):
        raise ModelError(
            f"The weights of {model_name(model)} were made inside torch.inference_mode(), so no "
            "gradient flows through them: make or load the model outside of it."
        )


def _refuse_meta(model: HookedModel) -> None:
    if device_of(model).type == "meta":
        raise ModelError(
            f"The weights of {model_name(model)} are on the meta device, which holds no numbers: "
            "load them first."
        )


def evaluating(scope: Scope, modules: Sequence[nn.Module]) -> None:
    """The modules are in eval mode while the scope lasts."""
    scope.undo(_set_modes, [(module, module.training) for module in modules])
    _set_modes([(module, False) for module in modules])


def set_flags(flags: Sequence[tuple[Tensor, bool]]) -> None:
    """Whether each tensor wants gradients."""
    for parameter, flag in flags:
        parameter.requires_grad_(flag)


def _set_modes(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        module.training = mode


@scoped
def without_hooks(scope: Scope, model: HookedModel) -> None:
    """The bare model: every hook on a hook point or block is set aside, and put back as it was."""
    # Blocks too: `perturbing` counts how often its block runs, and this run is not the user's.
    set_aside(scope, (*model.hook_dict.values(), *model.blocks))


def set_aside(scope: Scope, modules: Iterable[Any]) -> None:
    """The modules are without hooks while the scope lasts."""
    points = {id(point): point for point in modules}.values()
    kept = [(point, point._forward_hooks, point._forward_pre_hooks) for point in points]
    scope.undo(_hang, kept)
    _hang([(point, type(hooks)(), type(hooks)()) for point, hooks, _ in kept])


def _hang(kept: Sequence[tuple[Any, Any, Any]]) -> None:
    for point, hooks, pre_hooks in kept:
        point._forward_hooks, point._forward_pre_hooks = hooks, pre_hooks


def listen(scope: Scope, module: Any, hook: Callable[..., Any], *, before: bool) -> None:
    """One of PyTorch's own hooks: in front of a module with its keyword arguments, or behind it."""
    if before:
        number = hook_number(
            scope, module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs
        )
        number[0] = module.register_forward_pre_hook(hook, with_kwargs=True).id
    else:
        number = hook_number(scope, module._forward_hooks)
        number[0] = module.register_forward_hook(hook).id


def add_hook(scope: Scope, point: Any, function: Callable[..., Any]) -> None:
    """One hook on a hook point, as TransformerLens knows hooks. `add_hook` returns its handle on
    TransformerLens 4 only."""
    number = hook_number(scope, point._forward_hooks)
    scope.undo(_unlist, point, number)
    point.add_hook(function)
    number[0] = point.fwd_hooks[-1].hook.id


def _unlist(point: Any, number: list[int]) -> None:
    # Removing the PyTorch hook alone would leave a stale entry in `fwd_hooks`.
    point.fwd_hooks = [handle for handle in point.fwd_hooks if handle.hook.id != number[0]]


def hook_number(scope: Scope, *hooks: Any) -> list[int]:
    """Where the number of a hook that is about to be registered is kept; it is taken off again by
    it. Until it is known it is what PyTorch numbers next, so that no interrupt comes between."""
    number = [RemovableHandle.next_id]
    scope.undo(_take_off, hooks, number)
    return number


def _take_off(hooks: Sequence[dict[int, Any]], number: list[int]) -> None:
    for each in hooks:
        each.pop(number[0], None)
