"""Authentication of callers by bearer token, by client certificate or by runtime key."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from skilder_keys.domain.errors import KeysError
from skilder_keys.domain.token import PREFIXES, KeyType

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skilder_keys.app.authorization.authorizer import Authorizer
    from skilder_keys.domain.access import Caller
    from skilder_keys.domain.hashing import TokenFingerprint

_MAX_BEARER = 512


class UnauthenticatedError(KeysError):
    """The caller is unknown: send `authorization: Bearer TOKEN`, or a client certificate of the callers file."""

    reason = "UNAUTHENTICATED"


class Credentials(Protocol):
    """The credentials that come with a call."""

    def credentials(self) -> str | None:
        """Return the metadata `authorization`, or None if there is none."""

    def peer(self) -> str:
        """Return the client's address, e.g. `ipv4:127.0.0.1:41234`."""

    def certificate_names(self) -> Iterable[str]:
        """Return the subject alternative names of the client's verified certificate; none without a certificate."""


@dataclass(frozen=True, slots=True)
class KnownCaller:
    """A caller, and its bearer tokens, its client certificate, or both.

    Attributes:
        token_sha256: The SHA-256 of each of its bearer tokens, 32 bytes. While it changes its token, it has two.
        san: A subject alternative name of its client certificate: a DNS name or a URI.
    """

    caller: Caller
    token_sha256: tuple[bytes, ...] = ()
    san: str | None = None


class Callers:
    """Authenticates the callers of the service."""

    def __init__(self, known: Sequence[KnownCaller], authorizer: Authorizer, fingerprint: TokenFingerprint) -> None:
        self._by_token = [(digest, each.caller) for each in known for digest in each.token_sha256]
        self._by_san = {each.san: each.caller for each in known if each.san is not None}
        self._authorizer = authorizer
        self._fingerprint = fingerprint
        # By the fingerprint of the metadata. A runtime key is never remembered, because it can be revoked.
        self._remembered: dict[bytes, Caller] = {}

    def remembered(self, credentials: str | None) -> Caller | None:
        """Return the caller with this metadata `authorization` if its bearer token was seen before; else None."""
        return None if credentials is None else self._remembered.get(self._fingerprint.digest(credentials))

    async def identify(self, call: Credentials) -> Caller:
        """Return the caller of a call, by its bearer token or, without one, by its client certificate.

        Raises:
            UnauthenticatedError: It has neither, or one that is unknown.
            UnavailableError: It has a runtime key, which cannot be verified now.
        """
        credentials = call.credentials()
        if credentials is None:
            caller = self._by_certificate(call)
        elif (bearer := _bearer(credentials)).startswith(PREFIXES[KeyType.RUNTIME]):
            caller = await self._authorizer.identify_runtime(bearer, _address(call.peer()))
        else:
            caller = self._by_bearer(bearer)
            if caller is not None:
                self._remembered[self._fingerprint.digest(credentials)] = caller
        if caller is None:
            raise UnauthenticatedError
        return caller

    def _by_bearer(self, bearer: str) -> Caller | None:
        digest = hashlib.sha256(bearer.encode()).digest()
        match = None
        for expected, caller in self._by_token:
            # The loop compares with every token, so that its time reveals nothing.
            if hmac.compare_digest(digest, expected):
                match = caller
        return match

    def _by_certificate(self, call: Credentials) -> Caller | None:
        return next((self._by_san[name] for name in call.certificate_names() if name in self._by_san), None)


def _bearer(credentials: str) -> str:
    scheme, _, token = credentials.partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(token) <= _MAX_BEARER:
        raise UnauthenticatedError
    return token


def _address(peer: str) -> str:
    """Return the IP address in a client's address; an empty text if there is none."""
    kind, _, rest = peer.partition(":")
    return unquote(rest.rpartition(":")[0]).strip("[]") if kind in {"ipv4", "ipv6"} else ""
