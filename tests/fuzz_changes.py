"""Changes to whole files that know their structure: XML and JSON trees, CSV cells, and those of fuzz_images.

The same Generator gives the same bytes.
"""
import csv
import io
import json
import xml.etree.ElementTree as ElementTree

from fuzz_images import TEXTS, change_dicom, change_png, change_tiff, damage, pick


def change(whole, kind, rng):
    """`whole` after one to three changes of its `kind`, a name in CHANGES; now and then blind damage too."""
    data = whole
    for _ in range(int(rng.integers(1, 4))):
        if len(data) <= 4 * len(whole):                   # what has grown already would grow beyond reason
            data = CHANGES[kind](data, rng)
    return damage(data, rng) if rng.random() < 0.1 else data


# ---- trees -----------------------------------------------------------------------------------------------

ENTITIES = [f'<!ENTITY e{k} "&e{k + 1};&e{k + 1};">' for k in range(40)]
CHAIN = "<!DOCTYPE a [" + "".join(ENTITIES) + '<!ENTITY e40 "x">]>'


def change_xml(data, rng):
    """One element other attributes or text, twice, elsewhere, very often, very deep, or gone; or entities."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError:
        return damage(data, rng)
    parents = [(element, child) for element in root.iter() for child in element]
    if not parents or rng.random() < 0.1:
        return damage(data, rng)
    way = int(rng.integers(9))
    try:
        if way < 7:
            _change_element(*pick(parents, rng), way, rng)
            return ElementTree.tostring(root)
        if way == 7:
            return CHAIN.encode() + ElementTree.tostring(root).replace(b'"Tumor"', b'"&e0;"')
        depth = int(pick((100, 20_000), rng))
        return ElementTree.tostring(root).replace(b"<", b"<a>" * depth + b"<", 1) + b"</a>" * depth
    except RecursionError:                                # it is deep already
        return damage(data, rng)


def _change_element(parent, child, way, rng):
    if way < 3 and child.attrib:
        name = pick(sorted(child.attrib), rng)
        child.set(name, pick(TEXTS, rng).replace("\0", ""))
    elif way == 3:
        child.text = pick(TEXTS, rng).replace("\0", "")
    elif way == 4:
        parent.remove(child)
    elif way == 5:
        parent.extend([child] * int(pick((1, 2, 3000), rng)))
    else:
        child.tag = pick((parent.tag, "Annotation", "Region", "a"), rng)


EXTREMES = (None, True, -1, 0, 1e308, float("nan"), float("inf"), 1 << 63, -(1 << 70), "", "a", [], {}, [[]],
            [None], "../a", "x" * 1000, [0] * 1000, {"a": {"a": {}}})


def _nodes(tree):
    """[(list or dict, index or key)] of what is in a tree of JSON."""
    places = []
    left = [tree] if isinstance(tree, (dict, list)) else []
    while left and len(places) < 5000:
        node = left.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                left.append(node[key])
    return places


def change_json(data, rng):
    """One value another one, gone, or twice; or lists in lists."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return damage(data, rng)
    places = _nodes(tree)
    if not places or rng.random() < 0.1:
        return damage(data, rng) if rng.random() < 0.8 else b"[" * 100_000
    node, key = pick(places, rng)
    way = int(rng.integers(4))
    if way == 0:
        del node[key]
    elif way == 1 and isinstance(node, list):
        node += [node[key]] * int(pick((1, 3000), rng))
    else:
        node[key] = pick(EXTREMES, rng)
    return json.dumps(tree).encode()


# ---- tables ----------------------------------------------------------------------------------------------

def change_table(data, rng):
    """One cell, row or column of a CSV other than it was, twice, or gone; or another form of the file."""
    text = data.decode("utf-8", "replace")
    separator = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator)) or [[""]]
    except csv.Error:
        return damage(data, rng)
    row = pick(rows, rng)
    column = int(rng.integers(max(len(row), 1)))
    way = int(rng.integers(9))
    if way < 4 and row:
        row[column] = pick(TEXTS, rng)
    elif way == 4:
        rows.remove(row)
    elif way == 5:
        rows += [list(row)] * int(pick((1, 2, 2000), rng))
    elif way == 6:
        for line in rows:
            del line[column:column + 1]
    elif way == 7:
        row += [""] * int(pick((1, 5, 5000), rng))
    else:
        return _in_another_form(text, separator, rng)
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator=pick(("\n", "\r\n", "\r"), rng)).writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


def _in_another_form(text, separator, rng):
    way = int(rng.integers(5))
    if way == 0:
        return text.replace(separator, pick(";\t|,", rng)).encode()
    if way == 1:
        return b"\xef\xbb\xbf" + text.encode()
    if way == 2:
        return text.encode(pick(("utf-16", "utf-16-le", "utf-32"), rng))
    if way == 3:
        return text.upper().encode()
    return text.replace("\n", '"\n', 1).encode()


CHANGES = {"dicom": change_dicom, "tiff": change_tiff, "xml": change_xml, "json": change_json,
           "table": change_table, "png": change_png, "bytes": damage}
