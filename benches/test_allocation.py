"""allocation.py with a tool that makes sizes up: which budgets count as used, and what the page gets.

python3 -m unittest discover --start-directory benches
"""

import tempfile
import unittest
from pathlib import Path

import allocation

# Files of 100 parameters and 20 bytes in raw tensors; of 36, 50 and 80 bytes, each with less error than the one before.
TOOL = """#!/usr/bin/env python3
import json, sys
bits = float(sys.argv[sys.argv.index("--target-bpw") + 1])
budget = int(bits * 100 / 8)
fitting = [size for size in (36, 50, 80) if size <= budget]
if not fitting:
    sys.exit("error: budget, but the smallest file of these candidates has more")
size = fitting[-1]
more = [other for other in (36, 50, 80) if other > size]
said = f"no choice of these candidates has less error below {more[0]} bytes (1.2 bpw)" if more else "nothing"
encoding = {36: "ccq-2.06", 50: "ccq-3.31", 80: "raw"}[size]
print(json.dumps({
    "total": {"parameters": 100},
    "target": {"target_bytes": budget, "bytes": size, "uniform": [{"encoding": "ccq-2.06"}, {"encoding": "int2"}]},
    "tensors": [
        {"name": "free", "encoding": encoding, "bytes": size - 20},
        {"name": "kept", "encoding": "raw", "bytes": 20},
    ],
    "warnings": [] if size >= budget * 0.99 else ["the file is smaller: " + said],
}))
"""


class Sweep(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tool = Path(folder.name) / "tool"
        self.tool.write_text(TOOL, "utf-8")
        self.tool.chmod(0o755)

    def sweep(self, *budgets: int) -> allocation.Sweep:
        return allocation.Sweep(self.tool, "model", [], budgets)

    def test_budgets_below_the_smallest_file_are_left_out(self) -> None:
        sweep = self.sweep(100, 288, 320, 400)
        self.assertEqual(list(sweep.reports), [2.88, 3.2, 4.0])
        self.assertEqual(sweep.free, {"free"})

    def test_the_row_names_the_worst_budget(self) -> None:
        # 2.88 and 4 bits are 36 and 50 bytes to the byte; at 3.2 four bytes of 40 are missing, of 20 that were free.
        row = self.sweep(100, 288, 320, 400).row("made up")
        expected = ["made up", "1", "2.88 to 4.00", "2 of 3", "10.00 %", "3.20 bpw", "20.0 %"]
        self.assertEqual(row, f"| {' | '.join(expected)} |")

    def test_ranges_begin_one_percent_above_a_file_and_end_with_the_next(self) -> None:
        self.assertEqual(self.sweep(288, 400).gaps(), "none")
        self.assertEqual(self.sweep(288, 320, 344, 400, 480).gaps(), "2.91 to 4.00, 4.04 to 6.40")
        self.assertEqual(self.sweep(288, 900).gaps(), "6.46 to (unproven)")

    def test_what_no_matrix_took_is_known(self) -> None:
        candidates, taken = self.sweep(288, 400, 700).choices()
        self.assertEqual((candidates, taken), (["ccq-2.06", "int2"], {"ccq-2.06", "ccq-3.31", "raw"}))

    def test_other_failures_end_the_run(self) -> None:
        self.tool.write_text(TOOL.replace("the smallest file", "no file"), "utf-8")
        with self.assertRaises(SystemExit):
            self.sweep(100, 288)


class Page(unittest.TestCase):
    def test_a_table_replaces_the_one_of_its_name(self) -> None:
        page = "<!-- allocation.py: a -->\nold\n<!-- end -->\n<!-- allocation.py: b -->\nkept\n<!-- end -->\n"
        self.assertEqual(allocation.filled(page, "a", "\\1 new"), page.replace("old", "\\1 new"))
        with self.assertRaises(AssertionError):
            allocation.filled(page, "c", "new")


if __name__ == "__main__":
    unittest.main()
