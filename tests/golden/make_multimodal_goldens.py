#!/usr/bin/env python3
"""Makes tiny random Gemma 4 models with a vision tower and golden logits of prompts with images, with transformers.

Needs torch and transformers >= 5.17 (made with the versions recorded in each golden.json):
    python3 tests/golden/make_multimodal_goldens.py OUT_DIR
Each OUT_DIR/NAME.tar holds config.json, model.safetensors (BF16), golden.json (as make_model_goldens.py, and per
prompt images: [{begin, count, grid: [columns, rows]}]) and golden.safetensors: PROMPT.image_K.pixels_u8
[patches, 768] and PROMPT.image_K.soft_tokens [count, hidden]. Float32 arithmetic on the saved BF16 weights.
"""
import json
import pathlib
import sys
import tarfile

import torch
import transformers
from safetensors.torch import save_file
from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4VisionConfig

from make_model_goldens import gemma4, randomise

IMAGE, BEGIN, END = 300, 301, 302


def vision(**kw):
    base = dict(hidden_size=96, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
                head_dim=24, position_embedding_size=64, pooling_kernel_size=3, patch_size=16, standardize=True,
                use_clipped_linears=False, rope_parameters={"rope_type": "axial", "rope_theta": 100.0})
    return Gemma4VisionConfig(**dict(base, **kw))


CASES = {
    "gemma4_mm_dense": lambda: (gemma4("ssssf"), vision()),
    "gemma4_mm_moe": lambda: (gemma4("sfsf", enable_moe_block=True, num_experts=6, top_k_experts=2,
                                     moe_intermediate_size=64), vision(head_dim=16, hidden_size=64)),
    "gemma4_mm_e2b": lambda: (gemma4("ssfssfsf", attention_k_eq_v=False, hidden_size_per_layer_input=32,
                                     vocab_size_per_layer_input=320, num_kv_shared_layers=3, use_double_wide_mlp=True,
                                     num_key_value_heads=1, use_bidirectional_attention=None),
                              vision(standardize=False, use_clipped_linears=True)),
}
# (text tokens before, grid in patches (columns, rows)) ..., text tokens at the end
PROMPTS = [([(3, (6, 9))], 5), ([(20, (12, 3)), (2, (9, 9))], 7), ([(1, (15, 15))], 40)]


def randomise_vision(model):
    g = torch.Generator().manual_seed(77)
    for name, b in model.named_buffers():
        r = torch.randn(b.shape, generator=g)
        if name.endswith("std_bias"):
            b.data = 0.3 * r
        elif name.endswith("std_scale"):
            b.data = 0.3 + 0.05 * r.abs()
        elif name.endswith(("input_min", "output_min")):
            b.data = -(1.0 + 0.3 * r.abs())
        elif name.endswith(("input_max", "output_max")):
            b.data = 1.0 + 0.3 * r.abs()
    for name, p in model.named_parameters():
        if name.endswith("position_embedding_table"):
            p.data = 0.3 * torch.randn(p.shape, generator=g)


def build_prompt(g, images, tail):
    ids, found = [2], []
    for before, (columns, rows) in images:
        ids += torch.randint(3, 300, (before,), generator=g).tolist() + [BEGIN]
        count = columns * rows // 9
        found.append({"begin": len(ids), "count": count, "grid": [columns, rows]})
        ids += [IMAGE] * count + [END]
    return ids + torch.randint(3, 300, (tail,), generator=g).tolist(), found


def forward(model, ids, pixels, positions):
    types = torch.tensor([[1 if i == IMAGE else 0 for i in ids]]).cuda()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]).cuda(), pixel_values=pixels, image_position_ids=positions,
                     mm_token_type_ids=types).logits[0].double().cpu()


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    for name, make in CASES.items():
        torch.manual_seed(0)
        text, tower = make()
        config = Gemma4Config(text_config=text, vision_config=tower, image_token_id=IMAGE, boi_token_id=BEGIN,
                              eoi_token_id=END, audio_token_id=303, boa_token_id=304, eoa_token_index=305,
                              video_token_id=306, tie_word_embeddings=True)
        config._attn_implementation = "eager"
        model = Gemma4ForConditionalGeneration(config).float()
        randomise(model)
        randomise_vision(model)
        folder = out / name
        model.to(torch.bfloat16).save_pretrained(folder)
        model = Gemma4ForConditionalGeneration.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32).cuda().eval()
        g = torch.Generator().manual_seed(11)
        golden = {"versions": {"transformers": transformers.__version__, "torch": torch.__version__}, "prompts": []}
        tensors = {}
        for k, (images, tail) in enumerate(PROMPTS):
            ids, found = build_prompt(g, images, tail)
            most = max(c * r for _, (c, r) in images)
            pixels = torch.zeros(len(found), most, 768)
            positions = torch.full((len(found), most, 2), -1, dtype=torch.long)
            for i, image in enumerate(found):
                columns, rows = image["grid"]
                u8 = torch.randint(0, 256, (columns * rows, 768), generator=g, dtype=torch.uint8)
                tensors[f"{k}.image_{i}.pixels_u8"] = u8
                pixels[i, :columns * rows] = u8.float() / 255
                positions[i, :columns * rows, 0] = torch.arange(columns).repeat(rows)
                positions[i, :columns * rows, 1] = torch.arange(rows).repeat_interleave(columns)
            pixels, positions = pixels.cuda(), positions.cuda()
            with torch.no_grad():
                soft = model.model.get_image_features(pixels, positions, return_dict=True).pooler_output
            for i, s in enumerate(soft):
                assert s.shape[0] == found[i]["count"], (s.shape, found[i])
                tensors[f"{k}.image_{i}.soft_tokens"] = s.float().cpu().contiguous()
            logits = forward(model, ids, pixels, positions)
            seq, greedy, margin = list(ids), [], []
            for _ in range(8):
                top = forward(model, seq, pixels, positions)[-1].topk(2)
                greedy.append(int(top.indices[0]))
                margin.append(round(float(top.values[0] - top.values[1]), 5))
                seq.append(greedy[-1])
            # One position inside the first image and the last three.
            keep = [found[0]["begin"] + 1, *range(len(ids) - 3, len(ids))]
            golden["prompts"].append({"ids": ids, "images": found, "positions": keep, "greedy_ids": greedy,
                                      "greedy_margin": margin,
                                      "logits": [[round(float(v), 5) for v in logits[p]] for p in keep]})
        (folder / "golden.json").write_text(json.dumps(golden))
        save_file(tensors, folder / "golden.safetensors")
        (folder / "generation_config.json").unlink(missing_ok=True)
        with tarfile.open(out / f"{name}.tar", "w") as tar:
            for f in sorted(folder.iterdir()):
                tar.add(f, arcname=f"{name}/{f.name}")
        print(name, sorted(f.name for f in folder.iterdir()), sum(p.numel() for p in model.parameters()),
              "soft std %.3f" % tensors["0.image_0.soft_tokens"].std(), "logit std %.3f" % logits.std(), flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
