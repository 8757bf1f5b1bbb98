"""Tensors of a directory of safetensors for numpy, which has no BF16."""

import json
import pathlib

import numpy as np


class Weights:
    """Every tensor of a directory of safetensors, BF16 included, as float32."""

    def __init__(self, directory):
        self.at = {}
        for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
            with open(path, "rb") as f:
                size = int.from_bytes(f.read(8), "little")
                header = json.loads(f.read(size))
            header.pop("__metadata__", None)
            data = np.memmap(path, np.uint8, "r", 8 + size)
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                self.at[name] = (entry["dtype"], entry["shape"], data[begin:end])

    def raw(self, name):
        dtype, shape, data = self.at[name]
        kinds = {"U8": np.uint8, "F16": np.float16, "F32": np.float32, "I64": np.int64, "I32": np.int32, "I8": np.int8, "BF16": np.uint16}
        return np.frombuffer(data.tobytes(), kinds[dtype]).reshape(shape)

    def floats(self, name):
        values = self.raw(name)
        if self.at[name][0] == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)
