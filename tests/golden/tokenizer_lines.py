"""Varied lines for tokenizer comparisons, reproducible from a seed: (bytes, what the reference must be given as str)."""
import random
import unicodedata

# (first, last) code points of scripts and of the odd corners: separators, controls, joiners, combining marks, tags.
BLOCKS = [
    (0x00, 0x1F), (0x20, 0x7E), (0x7F, 0x9F), (0xA0, 0xFF), (0x100, 0x24F), (0x250, 0x2FF), (0x300, 0x36F),
    (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58F), (0x591, 0x5F4), (0x600, 0x6FF), (0x700, 0x74F), (0x780, 0x7BF),
    (0x7C0, 0x7FA), (0x900, 0x97F), (0x980, 0x9FF), (0xA00, 0xA7F), (0xA80, 0xAFF), (0xB00, 0xB7F), (0xB80, 0xBFF),
    (0xC00, 0xC7F), (0xC80, 0xCFF), (0xD00, 0xD7F), (0xD80, 0xDFF), (0xE00, 0xE7F), (0xE80, 0xEFF), (0xF00, 0xFFF),
    (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x139F), (0x13A0, 0x13FF), (0x1400, 0x167F),
    (0x1680, 0x169F), (0x16A0, 0x16FF), (0x1780, 0x17FF), (0x1800, 0x18AF), (0x1AB0, 0x1AFF), (0x1D00, 0x1DFF),
    (0x1E00, 0x1EFF), (0x1F00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x209F), (0x20A0, 0x20CF), (0x20D0, 0x20FF),
    (0x2100, 0x218F), (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2500, 0x27BF), (0x2800, 0x28FF), (0x2C00, 0x2DFF),
    (0x2E80, 0x2FDF), (0x3000, 0x303F), (0x3040, 0x30FF), (0x3100, 0x312F), (0x3130, 0x318F), (0x3200, 0x33FF),
    (0x3400, 0x3480), (0x4E00, 0x9FFF), (0xA000, 0xA4CF), (0xA640, 0xA6FF), (0xA700, 0xA7FF), (0xAB30, 0xABBF),
    (0xAC00, 0xD7A3), (0xE000, 0xE020), (0xF900, 0xFAFF), (0xFB00, 0xFB4F), (0xFB50, 0xFDFF), (0xFE00, 0xFE0F),
    (0xFE20, 0xFE6F), (0xFE70, 0xFEFF), (0xFF00, 0xFFEF), (0xFFF0, 0xFFFF), (0x10000, 0x100FF), (0x10300, 0x1034F),
    (0x10400, 0x104FF), (0x10800, 0x10FFF), (0x11000, 0x11FFF), (0x12000, 0x12400), (0x13000, 0x1342F),
    (0x16A00, 0x16FFF), (0x17000, 0x17020), (0x1B000, 0x1B2FF), (0x1D100, 0x1D1FF), (0x1D400, 0x1D7FF),
    (0x1E000, 0x1E95F), (0x1EE00, 0x1EEFF), (0x1F000, 0x1F2FF), (0x1F300, 0x1F64F), (0x1F680, 0x1FAFF),
    (0x20000, 0x20100), (0x2F800, 0x2FA1F), (0x30000, 0x30020), (0xE0000, 0xE01EF), (0xF0000, 0xF0010),
]
WHITE = [" ", " ", " ", "  ", "\n", "\t", "\r\n", "\r", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\u180e",
         "\u200b", "\ufeff", "\v", "\f", "\x1c", "\x1f", "\u202f", "\u205f", "\u1680"]
EMOJI = ["👨‍👩‍👧‍👦", "🏳️‍🌈", "👩🏽‍💻", "🇩🇪🇫🇷", "❤️‍🔥", "1️⃣", "🧑🏿‍🤝‍🧑🏻", "😀", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "☕", "🫱🏼‍🫲🏾", "🤷‍♀️"]
CODE = ["def f(x):\n    return x**2 + 1\n", "for (int i = 0; i < n; ++i) { a[i] += b[i] * 2.5e-3f; }", "\tif err != nil {\n\t\treturn err\n\t}",
        "SELECT * FROM t WHERE id='x' AND n>=10;", "<div class=\"a\">&nbsp;</div>", "x = {'a': [1, 2, 3], \"b\": None}",
        "https://example.org/a/b?c=d&e=%20f#g", "0xDEADBEEF 1_000_000 3.14159 1e-10", "if(a&&b||!c)?d:e;", "#include <vector>\r\n\r\n",
        "fn main() -> Result<(), Box<dyn Error>> {", "\\begin{align} x &= \\frac{1}{2} \\\\ \\end{align}", "$ git commit -m 'x' && echo $?",
        "```python\nprint(\"hi\")\n```", "a->b::c<d>::e", "/* c */ // d", "*** --- ___ === ~~~", "....", "…", "«»„“”‘’"]
CONTRACTIONS = ["I'll", "WE'VE", "it's", "don'T", "he'D", "'\u017f", "'S", "I'm", "they'RE", "'ll", "''s", "’s", "'\u212a"]
SPECIALS = ["<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<unused7>", "<unused99>", "<0x41>", "<0xE2>",
            "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<think>", "</think>",
            "<tool_call>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|\"|>", "<|image|>", "<table>", "</h1>", "[multimodal]",
            "<image_soft_token>", "<|fim_prefix|>", "<|reserved_special_token_5|>", "\u2581", "\u2581\u2581", "\u0120", "\u0100", "</s>", "<s>"]


def _char(rng):
    low, high = rng.choice(BLOCKS)
    c = rng.randint(low, high)
    return chr(c) if not 0xD800 <= c <= 0xDFFF else "\ufffd"


def _script_word(rng):
    low, high = rng.choice(BLOCKS)
    out = []
    for _ in range(rng.randint(1, 9)):
        c = rng.randint(low, high)
        out.append(chr(c))
    return "".join(out)


def _any_char(rng):
    while True:
        c = rng.randint(0, 0x10FFFF)
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


def _combining(rng):
    base = rng.choice("aeiouAEIOUnNcCsS가나ㄱंक漢\u1100\u0b95\u05d0")
    marks = [chr(rng.choice([rng.randint(0x300, 0x36F), rng.randint(0x591, 0x5BD), rng.randint(0x64B, 0x65F), 0x1161, 0x11A8,
                             rng.randint(0x1DC0, 0x1DFF), 0x94D, 0xBBE, 0x3099, 0x309A])) for _ in range(rng.randint(1, 5))]
    return base + "".join(marks)


def _truncated_special(rng):
    s = rng.choice(SPECIALS)
    cut = rng.randint(1, len(s))
    return rng.choice([s[:cut], s[cut - 1:], s + s[:cut], s.upper(), " " + s + " "])


def lines(seed, count, wiki, decoder=None):
    """Yields `count` byte strings. `wiki`: lines of natural text to draw from and to cut up."""
    rng = random.Random(seed)
    makers = [
        lambda: rng.choice(wiki)[:rng.randint(1, 600)],
        lambda: rng.choice(wiki)[:rng.randint(1, 80)],
        lambda: rng.choice(WHITE).join(_script_word(rng) for _ in range(rng.randint(1, 8))),
        lambda: "".join(_char(rng) for _ in range(rng.randint(1, 30))),
        lambda: "".join(_any_char(rng) for _ in range(rng.randint(1, 12))),
        lambda: "".join(rng.choice(WHITE) for _ in range(rng.randint(1, 12))) + rng.choice(["", "x", ".", "é", "7"]),
        lambda: rng.choice(EMOJI) * rng.randint(1, 3) + rng.choice(WHITE) + rng.choice(EMOJI),
        lambda: "".join(rng.choice(CODE) + rng.choice(WHITE) * rng.randint(0, 9) for _ in range(rng.randint(1, 4))),
        lambda: (_char(rng) if rng.random() < .5 else rng.choice("a=-_*# \n\t0")) * rng.randint(2, 200),
        lambda: " ".join(rng.choice(CONTRACTIONS) for _ in range(rng.randint(1, 6))),
        lambda: "".join(rng.choice([rng.choice(SPECIALS), _truncated_special(rng), _script_word(rng), rng.choice(WHITE)])
                        for _ in range(rng.randint(1, 6))),
        lambda: "".join(_combining(rng) for _ in range(rng.randint(1, 8))),
        lambda: unicodedata.normalize(rng.choice(["NFC", "NFD", "NFKC", "NFKD"]), "".join(_char(rng) for _ in range(rng.randint(1, 20)))),
        lambda: "".join(str(rng.randint(0, 10 ** rng.randint(1, 12))) + rng.choice([",", ".", " ", "", "%", "²", "½"]) for _ in range(rng.randint(1, 6))),
        lambda: "".join(rng.choice([rng.choice(wiki)[:20], rng.choice(EMOJI), rng.choice(WHITE), _script_word(rng), rng.choice(CODE)[:9],
                                    _char(rng), rng.choice(CONTRACTIONS)]) for _ in range(rng.randint(2, 9))),
        lambda: rng.choice(" \n\t\u2581<'") * rng.randint(1, 70) + rng.choice(["a", " a", "'s", "<", ""]) + rng.choice(" \n") * rng.randint(0, 40),
    ]
    for i in range(count):
        if i % 17 == 16:  # bytes that are not UTF-8: cut or damaged text
            raw = bytearray(rng.choice(makers)().encode("utf-8", "replace"))
            for _ in range(rng.randint(1, 3)):
                at = rng.randint(0, len(raw))
                if rng.random() < .5 and raw:
                    raw[at % len(raw)] = rng.randint(0, 255)
                else:
                    raw[at:at] = bytes(rng.randint(128, 255) for _ in range(rng.randint(1, 3)))
            yield bytes(raw)
        else:
            yield rng.choice(makers)().encode("utf-8", "replace")
