// Authorize the token on standard input and print the decision: authorize HOST:PORT CALLER-TOKEN-FILE
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	keysv1 "skilder.dev/keys/v1"
)

func main() {
	log.SetFlags(0)
	caller, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	token, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	channel, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(caller)))
	request := &keysv1.AuthorizeRequest{Token: string(token)}
	response, err := keysv1.NewAuthorizationServiceClient(channel).Authorize(ctx, request)
	if err != nil {
		log.Fatal(err)
	}
	if granted := response.GetGranted(); granted != nil {
		fmt.Println("granted", granted.GetKey().GetType(), len(granted.GetToolSet().GetTools()))
	} else {
		fmt.Println("denied", response.GetDenied().GetReason())
	}
}
