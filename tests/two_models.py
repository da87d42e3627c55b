"""A second model of the same architecture, and the contrast of two restated slowly."""

from typing import Any

import torch
from conftest import KINDS, PROMPTS, SOURCE

import tl_steer as ts
from tl_steer.models.state import frozen

_bases: dict[str, Any] = {}
# Every architecture whose blocks can be called on a stream of their own.
STREAMED = [name for name in KINDS if "shortformer" not in name]


def base_of(name):
    """The same architecture with other weights."""
    if name not in _bases:
        _bases[name] = KINDS[name]()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in _bases[name].parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += 0.3 * parameter.std() * noise if parameter.numel() > 1 else 0
    return _bases[name]


def edits_of(model, n=3):
    """A few random vectors at the tests' own source."""
    site = ts.models.resolve(model, SOURCE)
    return ts.Additive.random(site, n, radius=3.0, generator=torch.Generator().manual_seed(4))


def log_probabilities(model, ids, edit=None):
    hooks = [] if edit is None else edit.hooks()
    with frozen(model):
        logits = model.run_with_hooks(ids[None], fwd_hooks=hooks, return_type="logits")
    return logits[0].log_softmax(dim=-1)


def greedy(logs, _prompt, _place):
    return int(logs.argmax())


def slowly(model, base, edit, *, along, share, bound, prompts=PROMPTS, choose=greedy):
    """The equation and the lead, prompt by prompt and token by token."""
    total, terms, answers = 0.0, [], []
    for prompt, row in enumerate(ts.tokenize(model, prompts).rows()):
        ids, answer = row, []
        unlikely, own = 0.0, 0.0
        for place in range(along):
            m, b, clean = (
                log_probabilities(model, ids, edit)[-1].double(),
                log_probabilities(base, ids, edit)[-1].double(),
                log_probabilities(model, ids)[-1].double(),
            )
            mixture = (share * b.exp() + (1 - share) * clean.exp()).log()
            total += float((m.exp() * (m - mixture).clamp(max=bound)).sum())
            token = choose(m, prompt, place)
            unlikely += float(m[token] - mixture[token])
            own += float(m[token])
            answer.append(token)
            ids = torch.cat([ids, torch.tensor([token])])
        terms.append((min(12.0, unlikely), own / along))
        answers.append(answer)
    n = len(prompts)
    alike = [
        sum(a == b for a, b in zip(answers[i], answers[j], strict=True)) / along
        for i in range(n) for j in range(n) if i != j
    ]  # fmt: skip
    lead = sum(t[0] for t in terms) / n + 3 * sum(t[1] for t in terms) / n
    return total / (n * along), lead + 3 * (sum(alike) / len(alike) if alike else 0.0)
