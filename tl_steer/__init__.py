"""tl_steer: latent perturbations of language models, learned without labels, beside
TransformerLens.

bank = ts.elicit(model, [prompt], source="blocks.3.hook_resid_post",
                 target="blocks.9.hook_resid_post", n=32)
with ts.perturbing(model, bank[4]):
    model.generate(prompt, max_new_tokens=40)

Here is what a first day uses; all else is imported from its wing (`from tl_steer.methods import
Power`). A name is looked up when it is first used, so `import tl_steer` itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_steer.banks import adopt as adopt
    from tl_steer.banks import generate as generate
    from tl_steer.banks import halve as halve
    from tl_steer.banks import rank as rank
    from tl_steer.banks.bank import Bank as Bank
    from tl_steer.banks.control import random_bank as random_bank
    from tl_steer.banks.file import load_bank as load_bank
    from tl_steer.banks.verdict import mark as mark
    from tl_steer.elicitation import elicit as elicit
    from tl_steer.elicitation import scan as scan
    from tl_steer.errors import SteerError as SteerError
    from tl_steer.hook_points.positions import Positions as Positions
    from tl_steer.inspection import inspect as inspect
    from tl_steer.models.hooks import capturing as capturing
    from tl_steer.models.hooks import perturbing as perturbing
    from tl_steer.models.load import load_model as load_model
    from tl_steer.models.segment import Segment as Segment
    from tl_steer.models.tokens import chat as chat
    from tl_steer.models.tokens import tokenize as tokenize
    from tl_steer.monitoring import watch as watch
    from tl_steer.monitoring.monitor import Monitor as Monitor
    from tl_steer.perturbations.additive import Additive as Additive
    from tl_steer.perturbations.perturbation import Perturbation as Perturbation
    from tl_steer.radii import dose_response as dose_response
    from tl_steer.sweeps import sweep as sweep
    from tl_steer.sweeps.result import load_sweep as load_sweep
    from tl_steer.views import report as report

__version__ = "0.1.0"

_WINGS = {
    "banks",
    "elicitation",
    "errors",
    "files",
    "hook_points",
    "inspection",
    "interop",
    "methods",
    "models",
    "monitoring",
    "objectives",
    "organisms",
    "perturbations",
    "radii",
    "sweeps",
    "views",
}
_WING_OF = {
    "Additive": "perturbations",
    "Bank": "banks",
    "Monitor": "monitoring",
    "Perturbation": "perturbations",
    "Positions": "hook_points",
    "Segment": "models",
    "SteerError": "errors",
    "adopt": "banks",
    "capturing": "models",
    "chat": "models",
    "dose_response": "radii",
    "elicit": "elicitation",
    "generate": "banks",
    "halve": "banks",
    "inspect": "inspection",
    "load_bank": "banks",
    "load_model": "models",
    "load_sweep": "sweeps",
    "mark": "banks",
    "perturbing": "models",
    "random_bank": "banks",
    "rank": "banks",
    "report": "views",
    "scan": "elicitation",
    "sweep": "sweeps",
    "tokenize": "models",
    "watch": "monitoring",
}

__all__ = [
    "Additive",
    "Bank",
    "Monitor",
    "Perturbation",
    "Positions",
    "Segment",
    "SteerError",
    "adopt",
    "capturing",
    "chat",
    "dose_response",
    "elicit",
    "generate",
    "halve",
    "inspect",
    "interop",
    "load_bank",
    "load_model",
    "load_sweep",
    "mark",
    "methods",
    "monitoring",
    "objectives",
    "organisms",
    "perturbations",
    "perturbing",
    "radii",
    "random_bank",
    "rank",
    "report",
    "scan",
    "sweep",
    "sweeps",
    "tokenize",
    "views",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in _WING_OF:
        found = getattr(import_module(f"tl_steer.{_WING_OF[name]}"), name)
        globals()[name] = found  # from now on found without this function
        return found
    if name in _WINGS:
        return import_module(f"tl_steer.{name}")
    raise AttributeError(f"module 'tl_steer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
