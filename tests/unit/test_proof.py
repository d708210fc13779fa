"""Proving tokens: argon2 once for each, recognition afterwards, and a bound on what is remembered."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import argon2
import pytest

from service.app.proof import Prover
from service.domain.hashing import HashParameters, Recogniser, SecretHasher
from service.domain.token import KeyType, Token
from tests.support.ids import new_key_id

if TYPE_CHECKING:
    from collections.abc import Iterator


class CountingHasher(SecretHasher):
    """A hasher that counts how often argon2 is asked for a proof, and in which threads."""

    def __init__(self, parameters: HashParameters) -> None:
        super().__init__(parameters)
        self.proofs = 0
        self.threads: set[str] = set()

    def proves(self, token: Token, secret_hash: str) -> bool:
        """Counts, then proves as ever."""
        self.proofs += 1
        self.threads.add(threading.current_thread().name)
        return super().proves(token, secret_hash)


@pytest.fixture
def hasher() -> CountingHasher:
    """A cheap hasher."""
    return CountingHasher(HashParameters(memory_kib=16))


@pytest.fixture
def prover(hasher: CountingHasher) -> Iterator[Prover]:
    """A prover that remembers at most two proofs."""
    made = Prover(hasher, Recogniser(), threads=1, capacity=2)
    yield made
    made.close()


def minted() -> Token:
    """Makes a token of a new key."""
    return Token.mint(KeyType.WORKSPACE, new_key_id())


async def proves(prover: Prover, token: Token, kept: str) -> bool:
    """Tells whether a token is proven against a hash."""
    return await prover.proves(token, prover.digest(token), kept)


async def test_a_right_token_is_proven_once_and_recognised_afterwards(prover: Prover, hasher: CountingHasher) -> None:
    """Argon2 is asked the first time only, in a thread of its own."""
    token = minted()
    kept = await prover.hash(token.secret)
    for _ in range(3):
        assert await proves(prover, Token.parse(token.reveal()), kept)
    assert hasher.proofs == 1
    assert [name.startswith("argon2") for name in hasher.threads] == [True]


async def test_a_wrong_token_is_refused_and_not_remembered(prover: Prover, hasher: CountingHasher) -> None:
    """Wrong guesses at a key nobody has used here cost a proof each and leave the right one as good as ever."""
    token = minted()
    kept = await prover.hash(token.secret)
    for _ in range(2):
        assert not await proves(prover, Token.mint(token.type, token.key_id), kept)
    assert hasher.proofs == 2
    assert await proves(prover, token, kept)


async def test_a_wrong_token_after_the_right_one_costs_no_argon2(prover: Prover, hasher: CountingHasher) -> None:
    """Once the right token is known, all others are known to be wrong."""
    token = minted()
    kept = await prover.hash(token.secret)
    assert await proves(prover, token, kept)
    flipped = replace(token, secret=bytes([token.secret[0] ^ 1]) + token.secret[1:])
    for wrong in (flipped, Token.mint(token.type, token.key_id)):
        assert not await proves(prover, wrong, kept)
    assert await proves(prover, token, kept)
    assert hasher.proofs == 1


async def test_a_new_hash_of_the_same_key_is_proven_anew(prover: Prover, hasher: CountingHasher) -> None:
    """A proof is of a token against one hash: a replaced secret is not recognised by the old one's."""
    old, new = minted(), minted()
    old_hash, new_hash = await prover.hash(old.secret), await prover.hash(new.secret)
    assert await proves(prover, old, old_hash)
    assert not await proves(prover, old, new_hash)
    assert await proves(prover, new, new_hash)
    assert hasher.proofs == 3


async def test_the_proof_used_longest_ago_is_forgotten_first(prover: Prover, hasher: CountingHasher) -> None:
    """With room for two, the third drops the one that was not used lately; it is then proven again."""
    known = [(token, await prover.hash(token.secret)) for token in (minted(), minted(), minted())]
    first, second, third = known
    for token, kept in (first, second, first, third):
        assert await proves(prover, token, kept)
    assert hasher.proofs == 3
    for token, kept in (first, third):
        assert await proves(prover, token, kept)
    assert hasher.proofs == 3
    assert await proves(prover, *second)
    assert hasher.proofs == 4


async def test_a_hash_of_todays_cost_is_not_renewed(prover: Prover) -> None:
    """There is nothing to renew in it."""
    token = minted()
    assert await prover.renewed(token, await prover.hash(token.secret)) is None


async def test_a_hash_of_another_cost_is_renewed(prover: Prover, hasher: CountingHasher) -> None:
    """The new hash has today's cost and proves the same token, and no other."""
    token = minted()
    renewed = await prover.renewed(token, SecretHasher(HashParameters(memory_kib=32)).hash(token.secret))
    assert renewed is not None
    assert not hasher.is_outdated(renewed)
    assert await proves(prover, token, renewed)
    assert not await proves(prover, Token.mint(token.type, token.key_id), renewed)


async def test_a_broken_hash_is_an_error_each_time(prover: Prover) -> None:
    """An error of argon2 comes through and leaves nothing remembered."""
    for _ in range(2):
        with pytest.raises(argon2.exceptions.InvalidHashError):
            await proves(prover, minted(), "no hash")


async def test_closing_ends_the_threads(hasher: CountingHasher) -> None:
    """A closed prover has no threads and takes no work."""
    before = set(threading.enumerate())
    prover = Prover(hasher, Recogniser(), threads=2)
    kept = await prover.hash(minted().secret)
    started = set(threading.enumerate()) - before
    assert started
    prover.close()
    assert not any(thread.is_alive() for thread in started)
    with pytest.raises(RuntimeError):
        await proves(prover, minted(), kept)
