module skilder.dev

go 1.25.0

// Those that the Makefile's tools are made of, so that nothing else is downloaded.
require (
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
)
