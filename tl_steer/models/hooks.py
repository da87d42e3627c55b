"""Hooks on a model, for as long as a `with` block lasts.

Nothing here is left behind: after the block, after an exception and after Ctrl-C the model has the
hooks that it had before, in the order that it had them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from tl_steer.errors import HookPointError, ShapeError
from tl_steer.files.signatures import typed
from tl_steer.files.undo import Scope, scoped
from tl_steer.hook_points.positions import Positions
from tl_steer.models.linear_map import refuse_nonlinear
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.models.passes import follow
from tl_steer.models.state import add_hook, listen, uncompiled
from tl_steer.models.tokens import TokenBatch
from tl_steer.perturbations.perturbation import Hooks, Perturbation, Scale


@runtime_checkable
class Steering(Protocol):
    """What can steer a model: a `Perturbation`, or whatever holds one, as a bank does."""

    def for_model(self, model: HookedModel) -> Perturbation:
        """The perturbation, for that model.

        Raises:
            ForeignModelError: it was made for another.
        """


@scoped
def installed(scope: Scope, model: HookedModel, hooks: Hooks) -> None:
    """The model with these `(name, function)` hooks, behind those that it has."""
    uncompiled(scope)
    for name, function in hooks:
        add_hook(scope, model.hook_dict[name], function)


@scoped
@typed
def perturbing(
    scope: Scope,
    model: HookedModel,
    perturbation: Steering | Any,  # refused with advice
    *,
    rows: Int[Tensor, " batch"] | None = None,
    tokens: TokenBatch | None = None,
    scale: Scale = 1,
    positions: Positions | None = None,
) -> HookedModel:
    """The model under a perturbation; inside the block everything is plain TransformerLens.

    Args:
        perturbation: one vector of a bank (`bank[4]`), or any `Perturbation`.
        rows: with several vectors, the one for each batch row.
        tokens: the prompts that are run; needed only if the perturbation edits some tokens and
            not others. Those prompts and no others may then be run inside the block, in their
            order and padded on either side, once or several times, with a continuation or without.
        scale: how strongly it acts: a number, or one for each vector. 0 is not at all.
        positions: other tokens than the perturbation's own (`hook_points.GENERATED`, say, or
            `Positions(decay=0.9)`).

    Raises:
        ForeignModelError: the bank was made for another model.
        HookPointError: the perturbation's hook point cannot be steered on this model; or the block
            ran the model's layer but the hook never fired, or somebody removed it
            (`model.reset_hooks()` does).
        SettingError: several vectors but no rows.
        PromptError, ShapeError: from inside the model, where it runs other prompts than `tokens`,
            or goes on behind padding.
    """
    edits = edits_for(model, perturbation, rows=rows, scale=scale, positions=positions)
    some = tokens is not None and not edits.positions.everywhere
    prompt = tokens.select(edits.positions) if tokens is not None and some else None
    hooks = edits.hooks(rows=rows, prompt=prompt)
    for name, _ in hooks:
        if name not in model.hook_dict:
            resolve(model, name)  # raises, with the nearest names
    if tokens is not None:
        _follow(scope, model, hooks, tokens, shifts=prompt is None)
    install_watched(scope, model, hooks)
    return model


def edits_for(
    model: HookedModel,
    perturbation: Any,
    *,
    rows: Tensor | None,
    scale: Scale,
    positions: Positions | None,
) -> Perturbation:
    """The edits that are asked for, if they can act on this model; see `perturbing`."""
    if isinstance(perturbation, type) or not isinstance(perturbation, Steering):
        raise ShapeError(_no_steering(perturbation))
    edits = perturbation.for_model(model).used(scale, positions)
    for site in edits.sites:
        resolve(model, site)
    if rows is not None and int(rows.max()) >= len(edits):
        raise ShapeError(f"rows= names vector {int(rows.max())}, but there are {len(edits)}.")
    refuse_nonlinear(model, edits.maps)
    return edits


def install_watched(scope: Scope, model: HookedModel, hooks: Hooks) -> None:
    """Hooks that have to fire whenever their blocks run, until the scope ends."""
    scope.enter_context(installed(model, hooks))
    _watch_firing(scope, model, hooks)


def _no_steering(given: object) -> str:
    if isinstance(given, Tensor):
        advice = (
            "a tensor does not say where it is added: Additive('blocks.3.hook_resid_post', vector)"
        )
    elif isinstance(given, (list, tuple)):
        advice = "for several at once nest perturbing(...), or choose rows of a bank: bank[[0, 2]]"
    else:
        advice = "expected bank[4], or a Perturbation such as Additive(site, vectors)"
    kind = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
    return f"perturbing() got {kind}, which steers nothing; {advice}."


def _follow(
    scope: Scope, model: HookedModel, hooks: Hooks, tokens: TokenBatch, *, shifts: bool
) -> None:
    """Let the hooks know which tokens run."""
    passes = follow(scope, model, tokens, (layer_of(name) for name, _ in hooks))
    if passes is None:
        return
    passes.shifts = shifts or all(hasattr(function, "passes") for _, function in hooks)
    for _, function in hooks:
        if hasattr(function, "passes"):
            function.passes = passes


def layer_of(name: str) -> int:
    return int(name.split(".")[1])


def _watch_firing(scope: Scope, model: HookedModel, hooks: Hooks) -> None:
    """On a good exit, insist that every hook fired whenever its block ran."""
    layers = [layer_of(name) for name, _ in hooks]
    runs = dict.fromkeys(layers, 0)

    def counter(layer: int) -> Callable[..., None]:
        def count(*_: Any) -> None:
            runs[layer] += 1

        return count

    def insist(error: object, *_: object) -> None:
        if error is None:
            _refuse_silent(hooks, layers, runs)

    scope.push(insist)
    # Behind the block: a bridge that is to stop at a layer enters its block, and leaves at once.
    for i in runs:
        listen(scope, model.blocks[i], counter(i), before=False)


def _refuse_silent(hooks: Hooks, layers: Sequence[int], runs: Mapping[int, int]) -> None:
    for layer, (name, function) in zip(layers, hooks, strict=True):
        if runs[layer] > getattr(function, "calls", runs[layer]):
            raise HookPointError(
                f"Block {layer} ran {runs[layer]} times, but the hook at {name} fired "
                f"{function.calls} times, so some of what you ran was not steered. "  # type: ignore[attr-defined]
                "model.reset_hooks() inside the block removes it; a hook point that is switched "
                "off in the config never fires."
            )


@scoped
@typed
def capturing(scope: Scope, model: HookedModel, names: Sequence[str]) -> dict[str, Tensor]:
    """Collect activations by the name asked for, with their gradients (unlike `run_with_cache`);
    those of one head where the name is a head's.

    The dictionary fills as the model runs and holds the newest run's tensors; edits made by hooks
    installed earlier are visible.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> tuple[str, Callable[..., None]]:
        # Raises with the nearest names, unless it is a head's.
        head = None if name in model.hook_dict else resolve(model, name)

        def hook(activation: Tensor, hook: object = None) -> None:
            seen[name] = activation if head is None else head.read(activation)

        return name if head is None else head.point, hook

    scope.enter_context(installed(model, [keep(name) for name in names]))  # type: ignore[misc]
    return seen
