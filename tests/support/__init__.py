"""What the tests share: a Postgres to run on, a served service with its clients, and workspaces to try."""
