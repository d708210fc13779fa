"""Who did something: a person, or a program."""

from dataclasses import dataclass
from enum import Enum


class PrincipalKind(Enum):
    """The kinds of those who act."""

    USER = "user"
    CALLER = "caller"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who did something.

    Attributes:
        id: A user id, or the name of a caller.
    """

    kind: PrincipalKind
    id: str
