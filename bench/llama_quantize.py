"""llama.cpp's llama-quantize by way of llama-cpp-python, for where only PyPI is at hand:

    hlwq bench MODEL.gguf --compare usual --text-file FILE --llama-quantize "python bench/llama_quantize.py"
"""

import argparse
import sys

import llama_cpp

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--allow-requantize", action="store_true")
parser.add_argument("source")
parser.add_argument("target")
parser.add_argument("type", help="Q4_K_M, Q8_0...")
parser.add_argument("threads", nargs="?", type=int, default=0)
args = parser.parse_args()
params = llama_cpp.llama_model_quantize_default_params()
params.nthread = args.threads
params.allow_requantize = args.allow_requantize
for prefix in ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_"):
    if hasattr(llama_cpp, prefix + args.type):
        params.ftype = getattr(llama_cpp, prefix + args.type)
        break
else:
    sys.exit(f"llama.cpp has no type {args.type}")
if llama_cpp.llama_model_quantize(args.source.encode(), args.target.encode(), params) != 0:
    sys.exit(f"llama.cpp could not make {args.type} of {args.source}")
