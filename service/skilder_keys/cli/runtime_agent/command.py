"""skilder-keys runtime-agent."""

from __future__ import annotations

import signal
import sys
import threading
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Annotated

import typer

from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.durations import duration
from skilder_keys.cli.exits import Exit, fail, say
from skilder_keys.cli.key_options import Grace
from skilder_keys.cli.runtime_agent.agent import Agent, Wanted
from skilder_keys.cli.runtime_agent.files import FileError, ReadyFile, RotationFile, TokenFile
from skilder_keys.cli.runtime_agent.service import Service
from skilder_keys.cli.text import visible

if TYPE_CHECKING:
    import grpc


@connected
def runtime_agent(
    service: Connection,
    ready_file: Annotated[
        Path | None, typer.Option(help="A file to make as long as the token is good, for a readiness probe.")
    ] = None,
    grace: Grace = None,
    expires_in: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Each new key expires after this length of time, such as 30d [default: as long as the one before].",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Keep the token of a runtime key fresh, in the foreground, until SIGTERM or Ctrl-C.

    --token-file has the token of the first key, which the platform issued. After about two thirds of a key's life the
    agent rotates it and replaces the file as a whole, with mode 0600. Read the file again for each connection.
    """
    wanted = Wanted(_seconds(grace), _seconds(expires_in))
    token_file, ready = TokenFile(service.token_file), ReadyFile(ready_file)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    service.channel().close()  # reports options that cannot work
    try:
        ready.show(ready=False)
        token_file.read()
        with RotationFile.opened(token_file) as rotation_file:
            if token_file.make_private():
                say(visible(f"Others could read {token_file.path}: now only its owner can.", sys.stderr))
            Agent(
                Service(partial(_channel, service)),
                token_file,
                rotation_file,
                ready,
                wanted,
                lambda text: say(visible(text, sys.stderr)),
                SystemRandom(),
                partial(time.clock_gettime, time.CLOCK_BOOTTIME),
                time.time,
            ).run(stop)
    except FileError as error:
        raise fail(str(error), Exit.USAGE) from None


def _seconds(length: timedelta | None) -> float | None:
    return None if length is None else length.total_seconds()


def _channel(service: Connection) -> grpc.Channel:
    try:
        return service.channel()
    except typer.Exit:  # it has said why; a certificate may be on its way to its place
        raise FileError("the connection cannot be made") from None
