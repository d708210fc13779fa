package keys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The metadata of a call may have 16 KiB.
const maxCallerToken = 8 << 10

// A tokenSource has the caller's token. Its errors never contain it.
type tokenSource interface {
	token() (Secret, error)
}

func checkedToken(text string) (Secret, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return Secret{}, errors.New("it is empty")
	}
	if len(text) > maxCallerToken {
		return Secret{}, fmt.Errorf("it has %d bytes, and at most %d are sent", len(text), maxCallerToken)
	}
	for _, each := range []byte(text) {
		if each <= ' ' || each > '~' {
			return Secret{}, errors.New("it has a space or another character that a token cannot have")
		}
	}
	return NewSecret(text), nil
}

type constantToken Secret

func fixedToken(text string) (tokenSource, error) {
	secret, err := checkedToken(text)
	if err != nil {
		return nil, fmt.Errorf("keys: the caller token: %w", err)
	}
	return constantToken(secret), nil
}

func (c constantToken) token() (Secret, error) { return Secret(c), nil }

// A fileToken reads a file again when its time, its size or the file itself is another.
type fileToken struct {
	path string

	lock sync.Mutex
	seen os.FileInfo
	last Secret
}

func (f *fileToken) token() (Secret, error) {
	f.lock.Lock()
	defer f.lock.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return Secret{}, fmt.Errorf("keys: the caller token file: %w", err)
	}
	if f.seen != nil && os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		return f.last, nil
	}
	if info.Size() > maxCallerToken {
		return Secret{}, fmt.Errorf("keys: the caller token file %s is too long for a token", f.path)
	}
	content, err := os.ReadFile(f.path)
	if err != nil {
		return Secret{}, fmt.Errorf("keys: the caller token file: %w", err)
	}
	secret, err := checkedToken(string(content))
	if err != nil {
		return Secret{}, fmt.Errorf("keys: the caller token file %s: %w", f.path, err)
	}
	f.seen, f.last = info, secret
	return secret, nil
}

// A bearer sends the caller's token with each call.
type bearer struct {
	source    tokenSource
	plaintext bool
}

// GetRequestMetadata returns the header. A file that cannot be read now is an outage: the caller may have the right to
// call, but cannot show it.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	secret, err := b.source.token()
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return map[string]string{"authorization": "Bearer " + secret.Reveal()}, nil
}

// RequireTransportSecurity returns whether gRPC must refuse to send the token without TLS.
func (b bearer) RequireTransportSecurity() bool { return !b.plaintext }
