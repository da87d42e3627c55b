"""Whether a monitor can work: all parts are there, fit each other, and hold possible numbers.

Asked when one is fitted and when one is read from a file, where everything is hostile: what passes
does not die later, inside a deployed model. The last question is put to the monitor itself: it
scores the few activations that it knows its model by.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import TypeCheckError, jaxtyped
from torch import Tensor

from tl_steer.errors import SettingError, SteerError
from tl_steer.monitoring.calibration import Calibration
from tl_steer.monitoring.detectors.fitted import Residual
from tl_steer.monitoring.detectors.registry import FITTED, fields_of, is_tensor
from tl_steer.monitoring.identity import Identity
from tl_steer.monitoring.panel import TOP, Panel
from tl_steer.monitoring.reader import Phase, Reader
from tl_steer.monitoring.replays import NOTHING
from tl_steer.monitoring.running import Running

_MOST_TOKENS = 1 << 20
_LARGEST = 1e15  # squares of such numbers can still be added up
_SLACK = 1e-3  # of sums that were made in float32


def refuse_unsound(panel: Panel) -> None:
    """Raises:
    SettingError: with what is wrong.
    """
    _refuse_plan(panel)
    _refuse_identity(panel.identity, panel)
    _refuse_reader(panel.reader, panel)
    _refuse_calibration(panel.calibration, panel)
    try:
        _refuse_dead(panel)
    except (SteerError, TypeCheckError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise SettingError(f"it cannot score: {str(error)[:300]}") from error


def _insist(holds: bool, what: str) -> None:
    if not holds:
        raise SettingError(what)


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _refuse_plan(panel: Panel) -> None:
    ends, horizon = panel.reader.ends, panel.horizon
    _insist(_whole(horizon, 0, _MOST_TOKENS), f"its horizon is {horizon!r}")
    _insist(0 <= ends < math.inf and bool(ends or horizon), f"ends={ends}, so nothing counts")
    orders = [site.order for site in panel.sites]
    _insist(bool(orders) and orders == sorted(set(orders)), "its sites are out of order")
    mark = panel.identity.fingerprint
    for site in panel.sites:
        named = site.name.split(".")
        fits = named[0] != "blocks" or named[1:2] == [str(site.layer)]
        _insist(fits and site.layer < mark.n_layers, f"{site} is not in block {site.layer}")
    _refuse_replays(panel)
    for row in panel.examples:
        fine = row.dtype == torch.long and row.ndim == 1 and len(row) > 0
        _insist(fine and _ids(row.tolist(), mark.d_vocab), "an example is no row of token ids")


def _refuse_replays(panel: Panel) -> None:
    if panel.replays is None:
        return
    ids, clean = panel.replays.ids, panel.replays.clean
    told = ids.ndim == 3 and len(ids) == len(panel.bank) and ids.shape[1] > 0 and clean.ndim == 2
    _insist(told, f"its vectors' answers have shapes {tuple(ids.shape)}, {tuple(clean.shape)}")
    most = panel.identity.fingerprint.d_vocab
    for values in (ids, clean):
        fine = values.dtype == torch.long and bool(((values >= NOTHING) & (values < most)).all())
        _insist(fine, "its vectors' answers are of no token ids")


def _ids(values: Iterable[Any], d_vocab: int) -> bool:
    return all(_whole(value, 0, d_vocab - 1) for value in values)


def _refuse_identity(identity: Identity, panel: Panel) -> None:
    mark, bank = identity.fingerprint, panel.bank.provenance.fingerprint
    sizes = mark.d_model, mark.n_layers, mark.d_vocab
    _insist(all(_whole(size, 1, 1 << 31) for size in sizes), f"its model has sizes {sizes}")
    _insist(sizes == (bank.d_model, bank.n_layers, bank.d_vocab), "its bank is of another model")
    known = isinstance(mark.dtype, str) and isinstance(getattr(torch, mark.dtype, 0), torch.dtype)
    _insist(known and isinstance(identity.model, str), f"its model computes in {mark.dtype!r}")
    _insist(all(map(math.isfinite, mark.signature)), "its model's signature is not finite")
    around = (*identity.prefix, *identity.suffix)
    _insist(_ids(around, mark.d_vocab), "its template is of no token ids")
    _insist(_ids(identity.ends, 1 << 31), "its answers end with no token ids")
    widths = {site.width for site in panel.sites}
    tokens = identity.checked.shape[1] if identity.checked.ndim == 3 else 0
    shape = (len(panel.sites), tokens, next(iter(widths)))
    one = len(widths) == 1 and identity.checked.shape == shape and 1 <= tokens <= 8
    _insist(one, f"what it knows its model by has shape {tuple(identity.checked.shape)}")
    _refuse_tensor(identity.checked, "what it knows its model by")


def _refuse_tensor(values: Tensor, what: str, *dtypes: torch.dtype) -> None:
    _insist(values.dtype in (dtypes or (torch.float32,)), f"{what} is in {values.dtype}")
    fine = values.numel() > 0 and bool((values.abs() <= _LARGEST).all())
    _insist(fine, f"{what} is empty, not finite or absurdly large")


def _refuse_reader(reader: Reader, panel: Panel) -> None:
    _insist(len(reader.phases) == len(panel.sites), "its detectors are not of its sites")
    categories = reader.categories
    for name, values in (("mean", categories.mean), ("centres", categories.centres)):
        _refuse_tensor(values, f"its categories' {name}")
    _refuse_tensor(reader.levels, "its levels")
    _insist(
        bool((reader.levels[..., 1:] > 0).all()), "a scale or odds of its levels is not positive"
    )
    for site, phases in zip(panel.sites, reader.phases, strict=True):
        probe = panel.identity.checked[0].new_zeros(3, site.width)
        for phase in phases:
            _refuse_phase(phase, probe, len(panel.bank))


def _refuse_phase(phase: Phase, probe: Tensor, vec: int) -> None:
    _insist(bool(phase.known) or phase.unknown is not None, "it has nothing to detect with")
    for known in phase.known:
        for values, what in ((known.shift, "shift"), (known.inverse, "scale")):
            _insist(values.shape == (vec,), f"a score's {what} is not one number for each vector")
            _refuse_tensor(values, f"a score's {what}")
        _insist(bool((known.inverse > 0).all()), "a score's scale is not positive")
    each = [(known.detector, vec) for known in phase.known]
    each += [(own, n) for own, n in ((phase.unknown, 1), (phase.namer, vec)) if own is not None]
    for detector, columns in each:
        if type(detector) in FITTED.values():
            _refuse_record(detector)
        try:
            found = detector(probe)
        except (TypeCheckError, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise SettingError(
                f"its {type(detector).__name__} fails: {str(error)[:200]}"
            ) from error
        fits = isinstance(found, Tensor) and found.shape == (len(probe), columns)
        _insist(fits, f"its {type(detector).__name__} does not give {columns} scores of a token")


def _refuse_record(detector: Any) -> None:
    """Its fields are of the shapes that its class writes down."""
    kind = type(detector).__name__
    with jaxtyped("context"):
        for name, shape in fields_of(type(detector)).items():
            value, what = getattr(detector, name), f"{name} of its {kind}"
            if is_tensor(shape):
                _insist(isinstance(value, shape), f"{what} has another shape")
                _refuse_tensor(value, what, torch.float32, torch.float16, torch.long)
            elif shape is float:
                fine = type(value) in (int, float) and abs(value) <= _LARGEST
                _insist(fine, f"{what} is {value!r}")
            else:
                _insist(_whole(value, 0, 1 << 31), f"{what} is {value!r}")
    if isinstance(detector, Residual):
        _insist(detector.rank < len(detector.bias), "it leaves nothing unexplained")


def _refuse_calibration(kept: Calibration, panel: Panel) -> None:
    n, phase = len(kept.statistic), panel.reader.phases[0][0]
    names = phase.known or phase.namer is not None
    top = min(TOP, len(panel.bank)) if names else 0
    shapes = {"values": (n, top), "vectors": (n, top), "rounding": (n, 3)}
    for each in dataclasses.fields(Calibration):
        values = getattr(kept, each.name)
        if values is None:
            continue
        whole = torch.long if each.name in ("vectors", "category") else torch.float32
        fits = values.shape == shapes.get(each.name, (n,)) and values.dtype == whole
        _insist(n > 0 and fits, f"{each.name} of its calibration requests has another shape")
    told = [kept.statistic, kept.known, kept.unknown]
    told += [] if kept.rounding is None else list(kept.rounding.unbind(1))
    positive = all(bool((values.isfinite() & (values >= 0)).all()) for values in told)
    _insist(positive, "its calibration requests' statistics are not all positive numbers")
    most = (kept.known + kept.unknown) * (1 + _SLACK) + _SLACK
    least = torch.maximum(kept.known, kept.unknown) * (1 - _SLACK) - _SLACK
    adds_up = bool(((kept.statistic <= most) & (kept.statistic >= least)).all())
    _insist(adds_up, "its calibration requests' statistics are not made of their parts")
    there = bool(((kept.vectors >= 0) & (kept.vectors < len(panel.bank))).all())
    once = all(len(set(row)) == top for row in kept.vectors.tolist())
    _insist(there and once, "its calibration requests name vectors that the bank does not have")
    falling = bool((kept.values[:, 1:] <= kept.values[:, :-1]).all())
    lost = bool((kept.values == math.inf).any() | kept.values.isnan().any())
    _insist(falling and not lost, "its calibration requests' vectors are not in order")
    held = set(kept.category.tolist())
    _insist(
        held == set(range(len(panel.reader.categories))), "a category has no calibration requests"
    )


def _refuse_dead(panel: Panel) -> None:
    """Score the activations that the model is known by, as whole requests and as they grow."""
    pos = min(4, 1 + panel.horizon)
    own = torch.arange(pos, device="cpu") % panel.identity.checked.shape[1]
    rows = [at[own].expand(2, -1, -1) for at in panel.identity.checked]
    panel.score({site.name: at for site, at in zip(panel.sites, rows, strict=True)})
    running = Running(panel.reader, device=torch.device("cpu"))
    running.start(2)
    for step in range(pos):
        for i, at in enumerate(rows):
            running.hear(i, at[:, step], [True, True])
    running.score()
    _insist(not any(running.unscorable), "it can score nothing that its model does")
