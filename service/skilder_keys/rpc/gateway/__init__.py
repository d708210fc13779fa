"""Decides for gateways about HTTP requests, which carry keys. docs/gateways.md describes what they see of it.

`credential` finds the key of a request, `mcp` the tool that its body calls, `gateway` decides, and `envoy_service`
speaks Envoy's protocol. What is not as it should be is refused: a gateway that lets a request through has checked it.
"""
