package keys

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keysv1 "skilder.dev/keys/v1"
)

// The domain of the service's own errors.
const errorDomain = "keys.skilder"

// No service asks for a longer wait, so one is taken for a mistake.
const longestWait = time.Hour

// An Error is a call that failed. It says nothing about any agent's token: it is neither a grant nor a denial.
//
// It is not a gRPC status to package status, so a gRPC server that returns it to its own caller does not pass on
// UNAUTHENTICATED, which would be about the server's token and not about the agent's.
type Error struct {
	// Code is the status code.
	Code codes.Code
	// Reason is a value of keysv1.ErrorReason without ERROR_REASON_, such as "BUSY". It is empty if the error is not the
	// service's own: the connection broke, or the deadline passed here.
	Reason string
	// Message is for people.
	Message string
	// Metadata has the facts that the reason comes with, such as "current_version".
	Metadata map[string]string
	// Fields has the fields of the request that are at fault, and why. A field may stand there several times.
	Fields []Field
	// RetryAfter is how long to wait before the next try; 0 if the service did not say.
	RetryAfter time.Duration
}

// A Field is a field of a request that is at fault.
type Field struct {
	Name, Description string
}

// Error returns the code, the reason and the message.
func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("keys: %v: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("keys: %v %s: %s", e.Code, e.Reason, e.Message)
}

// Outage returns whether the service is at fault, or the way to it, and not the request: the same request may work later.
func (e *Error) Outage() bool {
	switch e.Code {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.Aborted, codes.OutOfRange, codes.Canceled:
		return false
	default:
		return true
	}
}

// Is returns whether the error is one of package context: a call that was canceled, or whose deadline passed.
func (e *Error) Is(target error) bool {
	switch target {
	case context.DeadlineExceeded:
		return e.Code == codes.DeadlineExceeded
	case context.Canceled:
		return e.Code == codes.Canceled
	default:
		return false
	}
}

// HasReason returns whether an error is an [*Error] with a reason.
func HasReason(err error, reason keysv1.ErrorReason) bool {
	var failed *Error
	return errors.As(err, &failed) && failed.Reason != "" && "ERROR_REASON_"+failed.Reason == reason.String()
}

// AsError returns the error of a generated client as an [*Error]. It leaves nil, and what is one already, as it is.
func AsError(err error) error {
	var failed *Error
	var denied *Denied
	if err == nil || errors.As(err, &failed) || errors.As(err, &denied) {
		return err
	}
	state, ok := status.FromError(err)
	if !ok {
		state = status.FromContextError(err)
	}
	failed = &Error{Code: state.Code(), Message: state.Message()}
	for _, detail := range state.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == errorDomain {
				failed.Reason, failed.Metadata = detail.GetReason(), detail.GetMetadata()
			}
		case *errdetails.RetryInfo:
			if pause := detail.GetRetryDelay().AsDuration(); pause > 0 && pause <= longestWait {
				failed.RetryAfter = pause
			}
		case *errdetails.BadRequest:
			for _, each := range detail.GetFieldViolations() {
				failed.Fields = append(failed.Fields, Field{each.GetField(), each.GetDescription()})
			}
		}
	}
	return failed
}
