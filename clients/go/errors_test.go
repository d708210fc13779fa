package keys

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keysv1 "skilder.dev/keys/v1"
)

func failure(t *testing.T, domain string, wait time.Duration) error {
	t.Helper()
	state, err := status.New(codes.Unavailable, "m").WithDetails(
		&errdetails.ErrorInfo{Domain: domain, Reason: "BUSY"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
	if err != nil {
		t.Fatal(err)
	}
	return AsError(state.Err())
}

func TestAnErrorHasWhatTheServiceSays(t *testing.T) {
	waits := map[time.Duration]time.Duration{2 * time.Second: 2 * time.Second, -time.Second: 0, 1 << 62: 0}
	for sent, expected := range waits {
		var failed *Error
		if err := failure(t, "keys.skilder", sent); !errors.As(err, &failed) || failed.RetryAfter != expected {
			t.Error(sent, err)
		}
	}
	if !HasReason(failure(t, "keys.skilder", 0), keysv1.ErrorReason_ERROR_REASON_BUSY) {
		t.Error("the reason is not found")
	}
	if HasReason(failure(t, "another.service", 0), keysv1.ErrorReason_ERROR_REASON_BUSY) {
		t.Error("a reason of another service is taken")
	}
}

func TestAnErrorIsNoStatusForTheServersOwnCaller(t *testing.T) {
	// The server's own token is wrong. Passed on, the agent would take it for its own.
	err := AsError(status.Error(codes.Unauthenticated, "m"))
	if _, ok := status.FromError(err); ok {
		t.Error("the status would be passed on")
	}
	if !errors.Is(AsError(status.Error(codes.DeadlineExceeded, "m")), context.DeadlineExceeded) {
		t.Error("a deadline is not that of package context")
	}
	if AsError(nil) != nil {
		t.Error("no error became one")
	}
}
