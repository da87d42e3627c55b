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
    from tl_steer.banks import (
        Bank as Bank,
        adopt as adopt,
        generate as generate,
        halve as halve,
        load_bank as load_bank,
        mark as mark,
        random_bank as random_bank,
        rank as rank,
    )
    from tl_steer.elicitation import elicit as elicit, scan as scan
    from tl_steer.errors import SteerError as SteerError
    from tl_steer.hook_points import Positions as Positions
    from tl_steer.inspection import inspect as inspect
    from tl_steer.models import (
        Segment as Segment,
        capturing as capturing,
        chat as chat,
        load_model as load_model,
        perturbing as perturbing,
        tokenize as tokenize,
    )
    from tl_steer.monitoring import Monitor as Monitor, watch as watch
    from tl_steer.perturbations import Additive as Additive, Perturbation as Perturbation
    from tl_steer.radii import dose_response as dose_response
    from tl_steer.sweeps import load_sweep as load_sweep, sweep as sweep
    from tl_steer.views import report as report

__version__ = "0.2.0"

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
