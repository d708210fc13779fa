package keys

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const token = "WSK_a-token-that-must-not-be-seen"

func TestNothingShowsAToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	client := open(t, "127.0.0.1:1", WithToken(token))
	fromFile := open(t, "127.0.0.1:1", WithTokenFile(file))
	type inside struct {
		query  Query
		secret Secret
		client *Client
		Token  Secret
	}
	secret, query := NewSecret(token), NewQuery(token, ToolID("a.b"))
	things := []any{
		client, fromFile, secret, &secret, query, &query, []Query{query},
		Issued{Token: secret}, &Rotated{Token: secret},
		inside{query, secret, client, secret}, &inside{query, secret, client, secret},
	}
	for _, thing := range things {
		for _, form := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			text := fmt.Sprintf(form, thing)
			if strings.Contains(text, token) || strings.Contains(text, fmt.Sprintf("%x", token)) {
				t.Errorf("%s of %T shows the token: %s", form, thing, text)
			}
		}
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "thing", thing)
		slog.New(slog.NewTextHandler(&log, nil)).Info("m", "thing", thing)
		text, _ := json.Marshal(thing)
		if strings.Contains(log.String()+string(text), token) {
			t.Errorf("a log or the JSON of %T shows the token", thing)
		}
	}
	if secret.Reveal() != token {
		t.Error("Reveal does not return the token")
	}
}

func TestABadCallerTokenIsRefusedAndNotShown(t *testing.T) {
	for _, bad := range []string{"", " \n", token + "\nx", token + " " + token, token + "é"} {
		_, err := New("127.0.0.1:1", WithPlaintext(), WithToken(bad))
		if err == nil || strings.Contains(err.Error(), token) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := New("127.0.0.1:1", WithTokenFile("/nonexistent/token")); err == nil {
		t.Error("a missing file is no error")
	}
	if _, err := New("127.0.0.1:1", WithToken("a"), WithToken("b")); err == nil {
		t.Error("two tokens are no error")
	}
}

func TestATokenFileIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	source := &fileToken{path: file}
	for _, content := range []string{"first", "second-token"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := source.token(); err != nil || got.Reveal() != content {
			t.Fatal(content, err)
		}
	}
}

func TestPlaintextMustBeSaid(t *testing.T) {
	if !(bearer{}).RequireTransportSecurity() {
		t.Error("a token may go over plaintext")
	}
	if _, err := New("127.0.0.1:1", WithPlaintext(), WithServerName("x")); err == nil {
		t.Error("plaintext and TLS together are no error")
	}
}

func open(t *testing.T, target string, options ...Option) *Client {
	t.Helper()
	client, err := New(target, append(options, WithPlaintext())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}
