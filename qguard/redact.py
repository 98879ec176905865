"""The one place that all output passes: log lines, answers, tables, errors.

Passwords and keys of the configuration are known by value. Passkeys are not, but they only ever come inside announce
URLs, and magnet links; so every URL loses what follows its host, unless it starts with an address of our own.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus

import msgspec

HIDDEN: Final = "***"

_URL: Final = re.compile(
    r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/@\"'<>|]*@)?([^\s/?#\"'<>|]+)([/?#][^\s\"'<>|]*)?", re.IGNORECASE
)
_ENCODED_URL: Final = re.compile(r"\b([a-z][a-z0-9+.-]*)%3a%2f%2f[^\s&\"'<>|]+", re.IGNORECASE)
_MAGNET: Final = re.compile(r"(magnet:\?)[^\s\"'<>|]+", re.IGNORECASE)
_PASSKEY: Final = re.compile(
    r"\b(passkey|authkey|torrent_pass|auth|pid|uk|key|apikey|api_key|token|password|secret)=[^\s&\"'<>|]+",
    re.IGNORECASE,
)

_MARKS: Final = ("magnet:", "%3", "://", "=")
"""What every text has in it that one of the patterns above would change."""

_INFOHASH: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")

MIN_SECRET: Final = 4
"""Characters below which a value is too short to be hidden wherever it occurs: it would hide half of the text."""


class Redactor:
    """Knows the secrets of one configuration; stateless otherwise."""

    def __init__(self, secrets: Iterable[str] = (), own_urls: Iterable[str] = ()) -> None:
        long_enough = [secret for secret in secrets if len(secret) >= MIN_SECRET]
        forms = {form for secret in long_enough for form in _forms(secret)}
        longest_first = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if forms else None
        self._forms = frozenset(forms)
        self._found_by = (*longest_first, *_MARKS)
        self._found_in_json_by = tuple(map(_encoded, self._found_by))
        self._own = tuple(url.rstrip("/") for url in own_urls)

    def may_change_json(self, encoded: bytes) -> bool:
        """Whether something in a JSON text may have to be hidden; a no is certain, and comes at once."""
        return any(part in encoded for part in self._found_in_json_by)

    def value(self, text: str) -> str:
        """The value of a field with every secret hidden.

        An info-hash is hidden where it is a secret, and not where a short one happens to be part of it: it would name
        no torrent any more.
        """
        if not any(part in text for part in self._found_by):
            return text
        if _INFOHASH.fullmatch(text):
            return HIDDEN if text in self._forms else text
        return self(text)

    def __call__(self, text: str) -> str:
        """`text` with every secret hidden."""
        if self._known:
            text = self._known.sub(HIDDEN, text)
        if "magnet:" in text:
            text = _MAGNET.sub(rf"\1{HIDDEN}", text)
        if "%3" in text:
            text = _ENCODED_URL.sub(rf"\1://{HIDDEN}", text)
        if "://" in text:
            text = _URL.sub(self._shorten, text)
        return _PASSKEY.sub(rf"\1={HIDDEN}", text) if "=" in text else text

    def _shorten(self, match: re.Match[str]) -> str:
        url = match[0]
        if any(url == own or url.startswith((own + "/", own + "?")) for own in self._own):
            return url
        return match[1] + match[2] + (f"/{HIDDEN}" if match[3] and match[3] != "/" else match[3] or "")


def _encoded(text: str) -> bytes:
    """A part of a text as it stands in JSON. Escaping goes character by character, so that a part stays a part."""
    try:
        return msgspec.json.encode(text)[1:-1]
    except UnicodeEncodeError:  # half a character, which no JSON holds
        return b"\xff"


def _forms(secret: str) -> tuple[str, ...]:
    """A secret as it may stand in a text: raw, or percent-encoded in one of the usual ways."""
    strict = quote(secret, safe="", errors="replace")
    return secret, strict, strict.lower(), quote(secret, errors="replace"), quote_plus(secret, errors="replace")
