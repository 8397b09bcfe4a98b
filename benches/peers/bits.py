"""Bits a weight, from the rules of the format: `Code::plane_sizes` of src/code.rs. Standard library only."""

# States a word, bytes a word, and the bits below each state, from the first. The bits below the last state of
# a group hold its scale where there are at least four of them.
WORDS = {
    "ccq-2.06": (4, 1, [0, 0, 0, 0]),
    "ccq-2.5": (7, 2, [13, 11, 9, 6, 4, 2, 0]),
    "ccq-2.75": (3, 1, [4, 2, 0]),
    "ccq-3.31": (5, 2, [12, 9, 6, 3, 0]),
    "wint4": (2, 1, [0, 0]),
    "ccq-5.5": (3, 2, [10, 5, 0]),
}
GROUPS = (32, 64, 128)
ROW_ALIGN = 16


def nominal(encoding: str, group: int) -> float:
    """Codes and local scales alone, for rows of whole groups: the paper's equation (5)."""
    code, scale = _row(encoding, group, 4096 * group)
    return 8.0 * (code + scale) / (4096 * group)


def stored(encoding: str, group: int, in_features: int) -> float:
    """Every byte of a row: padding, local scales, super scale and cluster parameters included."""
    code, scale = _row(encoding, group, in_features)
    padded = -(-code // ROW_ALIGN) * ROW_ALIGN
    super_scale, cluster = 4, 4 if encoding == "ccq-2.06" else 0
    return 8.0 * (padded + scale + super_scale + cluster) / in_features


def _row(encoding: str, group: int, in_features: int) -> "tuple[int, int]":
    """Bytes of the codes and of the local-scale plane."""
    states, word_bytes, spare = WORDS[encoding]
    groups = -(-in_features // group)
    code = groups * -(-group // states) * word_bytes
    if encoding == "wint4":
        return code, groups
    embedded = spare[(group - 1) % states] >= 4
    return code, 0 if embedded else -(-groups // 2)
