"""Codes and decoding of the .ccq container: chapter 6 of ../format.md, and the code record of 4.7.

Part of the reference decoder; `ccq.py` beside it reads the container. Numbers in comments are clauses of format.md.
"""
import math
import struct

from ccq_base import ceil_div, need

PLACEMENTS = ("none", "embedded", "nibbles", "signed")
CLUSTERS = ("none", "q8", "f32")


# ---- exact arithmetic: 1.5, 6.5, 6.6 ----

def fl32(x):
    """The nearest f32 to a binary64 number that holds the exact value, ties to even, overflow to infinity."""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def scaled(x):
    """A finite f32 as the integer x * 2^149: every f32 is a multiple of 2^-149."""
    numerator, denominator = x.as_integer_ratio()
    return numerator * (2 ** 149 // denominator)


def round_scaled(n):
    """fl32(n * 2^-149), again times 2^149, or None if it overflows."""
    magnitude = abs(n)
    drop = max(0, magnitude.bit_length() - 24)
    kept, rest, half = magnitude >> drop, magnitude & ((1 << drop) - 1), (1 << drop) >> 1
    if drop and (rest > half or (rest == half and kept & 1)):
        kept += 1
    magnitude = kept << drop
    if magnitude >= 1 << (128 + 149):
        return None
    return -magnitude if n < 0 else magnitude


def expand_f32(q, code_scale, code_zero_point):
    """The integer v of 6.5 for cluster f32: one fused multiply-add on exact integers, then floor and saturation."""
    low, high = -2 ** 31, 2 ** 31 - 1
    if not (math.isfinite(code_scale) and math.isfinite(code_zero_point)):  # what verify refuses still has a value
        total = q * code_scale + code_zero_point
        return 0 if math.isnan(total) else high if total > 0 else low
    addend = round_scaled(scaled(code_zero_point) + 2 ** 148)  # 0.5 is 2^148 here; no finite f32 plus 0.5 overflows
    exact = q * scaled(code_scale) + addend
    total = round_scaled(exact)
    if total is None:
        return high if exact > 0 else low
    return min(max(total >> 149, low), high)


def expand_q8(q, a, zp):
    return (a * q + 256 * zp + 128) >> 8


def pack_weights(differences, scale):  # 6.6
    """fl32(d * scale) for each d. The product of an integer of 17 bits and an f32 is exact in binary64."""
    if math.isfinite(scale):
        try:
            return struct.pack("<%df" % len(differences), *[d * scale for d in differences])
        except OverflowError:
            pass
    products = [fl32(d * scale) for d in differences]
    return b"".join(b"\0\0\xc0\x7f" if math.isnan(p) else struct.pack("<f", p) for p in products)


class Encoding:
    """The code record of a coded tensor, 4.7, and what follows from it."""

    def __init__(self, record, offset):
        def check(condition, message):
            need(condition, "BadEncoding", message, offset)

        fields = struct.unpack("<12sBBBBHB5s", record)
        triples, count, self.word_bits, placement, self.scale_bits, self.group_size, cluster, reserved = fields
        need(not any(reserved), "Reserved", "reserved bytes of a code record are not zero", offset)
        check(1 <= count <= 4, "segment_count is %d" % count)
        segments = list(struct.iter_unpack("<BBB", triples))
        check(not any(map(any, segments[count:])), "an unused segment is not zero")
        self.segments = segments[:count]
        for length, number, step in self.segments:
            check(1 <= length <= 16 and number >= 1 and 1 <= step <= length,
                  "segment (%d,%d,%d) is not valid" % (length, number, step))
        check(self.word_bits in (8, 16), "word_bits is %d" % self.word_bits)
        check(cluster < len(CLUSTERS), "cluster is %d" % cluster)
        check(placement < len(PLACEMENTS), "scale_placement is %d" % placement)
        need(self.group_size in (0, 32, 64, 128), "BadShape", "group_size is %d" % self.group_size, offset)
        self.cluster, self.placement = CLUSTERS[cluster], PLACEMENTS[placement]

        top = self.code_bits = sum(length + (number - 1) * step for length, number, step in self.segments)
        if cluster:
            check(self.word_bits == 8 and 9 <= top <= 16, "a cluster code of %d bits in %d" % (top, self.word_bits))
        else:
            check(top == self.word_bits, "segments of %d bits in a word of %d" % (top, self.word_bits))
        self.states = []  # (shift, mask, zero point) of each state of a word: 6.1
        for length, number, step in self.segments:
            for j in range(number):
                self.states.append((top - length - j * step, (1 << length) - 1, 1 << (length - 1)))
            top -= length + (number - 1) * step

        grouped = self.group_size > 0
        self.spare = 0  # 6.4
        if grouped and not cluster:
            self.spare = self.states[(self.group_size - 1) % len(self.states)][0]
        allowed = {"none": not grouped, "embedded": grouped and self.spare >= 4,
                   "nibbles": grouped and self.spare < 4, "signed": grouped and self.spare < 4}[self.placement]
        check(allowed, "placement %s with group_size %d and %d spare bits"
              % (self.placement, self.group_size, self.spare))
        due = {"none": 0, "embedded": self.spare, "nibbles": 4, "signed": 8}[self.placement]
        check(self.scale_bits == due, "scale_bits is %d, not %d" % (self.scale_bits, due))

    def layout(self, in_features):
        """(weights of a full group, groups of a row, words of a group): 6.2."""
        span = self.group_size or in_features
        return span, ceil_div(in_features, span), ceil_div(span, len(self.states))

    def __str__(self):
        segments = "+".join("(%d,%d,%d)" % s for s in self.segments)
        return "coded %s word_bits=%d scale=%s:%d group_size=%d cluster=%s" % (
            segments, self.word_bits, self.placement, self.scale_bits, self.group_size, self.cluster)


def local_scales(e, groups, words, words_per_group, plane_row):
    """The integers by which the super scale is multiplied, one a group, or None without: 5.5, 6.4."""
    if e.placement == "none":
        return None
    if e.placement == "embedded":
        return [word & ((1 << e.spare) - 1) for word in words[words_per_group - 1::words_per_group]]
    if e.placement == "signed":
        return struct.unpack("<%db" % groups, plane_row)
    return [plane_row[g // 2] >> 4 if g % 2 == 0 else plane_row[g // 2] & 15 for g in range(groups)]


def decode_row(e, in_features, code_row, local_row, super_row, cluster_row, cut):
    """One row as little-endian f32, from its bytes in each plane: 6.9. `cut` is a dict to keep between rows."""
    span, groups, words_per_group = e.layout(in_features)
    words = struct.unpack("<%d%s" % (groups * words_per_group, "B" if e.word_bits == 8 else "H"), code_row)
    super_scale, = struct.unpack("<f", super_row)
    scales = local_scales(e, groups, words, words_per_group, local_row)
    if e.cluster == "none":
        def expand(word):
            return word
    else:
        function, form = {"q8": (expand_q8, "<Hh"), "f32": (expand_f32, "<ff")}[e.cluster]
        pair, mask = struct.unpack(form, cluster_row), (1 << e.code_bits) - 1
        table = {q: function(q, *pair) & mask for q in set(words)}
        expand = table.__getitem__
    out = []
    for g in range(groups):
        size = min(span, in_features - g * span)
        first = g * words_per_group
        differences = []  # state - zero point
        for word in words[first:first + ceil_div(size, len(e.states))]:
            code = expand(word)
            if code not in cut:
                cut[code] = [((code >> shift) & ones) - zero for shift, ones, zero in e.states]
            differences += cut[code]
        scale = super_scale if scales is None else fl32(scales[g] * super_scale)
        out.append(pack_weights(differences[:size], scale))
    return b"".join(out)
