package keys

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// A Secret is a token. It never shows itself in text, logs or JSON: only Reveal returns it.
type Secret struct {
	// A pointer, because package fmt prints the unexported fields of other types as they are, and of a pointer inside them
	// the address alone.
	value *string
}

// NewSecret returns a Secret with a token.
func NewSecret(token string) Secret { return Secret{&token} }

// Reveal returns the token.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// String returns a text without the token.
func (s Secret) String() string { return redacted }

// Format prints a text without the token, whatever the verb is.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, redacted) }

// LogValue returns a text without the token.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns a text without the token: to store a token, say so with Reveal.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
