"""The worker as the application that Envoy runs: `skilder_keys.worker.in_envoy:application`."""

from skilder_keys.transports.envoy.application import Application
from skilder_keys.worker.process import serve

application = Application(serve)
