"""Writes tests/golden/io: small files made by the PyPI packages `gguf` and `safetensors`, the oracles of src/io.

Needs numpy, gguf and safetensors. Run from anywhere; the output is deterministic.

  quants.gguf             random blocks of every quantised type (and F16, BF16), random metadata of every kind
  quants.safetensors      the same tensors dequantised to F32 by gguf.quants.dequantize
  dtypes.safetensors      every element type; "X.f32" is what tensor X decodes to
  sharded/                the same float tensors in two shards with an index
  llama.gguf, gemma3.gguf tiny models, converted from the weights in
  llama.safetensors, gemma3.safetensors (Hugging Face names, row order and norm convention)
"""

import json
import pathlib

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Q
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parent / "io"
rng = np.random.default_rng(20260101)

# Byte offsets of the FP16 scales in one block: random bits there could be NaN or infinite, which no encoder writes.
SCALES = {
    Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0],
    Q.Q2_K: [80, 82], Q.Q3_K: [108], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208],
}


def to_bf16(x):
    """Round to nearest even, as bits."""
    u = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def random_blocks(kind, rows, cols):
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows, cols // elements, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scale = (rng.standard_normal((rows, cols // elements)) * 0.02).astype(np.float16)
        scale[0, 0] = np.float16(3e-7)  # subnormal
        scale[-1, -1] = np.float16(-0.0)
        blocks[:, :, at : at + 2] = scale.view(np.uint8).reshape(rows, -1, 2)
    return blocks.reshape(rows, -1)


def quants():
    w = gguf.GGUFWriter(OUT / "quants.gguf", "test")
    w.add_uint8("t.u8", 200)
    w.add_int8("t.i8", -100)
    w.add_uint16("t.u16", 60000)
    w.add_int16("t.i16", -30000)
    w.add_uint32("t.u32", 4000000000)
    w.add_int32("t.i32", -2000000000)
    w.add_float32("t.f32", 0.1)
    w.add_bool("t.bool", True)
    w.add_string("t.string", "Grüße, 世界")
    w.add_array("t.strings", ["a", "", "ccc"])
    w.add_array("t.ints", [1, -2, 3])
    w.add_array("t.floats", [0.5, 1.5])
    w.add_array("t.nested", [[1, 2], [3], [4, 5, 6]])
    w.add_uint64("t.u64", 2**63 + 1)
    w.add_key_value("t.i64", -(2**62), gguf.GGUFValueType.INT64)
    w.add_float64("t.f64", 0.1)
    expected = {}
    for kind in SCALES:
        raw = random_blocks(kind, 3, 512)
        w.add_tensor(kind.name, raw, raw_dtype=kind)
        expected[kind.name] = gguf.quants.dequantize(raw, kind)
    half = (rng.standard_normal((2, 40)) * 3).astype(np.float16)
    w.add_tensor("F16", half)
    expected["F16"] = half.astype(np.float32)
    bits = to_bf16(rng.standard_normal((2, 40)) * 3)
    w.add_tensor("BF16", bits.view(np.uint8).reshape(2, -1), raw_dtype=Q.BF16)
    expected["BF16"] = from_bf16(bits)
    cube = rng.standard_normal((2, 3, 5)).astype(np.float32)
    w.add_tensor("cube", cube)
    expected["cube"] = cube
    finish(w)
    save_file(expected, OUT / "quants.safetensors")


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def save_with_bf16(tensors, path, metadata=None):
    """numpy has no bfloat16, so the file is laid out here: {name: (dtype name, array of the stored bits)}."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def dtypes():
    x = rng.standard_normal((3, 7)) * 10
    half = np.concatenate([x.astype(np.float16).ravel(), np.float16([0, -0.0, 6e-8, 65504, np.inf, -np.inf])])
    bits = to_bf16(x)
    tensors = {
        "odd": ("U8", np.arange(3, dtype=np.uint8)),  # so that what follows is unaligned
        "f64": ("F64", x), "f64.f32": ("F32", x.astype(np.float32)),
        "f32": ("F32", x.astype(np.float32)),
        "f16": ("F16", half), "f16.f32": ("F32", half.astype(np.float32)),
        "bf16": ("BF16", bits), "bf16.f32": ("F32", from_bf16(bits)),
        "i64": ("I64", np.int64([-(2**62), 5])), "i32": ("I32", np.int32([-7])), "i16": ("I16", np.int16([[-7, 8]])),
        "i8": ("I8", np.int8([-7])), "u64": ("U64", np.uint64([2**63])), "u32": ("U32", np.uint32([7])),
        "u16": ("U16", np.uint16([7])), "bool": ("BOOL", np.array([True, False])),
        "scalar": ("F32", np.float32(2.5).reshape(())), "empty": ("F32", np.zeros((0, 4), np.float32)),
    }  # fmt: skip
    save_with_bf16(tensors, OUT / "dtypes.safetensors", {"format": "pt", "note": 'quo"ted é'})
    (OUT / "sharded").mkdir(exist_ok=True)
    floats = {k: a for k, (d, a) in tensors.items() if d == "F32" and a.size > 1}
    names = sorted(floats)
    shards = {"model-00001-of-00002.safetensors": names[:2], "model-00002-of-00002.safetensors": names[2:]}
    for shard, members in shards.items():
        save_file({n: floats[n] for n in members}, OUT / "sharded" / shard)
    index = {"metadata": {"total_size": 0}, "weight_map": {n: s for s, members in shards.items() for n in members}}
    (OUT / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


HIDDEN, HEADS, KV, DIM, FFN, VOCAB = 16, 4, 2, 8, 24, 12  # DIM is not HIDDEN / HEADS on purpose


def state_dict(layers, gemma):
    def matrix(*shape):
        return (rng.standard_normal(shape) * 0.1).astype(np.float16)

    def norm(n):  # gemma's are stored around 0 and used as 1 + w
        return (rng.standard_normal(n) * 0.1 + (0 if gemma else 1)).astype(np.float32)

    sd = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN), "model.norm.weight": norm(HIDDEN)}
    for i in range(layers):
        p = f"model.layers.{i}."
        for name, rows in [("q", HEADS * DIM), ("k", KV * DIM), ("v", KV * DIM)]:
            sd[f"{p}self_attn.{name}_proj.weight"] = matrix(rows, HIDDEN)
        sd[p + "self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * DIM)
        for name in ["gate", "up"]:
            sd[f"{p}mlp.{name}_proj.weight"] = matrix(FFN, HIDDEN)
        sd[p + "mlp.down_proj.weight"] = matrix(HIDDEN, FFN)
        norms = ["input_layernorm", "post_attention_layernorm"]
        if gemma:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
            for name in ["q", "k"]:
                sd[f"{p}self_attn.{name}_norm.weight"] = norm(DIM)
        for name in norms:
            sd[p + name + ".weight"] = norm(HIDDEN)
    return sd


def interleave(weights, heads):
    """What llama.cpp's converter does to q and k rows: pair (i, i + dim / 2) becomes neighbours."""
    return weights.reshape(heads, 2, -1, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def tokens(w, special):
    w.add_tokenizer_model("gpt2")
    w.add_token_list(special + [chr(97 + i) for i in range(VOCAB - len(special))])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_pad_token_id(0)


def dimensions(w, layers):
    w.add_context_length(256)
    w.add_embedding_length(HIDDEN)
    w.add_block_count(layers)
    w.add_feed_forward_length(FFN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV)
    w.add_layer_norm_rms_eps(1e-5)


def llama():
    sd = state_dict(2, gemma=False)
    for i in range(2):  # biases too, permuted like the rows
        sd[f"model.layers.{i}.self_attn.q_proj.bias"] = rng.standard_normal(HEADS * DIM).astype(np.float32)
        sd[f"model.layers.{i}.self_attn.k_proj.bias"] = rng.standard_normal(KV * DIM).astype(np.float32)
    sd["lm_head.weight"] = (rng.standard_normal((VOCAB, HIDDEN)) * 0.1).astype(np.float16)
    save_file(sd, OUT / "llama.safetensors")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    w = gguf.GGUFWriter(OUT / "llama.gguf", "llama")
    dimensions(w, 2)
    w.add_rope_freq_base(500000.0)
    w.add_key_length(DIM)
    w.add_value_length(DIM)
    w.add_rope_dimension_count(DIM)
    w.add_float32("general.sampling.temp", 0.6)
    w.add_int32("general.sampling.top_k", 20)
    tokens(w, ["<unk>", "<s>", "</s>", "<eot>"])
    w.add_eot_token_id(3)
    w.add_chat_template("{{ messages[0]['content'] }}")
    for name, array in sd.items():
        if "q_proj" in name:
            array = interleave(array, HEADS)
        elif "k_proj" in name:
            array = interleave(array, KV)
        w.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), array)
    # Llama 3.2's scaling as the converter stores it: one divisor a frequency.
    factor, low, high, context = 32.0, 1.0, 4.0, 8192
    frequency = 500000.0 ** -(np.arange(0, DIM, 2) / DIM)
    turns = context * frequency / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    w.add_tensor("rope_freqs.weight", (1 / ((1 - smooth) / factor + smooth)).astype(np.float32))
    finish(w)


def gemma3():
    sd = state_dict(6, gemma=True)
    save_file(sd, OUT / "gemma3.safetensors")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, 6)
    w = gguf.GGUFWriter(OUT / "gemma3.gguf", "gemma3")
    dimensions(w, 6)
    w.add_key_length(DIM)
    w.add_value_length(DIM)
    w.add_rope_freq_base(1000000.0)
    w.add_sliding_window(16)
    w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    w.add_rope_scaling_factor(8.0)
    tokens(w, ["<pad>", "<bos>", "<eos>"])
    for name, array in sd.items():
        if "norm" in name:
            array = array + np.float32(1)
        w.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array)
    finish(w)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    quants()
    dtypes()
    llama()
    gemma3()
