package keys

import (
	"errors"
	"fmt"

	keysv1 "skilder.dev/keys/v1"
)

// A Granted is a good token that reaches what was asked.
type Granted struct {
	// Key is the key that the token belongs to.
	Key *keysv1.KeyIdentity
	// Tool is the tool that was asked about; nil if the query was not about one tool.
	Tool *keysv1.ToolGrant
	// ToolSet is what the key reaches; nil if the query was about one tool or the key alone, or if it has not changed
	// since ToolSetVersion.
	ToolSet *keysv1.ToolSet
	// ToolSetVersion identifies what the key reaches; empty if the query was about the key alone. If ToolSet is nil and
	// this is not the version that was sent, the tool set has no room in the response: read it with ReadToolSet.
	ToolSetVersion string
}

// A Denied is a token that is not good, or does not reach what was asked. It is an error, so that a grant cannot be
// taken for granted.
type Denied struct {
	// Reason says why. A value without a name is newer than this package; it is a denial like any other.
	Reason keysv1.DenialReason
	// Message says why, for people.
	Message string
	// KeyID is the key's id, if the token's secret was correct.
	KeyID string
}

// Error returns the reason and the message.
func (d *Denied) Error() string {
	return fmt.Sprintf("keys: denied, %s: %s", d.ReasonName(), d.Message)
}

// ReasonName returns the reason without DENIAL_REASON_, such as "REVOKED", or its number if it has no name here.
func (d *Denied) ReasonName() string {
	if name, known := keysv1.DenialReason_name[int32(d.Reason)]; known {
		return name[len("DENIAL_REASON_"):]
	}
	return fmt.Sprint(int32(d.Reason))
}

// InvalidToken returns whether the token is at fault, so that another one is needed. If not, the token is good, or may be
// again, but does not reach what was asked, or not from there.
func (d *Denied) InvalidToken() bool {
	switch d.Reason {
	case keysv1.DenialReason_DENIAL_REASON_TOOL_NOT_ALLOWED, keysv1.DenialReason_DENIAL_REASON_SOURCE_NOT_ALLOWED:
		return false
	default:
		return true
	}
}

// A Decision is one of a batch. Exactly one of its fields is set.
type Decision struct {
	Granted *Granted
	Denied  *Denied
}

// Grant returns the grant, or the denial as an error, as Authorize does.
func (d Decision) Grant() (*Granted, error) {
	if d.Granted != nil && d.Denied == nil {
		return d.Granted, nil
	}
	if d.Denied == nil {
		return nil, unfit("There is no decision.")
	}
	return nil, d.Denied
}

func unfit(message string) *Denied { return &Denied{Message: message} }

func malformed() *Denied {
	return &Denied{
		Reason:  keysv1.DenialReason_DENIAL_REASON_MALFORMED,
		Message: "This is not a token: it is too long, or not text.",
	}
}

func denial(denied *keysv1.Denied) *Denied {
	return &Denied{Reason: denied.GetReason(), Message: denied.GetMessage(), KeyID: denied.GetKeyId()}
}

// decide reads a response. Only a grant of the kind that was asked for is a grant.
func decide(asked *keysv1.AuthorizeRequest, response *keysv1.AuthorizeResponse) Decision {
	switch verdict := response.GetVerdict().(type) {
	case *keysv1.AuthorizeResponse_Denied:
		return Decision{Denied: denial(verdict.Denied)}
	case *keysv1.AuthorizeResponse_Granted:
		granted, err := grant(asked, verdict.Granted)
		if err != nil {
			return Decision{Denied: unfit("The service granted something else than was asked: " + err.Error() + ".")}
		}
		return Decision{Granted: granted}
	default:
		return Decision{Denied: unfit("The response has neither a grant nor a denial.")}
	}
}

func grant(asked *keysv1.AuthorizeRequest, granted *keysv1.Granted) (*Granted, error) {
	given := &Granted{Key: granted.GetKey()}
	if given.Key == nil {
		return nil, errors.New("no key")
	}
	var wanted func(*keysv1.ReachedTool) bool
	switch scope := asked.GetScope().(type) {
	case *keysv1.AuthorizeRequest_ToolId:
		wanted = func(tool *keysv1.ReachedTool) bool { return scope.ToolId != "" && tool.GetId() == scope.ToolId }
	case *keysv1.AuthorizeRequest_ToolName:
		wanted = func(tool *keysv1.ReachedTool) bool {
			return tool.GetMcpServer() == scope.ToolName.GetMcpServer() && tool.GetName() == scope.ToolName.GetName()
		}
	}
	switch reach := granted.GetReach().(type) {
	case *keysv1.Granted_Tool:
		if wanted == nil {
			return nil, errors.New("one tool")
		}
		if reach.Tool.GetTool() == nil || !wanted(reach.Tool.GetTool()) {
			return nil, errors.New("another tool")
		}
		given.Tool, given.ToolSetVersion = reach.Tool, reach.Tool.GetToolSetVersion()
		return given, nil
	case *keysv1.Granted_ToolSet:
		given.ToolSet, given.ToolSetVersion = reach.ToolSet, reach.ToolSet.GetVersion()
	case *keysv1.Granted_ToolSetVersion:
		given.ToolSetVersion = reach.ToolSetVersion
	}
	keyOnly := asked.GetView() == keysv1.ToolSetView_TOOL_SET_VIEW_NONE
	switch {
	case wanted != nil:
		return nil, errors.New("not a tool")
	case keyOnly && granted.GetReach() != nil:
		return nil, errors.New("more than the key")
	case !keyOnly && granted.GetReach() == nil:
		return nil, errors.New("no tool set")
	}
	return given, nil
}
