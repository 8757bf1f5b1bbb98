#!/usr/bin/env python3
"""Makes synthetic images of every kind we read and what transformers' Gemma 4 image processor makes of them.

Needs pillow, numpy, safetensors and transformers >= 5.17; torch and torchvision only for --processor torchvision.
    python3 tests/golden/make_image_goldens.py assets/golden-images.tar.xz [--processor pil|torchvision]

The archive holds images/: the pictures, golden.json: [{file, budget, size: [width, height] upright, grid: [columns,
rows], tokens}] and versions, expected/FILE@BUDGET.webp: pixel_values * 255 put together to one picture again, lossless, and
golden.safetensors: FILE@BUDGET.position_ids [patches, 2], padding left out. Files are loaded by transformers.image_utils.load_image, which applies the EXIF
orientation and converts to RGB. One difference is on purpose: Pillow clips 16-bit grey at 255, which leaves white; here
it is divided by 256 first, as Pillow does with every other 16-bit picture.
"""
import argparse
import io
import json
import lzma
import pathlib
import struct
import tarfile
import tempfile
import zlib

import numpy as np
import PIL
import transformers
from PIL import Image, ImageDraw
from safetensors.numpy import save
from transformers.image_utils import load_image

RNG = np.random.default_rng(20261124)


def picture(width, height, grating=False):
    """Smooth colours with hard edges, at times with a fine grating: what resizing gets wrong and files compress."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    a = np.stack([x / max(width - 1, 1), y / max(height - 1, 1), 1 - x / max(width, 1)], -1) * 220 + 20
    image = Image.fromarray(a.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse([width * .1, height * .2, width * .5, height * .8], fill=(230, 30, 40))
    draw.polygon([(width * .5, height * .9), (width * .9, height * .85), (width * .7, height * .4)], fill=(20, 60, 210))
    for i in range(0, width // 4 if grating else 0, 3):
        draw.line([width * .6 + i, 0, width * .6 + i, height * .25], fill=(255, 255, 255))
    return image


def noise(width, height):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(array, interlaced=False):
    """A PNG file of [height, width, channels], 8 or 16 bits; Pillow writes neither 16-bit colour nor Adam7."""
    height, width, channels = array.shape
    bits = 8 * array.dtype.itemsize
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for x, y, dx, dy in passes if interlaced else [(0, 0, 1, 1)]:
        part = array[y::dy, x::dx]
        if part.size:
            rows += b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in part)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def oriented(image, kind, orientation, **options):
    exif = Image.Exif()
    exif[0x010F] = "a camera"  # an entry before the orientation, stored out of line
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif, **options)


def files():
    rgb = picture(317, 211)
    fine = picture(317, 211, grating=True)
    alpha = Image.linear_gradient("L").resize(rgb.size)
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    palette = rgb.quantize(40, dither=Image.Dither.NONE)
    wide = np.array(picture(131, 90), dtype=np.uint16) * 257 - 100
    yield "rgb.png", encoded(fine, "PNG")
    yield "noise.png", encoded(noise(21, 13), "PNG")
    yield "exact_480x336.png", encoded(picture(480, 336), "PNG")
    yield "one_axis_480x200.png", encoded(picture(480, 100), "PNG")
    yield "grey.png", encoded(picture(200, 133).convert("L"), "PNG")
    yield "bilevel.png", encoded(picture(77, 93).convert("1", dither=Image.Dither.NONE), "PNG")
    yield "grey_4bit.png", encoded(picture(90, 91).convert("L").quantize(16), "PNG", bits=4)
    yield "grey16.png", png(wide[..., :1])
    yield "rgb16.png", png(wide)
    yield "rgba16.png", png(np.concatenate([wide, wide[..., :1]], -1))
    yield "palette.png", encoded(palette, "PNG")
    yield "palette_transparent.png", encoded(palette, "PNG", transparency=bytes(range(40)))
    yield "palette_2bit.png", encoded(picture(101, 55).quantize(4), "PNG", bits=2)
    yield "rgba.png", encoded(rgba, "PNG")
    yield "grey_alpha.png", encoded(rgba.convert("LA"), "PNG")
    yield "rgb_colour_key.png", encoded(rgb, "PNG", transparency=(230, 30, 40))
    yield "interlaced.png", png(np.array(rgb), interlaced=True)
    yield "interlaced_alpha16.png", png(np.concatenate([wide, wide[..., :1]], -1), interlaced=True)
    yield "oriented_6.png", oriented(picture(70, 45), "PNG", 6)
    yield "one_pixel.png", encoded(picture(1, 1), "PNG")
    yield "tiny_2x3.png", encoded(noise(2, 3), "PNG")
    yield "row_301x1.png", encoded(picture(301, 1), "PNG")
    yield "column_1x4000.png", encoded(picture(1, 4000), "PNG")
    yield "narrow_5x700.png", encoded(picture(5, 700), "PNG")
    yield "large_4000x3000.jpg", encoded(picture(4000, 3000, grating=True), "JPEG", quality=30, optimize=True)
    yield "long_side_16500.png", encoded(picture(16500, 40), "PNG", optimize=True)
    yield "rgb.jpg", encoded(fine, "JPEG", quality=85)
    yield "rgb_444.jpg", encoded(rgb, "JPEG", quality=92, subsampling=0)
    yield "progressive.jpg", encoded(picture(333, 250, grating=True), "JPEG", quality=80, progressive=True)
    yield "grey.jpg", encoded(rgb.convert("L"), "JPEG", quality=85)
    yield "cmyk.jpg", encoded(rgb.convert("CMYK"), "JPEG", quality=90)
    for orientation in range(1, 9):
        yield f"oriented_{orientation}.jpg", oriented(picture(66, 40), "JPEG", orientation, quality=90)
    yield "lossy.webp", encoded(rgb, "WEBP", quality=80)
    yield "lossy_alpha.webp", encoded(rgba, "WEBP", quality=80)
    yield "lossless.webp", encoded(rgb, "WEBP", lossless=True)
    yield "lossless_alpha.webp", encoded(rgba, "WEBP", lossless=True, exact=True)
    yield "oriented_8.webp", oriented(picture(70, 45), "WEBP", 8, lossless=True)
    yield "animated.webp", encoded(picture(90, 70), "WEBP", lossless=True, save_all=True,
                                   append_images=[noise(90, 70)], duration=100)


# (file, budget): every file with 70 tokens, some with more.
MORE = [("rgb.png", 140), ("large_4000x3000.jpg", 280), ("column_1x4000.png", 140)]


def load(path):
    image = Image.open(path)
    if image.mode == "I;16":
        return Image.fromarray((np.array(image) >> 8).astype(np.uint8)).convert("RGB")
    return load_image(str(path))


def processor(kind):
    if kind == "pil":
        from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
        return Gemma4ImageProcessorPil()
    from transformers.models.gemma4.image_processing_gemma4 import Gemma4ImageProcessor
    return Gemma4ImageProcessor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="golden-images.tar.xz")
    parser.add_argument("--processor", choices=["pil", "torchvision"], default="pil")
    args = parser.parse_args()
    process = processor(args.processor)
    pictures = dict(files())
    contents = {f"images/{name}": data for name, data in pictures.items()}
    tensors, golden = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, budget in [(name, 70) for name in pictures] + MORE:
            path = pathlib.Path(folder) / name
            path.write_bytes(pictures[name])
            image = load(path)
            out = process(image, max_soft_tokens=budget, return_tensors="np" if args.processor == "pil" else "pt")
            positions = np.asarray(out["image_position_ids"])[0].astype(np.int32)
            real = (positions >= 0).all(-1)
            positions, values = positions[real], np.asarray(out["pixel_values"])[0][real] * 255
            pixels = np.rint(values).astype(np.uint8)
            assert np.abs(values - pixels).max() < 1e-3, name  # both processors resize eight-bit pictures
            columns, rows = (int(v) + 1 for v in positions.max(0))
            whole = np.zeros((rows * 16, columns * 16, 3), np.uint8)
            for (x, y), patch in zip(positions, pixels, strict=True):
                whole[y * 16:y * 16 + 16, x * 16:x * 16 + 16] = patch.reshape(16, 16, 3)
            key = f"{name}@{budget}"
            contents[f"expected/{key}.webp"] = encoded(Image.fromarray(whole), "WEBP", lossless=True, quality=75)
            tensors[f"{key}.position_ids"] = positions
            golden.append({"file": name, "budget": budget, "size": list(image.size), "grid": [columns, rows],
                           "tokens": int(np.asarray(out["num_soft_tokens_per_image"])[0])})
    versions = {"processor": args.processor, "transformers": transformers.__version__, "pillow": PIL.__version__}
    if args.processor == "torchvision":
        import torchvision
        versions["torchvision"] = torchvision.__version__
    contents["golden.json"] = json.dumps({"versions": versions, "images": golden}, indent=1).encode()
    contents["golden.safetensors"] = save(tensors)
    with lzma.open(args.out, "wb", preset=9 | lzma.PRESET_EXTREME) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name in sorted(contents):
            entry = tarfile.TarInfo(f"golden-images/{name}")
            entry.size = len(contents[name])
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(contents[name]))
    print(f"{len(golden)} cases, {len(pictures)} files, {sum(map(len, pictures.values()))} bytes of pictures, "
          f"archive {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
