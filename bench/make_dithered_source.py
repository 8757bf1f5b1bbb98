"""Makes a source that favours no quantiser from a GGUF file that is quantised already, by dithering.

    python bench/make_dithered_source.py MODEL-Q4_1.gguf DITHERED.gguf [--seed 1] [--check]

Small models are often published in quantised form only. Decoded, their weights lie on the quantiser's own grid: the same
type, asked to quantise them again, finds the grid and makes no error, and its relatives profit too. So each weight gets
noise, uniform over its own cell: half a step of its block to either side. The original weight lay somewhere in that
cell, so the noise stands for what the first quantiser took away, with the same size and the same distribution over
blocks. At the first and last code of a block the noise points inwards, for a block's scale was chosen so that these
codes meet its extremes. Vectors stay as they are. The result is another model, slightly worse than the original, but one whose
weights are on nobody's grid; it is stored as BF16 (a relative step of 2^-8, far below any step that is dithered).

--check asks whether an advantage is left: each quantiser that works in blocks of 32 encodes the dithered weights in the
first one's blocks, and once more shifted by 16 columns, which keeps the weights and loses the blocks. A ratio of the two errors
near 1 says that nothing is left. Needs numpy and gguf.
"""

import argparse
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

# Of each type's block: its bytes, and where the codes lie: (first byte, end, pattern of all codes 1, of the first code, of the last).
NIBBLES = (0x11, 0x00, 0xFF)
HIGH = (0x00, 0x00, 0xFF)
CODES = {
    Type.Q4_0: (18, [(2, 18, NIBBLES)]),
    Type.Q4_1: (20, [(4, 20, NIBBLES)]),
    Type.Q5_0: (22, [(2, 6, HIGH), (6, 22, NIBBLES)]),
    Type.Q5_1: (24, [(4, 8, HIGH), (8, 24, NIBBLES)]),
    Type.Q8_0: (34, [(2, 34, (0x01, 0x81, 0x7F))]),
    Type.Q4_K: (144, [(16, 144, NIBBLES)]),
    Type.Q5_K: (176, [(16, 48, HIGH), (48, 176, NIBBLES)]),
    Type.Q6_K: (210, [(0, 128, NIBBLES), (128, 192, HIGH)]),
}


def with_codes(blocks, spans, pattern):
    changed = blocks.copy()
    for first, end, values in spans:
        changed[:, first:end] = values[pattern]
    return changed


def dithered(data, kind, rng):
    """Decoded weights plus noise over each one's cell."""
    size, spans = CODES[kind]
    blocks = np.ascontiguousarray(data).view(np.uint8).reshape(-1, size)

    def decode(pattern=None):
        b = blocks if pattern is None else with_codes(blocks, spans, pattern)
        return gguf.dequantize(b, kind).astype(np.float32)

    weights, first, last = decode(), decode(1), decode(2)
    one = decode(0)
    zero = 0 if kind == Type.Q8_0 else first  # Q8_0's codes have a sign, and code 1 is one step from nothing
    step = np.abs(one - zero)
    noise = (rng.random(weights.shape, dtype=np.float32) - 0.5) * step
    low, high = np.minimum(first, last), np.maximum(first, last)
    noise = np.where(weights <= low, np.abs(noise), np.where(weights >= high, -np.abs(noise), noise))
    return weights + noise, float((noise.astype(np.float64) ** 2).sum() / (weights.astype(np.float64) ** 2).sum())


def copy_metadata(reader, writer):
    for field in reader.fields.values():
        if field.name in ("general.architecture", "general.file_type", "general.quantization_version"):
            continue
        if not field.name.startswith("GGUF."):
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub)


def relative_error(weights, kind):
    coded = gguf.dequantize(gguf.quantize(weights, kind), kind)
    return float(((coded - weights).astype(np.float64) ** 2).sum() / (weights.astype(np.float64) ** 2).sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    reader = gguf.GGUFReader(args.source)
    writer = gguf.GGUFWriter(args.target, reader.fields["general.architecture"].contents())
    copy_metadata(reader, writer)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    checks = {kind: [] for kind in (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0)}
    for index, tensor in enumerate(reader.tensors):
        shape = tuple(int(n) for n in reversed(tensor.shape))
        if len(shape) < 2:
            writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape))
            continue
        if tensor.tensor_type not in CODES:
            sys.exit(f"{tensor.name} is {tensor.tensor_type.name}: no cell width is known for this type; known: "
                     + ", ".join(k.name for k in CODES))
        weights, noise = dithered(tensor.data, tensor.tensor_type, np.random.default_rng([args.seed, index]))
        weights = weights.reshape(shape)
        print(f"{tensor.name}: {tensor.tensor_type.name}, noise {noise:.6f} of the power", file=sys.stderr)
        writer.add_tensor(tensor.name, gguf.quantize(weights, Type.BF16), raw_dtype=Type.BF16)
        if args.check and len(checks[Type.Q4_1]) < 60 and tensor.name.startswith("blk."):
            for kind, errors in checks.items():
                aligned, shifted = weights[:, 32:], weights[:, 16:-16]
                errors.append((relative_error(aligned, kind), relative_error(np.ascontiguousarray(shifted), kind)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if args.check:
        print("| type | relative error | shifted by 16 columns | ratio |\n|---|---|---|---|")
        for kind, errors in checks.items():
            aligned, shifted = np.mean(errors, axis=0)
            print(f"| {kind.name} | {aligned:.6f} | {shifted:.6f} | {aligned / shifted:.4f} |")


if __name__ == "__main__":
    main()
