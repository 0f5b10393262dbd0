package backend

import (
	"context"
	"io"

	"google.golang.org/grpc/codes"
)

// Unimplemented answers every optional call with UNIMPLEMENTED. Embed it in a Backend.
type Unimplemented struct{}

func unimplemented(call string) error {
	return Refuse(codes.Unimplemented, "this backend does not implement %s", call)
}

// Poll is Backend.Poll.
func (Unimplemented) Poll(context.Context, *IssueRequest, string) (*Issuance, error) {
	return nil, unimplemented("Poll")
}

// Revoke is Backend.Revoke.
func (Unimplemented) Revoke(context.Context, *RevokeRequest) error {
	return unimplemented("Revoke")
}

// CRL is Backend.CRL.
func (Unimplemented) CRL(context.Context, string, io.Writer) error {
	return unimplemented("CRL")
}
