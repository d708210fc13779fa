"""The messages between a worker and its parent: JSON over a Unix socket, one message per line.

    parent  {"worker": INDEX, "settings": {…}, "database_url": "…", "folder": "…",
             "memory": DESCRIPTOR}     once, as the first message; the memory that all workers share
    worker  {"prepared": null}             all but listening is done; only if the first message has {"opens": true}
    parent  {"open": null}                 listen now
    worker  {"ready": "HOST:PORT"} or {"failed": {"kind": "…", "message": "…"}}
    worker  {"serving": true}              whether the worker reaches the database; sent at each change
    parent  {"ping": NUMBER}               worker  {"pong": NUMBER}
    parent  {"ask": "metrics"}             worker  {"metrics": […]}
    parent  {"hand_over": INDEX}           end once no connection is left; see `worker.handover`
    parent  {"drain": null}                end once no call is left, as after SIGTERM

The stream ends when the other process ends.
"""
