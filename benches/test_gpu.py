"""gpu.py where there is no GPU: what it says, and the tables it would write.

python3 -m unittest discover --start-directory benches
"""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from peers import gpu_report

SCRIPT = Path(__file__).resolve().parent / "gpu.py"
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
            {**ROW, "operation": "dequantize", "tokens": None, "median_seconds": 5e-5, "cublas_seconds": 2e-5},
        ],
    },
    "peers": {
        "versions": {"torch": "2.11"},
        "results": [{"name": "torch bf16", "shape": "8192x4096", "tokens": 1, "median_seconds": 2.5e-5}],
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
            "| ccq-2.06 | 8192x4096 | gemv, M = 1 | 5.0 | 3000 | 75% |  | 25.0 |  |",
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


if __name__ == "__main__":
    unittest.main()
