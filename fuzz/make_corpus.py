"""Writes the seed inputs under fuzz/corpus: the smallest files that reach every branch of each parser.

Needs numpy, gguf and pillow (PyPI). Deterministic.
"""

import io
import json
import pathlib
import struct

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Q

OUT = pathlib.Path(__file__).parent / "corpus"


def images():
    """One small file of every kind that decode_image reads."""
    from PIL import Image

    rgb = Image.radial_gradient("L").resize((23, 17)).convert("RGB")
    rgb.paste((200, 30, 60), (3, 3, 12, 9))
    alpha = rgb.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, image, kind, options in [
        ("baseline.jpg", rgb, "JPEG", {"exif": exif}), ("progressive.jpg", rgb, "JPEG", {"progressive": True}),
        ("grey.jpg", rgb.convert("L"), "JPEG", {}), ("cmyk.jpg", rgb.convert("CMYK"), "JPEG", {}),
        ("rgb.png", rgb, "PNG", {"exif": exif}), ("palette.png", rgb.quantize(9), "PNG", {"transparency": b"abc"}),
        ("alpha.png", alpha, "PNG", {}), ("grey_alpha.png", alpha.convert("LA"), "PNG", {}),
        ("lossy.webp", alpha, "WEBP", {"exif": exif}), ("lossless.webp", rgb, "WEBP", {"lossless": True}),
        ("animated.webp", rgb, "WEBP", {"save_all": True, "append_images": [alpha], "duration": 9}),
    ]:  # fmt: skip
        out = io.BytesIO()
        image.save(out, kind, **options)
        put("image", name.replace(".", "_"), out.getvalue())


def put(target, name, data):
    (OUT / target).mkdir(parents=True, exist_ok=True)
    (OUT / target / name).write_bytes(data)


def safetensors(tensors, metadata=None):
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def gguf_file(architecture, fill):
    path = OUT / "seed.tmp"
    w = gguf.GGUFWriter(path, architecture)
    fill(w)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    data = path.read_bytes()
    path.unlink()
    return data


def every_type(w):
    w.add_array("nested", [[1, 2], [3]])
    w.add_array("strings", ["a", "bc"])
    w.add_bool("flag", True)
    w.add_float32("real", 0.5)
    for kind in [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.BF16]:
        w.add_tensor(kind.name, np.full((1, GGML_QUANT_SIZES[kind][1]), 60, np.uint8), raw_dtype=kind)
    for dtype in [np.float32, np.float16, np.float64, np.int8, np.int64]:
        w.add_tensor(np.dtype(dtype).name, np.ones((1, 2), dtype))


def model(architecture):
    def fill(w):
        w.add_context_length(8)
        w.add_embedding_length(4)
        w.add_block_count(1)
        w.add_feed_forward_length(4)
        w.add_head_count(2)
        w.add_head_count_kv(1)
        w.add_key_length(2)
        w.add_layer_norm_rms_eps(1e-5)
        w.add_sliding_window(4)
        w.add_token_list(["a", "b"])
        w.add_bos_token_id(0)
        w.add_eos_token_id(1)
        w.add_chat_template("{{ x }}")
        w.add_float32("general.sampling.temp", 0.5)
        square = np.ones((4, 4), np.float32)
        w.add_tensor("token_embd.weight", square[:2])
        w.add_tensor("output_norm.weight", square[0])
        w.add_tensor("blk.0.attn_q.weight", square)
        w.add_tensor("blk.0.attn_k.weight", square[:2])
        w.add_tensor("blk.0.attn_norm.weight", square[0])
        w.add_tensor("blk.0.ffn_norm.weight", square[0])
        w.add_tensor("output.weight", square[:2])
        if architecture == "llama":
            w.add_tensor("blk.0.attn_q.bias", square[0])
            w.add_tensor("rope_freqs.weight", square[0, :1])
        else:
            w.add_tensor("blk.0.attn_q_norm.weight", square[0, :2])
            w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            w.add_rope_scaling_factor(8.0)

    return gguf_file(architecture, fill)


def image(files):
    """A model directory for fuzz_checkpoint: file numbers are positions in its kNames."""
    return b"".join(struct.pack("<BI", number, len(data)) + data for number, data in files.items())


def main():
    OUT.mkdir(exist_ok=True)
    f32 = ("F32", [2], struct.pack("<2f", 1, 2))
    one = safetensors({"w": f32})
    put("safetensors", "empty", safetensors({}))
    put("safetensors", "one", one)
    put("safetensors", "types", safetensors(
        {"a": ("F64", [1], bytes(8)), "b": ("F16", [1, 2], bytes(4)), "c": ("BF16", [], bytes(2)), "d": ("I64", [1], bytes(8)),
         "e": ("BOOL", [3], bytes(3)), "f": ("U8", [0, 2], b""), "g": f32}, {"format": "pt"}))  # fmt: skip
    put("gguf", "types", gguf_file("other", every_type))
    put("gguf", "llama", model("llama"))
    put("gguf", "gemma3", model("gemma3"))

    config = json.dumps({"model_type": "llama", "hidden_size": 2}).encode()
    index = json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}).encode()
    put("checkpoint", "single", image({0: config, 1: one, 5: b'{"top_k":1}', 6: b'{"chat_template":"x"}'}))
    put("checkpoint", "sharded", image({0: config, 2: index, 3: one, 4: safetensors({"v": f32}), 8: b"{{ x }}"}))
    # hlwq_native and hlwq_published are images of `hlwq quantize`'s output for a [2, 32] embedding, in both layouts.
    put("checkpoint", "gguf", image({10: model("llama")}))
    put("checkpoint", "templates", image(
        {0: config, 6: b'{"chat_template":[{"name":"default","template":"x"}]}', 9: b'{"chat_template":"y"}', 7: b"{}"}))  # fmt: skip

    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False, "fuse_unk": False,
           "vocab": {"h": 0, "e": 1, "l": 2, "o": 3, "he": 4, "ll": 5, "Ġ": 6, "hell": 7}, "merges": ["h e", "l l", "he ll"]}  # fmt: skip
    tokenizer = {"version": "1.0", "added_tokens": [{"id": 8, "content": "<s>", **special}], "normalizer": None,
                 "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level, "model": bpe}  # fmt: skip
    put("tokenizer", "byte_level", json.dumps(tokenizer, ensure_ascii=False).encode() + b"\0hello <s> hell")
    fallback = dict(bpe, byte_fallback=True, unk_token="<unk>", fuse_unk=True,
                    vocab={"<unk>": 0, "▁": 1, "a": 2, "b": 3, "ab": 4, "<0xC3>": 5, "<0xA9>": 6}, merges=[["a", "b"]])  # fmt: skip
    sentencepiece = dict(tokenizer, model=fallback, pre_tokenizer=None,
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        decoder={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                 {"type": "ByteFallback"}, {"type": "Fuse"}]})  # fmt: skip
    put("tokenizer", "byte_fallback", json.dumps(sentencepiece, ensure_ascii=False).encode() + "\0ab é 世".encode())

    templates = {
        "loop": "{{ bos_token }}{% for m in messages %}{% if loop.first and m.role == 'system' %}{% continue %}{% endif %}"
                "<|{{ m['role'] }}|>{{ m.content | trim if m.content is string else m.content | tojson }}{% endfor %}",
        "macro": "{%- macro f(x, y=1) -%}{{ x ~ y }}{%- endmacro -%}{% set ns = namespace(i=0) %}{% for t in tools or [] %}"
                 "{% set ns.i = ns.i + 1 %}{{ f(t.function.name, ns.i) }}{{ t | tojson(indent=2) }}{% endfor %}",
        "filters": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages[1:][::-1] | map(attribute='role')"
                   " | join(', ') }}{% if add_generation_prompt %}{{ raise_exception('no') }}{% endif %}",
    }  # fmt: skip
    for name, text in templates.items():
        put("template", name, text.encode())
    images()

    # Format and kind of marker, then text; 0x80 to 0x84 are markers, 0xFF is a cut (see fuzz_output.cpp).
    gemma = (b"\x80thought\nlet me\n\x81Sure.\n\x82call:f{a:\x84x}\xff{y\x84,b:[1,-2.5e3,{c:null,d:{}}],e:word}\x83"
             b"\x82call:g{\"k\": \"v\", l: [true,\x84\x84]}\x83\x82call:h{")  # fmt: skip
    hermes = b"\x80\nhm\n\x81\n\nSo <tool\xff_call\n\x82\n{\"name\": \"f\", \"arguments\": {\"a\": [1]}}\n\x83\n\x82{"
    for choice in range(4):
        put("output", ("gemma4" if choice < 2 else "hermes") + ("_tokens" if choice % 2 else "_spelt"),
            bytes([choice]) + (gemma if choice < 2 else hermes))  # fmt: skip
    put("output", "llama3", b'\x05\n {"name": "f", "par\xffameters": {"a": 1}}')


if __name__ == "__main__":
    main()
