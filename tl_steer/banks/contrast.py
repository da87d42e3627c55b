"""A vector from two lists of prompts: the difference of their mean activations."""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import NotFiniteError
from tl_steer.files.signatures import checked
from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import Point, Site
from tl_steer.models.hooks import capturing
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.models.state import frozen
from tl_steer.models.tokens import Prompts, TokenBatch, tokenize

_LAST = Positions(last=1, bos=False)


@checked
def contrast(
    model: HookedModel,
    positive: Prompts | TokenBatch,
    negative: Prompts | TokenBatch,
    *,
    source: Point,
    at: Positions = _LAST,
) -> Float[Tensor, " width"]:
    """What points from `negative` prompts to `positive` ones at `source`; its length is what lies
    between their means. `Bank.from_vectors(model, {"formal": contrast(...)}, ...)` measures what it
    does when it is added.

    Args:
        positive, negative: prompts, as for `elicit`; best in pairs that differ in one thing alone,
            since whatever else tells the lists apart is in the vector too.
        at: the tokens whose activations count; the last of every prompt unless given. Every prompt
            counts for as much, however long.

    Raises:
        HookPointError: no such hook point.
        NotFiniteError: an activation is NaN or infinite.
        PromptError: no prompts, or one without such a token.

    Source: contrastive activation addition at the last token (Rimsky et al., 2024,
    arXiv:2312.06681). A direction that tells the lists apart need not be one that the model acts
    on: compare its effect with that of `random_bank`.
    """
    site = resolve(model, source)
    with frozen(model), torch.no_grad():
        means = [_mean(model, tokenize(model, each), site, at) for each in (positive, negative)]
    vector = means[0] - means[1]
    if not bool(vector.isfinite().all()):
        raise NotFiniteError(f"An activation at {site} is NaN or infinite: use a wider dtype.")
    return vector


def _mean(
    model: HookedModel, tokens: TokenBatch, site: Site, at: Positions
) -> Float[Tensor, " width"]:
    """Over chosen tokens, then over prompts; each runs alone."""
    chosen = at.measure(tokens.mask, tokens.has_bos)
    found = []
    for ids, own in zip(tokens.rows(), chosen, strict=True):
        with capturing(model, [site.point]) as seen:
            model(ids[None], return_type=None)
        activation = site.read(seen[site.point])[0].float().cpu()
        found.append(activation[own[: len(ids)].cpu()].mean(dim=0))
    return torch.stack(found).mean(dim=0)
