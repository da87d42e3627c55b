"""What options choose from, by name.

Written out, since `--help` and shell completion must not wait for torch; a test compares them with
what there is.
"""

from enum import Enum


class Tokens(str, Enum):
    """Which tokens vectors act on."""

    all = "all"
    prompt = "prompt"
    generated = "generated"


class Method(str, Enum):
    """How vectors are searched."""

    auto = "auto"
    power = "power"
    jacobian = "jacobian"
    dct = "dct"
    quadratic = "quadratic"
    sogi = "sogi"
    ascent = "ascent"
    melbo = "melbo"


class Divergence(str, Enum):
    """What is maximised."""

    displacement = "displacement"
    cosine = "cosine"


class Kind(str, Enum):
    """Edits that `elicit` can start a search of by their name."""

    additive = "additive"
    ablation = "ablation"
    clamp = "clamp"
    norm_preserving = "norm_preserving"
    gated = "gated"


# Other tools' formats. No choice: whoever calls a command from Python may have registered more.
WRITTEN = (
    "easysteer",
    "gguf",
    "gguf-lora",
    "hotwire",
    "lm-eval",
    "neuronpedia",
    "peft",
    "svec",
    "vllm-lens",
)
READ = ("gguf", "peft", "svec", "vllm-lens")
