r"""Self-labelled probes: linear classifiers whose positives the perturbations make.

Nobody labels an anomaly. For every vector (or group of vectors with the same behaviour) the
positives are activations steered by it; the negatives are, half and half, clean activations and
activations steered by all the others. So a probe learns what is special about its vector and not
just that *something* was added.

The classifier is Fisher's linear discriminant with one covariance for all probes,

$$w_k = \hat\Sigma^{-1} (m_k - n_k), \qquad b_k = -\tfrac12 w_k \cdot (m_k + n_k),$$

$\hat\Sigma$ the Ledoit-Wolf covariance of clean and steered activations together, $m_k$ and $n_k$
the means of positives and negatives. Taking the total covariance in the place of the one within
classes turns no $w_k$ (Sherman and Morrison), up to shrinkage, and saves a matrix per probe.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.signatures import checked
from tl_steer.monitoring.detectors.gaussian import ledoit_wolf


@checked
def self_labelled(
    steered: Float[Tensor, "vec sample d"],
    clean: Float[Tensor, "n d"],
    *,
    groups: Sequence[str] | None = None,
) -> tuple[Float[Tensor, "vec d"], Float[Tensor, " vec"]]:
    """Weights and biases, one row per vector; vectors of one group share theirs.

    Args:
        steered: activations of clean prompts under every vector.
        clean: activations of clean prompts; not necessarily the same.
        groups: the behaviour of each vector; `None` makes every vector its own.

    Raises:
        SettingError: no samples, or groups of another number than vectors.
    """
    if steered.shape[1] == 0 or len(clean) == 0:
        raise SettingError("Probes need steered and clean activations; one of the two is empty.")
    names = list(range(len(steered))) if groups is None else list(groups)
    if len(names) != len(steered):
        raise SettingError(f"{len(names)} groups for {len(steered)} vectors; expected one each.")
    order = list(dict.fromkeys(names))
    member = torch.tensor([[name == own for own in names] for name in order]).double()
    centre, covariance = _together(steered, clean)
    # Around the common centre, so that large common activations cost no digits.
    by_vector = steered.double().mean(dim=1) - centre
    positive = member @ by_vector / member.sum(dim=1, keepdim=True)
    rest = 1 - member
    count = rest.sum(dim=1, keepdim=True)
    bare = (clean.double().mean(dim=0) - centre).expand_as(positive)
    others = torch.where(count > 0, rest @ by_vector / count.clamp_min(1), bare)
    negative = (bare + others) / 2
    weights = torch.linalg.solve(covariance, (positive - negative).T).T
    bias = -(weights * ((positive + negative) / 2 + centre)).sum(dim=1)
    index = [order.index(name) for name in names]
    return weights[index].float(), bias[index].float()


def _together(steered: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and shrunk covariance of as many steered as clean activations."""
    flat = steered.flatten(0, 1)
    most = min(len(flat), len(clean))
    even = torch.linspace(0, len(flat) - 1, most).long()
    few = torch.linspace(0, len(clean) - 1, most).long()
    both = torch.cat([flat[even], clean[few]]).double()
    centre = both.mean(dim=0)
    return centre, ledoit_wolf(both - centre)[0]
