"""Everything about a model that a public call must leave as it was."""

import torch

from tl_steer.models.model import modules_of, parameters_of


def snapshot(model):
    points = dict(model.hook_dict.items())
    return {
        "hooks": {n: [id(h) for h in p.fwd_hooks] for n, p in points.items()},
        "torch hooks": {n: list(p._forward_hooks) for n, p in points.items()},
        "block hooks": [(list(b._forward_pre_hooks), list(b._forward_hooks)) for b in model.blocks],
        "flags": [p.requires_grad for p in parameters_of(model)],
        "modes": [m.training for m in modules_of(model)],
        "weights": [float(p.detach().double().sum()) for p in parameters_of(model)],
        "bits": [hash(p.detach().numpy().tobytes()) for p in parameters_of(model)],
        "gradients": [p.grad is None for p in parameters_of(model)],
        "grad mode": torch.is_grad_enabled(),
        "random": hash(torch.get_rng_state().numpy().tobytes()),
    }
