module skilder.dev/openloop

go 1.26.0

// For the compression of headers alone.
require golang.org/x/net v0.60.0
