"""Who is calling: by bearer token, by client certificate, or by a runtime key."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from skilder_keys.domain.errors import KeysError
from skilder_keys.domain.token import PREFIXES, KeyType

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skilder_keys.app.authorization.authorizer import Authorizer
    from skilder_keys.domain.access import Caller
    from skilder_keys.domain.hashing import TokenFingerprint

_MAX_BEARER = 512


class UnauthenticatedError(KeysError):
    """The caller is not known: send `authorization: Bearer TOKEN`, or a client certificate that is listed."""

    reason = "UNAUTHENTICATED"


class Credentials(Protocol):
    """What a call shows of its caller."""

    def credentials(self) -> str | None:
        """Return the metadata `authorization`, or None without."""

    def certificate_names(self) -> Iterable[str]:
        """Return the subject alternative names in the client's certificate, if it sent one that was verified."""


@dataclass(frozen=True, slots=True)
class KnownCaller:
    """A caller, and how it shows who it is: by one or both of these.

    Attributes:
        token_sha256: The SHA-256 of its bearer token.
        san: A subject alternative name of its client certificate: a DNS name or a URI.
    """

    caller: Caller
    token_sha256: bytes | None = None
    san: str | None = None


class Callers:
    """Identifies the callers of the service."""

    def __init__(self, known: Sequence[KnownCaller], authorizer: Authorizer, fingerprint: TokenFingerprint) -> None:
        self._by_token = [(each.token_sha256, each.caller) for each in known if each.token_sha256 is not None]
        self._by_san = {each.san: each.caller for each in known if each.san is not None}
        self._authorizer = authorizer
        self._fingerprint = fingerprint
        # By the digest of what they send. Never the holder of a runtime key: that can be revoked.
        self._remembered: dict[bytes, Caller] = {}

    def remembered(self, credentials: str | None) -> Caller | None:
        """Answers who sends such a metadata `authorization`, where the same bearer token was seen before."""
        return None if credentials is None else self._remembered.get(self._fingerprint.digest(credentials))

    async def identify(self, call: Credentials) -> Caller:
        """Answers who makes this call: by its bearer token or, where it sends none, by its client certificate.

        Raises:
            UnauthenticatedError: It shows neither, or one that is not known.
            UnavailableError: It shows a runtime key, which cannot be decided about now.
        """
        credentials = call.credentials()
        if credentials is None:
            caller = self._by_certificate(call)
        elif (bearer := _bearer(credentials)).startswith(PREFIXES[KeyType.RUNTIME]):
            caller = await self._authorizer.identify_runtime(bearer)
        else:
            caller = self._by_bearer(bearer)
            if caller is not None:
                self._remembered[self._fingerprint.digest(credentials)] = caller
        if caller is None:
            raise UnauthenticatedError
        return caller

    def _by_bearer(self, bearer: str) -> Caller | None:
        digest = hashlib.sha256(bearer.encode()).digest()
        found = None
        for expected, caller in self._by_token:
            # Every caller is compared, so that the time taken tells nothing.
            if hmac.compare_digest(digest, expected):
                found = caller
        return found

    def _by_certificate(self, call: Credentials) -> Caller | None:
        return next((self._by_san[name] for name in call.certificate_names() if name in self._by_san), None)


def _bearer(credentials: str) -> str:
    scheme, _, token = credentials.partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(token) <= _MAX_BEARER:
        raise UnauthenticatedError
    return token
