// Package guard lets through only calls of agents whose key allows them, in servers of net/http and of gRPC.
//
// The agent's token comes in "Authorization: Bearer" or in "x-api-key": in exactly one of them, once. If there is no
// decision, the call is refused as an outage, and the agent does not learn that its token is bad.
package guard

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"

	"skilder.dev/keys"
)

// An Authorizer decides about tokens. A [*keys.Client] is one.
type Authorizer interface {
	Authorize(ctx context.Context, token string, options ...keys.QueryOption) (*keys.Granted, error)
}

type contextKey struct{}

// Granted returns the grant of the call that a context belongs to. Without a guard there is none.
func Granted(ctx context.Context) (*keys.Granted, bool) {
	granted, ok := ctx.Value(contextKey{}).(*keys.Granted)
	return granted, ok
}

// A refusal is why a call is not let through, for the transports to put into their own terms.
type refusal struct {
	kind    kind
	reason  string
	message string
	failed  *keys.Error
}

type kind int

const (
	noToken kind = iota
	invalidToken
	forbidden
	outage
	misconfigured
)

var (
	errNone = errors.New("no token: send it as `Authorization: Bearer TOKEN` or `x-api-key: TOKEN`")
	errMany = errors.New("more than one token: send exactly one, in `Authorization` or in `x-api-key`")
	errForm = errors.New("the header Authorization is not `Bearer TOKEN`")
)

// presented returns the one token among the values of the two headers.
func presented(authorization, apiKey []string) (string, error) {
	switch {
	case len(authorization)+len(apiKey) == 0:
		return "", errNone
	case len(authorization)+len(apiKey) > 1:
		return "", errMany
	case len(apiKey) == 1:
		if token := strings.Trim(apiKey[0], " \t"); token != "" {
			return token, nil
		}
		return "", errNone
	}
	scheme, token, _ := strings.Cut(strings.Trim(authorization[0], " \t"), " ")
	token = strings.TrimLeft(token, " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" || strings.ContainsAny(token, " \t,") {
		return "", errForm
	}
	return token, nil
}

// admit returns the context of a call that is let through, or why it is not.
func admit(
	ctx context.Context, authorizer Authorizer, authorization, apiKey []string, options []keys.QueryOption,
) (context.Context, *refusal) {
	token, err := presented(authorization, apiKey)
	if err != nil {
		return nil, &refusal{kind: noToken, message: err.Error()}
	}
	if len(options) == 0 {
		// A lookup that found nothing must not become a question about everything.
		failed := &keys.Error{Code: codes.InvalidArgument, Message: "the guard has nothing to ask about this call"}
		return nil, &refusal{kind: misconfigured, failed: failed}
	}
	granted, err := authorizer.Authorize(ctx, token, options...)
	if err == nil && granted != nil {
		return context.WithValue(ctx, contextKey{}, granted), nil
	}
	return nil, refused(err)
}

func refused(err error) *refusal {
	var denied *keys.Denied
	if errors.As(err, &denied) {
		which := invalidToken
		if !denied.InvalidToken() {
			which = forbidden
		}
		return &refusal{kind: which, reason: denied.ReasonName(), message: denied.Message}
	}
	var failed *keys.Error
	if !errors.As(err, &failed) {
		failed = &keys.Error{Code: codes.Unknown, Message: "the authorizer returned no decision"}
	}
	// What is wrong with this server's own call is no news for the agent, and no reason to drop its token.
	if !failed.Outage() && failed.Code != codes.Canceled {
		return &refusal{kind: misconfigured, failed: failed}
	}
	return &refusal{kind: outage, failed: failed}
}

// static returns the options of a guard that asks the same about each call: without any, whose key it is.
func static(options []keys.QueryOption) []keys.QueryOption {
	if len(options) == 0 {
		return []keys.QueryOption{keys.KeyOnly()}
	}
	return options
}
