package keys

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"

	keysv1 "skilder.dev/keys/v1"
)

// Authorize returns the grant for a token. The error is a [*Denied], or an [*Error] if there is no decision.
func (c *Client) Authorize(ctx context.Context, token string, options ...QueryOption) (*Granted, error) {
	asked, err := NewQuery(token, options...).request()
	if err != nil {
		return nil, invalid(err)
	}
	if !sendable(token) {
		return nil, malformed()
	}
	response, err := c.authorization.Authorize(ctx, asked)
	if err != nil {
		return nil, AsError(err)
	}
	return decide(asked, response).Grant()
}

// BatchAuthorize returns a decision for each query, in their order; at most 1,000. Each is as Authorize would decide. A
// tool set that the response had no room for is read.
func (c *Client) BatchAuthorize(ctx context.Context, queries []Query) ([]Decision, error) {
	decisions := make([]Decision, len(queries))
	batch := &keysv1.BatchAuthorizeRequest{}
	var places []int
	for place, query := range queries {
		if query.request == nil {
			return nil, invalid(errors.New("a query was not made by NewQuery"))
		}
		asked, err := query.request()
		if err != nil {
			return nil, invalid(err)
		}
		if !sendable(asked.GetToken()) {
			decisions[place].Denied = malformed()
			continue
		}
		places = append(places, place)
		batch.Requests = append(batch.Requests, asked)
	}
	if len(queries) > 0 && len(places) == 0 {
		return decisions, nil
	}
	response, err := c.authorization.BatchAuthorize(ctx, batch)
	if err != nil {
		return nil, AsError(err)
	}
	if len(response.GetResponses()) != len(places) {
		return nil, &Error{Code: codes.Internal, Message: "The response does not have a decision for each query."}
	}
	sets := map[string]*keysv1.ToolSet{}
	for _, set := range response.GetToolSets() {
		sets[set.GetVersion()] = set
	}
	for number, place := range places {
		decision := decide(batch.Requests[number], response.GetResponses()[number])
		if err := c.fill(ctx, batch.Requests[number], &decision, sets); err != nil {
			return nil, err
		}
		decisions[place] = decision
	}
	return decisions, nil
}

// fill puts the tool set into a decision that names it by its version, unless the caller has it.
func (c *Client) fill(
	ctx context.Context, asked *keysv1.AuthorizeRequest, decision *Decision, sets map[string]*keysv1.ToolSet,
) error {
	granted := decision.Granted
	if granted == nil || granted.Tool != nil || granted.ToolSet != nil || granted.ToolSetVersion == "" ||
		granted.ToolSetVersion == asked.GetToolSetVersion() {
		return nil
	}
	set, known := sets[granted.ToolSetVersion]
	if !known {
		read, err := c.readToolSet(ctx, asked)
		var denied *Denied
		if errors.As(err, &denied) {
			*decision = Decision{Denied: denied}
			return nil
		}
		if err != nil {
			return err
		}
		// What was read is kept by its own version alone. After a change in the meantime it is another one than the grant
		// names, and another key with that grant may not reach it.
		set, sets[read.GetVersion()] = read, read
	}
	granted.ToolSet, granted.ToolSetVersion = set, set.GetVersion()
	return nil
}

// ReadToolSet returns everything that a token reaches, however large it is. The error is a [*Denied] or an [*Error].
func (c *Client) ReadToolSet(ctx context.Context, token string, options ...QueryOption) (*keysv1.ToolSet, error) {
	asked, err := NewQuery(token, options...).request()
	if err != nil {
		return nil, invalid(err)
	}
	if !sendable(token) {
		return nil, malformed()
	}
	return c.readToolSet(ctx, asked)
}

func (c *Client) readToolSet(ctx context.Context, asked *keysv1.AuthorizeRequest) (*keysv1.ToolSet, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts, err := c.authorization.ReadToolSet(ctx, &keysv1.ReadToolSetRequest{Request: asked})
	if err != nil {
		return nil, AsError(err)
	}
	var whole *keysv1.ToolSet
	for {
		response, err := parts.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, AsError(err)
		}
		if denied := response.GetDenied(); denied != nil {
			return nil, denial(denied)
		}
		part := response.GetToolSet()
		switch {
		case part == nil:
			return nil, unfit("The response has neither a tool set nor a denial.")
		case whole == nil:
			whole = part
		case part.GetVersion() != whole.GetVersion():
			return nil, &Error{Code: codes.Internal, Message: "The response has parts of two tool sets."}
		default:
			whole.Hats = append(whole.Hats, part.GetHats()...)
			whole.Tools = append(whole.Tools, part.GetTools()...)
			whole.Skills = append(whole.Skills, part.GetSkills()...)
		}
	}
	if whole == nil {
		return nil, unfit("The response has neither a tool set nor a denial.")
	}
	return whole, nil
}

func invalid(err error) *Error {
	return &Error{Code: codes.InvalidArgument, Message: err.Error()}
}
