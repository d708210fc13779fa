package keys

import (
	"context"
	"crypto/rand"
	"iter"

	"google.golang.org/protobuf/proto"

	keysv1 "skilder.dev/keys/v1"
)

// An Issued is a new key and its token, which nobody can read again.
type Issued struct {
	Key   *keysv1.Key
	Token Secret
}

// A Rotated is the successor of a key, with its token, and the key that it follows.
type Rotated struct {
	Key         *keysv1.Key
	Token       Secret
	Predecessor *keysv1.Key
}

// IssueKey issues a key. It is not sent again by itself. To send it again after an error, give the request a random
// request_id of its own, and keep that: without one, IssueKey makes one up for each call, and a second call may issue a
// second key.
func (c *Client) IssueKey(ctx context.Context, request *keysv1.IssueKeyRequest) (*Issued, error) {
	request = proto.CloneOf(request)
	if request.GetRequestId() == "" {
		request.RequestId = rand.Text()
	}
	response, err := c.keys.IssueKey(ctx, request)
	if err != nil {
		return nil, AsError(err)
	}
	return &Issued{response.GetKey(), NewSecret(response.GetToken())}, nil
}

// RotateKey issues the successor of a key. It is sent again as IssueKey is.
func (c *Client) RotateKey(ctx context.Context, request *keysv1.RotateKeyRequest) (*Rotated, error) {
	request = proto.CloneOf(request)
	if request.GetRequestId() == "" {
		request.RequestId = rand.Text()
	}
	response, err := c.keys.RotateKey(ctx, request)
	if err != nil {
		return nil, AsError(err)
	}
	return &Rotated{response.GetKey(), NewSecret(response.GetToken()), response.GetPredecessor()}, nil
}

// GetKey returns a key.
func (c *Client) GetKey(ctx context.Context, request *keysv1.GetKeyRequest) (*keysv1.Key, error) {
	response, err := c.keys.GetKey(ctx, request)
	return response.GetKey(), AsError(err)
}

// ListKeys returns the keys that match, and reads a page whenever it needs one. After an error there are no more. The
// deadline is for each page.
func (c *Client) ListKeys(ctx context.Context, request *keysv1.ListKeysRequest) iter.Seq2[*keysv1.Key, error] {
	return func(yield func(*keysv1.Key, error) bool) {
		page := proto.CloneOf(request)
		for {
			response, err := c.keys.ListKeys(ctx, page)
			if err != nil {
				yield(nil, AsError(err))
				return
			}
			for _, key := range response.GetKeys() {
				if !yield(key, nil) {
					return
				}
			}
			if response.GetNextPageToken() == "" {
				return
			}
			page.PageToken = response.GetNextPageToken()
		}
	}
}

// CountKeys returns how many keys of a workspace match.
func (c *Client) CountKeys(ctx context.Context, request *keysv1.CountKeysRequest) (*keysv1.CountKeysResponse, error) {
	response, err := c.keys.CountKeys(ctx, request)
	return response, AsError(err)
}

// UpdateKey changes the fields of a key that the mask names.
func (c *Client) UpdateKey(ctx context.Context, request *keysv1.UpdateKeyRequest) (*keysv1.Key, error) {
	response, err := c.keys.UpdateKey(ctx, request)
	return response.GetKey(), AsError(err)
}

// RevokeKey revokes a key, by its id or its token. When it returns, no process of the service grants it any more.
func (c *Client) RevokeKey(ctx context.Context, request *keysv1.RevokeKeyRequest) (*keysv1.RevokeKeyResponse, error) {
	response, err := c.keys.RevokeKey(ctx, request)
	return response, AsError(err)
}

// RevokeKeys revokes the keys of a workspace that match.
func (c *Client) RevokeKeys(ctx context.Context, request *keysv1.RevokeKeysRequest) (*keysv1.RevokeKeysResponse, error) {
	response, err := c.keys.RevokeKeys(ctx, request)
	return response, AsError(err)
}

// SuspendKey denies a key until it is resumed.
func (c *Client) SuspendKey(ctx context.Context, request *keysv1.SuspendKeyRequest) (*keysv1.Key, error) {
	response, err := c.keys.SuspendKey(ctx, request)
	return response.GetKey(), AsError(err)
}

// ResumeKey ends the suspension of a key.
func (c *Client) ResumeKey(ctx context.Context, request *keysv1.ResumeKeyRequest) (*keysv1.Key, error) {
	response, err := c.keys.ResumeKey(ctx, request)
	return response.GetKey(), AsError(err)
}

// ApplyWorkspace makes a workspace exactly what the request says.
func (c *Client) ApplyWorkspace(
	ctx context.Context, request *keysv1.ApplyWorkspaceRequest,
) (*keysv1.ApplyWorkspaceResponse, error) {
	response, err := c.catalog.ApplyWorkspace(ctx, request)
	return response, AsError(err)
}

// GetWorkspace returns a workspace and its version.
func (c *Client) GetWorkspace(
	ctx context.Context, request *keysv1.GetWorkspaceRequest,
) (*keysv1.GetWorkspaceResponse, error) {
	response, err := c.catalog.GetWorkspace(ctx, request)
	return response, AsError(err)
}
