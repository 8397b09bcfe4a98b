"""What the parts of the reference decoder share: errors, checked sizes, names (4.3) and metadata (chapter 7).

Numbers in comments are clauses of ../format.md.
"""
import json
import struct

U64_MAX = 2 ** 64 - 1
MAX_NAME = 1024  # 9.3
VALUES = {1: "bool", 2: "u64", 3: "i64", 4: "f64", 5: "string", 6: "bytes"}


class FormatError(Exception):
    """A file that clause 9.2 refuses: `kind` is the error's name there, `offset` a place in the file or None."""

    def __init__(self, kind, message, offset=None):
        super().__init__("%s: %s%s" % (kind, message, "" if offset is None else " (at offset %d)" % offset))
        self.kind, self.message, self.offset = kind, message, offset


def need(condition, kind, message, offset=None):
    if not condition:
        raise FormatError(kind, message, offset)


def u64(value, what):
    need(value <= U64_MAX, "Overflow", what + " exceeds 2^64 - 1")
    return value


def ceil_div(x, y):
    return -(-x // y)


def align_up(x, a):
    return u64(ceil_div(x, a) * a, "an aligned offset")


def quote(text):
    return json.dumps(text).replace("\x7f", "\\u007f")


def check_name(raw, what, offset):  # 4.3
    need(raw, "BadName", "the name of %s is empty" % what, offset)
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("BadName", "the name of %s is not UTF-8" % what, offset) from None
    control = any(c < "\x20" or "\x7f" <= c <= "\x9f" for c in name)
    need(not control, "BadName", "the name of %s has a control character" % what, offset)
    return name


def check_path(name, offset):  # 4.3
    parts = name.split("/")
    plain = not {"", ".", ".."} & set(parts) and "\\" not in name and ":" not in name
    need(plain, "BadName", "the blob name %s is not a plain relative path" % quote(name), offset)


def parse_metadata(data, offset):
    """The entries of the section as a dict from key to (type, value); `offset` is where it stands in the file."""
    entries, at, previous = {}, 0, None
    while at < len(data):
        here = offset + at
        need(at + 16 <= len(data), "BadMetadata", "an entry is cut off", here)
        key_len, kind, value_len = struct.unpack_from("<IIQ", data, at)
        need(key_len <= MAX_NAME, "LimitExceeded", "a key of %d bytes" % key_len, here)
        end = align_up(u64(at + 16 + key_len + value_len, "the end of an entry"), 8)
        need(end <= len(data), "BadMetadata", "an entry goes beyond the section", here)
        raw = data[at + 16:at + 16 + key_len]
        value = data[at + 16 + key_len:at + 16 + key_len + value_len]
        need(not any(data[at + 16 + key_len + value_len:end]), "Padding", "padding of an entry is not zero", here)
        key = check_name(raw, "a metadata entry", here)
        need(previous is None or previous < raw, "BadMetadata", "%s is out of order" % quote(key), here)
        need(kind in VALUES, "BadMetadata", "%s has type %d" % (quote(key), kind), here + 4)
        if kind <= 4:
            need(value_len == (1 if kind == 1 else 8), "BadMetadata", "%s has a value of %d bytes"
                 % (quote(key), value_len), here + 8)
            need(kind != 1 or value[0] <= 1, "BadMetadata", "the bool %s is %d" % (quote(key), value[0]), here)
            value, = struct.unpack({1: "?", 2: "<Q", 3: "<q", 4: "<d"}[kind], value)
        elif kind == 5:
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError:
                raise FormatError("BadMetadata", "%s is not UTF-8" % quote(key), here) from None
        known = ("ccq.part", "ccq.producer", "ccq.recipe", "ccq.transposed")
        need(kind == 5 or key not in known, "BadMetadata",
             "%s is not a string" % quote(key), here + 4)
        entries[key] = (VALUES[kind], value)
        previous, at = raw, end
    return entries
