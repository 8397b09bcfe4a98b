"""compare.py without ggml: sizes by the format's rules, and pages that have to be what the results say.

python3 -m unittest discover --start-directory benches
"""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from peers import bits, report

HERE = Path(__file__).resolve().parent
ACCURACY = HERE.parent / "docs" / "accuracy.md"


class Sizes(unittest.TestCase):
    def test_codes_and_local_scales_are_what_the_names_say(self) -> None:
        for encoding, of_groups in {
            "ccq-2.06": [2.125, 2.0625, 2.03125],
            "ccq-2.5": [2.5, 2.5, 2.375],
            "ccq-2.75": [2.875, 2.75, 2.71875],
            "ccq-3.31": [3.5, 3.3125, 3.25],
            "wint4": [4.25, 4.125, 4.0625],
            "ccq-5.5": [5.5, 5.5, 5.375],
        }.items():
            self.assertEqual([bits.nominal(encoding, group) for group in bits.GROUPS], of_groups, encoding)

    def test_every_byte_of_a_row_counts(self) -> None:
        # 6 groups of 22 words of two bytes, 264 bytes padded to 272, and a super scale.
        self.assertEqual(bits.stored("ccq-5.5", 64, 384), 8 * (272 + 4) / 384)
        # 6 groups of 13 words: 156 bytes padded to 160, three bytes of scales, a super scale.
        self.assertEqual(bits.stored("ccq-3.31", 64, 384), 8 * (160 + 3 + 4) / 384)


class Pages(unittest.TestCase):
    def check(self, page: Path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, HERE / "compare.py", "--from", HERE / "results.json", "--check", page]
        return subprocess.run(command, capture_output=True, text=True)

    def test_a_figure_that_is_another_is_found(self) -> None:
        text = ACCURACY.read_text("utf-8")
        row = next(line for line in text.splitlines() if line.startswith("| ccq-2.06 best |"))
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "accuracy.md"
            page.write_text(text, "utf-8")
            self.assertEqual(self.check(page).returncode, 0)
            page.write_text(text.replace(row, row.replace("2.078", "2.079")), "utf-8")
            done = self.check(page)
        self.assertEqual(done.returncode, 1)
        self.assertIn("out of date", done.stderr)

    def test_a_table_that_is_not_there_is_refused(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "page.md"
            page.write_text("<!-- compare.py: kernel -->\n<!-- end -->\n", "utf-8")
            done = self.check(page)
        self.assertIn("unknown table: kernel", done.stderr)

    def test_errors_have_three_figures(self) -> None:
        cells = report._size_and_error({"bpw": 5.5078, "relative_mse": 0.001734})
        self.assertEqual(cells, ["5.508", "0.00173"])
        self.assertEqual(report._size_and_error({"bpw": 2.078, "relative_mse": 0.10241})[1], "0.1024")


if __name__ == "__main__":
    unittest.main()
