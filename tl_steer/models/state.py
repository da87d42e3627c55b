"""A model's state, put back as it was: flags and modes, hooks, random numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tl_steer.models.model import HookedModel, device_of


@contextmanager
def seeded(model: HookedModel, seed: int) -> Iterator[None]:
    """Inside, sampling from the model is fixed by `seed`; the global random state is left as it
    was."""
    devices = [device_of(model)] if device_of(model).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def frozen(model: HookedModel) -> Iterator[None]:
    """Inside: no parameter wants gradients, all modules are in eval mode, autograd is on.

    Afterwards every flag and mode is what it was. Modes are set module by module, because
    `TransformerBridge.train` does more than set them. Works inside `no_grad` and `inference_mode`.
    """
    parameters = [(p, p.requires_grad) for p in model.parameters()]
    modules = list([*model.modules()] if isinstance(model, nn.Module) else [])
    modes = [(m, m.training) for m in modules]
    try:
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        for module in modules:
            module.training = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter, flag in parameters:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


@contextmanager
def without_hooks(model: HookedModel) -> Iterator[None]:
    """The bare model: every hook on a hook point or block is set aside, and put back as it was."""
    # Blocks too: `perturbing` counts how often its block runs, and this run is not the user's.
    points = {id(point): point for point in (*model.hook_dict.values(), *model.blocks)}.values()
    kept = [(point, point._forward_hooks, point._forward_pre_hooks) for point in points]
    try:
        for point, hooks, _ in kept:
            point._forward_hooks, point._forward_pre_hooks = type(hooks)(), type(hooks)()
        yield
    finally:
        for point, hooks, pre_hooks in kept:
            point._forward_hooks, point._forward_pre_hooks = hooks, pre_hooks
