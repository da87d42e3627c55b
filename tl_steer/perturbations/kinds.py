"""The kinds of perturbation that a bank can hold: registered by name, and tried before use."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.jsons import plain_json, to_text
from tl_steer.files.registry import named, registering
from tl_steer.files.signatures import refuses
from tl_steer.files.text import said
from tl_steer.perturbations.perturbation import Perturbation

K = TypeVar("K", bound=type[Perturbation])

# By the name in a bank's file.
KINDS: dict[str, type[Perturbation]] = {}


@refuses
def register(name: str) -> Callable[[K], K]:
    """A class decorator that gives a kind of perturbation its name, by which banks hold it.

        @register("ablation")
        class Ablation(Perturbation): ...

    A file names the kind and the module that registered it, and never imports that: whoever loads
    the file imports the module first.

    Raises:
        SettingError: no name, or another class has it.
    """
    enter = registering(KINDS, name, what="kind", example="ablation", refuse=_refuse_other)

    def entered(kind: K) -> K:
        enter(kind)
        kind.kind = name
        return kind

    return entered


def _refuse_other(name: str, kind: object) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Perturbation)):
        raise SettingError(f"register({name!r}) is for subclasses of Perturbation.")


def kind_of(name: str) -> type[Perturbation]:
    """The class of a kind.

    Raises:
        SettingError: none has that name.
    """
    return named(KINDS, name, what="kind")


def bankable(perturbation: object) -> Perturbation:
    """A perturbation that a bank can hold as what it is.

    Raises:
        SettingError: none can.
    """
    name, kind = type(perturbation).__name__, getattr(perturbation, "kind", None)
    if not isinstance(perturbation, Perturbation):
        raise SettingError(f"A bank cannot hold a {name}: it is no Perturbation.")
    known = KINDS.get(str(kind))
    if known is type(perturbation) and perturbation.strengths is None:
        return perturbation
    why = f'it is not registered. Put @ts.perturbations.register("{name.lower()}") above its class'
    if known is type(perturbation):
        why = "it is scaled, and a bank holds edits at strength 1"
    elif known is not None:
        why = f"its kind {kind!r} is that of {known.__name__}, which does something else. " + (
            "Register the subclass by a name of its own"
        )
    raise SettingError(f"A bank cannot hold a {name}: {why}.")


def refuse_unusable(start: Perturbation) -> None:
    """Try a perturbation once, before hours go into it: on a small activation, and through a file.

    Raises:
        SettingError: its `forward` does not give what it was given the shape of, not every edit
            acts alone, or what comes back from a bank is not what went in.
    """
    name = type(start).__name__
    few = start.select(list(range(min(2, len(start)))))
    seen = _tried(few) if _is_plain(start) else None
    try:
        # A bank is on the CPU; edits on another device are compared there.
        again = _there_and_back(few).to(few.flat().device)
        same = torch.equal(again.pack(), few.pack())
    except SettingError:
        raise
    except Exception as error:
        raise SettingError(
            f"A bank cannot hold a {name}: packing fails ({said(error, most=200)})."
        ) from error
    if not same or (seen is not None and not _alike(_tried(again), seen)):
        raise SettingError(
            f"A bank cannot hold a {name}: what is unpacked is not what was packed. form() must "
            "hold all that forward() uses beside the parameters."
        )


def _there_and_back(few: Perturbation) -> Perturbation:
    rows, form = few.pack(), plain_json(few.form())
    to_text(form)
    if rows.shape != (len(few), few.packed_width(few.site, form)):
        raise ValueError(f"it packs into rows of {rows.shape[1]}")
    return few.unpack(few.site, rows, radius=few.radius, positions=few.positions, form=form)


def _is_plain(start: Perturbation) -> bool:
    """Whether `forward` is all that it does, which kinds with hooks of their own do not say."""
    return type(start).hooks is Perturbation.hooks


@torch.no_grad()
def _tried(few: Perturbation) -> Tensor:
    """What the edits do to fixed activations, together and alone."""
    name, parameter = type(few).__name__, next(few.parameters())
    numbers = torch.arange(len(few) * 3 * few.site.width, device=parameter.device)
    given = torch.cos(numbers.to(parameter.dtype)).view(len(few), 3, few.site.width)
    rows = torch.arange(len(few), device=parameter.device)
    try:
        out = few(given, rows)
    except SettingError:
        raise
    except Exception as error:
        raise SettingError(
            f"{name}.forward(activation, rows) fails on an activation {tuple(given.shape)} with "
            f"rows {rows.tolist()}: {said(error, most=200)}"
        ) from error
    if not isinstance(out, Tensor) or out.shape != given.shape:
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise SettingError(
            f"{name}.forward gave {found} for an activation {tuple(given.shape)}; expected the "
            "same shape, [batch pos width]."
        )
    for i in range(len(few)):
        alone = few.select([i])(given[i : i + 1], rows[:1])
        if not _alike(alone, out[i : i + 1]):
            raise SettingError(
                f"{name}.forward gives edit {i} something else alone than beside others: "
                "activation[b] is to be edited by edit rows[b] and nothing else."
            )
    return out


def _alike(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-5, equal_nan=True)
