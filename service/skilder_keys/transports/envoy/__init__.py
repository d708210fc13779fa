"""The transport in Envoy: a worker is an Envoy with Python in it, which answers some calls and passes on the others."""
