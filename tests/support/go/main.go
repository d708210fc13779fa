// Use the API as a program in Go does, and print what it sees: calls HOST:PORT CALLER-TOKEN-FILE
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	keysv1 "skilder.dev/keys/v1"
)

func main() {
	log.SetFlags(0)
	caller, err := os.ReadFile(os.Args[2])
	check(err)
	channel, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(caller)))
	catalog := keysv1.NewCatalogServiceClient(channel)
	keys := keysv1.NewKeyServiceClient(channel)
	authorization := keysv1.NewAuthorizationServiceClient(channel)
	audit := keysv1.NewAuditServiceClient(channel)

	applied, err := catalog.ApplyWorkspace(ctx, &keysv1.ApplyWorkspaceRequest{
		Workspace:       workspace(),
		ExpectedVersion: proto.Int64(0),
	})
	check(err)
	fmt.Println("applied", applied.GetVersion(), len(applied.GetChanges()))

	issued, err := keys.IssueKey(ctx, &keysv1.IssueKeyRequest{
		Type:        keysv1.KeyType_KEY_TYPE_WORKSPACE,
		WorkspaceId: "acme",
		Description: "Slack Support Bot",
		HatLimit:    &keysv1.HatLimit{HatIds: []string{"support"}},
	})
	check(err)
	fmt.Println("issued", issued.GetKey().GetType(), len(issued.GetToken()))

	page, err := keys.ListKeys(ctx, &keysv1.ListKeysRequest{
		WorkspaceId: "acme",
		Filter:      &keysv1.KeyFilter{States: []keysv1.KeyState{keysv1.KeyState_KEY_STATE_ACTIVE}},
	})
	check(err)
	fmt.Println("listed", len(page.GetKeys()), page.GetKeys()[0].GetState())

	request := &keysv1.AuthorizeRequest{Token: issued.GetToken()}
	fmt.Println(ask(ctx, authorization, request))
	request.Scope = &keysv1.AuthorizeRequest_ToolId{ToolId: "slack.post"}
	fmt.Println(ask(ctx, authorization, request))
	request.Scope = &keysv1.AuthorizeRequest_ToolId{ToolId: "git.push"}
	fmt.Println(ask(ctx, authorization, request))
	request.Scope = &keysv1.AuthorizeRequest_ToolId{}
	fmt.Println(ask(ctx, authorization, request))

	parts, err := authorization.ReadToolSet(ctx, &keysv1.ReadToolSetRequest{
		Request: &keysv1.AuthorizeRequest{Token: issued.GetToken()},
	})
	check(err)
	tools := 0
	for {
		part, err := parts.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		check(err)
		tools += len(part.GetToolSet().GetTools())
	}
	fmt.Println("read", tools)

	// Each response has the cursor with which another call goes on.
	start := &keysv1.FollowEventsRequest{WorkspaceId: "acme", Start: &keysv1.FollowEventsRequest_AfterNumber{}}
	for round := range 2 {
		following, stop := context.WithCancel(ctx)
		events, err := audit.FollowEvents(following, start)
		check(err)
		response, err := events.Recv()
		check(err)
		stop()
		fmt.Println("followed", len(response.GetEvents()))
		if round == 0 {
			suspend(ctx, keys, issued.GetKey().GetId())
		}
		start.Start = &keysv1.FollowEventsRequest_Cursor{Cursor: response.GetCursor()}
	}

	// A newer server may send a value that this program does not know.
	newer := &keysv1.Denied{}
	check(proto.Unmarshal([]byte{8, 77}, newer))
	fmt.Println("unknown", int32(newer.GetReason()), newer.GetReason())
	fmt.Println("printed", issued)
}

// suspend makes another event.
func suspend(ctx context.Context, keys keysv1.KeyServiceClient, id string) {
	_, err := keys.SuspendKey(ctx, &keysv1.SuspendKeyRequest{KeyId: id})
	check(err)
}

// ask returns the decision, or why there is none.
func ask(ctx context.Context, service keysv1.AuthorizationServiceClient, request *keysv1.AuthorizeRequest) string {
	response, err := service.Authorize(ctx, request)
	if err != nil {
		return "refused " + reason(err).String()
	}
	switch verdict := response.GetVerdict().(type) {
	case *keysv1.AuthorizeResponse_Granted:
		switch reach := verdict.Granted.GetReach().(type) {
		case *keysv1.Granted_ToolSet:
			return fmt.Sprint("granted tool_set ", len(reach.ToolSet.GetTools()))
		case *keysv1.Granted_Tool:
			return fmt.Sprint("granted tool ", reach.Tool.GetTool().GetName())
		default:
			return "not granted"
		}
	case *keysv1.AuthorizeResponse_Denied:
		return fmt.Sprint("denied ", verdict.Denied.GetReason())
	default:
		return "not granted"
	}
}

// reason returns the constant for the reason of a failed call.
func reason(err error) keysv1.ErrorReason {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return keysv1.ErrorReason(keysv1.ErrorReason_value["ERROR_REASON_"+info.GetReason()])
		}
	}
	return keysv1.ErrorReason_ERROR_REASON_UNSPECIFIED
}

func workspace() *keysv1.Workspace {
	return &keysv1.Workspace{
		Id:   "acme",
		Name: "Acme",
		Hats: []*keysv1.Hat{{
			Id:       "support",
			Name:     "Support",
			SkillIds: []string{"slack"},
			Audience: keysv1.HatAudience_HAT_AUDIENCE_WORKSPACE,
		}},
		Skills: []*keysv1.Skill{{Id: "slack", Name: "Slack", ToolIds: []string{"slack.history", "slack.post"}}},
		Tools: []*keysv1.Tool{
			{Id: "slack.history", Name: "history", McpServer: "slack"},
			{Id: "slack.post", Name: "post", McpServer: "slack"},
			{Id: "git.push", Name: "push", McpServer: "git"},
		},
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
