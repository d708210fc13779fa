package keys

import (
	"errors"
	"fmt"
	"log/slog"
	"unicode/utf8"

	keysv1 "skilder.dev/keys/v1"
)

// A request has at most 64 KiB, so a longer token cannot be asked about.
const maxTokenBytes = 64 << 10

var errTwoScopes = errors.New("the query asks about more than one of ToolID, Tool and MCPServer")

// A QueryOption says what to ask about a token. Without a scope (ToolID, Tool or MCPServer), a query asks about
// everything that the key reaches.
type QueryOption func(*request)

// A request is a query while it is made.
type request struct {
	keysv1.AuthorizeRequest
	scopes int
}

// ToolID asks about one tool, by its id. The service refuses an empty one.
func ToolID(id string) QueryOption {
	return func(r *request) {
		r.scopes++
		r.Scope = &keysv1.AuthorizeRequest_ToolId{ToolId: id}
	}
}

// Tool asks about one tool, by its name on its MCP server.
func Tool(mcpServer, name string) QueryOption {
	return func(r *request) {
		r.scopes++
		r.Scope = &keysv1.AuthorizeRequest_ToolName{ToolName: &keysv1.ToolName{McpServer: mcpServer, Name: name}}
	}
}

// MCPServer asks about the tools of one MCP server.
func MCPServer(name string) QueryOption {
	return func(r *request) {
		r.scopes++
		r.Scope = &keysv1.AuthorizeRequest_McpServer{McpServer: name}
	}
}

// KeyOnly asks whose key it is, and not about tools.
func KeyOnly() QueryOption { return View(keysv1.ToolSetView_TOOL_SET_VIEW_NONE) }

// View says how much of the tool set to send.
func View(view keysv1.ToolSetView) QueryOption {
	return func(r *request) { r.View = view }
}

// SourceIP says from which address the token was presented to this program. A key with a network limit is denied
// without it.
func SourceIP(address string) QueryOption {
	return func(r *request) { r.SourceIp = address }
}

// ToolSetVersion says which tool set the caller already has, from a query with the same MCP server and view. If it is
// still current, it is not sent again.
func ToolSetVersion(version string) QueryOption {
	return func(r *request) { r.ToolSetVersion = version }
}

// A Query is a token, and what to ask about it. It does not show the token when it is printed.
type Query struct {
	// Behind a function, because package fmt prints the fields of what it points to.
	request func() (*keysv1.AuthorizeRequest, error)
}

// NewQuery returns a Query for BatchAuthorize.
func NewQuery(token string, options ...QueryOption) Query {
	made := &request{}
	made.Token = token
	for _, option := range options {
		option(made)
	}
	return Query{func() (*keysv1.AuthorizeRequest, error) {
		if made.scopes > 1 {
			return nil, errTwoScopes
		}
		return &made.AuthorizeRequest, nil
	}}
}

// String returns a text without the token.
func (q Query) String() string { return "keys.Query([redacted])" }

// Format prints a text without the token, whatever the verb is.
func (q Query) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, q.String()) }

// LogValue returns a text without the token.
func (q Query) LogValue() slog.Value { return slog.StringValue(q.String()) }

// sendable returns whether a token can be in a message. What cannot is no token.
func sendable(token string) bool { return len(token) <= maxTokenBytes && utf8.ValidString(token) }
