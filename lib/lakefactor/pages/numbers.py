"""How numbers, shares, times and ids are written on every page."""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone

from lakefactor.log import printable
from lakefactor.query.stream_status import duration

NOTHING = "–"
"""What stands where there is no value."""

MINUS = "−"


def number(value: float | None) -> str:
    """Return a number with three significant digits, or a whole one in full.

    >>> [number(value) for value in (0.123456, 12345, 1234.56, 0.00001234, -0.5, 0.1, 2.0, 3e12, None)]
    ['0.123', '12,345', '1,235', '1.23e-05', '−0.500', '0.100', '2', '3,000,000,000,000', '–']
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-4:
        text = f"{size:.3g}"
    elif size >= 1000 or size == int(size):
        text = f"{size:,.0f}"
    else:
        text = f"{size:.{max(0, 2 - math.floor(math.log10(size)))}f}"
    return MINUS + text if value < 0 and text != "0" else text


def signed(value: float | None) -> str:
    """Return a change, with its sign.

    >>> signed(0.25), signed(-3), signed(0), signed(None)
    ('+0.250', '−3', '0', '–')
    """
    return f"+{number(value)}" if value is not None and math.isfinite(value) and value > 0 else number(value)


def share(value: float | None) -> str:
    """Return a share in per cent.

    >>> share(0.1234), share(1.0), share(0.00042), share(-0.5), share(None)
    ('12.3 %', '100 %', '0.0420 %', '−50 %', '–')
    """
    return NOTHING if value is None or not math.isfinite(value) else f"{number(100 * value)} %"


def brief(text: str) -> str:
    """Return a number's text as it fits beside an axis: without zeros at its end, millions as such.

    >>> brief("0.250"), brief("2.50 %"), brief("1,000"), brief("1.00"), brief("1,500,000"), brief("−2,000,000,000")
    ('0.25', '2.5 %', '1,000', '1', '1.5M', '−2,000M')
    """
    if found := re.fullmatch(rf"({MINUS}?)([\d,]+),(\d{{3}}),\d{{3}}", text):
        return f"{found[1]}{found[2]}.{found[3]}".rstrip("0").rstrip(".") + "M"
    return re.sub(r"(\.\d*?)0+(?!\d)", lambda found: found[1].rstrip("."), text, count=1)


def span(seconds: float | None) -> str:
    """Return a time span as people say it.

    >>> span(0.04), span(130), span(-4.0), span(None)
    ('0.04 s', '2 min', '−4 s', '–')
    """
    return NOTHING if seconds is None or not math.isfinite(seconds) else duration(seconds).replace("-", MINUS)


def moment(when: datetime | None) -> str:
    """Return a time in UTC.

    >>> moment(datetime(2026, 11, 20, 8, 5, 59, tzinfo=timezone.utc)), moment(None)
    ('2026-11-20 08:05 UTC', '–')
    """
    return NOTHING if when is None else f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def identifier(value: str | int) -> str:
    r"""Return an id as a page may show it: without control and invisible characters, quoted where blanks would mislead.

    >>> identifier("Zoë"), identifier(7), identifier(" a"), identifier("a\u202eb"), identifier("")
    ('Zoë', '7', '" a"', 'a\\u202eb', '""')
    """
    text = printable(str(value)).replace("\n", "\\n")
    return f'"{text}"' if text != text.strip() or not text else text


def words(name: str) -> str:
    """Return a name of a metric, step or segment as words.

    >>> words("ndcg_at_10"), words("recall_at_10.new_users"), words("rmse"), words("page_hinkley")
    ('NDCG@10', 'Recall@10, new users', 'RMSE', 'Page Hinkley')
    """
    metric, _, segment = name.partition(".")
    stem, at, k = metric.partition("_at_")
    known = {"ndcg": "NDCG", "rmse": "RMSE", "mae": "MAE", "auc": "AUC", "map": "MAP", "mrr": "MRR", "adwin": "ADWIN"}
    text = known.get(stem) or " ".join(part if n else part.capitalize() for n, part in enumerate(stem.split("_")))
    text = text if stem != "page_hinkley" else "Page Hinkley"
    return text + (f"@{k}" if at else "") + (f", {segment.replace('_', ' ')}" if segment else "")
