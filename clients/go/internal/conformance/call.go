package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"skilder.dev/keys"
	keysv1 "skilder.dev/keys/v1"
)

// A call is a line of the input: a call of a client of its own.
type call struct {
	ID          string          `json:"id"`
	Target      string          `json:"target"`
	CallerToken *string         `json:"caller_token"`
	TimeoutMS   *int            `json:"timeout_ms"`
	Method      string          `json:"method"`
	Args        json.RawMessage `json:"args"`
}

// A query has the arguments of authorize, and of each part of batch_authorize.
type query struct {
	Token    string  `json:"token"`
	ToolID   *string `json:"toolId"`
	ToolName *struct {
		MCPServer string `json:"mcpServer"`
		Name      string `json:"name"`
	} `json:"toolName"`
	MCPServer      *string `json:"mcpServer"`
	ToolSetVersion string  `json:"toolSetVersion"`
	SourceIP       string  `json:"sourceIp"`
	View           string  `json:"view"`
}

func (q query) options() []keys.QueryOption {
	var options []keys.QueryOption
	if q.ToolID != nil {
		options = append(options, keys.ToolID(*q.ToolID))
	}
	if q.ToolName != nil {
		options = append(options, keys.Tool(q.ToolName.MCPServer, q.ToolName.Name))
	}
	if q.MCPServer != nil {
		options = append(options, keys.MCPServer(*q.MCPServer))
	}
	if q.ToolSetVersion != "" {
		options = append(options, keys.ToolSetVersion(q.ToolSetVersion))
	}
	if q.SourceIP != "" {
		options = append(options, keys.SourceIP(q.SourceIP))
	}
	if number, known := keysv1.ToolSetView_value[q.View]; known {
		options = append(options, keys.View(keysv1.ToolSetView(number)))
	} else if number, known := keysv1.ToolSetView_value["TOOL_SET_VIEW_"+q.View]; known {
		options = append(options, keys.View(keysv1.ToolSetView(number)))
	} else if q.View != "" {
		log.Fatal("no such view: ", q.View)
	}
	return options
}

type object = map[string]any

// result makes the call and returns what to print.
func (c call) result() object {
	var options []keys.Option
	options = append(options, keys.WithPlaintext())
	if c.CallerToken != nil {
		options = append(options, keys.WithToken(*c.CallerToken))
	}
	if c.TimeoutMS != nil {
		options = append(options, keys.WithTimeout(time.Duration(*c.TimeoutMS)*time.Millisecond))
	}
	client, err := keys.New(c.Target, options...)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	done, err := c.make(client)
	if err != nil {
		done = failure(err)
	}
	done["id"] = c.ID
	return done
}

func (c call) make(client *keys.Client) (object, error) {
	ctx := context.Background()
	switch c.Method {
	case "authorize":
		var asked query
		c.arguments(&asked)
		granted, err := client.Authorize(ctx, asked.Token, asked.options()...)
		if err != nil {
			return nil, err
		}
		return object{"granted": grant(granted)}, nil
	case "batch_authorize":
		return c.batch(ctx, client)
	case "read_tool_set":
		var asked query
		c.arguments(&asked)
		set, err := client.ReadToolSet(ctx, asked.Token, asked.options()...)
		if err != nil {
			return nil, err
		}
		return value(object{"toolIds": toolIDs(set), "toolSetVersion": set.GetVersion()}), nil
	default:
		return c.manage(ctx, client)
	}
}

func (c call) batch(ctx context.Context, client *keys.Client) (object, error) {
	var asked struct {
		Queries []query `json:"queries"`
	}
	c.arguments(&asked)
	var queries []keys.Query
	for _, each := range asked.Queries {
		queries = append(queries, keys.NewQuery(each.Token, each.options()...))
	}
	decisions, err := client.BatchAuthorize(ctx, queries)
	if err != nil {
		return nil, err
	}
	results := []object{}
	for _, decision := range decisions {
		if granted, err := decision.Grant(); err != nil {
			results = append(results, failure(err))
		} else {
			results = append(results, object{"granted": grant(granted)})
		}
	}
	return value(object{"decisions": results}), nil
}

func (c call) manage(ctx context.Context, client *keys.Client) (object, error) {
	switch c.Method {
	case "list_keys":
		ids := []string{}
		for key, err := range client.ListKeys(ctx, message(c, &keysv1.ListKeysRequest{})) {
			if err != nil {
				return nil, err
			}
			ids = append(ids, key.GetId())
		}
		return value(object{"keyIds": ids}), nil
	case "get_key":
		key, err := client.GetKey(ctx, message(c, &keysv1.GetKeyRequest{}))
		return value(object{"keyId": key.GetId()}), err
	case "issue_key":
		issued, err := client.IssueKey(ctx, message(c, &keysv1.IssueKeyRequest{}))
		if err != nil {
			return nil, err
		}
		return value(object{"keyId": issued.Key.GetId(), "tokenLength": len(issued.Token.Reveal())}), nil
	case "rotate_key":
		rotated, err := client.RotateKey(ctx, message(c, &keysv1.RotateKeyRequest{}))
		if err != nil {
			return nil, err
		}
		return value(object{"keyId": rotated.Key.GetId(), "tokenLength": len(rotated.Token.Reveal())}), nil
	case "revoke_key":
		revoked, err := client.RevokeKey(ctx, message(c, &keysv1.RevokeKeyRequest{}))
		return value(object{"keyId": revoked.GetKey().GetId()}), err
	case "get_workspace":
		got, err := client.GetWorkspace(ctx, message(c, &keysv1.GetWorkspaceRequest{}))
		return value(object{"workspaceId": got.GetWorkspace().GetId(), "version": fmt.Sprint(got.GetVersion())}), err
	case "apply_workspace":
		applied, err := client.ApplyWorkspace(ctx, message(c, &keysv1.ApplyWorkspaceRequest{}))
		return value(object{"version": fmt.Sprint(applied.GetVersion())}), err
	default:
		log.Fatal("no such method: ", c.Method)
		return nil, nil
	}
}

func (c call) arguments(into any) {
	if err := json.Unmarshal(c.Args, into); err != nil {
		log.Fatal("the arguments of ", c.Method, ": ", err)
	}
}

func message[Message proto.Message](c call, into Message) Message {
	if err := protojson.Unmarshal(c.Args, into); err != nil {
		log.Fatal("the arguments of ", c.Method, ": ", err)
	}
	return into
}

func value(of object) object { return object{"value": of} }

func grant(granted *keys.Granted) object {
	key := granted.Key
	shown := object{
		"keyId": key.GetId(), "workspaceId": key.GetWorkspaceId(), "userId": key.GetUserId(),
		"description": key.GetDescription(),
	}
	if granted.Tool != nil {
		shown["toolId"] = granted.Tool.GetTool().GetId()
	}
	if granted.ToolSet != nil {
		shown["toolIds"] = toolIDs(granted.ToolSet)
	}
	if granted.ToolSetVersion != "" {
		shown["toolSetVersion"] = granted.ToolSetVersion
	}
	return shown
}

func toolIDs(set *keysv1.ToolSet) []string {
	ids := []string{}
	for _, tool := range set.GetTools() {
		ids = append(ids, tool.GetId())
	}
	slices.Sort(ids)
	return ids
}

func failure(err error) object {
	var denied *keys.Denied
	if errors.As(err, &denied) {
		reason := denied.ReasonName()
		if _, known := keysv1.DenialReason_name[int32(denied.Reason)]; !known {
			reason = ""
		}
		return object{"denied": object{
			"reason": reason, "number": int32(denied.Reason), "message": denied.Message, "keyId": denied.KeyID,
		}}
	}
	var failed *keys.Error
	if !errors.As(err, &failed) {
		log.Fatal("not an error of the client: ", err)
	}
	shown := object{"code": codeName(failed.Code), "reason": failed.Reason, "outage": failed.Outage(), "retryAfterMs": nil}
	if failed.RetryAfter > 0 {
		shown["retryAfterMs"] = failed.RetryAfter.Milliseconds()
	}
	return object{"error": shown}
}

// codeName returns the name of a status code as the specification of gRPC has it; package codes has others.
func codeName(code codes.Code) string {
	names := []string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	return names[code]
}
