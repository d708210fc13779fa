package keys

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// An Option says how a Client connects.
type Option func(*settings) error

type settings struct {
	tls       *tls.Config
	tlsSaid   bool
	plaintext bool
	token     tokenSource
	timeout   time.Duration
	dial      []grpc.DialOption
}

// WithToken sends a bearer token, which says who the caller is.
func WithToken(token string) Option {
	return func(s *settings) error {
		source, err := fixedToken(token)
		if err != nil {
			return err
		}
		return s.setToken(source)
	}
}

// WithTokenFile sends the bearer token that a file holds. The file is read again when it changes.
func WithTokenFile(path string) Option {
	return func(s *settings) error {
		source := &fileToken{path: path}
		if _, err := source.token(); err != nil {
			return err
		}
		return s.setToken(source)
	}
}

func (s *settings) setToken(source tokenSource) error {
	if s.token != nil {
		return errors.New("keys: more than one caller token was given")
	}
	s.token = source
	return nil
}

// WithPlaintext connects without TLS. The caller's token and those of agents then cross the network for everybody there
// to read, so use it on the loopback interface, or where something else encrypts.
func WithPlaintext() Option {
	return func(s *settings) error {
		s.plaintext = true
		return nil
	}
}

// WithRootCertificates trusts the certificate authorities of a PEM file, in place of those of the system.
func WithRootCertificates(path string) Option {
	return func(s *settings) error {
		pem, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("keys: root certificates: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("keys: root certificates: %s has no certificate", path)
		}
		s.tls.RootCAs = pool
		s.tlsSaid = true
		return nil
	}
}

// WithClientCertificate presents the certificate of PEM files (mTLS). The files are read again for each connection, and
// a connection lasts about a minute, so a renewed certificate needs no restart.
func WithClientCertificate(certificate, key string) Option {
	return func(s *settings) error {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(certificate, key)
			if err != nil {
				return nil, fmt.Errorf("keys: client certificate: %w", err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return err
		}
		s.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
		s.tlsSaid = true
		return nil
	}
}

// WithServerName expects another name in the server's certificate than the target's.
func WithServerName(name string) Option {
	return func(s *settings) error {
		s.tls.ServerName = name
		s.tlsSaid = true
		return nil
	}
}

// WithTimeout gives each call this much time, in place of the time that the service recommends for its method. A
// deadline of the call's context that is earlier comes first. FollowEvents keeps its own time.
func WithTimeout(timeout time.Duration) Option {
	return func(s *settings) error {
		if timeout <= 0 {
			return fmt.Errorf("keys: the timeout %v is not positive", timeout)
		}
		s.timeout = timeout
		return nil
	}
}

// WithDialOptions passes options to gRPC, such as a stats handler. They come after those of this package.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) error {
		s.dial = append(s.dial, options...)
		return nil
	}
}

func (s *settings) transport() (credentials.TransportCredentials, error) {
	if !s.plaintext {
		return credentials.NewTLS(s.tls), nil
	}
	if s.tlsSaid {
		return nil, errors.New("keys: certificates were given, and plaintext, which has none")
	}
	return insecure.NewCredentials(), nil
}
