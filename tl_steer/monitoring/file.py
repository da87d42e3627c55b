"""Monitors as files (`tl_steer.files.tensors`), the bank inside."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.file import (
    bank_from_json,
)
from tl_steer.errors import BankFileError, SettingError, SteerError
from tl_steer.files.jsons import plain_json
from tl_steer.files.registry import module_of
from tl_steer.files.signatures import typed
from tl_steer.files.tensors import TensorFile, digest
from tl_steer.hook_points.site import Site
from tl_steer.models.fingerprint import Fingerprint
from tl_steer.monitoring.calibration import Calibration
from tl_steer.monitoring.detectors.registry import FITTED, fields_of, name_in_files
from tl_steer.monitoring.identity import Identity
from tl_steer.monitoring.panel import Panel
from tl_steer.monitoring.reader import Phase, Reader, Standard
from tl_steer.monitoring.replays import Replays
from tl_steer.monitoring.soundness import refuse_unsound
from tl_steer.monitoring.statistics.categories import Categories
from tl_steer.monitoring.statistics.level import Level

_FILE = TensorFile("monitor", "tl_steer_monitor", BankFileError)
_BANK, _DETECTORS, _CATEGORIES, _REPLAYS = "bank.", "detector.", "categories.", "replays."
_PLAIN = ("unknown", "namer")
_MOST_KNOWN = 8  # scores that one monitor looks for vectors with
_CALIBRATION = tuple(each.name for each in dataclasses.fields(Calibration))
_ROUNDING = "rounding"  # of the calibration; 0.1.0 had none


def save_panel(panel: Panel, path: str | Path) -> Path:
    """Write a monitor. An existing file stays whole until the new one is complete.

    Raises:
        SettingError: a detector is not registered, or there are too many.
    """
    meta, tensors = _pack(panel)
    return _FILE.write(path, meta, tensors)


@typed
def load_panel(path: str | Path) -> Panel:
    """Read what `save_panel` wrote.

    Raises:
        BankFileError: the file is missing, truncated, tampered with, or not a monitor.
    """
    path = Path(path)
    meta, tensors = _FILE.read(path)
    try:
        panel = _unpack(meta, tensors, path)
        refuse_unsound(panel)
    except BankFileError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BankFileError(f"{path} is not a valid monitor: {error}") from error
    except (RuntimeError, SteerError) as error:
        raise BankFileError(f"{path} is not a valid monitor: {error}") from error
    return panel


def panel_digest(panel: Panel) -> str:
    """Identifies a monitor: a hash of all that it knows."""
    return digest(*_pack(panel))[:16]


def _pack(panel: Panel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if panel.reader.parts - 1 > _MOST_KNOWN:
        raise SettingError(
            f"A monitor's file holds {_MOST_KNOWN} scores at most; this one looks for vectors with "
            f"{panel.reader.parts - 1}."
        )
    bank, bank_tensors = panel.bank.contents()
    tensors = {_BANK + name: values for name, values in bank_tensors.items()}
    scores = {name: getattr(panel.calibration, name) for name in _CALIBRATION}
    tensors |= {name: values for name, values in scores.items() if values is not None}
    tensors |= {"levels": _with_allowance(panel.reader.levels), "checked": panel.identity.checked}
    tensors |= {_CATEGORIES + n: values for n, values in vars(panel.reader.categories).items()}
    tensors |= {f"example.{i}": row for i, row in enumerate(panel.examples)}
    if panel.replays is not None:
        tensors |= {_REPLAYS + n: values for n, values in vars(panel.replays).items()}
    kinds: dict[str, Any] = {}
    for i, phases in enumerate(panel.reader.phases):
        for j, phase in enumerate(phases):
            place = f"{_DETECTORS}{i}.{j}"
            for part in _PLAIN:
                _pack_detector(f"{place}.{part}", getattr(phase, part), kinds, tensors)
            for k, known in enumerate(phase.known):
                tensors[f"{place}.shift.{k}"] = known.shift
                tensors[f"{place}.inverse.{k}"] = known.inverse
                _pack_detector(f"{place}.known.{k}", known.detector, kinds, tensors)
    mark = dataclasses.asdict(panel.identity)
    mark.pop("checked")
    meta = {
        "format": _FILE.version,
        "bank": bank,
        "sites": [dataclasses.asdict(site) for site in panel.sites],
        "identity": mark,
        "horizon": panel.horizon,
        "ends": panel.reader.ends,
        "examples": len(panel.examples),
        "settings": dict(panel.settings),
        "known": panel.reader.parts - 1,
        "detectors": kinds,
    }
    plain = {name: values.detach().cpu().contiguous().clone() for name, values in tensors.items()}
    return dict(plain_json(meta)), plain


def _pack_detector(
    place: str, detector: Any, kinds: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    if detector is None:
        return
    kind, numbers = name_in_files(detector), {}
    for each in dataclasses.fields(detector):
        value = getattr(detector, each.name)
        if isinstance(value, Tensor):
            tensors[f"{place}.{each.name}"] = value
        else:
            numbers[each.name] = value
    kinds[place] = {"kind": kind, "numbers": numbers}
    if module := module_of(type(detector)):
        kinds[place]["module"] = module


def _unpack(meta: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Panel:
    own = {n.removeprefix(_BANK): t for n, t in tensors.items() if n.startswith(_BANK)}
    bank = bank_from_json(Bank, meta["bank"], own, path)
    sites = tuple(Site.from_json(site) for site in meta["sites"])
    given = dict(meta["identity"])
    mark = given.pop("fingerprint")
    fingerprint = Fingerprint(**{**mark, "signature": tuple(map(float, mark["signature"]))})
    identity = Identity(
        **{
            **given,
            "prefix": tuple(map(int, given["prefix"])),
            "suffix": tuple(map(int, given["suffix"])),
            "end": _end(given["end"]),
        },
        fingerprint=fingerprint,
        checked=tensors["checked"],
    )
    known = _known(meta, path)
    phases = tuple(
        (
            _phase(meta, tensors, f"{_DETECTORS}{i}.0", known, path),
            _phase(meta, tensors, f"{_DETECTORS}{i}.1", known, path),
        )
        for i in range(len(sites))
    )
    names = (*(f"known.{k}" for k in range(known)), *_PLAIN)
    parts = {
        f"{_DETECTORS}{i}.{j}.{name}" for i in range(len(sites)) for j in (0, 1) for name in names
    }
    if unknown := set(meta["detectors"]) - parts:
        raise BankFileError(f"{path} has detectors in unknown places: {sorted(unknown)}.")
    categories, levels = _categories(tensors, sites[-1].width, path), tensors["levels"]
    expected = (len(categories), len(sites), 2, known + 1, 1 + len(dataclasses.fields(Level)))
    if levels.shape != expected:
        raise _other_version(path, f"levels have shape {tuple(levels.shape)}, expected {expected}")
    if not bool(levels[..., 0].isnan().all()):
        raise _other_version(path, "it adds scores up along tokens")
    held = [name for name in _CALIBRATION if name != _ROUNDING or name in tensors]
    calibration = Calibration(**{name: tensors[name] for name in held})
    n = len(calibration.statistic)
    if n < 1 or any(len(getattr(calibration, name)) != n for name in held):
        raise BankFileError(f"{path}: the calibration scores are not one per request.")
    if set(calibration.category.tolist()) != set(range(len(categories))):
        raise BankFileError(
            f"{path}: the calibration requests are not of the {len(categories)} categories."
        )
    return Panel(
        bank=bank,
        sites=sites,
        reader=Reader(phases, categories, levels[..., 1:], ends=float(meta["ends"])),
        calibration=calibration,
        identity=identity,
        horizon=meta["horizon"],
        examples=tuple(tensors[f"example.{i}"] for i in range(int(meta["examples"]))),
        settings=dict(meta["settings"]),
        replays=_replays(tensors),
    )


def _replays(tensors: Mapping[str, Tensor]) -> Replays | None:
    """Monitors of older versions have none."""
    if not any(name.startswith(_REPLAYS) for name in tensors):
        return None
    return Replays(*(tensors[_REPLAYS + each.name] for each in dataclasses.fields(Replays)))


def _end(found: Any) -> int | tuple[int, ...] | None:
    return tuple(map(int, found)) if isinstance(found, list) else found


def _known(meta: Mapping[str, Any], path: Path) -> int:
    """How many scores vectors are looked for with."""
    if "known" not in meta:
        raise _other_version(path, "it does not say how many scores there are of a vector")
    known = int(meta["known"])
    if not 0 <= known <= _MOST_KNOWN:
        raise BankFileError(f"{path}: {known} scores of a vector; expected 0 to {_MOST_KNOWN}.")
    return known


def _categories(tensors: Mapping[str, Tensor], width: int, path: Path) -> Categories:
    if not any(name.startswith(_CATEGORIES) for name in tensors):
        raise _other_version(path, "it has no categories of requests")
    parts = (tensors[_CATEGORIES + each.name] for each in dataclasses.fields(Categories))
    mean, centres, members = parts
    shaped = mean.shape == (width,) and centres.shape == (len(members), width) and len(members)
    held = set(members.tolist())  # as many as there are members at most, whatever the file says
    if not shaped or members.dtype != torch.long or held != set(range(len(held))):
        raise BankFileError(f"{path}: its categories of requests are damaged.")
    return Categories(mean, centres, members)


def _with_allowance(levels: Float[Tensor, "*place three"]) -> Float[Tensor, "*place four"]:
    """As the format has them: in front stands what a token had to exceed to be added to a sum along
    tokens, NaN since there are none."""
    return torch.cat([torch.full_like(levels[..., :1], torch.nan), levels], dim=-1)


def _other_version(path: Path, what: str) -> BankFileError:
    return BankFileError(
        f"{path}: {what}; another version of tl_steer wrote it. Fit the monitor anew."
    )


def _phase(
    meta: Mapping[str, Any], tensors: Mapping[str, Tensor], place: str, known: int, path: Path
) -> Phase:
    places = [f"{place}.known.{k}" for k in range(known)]
    if missing := [where for where in places if where not in meta["detectors"]]:
        raise KeyError(f"no detector {', '.join(missing)}")
    scores = tuple(
        Standard(
            _detector(meta, tensors, where, path),
            tensors[f"{place}.shift.{k}"],
            tensors[f"{place}.inverse.{k}"],
        )
        for k, where in enumerate(places)
    )
    unknown, namer = (_detector(meta, tensors, f"{place}.{part}", path) for part in _PLAIN)
    return Phase(scores, unknown, namer).joined()


def _detector(
    meta: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str, path: Path
) -> Any:
    kind = meta["detectors"].get(where)
    if kind is None:
        return None
    own = {
        name.removeprefix(f"{where}."): values
        for name, values in tensors.items()
        if name.startswith(f"{where}.")
    }
    name, module = kind["kind"], kind.get("module")
    if name not in FITTED and module is not None:
        raise BankFileError(
            f"{path} holds the detector {str(name)[:60]!r}, which is registered in the module "
            f"{str(module)[:200]!r}: import that first. A file never imports anything by itself."
        )
    if name not in FITTED:
        raise _other_version(path, f"there is no detector {name!r}")
    held = {**own, **kind["numbers"]}
    if set(held) != set(fields_of(FITTED[name])):
        raise BankFileError(f"{path}: its {name} holds {sorted(held)}, which are not its fields.")
    return FITTED[name](**held)
