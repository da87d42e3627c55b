"""Tiny random models of many families: what transformers calls them, and the knobs they need."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf

D, LAYERS, HEADS, WIDE, CONTEXT, VOCAB = 24, 4, 3, 40, 64, 101
_TOKENS = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
_WIDE = {
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": WIDE,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
_FULL = {"num_key_value_heads": HEADS}
_GPT = {
    "n_embd": D,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": CONTEXT,
    "n_ctx": CONTEXT,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MANY = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "decoder_sparse_step": 1,
}
_LATENT = {
    "num_key_value_heads": HEADS,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 6,
}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_MAMBA = {
    "mamba_d_state": 4,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_n_heads": 6,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
_SPELT = {"PhimoeForCausalLM": "PhiMoEForCausalLM"}


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        config: name of its configuration class, without "Config".
        knobs: what it needs besides, or instead of, the usual ones.
        base: the usual ones; they differ by age.
        auto: the class that makes a model of it.
    """

    config: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=lambda: _WIDE)
    auto: str = "AutoModelForCausalLM"

    def make(self, *, seed: int = 0, dropout: float | None = None) -> Any:
        """A model with residual streams of ordinary size, in eval mode."""
        torch.manual_seed(seed)
        config = getattr(hf, f"{self.config}Config")(**{**_TOKENS, **self.base, **self.knobs})
        for name in vars(config) if dropout is not None else ():
            if ("dropout" in name or "pdrop" in name) and isinstance(getattr(config, name), float):
                setattr(config, name, dropout)
        for part in (config, getattr(config, "text_config", config)):
            for name in ("initializer_range", "init_std"):
                if hasattr(part, name):
                    setattr(part, name, 0.15)
        # Chosen now: a bridge would choose it later, for its own copy.
        config._attn_implementation = "eager"
        # A copy: some modules (GPT-1's activations) are shared by all models of a class.
        made = copy.deepcopy(getattr(hf, self.auto).from_config(config))
        # As a saved model's would say; transformers and TransformerLens spell one differently.
        made.config.architectures = [_SPELT.get(type(made).__name__, type(made).__name__)]
        _stir(made)
        return made.eval()


def _stir(model: Any) -> None:
    """Biases and norms that are not the same everywhere: what is dropped or folded must show."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and ("bias" in name or "norm" in name or "ln" in name):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def _llama(config: str, knobs: Mapping[str, Any] | None = None, **more: Any) -> Family:
    return Family(config, {**_GROUPED, **(knobs or {})}, **more)


FAMILIES: Mapping[str, Family] = {
    # the llamas
    "llama": _llama("Llama"),
    "llama-scaled-rope": _llama(
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "llama-biased": _llama("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-tied": _llama("Llama", {"tie_word_embeddings": True}),
    "llama4": _llama(
        "Llama4Text",
        {
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 40,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 16,
        },
    ),
    "mistral": _llama("Mistral", {"sliding_window": 4}),
    "ministral3": _llama("Ministral3", {"sliding_window": None}),
    "mixtral": _llama("Mixtral", _EXPERTS),
    "smollm3": _llama("SmolLM3", {"no_rope_layer_interval": 2}),
    "arcee": _llama("Arcee"),
    "apertus": _llama("Apertus"),
    "seed-oss": _llama("SeedOss"),
    "hunyuan": _llama("HunYuanDenseV1"),
    "ernie4.5": _llama("Ernie4_5"),
    "ernie4.5-moe": _llama(
        "Ernie4_5_Moe",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_layer_start_index": 1},
    ),
    "exaone4": _llama("Exaone4", {"sliding_window": 4, "sliding_window_pattern": 2}),
    "nemotron": _llama("Nemotron"),
    "granite": _llama(
        "Granite",
        {
            "logits_scaling": 4.0,
            "residual_multiplier": 0.5,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.3,
        },
    ),
    "granite-moe": _llama(
        "GraniteMoe", {**_EXPERTS, "logits_scaling": 4.0, "residual_multiplier": 0.5}
    ),
    "granite-hybrid": _llama(
        "GraniteMoeHybrid",
        {
            **_EXPERTS,
            **_MAMBA,
            "shared_intermediate_size": 24,
            "layer_types": ["mamba", "attention", "mamba", "attention"],
            "position_embedding_type": "rope",
            "logits_scaling": 4.0,
        },
    ),
    "glm": _llama("Glm", {"partial_rotary_factor": 0.5}),
    "glm4": _llama("Glm4", {"partial_rotary_factor": 0.5}),
    "glm4-moe": _llama("Glm4Moe", {**_ROUTED, "partial_rotary_factor": 0.5}),
    "glm4-moe-lite": Family("Glm4MoeLite", {**_LATENT, **_ROUTED}),
    "deepseek2": Family(
        "DeepseekV2", {**_LATENT, **_ROUTED, "topk_method": "greedy", "head_dim": 4}
    ),
    "deepseek3": Family("DeepseekV3", {**_LATENT, **_ROUTED}),
    "youtu": Family("Youtu", _LATENT),
    "minimax2": _llama("MiniMaxM2", _EXPERTS),
    "nanochat": _llama("NanoChat"),
    "bitnet": _llama("BitNet"),
    "jais2": _llama("Jais2"),
    "afmoe": _llama(
        "Afmoe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "num_dense_layers": 1,
            "sliding_window": 4,
            "global_attn_every_n_layers": 2,
        },
    ),
    "jetmoe": _llama(
        "JetMoe", {**_EXPERTS, "kv_channels": 8, "num_key_value_heads": 3, "num_attention_heads": 6}
    ),
    # Qwen
    "qwen2": _llama("Qwen2"),
    "qwen2-moe": _llama("Qwen2Moe", _MANY),
    "qwen3": _llama("Qwen3"),
    "qwen3-moe": _llama("Qwen3Moe", _MANY),
    "qwen3-next": _llama(
        "Qwen3Next",
        {
            **_MANY,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "qwen3.5": _llama(
        "Qwen3_5Text",
        {
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    # Gemma
    "gemma": _llama("Gemma"),
    "gemma2": _llama(
        "Gemma2", {"sliding_window": 4, "query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0}
    ),
    "gemma3": _llama(
        "Gemma3Text", {"sliding_window": 4, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2}
    ),
    "gemma4": _llama(
        "Gemma4Text",
        {
            "sliding_window": 4,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCAB,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "vault-gemma": _llama("VaultGemma", {"sliding_window": 4, "query_pre_attn_scalar": 8}),
    "recurrent-gemma": _llama(
        "RecurrentGemma",
        {
            "lru_width": D,
            "attention_window_size": 16,
            "conv1d_width": 4,
            "block_types": ["recurrent", "attention"],
        },
    ),
    # Phi, OLMo, Cohere
    "phi": Family("Phi", {**_FULL, "partial_rotary_factor": 0.5}),
    "phi3": Family("Phi3", {**_FULL, "pad_token_id": 1}),
    "phi-moe": Family("Phimoe", {**_FULL, **_EXPERTS}),
    "olmo": _llama("Olmo", {"num_key_value_heads": 3, "clip_qkv": 2.0}),
    "olmo2": _llama("Olmo2", {"num_key_value_heads": 3}),
    "olmo3": _llama(
        "Olmo3",
        {
            "num_key_value_heads": 3,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "olmoe": Family("Olmoe", {**_FULL, "num_experts": 4, "num_experts_per_tok": 2}),
    "flex-olmo": Family("FlexOlmo", {**_FULL, "num_experts": 4, "num_experts_per_tok": 2}),
    "cohere": _llama("Cohere", {"logit_scale": 0.25, "num_key_value_heads": 3}),
    "cohere2": _llama(
        "Cohere2", {"logit_scale": 0.25, "sliding_window": 4, "sliding_window_pattern": 2}
    ),
    "gpt-oss": _llama(
        "GptOss",
        {
            **_EXPERTS,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    # the GPTs and their time
    "gpt2": Family("GPT2", base=_GPT),
    "gpt1": Family("OpenAIGPT", base=_GPT),
    "gptj": Family("GPTJ", {"rotary_dim": 4}, base=_GPT),
    "gpt-neo": Family(
        "GPTNeo",
        {
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "intermediate_size": 4 * D,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 4,
        },
    ),
    "neox": Family("GPTNeoX", {"rotary_pct": 0.5}),
    "neox-serial": Family("GPTNeoX", {"rotary_pct": 0.5, "use_parallel_residual": False}),
    "gpt-bigcode": Family("GPTBigCode", base=_GPT),
    "codegen": Family("CodeGen", {"rotary_dim": 4, "n_head": 4}, base=_GPT),
    "opt": Family("OPT", {"ffn_dim": WIDE, "word_embed_proj_dim": D}),
    "xglm": Family(
        "XGLM", {"d_model": D, "num_layers": LAYERS, "attention_heads": HEADS, "ffn_dim": WIDE}
    ),
    "bloom": Family("Bloom", {"n_layer": LAYERS, "n_head": HEADS}),
    "falcon": Family("Falcon", {"multi_query": True, "alibi": False}),
    "falcon-new": Family(
        "Falcon", {"new_decoder_architecture": True, "num_kv_heads": 1, "alibi": False}
    ),
    "falcon-alibi": Family(
        "Falcon", {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}
    ),
    "mpt": Family(
        "Mpt",
        {
            "d_model": D,
            "n_layers": LAYERS,
            "n_heads": 4,
            "max_seq_len": CONTEXT,
            "expansion_ratio": 2,
        },
    ),
    "stablelm": Family("StableLm", {**_FULL, "partial_rotary_factor": 0.5}),
    "stablelm-parallel": Family(
        "StableLm", {**_FULL, "use_parallel_residual": True, "qk_layernorm": True}
    ),
    "starcoder2": _llama("Starcoder2", {"sliding_window": 4}),
    "modernbert-decoder": Family(
        "ModernBertDecoder",
        {"local_attention": 8, "pad_token_id": 1, "cls_token_id": 0, "sep_token_id": 1},
    ),
    # with states instead of, or beside, attention
    "mamba": Family("Mamba", {"state_size": 4}),
    "mamba2": Family(
        "Mamba2", {"state_size": 4, "num_heads": 6, "head_dim": 8, "n_groups": 1, "chunk_size": 8}
    ),
    "falcon-mamba": Family("FalconMamba", {"state_size": 4}),
    "rwkv": Family("Rwkv", {"attention_hidden_size": D, "context_length": CONTEXT}),
    "lfm2": _llama("Lfm2", {"layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 8}),
    "lfm2-moe": _llama(
        "Lfm2Moe",
        {
            "layer_types": ["conv", "full_attention"] * 2,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "num_dense_layers": 1,
        },
    ),
    "jamba": Family(
        "Jamba",
        {
            "num_key_value_heads": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "mamba_d_state": 4,
            "use_mamba_kernels": False,
        },
    ),
    "bamba": _llama("Bamba", {**_MAMBA, "attn_layer_indices": [1, 3]}),
    "falcon-h1": _llama("FalconH1", {**_MAMBA, "mamba_d_ssm": 48}),
    "nemotron-h": _llama(
        "NemotronH",
        {
            "mamba_num_heads": 6,
            "mamba_head_dim": 8,
            "ssm_state_size": 4,
            "n_groups": 1,
            "chunk_size": 8,
            "hybrid_override_pattern": "M*M-",
        },
    ),
    "zamba2": Family(
        "Zamba2",
        {
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "mamba_d_state": 4,
            "mamba_ngroups": 1,
            "n_mamba_heads": 6,
            "chunk_size": 8,
            "attention_hidden_size": 48,
            "num_mem_blocks": 1,
            "use_mamba_kernels": False,
            "adapter_rank": 4,
            "hybrid_layer_ids": [1, 3],
        },
    ),
    # not one causal stack of text
    # No multimodal model: booting one, TransformerLens runs `pip install torchvision`, which takes
    # another torch into the environment.
    "bert": Family("Bert", auto="AutoModelForMaskedLM"),
    "roberta": Family("Roberta", auto="AutoModelForMaskedLM"),
    "t5": Family(
        "T5",
        {
            "d_model": D,
            "d_kv": 8,
            "d_ff": WIDE,
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "decoder_start_token_id": 1,
        },
        auto="AutoModelForSeq2SeqLM",
        base={},
    ),
    "bart": Family(
        "Bart",
        {
            "d_model": D,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": HEADS,
            "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": WIDE,
            "decoder_ffn_dim": WIDE,
            "max_position_embeddings": CONTEXT,
        },
        auto="AutoModelForSeq2SeqLM",
        base={},
    ),
}
