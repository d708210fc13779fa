"""What a worker and its parent say to each other, over a Unix socket: messages of JSON, one a line.

    parent  {"worker": INDEX, "settings": {…}, "database_url": "…", "folder": "…"}   once, first
    worker  {"ready": "HOST:PORT"} or {"failed": {"kind": "…", "message": "…"}}
    worker  {"serving": true}              whether the worker reaches the database, whenever that changes
    parent  {"ping": NUMBER}               worker  {"pong": NUMBER}
    parent  {"ask": "metrics"}             worker  {"metrics": […]}
    parent  {"hand_over": INDEX}           end once no connection is left; see `worker.handover`
    parent  {"drain": null}                end once no call is left, as on SIGTERM

The end of the stream means that the other process is gone.
"""
