"""The options that several commands about keys have."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from skilder_keys.cli import durations
from skilder_keys.cli.exits import Exit, fail

Actor = Annotated[
    str, typer.Option(help="Act for this user, by their id; the service then checks that they may do it.")
]
WorkspaceId = Annotated[str, typer.Option("--workspace", "-w", help="The workspace's id.")]
Networks = Annotated[
    list[str] | None,
    typer.Option("--network", metavar="<cidr>", help="Limit the key to this network; repeat it for several."),
]
ExpiresIn = Annotated[
    timedelta | None,
    typer.Option(
        parser=durations.duration,
        metavar="DURATION",
        help="The key expires after this length of time: 45s, 30m, 12h, 90d or 2w.",
        show_default=False,
    ),
]
ExpiresAt = Annotated[
    datetime | None,
    typer.Option(
        parser=durations.moment,
        metavar="TIME",
        help="The key expires at this time, in UTC unless it says otherwise: 2027-01-31 or 2027-01-31T18:00+01:00.",
        show_default=False,
    ),
]
Grace = Annotated[
    timedelta | None,
    typer.Option(
        parser=durations.duration,
        metavar="DURATION",
        help="The old key works for this length of time: 0s, 30m, 12h, 3d or 2w; at most 30 days [default: 1d].",
        show_default=False,
    ),
]
RequestId = Annotated[
    str,
    typer.Option(
        help="An id of your choice, for retries. If the response is lost, the same command with the same id issues "
        "no second key, but shows a new token for the first one [default: a random id].",
        show_default=False,
    ),
]


def labels_of(given: list[str]) -> dict[str, str]:
    """Return labels that were given as NAME=VALUE."""
    labels: dict[str, str] = {}
    for each in given:
        name, separator, value = each.partition("=")
        if not separator:
            raise fail(f"--label {each!r} has no value: write NAME=VALUE, or NAME= for an empty one", Exit.USAGE)
        if name in labels:
            raise fail(f"--label {name} is given twice", Exit.USAGE)
        labels[name] = value
    return labels
