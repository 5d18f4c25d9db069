"""Single-stream decoding, the work "generate-1" of bench/works.h, with llama.cpp.

    python bench/peers/llama_decode.py THREADS SIZE generate-1 SETTING FOLDER

SETTING is fp32 or bf16: the dtype of FOLDER, which bench-worker has written; it is converted to a GGUF file without a
vocabulary. Needs llama-cpp-python (built from its source, so that it is made for this processor) and gguf.
"""

import ctypes
import json
import os
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np
import shapes
from shapes import NEW, PROMPT

TYPES = {"F32": gguf.GGMLQuantizationType.F32, "BF16": gguf.GGMLQuantizationType.BF16}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tensors(folder):
    """Names, types and values ([rows, columns], of 4 or 2 bytes) of a model.safetensors."""
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        base = file.tell()
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            file.seek(base + entry["data_offsets"][0])
            data = file.read(entry["data_offsets"][1] - entry["data_offsets"][0])
            dtype = np.float32 if entry["dtype"] == "F32" else np.uint16
            yield name.removesuffix(".weight"), entry["dtype"], np.frombuffer(data, dtype).reshape(entry["shape"])


def translated(name):
    if name in OTHERS:
        return OTHERS[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER[rest]}"


def convert(folder, size, path):
    dim, layers, heads, hidden, vocab = shapes.SIZES[size]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(shapes.LENGTH)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_rope_dimension_count(dim // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("none")
    for name, dtype, values in tensors(folder):
        if name.endswith(("q_proj", "k_proj")):  # llama.cpp pairs neighbours, Hugging Face the halves of a head
            values = values.reshape(heads, 2, -1, dim).swapaxes(1, 2).reshape(dim, dim)
        if values.ndim == 1 and dtype == "BF16":  # gains are f32
            dtype, values = "F32", (values.astype(np.uint32) << 16).view(np.float32)
        if dtype == "BF16":
            values = np.ascontiguousarray(values).view(np.uint8)
        writer.add_tensor(translated(name) + ".weight", values, raw_dtype=TYPES[dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def open_context(path, threads):
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = shapes.LENGTH
    params.n_threads = params.n_threads_batch = threads
    return llama_cpp.llama_init_from_model(model, params), silent


def main():
    threads, size, _, _, folder = sys.argv[1:6]
    vocab = shapes.SIZES[size][-1]
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, "model.gguf")
        convert(folder, size, path)
        context, _silent = open_context(path, int(threads))
    prompt = np.random.default_rng(1).integers(3, vocab, PROMPT).tolist()

    def decode(tokens):
        memory = (llama_cpp.llama_token * len(tokens))(*tokens)  # the batch only points to it
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(memory, len(tokens))) == 0
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        return int(np.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (vocab,)).argmax())

    def step():
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        token = decode(prompt)
        for _ in range(NEW - 1):
            token = decode([token])
        return NEW

    shapes.serve(step)


if __name__ == "__main__":
    main()
