"""gpu.py where there is no GPU: what it says, the tables it would write, and the Triton kernels in the interpreter.

python3 -m unittest discover --start-directory benches

The kernels are left out, which is said, unless this Python has torch and triton: pip install torch triton numpy.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

from peers import gpu_report

SCRIPT = Path(__file__).resolve().parent / "gpu.py"
GOLDEN = SCRIPT.parents[1] / "testdata" / "golden"
PAGE = "before\n<!-- gpu: results -->\nold\n<!-- end -->\nafter\n"
ROW = {
    "encoding": "ccq-2.06", "rows": 8192, "in_features": 4096, "operation": "gemv", "element": "bf16", "tokens": 1,
    "median_seconds": 5e-6, "stored_bytes_per_second": 3e12, "copy_share": 0.75, "cublas_seconds": None,
}
RESULTS = {
    "date": "2000-01-02",
    "card": {"name": "A Card", "cuda": "CUDA 13.0", "driver": "580.1"},
    "machine": {"system": "Linux", "processor": "x86_64", "cores": 16},
    "commit": "abc",
    "steps": [
        {"name": "build", "ok": True, "seconds": 60.0},
        {"name": "tests on the card", "ok": False, "seconds": 7.5},
        {"name": "racecheck", "ok": None, "seconds": 0.0, "why": "compute-sanitizer was not found"},
    ],
    "ours": {
        "copy_bytes_per_second": 4e12,
        "results": [
            ROW,
            {**ROW, "encoding": "wint4"},
            {**ROW, "operation": "dequantize", "tokens": None, "median_seconds": 5e-5, "cublas_seconds": 2e-5},
        ],
    },
    "peers": {
        "versions": {"torch": "2.11"},
        "results": [
            {"name": "torch bf16", "shape": "8192x4096", "tokens": 1, "median_seconds": 2.5e-5},
            {"name": "triton WINT2 q8", "shape": "8192x4096", "tokens": 1, "median_seconds": 1.5e-5},
            {"name": "triton WINT2 f32", "shape": "8192x4096", "tokens": 1, "median_seconds": 1.75e-5},
        ],
    },
}


class Tables(unittest.TestCase):
    def test_figures_reach_the_page(self) -> None:
        page = gpu_report.fill(PAGE, RESULTS)
        self.assertTrue(page.startswith("before\n") and page.endswith("after\n") and "old" not in page)
        for line in (
            "A Card, driver 580.1 (CUDA 13.0), 2000-01-02; Linux x86_64, 16 cores; ccq abc, torch 2.11; "
            "a copy within the card's memory: 4000 GB/s, read plus written.",
            "| tests on the card | **failed** | 7.5 |",
            "| racecheck | not run: compute-sanitizer was not found | 0.0 |",
            "| ccq-2.06 | 8192x4096 | gemv, M = 1 | 5.0 | 3000 | 75% |  | 25.0 | 15.0 17.5 |",
            "| wint4 | 8192x4096 | gemv, M = 1 | 5.0 | 3000 | 75% |  | 25.0 |  |",
            "| ccq-2.06 | 8192x4096 | dequantize to bf16 | 50.0 | 3000 | 75% | 20.0 |  |  |",
        ):
            self.assertIn(line, page.splitlines())
        self.assertEqual(gpu_report.fill(page, RESULTS), page)

    def test_steps_that_failed_leave_gaps(self) -> None:
        page = gpu_report.fill(PAGE, {**RESULTS, "ours": None, "peers": None})
        self.assertIn("**failed**", page)
        self.assertNotIn("ccq-2.06", page)

    def test_no_results_are_said(self) -> None:
        self.assertIn("none yet", gpu_report.fill(PAGE, None))
        with self.assertRaises(SystemExit):
            gpu_report.fill("a page without a place", None)


class WithoutGpu(unittest.TestCase):
    def run_script(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(SCRIPT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})

    def test_it_says_so_and_writes_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            # A driver that does not load, also where there is one.
            (Path(folder) / "libcuda.so.1").write_text("no library")
            json, page = Path(folder) / "gpu.json", Path(folder) / "gpu.md"
            page.write_text(PAGE, "utf-8")
            done = self.run_script("--json", str(json), "--page", str(page), LD_LIBRARY_PATH=folder)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)
            self.assertIn("no GPU, nothing was built, run or written", done.stderr)
            self.assertFalse(json.exists())
            self.assertEqual(page.read_text("utf-8"), PAGE)

    def test_check_compares_the_page(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            json, page = Path(folder) / "gpu.json", Path(folder) / "gpu.md"
            page.write_text(PAGE, "utf-8")
            arguments = ("--check", "--json", str(json), "--page", str(page))
            self.assertEqual(self.run_script(*arguments).returncode, 1)
            page.write_text(gpu_report.fill(PAGE, None), "utf-8")
            self.assertEqual(self.run_script(*arguments).returncode, 0)


@unittest.skipUnless(
    importlib.util.find_spec("torch") and importlib.util.find_spec("triton"), "torch and triton are not installed"
)
class Wint2(unittest.TestCase):
    """The Triton kernels, on the CPU: Triton reads TRITON_INTERPRET when it is imported."""

    @classmethod
    def setUpClass(cls) -> None:
        os.environ["TRITON_INTERPRET"] = "1"
        import torch

        from peers import wint2

        torch.manual_seed(1)
        cls.torch, cls.wint2 = torch, wint2

    def error(self, planes: Any, tokens: int, element: Any) -> float:
        """Of the products of all rows."""
        x = self.torch.randn(tokens, planes.in_features).to(element)
        y = self.torch.full((tokens, planes.rows), float("nan"))
        self.wint2.multiply(planes, self.wint2.permuted(x, planes.groups), y)
        return self.wint2.largest_error(planes, x, y, range(planes.rows))

    def test_products_are_those_of_the_reference(self) -> None:
        for kind in self.wint2.CLUSTERS:
            for rows, in_features in ((5, 200), (1, 1), (3, 129), (9, 2112)):
                planes = self.wint2.any_planes(kind, rows, in_features, "cpu")
                # The interpreter's matrix product knows no bf16.
                for tokens, element in ((1, self.torch.bfloat16), (3, self.torch.float16), (16, self.torch.float16)):
                    with self.subTest(kind=kind, rows=rows, in_features=in_features, tokens=tokens):
                        self.assertLess(self.error(planes, tokens, element), 1e-6)

    def test_planes_are_those_of_containers(self) -> None:
        self.wint2.reference()
        import ccq

        # Not of ccq-2.06-f32: the interpreter does not fuse, and its parameters need it.
        data = (GOLDEN / "ccq-2.06.ccq").read_bytes()
        file = ccq.File(data)
        found = [tensor for tensor in file.tensors if tensor.encoding.group_size == self.wint2.GROUP]
        self.assertTrue(found)
        for tensor in found:
            parts = {plane.name: data[plane.offset : plane.offset + plane.len] for plane in tensor.planes}
            planes = self.wint2.planes("q8", tensor.in_features, parts, "cpu")
            with self.subTest(name=tensor.name):
                decoded = b"".join(file.rows(tensor))
                rows = [self.wint2.decoded_row(planes, row).float().numpy().tobytes() for row in range(planes.rows)]
                self.assertEqual(decoded, b"".join(rows))
                self.assertLess(self.error(planes, 1, self.torch.bfloat16), 1e-6)

    def test_a_wrong_product_shows(self) -> None:
        planes = self.wint2.any_planes("q8", 4, 128, "cpu")
        x = self.torch.ones(1, 128)
        self.assertGreater(self.wint2.largest_error(planes, x, self.torch.zeros(1, 4), range(4)), 1e-3)


if __name__ == "__main__":
    unittest.main()
