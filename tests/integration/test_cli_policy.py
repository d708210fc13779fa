"""`workspace policy`, and the policy in files that `workspace apply` takes and `workspace show` prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1.workspace_pb2 import KeyPolicy
from skilder_keys.cli.exits import Exit
from tests.support.calls import get_workspace
from tests.support.person import Person

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Service


@pytest.fixture
def transport() -> str:
    """The command line is the same with every transport, so one is enough."""
    return "grpcio"


@pytest.fixture
def person(service: Service, tmp_path: Path) -> Person:
    """Somebody with the small workspace applied."""
    return Person(service, tmp_path)


async def policy_of(service: Service) -> KeyPolicy:
    """Return the policy of `acme`, which is empty if there is none."""
    return (await get_workspace(service.operator)).workspace.key_policy


async def test_rules_are_set_shown_and_cleared(service: Service, person: Person) -> None:
    """What is not named stays; each command says what changed."""
    done = await person.script("policy", "show", "acme")
    assert done.stdout == "The workspace acme has no key policy.\n"
    done = await person.script("policy", "set", "acme", "--max-lifetime", "90d", "--require-hats", "--dry-run")
    assert "Nothing was written" in done.stdout
    assert await policy_of(service) == KeyPolicy()
    done = await person.script("policy", "set", "acme", "--max-lifetime", "90d", "--require-hats")
    assert "max_lifetime none -> 90d; require_hat_limit no -> yes" in done.stdout
    done = await person.script("policy", "set", "acme", "--max-keys-per-user", "0", "--unique-descriptions")
    assert "max_active_keys_per_user none -> 0; unique_descriptions no -> yes" in done.stdout
    assert await policy_of(service) == KeyPolicy(
        max_lifetime=Duration(seconds=90 * 86_400),
        max_active_keys_per_user=0,
        require_hat_limit=True,
        unique_descriptions=True,
    )
    done = await person.script("policy", "show", "acme")
    assert done.stdout.splitlines() == [
        "max_lifetime\t90d",
        "max_active_keys_per_user\t0",
        "require_hat_limit\tyes",
        "unique_descriptions\tyes",
    ]
    shown = json.loads((await person.script("policy", "show", "acme", "--json")).stdout)
    assert shown["max_lifetime"] == "7776000s"
    done = await person.script(
        "policy", "set", "acme", "--max-lifetime", "none", "--max-keys-per-user", "none", "--no-require-hats"
    )
    assert await policy_of(service) == KeyPolicy(unique_descriptions=True)
    done = await person.script("policy", "clear", "acme")
    assert "unique_descriptions yes -> no" in done.stdout
    assert await policy_of(service) == KeyPolicy()
    assert "nothing differed" in (await person.script("policy", "clear", "acme")).stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "nothing to set"),
        (["--max-lifetime", "90"], "write one as 45s, 30m, 12h, 90d or 2w"),
        (["--max-lifetime", "0s"], "--max-lifetime is 0 s"),
        (["--max-keys-per-user", "many"], "is not a number, and not `none`"),
        (["--max-keys-per-user", "10001"], "--max-keys-per-user is 10001"),
    ],
)
async def test_a_rule_that_is_wrong_is_refused(person: Person, options: list[str], words: str) -> None:
    """In the words of the command line."""
    done = await person.script("policy", "set", "acme", *options)
    assert done.returncode == Exit.USAGE
    assert words in " ".join(done.stderr.replace("│", " ").split())


async def test_a_file_has_the_policy(service: Service, person: Person, tmp_path: Path) -> None:
    """With lengths of time as people write them; `show` prints what `apply` takes; without it the policy stays."""
    shown = (await person.script("show", "acme")).stdout
    assert "key_policy" not in shown
    path = tmp_path / "acme.yaml"
    policy = "key_policy:\n  max_lifetime: 12h\n  require_hat_limit: true\n  max_active_keys_per_user: 5\n"
    path.write_text(shown + policy)
    done = await person.script("apply", "acme.yaml")
    assert "max_lifetime none -> 12h" in done.stdout
    expected = KeyPolicy(max_lifetime=Duration(seconds=12 * 3600), require_hat_limit=True, max_active_keys_per_user=5)
    assert await policy_of(service) == expected
    printed = (await person.script("show", "acme")).stdout
    assert "max_lifetime: 12h" in printed
    for form in (printed, (await person.script("show", "acme", "--json")).stdout, shown):
        path.write_text(form)
        assert "nothing differed" in (await person.script("apply", "acme.yaml")).stdout
        assert await policy_of(service) == expected
    path.write_text(shown + "key_policy: {}\n")
    assert "max_lifetime 12h -> none" in (await person.script("apply", "acme.yaml")).stdout
    assert await policy_of(service) == KeyPolicy()
    for wrong, words in (
        ("key_policy: none", "key_policy: is a text: write a mapping with max_lifetime"),
        ("key_policy: {max_lifetime: 90 days}", "write one as 45s"),
        ("key_policy: {max_lifetime: 90}", "write one as 45s"),
        ("key_policy: {max_lifetme: 90d}", "did you mean max_lifetime?"),
    ):
        path.write_text(f"{shown}{wrong}\n")
        done = await person.script("apply", "acme.yaml")
        assert done.returncode == Exit.USAGE
        assert words in done.stderr, done.stderr
