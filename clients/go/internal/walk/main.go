// Walk goes through the life of a key with a running service: walk HOST:PORT CALLER-TOKEN-FILE
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	"skilder.dev/keys"
	keysv1 "skilder.dev/keys/v1"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: walk HOST:PORT CALLER-TOKEN-FILE")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := keys.New(os.Args[1], keys.WithPlaintext(), keys.WithTokenFile(os.Args[2]))
	check(err)
	defer func() { check(client.Close()) }()
	token, id := issue(ctx, client)
	ask(ctx, client, token)
	next := rotate(ctx, client, id)
	revoke(ctx, client, id, next)
	fail(ctx, token)
}

func issue(ctx context.Context, client *keys.Client) (keys.Secret, string) {
	applied, err := client.ApplyWorkspace(ctx, &keysv1.ApplyWorkspaceRequest{
		Workspace: workspace(), ExpectedVersion: proto.Int64(0),
	})
	check(err)
	fmt.Println("applied version", applied.GetVersion())
	issued, err := client.IssueKey(ctx, &keysv1.IssueKeyRequest{
		Type:        keysv1.KeyType_KEY_TYPE_WORKSPACE,
		WorkspaceId: "walk",
		Description: "Slack Bot",
		HatLimit:    &keysv1.HatLimit{HatIds: []string{"support"}},
	})
	check(err)
	fmt.Printf("issued %s, token %v\n", issued.Key.GetState(), issued.Token)
	for key, err := range client.ListKeys(ctx, &keysv1.ListKeysRequest{WorkspaceId: "walk", PageSize: 1}) {
		check(err)
		fmt.Println("listed", key.GetDescription())
	}
	return issued.Token, issued.Key.GetId()
}

func ask(ctx context.Context, client *keys.Client, token keys.Secret) {
	granted, err := client.Authorize(ctx, token.Reveal(), keys.Tool("slack", "post"))
	check(err)
	fmt.Println("granted", granted.Tool.GetTool().GetId())
	_, err = client.Authorize(ctx, token.Reveal(), keys.ToolID("git.push"))
	fmt.Println(err)
	set, err := client.ReadToolSet(ctx, token.Reveal())
	check(err)
	fmt.Println("reaches", len(set.GetTools()), "tools")
	decisions, err := client.BatchAuthorize(ctx, []keys.Query{
		keys.NewQuery(token.Reveal()), keys.NewQuery("not a token"),
	})
	check(err)
	fmt.Println("batch", len(decisions[0].Granted.ToolSet.GetTools()), decisions[1].Denied.ReasonName())
}

func rotate(ctx context.Context, client *keys.Client, id string) keys.Secret {
	rotated, err := client.RotateKey(ctx, &keysv1.RotateKeyRequest{KeyId: id})
	check(err)
	_, err = client.Authorize(ctx, rotated.Token.Reveal(), keys.Tool("slack", "post"))
	check(err)
	fmt.Println("rotated")
	return rotated.Token
}

func revoke(ctx context.Context, client *keys.Client, id string, next keys.Secret) {
	_, err := client.RevokeKey(ctx, &keysv1.RevokeKeyRequest{
		Target: &keysv1.RevokeKeyRequest_KeyId{KeyId: id}, Scope: keysv1.RevokeScope_REVOKE_SCOPE_FAMILY,
	})
	check(err)
	_, err = client.Authorize(ctx, next.Reveal(), keys.Tool("slack", "post"))
	fmt.Println(err)
}

// fail makes calls that are no decisions.
func fail(ctx context.Context, token keys.Secret) {
	stranger, err := keys.New(os.Args[1], keys.WithPlaintext(), keys.WithToken("nobody-knows-this-token"))
	check(err)
	show(stranger.Authorize(ctx, token.Reveal(), keys.KeyOnly()))
	hasty, err := keys.New(os.Args[1], keys.WithPlaintext(), keys.WithTokenFile(os.Args[2]), keys.WithTimeout(1))
	check(err)
	show(hasty.Authorize(ctx, token.Reveal(), keys.KeyOnly()))
	// Nothing listens on the discard port.
	lost, err := keys.New("127.0.0.1:9", keys.WithPlaintext())
	check(err)
	show(lost.Authorize(ctx, token.Reveal(), keys.KeyOnly()))
}

func show(_ *keys.Granted, err error) {
	var failed *keys.Error
	if !errors.As(err, &failed) {
		log.Fatal("a failed call must be an error: ", err)
	}
	fmt.Println("no decision:", failed.Code, "outage:", failed.Outage())
}

func workspace() *keysv1.Workspace {
	return &keysv1.Workspace{
		Id:   "walk",
		Name: "Walk",
		Hats: []*keysv1.Hat{{
			Id: "support", Name: "Support", SkillIds: []string{"slack"}, Audience: keysv1.HatAudience_HAT_AUDIENCE_WORKSPACE,
		}},
		Skills: []*keysv1.Skill{{Id: "slack", Name: "Slack", ToolIds: []string{"slack.post", "slack.read"}}},
		Tools: []*keysv1.Tool{
			{Id: "slack.post", Name: "post", McpServer: "slack"},
			{Id: "slack.read", Name: "read", McpServer: "slack"},
			{Id: "git.push", Name: "push", McpServer: "git"},
		},
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
