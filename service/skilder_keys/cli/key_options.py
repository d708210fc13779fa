"""The options that several commands about keys have."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from skilder_keys.cli import durations

Actor = Annotated[
    str, typer.Option(help="Act for this user, by their id; the service then checks that they may do it.")
]
WorkspaceId = Annotated[str, typer.Option("--workspace", "-w", help="The workspace's id.")]
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
