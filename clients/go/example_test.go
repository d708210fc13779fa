package keys_test

import (
	"context"
	"errors"
	"fmt"

	"skilder.dev/keys"
)

func ExampleClient_Authorize() {
	// Nothing listens there, so there is no decision.
	client, err := keys.New("127.0.0.1:9", keys.WithPlaintext())
	if err != nil {
		panic(err)
	}
	defer func() { _ = client.Close() }()

	granted, err := client.Authorize(context.Background(), "a-token", keys.Tool("slack", "post"))
	var denied *keys.Denied
	var failed *keys.Error
	switch {
	case err == nil:
		fmt.Println("granted to", granted.Key.GetDescription())
	case errors.As(err, &denied):
		fmt.Println("denied:", denied.ReasonName())
	case errors.As(err, &failed):
		fmt.Println("no decision, outage:", failed.Outage())
	}
	// Output: no decision, outage: true
}
