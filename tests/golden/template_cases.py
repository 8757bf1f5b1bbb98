"""Small templates that pin jinja2's and Python's behaviour, one point each: (template, variables)."""

V = {
    "s": "Hello, Wörld", "e": "", "n": 7, "f": 2.5, "neg": -3, "z": 0, "t": True, "no": None, "l": [3, 1, 2], "el": [],
    "d": {"b": 1, "a": "x", "items": 5, "c": [1, {"k": None}]}, "w": "  pad \n", "q": "it's \"q\"\\\n\té\u200b\U0001F389",
    "users": [{"name": "bob", "age": 30, "tags": ["x"]}, {"name": "Al", "age": 25, "tags": []}, {"name": "cy", "age": 30}],
    "multi": "one\ntwo\n\n three\r\nfour", "html": "<a href='x'>&\"</a>", "big": 9007199254740993,
}

EXPRESSIONS = r"""
1 + 2 * 3
(1 + 2) * 3
7 // 2
-7 // 2
7 % 3
-7 % 3
7 % -3
-7 % 2.5
7 / 2
6 / 3
2 ** 10
2 ** -1
2 ** 3 ** 2
-2 ** 2
- 3 | abs
-3.5|abs
1_000 + 0x1F + 0b11 + 0o17
1e3
1.5e-7
1e16
1e15
123456789.123
0.1 + 0.2
1e400
-0.0
5.0 // 2
5 // 2.0
1 / 0
1 % 0
1.0 / 0
true + 1
true
none
True and False
not none
1 and 2
0 or "x"
"" or none
1 < 2 < 3
1 < 3 < 2
1 == 1.0
1 == true
"1" == 1
"a" < "b"
"a" < 1
[1, 2] < [1, 3]
[1] == (1,)
none == false
none < 1
1 in [1, 2]
3 not in [1, 2]
"ell" in s
"a" in d
1 in d
1 in s
1 in nothing
"x" in nothing
not 1 in [1]
1 if true else 2
1 if false
(1 if false) is defined
1 if 0 else 2 if 0 else 3
"a" "b" 'c'
"a" ~ 1 ~ none ~ 2.0 ~ nothing
"a" + "b"
"a" + 1
"a" * 3
3 * "ab"
[1] * 2
[1] + [2]
(1,) + (2,)
[1] + (2,)
"x" * -1
"\n\t\x41\u00e9\101\q\\"
'it\'s'
"%s-%d" % ("a", 5)
"%5.2f|%-6s|%06d|%+d|%x|%X|%o|%e|%g|%%" % (3.14159, "ab", 42, 5, 255, 255, 8, 12345.678, 0.0001)
"%s" % 5
"%s %s" % 5
"%s" % [1, 2]
"%d" % "x"
"%(a)s %(b)d" % d
"%r" % "x"
"%c%c" % ("a", 66)
"%5s|%.2s|%*d" % ("a", "abc", 4, 7)
"%s" % ()
"x" % 5
"x" % d
s[0]
s[-1]
s[100]
s[1:4]
s[::-1]
s[::2]
s[-3:]
s[5:2]
s[8]
s[7:9]
s[10:0:-3]
l[0]
l[-1]
l[5]
l[5] is defined
l[1:]
l[::-1]
l[1:99]
l[::0]
l["x"]
l.x
l.0
l[0:2][1]
(1, 2, 3)[1:]
d.a
d["a"]
d.zz
d.zz is defined
d.zz.y
d["zz"]["y"]
d["items"]
d.items()
d.keys()
d.values()
d.items()|list
d.items() is sequence
d.items() is iterable
d.keys()[0] is defined
d.get("a")
d.get("zz")
d.get("zz", 3)
d.get()
d.pop("a")
d.update({}) 
l.append(1)
l.append is defined
l.sort()
d.__class__
s.__class__
s.__class__.__mro__
"".__class__ is defined
d["__class__"]
nothing
nothing.x
nothing[0]
nothing()
nothing + 1
1 + nothing
nothing ~ "x"
-nothing
nothing == nothing
nothing == none
nothing is none
nothing|length
nothing|list
nothing|join
nothing|string
nothing|trim
nothing|tojson
nothing|default("z")
nothing|int
nothing and 1
nothing < 1
none|default("z")
none|default("z", true)
""|default("z", boolean=true)
""|d("z")
5()
s()
{}
{"a": 1, "b": [1, 2.0, "x", none, true]}
{1: 2, 1.0: 3, true: 4}
{(1, 2): 3}
{[1]: 2}
{"a": 1,}
[1, 2,]
(1,)
()
(1)
(1, 2)
1, 2
q
[q]
["it's", 'a"b', "both'\"", "\\"]
["\x07\x7f\xa0\u200b\u2028é"]
[1.0, 1e100, -0.0, 1e-5, 0.0001]
"é"|length
s|length
l|length
d|length
5|length
none|length
range(3)
range(3)|list
range(1, 10, 3)|list
range(5, 0, -2)|list
range(3)[1]
range(0)|list
range(1, 2, 0)
range(1000000)
range("x")
range(3) is sequence
dict(a=1, b=2)
dict([["a", 1]])
dict({"x": 1}, y=2)
s|upper
s|lower
"hello wORLD-foo bar's (x"|title
"hello wORLD"|capitalize
s.upper()
s.title()
"they're bill's 3rd".title()
"ß ﬁ ǆ".upper()
"ΑΣ ΑΣΑ".lower()
"aBc".swapcase()
w|trim
w.strip()
w.lstrip()
w.rstrip()
"xxaxx"|trim("x")
"xyaxy".strip("xy")
"xyaxy".lstrip("x")
"\u00a0a\u2003".strip()|length
"a,b,,c".split(",")
"a,b,,c".split(",", 1)
"a,b,,c".rsplit(",", 1)
"  a b  c ".split()
"  a b  c ".split(none, 1)
"  a b  c ".rsplit(none, 1)
"abc".split("")
"".split()
"".split(",")
"a<think>b</think>c".split("</think>")[-1].lstrip("\n")
multi.splitlines()
multi.splitlines(true)
s.startswith("Hell")
s.startswith(("x", "H"))
s.endswith("rld")
s.startswith("ello", 1)
s.startswith("o", -4)
s.replace("l", "L")
s.replace("l", "L", 1)
"abc".replace("", "-")
"abc".replace("", "-", 2)
s|replace("l", "L")
s|replace("l", "L", 2)
5|replace(5, 6)
s.find("l")
s.find("zz")
s.rfind("l")
s.index("zz")
s.count("l")
"aaa".count("aa")
"abc".count("")
"-".join(["a", "b"])
"-".join([1])
"".join("abc")
"{} {}".format(1, "x")
"{0} {1} {0}".format("a", "b")
"{a[0]} {b.name} {{}}".format(a=[1], b=users[0])
"{:>5}|{:<5}|{:^5}|{:05d}|{:+.2f}|{:,}|{:x}|{:%}|{:e}|{!r}".format("a", "b", "c", 42, 3.14159, 1234567, 255, 0.25, 12345.678, "q")
"{:*^9}".format("mid")
"{:.3}".format("abcdef")
"{:.3}".format(3.14159)
"{:10}|{:<10}|{:=+8d}".format(5, 5, 5)
"{} {1}".format(1, 2)
"{".format()
"{x}".format()
"{0.__class__}".format("x")
"{:{}}|".format("a", 4)
"{:5}|".format(true)
"123".isdigit()
"12a".isdigit()
"".isdigit()
"abc".isalpha()
"ab1".isalnum()
"  ".isspace()
"AB".isupper()
"a1".islower()
"Ab Cd".istitle()
"²".isdigit()
"²".isdecimal()
"½".isnumeric()
"5".zfill(3)
"-5".zfill(4)
"a".center(4)
"ab".center(5)
"a"|center(6)
"a".ljust(3) + "|"
"a".rjust(3)
"a-b-c".partition("-")
"a-b-c".rpartition("-")
"abc".partition("x")
"prefix-x".removeprefix("prefix-")
"x.py".removesuffix(".py")
"a\tb".expandtabs(4)
"abc".nosuch()
"abc".nosuch is defined
1.5.is_integer()
l|first
l|last
el|first
el|last
s|first
s|last
d|first
l|sort
l|sort(reverse=true)
["b", "A", "c"]|sort
["b", "A", "c"]|sort(case_sensitive=true)
[1, "a"]|sort
users|sort(attribute="name")|map(attribute="name")|list
users|sort(attribute="age,name")|map(attribute="name")|join(",")
users|sort(attribute="age", reverse=true)|map(attribute="name")|join(",")
users|map(attribute="age")|sum
users|sum(attribute="age")
users|sum("age", 5)
[[1], [2]]|sum(start=[])
users|map(attribute="tags")|list
users|map(attribute="tags", default="none")|list
users|map(attribute="tags.0")|list
users|selectattr("tags")|map(attribute="name")|list
users|selectattr("tags", "defined")|list|length
users|rejectattr("tags", "defined")|map(attribute="name")|list
users|selectattr("age", "equalto", 30)|map(attribute="name")|join("+")
users|selectattr("age", "gt", 26)|list|length
users|selectattr("name", "in", ["bob", "cy"])|map(attribute="name")|list
users|groupby("age")|length
users|groupby("age")|map(attribute="grouper")|list
users|groupby("age")|map("first")|list
users|groupby("name")|map(attribute="0")|list
users|unique(attribute="age")|map(attribute="name")|list
[1, 2, 1, "a", "A"]|unique|list
users|map("length")|list
["a", "b"]|map("upper")|join(" ")
["a", "b"]|map("replace", "a", "z")|list
["a", "b"]|map("nosuch")|list
[1, 2, 3, 4]|select("odd")|list
[1, 2, 3, 4]|reject("odd")|list
[0, 1, "", none, "x"]|select|list
[0, 1, "", none, "x"]|reject|list
[1, none, 2]|select("none")|list
[1, 2]|select("nosuch")|list
none|select|list
none|map("upper")|list
none|selectattr("a")|list
5|select|list
l|max
l|min
el|max
["b", "A"]|max
["b", "A"]|min(case_sensitive=true)
users|max(attribute="age")
l|join
l|join(", ")
users|join(", ", attribute="name")
"abc"|join("-")
d|join(",")
l|list
"abc"|list
d|list
5|list
d|items|list
nothing|items|list
d|dictsort
d|dictsort(reverse=true)
{"a": 2, "B": 1}|dictsort
{"a": 2, "B": 1}|dictsort(case_sensitive=true)
{"a": 2, "B": 1}|dictsort(by="value")
{"a": 2, 1: 1}|dictsort
l|dictsort
l|reverse|list
s|reverse
l|reverse|first
[1, 2, 3, 4, 5]|batch(2)|list
[1, 2, 3, 4, 5]|batch(2, 0)|list
[1, 2, 3, 4, 5]|slice(2)|list
[1, 2, 3, 4, 5]|slice(3, "x")|list
"12"|int
" 12 "|int
"1_000"|int
"x"|int
"x"|int(5)
"0x1F"|int(base=16)
"12.7"|int
12.7|int
-12.7|int
none|int
true|int
"1e3"|int
"3.5"|float
"x"|float
"x"|float(1.0)
"1e3"|float
"inf"|float
"nan"|float
5|float
3.14159|round
3.14159|round(2)
2.5|round
3.5|round
2.675|round(2)
5|round
1234|round(-2)
2.1|round(0, "ceil")
2.9|round(0, "floor")
2.123|round(2, "ceil")
"x"|round
-5|abs
"x"|abs
"a b  c"|wordcount
"a b&c/ü"|urlencode
{"a": 1, "b c": "d&"}|urlencode
html|escape
html|e
html|safe
html|escape|escape
html|forceescape
html|escape ~ "<"
(html|safe) + "<x>"
"<x>" + (html|safe)
(html|safe)|upper
"<b>%s</b>"|safe|length
[html|safe]
(html|safe) is escaped
5|string
l|string
5|string + "x"
multi|indent
multi|indent(2)
multi|indent(2, true)
multi|indent(2, first=true, blank=true)
multi|indent("> ")
5|indent
"foo bar baz qux www"|truncate(9)
"foo bar baz qux www"|truncate(9, true)
"foo bar baz qux www"|truncate(11, false, "!", 0)
"%s-%s"|format("a", 1)
"%(x)s"|format(x=5)
d|attr("a")
s|tojson
q|tojson
q|tojson(ensure_ascii=true)
"</script>&<>'"|tojson
d|tojson
d|tojson(indent=2)
d|tojson(indent=0)
d|tojson(indent="--")
d|tojson(2)
d|tojson(indent=2, sort_keys=true)
d|tojson(separators=(",", ":"))
d|tojson(sort_keys=true)
[]|tojson(indent=2)
[[], {}]|tojson(indent=2)
[1, 2.0, 1e100, none, true, "é"]|tojson
(1, 2)|tojson
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
{(1, 2): 3}|tojson
range(3)|tojson
d.items()|tojson
("nan"|float, "inf"|float)|tojson
nothing|tojson
"\u007f\u2028"|tojson
1 is defined
s is string
5 is number
5.0 is float
5 is integer
true is integer
true is number
true is boolean
none is none
d is mapping
l is mapping
l is sequence
s is sequence
d is sequence
5 is sequence
5 is iterable
nothing is iterable
nothing is sequence
nothing is mapping
range is callable
s.upper is callable
s is callable
2 is even
3 is odd
"x" is odd
9 is divisibleby 3
9 is divisibleby(2)
"abc" is lower
"ABC" is upper
1 is in [1, 2]
3 is not in [1, 2]
1 is eq 1
1 is ne 1
1 is lt 2
1 is ge 1
1 is sameas true
true is sameas true
none is sameas none
true is true
1 is true
false is false
not 1 is none
1 is not none and 2 is defined
l is string or d is mapping
nothing is not defined
"upper" is filter
"odd" is test
5 is nosuch
5|nosuch
5|nosuch if false else 1
1 if true else 5|nosuch
loop
namespace(a=1).a
namespace(a=1).b
namespace({"x": 1}).x
namespace(a=1)["a"]
namespace()
raise_exception("bad " ~ n)
raise_exception(5)
raise_exception()
strftime_now("%Y-%m-%d %H:%M:%S %j %a %A %b %B %p %I %y %-d %e")
strftime_now("%d %b %Y")
f(*[1])
"{}{}".format(*[1, 2])
"{a}".format(**{"a": 5})
dict(**{"a": 1})
9223372036854775807
9223372036854775807 - 1
big + 0
l == [3, 1, 2]
d == {"a": "x", "b": 1, "items": 5, "c": [1, {"k": none}]}
[1, [2, [3]]] == [1, [2, [3.0]]]
s == "Hello, Wörld"
"a" != "a"
l|length > 2 and l[0] == 3
l | length + 1
(l|first) + 1
"a"~"b"|upper
1 + 2 ~ 3 * 4
not true or true
1 == 1 and not 2 == 3
l[n - 7]
d["a" ~ ""]
users[0].name[0]
users[0]["tags"][0]|upper
users[-1].tags is defined
[x for x in l]
lambda x: x
a = 1
1 +
(1
1 2
"abc
l[
{1
a.b.
|upper
1 if
x is
1 is defined is defined
@
`x`
$x
{{ 1 }}
""".strip("\n").split("\n")

STATEMENTS = [
    "plain", "", "\n", "a\n", "a\n\n", "a\r\nb\rc", "{{ 1 }}\n", "{% if t %}\nx\n{% endif %}\n y",
    "  {% if t %}  \n  x\n  {% endif %}\nz", "a  {% if t %}b{% endif %}  c", "a {%- if t -%} b {%- endif -%} c",
    "a {%+ if t %} b {%+ endif %} c", "  {%+ if t +%}\n b{% endif %}", "\n  {{ 1 }}  \n{{- 2 -}}\n 3", "a\n\n  {%- set x = 1 -%}  \n b",
    "{# c #}x{#- c -#} y {# multi\nline #}\nz", "  {# c #}\nx", "a {#- c #}\n b", "{#+ c +#}\nb", "{##}x", "{#-#} x", "{# unclosed",
    "{% raw %}{{ x }}{% if %}{% endraw %}", "a {%- raw -%} {{ y }} {%- endraw -%} b", "{% raw %}\n{{ x }}\n{% endraw %}\nz", "  {% raw %} a {% endraw %} b",
    "{% raw %}x", "{%raw%}{#{%endraw%}", "{{ '{{' }} {{ '%}' }} {{ \"}}\" }}", "{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}}['a']['b'] }}", "{{ [[1]] }}",
    "{% if n > 5 %}a{% elif n > 3 %}b{% else %}c{% endif %}", "{% if z %}a{% elif no %}b{% else %}c{% endif %}", "{% if z %}a{% endif %}", "{% if nothing %}a{% else %}b{% endif %}",
    "{% if %}{% endif %}", "{% if t %}", "{% endif %}", "{% else %}", "{% nosuch %}", "{% if t %}{% endfor %}", "{% for %}{% endfor %}",
    "{% for x in l %}{{ x }},{% endfor %}", "{% for x in l if x > 1 %}{{ loop.index }}{{ x }}{{ loop.length }},{% endfor %}", "{% for x in el %}a{% else %}none{% endfor %}",
    "{% for x in l if x > 5 %}a{% else %}none{% endfor %}", "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }} {% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}", "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1,1,2,2,1] %}{{ loop.changed(x) }} {% endfor %}", "{% for x in l %}{{ loop.nope }}{{ loop['index'] }}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }};{% endfor %}", "{% for c in s %}{{ c }}.{% endfor %}",
    "{% for (a, b) in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %}", "{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in [[1, 2, 3]] %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}",
    "{% for x in 5 %}{% endfor %}", "{% for x in none %}{% endfor %}", "{% for x in nothing %}a{% else %}e{% endfor %}", "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}",
    "{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}", "{% for x in l %}{% if loop.first %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in [1] %}{% continue %}{% else %}else{% endfor %}", "{% for x in [1] %}{% break %}{% else %}else{% endfor %}", "{% for x in [1, 2] %}{% if x == 2 %}{% break %}{% endif %}{% else %}else{% endfor %}", "{% break %}", "{% continue %}",
    "{% for x in l %}{% set y = x %}{% endfor %}{{ y is defined }}", "{% set y = 0 %}{% for x in l %}{% set y = y + x %}{{ y }}{% endfor %}{{ y }}", "{% set ns = namespace(y=0) %}{% for x in l %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}",
    "{% for x in l %}{{ x2 is defined }}{% set x2 = 1 %}{% endfor %}", "{% set x = 1 %}{% if t %}{% set x = 2 %}{% endif %}{{ x }}", "{% for x in l %}{% endfor %}{{ x is defined }}", "{% set x = 9 %}{% for x in l %}{% endfor %}{{ x }}",
    "{% for x in [[1, [2, 3]], [4, []]] recursive %}{{ x[0] }}({{ loop.depth }}{% if x[1] %}{{ loop([[x[1], []]]) }}{% endif %}){% endfor %}", "{% for n in [{'v': 1, 'c': [{'v': 2, 'c': []}]}] recursive %}{{ n.v }}{% if n.c %}[{{ loop(n.c) }}]{% endif %}{{ loop.depth0 }}{% endfor %}", "{% for x in l %}{{ loop(l) }}{% endfor %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set (a, b) = [1, 2] %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a, b = 1 %}", "{% set a.b = 1 %}", "{% set d.b = 1 %}", "{% set ns = namespace() %}{% set ns.a = [1] %}{{ ns.a }}{{ ns.b is defined }}", "{% set ns = namespace(a=1) %}{% set ns.a, b = 3, 4 %}{{ ns.a }}{{ b }}", "{% set 5 = 1 %}", "{% set none = 1 %}",
    "{% set x %}a{{ n }}b{% endset %}[{{ x }}]", "{% set x | upper %}abc{% endset %}{{ x }}", "{% set x | replace('a', 'z') | upper %}abc{% endset %}{{ x }}", "{% set x %}{% set y = 1 %}{% endset %}{{ y is defined }}", "{% set ns = namespace() %}{% set ns.x %}in{% endset %}{{ ns.x }}", "{% set x %}<{% endset %}{{ x + '<' }}",
    "{% macro m(a, b=2) %}{{ a }}-{{ b }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}", "{% macro m() %}x{% endmacro %}{{ m(1) }}", "{% macro m(a) %}x{% endmacro %}{{ m(b=1) }}", "{% macro m(a) %}x{% endmacro %}{{ m(1, a=2) }}", "{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(7) }}", "{% macro m(a=1, b) %}{% endmacro %}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}", "{% macro m() %}{{ n }}{% endmacro %}{{ m() }}", "{% set g = 1 %}{% macro m() %}{{ g }}{% endmacro %}{% set g = 2 %}{{ m() }}", "{% macro m() %}{% set g = 5 %}{% endmacro %}{{ m() }}{{ g is defined }}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro m(x) %}{{ x is defined }}{{ x }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}body{{ n }}{% endcall %}", "{% macro m() %}{% for x in [1,2] %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(y) m() %}<{{ y }}>{% endcall %}", "{% macro m() %}x{% endmacro %}{% call m() %}b{% endcall %}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% macro m() %}{% if caller %}{{ caller() }}{% else %}no{% endif %}{% endmacro %}{{ m() }}{% call m() %}yes{% endcall %}",
    "{% macro a() %}{% macro b() %}in{% endmacro %}{{ b() }}{% endmacro %}{{ a() }}{{ b is defined }}", "{% macro m() %}  x  {% endmacro %}[{{ m()|trim }}]", "{% macro m() %}<{% endmacro %}{{ m() + '<' }}{{ m() is string }}", "{{ m() }}{% macro m() %}late{% endmacro %}", "{% for i in [1,2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro m() %}{% endmacro %}{{ m.name }}", "{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "{% if t %}{% macro m() %}c{% endmacro %}{% endif %}{{ m() }}",
    "{% call s.upper() %}x{% endcall %}", "{% call 5 %}x{% endcall %}", "{% filter upper %}a{{ s }}b{% endfilter %}", "{% filter replace('a', 'b') | upper %}xax{% endfilter %}", "{% filter nosuch %}x{% endfilter %}", "{% filter trim %}  {% set v = 1 %}x {% endfilter %}{{ v is defined }}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% with %}{% set q2 = 1 %}{{ q2 }}{% endwith %}{{ q2 is defined }}", "{% set a = 1 %}{% with a = 2, b = a %}{{ b }}{% endwith %}",
    "a{% generation %}b{{ n }}{% endgeneration %}c", "{% generation %}{% set x = 1 %}{% endgeneration %}{{ x is defined }}", "{% for m in l %}{% generation %}{{ m }}{{ loop.index }}{% endgeneration %}\n{% endfor %}",
    "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% print 1, 2 %}", "{% do l.append(1) %}",
    "{{ n", "{% if n", "{{ }}", "{% %}", "{{ n }} }}", "{ { n } }", "{{n}}", "{{-n-}}", "{{ -n }}", "{{- -n -}}", "{{+ n }}", "{{ 'a' -}}  b", "x{{ s }}\n", "{{ s\n}}", "{{\n\n1/0 }}",
    "{{ 1 }}{% set x = 1 %}\n\n{{ x }}", "\t{% set x = 1 %}\nA\t{% set x = 2 %}\n B", "{% set x = 1 %}   \n  B", "a\u00a0 {%- set x = 1 -%} \u2003b", "   {{ 1 }}", "{{ 1 }}   {% if t %}x{% endif %}", "{% if t %}   {% endif %}|", "{% if t -%}   x{%- endif %}\n\n|",
    "{% if 'nosuch' is string %}{{ 1 }}{% else %}{{ 1|nosuch }}{% endif %}", "{% if 0 %}{% for x in l %}{{ x|nosuch }}{% endfor %}{% endif %}",
    "{%- for x in l -%}\n  {{ x }}\n{%- endfor -%}\n", "{% for x in l %}\n{{ x }}\n{% endfor %}\n", "{% for x in l -%}\n  {{ x }}\n{% endfor %}", "{{ (l|map('string')|list) + ['x'] }}",
    "{% set g = l|map('string') %}{{ g|join }}|{{ g|join }}|{{ g is iterable }}{{ g is sequence }}", "{% set g = l|select %}{{ g|first }}{{ g|list }}", "{% set g = l|select %}{{ g|length }}", "{% set g = l|select %}{{ g[0] is defined }}{{ 'T' if g else 'F' }}", "{% set g = l|map('string') %}{{ '1' in g }}{{ g|list }}",
    "{% for g, us in users|groupby('age') %}{{ g }}:{{ us|map(attribute='name')|join(',') }};{% endfor %}", "{% for g in users|groupby('age') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}", "{% for row in l|batch(2, '-') %}{{ row }}{% endfor %}", "{% for a in l|sort %}{{ a }}{% endfor %}",
    "{% set x = {'a': 1} %}{{ dict(x, b=2) }}{{ x }}", "{% set x = [1] %}{% set _ = x.append(2) %}", "{% set _ = d.update({'z': 1}) %}", "{% set x = 'a' %}{% set x = x ~ 'b' %}{{ x }}", "{% set s = s[0:3] + '...' %}{{ s }}",
    "{% if d.a is defined and d.a is string and d.a|length > 0 %}y{% endif %}", "{% if 'x' in d.a %}y{% endif %}", "{% if d.zz is not defined %}y{% endif %}", "{% if not d.zz %}y{% endif %}", "{% if d.get('q') is none %}y{% endif %}", "{{ d['c'][1]['k'] }}{{ d.c[1].k is none }}",
    "{{ users|tojson(indent=4) }}", "{{ raise_exception('stop: ' + s) }}", "a{% if n == 7 %}{{ raise_exception('seven') }}{% endif %}", "{% for x in range(3) %}{{ x }}{{ ',' if not loop.last }}{% endfor %}", "{{ [1,2,3][1:] | join('-') }}", "{{ s.split(',')[0].strip() ~ '!' }}", "{{ 'ab' in 'cab' }}{{ 'x' not in s }}",
]

CASES = [("[{{ " + e + " }}]", V) for e in EXPRESSIONS] + [(s, V) for s in STATEMENTS]
