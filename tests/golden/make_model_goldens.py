#!/usr/bin/env python3
"""Makes the tiny random models of tests/golden/models and their golden logits with transformers.

Needs torch and transformers >= 5.17 (made with the versions recorded in each golden.json):
    python3 tests/golden/make_model_goldens.py OUT_DIR [NAME ...]
Each OUT_DIR/NAME.tar holds config.json, model.safetensors (BF16) and golden.json. The logits are those of the saved
BF16 weights in float32 arithmetic, eager attention, no cache.
"""
import json
import pathlib
import sys
import tarfile

import torch
import transformers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, Gemma4TextConfig, LlamaConfig

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
COMMON = dict(vocab_size=320, hidden_size=128, intermediate_size=192, num_attention_heads=4, bos_token_id=2,
              eos_token_id=1, pad_token_id=0, max_position_embeddings=512)


def layers(pattern):
    return [{"s": "sliding_attention", "f": "full_attention"}[c] for c in pattern]


def gemma4(pattern, **kw):
    rope = {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25}}
    base = dict(COMMON, num_hidden_layers=len(pattern), layer_types=layers(pattern), head_dim=32, global_head_dim=64,
                num_key_value_heads=2, num_global_key_value_heads=1, attention_k_eq_v=True, sliding_window=16,
                final_logit_softcapping=30.0, hidden_size_per_layer_input=0, num_kv_shared_layers=0,
                enable_moe_block=False, use_double_wide_mlp=False, tie_word_embeddings=True, rms_norm_eps=1e-6,
                hidden_activation="gelu_pytorch_tanh", rope_parameters=rope, use_bidirectional_attention="vision")
    return Gemma4TextConfig(**dict(base, **kw))


def gemma3(pattern, **kw):
    base = dict(COMMON, num_hidden_layers=len(pattern), layer_types=layers(pattern), head_dim=32, num_key_value_heads=1,
                sliding_window=16, query_pre_attn_scalar=32, rms_norm_eps=1e-6, tie_word_embeddings=True,
                rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                                 "full_attention": {"rope_type": "default", "rope_theta": 1000000.0}})
    return Gemma3TextConfig(**dict(base, **kw))


def llama(n, **kw):
    base = dict(COMMON, num_hidden_layers=n, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
                rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    return LlamaConfig(**dict(base, **kw))


CASES = {
    "llama_tied": lambda: llama(3, hidden_size=96, num_attention_heads=3, num_key_value_heads=1),
    "llama_untied_bias": lambda: llama(3, tie_word_embeddings=False, attention_bias=True, mlp_bias=True, head_dim=64),
    "llama3_rope": lambda: llama(3, num_key_value_heads=4, rope_parameters={
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}),
    "llama_linear_rope": lambda: llama(2, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    "gemma3": lambda: gemma3("sssssf"),
    "gemma3_scaled": lambda: gemma3("sfsf", num_key_value_heads=2, query_pre_attn_scalar=48, rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0}}),
    "gemma4": lambda: gemma4("sssssf"),
    "gemma4_separate_v": lambda: gemma4("sfsf", attention_k_eq_v=False, final_logit_softcapping=None,
                                        num_key_value_heads=4),
    "gemma4_moe": lambda: gemma4("ssfsf", enable_moe_block=True, num_experts=8, top_k_experts=3, moe_intermediate_size=96),
    # As E2B and E4B: per-layer embeddings, no K = V, the last layers attend to the keys and values of earlier ones.
    "gemma4_e2b": lambda: gemma4("ssfsssfsf", attention_k_eq_v=False, hidden_size_per_layer_input=32,
                                 vocab_size_per_layer_input=320, num_kv_shared_layers=4, use_double_wide_mlp=True,
                                 num_key_value_heads=1, use_bidirectional_attention=None),
    "gemma4_untied": lambda: gemma4("ssf", tie_word_embeddings=False, global_head_dim=32, num_global_key_value_heads=2),
}


def randomise(model):
    g = torch.Generator().manual_seed(1234)
    for name, p in list(model.named_parameters()) + [(n, b) for n, b in model.named_buffers() if n.endswith("layer_scalar")]:
        r = torch.randn(p.shape, generator=g)
        if name.endswith("layer_scalar"):
            p.data = (0.9 + 0.1 * r).clamp(0.6, 1.2)
        elif name.endswith(("router.scale", "per_expert_scale")):
            p.data = 1.0 + 0.2 * r
        elif name.endswith("router.proj.weight"):  # logits of unit size, so that experts differ clearly
            p.data = 2.0 * r
        elif "norm" in name:
            gemma3_style = model.config.model_type.startswith("gemma3")  # its norms scale by 1 + weight
            p.data = 0.1 * r + (0.0 if gemma3_style else 1.0)
        elif p.dim() == 1:
            p.data = 0.1 * r
        else:
            p.data = r * (1.5 / p.shape[-1] ** 0.5)


def main(out, names):
    out.mkdir(parents=True, exist_ok=True)
    for name, make in CASES.items():
        if names and name not in names:
            continue
        torch.manual_seed(0)
        config = make()
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
        randomise(model)
        folder = out / name
        model.to(torch.bfloat16).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).cuda().eval()
        g = torch.Generator().manual_seed(7)
        golden = {"versions": {"transformers": transformers.__version__, "torch": torch.__version__}, "prompts": []}
        for length in (1, 11, 75):
            ids = [2] + torch.randint(3, 320, (length - 1,), generator=g).tolist()
            with torch.no_grad():
                logits = model(torch.tensor([ids]).cuda()).logits[0].double().cpu()
                seq, greedy, margin = list(ids), [], []
                for _ in range(16):
                    top = model(torch.tensor([seq]).cuda()).logits[0, -1].double().topk(2)
                    greedy.append(int(top.indices[0]))
                    margin.append(round(float(top.values[0] - top.values[1]), 5))
                    seq.append(greedy[-1])
            keep = list(range(max(0, length - 3), length))
            golden["prompts"].append({"ids": ids, "positions": keep, "greedy_ids": greedy, "greedy_margin": margin,
                                      "logits": [[round(float(v), 5) for v in logits[p]] for p in keep]})
        (folder / "golden.json").write_text(json.dumps(golden))
        generation = folder / "generation_config.json"
        if generation.exists():
            generation.unlink()
        with tarfile.open(out / f"{name}.tar", "w") as tar:
            for f in sorted(folder.iterdir()):
                tar.add(f, arcname=f"{name}/{f.name}")
        print(name, sorted(f.name for f in folder.iterdir()), sum(p.numel() for p in model.parameters()),
              "logit std %.3f" % logits.std(), "margins min %.4f" % min(golden["prompts"][-1]["greedy_margin"]), flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
