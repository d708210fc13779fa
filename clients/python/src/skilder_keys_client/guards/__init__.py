"""Guards: they let a call of a server through only with an agent's key that is good for it.

`asgi` is for every ASGI application, `fastapi` for single endpoints of FastAPI and Starlette, `grpc` for gRPC servers.
"""
