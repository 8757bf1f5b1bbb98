#!/usr/bin/env python3
"""Writes tests/golden/tokenizer with the PyPI package `tokenizers` (the oracle of src/text's tokenizer).

  lines.bin.xz     generated lines (tokenizer_lines.py): byte count, newline, bytes; some are not valid UTF-8
  NAME.ids.xz      per line: FNV-1a-64 of the decoded text (all tokens kept), then the ids, with special tokens parsed and added
  small.json       one small vocabulary, many pipelines (as JSON merge patches), and what each makes of some texts

Needs: pip install tokenizers. Run from anywhere; the output is deterministic for a version of `tokenizers`.
"""
import json
import lzma
import pathlib
import random
import tarfile
import tempfile

import tokenizer_lines
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
ASSETS = HERE.parents[1] / "assets"
OUT = HERE / "tokenizer"
LINES = 2400
MAX_BYTES = 160


def wiki_lines():
    with tarfile.open(ASSETS / "wikitext2-test.tar.xz") as tar:
        member = next(m for m in tar.getmembers() if m.name.endswith(".raw"))
        return [x for x in tar.extractfile(member).read().decode().split("\n") if x.strip()]


def nano_tokenizer():
    with tarfile.open(ASSETS / "gemma4-nano.tar.xz") as tar:
        member = next(m for m in tar.getmembers() if m.name.endswith("/tokenizer.json"))
        return tar.extractfile(member).read()


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = (h ^ b) * 0x100000001B3 & (1 << 64) - 1
    return h


def write_xz(path, data):
    path.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def write_ids(name, text, records):
    with tempfile.TemporaryDirectory() as scratch:
        file = pathlib.Path(scratch) / "tokenizer.json"
        file.write_bytes(text)
        reference = Tokenizer.from_file(str(file))
    rows = []
    for r in records:
        ids = reference.encode(r.decode("utf-8", "replace")).ids
        decoded = reference.decode(ids, skip_special_tokens=False)
        rows.append(" ".join(["%x" % fnv(decoded.encode())] + [str(i) for i in ids]))
    write_xz(OUT / f"{name}.ids.xz", ("\n".join(rows) + "\n").encode())


def small_base():
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    pieces += [chr(c) for c in range(0x21, 0x7F)] + ["\u2581", "é", "Ġ", "Ċ", "日"]
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("\u2581", "hello"), ("\u2581", "w"), ("o", "r"), ("\u2581w", "or"),
              ("Ġ", "w"), ("Ġ", "Ġ"), ("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc"), ("1", "2"), ("\u2581", "\u2581"), ("'", "s"), ("<", "s")]
    for a, b in merges:
        if a + b not in pieces:
            pieces.append(a + b)
    added = [{"id": i, "content": p, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, p in enumerate(["<unk>", "<s>", "</s>"])]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": None,
            "post_processor": None, "decoder": None,
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": {p: i for i, p in enumerate(pieces)},
                      "merges": [list(m) for m in merges]}}


def small_patches(base):
    space = "\u2581"
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": space}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    llama = {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": space}, replace]},
             "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": space}, "content": " "}, {"type": "ByteFallback"},
                                                          {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}}
    bos = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                                    {"SpecialToken": {"id": "</s>", "type_id": 0}}],
           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}}
    n = len(base["model"]["vocab"])

    def added(**flags):
        def token(i, content, special, **kw):
            return {"id": n + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                    "special": special, **kw}
        known = {**token(0, "he", False, **flags), "id": base["model"]["vocab"]["he"]}
        return base["added_tokens"] + [known, token(0, "<x>", True, **flags), token(1, "hello w", False, **flags),
                                       token(2, "<x><y>", False, **flags), token(3, "É", False, **flags)]

    def split(pattern, behavior, invert=False):
        return {"pre_tokenizer": {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}}

    def decoders(*parts):
        return {"decoder": {"type": "Sequence", "decoders": list(parts)}}

    patches = {
        "plain": {}, "llama": llama, "bos": {**llama, "post_processor": {"type": "Sequence", "processors": [byte_level, bos]}},
        "unk": {"model": {"byte_fallback": False}}, "unk not fused": {"model": {"byte_fallback": False, "fuse_unk": False}},
        "no unk": {"model": {"byte_fallback": False, "unk_token": None}}, "ignore_merges": {"model": {"ignore_merges": True}},
        "byte level": {"pre_tokenizer": byte_level, "decoder": byte_level},
        "byte level prefix": {"pre_tokenizer": {**byte_level, "add_prefix_space": True}, "decoder": byte_level},
        "digits": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]}, "decoder": byte_level},
        "digit runs": {"pre_tokenizer": {"type": "Digits", "individual_digits": False}},
        "whitespace": {"pre_tokenizer": {"type": "Whitespace"}}, "whitespace split": {"pre_tokenizer": {"type": "WhitespaceSplit"}},
        "punctuation": {"pre_tokenizer": {"type": "Punctuation", "behavior": "Contiguous"}},
        "lower": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "Lowercase"}]}},
        "strip": {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": False}},
        "replace regex": {"normalizer": {"type": "Replace", "pattern": {"Regex": "\\s+|l{2}"}, "content": "$1"}},
        "replace removes": {"normalizer": {"type": "Replace", "pattern": {"Regex": "[a-h]"}, "content": ""}},
        "empty matches": split({"Regex": "x*"}, "Isolated"), "multiline": split({"Regex": "^.|.$"}, "Isolated"),
        "word class": split({"Regex": "\\w+|[[:punct:]]+|\\h"}, "Removed", True), "dotall": split({"Regex": "(?m:h.)"}, "Isolated"),
        "decode strip": decoders({"type": "Strip", "content": "l", "start": 0, "stop": 1}),
        "decode fused strip": decoders({"type": "Fuse"}, {"type": "Strip", "content": "<", "start": 2, "stop": 0}),
        "decode regex": decoders({"type": "Replace", "pattern": {"Regex": "[lo]+"}, "content": "_"}, {"type": "ByteFallback"}),
        "decode fused replace": decoders({"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "lo"}, "content": "-"}),
    }
    for scheme in ("always", "first", "never"):
        meta = {"type": "Metaspace", "replacement": space, "prepend_scheme": scheme, "split": scheme != "first"}
        patches["metaspace " + scheme] = {"pre_tokenizer": meta, "decoder": meta}
    for behavior in ("Removed", "Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext"):
        for invert in (False, True):
            patches[f"split {behavior} {invert}"] = split({"Regex": "[ lo]"}, behavior, invert)
        patches[f"split string {behavior}"] = split({"String": "l"}, behavior)
    for flags in ({}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True}, {"normalized": True}):
        name = "added " + " ".join(flags)
        patches[name] = {**llama, "added_tokens": added(**flags)}
        patches[name + " lower"] = {"normalizer": {"type": "Lowercase"}, "added_tokens": added(**flags)}
    return patches


def small_texts():
    rng = random.Random(7)
    texts = ["", " ", "hello world", "  hello  world  ", "hello\nworld\n\n", "abc abcabc", "12 123 1234a5", "it's <s>hello</s> <x> he", "<x><y> <x>he<x> hello w hello wx",
             "日本 é e\u0301 É ﬁ", "a<x>b <x> c\t<x>\n", "😀😀 \u2581\u2581he", "<unk>", "<0x41><0x+F>", "\u0000\u0001", "xx x", "he-he he_he HE Hello W", "lllo<<lol<", "¼½²³ ٣"]
    atoms = ["hello", " ", "  ", "w", "or", "abc", "<x>", "<s>", "he", "12", "é", "É", "日", "\n", "!", "😀", "l", "<", "\u2581", "'s", "\u00a0", "_"]
    texts += ["".join(rng.choice(atoms) for _ in range(rng.randint(1, 9))) for _ in range(40)]
    return texts


def write_small():
    base, texts = small_base(), small_texts()
    out = {"base": base, "texts": texts, "pipelines": []}
    for name, patch in small_patches(base).items():
        doc = json.loads(json.dumps(base))
        for key, value in patch.items():
            if key == "model":
                doc["model"].update(value)
            else:
                doc[key] = value
        t = Tokenizer.from_str(json.dumps(doc))
        results = []
        for text in texts:
            ids = t.encode(text).ids
            # tokenizers 0.23 decodes an added token with "normalized" to its normalised spelling, and then does not know it for
            # special any more; we keep its content, so there is nothing to compare.
            decoded = [None, None] if "normalized" in name else [t.decode(ids, skip_special_tokens=skip) for skip in (False, True)]
            results.append([ids, *decoded])
        out["pipelines"].append({"name": name, "patch": patch, "results": results})
    (OUT / "small.json").write_text(json.dumps(out, ensure_ascii=True, separators=(",", ":")) + "\n")


def main():
    OUT.mkdir(exist_ok=True)
    wiki = wiki_lines()
    records = [r[:MAX_BYTES] for r in tokenizer_lines.lines(20261123, LINES, wiki)]
    write_xz(OUT / "lines.bin.xz", b"".join(b"%d\n" % len(r) + r for r in records))
    for name in ("gemma3", "qwen3", "llama3"):
        write_ids(name, lzma.open(ASSETS / "tokenizers" / name / "tokenizer.json.xz").read(), records)
    write_ids("gemma4-nano", nano_tokenizer(), records)
    write_small()


if __name__ == "__main__":
    main()
