"""Every filter, test and global of jinja2, and Python's methods, each in small templates run by transformers."""

from __future__ import annotations

import datetime as clock
from pathlib import Path
from typing import Any

from jinja2 import defaults

from .chat import render, renderer, turns
from .common import write_json

FILTERS: dict[str, list[str]] = {
    "abs": ["{{ (-3) | abs }} {{ 2.5 | abs }}"],
    "attr": ["[{{ messages[0] | attr('nothing') }}]"],
    "batch": ["{% for row in [1, 2, 3, 4, 5] | batch(2, 0) %}{{ row }}{% endfor %}", "{{ 'abc' | batch(2) | list }}"],
    "capitalize": ["{{ 'hELLO wORLD' | capitalize }}"],
    "center": ["[{{ 'ab' | center(7) }}]", "[{{ 'abc' | center(2) }}]", "[{{ 'ab' | center | length }}]"],
    "count": ["{{ 'abc' | count }}"],
    "d": ["{{ nothing | d('x') }}", "{{ '' | d('x', true) }}"],
    "default": ["{{ nothing | default(7) }}", "{{ none | default('x', boolean=true) }}", "[{{ nothing | default }}]"],
    "dictsort": [
        "{{ {'b': 1, 'A': 3, 'c': 2} | dictsort }}",
        "{{ {'b': 1, 'A': 3, 'c': 2} | dictsort(case_sensitive=true) }}",
        "{{ {'b': 1, 'a': 3, 'c': 2} | dictsort(false, 'value', reverse=true) }}",
    ],
    "e": ["{{ '<\\'\"&>' | e }}"],
    "escape": ["{{ '<b>' | escape }}", "{{ 3 | escape }}"],
    "filesizeformat": [
        "{{ 0 | filesizeformat }}, {{ 1 | filesizeformat }}, {{ 100 | filesizeformat }}, {{ 1000 | filesizeformat }}",
        "{{ 123456789 | filesizeformat }}, {{ 123456789 | filesizeformat(true) }}, {{ 1e18 | filesizeformat }}",
        "{{ '3000' | filesizeformat }}",
    ],
    "first": ["{{ [1, 2] | first }} {{ 'xyz' | first }} [{{ [] | first }}]"],
    "float": ["{{ '3.5' | float }} {{ 'x' | float }} {{ 'x' | float(1.5) }} {{ 2 | float }} {{ '1e3' | float }}"],
    "forceescape": ["{{ '<b>' | forceescape }}", "{{ '<b>' | e | forceescape }}"],
    "format": ["{{ '%s is %d' | format('x', 3) }}", "{{ '%(a)s-%(b)05.1f' | format(a='x', b=2.25) }}"],
    "groupby": [
        "{% for role, list in messages | groupby('role') %}{{ role }}:{{ list | length }} {% endfor %}",
        "{% for group in messages | groupby(attribute='role') %}{{ group.grouper }}{{ group.list | length }}{% endfor %}",
    ],
    "indent": [
        "{{ 'a\\nb\\n\\nc' | indent(2) }}",
        "{{ 'a\\nb\\n\\nc' | indent(2, true, true) }}",
        "{{ 'a\\nb' | indent(width='> ', first=true) }}",
        "{{ 'a\\nb' | indent }}",
    ],
    "int": ["{{ '42' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 3.9 | int }} {{ '0x1f' | int(0, 16) }} {{ '12.7' | int }}"],
    "items": ["{% for k, v in {'x': 1} | items %}{{ k }}={{ v }}{% endfor %}", "{{ nothing | items | list }}"],
    "join": [
        "{{ [1, none, 'a', 2.0, true] | join('|') }}",
        "{{ messages | join(', ', attribute='role') }}",
        "{{ [[1, 'a'], (2, 3)] | join(' ') }}",
    ],
    "last": ["{{ [1, 2] | last }} {{ 'xyz' | last }}"],
    "length": ["{{ {'a': 1} | length }} {{ 'é' | length }} {{ (1, 2) | length }}"],
    "list": ["{{ 'abc' | list }} {{ {'a': 1} | list }} {{ range(3) | list }} {{ (1, 2) | list }}"],
    "lower": ["{{ 'ÀB' | lower }} {{ 1 | lower }} {{ true | lower }}"],
    "map": [
        "{{ ['a', 'b'] | map('upper') | list }}",
        "{{ messages | map(attribute='nothing', default='-') | join }}",
        "{{ [1, 2] | map('string') | list }}",
        "{{ ['x', 'y'] | map('replace', 'x', 'z') | list }}",
    ],
    "max": ["{{ [1, 5, 3] | max }} {{ ['a', 'B'] | max }} {{ ['a', 'B'] | max(case_sensitive=true) }} [{{ [] | max }}]"],
    "min": ["{{ [4, 1, 3] | min }} {{ messages | min(attribute='role') }}"],
    "pprint": ["{{ [1, 'a', none, {'k': (1,)}] | pprint }}", "{{ 'text' | pprint }}"],
    "random": ["{{ [1] | random }}"],
    "reject": ["{{ [1, 2, 3] | reject('odd') | list }}", "{{ [0, 1, ''] | reject | list }}"],
    "rejectattr": ["{{ messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | list }}"],
    "replace": ["{{ 'aaaa' | replace('a', 'b', 2) }}", "{{ 'abc' | replace('', '-') }}"],
    "reverse": ["{{ 'abc' | reverse }} {{ [1, 2] | reverse | list }}"],
    "round": [
        "{{ 2.5 | round }} {{ 3.14159 | round(2) }} {{ 7 | round }} {{ 2.1 | round(0, 'ceil') }} {{ 2.9 | round(0, 'floor') }}",
        "{{ 0.5 | round }} {{ 1.5 | round }} {{ 1234.5 | round(-2) }} {{ 2.675 | round(2) }} {{ 3.7 | round | int }}",
    ],
    "safe": ["{{ '<b>' | safe }}"],
    "select": ["{{ [1, 2, 3] | select('odd') | list }}", "{{ [0, 1, ''] | select | list }}", "{{ [1, 5] | select('gt', 2) | list }}"],
    "selectattr": ["{{ messages | selectattr('role', 'in', ['system']) | map(attribute='content') | list }}"],
    "slice": ["{% for part in [1, 2, 3, 4, 5] | slice(3) %}{{ part }}{% endfor %}", "{{ [1, 2, 3] | slice(2, 'x') | list }}"],
    "sort": [
        "{{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A'] | sort(case_sensitive=true) }} {{ [1, 3, 2] | sort(reverse=true) }}",
        "{{ messages | sort(attribute='role') | map(attribute='role') | list }}",
        "{{ [(2, 'a'), (1, 'b')] | sort }}",
    ],
    "string": ["{{ 1 | string ~ 2.0 | string }} {{ none | string }} {{ [1] | string }}"],
    "striptags": ["{{ '<p>a &amp; <b>b</b>\\n  c</p><!-- x -->' | striptags }}"],
    "sum": ["{{ [1, 2, 3] | sum }} {{ [0.5, 1] | sum(start=1) }} {{ [{'n': 1}, {'n': 2}] | sum('n') }}"],
    "title": ["{{ \"foo bar-baz o'neil (x)\" | title }}"],
    "tojson": ["{{ (1, 2) | tojson }} {{ 1e16 | tojson }} {{ 1.0 | tojson }} {{ {1: 2, none: 3, true: 4} | tojson }}"],
    "trim": ["[{{ '  a ' | trim }}][{{ 'xxaxx' | trim('x') }}][{{ 3 | trim }}]"],
    "truncate": [
        "{{ 'foo bar baz qux' | truncate(9) }}|{{ 'foo bar baz qux' | truncate(9, true) }}|{{ 'foo bar baz' | truncate(11) }}",
        "{{ 'foo bar baz qux' | truncate(9, false, '!', 0) }}|{{ 'foo bar baz qux' | truncate(11, true, '...', 0) }}",
        "{{ 'x' | truncate }}",
    ],
    "unique": ["{{ ['a', 'A', 'b'] | unique | list }} {{ ['a', 'A'] | unique(true) | list }}"],
    "upper": ["{{ 'straße' | upper }}"],
    "urlencode": ["{{ 'a b/ü?&=' | urlencode }} {{ {'a': 1, 'b c': '/'} | urlencode }} {{ [('x', 'y z')] | urlencode }}"],
    "urlize": ["{{ 'see http://x.org' | urlize }}"],
    "wordcount": ["{{ \"a b, c's d-e\" | wordcount }}"],
    "wordwrap": [
        "{{ 'aaa bb cccc d' | wordwrap(6) }}",
        "{{ 'abcdefghij kl' | wordwrap(4) }}|{{ 'abcdefghij kl' | wordwrap(4, false) }}",
        "{{ 'one two\\n\\nthree four' | wordwrap(5, wrapstring='/') }}|{{ 'a-b-c-d e' | wordwrap(4) }}",
    ],
    "xmlattr": ["<a{{ {'id': 'x<', 'n': none, 'b': 1} | xmlattr }}>", "<a{{ {'id': 1} | xmlattr(false) }}>"],
}

TESTS: dict[str, list[str]] = {
    "boolean": ["{{ true is boolean }} {{ 1 is boolean }}"],
    "callable": ["{{ range is callable }} {{ 1 is callable }} {{ raise_exception is callable }} {{ messages is callable }}"],
    "defined": ["{{ x is defined }} {{ messages is defined }}"],
    "divisibleby": ["{{ 9 is divisibleby(3) }} {{ 8 is divisibleby 3 }}"],
    "eq": ["{{ 1 is eq 1.0 }} {{ 'a' is eq 'b' }} {{ (1, 2) == (1, 2) }}"],
    "equalto": ["{{ none is equalto none }}"],
    "escaped": ["{{ 'a' is escaped }}", "{{ 'a' | e is escaped }}"],
    "even": ["{{ 2 is even }} {{ 3 is even }}"],
    "false": ["{{ false is false }} {{ 0 is false }}"],
    "filter": ["{{ 'upper' is filter }} {{ 'nosuch' is filter }}"],
    "float": ["{{ 1.0 is float }} {{ 1 is float }}"],
    "ge": ["{{ 2 is ge 2 }}"],
    "greaterthan": ["{{ 2 is greaterthan 2 }}"],
    "gt": ["{{ 'b' is gt 'a' }}"],
    "in": ["{{ 1 is in [1] }} {{ 'b' is in 'abc' }} {{ 'k' is in {'k': 1} }} {{ 3 is in [1, 2] }}"],
    "integer": ["{{ 1 is integer }} {{ 1.0 is integer }} {{ true is integer }}"],
    "iterable": [
        "{{ 'a' is iterable }} {{ {} is iterable }} {{ (1,) is iterable }} {{ 1 is iterable }} {{ range(2) is iterable }}",
        "{{ none is iterable }} {{ nothing is iterable }} {{ messages[0] is iterable }} {{ {}.items() is iterable }}",
    ],
    "le": ["{{ 2 is le 1 }}"],
    "lessthan": ["{{ 1 is lessthan 2 }}"],
    "lower": ["{{ 'ab1' is lower }} {{ 'aB' is lower }} {{ '1' is lower }}"],
    "lt": ["{{ 1 is lt 2 }}"],
    "mapping": ["{{ {} is mapping }} {{ 'a' is mapping }} {{ [] is mapping }} {{ messages[0] is mapping }} {{ dict(a=1) is mapping }}"],
    "ne": ["{{ 1 is ne 2 }}"],
    "none": ["{{ none is none }} {{ nothing is none }}"],
    "number": ["{{ 1 is number }} {{ 1.5 is number }} {{ true is number }} {{ '1' is number }}"],
    "odd": ["{{ 3 is odd }} {{ 2 is odd }}"],
    "sameas": ["{{ none is sameas none }} {{ true is sameas true }} {{ 1 is sameas true }}"],
    "sequence": [
        "{{ 'a' is sequence }} {{ [] is sequence }} {{ (1,) is sequence }} {{ {} is sequence }} {{ 1 is sequence }}",
        "{{ none is sequence }} {{ nothing is sequence }} {{ messages[0] is sequence }}",
        "{{ range(2) is sequence }}",
        "{{ {}.items() is sequence }}", "{{ ([1] | map('upper')) is sequence }}",
    ],
    "string": ["{{ 'a' is string }} {{ 1 is string }} {{ 'a' | safe is string }} {{ ['a'] is string }}"],
    "test": ["{{ 'odd' is test }} {{ 'nosuch' is test }}"],
    "true": ["{{ true is true }} {{ 1 is true }}"],
    "undefined": ["{{ x is undefined }} {{ messages is undefined }}"],
    "upper": ["{{ 'AB1' is upper }} {{ 'aB' is upper }}"],
    "!=": ["{{ [1, 2] | select('!=', 1) | list }}"],
    "<": ["{{ [1, 2] | select('<', 2) | list }}"],
    "<=": ["{{ [1, 2] | select('<=', 1) | list }}"],
    "==": ["{{ [1, 2] | select('==', 1) | list }}"],
    ">": ["{{ [1, 2] | select('>', 1) | list }}"],
    ">=": ["{{ [1, 2] | select('>=', 2) | list }}"],
}

GLOBALS: dict[str, list[str]] = {
    "cycler": ["{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{% set _ = c.reset() %}{{ c.next() }}"],
    "dict": ["{{ dict(a=1, b='x') }} {{ dict({'k': 1}, z=2) }} {{ dict([('a', 1)]) }}"],
    "joiner": ["{% set j = joiner('; ') %}{{ j() }}a{{ j() }}b{{ j() }}"],
    "lipsum": ["{{ lipsum(1, false, 3, 4) }}"],
    "namespace": ["{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}", "{% set ns = namespace({'x': 5}, y=6) %}{{ ns.x + ns.y }}"],
    "range": ["{{ range(2) | list }} {{ range(1, 7, 3) | list }} {{ range(3)[1] }} {{ range(3) | length }} {{ 2 in range(3) }}", "{{ range(4) }}"],
}

STR: dict[str, list[str]] = {
    "capitalize": ["{{ 'aB cD'.capitalize() }}"],
    "casefold": ["{{ 'Straße'.casefold() }}"],
    "center": ["[{{ 'ab'.center(5, '*') }}]"],
    "count": ["{{ 'banana'.count('an') }} {{ 'banana'.count('a', 2) }} {{ 'banana'.count('a', 2, 4) }} {{ 'ab'.count('') }}"],
    "encode": [],
    "endswith": ["{{ 'abc'.endswith('bc') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.endswith('b', 0, 2) }}"],
    "expandtabs": ["[{{ 'a\\tbc\\td'.expandtabs(4) }}][{{ '\\t'.expandtabs() }}]"],
    "find": ["{{ 'banana'.find('n') }} {{ 'banana'.find('n', 3) }} {{ 'banana'.find('n', 3, 4) }} {{ 'éa'.find('a') }}"],
    "format": [
        "{{ '{} {1} {0}'.format('a', 'b') if false else '{1} {0}'.format('a', 'b') }}",
        "{{ '{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}|{:,}'.format('a', 'b', 'c', 42, 3.14159, 1234567) }}",
        "{{ '{x}/{y[k]}/{z[1]}'.format(x=1, y={'k': 'v'}, z=[1, 2]) }} {{ '{{}}'.format() }}",
        "{{ '{} {} {} {}'.format(none, true, 1.0, [1, 'a']) }}", "{{ '{!r}'.format('a') }}",
    ],
    "format_map": ["{{ '{a}-{b}'.format_map({'a': 1, 'b': 2}) }}"],
    "index": ["{{ 'banana'.index('n') }}", "{{ 'banana'.index('x') }}"],
    "isalnum": ["{{ 'a1'.isalnum() }} {{ 'a 1'.isalnum() }} {{ ''.isalnum() }}"],
    "isalpha": ["{{ 'aé'.isalpha() }} {{ 'a1'.isalpha() }}"],
    "isascii": ["{{ 'a'.isascii() }} {{ 'é'.isascii() }} {{ ''.isascii() }}"],
    "isdecimal": ["{{ '12'.isdecimal() }} {{ '²'.isdecimal() }} {{ '½'.isdecimal() }} {{ '٣'.isdecimal() }}"],
    "isdigit": ["{{ '12'.isdigit() }} {{ '²'.isdigit() }} {{ '½'.isdigit() }} {{ '-1'.isdigit() }}"],
    "isidentifier": ["{{ 'a_1'.isidentifier() }} {{ '1a'.isidentifier() }} {{ ''.isidentifier() }}"],
    "islower": ["{{ 'a1'.islower() }} {{ 'aB'.islower() }} {{ '1'.islower() }}"],
    "isnumeric": ["{{ '½'.isnumeric() }} {{ 'a'.isnumeric() }}"],
    "isprintable": ["{{ 'a b'.isprintable() }} {{ 'a\\n'.isprintable() }} {{ ''.isprintable() }}"],
    "isspace": ["{{ ' \\t'.isspace() }} {{ ''.isspace() }}"],
    "istitle": ["{{ 'Ab Cd'.istitle() }} {{ 'Ab cd'.istitle() }} {{ '12'.istitle() }}"],
    "isupper": ["{{ 'A1'.isupper() }} {{ 'aB'.isupper() }}"],
    "join": ["{{ '-'.join(['a', 'b']) }} {{ ','.join('abc') }} {{ '+'.join(('x', 'y')) }}", "{{ '-'.join([1, 2]) }}"],
    "ljust": ["[{{ 'a'.ljust(3) }}][{{ 'a'.ljust(3, '.') }}]"],
    "lower": ["{{ 'ÀB'.lower() }}"],
    "lstrip": ["[{{ ' a '.lstrip() }}][{{ 'xya'.lstrip('yx') }}]"],
    "maketrans": [],
    "partition": ["{{ 'a=b=c'.partition('=') }} {{ 'abc'.partition('=') }}"],
    "removeprefix": ["{{ 'abab'.removeprefix('ab') }} {{ 'x'.removeprefix('y') }}"],
    "removesuffix": ["{{ 'abab'.removesuffix('ab') }} {{ 'x'.removesuffix('') }}"],
    "replace": ["{{ 'aaa'.replace('a', 'b', 1) }} {{ 'abc'.replace('', '-') }} {{ 'aaa'.replace('a', 'b', -1) }}"],
    "rfind": ["{{ 'banana'.rfind('n') }} {{ 'banana'.rfind('n', 0, 3) }} {{ 'banana'.rfind('x') }}"],
    "rindex": ["{{ 'banana'.rindex('n') }}", "{{ 'banana'.rindex('x') }}"],
    "rjust": ["[{{ 'a'.rjust(3) }}][{{ 'a'.rjust(3, '.') }}]"],
    "rpartition": ["{{ 'a=b=c'.rpartition('=') }}"],
    "rsplit": ["{{ 'a b  c'.rsplit() }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a b c'.rsplit(none, 1) }} {{ 'a,b'.rsplit(',', maxsplit=1) }}"],
    "rstrip": ["[{{ ' a '.rstrip() }}][{{ 'axy'.rstrip('yx') }}]"],
    "split": [
        "{{ ' a b  c '.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }}",
        "{{ 'a,b,c'.split(',', maxsplit=1) }} {{ 'a,b'.split(sep=',') }} {{ ''.split() }} {{ ''.split(',') }}",
    ],
    "splitlines": ["{{ 'a\\nb\\r\\nc\\rd\\n'.splitlines() }} {{ 'a\\nb\\r\\nc'.splitlines(true) }} {{ 'a\\x0bb\\u2028c'.splitlines() }} {{ 'a\\n\\n'.splitlines(keepends=true) }}"],
    "startswith": ["{{ 'abc'.startswith('ab') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.startswith('b', 1) }}"],
    "strip": ["[{{ ' a '.strip() }}][{{ 'xyaxy'.strip('yx') }}][{{ '\\x1c a\\x1f'.strip() }}]"],
    "swapcase": ["{{ 'aBc'.swapcase() }}"],
    "title": ["{{ \"foo bar-baz o'neil 3rd\".title() }}"],
    "translate": [],
    "upper": ["{{ 'straße'.upper() }}"],
    "zfill": ["{{ '-42'.zfill(5) }} {{ '+1'.zfill(4) }} {{ 'ab'.zfill(4) }}"],
}

LIST: dict[str, list[str]] = {
    "append": ["{% set l = [1] %}{% set _ = l.append(2) %}{{ l }}"],
    "clear": ["{% set l = [1] %}{% set _ = l.clear() %}{{ l }}"],
    "copy": ["{{ [1, 2].copy() }}"],
    "count": ["{{ [1, 2, 1].count(1) }}"],
    "extend": ["{% set l = [1] %}{% set _ = l.extend([2]) %}{{ l }}"],
    "index": ["{{ ['a', 'b', 'a'].index('b') }} {{ ['a', 'b', 'a'].index('a', 1) }}", "{{ [1].index(2) }}"],
    "insert": ["{% set l = [1] %}{% set _ = l.insert(0, 2) %}{{ l }}"],
    "pop": ["{% set l = [1, 2] %}{{ l.pop() }}"],
    "remove": ["{% set l = [1, 2] %}{% set _ = l.remove(1) %}"],
    "reverse": ["{% set l = [1, 2] %}{% set _ = l.reverse() %}"],
    "sort": ["{% set l = [2, 1] %}{% set _ = l.sort() %}"],
}
DICT: dict[str, list[str]] = {
    "clear": ["{% set d = {'a': 1} %}{% set _ = d.clear() %}"],
    "copy": ["{{ {'a': 1}.copy() }}"],
    "fromkeys": ["{{ {}.fromkeys(['a', 'b'], 0) }} {{ {}.fromkeys('xy') }}"],
    "get": ["{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }}"],
    "items": ["{{ {'a': 1}.items() | list }} {% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}"],
    "keys": ["{{ {'a': 1}.keys() | list }} {{ {'a': 1, 'b': 2}.keys() | length }}"],
    "pop": ["{% set d = {'a': 1} %}{{ d.pop('a') }}"],
    "popitem": ["{% set d = {'a': 1} %}{{ d.popitem() }}"],
    "setdefault": ["{% set d = {'a': 1} %}{{ d.setdefault('a', 2) }}"],
    "update": ["{% set d = {'a': 1} %}{% set _ = d.update({'b': 2}) %}"],
    "values": ["{{ {'a': 1}.values() | list }}", "{{ {'a': 1}.values() }}"],
}
TUPLE: dict[str, list[str]] = {
    "count": ["{{ (1, 2, 1).count(1) }}"],
    "index": ["{{ (1, 2, 1).index(2) }}"],
}

VALUES: dict[str, list[str]] = {
    "tuples": [
        "{{ (1, 2) }} {{ (1,) }} {{ () }} {{ ('a', none, 2.0) }} {{ [(1, 2)] }} {{ ((1,), [2]) }}",
        "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }} {% endfor %}",
        "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
        "{% set a, b = (1, 2) %}{{ b }}{{ a }} {% set t = 1, 2 %}{{ t }}",
        "{{ (1, 2)[0] }} {{ (1, 2)[-1] }} {{ (1, 2, 3)[1:] }} {{ (1, 2) + (3,) }} {{ (1,) * 3 }} {{ 2 in (1, 2) }}",
        "{{ (1, 2) == (1, 2) }} {{ (1, 2) < (1, 3) }} {{ (1, 2) == [1, 2] }} {{ (1, 2) | tojson }} {{ (1, 2) | length }}",
        "{{ {(1, 2): 'x'}[(1, 2)] }} {{ {'a': (1, 2)} }} {{ 'x' if () else 'empty' }} {{ 'x' ~ (1, 2) }}",
        "{{ {'a': 1}.items() | first }} {{ [1, 2] | list | first }} {{ (3, 1, 2) | sort }} {{ (1, 2) | join('-') }}",
    ],
    "strings in values": [
        "{{ ['a\\'b', 'c\"d', 'e\\'\"f', 'g\\\\h', 'i\\nj\\tk\\rl', 'é', '\\x00\\x7f\\x85\\xa0\\u200b\\ud7ff'] }}",
        "{{ ['\\U0001f600'] }}",
    ],
    "numbers": [
        "{{ 1.0 }} {{ 1e16 }} {{ 1e15 }} {{ 1e-5 }} {{ 0.0001 }} {{ 123456789012345678.0 }} {{ 1.5e300 }} {{ 0.1 + 0.2 }} {{ -0.0 }}",
        "{{ 1e999 }} {{ -1e999 }} {{ 1e22 }} {{ 5e-324 }} {{ 100000000000000000000 }} {{ 2 ** 70 }} {{ 1_000 }}",
        "{{ [1e16, 1.0, 1e-5] }} {{ {'a': 1e16} }} {{ 1e16 | string }} {{ 'x' ~ 2.0 ~ 1.5 }} {{ [1.5, 2.0] | join(',') }}",
        "{{ 'x' ~ 1e16 }}",
        "{{ [1e16] | join(',') }}",
        "{{ 7 / 2 }} {{ 6 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7.5 % 2 }} {{ 7.5 // 2 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }}",
        "{{ 1 + true }} {{ true + true }} {{ 1 == true }} {{ 1 == 1.0 }} {{ 1 < 1.5 }} {{ not 0 }} {{ 3 and 4 }} {{ 0 or 'x' }}",
        "{{ 1e16 | tojson }} {{ 1e-7 | tojson }} {{ 1e999 | tojson }} {{ [1.0, 1e22] | tojson }} {{ 1e16 | int }}",
    ],
    "percent": [
        "{{ '%s-%s' % ('a', 'b') }} {{ '%s' % 'x' }} {{ '%d' % 3 }} {{ '%d%%' % 5 }} {{ '%s' % (('a', 1),) }}",
        "{{ '%05.2f|%+d|%x|%X|%o|%e|%g|%c|%5s|%-5s|' % (3.14159, 5, 255, 255, 8, 12345.678, 0.00001, 'A', 'r', 'l') }}",
        "{{ '%(a)s %(b)d' % {'a': 'x', 'b': 2} }} {{ '%s' % none }} {{ '%s' % true }} {{ '%s' % [1, 'a'] }} {{ '%r' % 'a' }}",
        "{{ '%s' % 1e16 }} {{ '%s' % 2.0 }} {{ '%d' % 3.7 }} {{ '%i' % true }} {{ '%.3s' % 'abcdef' }} {{ '%*d' % (5, 42) }}",
        "{{ '%G|%g|%g|%g|%E|%#x|% d|%F' % (1e-10, 1e10, 100000.0, 1000000.0, 0.0, 255, 5, 1.5) }}",
        "{% set f = '%s!' %}{{ f % messages[0].role }} {{ (f ~ '%s') % (1, 2) }} {{ messages[0].role ~ '%d' % 3 }}",
        "{{ 7 % 3 }} {{ 7 % 3 * 2 }} {{ 2 * 7 % 4 }} {{ 10 % 4 % 3 }} {{ 1 + 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 3 % 5 }} {{ 7 % 2 ** 2 }}",
        "{% for m in messages %}{{ loop.index0 % 2 }}{{ 'x' if loop.index % 2 == 0 and loop.index0 % 3 != 0 else 'y' }}{% endfor %}",
        "{% if (messages[0]['role'] == 'user') != (0 % 2 == 0) %}a{% else %}b{% endif %} {{ [1, 2, 3][4 % 3] }} {{ {'k': 5 % 3}['k'] }}",
        "{%- set n = 5 % 3 -%}{{- n % 2 -}} {{ (5 % 3) is odd }} {{ 5 % 3 is odd }} {{ not 4 % 2 }} {{ [5 % 2] }}",
        "{{ '%d' }} {{ 'a %} b' }} {{ range(7 % 4) | list }} {% if 5 % 2 %}odd{% endif %} {{ 'a' if 1 % 2 else 'b' }} {{ 5 % 3 if true }}",
        "{% for i in range(4) if i % 2 == 0 %}{{ i }}{% endfor %} {% set x = {'a': 7 % 4, 'b': '%s' % 1} %}{{ x }} {{ 5 % 2 ~ 7 % 4 }}",
        "{% for i in range(5 % 3) %}{{ i }}{% endfor %} {% set y %}{{ 7 % 5 }}{% endset %}{{ y }} {{ '%s' | format(5 % 3) }} {{ f(x=5 % 3) if false }}",
        "{{ '%s %s' % ('a',) }}",
        "{{ '%s' % ('a', 'b') }}",
        "{{ '%d' % 'a' }}",
        "{{ '%q' % 1 }}",
        "{{ [] % 2 }}",
        "{{ 'plain' % 2 }}",
        "{{ 5 % 0 }}",
    ],
    "slices": ["{{ 'héllo'[1:3] }} {{ 'abc'[::-1] }} {{ [1, 2, 3][:-1] }} {{ 'abc'[5:] }}| {{ [1, 2, 3][::2] }} {{ 'abc'[-2] }}"],
    "undefined": ["{{ nothing }}|{{ messages[0].nothing }}|{{ nothing ~ 'x' }}|{{ nothing | length }}|{{ nothing == none }}|{{ [nothing] }}"],
    "equality": ["{{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }} {{ [1] == [1.0] }} {{ 'a' == 1 }} {{ none == false }} {{ 'a' < 'b' }}"],
    "maps": ["{{ {'a': none, 1: true, none: 2.5} }} {{ {'b': 1, 'a': 2} }} {% for k in {'b': 1, 'a': 2} %}{{ k }}{% endfor %}"],
}

MOMENTS = [
    clock.datetime(2025, 3, 4, 5, 6, 7),
    clock.datetime(1999, 12, 31, 23, 59, 59),
    clock.datetime(2024, 2, 29, 0, 0, 0),
    clock.datetime(2027, 1, 3, 12, 30, 1),
    clock.datetime(2020, 12, 28, 11, 9, 9),
    clock.datetime(1970, 1, 1, 1, 1, 1),
]
# The tables of Python's documentation, and what the C library beneath knows besides.
CODES = "aAwdbBmyYHIMpMSfzZjUWcxXGuV%" + "CDehnrRtTFgklPs"


def make_strftime(root: Path) -> None:
    """strftime.json: each code, alone and without its padding, at moments near every edge."""
    cases = []
    for moment in MOMENTS:
        formats = [f"%{code}" for code in CODES if code != "s"] + [f"%-{code}" for code in "dmyHIMSjUWVeCklg"]
        formats += ["%d %b %Y", "100% %", "%A, %-d. %B %Y, %-I:%M %p", "%%d", "é%Yé"]
        texts = {text: moment.strftime(text) for text in formats}
        cases.append({"now": moment.isoformat(), "unix": int(moment.replace(tzinfo=clock.timezone.utc).timestamp()), "texts": texts})
    write_json(root / "strftime.json", cases)


def make_jinja_features(root: Path) -> None:
    """jinja_features.json."""
    missing = set(defaults.DEFAULT_FILTERS) ^ set(FILTERS) | set(defaults.DEFAULT_TESTS) ^ set(TESTS)
    missing |= set(defaults.DEFAULT_NAMESPACE) ^ set(GLOBALS)
    for kind, methods in ((str, STR), (list, LIST), (dict, DICT), (tuple, TUPLE)):
        missing |= {name for name in dir(kind) if not name.startswith("_")} ^ set(methods)
    assert not missing, f"without a template: {missing}"
    messages, tokenizer = turns("Hi", "Hello!", "Bye", system="Be kind."), renderer("<s>", "</s>")

    def outcomes(group: dict[str, list[str]]) -> dict[str, list[Any]]:
        def outcome(source: str) -> dict[str, Any]:
            try:
                return {"template": source} | render(tokenizer, source, messages, {"add_generation_prompt": True})
            except (ValueError, ZeroDivisionError, LookupError):
                return {"template": source, "fails": True}

        return {name: [outcome(source) for source in sources] for name, sources in group.items()}

    groups = {"filters": FILTERS, "tests": TESTS, "globals": GLOBALS, "values": VALUES}
    groups |= {"str": STR, "list": LIST, "dict": DICT, "tuple": TUPLE}
    write_json(root / "jinja_features.json", {"messages": messages} | {name: outcomes(group) for name, group in groups.items()})
    make_strftime(root)
