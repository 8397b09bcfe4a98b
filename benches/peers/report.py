"""Results as text and as the tables of the documentation. Standard library only."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from . import bits

Results = dict[str, Any]
Row = dict[str, Any]
Cells = Sequence[Sequence[str]]

# The published figure, for scale: trellis of L = 16 (Tseng et al. 2024).
QTIP = 0.069
WIDTHS = (384, 1536, 4096, 8192)


def text(results: Results) -> str:
    """Everything, for a terminal."""
    parts = [setting(results)]
    for title, cells in _tables(results).items():
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [title]
        for first, *others in cells:
            padded = [cell.rjust(width) for cell, width in zip(others, widths[1:])]
            lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def markdown(results: Results) -> dict[str, str]:
    """The blocks of the documentation, by name."""
    blocks = {"setting": setting(results)}
    if "speed" in results:
        blocks["speed_setting"] = speed_setting(results["speed"])
    for name, (head, *body) in _tables(results).items():
        rule = ["---"] + ["---:"] * (len(head) - 1)
        blocks[name] = "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])
    return blocks


def fill(page: str, results: Results) -> str:
    """`page` with what stands between its `<!-- compare.py: NAME -->` and `<!-- end -->` written anew."""
    blocks = markdown(results)

    def replace(match: "re.Match[str]") -> str:
        name = match.group(1)
        if name not in blocks:
            raise SystemExit(f"compare.py: the page asks for an unknown table: {name}")
        return f"<!-- compare.py: {name} -->\n{blocks[name]}\n<!-- end -->"

    return re.sub(r"<!-- compare\.py: (\w+) -->\n.*?<!-- end -->", replace, page, flags=re.DOTALL)


def stale(pages: Iterable[Path], results: Results) -> list[Path]:
    """The pages whose tables are not those of the results."""
    return [page for page in pages if fill(page.read_text("utf-8"), results) != page.read_text("utf-8")]


def setting(results: Results) -> str:
    """Machine, versions, data and date, in a paragraph."""
    machine, versions = results["machine"], results["versions"]
    data = "; ".join(f"{name}: {shape}" for name, shape in results["data"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({machine['isa']}), {machine['system']}, "
        f"load average {machine['load']:.1f} at the start; one thread each, rounds: {results['rounds']}, "
        f"{results['date']}; ccq {versions['ccq']}, ggml {versions['ggml']} (llama-cpp-python "
        f"{versions['llama-cpp-python']}), numpy {versions['numpy']}. {data}."
    )


def speed_setting(speed: Row) -> str:
    """The same for the kernels."""
    machine, versions = speed["machine"], speed["versions"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({machine['isa']}), {machine['system']}, "
        f"load average {machine['load']:.1f} at the start; rounds: {speed['rounds']}, {speed['date']}; "
        f"{speed['shape']} weights, other copies of them in every pass; ccq {versions['ccq']}, "
        f"ggml {versions['ggml']} (llama-cpp-python {versions['llama-cpp-python']})."
    )


def _tables(results: Results) -> dict[str, Cells]:
    tables = _accuracy(results)
    if "speed" in results:
        speed = results["speed"]
        tables |= {"kernels": _kernels(speed), "threads": _threads(speed), "products": _products(speed)}
    return tables


def _accuracy(results: Results) -> dict[str, Cells]:
    return {
        "speed": _speed(results, [pair for pair in results["pairs"] if pair["first"]]),
        "balanced": _speed(results, [pair for pair in results["pairs"] if _is_balanced(pair)]),
        "pairs": _speed(results, [pair for pair in results["pairs"] if not pair["first"]]),
        "errors": _errors(results),
        "groups": _groups(results),
        "bpw": _bpw(),
        "codes": _codes(results["codes"]),
        "positions": _positions(results["positions"]),
    }


def _speed(results: Results, pairs: list[Row]) -> Cells:
    """Side by side: ours, the peer, and the ratios of one run."""
    speeds = {"quantize_mweights_per_s": "quantize Mw/s", "decode_gweights_per_s": "decode Gw/s"}
    head = ["ours / peer", "data", "bpw", "error", "ratio"]
    table = [head + [cell for title in speeds.values() for cell in (title, "ratio")]]
    for pair in pairs:
        ours, peer = (_find(results, pair["data"], pair[side]) for side in ("ours", "peer"))
        if ours and peer:
            cells = [f"{pair['ours']} / {pair['peer']}", pair["data"], _both(ours, peer, "bpw", _bits)]
            cells += [_both(ours, peer, "relative_mse", _error), _ratio(pair["relative_mse"])]
            for figure in speeds:
                cells += [_both(ours, peer, figure, "{:.2f}".format), _ratio(pair[figure])]
            table.append(cells)
    return table


def _is_balanced(pair: Row) -> bool:
    """Whether the pair is one of those that a reader wants to see first: defaults on a real model."""
    return pair["first"] and pair["data"] == "MiniLM" and pair["ours"].endswith("balanced")


def _kernels(speed: Row) -> Cells:
    """Ours, one thread: billions of weights a second."""
    head = ["encoding", "to f32", "to f16", "to bf16", "matrix to memory", "of a memset"]
    table = [[*head, "f32 product", "int8 product"]]
    for row in speed["kernels"]:
        best = row["best"]
        cells = [f"{best[name]:.1f}" for name in ("decode", "decode_f16", "decode_bf16", "matrix")]
        cells += [f"{row['of_memset']:.0%}", f"{best['exact']:.1f}", f"{best['int8 by 1']:.1f}"]
        table.append([row["encoding"], *cells])
    return table


def _threads(speed: Row) -> Cells:
    """What a second thread adds, to the int8 product and to reading the same bytes."""
    head = ["encoding", "two threads", "over one", "from the cache", "one: GB/s", "pure read", "share"]
    table = [[*head, "two: GB/s", "pure read", "share", "pure read, two over one"]]
    for row in speed["kernels"]:
        best = row["best"]
        two_over_one = [best[f"{what} by 2"] / best[f"{what} by 1"] for what in ("int8", "int8 cached")]
        cells = [f"{best['int8 by 2']:.1f}", *(f"{ratio:.2f}" for ratio in two_over_one)]
        reads = []
        for threads in (1, 2):
            read = max(best[f"{what} by {threads}"] for what in ("read", "read_ahead"))
            product = best[f"int8 by {threads}"]
            gigabytes = row["megabytes"] * 1e6 / speed["weights"]  # of a thousand million weights
            cells += [f"{product * gigabytes:.1f}", f"{read * gigabytes:.1f}", f"{product / read:.0%}"]
            reads.append(read)
        table.append([row["encoding"], *cells, f"{reads[1] / reads[0]:.2f}"])
    return table


def _products(speed: Row) -> Cells:
    table = [["ours / peer", "Gweights/s", "ratio"]]
    for row in speed["products"]:
        both = " / ".join(f"{value:.1f}" for value in row["gweights_per_s"])
        table.append([f"{row['ours']} / {row['peer']}", both, f"{row['ratio']:.2f}"])
    return table


def _errors(results: Results) -> Cells:
    """Every contender once: size and error, and for Gaussian values the bound at that size."""
    names = list(results["data"])
    head = ["encoding"] + [f"{name} {what}" for name in names for what in ("bpw", "error")]
    table = [head + ["Gauss bound", "bits above it"]]
    for name in dict.fromkeys(row["name"] for row in results["rows"] if row["table"] == "errors"):
        rows = [_find(results, data, name) for data in names]
        cells = [name] + [cell for row in rows for cell in (_size_and_error(row) if row else ["", ""])]
        gauss = _find(results, "Gauss", name)
        if gauss:
            bound = 4.0 ** -gauss["bpw"]
            excess = 0.5 * math.log2(gauss["relative_mse"] / bound)
            cells += [_error(bound), f"{excess:.2f}"]
        table.append(cells)
    return table


def _groups(results: Results) -> Cells:
    names = list(results["data"])
    table = [["encoding, group"] + [f"{n} {what}" for n in names for what in ("bpw", "error")]]
    for name in dict.fromkeys(row["name"] for row in results["rows"] if row["table"] == "groups"):
        rows = [_find(results, data, name) for data in names]
        table.append([name] + [cell for row in rows for cell in (_size_and_error(row) if row else ["", ""])])
    return table


def _bpw() -> Cells:
    table = [["encoding, group", "nominal"] + [f"{width} columns" for width in WIDTHS]]
    for encoding in bits.WORDS:
        for group in bits.GROUPS:
            stored = [f"{bits.stored(encoding, group, width):.4f}" for width in WIDTHS]
            table.append([f"{encoding}, {group}", f"{bits.nominal(encoding, group):.4f}", *stored])
    return table


def _codes(rows: list[Row]) -> Cells:
    table = [["code, one scale for all values", "bits", "error", "plain rounding", "bound"]]
    for row in rows:
        figures = [_error(row[key]) for key in ("relative_mse", "rounding", "shannon")]
        table.append([row["code"], f"{row['bits']:.3f}", *figures])
    table.append(["QTIP, one trellis along the row, L = 16, as published", "2.000", f"{QTIP}", "", "0.0625"])
    return table


def _positions(rows: list[Row]) -> Cells:
    length = max(len(row["relative_mse"]) for row in rows)
    table = [["error of weight"] + [str(i + 1) for i in range(length)]]
    for row in rows:
        errors = [_error(error) for error in row["relative_mse"]]
        table.append([row["encoding"]] + errors + [""] * (length - len(errors)))
    return table


def _find(results: Results, data: str, name: str) -> Optional[Row]:
    rows = (row for row in results["rows"] if row["data"] == data and row["name"] == name)
    return next(rows, None)


def _size_and_error(row: Row) -> list[str]:
    return [_bits(row["bpw"]), _error(row["relative_mse"])]


def _both(ours: Row, peer: Row, figure: str, write: Callable[[float], str]) -> str:
    values = (row[figure] for row in (ours, peer))
    return " / ".join("-" if value is None else write(value) for value in values)


def _bits(value: float) -> str:
    return f"{value:.3f}"


def _error(value: float) -> str:
    """Three figures, more or less."""
    return f"{value:.4f}" if value >= 0.01 else f"{value:.5f}"


def _ratio(value: Optional[float]) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10.0 else f"{value:.0f}"
