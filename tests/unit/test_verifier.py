"""Verifying tokens: argon2 once for each, and a fingerprint afterwards."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import argon2
import pytest

from skilder_keys.app.authorization.proofs import Proofs
from skilder_keys.app.authorization.verifier import MAX_OUTDATED, Verifier
from skilder_keys.domain.hashing import HashParameters, SecretHasher
from skilder_keys.domain.token import KeyType, Token
from tests.support.ids import new_key_id

if TYPE_CHECKING:
    from collections.abc import Iterator


class CountingHasher(SecretHasher):
    """A hasher that counts its argon2 checks, and records their threads."""

    def __init__(self, parameters: HashParameters) -> None:
        super().__init__(parameters)
        self.checks = 0
        self.threads: set[str] = set()

    def verifies(self, token: Token, secret_hash: str) -> bool:
        """Count, then verify."""
        self.checks += 1
        self.threads.add(threading.current_thread().name)
        return super().verifies(token, secret_hash)


@pytest.fixture
def hasher() -> CountingHasher:
    """A cheap hasher."""
    return CountingHasher(HashParameters(memory_kib=16))


@pytest.fixture
def verifier(hasher: CountingHasher) -> Iterator[Verifier]:
    """A verifier with one thread."""
    made = Verifier(hasher, Proofs.of_one_process(8), threads=1)
    yield made
    made.close()


def minted() -> Token:
    """Make a token of a new key."""
    return Token.mint(KeyType.WORKSPACE, new_key_id())


def outdated() -> tuple[Token, str]:
    """Make a token and a hash of it with other parameters."""
    token = minted()
    return token, SecretHasher(HashParameters(memory_kib=32)).hash(token.secret)


async def verifies(verifier: Verifier, token: Token, kept: str) -> bool:
    """Return whether a token verifies against a hash."""
    return await verifier.verifies(token, verifier.digest(token), kept)


async def test_a_right_token_is_verified_once_and_recognized_afterwards(
    verifier: Verifier, hasher: CountingHasher
) -> None:
    """Only the first check uses argon2, in a thread."""
    token = minted()
    kept = await verifier.hash(token.secret)
    for _ in range(3):
        assert await verifies(verifier, Token.parse(token.reveal()), kept)
    assert hasher.checks == 1
    assert [name.startswith("argon2") for name in hasher.threads] == [True]


async def test_a_wrong_token_is_refused_and_not_remembered(verifier: Verifier, hasher: CountingHasher) -> None:
    """Wrong guesses at a key that was not used here cost one check each and do not affect the right token."""
    token = minted()
    kept = await verifier.hash(token.secret)
    for _ in range(2):
        assert not await verifies(verifier, Token.mint(token.type, token.key_id), kept)
    assert hasher.checks == 2
    assert await verifies(verifier, token, kept)


async def test_a_wrong_token_after_the_right_one_costs_no_argon2(verifier: Verifier, hasher: CountingHasher) -> None:
    """Once the right token is known, all others are known to be wrong."""
    token = minted()
    kept = await verifier.hash(token.secret)
    assert await verifies(verifier, token, kept)
    flipped = replace(token, secret=bytes([token.secret[0] ^ 1]) + token.secret[1:])
    for wrong in (flipped, Token.mint(token.type, token.key_id)):
        assert not await verifies(verifier, wrong, kept)
    assert await verifies(verifier, token, kept)
    assert hasher.checks == 1


async def test_a_new_hash_of_the_same_key_is_verified_again(verifier: Verifier, hasher: CountingHasher) -> None:
    """A check belongs to one hash: after the secret was replaced, the old token is not recognized."""
    old, new = minted(), minted()
    old_hash, new_hash = await verifier.hash(old.secret), await verifier.hash(new.secret)
    assert await verifies(verifier, old, old_hash)
    assert not await verifies(verifier, old, new_hash)
    assert await verifies(verifier, new, new_hash)
    assert hasher.checks == 3


async def test_a_token_that_another_worker_verified_needs_no_argon2(hasher: CountingHasher) -> None:
    """They share what was verified. Each still refuses other tokens of the key."""
    proofs, token = Proofs.of_one_process(8), minted()
    one, other = Verifier(hasher, proofs), Verifier(hasher, proofs)
    kept = await one.hash(token.secret)
    assert await verifies(one, token, kept)
    assert await verifies(other, token, kept)
    assert not await verifies(other, Token.mint(token.type, token.key_id), kept)
    assert hasher.checks == 1
    one.close()
    other.close()


async def test_a_hash_of_todays_cost_is_not_outdated(verifier: Verifier) -> None:
    """There is nothing to renew."""
    token = minted()
    assert await verifies(verifier, token, await verifier.hash(token.secret))
    assert verifier.take_outdated() == {}


async def test_the_right_token_of_an_outdated_hash_is_noted(verifier: Verifier) -> None:
    """A wrong token is not. It is noted again if its hash was not renewed, also by a worker that need not verify it."""
    token, kept = outdated()
    assert not await verifies(verifier, minted(), kept)
    assert verifier.take_outdated() == {}
    assert await verifies(verifier, token, kept)
    assert verifier.take_outdated() == {kept: token}
    assert verifier.take_outdated() == {}
    assert not await verifies(verifier, Token.mint(token.type, token.key_id), kept)
    assert verifier.take_outdated() == {}
    assert await verifies(verifier, token, kept)
    assert verifier.take_outdated() == {kept: token}


async def test_the_number_of_noted_tokens_is_bounded(hasher: CountingHasher) -> None:
    """Tokens whose hashes were not renewed yet are few, since nobody should find many of them in memory."""
    verifier = Verifier(hasher, Proofs.of_one_process(1000))
    for _ in range(MAX_OUTDATED + 5):
        assert await verifies(verifier, *outdated())
    assert len(verifier.take_outdated()) == MAX_OUTDATED
    verifier.close()


async def test_a_remembered_token_needs_no_argon2(verifier: Verifier, hasher: CountingHasher) -> None:
    """As after the hash of a verified token was renewed."""
    token = minted()
    kept = await verifier.hash(token.secret)
    verifier.remember(token, verifier.digest(token), kept)
    assert await verifies(verifier, token, kept)
    assert not await verifies(verifier, Token.mint(token.type, token.key_id), kept)
    assert hasher.checks == 0


async def test_tokens_that_arrive_together_are_verified_together(hasher: CountingHasher) -> None:
    """A way to a thread and back is shared by several tokens of different hashes; each gets its own result."""
    verifier = Verifier(hasher, Proofs.of_one_process(1000), threads=2)
    tokens = [minted() for _ in range(40)]
    hashes = [hasher.hash(token.secret) for token in tokens]
    right = [verifies(verifier, token, kept) for token, kept in zip(tokens, hashes, strict=True)]
    wrong = [verifies(verifier, minted(), kept) for kept in hashes]
    broken = [verifies(verifier, minted(), f"no hash {number}") for number in range(10)]
    found = await asyncio.gather(*wrong, *right, *broken, return_exceptions=True)
    assert found[:80] == [False] * 40 + [True] * 40
    assert [type(error) for error in found[80:]] == [argon2.exceptions.InvalidHashError] * 10
    assert hasher.checks == 90
    verifier.close()


async def test_closing_cancels_the_calls_that_wait(hasher: CountingHasher) -> None:
    """None waits for ever."""
    verifier = Verifier(hasher, Proofs.of_one_process(1000), threads=1)
    kept = hasher.hash(minted().secret)
    waiting = [asyncio.create_task(verifies(verifier, minted(), kept)) for _ in range(20)]
    await asyncio.sleep(0)
    verifier.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in found] == [asyncio.CancelledError] * 20


async def test_a_broken_hash_is_an_error_each_time(verifier: Verifier) -> None:
    """Argon2's error is raised to the caller, and nothing is remembered."""
    for _ in range(2):
        with pytest.raises(argon2.exceptions.InvalidHashError):
            await verifies(verifier, minted(), "no hash")


async def test_closing_ends_the_threads(hasher: CountingHasher) -> None:
    """A closed verifier has no threads and accepts no work."""
    before = set(threading.enumerate())
    verifier = Verifier(hasher, Proofs.of_one_process(1000), threads=2)
    kept = await verifier.hash(minted().secret)
    started = set(threading.enumerate()) - before
    assert started
    verifier.close()
    assert not any(thread.is_alive() for thread in started)
    with pytest.raises(RuntimeError):
        await verifies(verifier, minted(), kept)
