"""The worker as the application that Envoy runs: `skilder_keys.worker.in_envoy:application`."""

import gc

gc.disable()  # as `worker.__main__` does while it loads a worker; `serve` turns it on again

from skilder_keys.transports.envoy.application import Application  # noqa: E402
from skilder_keys.worker.process import serve  # noqa: E402

application = Application(serve)
