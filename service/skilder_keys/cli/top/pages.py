"""The metrics page of a server: fetch it, and read the samples that the view needs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families

from skilder_keys.cli.exits import reason
from skilder_keys.cli.top.reading import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIXES = ("skilder_keys_", "process_")
_MAX_BYTES = 16 * 2**20
_TIMEOUT = 5.0
_DEFAULT_PATH = "/metrics"

Name = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a sample, and its labels but `worker`, in order."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a metrics page said.

    Attributes:
        at: When it was read, as `time.monotonic` counts.
        samples: By the label `worker`, which is empty for those of the parent process.
    """

    at: float
    samples: Mapping[str, Mapping[Name, float]]


def url_of(given: str) -> str:
    """Return the URL of a metrics page that is given as a URL or as HOST:PORT. Raises ValueError for another text."""
    url = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(url)
        has_port = bool(parts.port) or (parts.port is None and "://" in given)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.username and has_port
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{given!r} is neither HOST:PORT nor an address such as http://127.0.0.1:9464/metrics")
    return url if parts.path.strip("/") else parts._replace(path=_DEFAULT_PATH).geturl()


def fetch(url: str) -> Page:
    """Read a metrics page. Use no proxy: the page is on this machine, or on a network of the operator's own.

    Raises:
        SourceError: It cannot be read, or is no metrics page.
    """
    try:
        body = _body(url)
    except HTTPError as error:
        error.close()
        raise SourceError(f"HTTP status {error.code}") from None
    except URLError as error:
        cause = error.reason
        raise SourceError(_words(cause) if isinstance(cause, Exception) else str(cause)) from None
    except (OSError, HTTPException, ValueError) as error:
        raise SourceError(_words(error)) from None
    return Page(time.monotonic(), parsed(body.decode("utf-8", "replace")))


def parsed(text: str) -> dict[str, dict[Name, float]]:
    """Return the samples of a page. Raises SourceError if it has none of the service."""
    lines = [line for line in text.split("\n") if line.startswith(_PREFIXES)]
    samples: dict[str, dict[Name, float]] = {}
    try:
        for family in text_string_to_metric_families("\n".join([*lines, ""])):
            for each in family.samples:
                labels = dict(each.labels)
                worker = labels.pop("worker", "")
                samples.setdefault(worker, {})[each.name, tuple(sorted(labels.items()))] = each.value
    except ValueError as error:
        raise SourceError(f"not a page of metrics: {reason(error)}") from None
    if not any(name.startswith("skilder_keys_") for of in samples.values() for name, _ in of):
        raise SourceError("the page has no metrics of Skilder Keys")
    return samples


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or reason(error)


def _body(url: str) -> bytes:
    """Return the response's body. Each read has a time limit, and so has the whole."""
    end = time.monotonic() + _TIMEOUT
    with build_opener(ProxyHandler({})).open(url, timeout=_TIMEOUT) as response:
        body = bytearray()
        while piece := response.read1(2**16):
            body += piece
            if len(body) > _MAX_BYTES:
                raise SourceError(f"the page is longer than {_MAX_BYTES // 2**20} MiB")
            if time.monotonic() > end:
                raise SourceError("the page took too long")
    return bytes(body)
