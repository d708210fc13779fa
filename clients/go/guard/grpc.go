package guard

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"skilder.dev/keys"
)

// Unary returns an interceptor that asks the same about each call; without options, only whose key it is.
func Unary(authorizer Authorizer, options ...keys.QueryOption) grpc.UnaryServerInterceptor {
	options = static(options)
	return UnaryFunc(authorizer, func(context.Context, string, any) []keys.QueryOption { return options })
}

// UnaryFunc returns an interceptor that asks about each call what a function returns, given its full method and its
// request. A call for which it returns nothing is refused.
//
// The statuses are UNAUTHENTICATED for a token that is missing or not good, PERMISSION_DENIED for one that does not reach
// what was asked, UNAVAILABLE for an outage, and INTERNAL if the service refuses this server itself.
func UnaryFunc(
	authorizer Authorizer, ask func(ctx context.Context, method string, request any) []keys.QueryOption,
) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if open(info.FullMethod) {
			return handle(ctx, request)
		}
		admitted, err := admitCall(ctx, authorizer, ask(ctx, info.FullMethod, request))
		if err != nil {
			return nil, err
		}
		return handle(admitted, request)
	}
}

// Stream returns an interceptor that asks the same about each streaming call; without options, only whose key it is.
// The decision is made once, when the stream begins.
func Stream(authorizer Authorizer, options ...keys.QueryOption) grpc.StreamServerInterceptor {
	options = static(options)
	return StreamFunc(authorizer, func(context.Context, string) []keys.QueryOption { return options })
}

// StreamFunc returns an interceptor that asks about each streaming call what a function returns, given its full method.
// It refuses as UnaryFunc does.
func StreamFunc(
	authorizer Authorizer, ask func(ctx context.Context, method string) []keys.QueryOption,
) grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		if open(info.FullMethod) {
			return handle(server, stream)
		}
		admitted, err := admitCall(stream.Context(), authorizer, ask(stream.Context(), info.FullMethod))
		if err != nil {
			return err
		}
		return handle(server, &admittedStream{stream, admitted})
	}
}

// open returns whether a method needs no token: those of gRPC's health service, which probes call.
func open(method string) bool { return strings.HasPrefix(method, "/grpc.health.v1.Health/") }

type admittedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the context with the grant.
func (a *admittedStream) Context() context.Context { return a.ctx }

func admitCall(ctx context.Context, authorizer Authorizer, options []keys.QueryOption) (context.Context, error) {
	sent, _ := metadata.FromIncomingContext(ctx)
	admitted, refused := admit(ctx, authorizer, sent.Get("authorization"), sent.Get("x-api-key"), options)
	if refused == nil {
		return admitted, nil
	}
	if refused.failed != nil {
		slog.ErrorContext(ctx, "no decision about a token", "error", refused.failed)
	}
	switch refused.kind {
	case noToken, invalidToken:
		return nil, status.Error(codes.Unauthenticated, text(refused))
	case forbidden:
		return nil, status.Error(codes.PermissionDenied, text(refused))
	case outage:
		state := status.New(codes.Unavailable, "The token cannot be checked now: try again.")
		pause := max(time.Second, refused.failed.RetryAfter)
		if detailed, err := state.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(pause)}); err == nil {
			state = detailed
		}
		return nil, state.Err()
	default:
		return nil, status.Error(codes.Internal, "The token cannot be checked.")
	}
}

func text(refused *refusal) string {
	if refused.reason == "" {
		return refused.message
	}
	return refused.reason + ": " + refused.message
}
