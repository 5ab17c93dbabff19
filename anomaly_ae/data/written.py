"""As people write: numbers and dates that are then text to pandas, and names that are other names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

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


def meant(missing: Iterable[str], there: Iterable[str]) -> str:
    """A question to follow on a sentence, where names that are `missing` differ from some `there` by case or blanks."""
    known = {str(name).strip().casefold(): name for name in there}
    alike = [repr(known[key]) for name in missing if (key := name.strip().casefold()) in known]
    return f" Did you mean {', '.join(alike)}?" if alike else ""
