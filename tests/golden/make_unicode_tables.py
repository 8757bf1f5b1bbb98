#!/usr/bin/env python3
"""Prints src/text/unicode_tables.cpp: where the Unicode tables inside the PyPI package `tokenizers` differ from those of the
C libraries we link (PCRE2: Unicode 14, utf8proc: Unicode 14 or 15). Found by asking `tokenizers` about every character.

  pip install tokenizers unicodedata2; make_unicode_tables.py > src/text/unicode_tables.cpp
"""
import unicodedata  # CPython 3.11: Unicode 14

import unicodedata2  # newest
from tokenizers import Regex, normalizers, pre_tokenizers

CHARS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
UNASSIGNED = [c for c in CHARS if unicodedata.category(chr(c)) == "Cn"]
CATEGORIES = ["Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "Nd", "P", "S", "Han"]


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def matched(pattern):
    pre = pre_tokenizers.Split(Regex(pattern), "removed")
    return {c for c in UNASSIGNED if not pre.pre_tokenize_str(chr(c))}


def unnormalized():
    """Characters that newer Unicode normalises or reorders and `tokenizers` leaves alone."""
    forms = {f: getattr(normalizers, f)() for f in ("NFC", "NFD", "NFKC", "NFKD")}
    out = set()
    for c in CHARS:
        x = chr(c)
        if unicodedata2.decomposition(x):
            if any(forms[f].normalize_str(x) != unicodedata2.normalize(f, x) for f in forms):
                out.add(c)
        elif unicodedata2.combining(x):
            for s in ("a\u0345" + x, "a" + x + "\u0334"):
                if forms["NFD"].normalize_str(s) != unicodedata2.normalize("NFD", s):
                    out.add(c)
    # A composition the reference does not make: one of its parts is newer, and nothing may combine with that one.
    for c in CHARS:
        parts = unicodedata2.decomposition(chr(c))
        if parts and not parts.startswith("<"):
            pair = [int(p, 16) for p in parts.split()]
            s = "".join(map(chr, pair))
            if forms["NFC"].normalize_str(s) != unicodedata2.normalize("NFC", s):
                out.add(next(p for p in pair if unicodedata.ucd_3_2_0.category(chr(p)) == "Cn"))
    for c in out:
        x = chr(c)
        for s in (x, "a\u0345" + x, "a" + x + "\u0334"):
            assert all(n.normalize_str(s) == s for n in forms.values()), hex(c)
    return out


def table(name, points):
    print(f"constexpr Range {name}[] = {{")
    for a, b in ranges(points):
        print(f"    {{0x{a:X}, 0x{b:X}}},")
    print("};\n")


def main():
    digits = pre_tokenizers.Digits(individual_digits=True)
    print("// Written by tests/golden/make_unicode_tables.py; do not edit.")
    print('#include "text/unicode_tables.h"\n\nnamespace hlwq::unicode {\nnamespace {\n')
    sets = {k: matched("\\d" if k == "Nd" else f"\\p{{{k}}}") for k in CATEGORIES}
    names = [k for k in CATEGORIES if sets[k]]
    for k in names:
        table(f"k{k}", sets[k])
    table("kAny", set().union(*sets.values()))
    table("kNumeric", {c for c in UNASSIGNED if len(digits.pre_tokenize_str("a" + chr(c))) == 2})
    table("kUnnormalized", unnormalized())
    print("}  // namespace\n\nstd::span<const Range> newer_characters(std::string_view category) {")
    for k in names:
        print(f'  if (category == "{k}") return k{k};')
    print("  return {};\n}\n\nstd::span<const Range> newer_characters() { return kAny; }")
    print("std::span<const Range> newer_numeric() { return kNumeric; }")
    print("std::span<const Range> unnormalized_characters() { return kUnnormalized; }\n\n}  // namespace hlwq::unicode")


if __name__ == "__main__":
    main()
