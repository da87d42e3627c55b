"""The formats that ship; they enter by the door that users have."""

from tl_steer.interop import (
    easysteer,
    gguf,
    gguf_lora,
    hotwire,
    lm_eval,
    lora,
    neuronpedia,
    peft,
    svec,
    vllm_lens,
)
from tl_steer.interop.formats import FORMATS as FORMATS, register

register("easysteer", write=easysteer.write)
register("gguf", write=gguf.write, read=gguf.read)
register("gguf-lora", write=gguf_lora.write)
register("hotwire", write=hotwire.write)
register("lm-eval", write=lm_eval.write)
register("neuronpedia", write=neuronpedia.write)
register("peft", write=peft.write, read=lora.read)
register("svec", write=svec.write, read=svec.read)
register("vllm-lens", write=vllm_lens.write, read=vllm_lens.read)
