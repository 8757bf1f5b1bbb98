"""llama.cpp's K-quants of a model, made by llama.cpp's own quantiser, for bench/quality_frontier.py.

    python bench/quality_gguf.py SOURCE -o DIR [--types Q3_K_M,...] [--fold] [--imatrix STATS/model.safetensors] [--threads N]

SOURCE is an unquantised .gguf file, or a directory of safetensors whose architecture llama.cpp's converter need not know.
Plainly, a .gguf is quantised as llama-quantize does it: DIR/TYPE.gguf. K-quants have blocks of 256 along a row, and llama.cpp
takes a larger, simpler type for a width that 256 does not divide; small models have such widths, so that their "Q4_K_M" is
hardly K-quants at all. With --fold, k rows lie behind each other as one (2 rows of 640 as 1280, 4 of 576 as 2304), which llama.cpp
quantises as it does a large model's; sub-blocks of 32 and 16 still end where rows end. Such files only carry matrices, under
architecture llama and llama.cpp's tensor names, so its recipe (which tensor gets which type) and its encoders do all the work. They come back
decoded: DIR/TYPE-folded.gguf of F16, or, for a directory (which is carried so with --fold and without), DIR/TYPE[-folded]/ of F32 safetensors;
TYPE...json beside it has the true size and bits per weight.

With --imatrix the names end in -imatrix. The importance matrix holds mean squared inputs per column, from the program
column_statistics (built with -DHLWQ_BENCH=ON); it goes to llama.cpp through llama_model_quantize_params.imatrix. As
llama-imatrix does, it covers the linears of the layers, not the output head. What exists is kept. Needs numpy, gguf and llama-cpp-python.
"""

import argparse
import ctypes
import json
import math
import pathlib
import re
import shutil
import struct
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np

TYPES = {"Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18,
         "Q8_0": 7}
PARTS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    """llama.cpp's name of a weight that it quantises; None for others."""
    if name.endswith("embed_tokens.weight"):
        return "token_embd.weight"
    if name == "lm_head.weight" or name.endswith(".lm_head.weight"):
        return "output.weight"
    found = re.fullmatch(r"(?:.*\.)?layers\.(\d+)\.(.+)\.weight", name)
    if found and found[2] in PARTS and "vision" not in name and "audio" not in name:
        return f"blk.{found[1]}.{PARTS[found[2]]}.weight"
    return None


def read_safetensors(path):
    """name -> (dtype, shape, bytes) of a file."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            yield name, entry["dtype"], entry["shape"], data[8 + size + begin : 8 + size + end]


def to_float(dtype, shape, data):
    if dtype == "BF16":
        bits = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    return np.frombuffer(data, {"F32": np.float32, "F16": np.float16}[dtype]).astype(np.float32).reshape(shape)


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            out.write(data)


def folding(cols):
    """Rows to lay behind each other so that 256 divides them."""
    return 256 // math.gcd(cols, 256)


class Carried:
    """A model whose matrices travel to llama.cpp and back: arrays by llama.cpp's names, and how to write the result."""

    def __init__(self, fold):
        self.fold = fold

    def carrier_shape(self, array):
        k = folding(array.shape[1]) if self.fold else 1
        if array.shape[0] % k:
            sys.exit(f"{array.shape[0]} rows cannot be folded by {k}")
        return array.reshape(array.shape[0] // k, -1)

    def write_gguf(self, target):
        c = self.facts
        writer = gguf.GGUFWriter(target, "llama")
        writer.add_block_count(c["layers"])
        writer.add_context_length(512)
        writer.add_embedding_length(c["hidden"])
        writer.add_feed_forward_length(c["inner"])
        writer.add_head_count(c["heads"])
        writer.add_head_count_kv(c["kv_heads"])
        writer.add_layer_norm_rms_eps(1e-6)
        names = set()
        for name, array in self.matrices():
            names.add(name)
            writer.add_tensor(name, self.carrier_shape(array))
            # A layer whose values are its keys has no v_proj, but the recipe counts one a layer.
            if name.endswith("attn_k.weight") and not self.has(name.replace("attn_k", "attn_v")):
                writer.add_tensor(name.replace("attn_k", "attn_v"), self.carrier_shape(array))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def folded_imatrix(self, imatrix):
        return {n: np.tile(v, folding(v.size) if self.fold else 1) for n, v in imatrix.items()} if imatrix else None


class Directory(Carried):
    """Safetensors."""

    def __init__(self, path, fold):
        super().__init__(fold)
        self.path = path
        self.tensors = {}
        for file in sorted(path.glob("*.safetensors")):
            self.tensors |= {name: (dtype, shape, data) for name, dtype, shape, data in read_safetensors(file)}
        config = json.loads((path / "config.json").read_text())
        c = config.get("text_config", config)
        self.facts = {"layers": c["num_hidden_layers"], "hidden": c["hidden_size"], "inner": c["intermediate_size"],
                      "heads": c["num_attention_heads"], "kv_heads": c["num_key_value_heads"]}
        self.names = {gguf_name(n): n for n in self.tensors if gguf_name(n)}

    def has(self, name):
        return name in self.names

    def matrices(self):
        for carrier, name in self.names.items():
            yield carrier, to_float(*self.tensors[name])

    def write_decoded(self, coded, target):
        """The model with its matrices as `coded`, a GGUF file, has them; returns size and bits per weight."""
        read = {t.name: t for t in gguf.GGUFReader(coded).tensors}
        out, weights, matrix_bytes, total, kinds = {}, 0, 0, 0, {}
        for name, (dtype, shape, data) in self.tensors.items():
            if re.search(r"vision|audio", name):
                continue
            carrier = read.get(gguf_name(name))
            if carrier is None:
                out[name] = (dtype, shape, data)
                size = len(data)
            else:
                values = gguf.dequantize(carrier.data, carrier.tensor_type).astype(np.float32).reshape(shape)
                out[name] = ("F32", shape, values.tobytes())
                size = int(carrier.n_bytes)
                kinds[carrier.tensor_type.name] = kinds.get(carrier.tensor_type.name, 0) + int(carrier.n_elements)
            total += size
            if len(shape) >= 2:
                weights += int(np.prod(shape))
                matrix_bytes += size
        target.mkdir()
        write_safetensors(target / "model.safetensors", out)
        for file in self.path.iterdir():
            if file.is_file() and file.suffix != ".safetensors" and file.name != "model.safetensors.index.json":
                shutil.copyfile(file, target / file.name)
        return {"weight_bytes": total, "bits_per_weight": 8 * matrix_bytes / weights, "types": kinds}


class File(Carried):
    """A .gguf file, to be folded."""

    def __init__(self, path):
        super().__init__(True)
        self.reader = gguf.GGUFReader(path)
        self.tensors = {t.name: t for t in self.reader.tensors}

        def field(name):
            return self.reader.fields[self.reader.fields["general.architecture"].contents() + "." + name].contents()

        self.facts = {"layers": field("block_count"), "hidden": field("embedding_length"), "inner": field("feed_forward_length"),
                      "heads": field("attention.head_count"), "kv_heads": field("attention.head_count_kv")}

    def has(self, name):
        return name in self.tensors

    @staticmethod
    def array(tensor):
        shape = tuple(int(n) for n in reversed(tensor.shape))
        return gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)

    def matrices(self):
        for name, tensor in self.tensors.items():
            if len(tensor.shape) == 2:
                yield name, self.array(tensor)

    def write_decoded(self, coded, target):
        read = {t.name: t for t in gguf.GGUFReader(coded).tensors}
        writer = gguf.GGUFWriter(target, self.reader.fields["general.architecture"].contents())
        for field in self.reader.fields.values():
            if field.name not in ("general.architecture", "general.file_type") and not field.name.startswith("GGUF."):
                sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), field.types[0], sub)
        weights, matrix_bytes, total, kinds = 0, 0, 0, {}
        for name, tensor in self.tensors.items():
            if len(tensor.shape) < 2:
                writer.add_tensor(name, self.array(tensor))
                total += int(tensor.n_bytes)
                continue
            carrier = read[name]
            shape = tuple(int(n) for n in reversed(tensor.shape))
            values = gguf.dequantize(carrier.data, carrier.tensor_type).reshape(shape)
            writer.add_tensor(name, values.astype(np.float16))
            weights += values.size
            matrix_bytes += int(carrier.n_bytes)
            kinds[carrier.tensor_type.name] = kinds.get(carrier.tensor_type.name, 0) + values.size
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return {"weight_bytes": total + matrix_bytes, "bits_per_weight": 8 * matrix_bytes / weights, "types": kinds}


def read_imatrix(path):
    """llama.cpp's names -> means per column."""
    found = {}
    for name, dtype, shape, data in read_safetensors(pathlib.Path(path)):
        carrier = gguf_name(name)
        if carrier and carrier.startswith("blk."):
            found[carrier] = np.ascontiguousarray(to_float(dtype, shape, data))
    if not found:
        sys.exit(f"{path} has no statistics of linears")
    return found


def quantise(source, target, kind, imatrix, threads):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = TYPES[kind]
    params.nthread = threads
    keep = []  # what the C side points to
    if imatrix:
        entry = llama_cpp.llama_cpp.llama_model_imatrix_data
        entries = (entry * (len(imatrix) + 1))()  # ends with a null name
        for slot, (name, means) in zip(entries, imatrix.items()):
            values = means.astype(np.float32)
            keep.append((name.encode(), values))
            slot.name = keep[-1][0]
            slot.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            slot.size = values.size
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(entry))
        keep.append(entries)
    partial = str(target) + ".partial"
    if llama_cpp.llama_model_quantize(str(source).encode(), partial.encode(), ctypes.byref(params)) != 0:
        sys.exit(f"llama.cpp could not make {kind} of {source}")
    pathlib.Path(partial).rename(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    parser.add_argument("--types", default="Q3_K_M,Q4_K_M,Q5_K_M,Q6_K")
    parser.add_argument("--fold", action="store_true")
    parser.add_argument("--imatrix")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    imatrix = read_imatrix(args.imatrix) if args.imatrix else None
    suffix = ("-folded" if args.fold else "") + ("-imatrix" if imatrix else "")
    ending = "" if args.source.is_dir() else ".gguf"
    targets = {kind: args.output / (kind + suffix + ending) for kind in args.types.split(",")}
    targets = {kind: target for kind, target in targets.items() if not target.exists()}
    if not targets:
        return
    with tempfile.TemporaryDirectory(dir=args.output) as folder:
        source, carried = args.source, None
        if args.source.is_dir() or args.fold:
            carried = Directory(args.source, args.fold) if args.source.is_dir() else File(args.source)
            source = pathlib.Path(folder) / "source.gguf"
            carried.write_gguf(source)
            imatrix = carried.folded_imatrix(imatrix)
        for kind, target in targets.items():
            if not carried:
                quantise(source, target, kind, imatrix, args.threads)
            else:
                coded, partial = pathlib.Path(folder) / "coded.gguf", pathlib.Path(folder) / ("decoded" + ending)
                quantise(source, coded, kind, imatrix, args.threads)
                facts = carried.write_decoded(coded, partial)
                (args.output / (kind + suffix + ".json")).write_text(json.dumps(facts, indent=1))
                partial.rename(target)
            print(target, file=sys.stderr)


if __name__ == "__main__":
    main()
