"""The Envoy transport: a worker is an Envoy process with Python in it. Python serves the fast methods within Envoy.

Envoy forwards all other calls to a grpcio server in the same process.
"""
