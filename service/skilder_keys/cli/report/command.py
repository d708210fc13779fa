"""skilder-keys report."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated

import typer

from skilder.keys.v1.activity_service_pb2_grpc import ActivityServiceStub
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.key_options import Actor, WorkspaceId
from skilder_keys.cli.report.facts import Reader
from skilder_keys.cli.report.findings import sections
from skilder_keys.cli.report.page import Report, as_html, as_markdown, as_text


class Form(Enum):
    """The forms of the page."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"


_WRITERS = {Form.TEXT: as_text, Form.MARKDOWN: as_markdown, Form.HTML: as_html}


@connected
def report(
    service: Connection,
    workspace: WorkspaceId,
    form: Annotated[Form, typer.Option("--format", help="The form of the page.")] = Form.TEXT,
    actor: Actor = "",
) -> None:
    """Review the keys of a workspace on one page: what to look at, and the commands that would mend it."""
    now = datetime.now(UTC)
    with (
        service.stub(KeyServiceStub) as keys,
        service.stub(CatalogServiceStub) as catalog,
        service.stub(ActivityServiceStub) as activity,
    ):
        facts = Reader(keys, catalog, activity, workspace, actor).read(now)
    page = Report(facts, sections(facts, now), now, now - timedelta(days=30))
    for line in _WRITERS[form](page):
        output.print_line(line)
