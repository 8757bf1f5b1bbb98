"""What PyTorch takes for one token's linears of a config's decoder, in BF16 and in its INT4 (groups of 128): the peers of gpu_linear_bench.

    python bench/gpu/peers.py CONFIG.json

JSON lines: each matrix's median microseconds and GB/s of weights and scales, then the sum over all layers. Every run takes the next of
several copies of a matrix, more than any cache holds. Needs torch and a GPU.
"""

import json
import sys

import torch


def median_us(run, copies):
    for i in range(copies):
        run(i)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(copies):
            run(i)
    times = []
    for _ in range(9):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record(), graph.replay(), end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / copies)
    return sorted(times)[len(times) // 2]


def linear_shapes(config):
    """(name, rows, columns, layers) of a Gemma 4 decoder's linears, those of one input together."""
    t = config.get("text_config", config)
    full = sum(kind == "full_attention" for kind in t["layer_types"])
    sliding, hidden, heads = len(t["layer_types"]) - full, t["hidden_size"], t["num_attention_heads"]
    small, large = t["head_dim"], t["global_head_dim"]
    return [
        ("qkv, sliding", (heads + 2 * t["num_key_value_heads"]) * small, hidden, sliding),
        ("qk, full", (heads + t["num_global_key_value_heads"]) * large, hidden, full),
        ("o, sliding", hidden, heads * small, sliding),
        ("o, full", hidden, heads * large, full),
        ("gate+up", 2 * t["intermediate_size"], hidden, sliding + full),
        ("down", hidden, t["intermediate_size"], sliding + full),
    ]


def main():
    config = json.load(open(sys.argv[1]))
    total = {"bf16": 0.0, "int4": 0.0}
    for name, rows, cols, layers in linear_shapes(config):
        x = torch.randn(1, cols, device="cuda", dtype=torch.bfloat16)
        for kind in total:
            size = rows * cols * 2 if kind == "bf16" else rows * cols // 2 + rows * (cols // 128) * 4
            copies = 200_000_000 // size + 2
            if kind == "bf16":
                weights = [torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
                us = median_us(lambda i: torch.nn.functional.linear(x, weights[i]), copies)
            else:
                weights = [
                    torch.ops.aten._convert_weight_to_int4pack(torch.randint(0, 255, (rows, cols // 2), device="cuda", dtype=torch.uint8), 8)
                    for _ in range(copies)
                ]
                scales = torch.randn(cols // 128, rows, 2, device="cuda", dtype=torch.bfloat16)
                us = median_us(lambda i: torch.ops.aten._weight_int4pack_mm(x, weights[i], 128, scales), copies)
            total[kind] += us * layers
            print(json.dumps({"peer": f"torch {torch.__version__} {kind}", "matrix": name, "us": round(us, 1), "gb_s": round(size / us / 1e3)}))
            del weights
    for kind, us in total.items():
        print(json.dumps({"peer": f"torch {kind}", "all_linears_ms": round(us / 1000, 3)}))


if __name__ == "__main__":
    main()
