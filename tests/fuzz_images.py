"""Changes to bytes: blind ones, and those that know the elements of DICOM, the tags of TIFF and the chunks of
PNG. Each function takes bytes and a numpy Generator and returns other bytes.
"""
import io
import struct
import zlib

import tifffile

NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 17, 64, 127, 128, 255, 256, 4095, 32767, 32768, 40000, 65535, 65536,
           (1 << 24) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
TEXTS = ("", " ", "0", "-1", "1", "1.5", "NaN", "inf", "-1e308", "1e400", "1" * 400, "9223372036854775808",
         "0x10", "1,5", "3.0", "=1+1", "a\0b", "\\", "é", "e\u0301", "\u2028", "١", "None", "true", "L", "CC",
         "MONOCHROME1", "x" * 70_000, "../../a", "1\\2\\3", "LEFT", "tumor", "TCGA-A8-A06U")


def pick(choices, rng):
    return choices[int(rng.integers(len(choices)))]


# ---- blindly ---------------------------------------------------------------------------------------------

def damage(data, rng):
    """`data` cut short, or with bits flipped, bytes set to extremes, or a piece doubled or lost.

    Half the time the damage is within the first 1200 bytes, where the header is.
    """
    data = bytearray(data)
    way = rng.integers(5)
    reach = len(data) if rng.random() < 0.5 else min(len(data), 1200)

    def place():
        return int(rng.integers(max(reach, 1)))

    if way == 0:
        return bytes(data[:place()])
    for _ in range(int(rng.integers(1, 9)) if data else 0):
        k = min(place(), len(data) - 1)
        if way in (1, 2):
            data[k] ^= 1 << int(rng.integers(8))
        elif way == 3:
            extreme = rng.choice([b"\xff\xff", b"\0\0", b"\x60\xea", b"\xff\x7f"])
            data[k:k + 2] = extreme[:len(data) - k]
        else:
            start = place()
            end = place() + int(rng.integers(40))
            lost = int(rng.integers(1, 40))
            data[k:k + lost] = data[start:end] or b" "
    return bytes(data)


# ---- DICOM -----------------------------------------------------------------------------------------------

LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV")
BINARY = {b"US": "<H", b"SS": "<h", b"UL": "<I", b"SL": "<i", b"FL": "<f", b"FD": "<d", b"AT": "<I"}
VALUES = (b"", b"MONOCHROME1", b"MONOCHROME2", b"RGB", b"IDENTITY", b"INVERSE", b"SIGMOID", b"LINEAR_EXACT",
          b"FOR PROCESSING", b"ISO_IR 192", b"-1", b"0", b"1e308", b"NaN", b"0.0000001", b"1\\2\\3", b"65536",
          b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2",
          b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.4.80",
          b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.201", b"1.2.840.10008.1.2.5", b"\xff\xfe",
          b"L", b"MLO")


def elements(data):
    """[(start, start of the value, end, VR)] of the elements of an explicit little-endian file, items and
    what is in them included. It ends where the file is of another kind, or damaged."""
    places = []
    k = 132
    while k + 8 <= len(data):
        group, number = struct.unpack("<HH", data[k:k + 4])
        kind = data[k + 4:k + 6]
        if group == 0xFFFE:                                # an item, or the end of one or of a sequence
            kind = b"--"
            length = struct.unpack("<I", data[k + 4:k + 8])[0]
            value = k + 8
        elif kind in LONG:
            if k + 12 > len(data):
                break
            length = struct.unpack("<I", data[k + 8:k + 12])[0]
            value = k + 12
        elif kind.isalpha() and kind.isupper():
            length = struct.unpack("<H", data[k + 6:k + 8])[0]
            value = k + 8
        else:
            break
        holds_elements = number == 0xE000 and data[value + 4:value + 6].isupper()
        goes_in = kind == b"SQ" or kind == b"--" and holds_elements
        end = value if goes_in or length == 0xFFFFFFFF else value + length
        places.append((k, value, end, kind))
        k = end
    return places


def change_dicom(data, rng):
    """One element another value, another length, another VR, twice, elsewhere, or gone."""
    places = elements(data)
    if len(places) < 5 or rng.random() < 0.15:
        return damage(data, rng)
    start, value, end, kind = pick(places, rng)
    way = int(rng.integers(6))
    whole = data[start:end]
    if way == 0:
        return data[:start] + data[end:]
    if way == 1:
        return data[:start] + whole * int(pick((2, 3, 200), rng)) + data[end:]
    if way == 2:
        to = pick(places, rng)[0]
        return data[:to] + whole + data[to:]
    if way == 3 and kind != b"--":
        other = pick((*LONG, *BINARY, b"DS", b"IS", b"CS", b"LO"), rng)
        return data[:start + 4] + other + data[start + 6:]
    if way == 4:
        size = value - start - 4 if kind != b"--" and kind not in LONG else 4
        length = pick(NUMBERS, rng).to_bytes(8, "little")[:min(size, 4)]
        return data[:value - len(length)] + length + data[value:]
    other = _new_value(kind, end - value, rng)
    return data[:start] + _with_value(data[start:value], kind, other) + data[end:]


def _new_value(kind, length, rng):
    """Bytes of another value for an element whose value had `length` bytes."""
    if kind in BINARY:
        size = struct.calcsize(BINARY[kind])
        count = int(pick((1, 1, 1, 0, 3), rng))
        return b"".join([pick(NUMBERS, rng).to_bytes(8, "little")[:size] for _ in range(count)])
    if kind in LONG or kind == b"--":
        return rng.bytes(min(int(pick((0, 1, 10, length), rng)), 1 << 20))
    text = pick(VALUES, rng) if rng.random() < 0.6 else pick(TEXTS, rng).encode("utf-8")[:60_000]
    return text + b" " * (len(text) % 2)


def _with_value(header, kind, value):
    """The bytes of an element with this header and another value."""
    if kind in LONG or kind == b"--":
        return header[:-4] + struct.pack("<I", len(value)) + value
    return header[:-2] + struct.pack("<H", len(value)) + value


# ---- TIFF ------------------------------------------------------------------------------------------------

def change_tiff(data, rng):
    """One tag another code, type, count or value."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            order = tiff.byteorder
            big = tiff.is_bigtiff
            tags = [(tag.offset, tag.valueoffset) for page in tiff.pages for tag in page.keyframe.tags]
    except Exception:                                     # it is damaged already
        return damage(data, rng)
    if not tags or rng.random() < 0.15:
        return damage(data, rng)
    tag, value = pick(tags, rng)
    layout = [("H", 0), ("H", 2), ("Q", 4), ("Q", 12)] if big else [("H", 0), ("H", 2), ("I", 4), ("I", 8)]
    codes = (256, 257, 258, 259, 262, 270, 273, 277, 279, 282, 284, 322, 323, 324, 325, 330, 347, 530)
    form, offset = layout[int(pick((0, 1, 2, 3, 3, 3), rng))]
    start = tag + offset
    if value > start and rng.random() < 0.3:              # a value that lies elsewhere
        start = value
    size = struct.calcsize(form)
    number = pick((*NUMBERS, *codes, len(data), tag), rng) % (1 << 8 * size)
    return data[:start] + struct.pack(order + form, number) + data[start + size:]


# ---- PNG -------------------------------------------------------------------------------------------------

def change_png(data, rng):
    """One chunk other than it was, twice or gone, or another size of the picture; with checksums that fit."""
    chunks = []
    k = 8
    while k + 12 <= len(data):
        length = int.from_bytes(data[k:k + 4], "big")
        chunks.append((data[k + 4:k + 8], data[k + 8:k + 8 + length]))
        k += 12 + length
    if len(chunks) < 3 or rng.random() < 0.2:
        return damage(data, rng)
    j = int(rng.integers(len(chunks)))
    name, content = chunks[j]
    way = int(rng.integers(4))
    if way == 0:
        chunks[j:j + 1] = [chunks[j]] * int(pick((0, 2), rng))
    elif way == 1 and content:
        chunks[j] = (name, damage(content, rng))
    elif way == 2:
        other = pick((b"zTXt", b"iCCP", b"tRNS", b"PLTE", b"acTL"), rng)
        chunks.insert(j, (other, b"a\0\0" + zlib.compress(bytes(10_000))))
    else:
        size = b"".join((pick(NUMBERS, rng) % (1 << 32)).to_bytes(4, "big") for _ in range(2))
        chunks[0] = (chunks[0][0], size + chunks[0][1][8:])
    whole = [data[:8]]
    for name, content in chunks:
        checksum = zlib.crc32(name + content).to_bytes(4, "big")
        whole.append(len(content).to_bytes(4, "big") + name + content + checksum)
    return b"".join(whole)
