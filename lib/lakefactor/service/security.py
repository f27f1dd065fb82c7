"""Who may ask, and how often."""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from lakefactor.config import Serve
from lakefactor.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
SHORTEST_KEY = 16

REMEMBERED = 10_000
"""Callers of which a rate is kept; whoever has not asked for longest is forgotten first."""


def check(config: Serve) -> None:
    """Refuse a configuration that would let in everybody, or whoever guesses.

    Raises
    ------
    ConfigError
        Other machines could ask without a key, or a key is weak, or two names share one.
    """
    problems = [
        f"serve.api_keys.{name} has fewer than {SHORTEST_KEY} characters, or other ones than printable ASCII: "
        "'openssl rand -hex 24' makes a key"
        for name, key in config.api_keys.items()
        if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable())
    ]
    if len(set(config.api_keys.values())) < len(config.api_keys):
        problems.append("serve.api_keys: two names have the same key")
    if not config.api_keys and config.host not in LOOPBACK and not config.insecure:
        problems.append(
            f"serve.host {config.host} can be reached from other machines, and serve.api_keys is empty: set a key, "
            "listen on 127.0.0.1, or set serve.insecure to true where a proxy checks who asks"
        )
    if problems:
        raise ConfigError("; ".join(problems))


class Keys:
    """The keys that open the service."""

    def __init__(self, keys: dict[str, str]) -> None:
        self._keys = {name: key.encode() for name, key in keys.items()}

    @property
    def needed(self) -> bool:
        """Whether a caller needs one."""
        return bool(self._keys)

    def caller(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Return whose key a request bears: in ``X-API-Key``, or as the password that a browser asks a person for."""
        return self.name_of(headers.get(b"x-api-key") or _password(headers.get(b"authorization", b"")))

    def name_of(self, given: bytes) -> str | None:
        """Return whose key it is, in a time that tells nothing of the others; None: nobody's."""
        found = [name for name, key in self._keys.items() if hmac.compare_digest(key, given)]
        return found[0] if found else None


def _password(authorization: bytes) -> bytes:
    """Return the password of HTTP's basic authentication (RFC 7617), empty where there is none.

    >>> _password(b"Basic " + base64.b64encode(b"ann:secret")), _password(b"Bearer x")
    (b'secret', b'')
    """
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


class Rates:
    """A token bucket for each caller: so many requests at once, and so many a second in the long run.

    >>> now = [0.0]
    >>> rates = Rates(2.0, 1, lambda: now[0])
    >>> rates.wait("a"), rates.wait("a"), rates.wait("b")
    (0.0, 0.5, 0.0)
    >>> now[0] = 0.5
    >>> rates.wait("a")
    0.0
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, caller: str) -> float:
        """Count a request of a caller; return 0, or the seconds after which it would be let in."""
        if not self._per_second:
            return 0.0
        now = self._clock()
        tokens, then = self._buckets.pop(caller, (float(self._burst), now))
        tokens = min(tokens + (now - then) * self._per_second, self._burst)
        allowed = tokens >= 1
        self._buckets[caller] = (tokens - allowed, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._per_second
