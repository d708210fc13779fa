"""The transport by grpcio's asyncio server."""
