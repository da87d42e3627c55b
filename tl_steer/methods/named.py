"""Methods by the names that `elicit(method=...)` knows."""

from collections.abc import Callable

from tl_steer.files.registry import named
from tl_steer.methods.ascent import Ascent
from tl_steer.methods.dct import Dct
from tl_steer.methods.jacobian import Jacobian
from tl_steer.methods.melbo import Melbo
from tl_steer.methods.power import Power
from tl_steer.methods.protocol import Method
from tl_steer.methods.quadratic import Quadratic
from tl_steer.methods.sogi import Sogi

# "auto" is what docs/methods.md found to be best.
METHODS: dict[str, Callable[[], Method]] = {
    "auto": Power,
    "power": Power,
    "melbo": Melbo,
    "jacobian": Jacobian,
    "dct": Dct,
    "quadratic": Quadratic,
    "sogi": Sogi,
    "ascent": Ascent,
}
"""The methods that `elicit` knows by name. Those that take a base model have none."""


def method_of(name: str) -> Method:
    """A method with its defaults.

    Raises:
        SettingError: none has that name.
    """
    return named(METHODS, name, what="method")()
