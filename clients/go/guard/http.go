package guard

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"skilder.dev/keys"
)

// HTTP returns middleware that asks the same about each request; without options, only whose key it is.
func HTTP(authorizer Authorizer, options ...keys.QueryOption) func(http.Handler) http.Handler {
	options = static(options)
	return HTTPFunc(authorizer, func(*http.Request) []keys.QueryOption { return options })
}

// HTTPFunc returns middleware that asks about each request what a function returns, such as the tool in its path. A
// request for which it returns nothing is refused.
//
// The answers are 401 for a token that is missing or not good, 403 for one that does not reach what was asked, 503 for
// an outage, and 500 if the service refuses this server itself.
func HTTPFunc(authorizer Authorizer, ask func(*http.Request) []keys.QueryOption) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, refused := admit(r.Context(), authorizer, r.Header.Values("Authorization"), r.Header.Values("X-Api-Key"), ask(r))
			if refused != nil {
				writeRefusal(w, r, refused)
				return
			}
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}

func writeRefusal(w http.ResponseWriter, r *http.Request, refused *refusal) {
	header := w.Header()
	code, name, message := http.StatusUnauthorized, "invalid_token", refused.message
	switch refused.kind {
	case noToken:
		// RFC 6750, 3.1: no error code where there are no credentials to be wrong.
		header.Set("WWW-Authenticate", "Bearer")
	case invalidToken:
		header.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	case forbidden:
		code, name = http.StatusForbidden, "insufficient_scope"
		header.Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
	case outage:
		code, name = http.StatusServiceUnavailable, "temporarily_unavailable"
		message = "The token cannot be checked now: try again."
		header.Set("Retry-After", strconv.Itoa(seconds(refused.failed.RetryAfter)))
	default:
		code, name, message = http.StatusInternalServerError, "server_error", "The token cannot be checked."
	}
	if refused.failed != nil {
		slog.ErrorContext(r.Context(), "no decision about a token", "error", refused.failed)
	}
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	body := map[string]string{"error": name, "reason": refused.reason, "message": message}
	if err := json.NewEncoder(w).Encode(body); err != nil {
		slog.DebugContext(r.Context(), "a refusal was not sent", "error", fmt.Sprint(err))
	}
}

// seconds rounds up, and is at least 1: Retry-After has no fractions.
func seconds(pause time.Duration) int { return max(1, int(math.Ceil(pause.Seconds()))) }
