package keys

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	keysv1 "skilder.dev/keys/v1"
)

// A response of GetWorkspace has up to 16 MiB, every other up to 4 MiB.
const maxResponseBytes = 16 << 20

// A Client calls the service. It has one connection, which all goroutines share: make one Client for each process.
type Client struct {
	target        string
	connection    *grpc.ClientConn
	authorization keysv1.AuthorizationServiceClient
	keys          keysv1.KeyServiceClient
	catalog       keysv1.CatalogServiceClient
}

// New returns a Client of the service at a target, such as "keys.example.com:443". It connects with the first call, by
// TLS, unless WithPlaintext is given.
func New(target string, options ...Option) (*Client, error) {
	s := settings{tls: &tls.Config{MinVersion: tls.VersionTLS12}}
	for _, option := range options {
		if err := option(&s); err != nil {
			return nil, err
		}
	}
	transport, err := s.transport()
	if err != nil {
		return nil, err
	}
	config := serviceConfig
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDisableServiceConfig(), // that of DNS
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponseBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}
	if s.token != nil {
		dial = append(dial, grpc.WithPerRPCCredentials(bearer{s.token, s.plaintext}))
	}
	if s.timeout > 0 {
		config = withoutTimeouts()
		dial = append(dial,
			grpc.WithChainUnaryInterceptor(unaryTimeout(s.timeout)),
			grpc.WithChainStreamInterceptor(streamTimeout(s.timeout)))
	}
	dial = append(dial, grpc.WithDefaultServiceConfig(config))
	connection, err := grpc.NewClient(target, append(dial, s.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return &Client{
		target:        target,
		connection:    connection,
		authorization: keysv1.NewAuthorizationServiceClient(connection),
		keys:          keysv1.NewKeyServiceClient(connection),
		catalog:       keysv1.NewCatalogServiceClient(connection),
	}, nil
}

// Close ends the connection. Calls that are under way fail.
func (c *Client) Close() error { return c.connection.Close() }

// Conn returns the connection, for the generated clients of skilder.dev/keys/v1, which have every method. Turn their
// errors into those of this package with AsError.
func (c *Client) Conn() grpc.ClientConnInterface { return c.connection }

// String returns the target.
func (c *Client) String() string { return fmt.Sprintf("keys.Client(%s)", c.target) }

// Format prints the target, whatever the verb is.
func (c *Client) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, c.String()) }

func unaryTimeout(timeout time.Duration) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, response any, connection *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return invoke(ctx, method, request, response, connection, options...)
	}
}

func streamTimeout(timeout time.Duration) grpc.StreamClientInterceptor {
	return func(ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string,
		start grpc.Streamer, options ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		if method == keysv1.AuditService_FollowEvents_FullMethodName {
			return start(ctx, description, connection, method, options...)
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		stream, err := start(ctx, description, connection, method, options...)
		if err != nil {
			cancel()
			return nil, err
		}
		return &timedStream{stream, cancel}, nil
	}
}

// A timedStream releases its timer when it ends.
type timedStream struct {
	grpc.ClientStream
	cancel context.CancelFunc
}

func (t *timedStream) RecvMsg(message any) error {
	err := t.ClientStream.RecvMsg(message)
	if err != nil {
		t.cancel()
	}
	return err
}
