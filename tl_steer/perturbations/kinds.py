"""The kinds of perturbation that a bank can hold."""

from tl_steer.perturbations.adapter import Adapter
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.perturbation import Packable

# By the name in a bank's file.
KINDS: dict[str, type[Packable]] = {Additive.kind: Additive, Adapter.kind: Adapter}
