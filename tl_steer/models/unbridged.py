"""A block without the parts that a bridge puts between its modules.

TransformerBridge hangs a component of its own in front of each of a model's modules, to fire hooks
there, and recomputes attention so that its scores and patterns can be read. Where nobody reads
them, the block's own modules give the same numbers in fewer steps, and a compiler can read them:
between them stands nothing but PyTorch.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

# Hooks that bridges hang on their own parts note what goes by, for hook points with hooks.
_OF_BRIDGES = "transformer_lens.model_bridge"


class Unbridged:
    """One block, called as the bridge calls it.

    Args:
        block: one of `model.blocks` that wraps a module (`wraps`).

    Attributes:
        module: the block's own modules, sharing every weight with it.
        run: how it is called; `objectives.compiled` puts something faster there for a while.
    """

    run: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]

    def __init__(self, block: nn.Module) -> None:
        kept: set[int] = set()
        self.module, self.run = _unwrapped(block, kept), called
        # Hooks on the model's own modules fire as ever; those on the bridge's would be left out.
        self._left_out = [module for module in block.modules() if id(module) not in kept]
        self._block, self._training = block, block.training
        taken = inspect.signature(self.module.forward).parameters.values()
        self._takes = {p.name for p in taken}
        self._takes_more = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken)

    @property
    def stands_in(self) -> bool:
        """Whether it may run for the block now: nobody listens inside, and modes are as before."""
        return self._block.training == self._training and all(
            getattr(hook, "__module__", "").startswith(_OF_BRIDGES) for hook in self._hooks()
        )

    def _hooks(self) -> Iterator[Any]:
        for module in self._left_out:
            yield from module._forward_hooks.values()
            yield from module._forward_pre_hooks.values()
            yield from module._backward_hooks.values()
            yield from module._backward_pre_hooks.values()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # A bridge leaves out what the block does not take.
        if not self._takes_more:
            kwargs = {name: value for name, value in kwargs.items() if name in self._takes}
        return self.run(self.module, args, kwargs)


def wraps(block: Any) -> bool:
    """Whether a block stands in front of a module of the model's own."""
    return isinstance(getattr(block, "original_component", None), nn.Module)


def called(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A module with its arguments; one function for all blocks, so that one graph serves them."""
    return module(*args, **kwargs)


def _unwrapped(module: Any, kept: set[int]) -> nn.Module:
    """The module that is wrapped, or this one, with unwrapped modules in it. A copy shares weights,
    buffers and hooks, and holds modules of its own; what was copied goes into `kept`."""
    inner = module.original_component if wraps(module) else module
    kept.add(id(inner))
    copy: nn.Module = object.__new__(type(inner))
    copy.__dict__ = dict(inner.__dict__)
    copy.__dict__["_modules"] = {
        name: None if child is None else _unwrapped(child, kept)
        for name, child in inner._modules.items()
    }
    return copy
