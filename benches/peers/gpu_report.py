"""Results of gpu.py as the table of docs/gpu.md. Standard library only."""

import re
from typing import Any, Optional

Results = dict[str, Any]
NONE = "Results: none yet. Nothing has run on a GPU."


def fill(page: str, results: Optional[Results]) -> str:
    """`page` with what stands between `<!-- gpu: results -->` and `<!-- end -->` written anew."""
    block = table(results) if results else NONE
    pattern = r"<!-- gpu: results -->\n.*?<!-- end -->"
    text, found = re.subn(pattern, lambda _: f"<!-- gpu: results -->\n{block}\n<!-- end -->", page, flags=re.DOTALL)
    if found != 1:
        raise SystemExit("gpu.py: the page has no place for the results: <!-- gpu: results --> to <!-- end -->")
    return text


def table(results: Results) -> str:
    """Setting, steps and figures, in Markdown."""
    return "\n\n".join(part for part in (_setting(results), _steps(results), _figures(results)) if part)


def _setting(results: Results) -> str:
    card, machine, peers = results["card"], results["machine"], results["peers"] or {}
    versions = ", ".join(f"{name} {number}" for name, number in peers.get("versions", {}).items())
    copy = (results["ours"] or {}).get("copy_bytes_per_second")
    parts = [
        f"{card['name']}, driver {card['driver']} ({card['cuda']}), {results['date']}",
        f"{machine['system']} {machine['processor']}, {machine['cores']} cores",
        f"ccq {results['commit']}" + (f", {versions}" if versions else ""),
    ]
    if copy:
        parts.append(f"a copy within the card's memory: {copy / 1e9:.0f} GB/s, read plus written")
    return "; ".join(parts) + "."


def _steps(results: Results) -> str:
    lines = ["| step | result | seconds |", "| --- | --- | ---: |"]
    for step in results["steps"]:
        outcome = {True: "passed", False: "**failed**", None: f"not run: {step.get('why')}"}[step["ok"]]
        lines.append(f"| {step['name']} | {outcome} | {step['seconds']:.1f} |")
    return "\n".join(lines)


def _figures(results: Results) -> str:
    """Ours beside the peers' product of the same shape and number of tokens."""
    rows = (results["ours"] or {}).get("results", [])
    peers = (results["peers"] or {}).get("results", [])
    lines = [
        "| encoding | shape | operation | us | GB/s stored | share of a copy "
        "| cuBLAS bf16 us | torch bf16 us | Triton WINT2 us, q8 and f32 |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        shape, tokens = f"{row['rows']}x{row['in_features']}", row.get("tokens")
        operation = f"gemv, M = {tokens}" if tokens else f"{row['operation']} to {row['element']}"
        cells = [row["encoding"], shape, operation, _us(row["median_seconds"])]
        cells += [f"{row['stored_bytes_per_second'] / 1e9:.0f}", f"{row['copy_share']:.0%}", _us(row["cublas_seconds"])]
        cells.append(_us(_peer(peers, "torch bf16", shape, tokens)))
        # The same bytes, but for the parameters of f32.
        packed = ("triton WINT2 q8", "triton WINT2 f32") if row["encoding"] == "ccq-2.06" else ()
        cells.append(" ".join(_us(_peer(peers, name, shape, tokens)) for name in packed).strip())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if rows else ""


def _peer(peers: list[dict[str, Any]], name: str, shape: str, tokens: Optional[int]) -> Optional[float]:
    for peer in peers:
        if (peer["name"], peer["shape"], peer["tokens"]) == (name, shape, tokens):
            return float(peer["median_seconds"])
    return None


def _us(seconds: Optional[float]) -> str:
    return f"{seconds * 1e6:.1f}" if seconds else ""
