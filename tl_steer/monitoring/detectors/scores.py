r"""Detector scores on activations, one for every token and vector. Pure functions; larger is more
suspicious.

With $z = (h - \mu) \Sigma^{-1/2}$ a token's white activation and $u_k = U_k \Sigma^{-1/2}$ vector
k's white response:

    matched_filter     z·u / |u|           N(0, 1) on Gaussian clean tokens, whatever the amplitude
    whitened_cosine    z·u / (|z| |u|)     the same angle, blind to the size of z (ACE)
    likelihood_ratio   z·u - |u|²/2        log p(h | clean + U_k) / p(h | clean)
    energy_split       |Pz|², |z - Pz|²    P onto the span of the leading responses

The first two are the adaptive matched filter and the adaptive coherence estimator of library-based
target detection (Kraut, Scharf and McWhorter 2001). `tl_steer.monitoring.detectors.detector` has them precomputed for
one pass per token, and docs/monitoring.md compares them.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from tl_steer.errors import SettingError
from tl_steer.files.signatures import checked
from tl_steer.monitoring.detectors.gaussian import Gaussian


@checked
def matched_filter(
    activations: Float[Tensor, "token d"], responses: Float[Tensor, "vec d"], clean: Gaussian
) -> Float[Tensor, "token vec"]:
    """How far an activation has moved along each response, in clean standard deviations.

    Half the square of its positive part is the likelihood ratio for an unknown amplitude. Wrong
    where long contexts or odd topics inflate all of z: then everything matches a little.
    """
    white = normalize(clean.whiten_change(responses), dim=1)
    return clean.whiten(activations) @ white.T


@checked
def whitened_cosine(
    activations: Float[Tensor, "token d"], responses: Float[Tensor, "vec d"], clean: Gaussian
) -> Float[Tensor, "token vec"]:
    """The cosine of activation and response in white coordinates: the share of what is unusual
    about a token that the response accounts for.

    Wrong where the behaviour is a small part of a large move: `matched_filter` keeps the size.
    """
    white = normalize(clean.whiten_change(responses), dim=1)
    return normalize(clean.whiten(activations), dim=1) @ white.T


@checked
def likelihood_ratio(
    activations: Float[Tensor, "token d"], responses: Float[Tensor, "vec d"], clean: Gaussian
) -> Float[Tensor, "token vec"]:
    """Nats for "clean plus exactly this response" against "clean".

    Wrong where a real mechanism need not be as strong as the steering was.
    """
    white = clean.whiten_change(responses)
    return clean.whiten(activations) @ white.T - white.square().sum(dim=1) / 2


@checked
def soft_likelihood_ratio(
    activations: Float[Tensor, "token d"], responses: Float[Tensor, "vec d"], clean: Gaussian
) -> Float[Tensor, " token"]:
    """Nats for "clean plus one of the responses, each as likely" against "clean"."""
    each = likelihood_ratio(activations, responses, clean)
    return each.logsumexp(dim=1) - torch.tensor(float(len(responses))).log()


@checked
def energy_split(
    activations: Float[Tensor, "token d"],
    responses: Float[Tensor, "vec d"],
    clean: Gaussian,
    *,
    rank: int,
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
    """Explained and unexplained energy: |Pz|² and |z|² - |Pz|², P of the given rank.

    Much that is explained is a known perturbation; much that is not, an anomaly that the bank does
    not have. Keep the rank well below d_model: a bank of as many vectors explains everything.
    """
    basis = subspace(responses, clean, rank=rank)
    white = clean.whiten(activations)
    explained = (white @ basis.T).square().sum(dim=1)
    return explained, (white.square().sum(dim=1) - explained).clamp_min(0.0)


@checked
def subspace(
    responses: Float[Tensor, "vec d"], clean: Gaussian, *, rank: int
) -> Float[Tensor, "rank d"]:
    """Orthonormal rows: the leading directions of the white responses, each of unit norm.

    Raises:
        SettingError: the rank is not between 1 and the number of vectors and dimensions.
    """
    if not 1 <= rank <= min(responses.shape):
        raise SettingError(
            f"rank={rank}: expected 1 to {min(responses.shape)} for {len(responses)} responses of "
            f"width {responses.shape[1]}."
        )
    unit = normalize(clean.whiten_change(responses).double(), dim=1)
    rows: Tensor = torch.linalg.svd(unit, full_matrices=False).Vh[:rank]
    return rows.float()


@checked
def cusum(
    scores: Float[Tensor, "batch pos"],
    *,
    allowance: float | int,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos"]:
    r"""Page's cumulative sum: $C_t = \max(0, C_{t-1} + s_t - \kappa)$, from 0; tokens outside the
    mask leave it as it is.

    Gathers weak evidence along a sequence. The allowance $\kappa$ must lie above what clean tokens
    score on average, or the sum grows with length alone. (Page 1954.)
    """
    total = torch.zeros_like(scores[:, 0])
    sums = []
    for at in range(scores.shape[1]):
        moved = (total + scores[:, at] - allowance).clamp_min(0.0)
        total = moved if mask is None else torch.where(mask[:, at], moved, total)
        sums.append(total)
    return torch.stack(sums, dim=1)


@checked
def raw_cosine(
    activations: Float[Tensor, "token d"], responses: Float[Tensor, "vec d"], clean: Gaussian
) -> Float[Tensor, "token vec"]:
    """Baseline: the cosine with no whitening, after taking off the clean mean.

    Activations fill few directions, so most cosines are large for no reason.
    """
    return normalize(activations - clean.mean, dim=1) @ normalize(responses, dim=1).T


@checked
def mahalanobis(activations: Float[Tensor, "token d"], clean: Gaussian) -> Float[Tensor, " token"]:
    """Baseline: the squared Mahalanobis distance |z|². It knows no vectors and names none."""
    return clean.whiten(activations).square().sum(dim=1)


@checked
def relative_mahalanobis(
    activations: Float[Tensor, "token d"], clean: Gaussian, background: Gaussian
) -> Float[Tensor, " token"]:
    """Baseline: the squared distance to the clean tokens of a kind, less that to all tokens.

    Ren et al. 2021 (arXiv 2106.09022), with token kinds in the place of classes.
    """
    return mahalanobis(activations, clean) - mahalanobis(activations, background)


@checked
def neighbour_distance(
    activations: Float[Tensor, "token d"], reference: Float[Tensor, "n d"], *, k: int
) -> Float[Tensor, " token"]:
    """Baseline: the distance to the k-th nearest clean activation, both scaled to unit norm.

    Sun et al. 2022 (arXiv 2204.06507).

    Raises:
        SettingError: fewer than k clean activations.
    """
    if not 1 <= k <= len(reference):
        raise SettingError(f"k={k}: expected 1 to {len(reference)}, the clean activations given.")
    near = normalize(activations, dim=1) @ normalize(reference, dim=1).T
    return (2 - 2 * near.topk(k, dim=1).values[:, -1]).clamp_min(0.0).sqrt()
