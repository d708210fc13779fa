"""Who did something: a person, or a program."""

from dataclasses import dataclass
from enum import Enum


class PrincipalKind(Enum):
    """The kinds of those who act."""

    USER = "user"
    CALLER = "caller"
    RUNTIME = "runtime"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who did something.

    Attributes:
        id: A user id, the name of a caller, the id of a runtime instance, or a field of the key policy.
    """

    kind: PrincipalKind
    id: str
