#!/usr/bin/env python3
"""Reference decoder of the .ccq container, version 1.0, after ../format.md. Python 3.9 or later, nothing else.

    f = ccq.open("model.ccq")          # or bytes, or (front, file_len=...); raises FormatError
    f.version, f.tensors, f.blobs, f.metadata, f.sections
    f.verify()                         # the payload phase of clause 9.1
    f.decode("some.weight")            # little-endian f32 of a coded tensor, the bytes of a raw one
    f.blob("config.json")              # the bytes of a blob
    ccq.check_set([f, g])              # the rules of clause 3.7 for the files of one set

Written to be read next to the text, not to be fast. Numbers in comments are clauses of format.md. A NaN that decoding
produces, whose bits the text leaves open, is always 7FC00000 here.
"""
import argparse
import json
import math
import mmap
import os
import struct
import sys
import zlib
from builtins import open as open_file
from types import SimpleNamespace as Record

from ccq_base import MAX_NAME, FormatError, align_up, ceil_div, check_name, check_path, need, parse_metadata, quote, u64
from ccq_codes import Encoding, decode_row

MAGIC = b"\x89CCQ\r\n\x1a\n"
CHUNK = 2 ** 26
MAX_TENSORS, MAX_BLOBS, MAX_RANK, MAX_METADATA, MAX_SECTIONS = 2 ** 20, 2 ** 16, 32, 2 ** 26, 64  # 9.3
SECTIONS = {1: "index", 2: "strings", 3: "metadata", 4: "checksums", 5: "payload"}
PLANES = {1: "code", 2: "local-scale", 3: "super-scale", 4: "cluster", 5: "raw", 6: "blob"}
DTYPES = dict(enumerate((  # 4.6
    ("BOOL", 8), ("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6), ("U8", 8), ("I8", 8), ("F8_E5M2", 8), ("F8_E4M3", 8),
    ("F8_E8M0", 8), ("F8_E4M3FNUZ", 8), ("F8_E5M2FNUZ", 8), ("I16", 16), ("U16", 16), ("F16", 16), ("BF16", 16),
    ("I32", 32), ("U32", 32), ("F32", 32), ("C64", 64), ("F64", 64), ("I64", 64), ("U64", 64)), 1))


class File:
    """An open file. `data` is the whole file, or with `file_len` at least its front (9.6)."""

    def __init__(self, data, file_len=None):
        self._data = data
        self.length = len(data) if file_len is None else file_len
        self._open_header()
        self._open_sections()
        self._open_index()
        self._open_planes()
        self.metadata = parse_metadata(self._metadata, self._metadata_at)

    def close(self):
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    def _bytes(self, offset, length, what="bytes"):
        need(offset + length <= len(self._data), "Truncated", what + " lie beyond the bytes there are", offset)
        return bytes(self._data[offset:offset + length])

    # ---- phase open: 9.1, 9.5 ----

    def _open_header(self):  # 3.1 to 3.4, 3.7
        need(self._bytes(0, 8, "the magic bytes") == MAGIC, "BadMagic", "this is not a .ccq file", 0)
        head = struct.unpack("<8sHHIQQQQQQQII16sII24s", self._bytes(0, 128, "the header"))
        (_, major, minor, header_len, self.incompat, self.compat, file_len, self.tensor_count, self.plane_count,
         self.blob_count, self.dim_count, self.shard_index, self.shard_count, self.set_id, self.section_count,
         header_crc, reserved) = head
        self.version = major, minor
        need(major == 1, "UnsupportedVersion", "major version %d" % major, 8)
        need(self.section_count <= MAX_SECTIONS, "LimitExceeded", "%d sections" % self.section_count, 96)
        need(header_len == 128 + 32 * self.section_count, "Layout", "header_len is %d" % header_len, 12)
        header = self._bytes(0, header_len, "the section records")
        crc = zlib.crc32(header[:100] + bytes(4) + header[104:])
        need(crc == header_crc, "Checksum", "the header's CRC does not match", 100)
        self.header = header
        need(self.incompat == 0, "UnsupportedFeature", "incompat is %#x" % self.incompat, 16)
        need(not any(reserved), "Reserved", "reserved bytes of the header are not zero", 104)
        need(self.length >= file_len, "Truncated", "%d of %d bytes" % (self.length, file_len), 32)
        need(self.length == file_len, "Layout", "%d bytes, file_len is %d" % (self.length, file_len), 32)
        need(self.tensor_count <= MAX_TENSORS, "LimitExceeded", "%d tensors" % self.tensor_count, 40)
        need(self.blob_count <= MAX_BLOBS, "LimitExceeded", "%d blobs" % self.blob_count, 56)
        need(self.shard_index < self.shard_count, "Shard",
             "shard %d of %d" % (self.shard_index, self.shard_count), 72)
        need(self.shard_count > 1 or not any(self.set_id), "Shard", "a file that stands alone has a set_id", 80)

    def _open_sections(self):  # 3.5, 3.6
        self.sections, known = [], []
        end = len(self.header)
        for i in range(self.section_count):
            at = 128 + 32 * i
            s = Record(**dict(zip(("kind", "flags", "offset", "len", "crc", "reserved"),
                                  struct.unpack_from("<IIQQII", self.header, at))))
            s.name = SECTIONS.get(s.kind, "unknown-%d" % s.kind)
            need(s.reserved == 0, "Reserved", "reserved field of section %s" % s.name, at + 28)
            if s.kind in SECTIONS:
                need(s.flags == 0, "Reserved", "flags of section %s" % s.name, at + 4)
                known.append(s)
            else:
                need(s.flags & ~1 == 0, "Reserved", "flags of section %s" % s.name, at + 4)
                need(s.flags & 1, "UnsupportedFeature", "section %s is not ignorable" % s.name, at)
            need(s.kind != 5 or s.crc == 0, "Reserved", "the payload's crc is not zero", at + 24)
            s.end = u64(s.offset + s.len, "the end of section %s" % s.name)
            need(s.offset >= len(self.header), "OutOfBounds", "section %s begins in the header" % s.name, at + 8)
            need(s.end <= self.length, "OutOfBounds", "section %s ends outside the file" % s.name, at + 8)
            need(s.offset == align_up(end, 4096), "Layout", "section %s is misplaced" % s.name, at + 8)
            s.padding_from, end = end, s.end
            self.sections.append(s)
        need([s.kind for s in known] == [1, 2, 3, 4, 5], "Layout", "the known sections are not 1 to 5 in order", 128)
        need(end == self.length, "Layout", "%d bytes after the last section" % (self.length - end), end)
        self.payload = known[4]
        need(known[2].len <= MAX_METADATA, "LimitExceeded", "%d bytes of metadata" % known[2].len, known[2].offset)
        need(len(self._data) >= self.payload.offset, "Truncated", "the front is not complete", len(self._data))
        for s in self.sections[:self.sections.index(self.payload) + 1]:
            self._check_zero(s.padding_from, s.offset, "padding before section %s" % s.name)
        for s in known[:4]:
            setattr(self, "_" + s.name, self._bytes(s.offset, s.len))
            crc = zlib.crc32(getattr(self, "_" + s.name))
            need(crc == s.crc, "Checksum", "the CRC of section %s does not match" % s.name, s.offset)
        self._index_at, self._strings_at, self._metadata_at, _, _ = (s.offset for s in known)

    def _open_index(self):  # chapter 4
        arrays, at = [], 0
        counts = (self.tensor_count, 64), (self.plane_count, 40), (self.blob_count, 24), (self.dim_count, 8)
        for count, size in counts:
            arrays.append(at)
            at += count * size
            need(at <= self.length, "LimitExceeded", "more index records than the file has bytes for", self._index_at)
        need(at == len(self._index), "Layout", "the index has %d bytes, not %d" % (len(self._index), at),
             self._index_at)
        dims = struct.unpack_from("<%dQ" % self.dim_count, self._index, arrays[3])
        self._plane_records = []
        for i in range(self.plane_count):
            at = arrays[1] + 40 * i
            p = Record(**dict(zip(("kind", "reserved", "offset", "len", "row_stride", "first_chunk"),
                                  struct.unpack_from("<IIQQQQ", self._index, at))), at=self._index_at + at)
            need(p.kind in PLANES, "UnsupportedFeature", "plane kind %d" % p.kind, p.at)
            need(p.reserved == 0, "Reserved", "reserved field of a plane record", p.at + 4)
            p.name = PLANES[p.kind]
            self._plane_records.append(p)
        self._name_end, self.tensors, self.blobs = 0, [], []
        first_dim = first_plane = 0
        previous = None
        for i in range(self.tensor_count):
            at = self._index_at + 64 * i
            name_offset, name_len, rank, dim, plane, planes, dtype, encoding, code = struct.unpack_from(
                "<QIIQQIHH24s", self._index, 64 * i)
            name, previous = self._name(name_offset, name_len, previous, "tensor %d" % i, at)
            need(rank <= MAX_RANK, "LimitExceeded", "%s has rank %d" % (quote(name), rank), at + 12)
            need(dim + rank <= self.dim_count, "OutOfBounds", "dimensions of %s" % quote(name), at + 16)
            need(dim == first_dim, "Layout", "first_dim of %s is %d" % (quote(name), dim), at + 16)
            need(plane == first_plane, "Layout", "first_plane of %s is %d" % (quote(name), plane), at + 24)
            first_dim, first_plane = dim + rank, plane + planes
            need(first_plane <= self.plane_count, "BadEncoding", "plane_count of %s is %d" % (quote(name), planes), at + 32)
            need(dtype in DTYPES, "UnsupportedFeature", "dtype %d" % dtype, at + 36)
            need(encoding in (0, 1), "UnsupportedFeature", "encoding %d" % encoding, at + 38)
            t = Record(name=name, shape=tuple(dims[dim:dim + rank]), dtype=DTYPES[dtype][0], encoding=None,
                       planes=self._plane_records[plane:first_plane], at=at)
            u64(math.prod(d for d in t.shape if d), "the number of elements of %s" % quote(name))
            if encoding == 0:
                need(not any(code), "Reserved", "the code record of a raw tensor is not zero", at + 40)
                self._check_raw(t, DTYPES[dtype][1])
            else:
                self._check_coded(t, Encoding(code, at + 40) if rank and all(t.shape) else None)
            self.tensors.append(t)
        need(first_dim == self.dim_count, "Layout", "dim_count is not the sum of the ranks", 64)
        need(first_plane + self.blob_count == self.plane_count, "Layout", "plane_count is not the sum of planes", 48)
        previous = None
        for i in range(self.blob_count):
            at = self._index_at + arrays[2] + 24 * i
            name_offset, name_len, reserved, plane = struct.unpack_from("<QIIQ", self._index, at - self._index_at)
            name, previous = self._name(name_offset, name_len, previous, "blob %d" % i, at)
            check_path(name, at)
            need(reserved == 0, "Reserved", "reserved field of a blob record", at + 12)
            need(plane == first_plane + i, "Layout", "the plane of blob %s is %d" % (quote(name), plane), at + 16)
            b = Record(name=name, planes=self._plane_records[plane:plane + 1], encoding=None)
            self._check_planes(b, [("blob", None, 0)])
            self.blobs.append(b)
        need(self._name_end == len(self._strings), "Layout", "the strings are longer than the names", self._strings_at)

    def _name(self, offset, length, previous, what, at):  # 4.2, 4.3
        need(length <= MAX_NAME, "LimitExceeded", "the name of %s has %d bytes" % (what, length), at + 8)
        need(offset + length <= len(self._strings), "OutOfBounds", "the name of %s" % what, at)
        need(offset == self._name_end, "Layout", "name_offset of %s is %d" % (what, offset), at)
        self._name_end = offset + length
        raw = self._strings[offset:self._name_end]
        name = check_name(raw, what, self._strings_at + offset)
        need(raw != previous, "BadName", "the name %s is there twice" % quote(name), self._strings_at + offset)
        need(previous is None or previous < raw, "Layout", "%s is out of order" % quote(name), at)
        return name, raw

    def _check_raw(self, t, bits):  # 4.6
        elements = math.prod(t.shape)
        u64(elements * bits, "the size of %s" % quote(t.name))
        need(elements * bits % 8 == 0, "BadShape", "%s ends inside a byte" % quote(t.name), t.at + 12)
        self._check_planes(t, [("raw", elements * bits // 8, 0)])

    def _check_coded(self, t, e):  # 4.5, 5.3 to 5.7
        need(e, "BadShape", "%s is coded and has shape %s" % (quote(t.name), list(t.shape)), t.at + 12)
        t.encoding, t.in_features, t.rows = e, t.shape[-1], math.prod(t.shape[:-1])
        _, groups, words = e.layout(t.in_features)
        t.row_bytes = u64(groups * words * (e.word_bits // 8), "a row of %s" % quote(t.name))
        stride = align_up(t.row_bytes, 16)
        due = [("code", t.rows * stride, stride)]
        if e.placement in ("nibbles", "signed"):
            due.append(("local-scale", t.rows * (ceil_div(groups, 2) if e.placement == "nibbles" else groups), 0))
        due.append(("super-scale", 4 * t.rows, 0))
        if e.cluster != "none":
            due.append(("cluster", t.rows * (4 if e.cluster == "q8" else 8), 0))
        for kind, length, _ in due:
            u64(length, "the %s plane of %s" % (kind, quote(t.name)))
        self._check_planes(t, due)

    def _check_planes(self, t, due):
        """That the planes of a tensor or blob are those due: (kind, len or None, row_stride) each."""
        need(len(t.planes) == len(due), "BadEncoding", "%s has %d planes, not %d"
             % (quote(t.name), len(t.planes), len(due)), getattr(t, "at", None))
        for p, (kind, length, stride) in zip(t.planes, due):
            need(p.name == kind, "BadEncoding", "%s has a %s plane instead of %s" % (quote(t.name), p.name, kind), p.at)
            need(p.len == length or length is None, "BadShape" if kind in ("code", "raw") else "BadEncoding",
                 "the %s plane of %s has %d bytes, not %s" % (kind, quote(t.name), p.len, length), p.at + 16)
            need(p.row_stride == stride, "BadEncoding", "row_stride of %s is %d, not %d"
                 % (quote(t.name), p.row_stride, stride), p.at + 24)

    def _open_planes(self):  # 5.2, 5.9
        end, chunks = self.payload.offset, 0
        for p in self._plane_records:
            p.end = u64(p.offset + p.len, "the end of a plane")
            need(self.payload.offset <= p.offset and p.end <= self.payload.end, "OutOfBounds",
                 "a %s plane lies outside the payload" % p.name, p.at + 8)
            need(p.offset == align_up(end, 4096 if p.len >= 2 ** 20 else 256), "Layout",
                 "a %s plane is misplaced" % p.name, p.at + 8)
            need(p.first_chunk == chunks, "Layout", "first_chunk is %d, not %d" % (p.first_chunk, chunks), p.at + 32)
            p.padding_from, end = end, p.end
            chunks += ceil_div(p.len, CHUNK)
        need(end == self.payload.end, "Layout", "the payload has %d bytes, not %d"
             % (self.payload.len, end - self.payload.offset), self.payload.offset)
        need(len(self._checksums) == 4 * chunks, "Layout", "%d bytes of checksums for %d chunks"
             % (len(self._checksums), chunks))

    # ---- phase verify: 9.1 ----

    def _check_zero(self, start, end, what):
        need(not any(self._bytes(start, end - start, what)), "Padding", what + " is not zero", start)

    def verify(self):
        after = False
        for s in self.sections:
            if after:
                self._check_zero(s.padding_from, s.offset, "padding before section %s" % s.name)
            if s.kind not in SECTIONS:
                crc = zlib.crc32(self._bytes(s.offset, s.len, "a section"))
                need(crc == s.crc, "Checksum", "the CRC of section %s does not match" % s.name, s.offset)
            after = after or s is self.payload
        for p in self._plane_records:
            self._check_zero(p.padding_from, p.offset, "padding before a %s plane" % p.name)
        for what, owners in ("tensor", self.tensors), ("blob", self.blobs):
            for owner in owners:
                for p in owner.planes:
                    for i, at in enumerate(range(0, p.len, CHUNK)):
                        crc = zlib.crc32(self._bytes(p.offset + at, min(CHUNK, p.len - at), "a chunk"))
                        need(crc == struct.unpack_from("<I", self._checksums, 4 * (p.first_chunk + i))[0],
                             "PayloadChecksum", "%s %s, %s plane, chunk %d"
                             % (what, quote(owner.name), p.name, i), p.offset + at)
        for t in self.tensors:
            if t.encoding:
                self._verify_coded(t, t.encoding, {p.name: p for p in t.planes})

    def _verify_coded(self, t, e, planes):
        _, groups, words = e.layout(t.in_features)
        word_bytes = e.word_bits // 8
        code, local, name = planes["code"], planes.get("local-scale"), quote(t.name)
        for r in range(t.rows):
            start = code.offset + r * code.row_stride
            self._check_zero(start + t.row_bytes, start + code.row_stride, "row padding of %s" % name)
            if local and e.spare:
                row = self._bytes(start, t.row_bytes)
                low = row[(words - 1) * word_bytes::words * word_bytes]  # fewer than four spare bits: the low byte
                need(not any(b & ((1 << e.spare) - 1) for b in low), "Padding",
                     "spare bits of %s, row %d, are not zero" % (name, r), start)
            if e.placement == "nibbles" and groups % 2:
                at = local.offset + (r + 1) * ceil_div(groups, 2) - 1
                need(self._bytes(at, 1)[0] & 15 == 0, "Padding", "an unused nibble of %s is not zero" % name, at)
        floats = [planes["super-scale"]] + ([planes["cluster"]] if e.cluster == "f32" else [])
        for p in floats:
            for i, (x,) in enumerate(struct.iter_unpack("<f", self._bytes(p.offset, p.len))):
                need(math.isfinite(x), "NonFinite", "%s plane of %s" % (p.name, name), p.offset + 4 * i)

    # ---- decoding: chapter 6 ----

    def rows(self, t):
        """The rows of a coded tensor, each as little-endian f32: 6.9."""
        planes, cut = {p.name: p for p in t.planes}, {}
        for r in range(t.rows):
            start = planes["code"].offset + r * planes["code"].row_stride
            rows = [self._bytes(start, t.row_bytes, "a row")]
            for kind in "local-scale", "super-scale", "cluster":
                p = planes.get(kind)
                size = p.len // t.rows if p else 0
                rows.append(self._bytes(p.offset + r * size, size, "a row") if p else b"")
            yield decode_row(t.encoding, t.in_features, *rows, cut)

    def decode(self, tensor):
        """The exact f32 values of a coded tensor, little-endian; the own bytes of a raw one. By name or record."""
        t = tensor
        if isinstance(tensor, str):
            t = next((t for t in self.tensors if t.name == tensor), None)
            if t is None:
                raise KeyError(tensor)
        if t.encoding is None:
            return self._bytes(t.planes[0].offset, t.planes[0].len, "a plane")
        return b"".join(self.rows(t))

    def blob(self, name):
        b = {b.name: b for b in self.blobs}[name]
        return self._bytes(b.planes[0].offset, b.planes[0].len, "a plane")


def open(source, file_len=None):
    """Open a path or the bytes of a file. With file_len, bytes may be the front alone (9.6)."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return File(bytes(source), file_len)
    with open_file(source, "rb") as handle:
        if os.fstat(handle.fileno()).st_size == 0:
            return File(b"", file_len)
        return File(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ), file_len)


def check_set(files):  # 3.7
    """Refuse files that are not one complete set."""
    first = files[0]
    seen, names = set(), set()
    for f in files:
        where = "shard %d: " % f.shard_index
        need((f.set_id, f.shard_count) == (first.set_id, first.shard_count), "Shard", where + "of another set")
        need(f.shard_index not in seen, "Shard", where + "twice there")
        seen.add(f.shard_index)
        for key in [("tensor", t.name) for t in f.tensors] + [("blob", b.name) for b in f.blobs]:
            need(key not in names, "Shard", where + "%s %s is in another shard" % (key[0], quote(key[1])))
            names.add(key)
    need(len(seen) == first.shard_count, "Shard", "%d of %d shards" % (len(seen), first.shard_count))


# ---- command line ----

def dump(f, out):
    def line(form, *values):
        out.write(form % values + "\n")

    line("ccq %d.%d", *f.version)
    line("header file_len=%d incompat=%#x compat=%#x shard=%d/%d set_id=%s", f.length, f.incompat, f.compat,
         f.shard_index, f.shard_count, f.set_id.hex())
    line("counts tensors=%d planes=%d blobs=%d dims=%d", f.tensor_count, f.plane_count, f.blob_count, f.dim_count)
    for s in f.sections:
        line("section %s flags=%d offset=%d len=%d crc=%08x", s.name, s.flags, s.offset, s.len, s.crc)
    for key, (kind, value) in f.metadata.items():
        if kind == "f64":
            value = struct.pack(">d", value).hex()
        elif kind in ("string", "bytes"):
            value = quote(value) if kind == "string" else value.hex()
        line("metadata %s %s %s", quote(key), kind, str(value).lower() if kind == "bool" else value)
    for t in f.tensors:
        line("tensor %s dtype=%s shape=%s encoding=[%s] planes=%s crc=%08x", quote(t.name), t.dtype,
             json.dumps(t.shape, separators=(",", ":")), t.encoding or "raw",
             ",".join("%s:%d+%d" % (p.name, p.offset, p.len) for p in t.planes), zlib.crc32(f.decode(t)))
    for b in f.blobs:
        line("blob %s plane=%d+%d crc=%08x", quote(b.name), b.planes[0].offset, b.planes[0].len,
             zlib.crc32(f.blob(b.name)))


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Reference decoder of .ccq files: without options, a text dump.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file, or all files of one set")
    parser.add_argument("--decode", action="store_true", help="FILE TENSOR: write the decoded tensor to stdout")
    parser.add_argument("--no-verify", action="store_true", help="skip the payload phase")
    options = parser.parse_args(arguments)
    paths, tensor = options.files, None
    if options.decode:
        if len(paths) != 2:
            parser.error("--decode takes FILE TENSOR")
        *paths, tensor = paths
    try:
        files = [open(path) for path in paths]
        if len(files) > 1:
            check_set(files)
        for f in files:
            if not options.no_verify:
                f.verify()
            if tensor is None:
                dump(f, sys.stdout)
            elif not any(t.name == tensor for t in f.tensors):
                parser.error("no tensor %s" % quote(tensor))
            else:
                sys.stdout.buffer.write(f.decode(tensor))
    except (FormatError, OSError) as error:
        sys.stderr.write("error: %s%s\n" % ("" if isinstance(error, FormatError) else "Io: ", error))
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
