"""Numbers and dates as people write them, which are then text to pandas."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOSTLY = 0.9
CURRENCY = "[$€£¥₹]|USD|EUR|GBP|CHF|JPY|CNY|INR"
WRITTEN = {
    "numbers": re.compile(
        rf"(?:[<>≤≥~≈]=?\s?)?[-+−]?(?:(?:{CURRENCY})\s?)?[-+−]?"  # noqa: RUF001 (minus signs of text)
        rf"\d+(?:[.,' ]\d{{3}})*(?:[.,]\d+)?(?:\s?(?:[%‰]|{CURRENCY})|\s[^\s\d]\S{{0,5}})?"
    ),
    "dates": re.compile(r"\d{1,2}[./]\d{1,2}[./]\d{4}(?:\s.*)?|\d{4}/\d\d?/\d\d?(?:\s.*)?"),
}


def written_as(texts: Sequence[str]) -> str | None:
    """What distinct texts are but for a few, "numbers" or "dates"; None of others, as of digits alone."""
    if sum(text.isdigit() for text in texts) >= MOSTLY * len(texts):
        return None
    for kind, pattern in WRITTEN.items():
        if sum(pattern.fullmatch(text) is not None for text in texts) > MOSTLY * len(texts):
            return kind
    return None
