"""The client of Skilder Keys: it authorizes API keys, and issues, lists, rotates and revokes them.

`Client` blocks, `AsyncClient` is for asyncio; both have the same methods. `skilder_keys_client.v1` has the messages of
the contract.
"""

from skilder_keys_client.aio import AsyncClient
from skilder_keys_client.blocking import Client
from skilder_keys_client.connection import Connection
from skilder_keys_client.decisions import Decision, Denied, Granted
from skilder_keys_client.errors import ServiceError
from skilder_keys_client.issued import IssuedKey
from skilder_keys_client.queries import Query

__all__ = ["AsyncClient", "Client", "Connection", "Decision", "Denied", "Granted", "IssuedKey", "Query", "ServiceError"]
