package guard

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"skilder.dev/keys"
	keysv1 "skilder.dev/keys/v1"
)

// fake decides by the token.
type fake struct{}

func (fake) Authorize(_ context.Context, token string, _ ...keys.QueryOption) (*keys.Granted, error) {
	switch token {
	case "good":
		return &keys.Granted{Key: &keysv1.KeyIdentity{Id: "k1"}}, nil
	case "revoked":
		return nil, &keys.Denied{Reason: keysv1.DenialReason_DENIAL_REASON_REVOKED, Message: "Why."}
	case "narrow":
		return nil, &keys.Denied{Reason: keysv1.DenialReason_DENIAL_REASON_TOOL_NOT_ALLOWED}
	case "busy":
		return nil, &keys.Error{Code: codes.Unavailable, RetryAfter: 1200 * time.Millisecond}
	case "caller":
		return nil, &keys.Error{Code: codes.Unauthenticated}
	case "nothing":
		return nil, nil
	default:
		return nil, errors.New("another error")
	}
}

var cases = []struct {
	name          string
	authorization []string
	apiKey        []string
	http          int
	challenge     string
	grpc          codes.Code
}{
	{"bearer", []string{"Bearer good"}, nil, 200, "", codes.OK},
	{"another case", []string{"bEARER good"}, nil, 200, "", codes.OK},
	{"key", nil, []string{"good"}, 200, "", codes.OK},
	{"none", nil, nil, 401, "Bearer", codes.Unauthenticated},
	{"two places", []string{"Bearer good"}, []string{"good"}, 401, "Bearer", codes.Unauthenticated},
	{"two values", []string{"Bearer good", "Bearer good"}, nil, 401, "Bearer", codes.Unauthenticated},
	{"two keys", nil, []string{"good", "good"}, 401, "Bearer", codes.Unauthenticated},
	{"basic", []string{"Basic good"}, nil, 401, "Bearer", codes.Unauthenticated},
	{"two in one", []string{"Bearer good, Bearer good"}, nil, 401, "Bearer", codes.Unauthenticated},
	{"empty", []string{"Bearer "}, nil, 401, "Bearer", codes.Unauthenticated},
	{"revoked", []string{"Bearer revoked"}, nil, 401, `Bearer error="invalid_token"`, codes.Unauthenticated},
	{"narrow", []string{"Bearer narrow"}, nil, 403, `Bearer error="insufficient_scope"`, codes.PermissionDenied},
	{"busy", []string{"Bearer busy"}, nil, 503, "", codes.Unavailable},
	{"caller", []string{"Bearer caller"}, nil, 500, "", codes.Internal},
	{"nothing", []string{"Bearer nothing"}, nil, 503, "", codes.Unavailable},
	{"other", []string{"Bearer other"}, nil, 503, "", codes.Unavailable},
}

func TestHTTP(t *testing.T) {
	for _, each := range cases {
		t.Run(each.name, func(t *testing.T) {
			reached := false
			guarded := HTTP(fake{})(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				granted, ok := Granted(r.Context())
				reached = ok && granted.Key.GetId() == "k1"
			}))
			// A token in the query counts for nothing.
			r := httptest.NewRequest(http.MethodGet, "/?api_key=good&token=good", nil)
			r.Header["Authorization"], r.Header["X-Api-Key"] = each.authorization, each.apiKey
			w := httptest.NewRecorder()
			guarded.ServeHTTP(w, r)
			if w.Code != each.http || w.Header().Get("WWW-Authenticate") != each.challenge || reached != (each.http == 200) {
				t.Error(w.Code, w.Header(), reached)
			}
			var body map[string]string
			if err := json.Unmarshal(w.Body.Bytes(), &body); each.http != 200 && (err != nil || len(body) != 3) {
				t.Error(w.Body.String())
			}
			if each.name == "busy" && w.Header().Get("Retry-After") != "2" {
				t.Error(w.Header())
			}
		})
	}
}

func TestGRPC(t *testing.T) {
	for _, each := range cases {
		t.Run(each.name, func(t *testing.T) {
			ctx := metadata.NewIncomingContext(context.Background(), metadata.MD{
				"authorization": each.authorization, "x-api-key": each.apiKey,
			})
			reached := 0
			_, unary := Unary(fake{})(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/a/b"},
				func(ctx context.Context, _ any) (any, error) {
					if _, ok := Granted(ctx); ok {
						reached++
					}
					return nil, nil
				})
			stream := Stream(fake{})(nil, &admittedStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: "/a/b"},
				func(_ any, stream grpc.ServerStream) error {
					if _, ok := Granted(stream.Context()); ok {
						reached++
					}
					return nil
				})
			if status.Code(unary) != each.grpc || status.Code(stream) != each.grpc {
				t.Error(unary, stream)
			}
			if (reached == 2) != (each.grpc == codes.OK) {
				t.Error(reached)
			}
		})
	}
}

func TestAnEmptyQuestionIsRefused(t *testing.T) {
	guarded := HTTPFunc(fake{}, func(*http.Request) []keys.QueryOption { return nil })(http.NotFoundHandler())
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer good")
	w := httptest.NewRecorder()
	guarded.ServeHTTP(w, r)
	if w.Code != http.StatusInternalServerError {
		t.Error(w.Code)
	}
}
