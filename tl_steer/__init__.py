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
    from tl_steer import (
        banks as banks,
        elicitation as elicitation,
        errors as errors,
        files as files,
        hook_points as hook_points,
        inspection as inspection,
        interop as interop,
        methods as methods,
        models as models,
        monitoring as monitoring,
        objectives as objectives,
        organisms as organisms,
        perturbations as perturbations,
        radii as radii,
        serving as serving,
        sweeps as sweeps,
        views as views,
    )
    from tl_steer.banks import (
        Bank as Bank,
        contrast as contrast,
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
    from tl_steer.serving import serve as serve
    from tl_steer.sweeps import load_sweep as load_sweep, sweep as sweep
    from tl_steer.views import report as report

__version__ = "0.2.0"

# The names that a first day uses, by the wing that has them.
_NAMES = {
    "banks": "Bank contrast generate halve load_bank mark random_bank rank",
    "elicitation": "elicit scan",
    "errors": "SteerError",
    "hook_points": "Positions",
    "inspection": "inspect",
    "models": "Segment capturing chat load_model perturbing tokenize",
    "monitoring": "Monitor watch",
    "perturbations": "Additive Perturbation",
    "radii": "dose_response",
    "serving": "serve",
    "sweeps": "load_sweep sweep",
    "views": "report",
}
_WING_OF = {name: wing for wing, names in _NAMES.items() for name in names.split()}
_WINGS = {*_NAMES, "files", "interop", "methods", "objectives", "organisms"}
# Wings that one reaches into on a first day; the others open as well.
_SHOWN = [
    "interop",
    "methods",
    "monitoring",
    "objectives",
    "organisms",
    "perturbations",
    "radii",
    "sweeps",
    "views",
]

__all__ = sorted([*_WING_OF, *_SHOWN])

if not TYPE_CHECKING:  # type checkers would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        if name in _WING_OF:
            found = getattr(_wing(_WING_OF[name]), name)
            globals()[name] = found  # from now on found without this function
            return found
        if name in _WINGS:
            return _wing(name)
        # Private names are asked for by tools, which want a quick no.
        homes = [] if name.startswith("_") else [w for w in sorted(_WINGS) if _has(w, name)]
        hint = f"; there is {' and '.join(f'ts.{w}.{name}' for w in homes)}" if homes else ""
        raise AttributeError(f"module 'tl_steer' has no attribute {name!r}{hint}")

    def _wing(name: str) -> Any:
        from tl_steer.files.draws import draws_kept

        with draws_kept():  # rich draws when it is imported
            return import_module(f"tl_steer.{name}")

    def _has(wing: str, name: str) -> bool:
        return hasattr(_wing(wing), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_WINGS, "__version__"})
