"""The installed package against the golden files, the damaged ones, and the README."""

import gc
import json
import os
import re
import shutil
import struct
import sys
import tempfile
import threading
import time
import unittest
import warnings
import zlib
from importlib.metadata import files
from pathlib import Path

import numpy as np

import ccq

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "testdata" / "golden"
BAD = ROOT / "testdata" / "bad"


def tables():
    """Of each golden file: its path, and of each quantized tensor the count and CRC of the decoded values."""
    for text in sorted(GOLDEN.glob("*.txt")):
        if "-of-" in text.stem:
            continue  # one file of a set, which does not open without the others
        decoded, name = {}, None
        for line in text.read_text("utf-8").splitlines():
            if found := re.fullmatch(r'  "(.*)" [A-Z0-9_]+ \[.*', line):
                name = found[1]
            elif found := re.fullmatch(r"    decoded (\d+) values, crc ([0-9a-f]{8})", line):
                decoded[name] = int(found[1]), int(found[2], 16)
        yield text.with_suffix(".ccq"), decoded


def write_set(folder, *models):
    """Makes the files of one set of models that stand alone: of their headers, the shard and the checksum change."""
    paths = []
    for index, model in enumerate(models):
        file = bytearray(model.read_bytes())
        struct.pack_into("<II16s", file, 72, index, len(models), b"\1" * 16)
        struct.pack_into("<I", file, 100, 0)
        struct.pack_into("<I", file, 100, zlib.crc32(file[: struct.unpack_from("<I", file, 12)[0]]))
        paths.append(Path(folder) / f"x-{index + 1:05}-of-{len(models):05}.ccq")
        paths[-1].write_bytes(file)
    return paths


class Golden(unittest.TestCase):
    def test_decoded_values(self):
        checked = 0
        for path, decoded in tables():
            model = ccq.open(path)
            model.verify()
            for name, (count, crc) in decoded.items():
                weights = model[name].dequantize()
                self.assertEqual((weights.dtype, weights.shape), (np.float32, model[name].shape))
                self.assertEqual((weights.size, zlib.crc32(weights.tobytes())), (count, crc), (path, name))
                checked += 1
        self.assertGreater(checked, 50)

    def test_every_way_to_open(self):
        for load in "map", "memory":
            for access in "normal", "sequential", "random":
                for huge_pages in False, True:
                    model = ccq.open(GOLDEN / "wint4.ccq", load=load, access=access, huge_pages=huge_pages)
                    name = next(iter(model))
                    expected = ccq.open(os.fspath(GOLDEN / "wint4.ccq"))[name].dequantize()
                    model[name].prefetch()
                    np.testing.assert_array_equal(model[name].dequantize(), expected)

    def test_rows(self):
        for tensor in ccq.open(GOLDEN / "ccq-2.5.ccq").values():
            whole = tensor.dequantize().reshape(-1, tensor.shape[-1])
            np.testing.assert_array_equal(tensor.dequantize(slice(1, 2)), whole[1:2])
            np.testing.assert_array_equal(tensor.dequantize(slice(-1, None)), whole[-1:])
            self.assertEqual(tensor.dequantize(slice(2, 1)).shape, (0, tensor.shape[-1]))
            out = np.empty((1, tensor.shape[-1]), np.float32)
            self.assertIs(tensor.dequantize(slice(0, 1), out), out)
            np.testing.assert_array_equal(out, whole[:1])
            with self.assertRaisesRegex(ValueError, "output buffer of"):
                tensor.dequantize(out=np.empty(whole.size + 1, np.float32))
            with self.assertRaisesRegex(ValueError, "step of 2"):
                tensor.dequantize(slice(None, None, 2))
            if whole.size == 1:
                continue  # contiguous however it is strided
            scattered = np.empty((whole.size, 2), np.float32)[:, 0]
            for wrong in np.empty(whole.shape, np.float64), scattered:
                with self.assertRaises((BufferError, ValueError)):
                    tensor.dequantize(out=wrong)
            frozen = np.empty(whole.shape, np.float32)
            frozen.flags.writeable = False
            with self.assertRaises(BufferError):
                tensor.dequantize(out=frozen)


class Contents(unittest.TestCase):
    def setUp(self):
        self.model = ccq.open(GOLDEN / "mixed.ccq")

    def test_mapping(self):
        self.assertEqual(list(self.model.keys()), sorted(self.model, key=str.encode))
        self.assertEqual(len(self.model), len(list(self.model)))
        self.assertIn("raw.F32", self.model)
        self.assertNotIn("nothing", self.model)
        self.assertIsNone(self.model.get("nothing"))
        with self.assertRaises(KeyError):
            self.model["nothing"]
        self.assertEqual((self.model.format_version, self.model.parameters), ((1, 0), 1276))
        self.assertIn("1276 parameters", repr(self.model))

    def test_tensor(self):
        tensor = self.model["layer.0.weight"]
        self.assertEqual((tensor.name, tensor.shape, tensor.dtype), ("layer.0.weight", (4, 130), "BF16"))
        self.assertEqual((tensor.encoding, tensor.stored_bytes), ("ccq-2.06", 232))
        self.assertAlmostEqual(tensor.bpw, 8 * 232 / 520)
        self.assertEqual(tensor.code, ccq.Code((ccq.Segment(6, 4, 3),), 8, "nibble", 4, 64, "q8"))
        self.assertIn("ccq-2.06", repr(tensor))
        self.assertIsNone(self.model["empty"].bpw)
        with self.assertRaisesRegex(ValueError, "dequantize"):
            tensor.numpy()

    def test_metadata_and_blobs(self):
        metadata = self.model.metadata
        self.assertEqual(len(metadata), 12)
        self.assertEqual((metadata["u64"], metadata["i64"], metadata["f64"]), (2**64 - 1, -(2**63), -0.1))
        self.assertIs(metadata["bool.true"], True)
        self.assertEqual((metadata["string"], metadata["bytes"]), ("one line\nand another\0", b"\x00\x01\x02\xff"))
        blobs = self.model.blobs
        self.assertIsInstance(json.loads(bytes(blobs["config.json"])), dict)
        self.assertEqual((bytes(blobs["tokenizer/empty"]), len(blobs["tokenizer/merges.txt"])), (b"", 14))
        self.assertTrue(blobs["config.json"].readonly)

    def test_planes(self):
        planes = self.model["layer.0.weight"].planes
        self.assertEqual(list(planes), ["code", "local_scale", "super_scale", "cluster"])
        self.assertEqual([plane.shape for plane in planes.values()], [(4, 48), (4, 2), (4,), (4,)])
        self.assertEqual([plane.nbytes for plane in planes.values()], [192, 8, 16, 16])
        np.testing.assert_array_equal(planes["super_scale"][:1], np.float32([0.01]))
        self.assertEqual(planes["cluster"].dtype.names, ("step", "zero_point"))
        wide = next(iter(ccq.open(GOLDEN / "ccq-2.5.ccq").values())).planes
        self.assertEqual(wide["code"].dtype, np.dtype("<u2"))
        signed = [tensor for tensor in ccq.open(GOLDEN / "wint4.ccq").values() if tensor.code.group_size]
        self.assertEqual(signed[0].planes["local_scale"].dtype, np.int8)
        imported = next(iter(ccq.open(GOLDEN / "ccq-2.06-f32.ccq").values())).planes
        self.assertEqual(imported["cluster"].dtype.names, ("code_scale", "code_zero_point"))

    def test_raw(self):
        expected = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "I64": np.int64, "BOOL": np.bool_}
        for name, tensor in self.model.items():
            if tensor.encoding != "raw" or name == "large-and-empty":
                continue
            values = tensor.numpy()
            self.assertEqual(values.tobytes(), bytes(tensor.planes["raw"]), name)
            self.assertIsNone(tensor.code)
            if tensor.dtype in expected:
                self.assertEqual((values.dtype, values.shape), (expected[tensor.dtype], tensor.shape))
        for dtype in "F32", "F16", "BF16":
            tensor = self.model[f"raw.{dtype}"]
            bits = tensor.numpy().astype(np.uint32) << 16 if dtype == "BF16" else None
            whole = bits.view(np.float32) if dtype == "BF16" else tensor.numpy().astype(np.float32)
            np.testing.assert_array_equal(tensor.dequantize(), whole)
            np.testing.assert_array_equal(tensor.dequantize(slice(1, 2)), whole[1:2])
            out = np.empty(whole.shape, np.float32)
            np.testing.assert_array_equal(tensor.dequantize(out=out), whole)
            with self.assertRaises(ValueError):
                tensor.dequantize(out=out.T)
        with self.assertRaisesRegex(TypeError, "holds I64"):
            self.model["raw.I64"].dequantize()

    def test_views_are_read_only_and_without_a_copy(self):
        tensor = self.model["layer.0.weight"]
        for array in *tensor.planes.values(), self.model["raw.F32"].numpy():
            self.assertFalse(array.flags.writeable)
            self.assertFalse(array.flags.owndata)
            with self.assertRaises(ValueError):
                array.flags.writeable = True
        first, second = tensor.planes["code"], tensor.planes["code"]
        self.assertEqual(first.ctypes.data, second.ctypes.data)
        self.assertEqual(first.ctypes.data % 256, 0)


class Sets(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.models = GOLDEN / "mixed.ccq", GOLDEN / "wint4.ccq"
        self.paths = write_set(folder.name, *self.models)

    def test_any_file_opens_all(self):
        alone = [ccq.open(model) for model in self.models]
        expected = {name: tensor for model in alone for name, tensor in model.items()}
        for path in self.paths:
            for load in "map", "memory":
                model = ccq.open(path, load=load)
                self.assertEqual(list(model), sorted(expected, key=str.encode))
                self.assertEqual((len(model), model.format_version), (len(expected), (1, 0)))
                self.assertEqual(model.parameters, sum(part.parameters for part in alone))
                self.assertEqual(model.metadata.keys(), alone[0].metadata.keys())
                self.assertEqual(list(model.blobs), list(alone[0].blobs))
                self.assertEqual(*(bytes(part.blobs["config.json"]) for part in (model, alone[0])))
                for name, tensor in model.items():
                    planes = expected[name].planes
                    self.assertEqual(tensor.planes.keys(), planes.keys())
                    for kind, plane in tensor.planes.items():
                        self.assertEqual(plane.tobytes(), planes[kind].tobytes())
                model.verify()

    def test_what_is_no_set(self):
        first, second = self.paths
        whole = second.read_bytes()

        def refused(path, named, text):
            with self.assertRaises(ccq.Error) as caught:
                ccq.open(path).verify()
            message = str(caught.exception)
            self.assertTrue(message.startswith(f"{named}: [" if named else "["), message)
            self.assertIn(text, message)

        second.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        refused(first, second, "[5.9]")
        second.write_bytes(whole[:-1])
        refused(first, second, "cut short")
        second.write_bytes(first.read_bytes())
        refused(first, second, str(first))
        with tempfile.TemporaryDirectory() as folder:
            second.write_bytes(write_set(folder, *self.models, GOLDEN / "empty.ccq")[1].read_bytes())
        refused(first, second, str(first))
        second.unlink()
        refused(first, second, "shard 2 of 2 is missing")
        refused(first.rename(first.with_name("y.ccq")), None, "[3.7]")
        refused(GOLDEN / "shard-00002-of-00003.ccq", GOLDEN / "shard-00001-of-00003.ccq", "shard 1 of 3 is missing")


class Products(unittest.TestCase):
    def test_against_decoded_weights(self):
        generator = np.random.default_rng(0)
        checked = 0
        for path, decoded in tables():
            model = ccq.open(path)
            for name in decoded:
                tensor = model[name]
                weights = tensor.dequantize().astype(np.float64).reshape(-1, tensor.shape[-1])
                if weights.size == 0:
                    continue
                vectors = generator.standard_normal((3, tensor.shape[-1])).astype(np.float32)
                for x in vectors[0], vectors[:1], vectors:
                    y, terms = tensor.matvec(x), np.abs(x) @ np.abs(weights).T
                    self.assertEqual((y.dtype, y.shape), (np.float32, terms.shape))
                    self.assertTrue((np.abs(y - x @ weights.T) <= terms * 2.0**-20).all(), (path, name))
                    # Half a scale is a 254th of the largest magnitude; of the terms, the zero point's included, which
                    # may be eight times the weights' own, 2^-18 may be lost.
                    bound = (np.abs(x).max() / 254 * np.abs(weights).sum(1)) + 2.0**-15 * terms
                    rounded = tensor.matvec(x, int8=True)
                    self.assertTrue((np.abs(rounded - x @ weights.T) <= bound).all(), (path, name))
                    np.testing.assert_array_equal(tensor.matvec(x, slice(1, None)), y[..., 1:])
                    np.testing.assert_array_equal(tensor.matvec(x, slice(1, None), int8=True), rounded[..., 1:])
                checked += 1
        self.assertGreater(checked, 50)

    def test_inputs(self):
        model = ccq.open(GOLDEN / "mixed.ccq")
        tensor = model["layer.0.weight"]
        x = np.arange(130, dtype=np.float32)
        y = tensor.matvec(x)
        np.testing.assert_array_equal(tensor.matvec(list(range(130))), y)
        np.testing.assert_array_equal(tensor.matvec(np.repeat(x, 2)[::2]), y)
        x.flags.writeable = False
        np.testing.assert_array_equal(tensor.matvec(x), y)
        self.assertEqual(tensor.matvec(np.empty((0, 130), np.float32)).shape, (0, 4))
        self.assertEqual(tensor.matvec(x, slice(2, 2)).shape, (0,))
        for wrong in x[:-1], x.reshape(1, 1, 130), np.float32(1), np.ones((130, 2)):
            with self.assertRaisesRegex(ValueError, r"expected \(130,\) or \(M, 130\)"):
                tensor.matvec(wrong)
        with self.assertRaisesRegex(ValueError, "is raw"):
            model["raw.F32"].matvec(np.ones(4, np.float32))


class Lifetime(unittest.TestCase):
    def test_views_outlive_the_file_object(self):
        model = ccq.open(GOLDEN / "mixed.ccq")
        plane, blob = model["layer.0.weight"].planes["code"], model.blobs["config.json"]
        expected = plane.tobytes(), bytes(blob)
        del model
        gc.collect()
        self.assertEqual((plane.tobytes(), bytes(blob)), expected)

    @unittest.skipUnless(Path("/proc/self/maps").exists(), "needs Linux")
    def test_the_map_goes_with_its_last_view(self):
        with tempfile.TemporaryDirectory() as folder:
            path = shutil.copy(GOLDEN / "mixed.ccq", folder)
            mapped = lambda: path in Path("/proc/self/maps").read_text()
            model = ccq.open(path)
            plane = model["layer.0.weight"].planes["code"]
            del model
            gc.collect()
            self.assertTrue(mapped())
            del plane
            gc.collect()
            self.assertFalse(mapped())

    def test_a_replaced_file_is_read_on(self):
        with tempfile.TemporaryDirectory() as folder:
            path = shutil.copy(GOLDEN / "wint4.ccq", Path(folder) / "model.ccq")
            model = ccq.open(path)
            os.replace(shutil.copy(GOLDEN / "mixed.ccq", Path(folder) / "new"), path)
            model.verify()
            self.assertEqual(list(model), list(ccq.open(GOLDEN / "wint4.ccq")))
            self.assertIn("raw.F32", ccq.open(path))


class Threads(unittest.TestCase):
    def test_reading_at_once(self):
        model = ccq.open(GOLDEN / "ccq-2.06.ccq")
        expected = {name: tensor.dequantize() for name, tensor in model.items()}
        failures = []

        def read():
            for _ in range(20):
                for name, tensor in model.items():
                    if not np.array_equal(tensor.dequantize(), expected[name]):
                        failures.append(name)

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_work_lets_other_threads_run(self):
        tensors = ccq.open(GOLDEN / "ccq-2.06.ccq").values()
        tensor = max(tensors, key=lambda tensor: tensor.stored_bytes)
        out, x = np.empty(tensor.shape, np.float32), np.ones((64, tensor.shape[-1]), np.float32)
        self.lets_others_run(lambda: tensor.dequantize(out=out))
        self.lets_others_run(lambda: tensor.matvec(x))
        self.lets_others_run(lambda: tensor.matvec(x, int8=True))

    def lets_others_run(self, work):
        """Python never takes the lock away here, so this thread only runs while the other has given it up."""
        done = []

        def repeat():
            for _ in range(5000):
                work()
            done.append(True)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1000)
        try:
            thread = threading.Thread(target=repeat)
            thread.start()
            turns = 0
            while not done:
                turns += 1
                time.sleep(0)
            thread.join()
        finally:
            sys.setswitchinterval(interval)
        self.assertGreater(turns, 10)

    @unittest.skipUnless(hasattr(os, "mkfifo"), "needs a pipe with a name")
    def test_opening_lets_other_threads_run(self):
        """The file is a pipe that this thread fills while the other one waits for it."""
        with tempfile.TemporaryDirectory() as folder:
            pipe, models = os.path.join(folder, "pipe"), []
            os.mkfifo(pipe)
            thread = threading.Thread(target=lambda: models.append(ccq.open(pipe, load="memory")))
            thread.start()
            Path(pipe).write_bytes((GOLDEN / "mixed.ccq").read_bytes())
            thread.join()
            models[0].verify()


class Errors(unittest.TestCase):
    def test_damaged_files(self):
        count = 0
        for line in (BAD / "expected.txt").read_text("utf-8").splitlines():
            if line.startswith("#"):
                continue
            name, phase, _, _, message = line.split(" | ", 4)
            with self.assertRaises(ccq.Error) as caught:
                model = ccq.open(BAD / name)
                self.assertEqual(phase, "verify", name)
                model.verify()
            self.assertEqual(str(caught.exception), message, name)
            count += 1
        self.assertGreater(count, 100)

    def test_system(self):
        for load in "map", "memory":
            with self.assertRaises(FileNotFoundError) as caught:
                ccq.open("/not/there.ccq", load=load)
            self.assertEqual(os.fspath(caught.exception.filename), "/not/there.ccq")

    def test_arguments(self):
        for wrong in {"load": "disk"}, {"access": "backwards"}:
            with self.assertRaisesRegex(ValueError, "expected"):
                ccq.open(GOLDEN / "mixed.ccq", **wrong)
        self.assertTrue(issubclass(ccq.Error, ValueError))


class Package(unittest.TestCase):
    def test_the_wheel_is_typed(self):
        names = {str(file) for file in files("ccq")}
        self.assertLessEqual({"ccq/py.typed", "ccq/_ccq.pyi", "ccq/__init__.py"}, names)
        self.assertNotIn(str(ROOT), ccq.__file__)

    def test_snippets_of_the_documentation(self):
        for readme in ROOT / "README.md", ROOT / "bindings" / "python" / "README.md":
            snippets = re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)
            self.assertTrue(snippets, readme)
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("error")
                before = os.getcwd()
                shutil.copy(GOLDEN / "ccq-2.06.ccq", Path(folder) / "model.ccq")
                os.chdir(folder)
                try:
                    for snippet in snippets:
                        exec(compile(snippet, str(readme), "exec"), {"print": lambda *_: None})
                finally:
                    os.chdir(before)


if __name__ == "__main__":
    unittest.main()
