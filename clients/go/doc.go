// Package keys is the client of Skilder Keys, the service that owns Skilder's API keys.
//
// A program that an agent calls asks [Client.Authorize] whether the agent's token is good and what it reaches. The call
// returns a [Granted], or an error that is either a [*Denied] (the token is not good, or does not reach what was asked)
// or an [*Error] (nobody knows, because the call failed). An outage is never a denial, and a denial never an outage.
//
// The package skilder.dev/keys/guard does that for servers of net/http and of gRPC. The package skilder.dev/keys/v1 has
// the messages.
package keys
