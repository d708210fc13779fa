"""skilder-keys audit: the commands about the audit trail."""

from __future__ import annotations

import typer

from skilder_keys.cli import audit_chain, audit_events

app = typer.Typer(help="Read, follow, check, export and prune the audit trail.", no_args_is_help=True)

app.command("list")(audit_events.list_)
app.command()(audit_events.follow)
app.command()(audit_chain.verify)
app.command()(audit_chain.export)
app.command()(audit_chain.prune)
