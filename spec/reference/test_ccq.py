"""Tests of the reference decoder: `python3 -m unittest` in this folder. The files come from a small writer here."""
import contextlib
import io
import math
import os
import random
import struct
import sys
import tempfile
import unittest
import zlib
from fractions import Fraction

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ccq  # noqa: E402
import ccq_codes  # noqa: E402

DTYPE = {name: i for i, (name, _) in ccq.DTYPES.items()}
SMALLEST = {  # Annex B
    0x00: "89 43 43 51 0d 0a 1a 0a 01 00 00 00 20 01 00 00", 0x20: "00 10 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
    0x40: "00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00", 0x60: "05 00 00 00 68 38 be bf 00 00 00 00 00 00 00 00",
    0x80: "01 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00", 0xa0: "02 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00",
    0xc0: "03 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00", 0xe0: "04 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00",
    0x100: "05 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00"}


def f32(*bits):
    return struct.pack("<%dI" % len(bits), *bits)


def up(data, a):
    return data + bytes(-len(data) % a)


def code_record(segments, word_bits, placement, scale_bits, group_size, cluster):
    triples = b"".join(bytes(s) for s in segments).ljust(12, b"\0")
    return triples + struct.pack("<BBBBHB5x", len(segments), word_bits, placement, scale_bits, group_size, cluster)


def raw(name, shape, data, dtype="U8"):
    return name, shape, dtype, 0, bytes(24), [(5, data, 0)]


def coded(name, shape, record, *planes, dtype="F32"):
    """`planes` are (kind, bytes) in order; the code plane has complete rows."""
    stride = len(planes[0][1]) // math.prod(shape[:-1])
    return name, shape, dtype, 1, record, [(k, data, stride if k == 1 else 0) for k, data in planes]


def entry(key, kind, value):
    return up(struct.pack("<IIQ", len(key), kind, len(value)) + key + value, 8)


def build(tensors=(), blobs=(), metadata=b"", extra=(), shard=(0, 1, bytes(16))):
    """A file. `extra` are (position among the sections, kind, flags, bytes)."""
    names = [t[0] for t in tensors] + [b[0] for b in blobs]
    planes = [p for t in tensors for p in t[5]] + [(6, b[1], 0) for b in blobs]
    sums = b"".join(struct.pack("<I", zlib.crc32(data[at:at + ccq.CHUNK]))
                    for _, data, _ in planes for at in range(0, len(data), ccq.CHUNK))
    dims = [d for t in tensors for d in t[1]]
    index_len = 64 * len(tensors) + 40 * len(planes) + 24 * len(blobs) + 8 * len(dims)
    sections = [[1, 0, bytes(index_len)], [2, 0, b"".join(names)], [3, 0, metadata], [4, 0, sums], [5, 0, b""]]
    for position, kind, flags, data in extra:
        sections.insert(position, [kind, flags, data])
    header_len = 128 + 32 * len(sections)
    front = header_len
    for kind, _, data in sections:
        front = -(-front // 4096) * 4096
        if kind == 5:
            break
        front += len(data)
    records, payload, chunks = b"", b"", 0
    for kind, data, stride in planes:
        payload = up(payload, 4096 if len(data) >= 2 ** 20 else 256)
        records += struct.pack("<IIQQQQ", kind, 0, front + len(payload), len(data), stride, chunks)
        payload += data
        chunks += -(-len(data) // ccq.CHUNK)
    index, name_at, dim_at, plane_at = b"", 0, 0, 0
    for name, shape, dtype, encoding, record, own in tensors:
        index += struct.pack("<QIIQQIHH", name_at, len(name), len(shape), dim_at, plane_at, len(own), DTYPE[dtype],
                             encoding) + record
        name_at, dim_at, plane_at = name_at + len(name), dim_at + len(shape), plane_at + len(own)
    index += records
    for name, _ in blobs:
        index += struct.pack("<QIIQ", name_at, len(name), 0, plane_at)
        name_at, plane_at = name_at + len(name), plane_at + 1
    index += struct.pack("<%dQ" % len(dims), *dims)
    header, body = b"", bytes(header_len)
    for kind, flags, data in sections:
        data = index if kind == 1 else payload if kind == 5 else data
        body = up(body, 4096)
        header += struct.pack("<IIQQII", kind, flags, len(body), len(data), 0 if kind == 5 else zlib.crc32(data), 0)
        body += data
    head = struct.pack("<8sHHIQQQQQQQII16sII24x", ccq.MAGIC, 1, 0, header_len, 0, 0, len(body), len(tensors),
                       len(planes), len(blobs), len(dims), *shard, len(sections), 0)
    return seal(head + header + body[header_len:])


def seal(data):
    """The same file with the CRCs of its known sections and its header made good."""
    data = bytearray(data)
    count, = struct.unpack_from("<I", data, 96)
    for at in range(128, 128 + 32 * min(count, 64), 32):
        kind, _, offset, length = struct.unpack_from("<IIQQ", data, at)
        if kind in (1, 2, 3, 4) and offset + length <= len(data):
            struct.pack_into("<I", data, at + 24, zlib.crc32(data[offset:offset + length]))
    struct.pack_into("<I", data, 100, 0)
    struct.pack_into("<I", data, 100, zlib.crc32(data[:128 + 32 * count]))
    return bytes(data)


def poke(data, at, form, value, sealed=True):
    data = bytearray(data)
    struct.pack_into("<" + form, data, at, value)
    return seal(data) if sealed else bytes(data)


def first(data, name):
    """The offset of the first tensor's first plane of a kind."""
    return next(p.offset for p in ccq.open(data).tensors[0].planes if p.name == name)


CCQ275 = code_record([(4, 3, 2)], 8, 1, 4, 64, 0)
CCQ25 = code_record([(3, 3, 2), (3, 4, 2)], 16, 1, 13, 64, 0)
CCQ206_Q8 = code_record([(6, 4, 3)], 8, 2, 4, 64, 1)
CCQ206_F32 = code_record([(6, 4, 3)], 8, 2, 4, 64, 2)
WINT8 = code_record([(8, 1, 8)], 8, 0, 0, 0, 0)
INT2 = code_record([(2, 4, 2)], 8, 3, 8, 32, 0)
ONE = f32(0x3F800000)


def nearest(x):
    """fl32 of a fraction whose magnitude an f32 can hold, by comparing neighbours."""
    bits, = struct.unpack("<I", struct.pack("<f", float(x)))
    near = [(y & 0xFFFFFFFF, struct.unpack("<f", f32(y & 0xFFFFFFFF))[0]) for y in (bits - 1, bits, bits + 1)]
    return min((abs(Fraction(y) - x), n & 1, y) for n, y in near if math.isfinite(y))[2]


def literal(t, planes):
    """Clause 6.9 word for word, on fractions and one weight at a time."""
    e, out = t.encoding, []
    total = sum(n for _, n, _ in e.segments)
    span = e.group_size or t.in_features
    groups, wpg = -(-t.in_features // span), -(-span // total)
    for r in range(t.rows):
        super_scale, = struct.unpack_from("<f", planes[3], 4 * r)
        for i in range(t.in_features):
            g, p = divmod(i, span)
            size = e.word_bits // 8

            def word(k):
                at = r * t.planes[0].row_stride + (g * wpg + k) * size
                return int.from_bytes(planes[1][at:at + size], "little")
            code = word(p // total)
            if e.cluster == "q8":
                a, zp = struct.unpack_from("<Hh", planes[4], 4 * r)
                code = math.floor(Fraction(a * code + 256 * zp + 128, 256)) % 2 ** e.code_bits
            elif e.cluster == "f32":
                cs, czp = map(Fraction, struct.unpack_from("<ff", planes[4], 8 * r))
                v = math.floor(nearest(code * cs + Fraction(nearest(czp + Fraction(1, 2)))))
                code = v % 2 ** e.code_bits
            j, top = p % total, e.code_bits
            for length, n, step in e.segments:
                if j < n:
                    break
                j, top = j - n, top - length - (n - 1) * step
            difference = (code >> (top - length - j * step)) % 2 ** length - 2 ** (length - 1)
            local = None
            if e.placement == "embedded":
                local = word(wpg - 1) % 2 ** e.scale_bits
            elif e.placement == "nibbles":
                local = planes[2][r * -(-groups // 2) + g // 2] // (1 if g % 2 else 16) % 16
            elif e.placement == "signed":
                local = struct.unpack_from("<b", planes[2], r * groups + g)[0]
            scale = Fraction(super_scale) if local is None else Fraction(nearest(local * Fraction(super_scale)))
            sign = (difference < 0) ^ (super_scale < 0) ^ (local is not None and local < 0)
            out.append(math.copysign(nearest(difference * scale), -1 if sign else 1))
    return struct.pack("<%df" % len(out), *out)


def values(data, name="t"):
    decoded = ccq.open(data).decode(name)
    return list(struct.unpack("<%df" % (len(decoded) // 4), decoded))


class Decoding(unittest.TestCase):
    def test_a1(self):
        words = bytes([0x80] * 21 + [0xB6])
        data = build([coded(b"t", [1, 64], CCQ275, (1, up(words, 16)), (3, f32(0x3C23D70A)))])
        ccq.open(data).verify()
        decoded = ccq.open(data).decode("t")
        self.assertEqual(decoded[-4:], f32(0x3E3851EB))
        self.assertEqual(decoded[:12], f32(0x00000000, 0xBEF5C28F, 0xBEF5C28F))  # states 8, 0, 0; scale 3D75C28F

    def test_a2(self):
        row = bytes.fromhex("4E9C") + bytes(16) + bytes.fromhex("88D3")
        data = build([coded(b"t", [64], CCQ25, (1, up(row, 16)), (3, f32(0xB7D1B717)))])
        ccq.open(data).verify()
        got = values(data)
        self.assertEqual([x / -0.125 for x in got[:7]], [0, -1, 2, -3, 0, -1, 2])
        decoded = ccq.open(data).decode("t")
        self.assertEqual(decoded[:4], f32(0x80000000))  # +0 times a negative scale
        self.assertEqual(decoded[-4:], f32(0xBE800000))

    def test_a3(self):
        due = {0: (1234, -30, -13, -6, -14), 100: (13234, -7, -18, 22, 18), 200: (25235, 17, -22, -14, -13),
               255: (31835, 30, 17, -21, -5)}
        for q, (code, *_) in due.items():
            self.assertEqual(ccq_codes.expand_q8(q, 30721, 1234), code)
        self.assertEqual(ccq_codes.expand_q8(0, 300, -10) & 0x7FFF, 32758)
        data = build([coded(b"t", [1, 16], CCQ206_Q8, (1, bytes(due) + bytes(12)), (2, b"\x10"), (3, ONE),
                            (4, struct.pack("<Hh", 30721, 1234)))])
        ccq.open(data).verify()
        self.assertEqual(values(data), [x for row in due.values() for x in row[1:]])

    def test_a4(self):
        scale, zero = struct.unpack("<ff", f32(0x42E42018, 0x44F584E8))
        self.assertEqual(ccq_codes.expand_f32(181, scale, zero), 22609)
        data = build([coded(b"t", [1, 4], CCQ206_F32, (1, bytes([181]) + bytes(15)), (2, b"\x10"), (3, ONE),
                            (4, struct.pack("<ff", scale, zero)))])
        ccq.open(data).verify()
        states = [(22609 >> shift & 63) - 32 for shift in (9, 6, 3, 0)]
        self.assertEqual(values(data), states)

    def test_a5_nibbles(self):
        record = code_record([(4, 2, 4)], 8, 2, 4, 32, 0)
        row = bytes([0x99] * 80)
        data = build([coded(b"t", [2, 160], record, (1, row * 2), (2, bytes.fromhex("123450") * 2), (3, ONE + ONE))])
        ccq.open(data).verify()
        self.assertEqual(values(data), [float(g) for g in (1, 2, 3, 4, 5) for _ in range(32)] * 2)

    def test_signed_bytes_and_a_tail(self):
        data = build([coded(b"t", [1, 33], INT2, (1, b"\xe4" * 16), (2, struct.pack("<bb", -128, 127)), (3, ONE))])
        self.assertEqual(values(data), [-128.0, -0.0, 128.0, 256.0] * 8 + [127.0])

    def test_embedded_scale_beyond_the_row(self):
        row = bytes([0xB0] + [0] * 20 + [0x05])  # one weight; the scale is in word 21 all the same
        data = build([coded(b"t", [1], CCQ275, (1, up(row, 16)), (3, ONE))])
        self.assertEqual(values(data), [15.0])

    def test_per_channel(self):
        data = build([coded(b"t", [2, 2, 3], WINT8, (1, (bytes([0, 128, 255]) + bytes(13)) * 4),
                            (3, f32(0x3F800000, 0xBF800000, 0x7F7FFFFF, 0x7F800000)))])
        got = ccq.open(data).decode("t")
        self.assertEqual(struct.unpack("<6f", got[:24]), (-128.0, 0.0, 127.0, 128.0, -0.0, -127.0))
        self.assertEqual(got[16:20], f32(0x80000000))
        self.assertEqual(got[24:], f32(0xFF800000, 0, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800000))
        with self.assertRaises(ccq.FormatError) as caught:
            ccq.open(data).verify()
        self.assertEqual(caught.exception.kind, "NonFinite")

    def test_against_the_literal_text(self):
        rng = random.Random(3)
        codes = [([(4, 3, 2)], 8, 0), ([(3, 3, 2), (3, 4, 2)], 16, 0), ([(6, 4, 3)], 8, 1), ([(6, 4, 3)], 8, 2),
                 ([(2, 4, 2)], 8, 0), ([(5, 2, 1), (1, 3, 1), (7, 1, 2)], 16, 0), ([(3, 1, 1), (4, 5, 2)], 8, 0),
                 ([(3, 1, 1), (4, 5, 2)], 8, 2), ([(1, 9, 1)], 8, 1), ([(1, 4, 1), (2, 6, 2)], 16, 0),
                 ([(5, 4, 1)], 8, 0)]
        done = 0
        for segments, word_bits, cluster in codes:
            for group_size, placement, bits in [(0, 0, 0), (32, 2, 4), (64, 3, 8), (128, 2, 4), (32, 1, 0), (64, 1, 0)]:
                rows, n = rng.randrange(1, 4), rng.choice([1, 31, 64, 65, 150])
                if placement == 1:  # whatever is spare, by trial
                    spare = [s for s in range(4, 16) if self.valid(segments, word_bits, 1, s, group_size, cluster)]
                    bits = spare[0] if spare else 0
                if not self.valid(segments, word_bits, placement, bits, group_size, cluster):
                    continue
                record = code_record(segments, word_bits, placement, bits, group_size, cluster)
                span = group_size or n
                groups = -(-n // span)
                row = groups * -(-span // sum(s[1] for s in segments)) * word_bits // 8
                planes = {1: rng.randbytes(rows * (row + -row % 16))}
                if placement > 1:
                    planes[2] = rng.randbytes(rows * (groups if placement == 3 else -(-groups // 2)))
                supers = [rng.choice([-1, 1, 1e-40]) * rng.random() for _ in range(rows)]
                planes[3] = struct.pack("<%df" % rows, *supers)
                if cluster == 1:
                    planes[4] = rng.randbytes(4 * rows)
                elif cluster == 2:
                    planes[4] = struct.pack("<%df" % (2 * rows), *[rng.uniform(-3000, 3000) for _ in range(2 * rows)])
                f = ccq.open(build([coded(b"t", [rows, n], record, *planes.items())]))
                self.assertEqual(f.decode("t"), literal(f.tensors[0], planes), str(f.tensors[0].encoding))
                done += 1
        self.assertGreater(done, 25)

    def valid(self, segments, word_bits, placement, bits, group_size, cluster):
        try:
            ccq_codes.Encoding(code_record(segments, word_bits, placement, bits, group_size, cluster), 0)
            return True
        except ccq.FormatError:
            return False

    def test_other_widths(self):
        record = code_record([(16, 1, 16)], 16, 0, 0, 0, 0)
        data = build([coded(b"t", [2], record, (1, struct.pack("<HH", 0, 65535) + bytes(12)), (3, f32(1)))])
        self.assertEqual(ccq.open(data).decode("t"), f32(0x80008000, 0x00007FFF))  # subnormals

    def test_expand_f32_extremes(self):
        top = struct.unpack("<f", f32(0x7F7FFFFF))[0]
        nan, inf = math.nan, math.inf
        for arguments, v in [((255, top, 0.0), 2 ** 31 - 1), ((255, -top, 0.0), -2 ** 31),
                             ((2, top, -top), 2 ** 31 - 1), ((0, inf, 0.0), 0), ((1, inf, -inf), 0), ((1, nan, 0.0), 0),
                             ((3, -inf, 1.0), -2 ** 31),
                             ((0, top, -0.5), 0), ((1, 0.0, -0.75), -1), ((0, 1.0, -1e-45), 0)]:
            self.assertEqual(ccq_codes.expand_f32(*arguments), v, arguments)

    def test_expand_f32_against_fractions(self):
        rng = random.Random(1)
        for _ in range(3000):
            scale, zero = (struct.unpack("<f", struct.pack("<f", rng.uniform(-s, s)))[0] for s in (130.0, 3000.0))
            q = rng.randrange(256)
            addend = nearest(Fraction(zero) + Fraction(1, 2))
            v = math.floor(nearest(q * Fraction(scale) + Fraction(addend)))
            self.assertEqual(ccq_codes.expand_f32(q, scale, zero), v, (q, scale, zero))


def sample():
    words = (bytes([0x80] * 21 + [0xB6]) + bytes(10)) * 2
    tensors = [coded(b"a", [2, 64], CCQ275, (1, words), (3, ONE * 2)), raw(b"b", [3], b"xyz"),
               raw(b"c", [], b"\0\0\x80\x3f", "F32"), raw(b"d", [0, 7], b"", "BF16")]
    metadata = entry(b"ccq.producer", 5, b"test") + entry(b"f", 4, bytes(8)) + entry(b"t", 1, b"\1")
    return build(tensors, [(b"config.json", b"{}"), (b"x/y", b"")], metadata)


INDEX = 4096
PLANE, BLOB = INDEX + 64 * 4, INDEX + 64 * 4 + 40 * 7
DIM = BLOB + 24 * 2
STRINGS, METADATA, CHECKSUMS, PAYLOAD = 8192, 12288, 16384, 20480


class Opening(unittest.TestCase):
    def refuse(self, kind, data, verify=False, **options):
        with self.assertRaises(ccq.FormatError) as caught:
            f = ccq.open(data, **options)
            if verify:
                caught.opened = True
                f.verify()
        self.assertEqual(caught.exception.kind, kind, str(caught.exception))
        self.assertEqual(hasattr(caught, "opened"), verify)

    def test_smallest(self):
        data = bytearray(4096)
        for at, line in SMALLEST.items():
            data[at:at + 16] = bytes.fromhex(line)
        self.assertEqual(bytes(data), build())
        f = ccq.open(bytes(data))
        f.verify()
        self.assertEqual((f.version, f.tensors, f.blobs, f.metadata), ((1, 0), [], [], {}))

    def test_sample(self):
        f = ccq.open(sample())
        f.verify()
        self.assertEqual([(t.name, t.shape, t.dtype) for t in f.tensors],
                         [("a", (2, 64), "F32"), ("b", (3,), "U8"), ("c", (), "F32"), ("d", (0, 7), "BF16")])
        self.assertEqual(f.metadata, {"ccq.producer": ("string", "test"), "f": ("f64", 0.0), "t": ("bool", True)})
        self.assertEqual((f.decode("b"), f.blob("config.json"), f.blob("x/y")), (b"xyz", b"{}", b""))

    def test_large_planes(self):
        data = build([raw(b"a", [1], b"1"), raw(b"b", [2 ** 20 - 1], bytes(2 ** 20 - 1)),
                      raw(b"c", [2 ** 20], bytes(2 ** 20)), raw(b"d", [1], b"2")])
        f = ccq.open(data)
        f.verify()
        self.assertEqual([t.planes[0].offset - f.payload.offset for t in f.tensors],
                         [0, 256, 257 * 4096, 257 * 4096 + 2 ** 20])

    def test_front_alone(self):
        data = sample()
        f = ccq.open(data[:PAYLOAD], file_len=len(data))
        self.assertEqual(len(f.tensors), 4)
        self.refuse("Truncated", data[:PAYLOAD - 1], file_len=len(data))
        self.refuse("Truncated", data[:PAYLOAD], file_len=len(data) - 1)
        self.refuse("Layout", data[:PAYLOAD], file_len=len(data) + 1)

    def test_every_cut_is_truncated(self):
        data = sample()
        for n in list(range(0, 400)) + list(range(400, len(data), 997)):
            self.refuse("Truncated", data[:n])
        self.refuse("Layout", data + b"\0")

    def test_every_flipped_bit_of_the_front_is_noticed(self):
        data = sample()
        for at in list(range(0, INDEX + 700)) + list(range(INDEX + 700, PAYLOAD, 101)) + [STRINGS, METADATA, CHECKSUMS]:
            with self.assertRaises(ccq.FormatError):
                ccq.open(poke(data, at, "B", data[at] ^ 1 << at % 8, sealed=False))

    def test_damage_under_good_checksums(self):
        rng = random.Random(4)
        data, opened = sample(), 0
        places = list(range(8, 288)) + list(range(INDEX, DIM + 64)) + list(range(METADATA, METADATA + 96))
        for _ in range(3000):
            bad = data
            for _ in range(rng.randrange(1, 4)):
                bad = poke(bad, rng.choice(places), "B", rng.choice([0, 1, 255, rng.randrange(256)]))
            try:
                f = ccq.open(bad)
                f.verify()
                for t in f.tensors:
                    f.decode(t)
                opened += 1
            except ccq.FormatError:
                pass
        self.assertGreater(opened, 0)

    def test_larger_minor_and_compat(self):
        f = ccq.open(poke(poke(sample(), 10, "H", 7), 24, "Q", 5))
        self.assertEqual((f.version, f.compat), ((1, 7), 5))

    def test_header(self):
        s = sample()
        for kind, at, form, value in [
                ("BadMagic", 0, "B", 0x09), ("BadMagic", 0, "Q", 0), ("UnsupportedVersion", 8, "H", 2),
                ("Layout", 12, "I", 289), ("UnsupportedFeature", 16, "Q", 1), ("Layout", 32, "Q", len(s) - 1),
                ("Truncated", 32, "Q", len(s) + 1), ("LimitExceeded", 40, "Q", 2 ** 20 + 1),
                ("LimitExceeded", 48, "Q", 2 ** 64 - 1), ("Layout", 48, "Q", 8), ("LimitExceeded", 56, "Q", 65537),
                ("LimitExceeded", 64, "Q", 2 ** 63), ("Shard", 72, "I", 1), ("Shard", 76, "I", 0),
                ("Shard", 80, "B", 1), ("Reserved", 127, "B", 1)]:
            with self.subTest(kind=kind, at=at):
                self.refuse(kind, poke(s, at, form, value))
        self.refuse("LimitExceeded", poke(s, 96, "I", 65, sealed=False))
        self.refuse("Checksum", poke(s, 100, "I", 0, sealed=False))

    def test_sections(self):
        s = sample()
        for kind, at, form, value in [
                ("UnsupportedFeature", 128, "I", 9), ("Layout", 128, "I", 2), ("Reserved", 132, "I", 1),
                ("Layout", 136, "Q", 8192), ("OutOfBounds", 136, "Q", 0), ("OutOfBounds", 136, "Q", 2 ** 40),
                ("Overflow", 144, "Q", 2 ** 64 - 1), ("OutOfBounds", 144, "Q", 2 ** 40), ("Reserved", 156, "I", 1),
                ("Reserved", 128 + 4 * 32 + 24, "I", 1), ("Padding", 4095, "B", 1), ("Padding", STRINGS - 1, "B", 1)]:
            with self.subTest(kind=kind, at=at):
                self.refuse(kind, poke(s, at, form, value))
        self.refuse("Checksum", poke(s, STRINGS, "B", 0x41, sealed=False))

    def test_unknown_sections(self):
        for position in range(6):
            with self.subTest(position=position):
                good = build([raw(b"b", [3], b"xyz")], extra=[(position, 77, 1, b"hello")])
                ccq.open(good).verify()
                self.refuse("UnsupportedFeature", poke(good, 128 + 32 * position + 4, "I", 0))
                self.refuse("Reserved", poke(good, 128 + 32 * position + 4, "I", 3))
                self.refuse("Checksum", poke(good, 128 + 32 * position + 24, "I", 1), verify=True)
        self.refuse("Layout", build(extra=[(2, 3, 0, b"")]))
        after = build([raw(b"b", [3], b"xyz")], extra=[(5, 77, 1, b"hello")])
        self.refuse("Padding", poke(after, ccq.open(after).payload.end, "B", 1), verify=True)

    def test_index(self):
        s = sample()
        for kind, at, form, value in [
                ("Layout", INDEX + 64, "Q", 0), ("OutOfBounds", INDEX + 64, "Q", 99), ("BadName", INDEX + 8, "I", 0),
                ("LimitExceeded", INDEX + 8, "I", 1025), ("LimitExceeded", INDEX + 12, "I", 33),
                ("Layout", INDEX + 64 + 16, "Q", 0), ("OutOfBounds", INDEX + 64 + 16, "Q", 99),
                ("Layout", INDEX + 64 + 24, "Q", 0), ("BadEncoding", INDEX + 32, "I", 1),
                ("UnsupportedFeature", INDEX + 36, "H", 23), ("UnsupportedFeature", INDEX + 36, "H", 0),
                ("UnsupportedFeature", INDEX + 38, "H", 2), ("Reserved", INDEX + 64 + 40, "B", 1),
                ("Reserved", INDEX + 63, "B", 1), ("BadEncoding", INDEX + 40, "B", 5),
                ("BadEncoding", INDEX + 43, "B", 1), ("BadEncoding", INDEX + 52, "B", 0),
                ("BadEncoding", INDEX + 53, "B", 16), ("BadEncoding", INDEX + 54, "B", 2),
                ("BadEncoding", INDEX + 54, "B", 4), ("BadEncoding", INDEX + 55, "B", 8),
                ("BadShape", INDEX + 56, "H", 96), ("BadEncoding", INDEX + 58, "B", 3),
                ("BadShape", DIM, "Q", 0), ("BadShape", DIM, "Q", 3), ("BadShape", DIM + 16, "Q", 4),
                ("Overflow", DIM, "Q", 2 ** 63), ("Overflow", DIM + 16, "Q", 2 ** 62),
                ("Reserved", BLOB + 12, "I", 1), ("Layout", BLOB + 16, "Q", 0), ("BadName", STRINGS, "B", 0),
                ("BadName", STRINGS, "B", 0xFF), ("BadName", STRINGS + 1, "B", 0x61),
                ("Layout", STRINGS + 1, "B", 0x60), ("BadName", STRINGS + 4, "B", 0x2F),
                ("BadName", STRINGS + 5, "B", 0x5C)]:
            with self.subTest(kind=kind, at=at):
                self.refuse(kind, poke(s, at, form, value))
        self.refuse("Overflow", build([raw(b"t", [0, 2 ** 32, 2 ** 32], b"")]))
        self.refuse("BadShape", build([raw(b"t", [1], b"\0", "F4")]))
        self.refuse("BadShape", build([("t".encode(), [], "F32", 1, WINT8, [(1, bytes(16), 16), (3, ONE, 0)])]))

    def test_names(self):
        for kind, name in [("BadName", b"a/"), ("BadName", b"a/../b"), ("BadName", b"."), ("BadName", b"c:x"),
                           ("BadName", b"a\xc2\x85"), ("BadName", b"\xed\xa0\x80"), ("BadName", b"\xc0\x80"),
                           ("LimitExceeded", b"n" * 1025)]:
            with self.subTest(name=name[:9]):
                self.refuse(kind, build(blobs=[(name, b"")]))
        ccq.open(build([raw(b"../a:\\", [1], b"1")], [("é…".encode(), b""), (b"\xf0\x9f\x98\x80" * 256, b"")]))

    def test_planes(self):
        s = sample()
        for kind, at, form, value in [
                ("UnsupportedFeature", 0, "I", 7), ("BadEncoding", 0, "I", 5), ("Reserved", 4, "I", 1),
                ("Layout", 8, "Q", PAYLOAD + 16), ("OutOfBounds", 8, "Q", 0), ("BadShape", 16, "Q", 32),
                ("BadEncoding", 24, "Q", 48), ("Layout", 32, "Q", 1), ("BadEncoding", 40 + 16, "Q", 4),
                ("BadEncoding", 40 + 24, "Q", 1), ("OutOfBounds", 5 * 40 + 16, "Q", 500),
                ("Overflow", 5 * 40 + 16, "Q", 2 ** 64 - 1)]:
            with self.subTest(kind=kind, at=at):
                self.refuse(kind, poke(s, PLANE + at, form, value))

    def test_metadata(self):
        good = [entry(b"a", 1, b"\1"), entry(b"b", 2, bytes(8)), entry(b"c", 5, "é".encode()), entry(b"d", 6, b"\xff")]
        ccq.open(build(metadata=b"".join(good)))
        for kind, data in [("BadMetadata", good[1] + good[0]), ("BadMetadata", good[0] * 2),
                           ("BadMetadata", entry(b"a", 7, b"")), ("BadMetadata", entry(b"a", 0, b"")),
                           ("BadMetadata", entry(b"a", 1, b"\2")), ("BadMetadata", entry(b"a", 2, b"\2")),
                           ("BadMetadata", entry(b"a", 5, b"\xff")), ("BadMetadata", entry(b"ccq.recipe", 6, b"")),
                           ("BadMetadata", entry(b"ccq.part", 2, bytes(8))),
                           ("BadMetadata", good[3][:-8]), ("BadMetadata", good[3] + bytes(8)),
                           ("Padding", good[3][:-1] + b"\1"), ("BadName", entry(b"", 6, b"")),
                           ("BadName", entry(b"\x7f", 6, b"")), ("LimitExceeded", entry(b"k" * 1025, 6, b"")),
                           ("Overflow", struct.pack("<IIQ", 1, 6, 2 ** 64 - 1) + b"a" + bytes(7))]:
            with self.subTest(kind=kind, data=data[:40]):
                self.refuse(kind, build(metadata=data))

    def test_verify(self):
        s = sample()
        self.refuse("PayloadChecksum", poke(s, PAYLOAD, "B", 1), verify=True)
        self.refuse("Padding", poke(s, PAYLOAD + 64, "B", 1), verify=True)

        def repair(data):
            sums = b"".join(struct.pack("<I", zlib.crc32(data[p.offset:p.end]))
                            for p in ccq.open(data)._plane_records if p.len)
            at = ccq.open(data).sections[3].offset
            return seal(data[:at] + sums + data[at + len(sums):])

        self.refuse("Padding", repair(poke(s, PAYLOAD + 22, "B", 1)), verify=True)
        self.refuse("NonFinite", repair(poke(s, first(s, "super-scale"), "I", 0x7F800000)), verify=True)
        record = code_record([(3, 3, 2), (1, 1, 1)], 8, 2, 4, 32, 0)  # position 31 is state 3: no spare bits
        words = up(bytes(8), 16)
        self.refuse("Padding", build([coded(b"t", [1, 32], record, (1, words), (2, b"\1"), (3, ONE))]), verify=True)
        record = code_record([(4, 3, 2)], 8, 2, 4, 32, 0)  # 11 words, position 31 is state 1: two spare bits
        for word, bad in [(0x80, False), (0x04, False), (0x02, True), (0x01, True)]:
            words = bytes([0x0F] * 10 + [word]) + bytes(5)
            data = build([coded(b"t", [1], record, (1, words), (2, b"\x10"), (3, ONE))])
            if bad:
                self.refuse("Padding", data, verify=True)
            else:
                ccq.open(data).verify()
        data = build([coded(b"t", [1, 4], CCQ206_F32, (1, bytes(16)), (2, b"\x10"), (3, ONE), (4, f32(0, 0x7FC00000)))])
        self.refuse("NonFinite", data, verify=True)

    def test_sets(self):
        def shard(i, n, name, set_id=b"0123456789abcdef"):
            return ccq.open(build([raw(name, [1], b"1")], shard=(i, n, set_id)))

        a, b = shard(0, 2, b"a"), shard(1, 2, b"b")
        ccq.check_set([b, a])
        for files in ([a], [a, a], [a, shard(1, 2, b"a")], [a, shard(1, 3, b"b")], [a, shard(1, 2, b"b", bytes(16))]):
            with self.assertRaises(ccq.FormatError) as caught:
                ccq.check_set(files)
            self.assertEqual(caught.exception.kind, "Shard")


class CommandLine(unittest.TestCase):
    def test_dump_and_errors(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "x.ccq")
            with open(path, "wb") as out:
                out.write(sample())
            text, errors = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(errors):
                self.assertEqual(ccq.main([path]), 0)
                with open(path, "r+b") as out:
                    out.truncate(5000)
                self.assertEqual(ccq.main([path]), 3)
            self.assertIn('tensor "b" dtype=U8 shape=[3] encoding=[raw] planes=raw:20992+3 crc=%08x\n'
                          % zlib.crc32(b"xyz"), text.getvalue())
            self.assertRegex(errors.getvalue(), r"\Aerror: Truncated: .*\n\Z")


if __name__ == "__main__":
    unittest.main()
