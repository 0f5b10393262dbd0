package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/muster-pki/muster/plugins/backend/backendpb/v1"
)

// Client is a plugin as the gateway sees it: a Backend, a CMSSigner, an Exchanger and a Roller over a connection.
//
// What a plugin returns is not trusted: it is bounded and parsed again, and an answer that fails this is INTERNAL,
// which leaves the outcome of an Issue unknown. Errors keep their code, RetryInfo and that they are Unable's, lose every other detail, and
// begin with the plugin's name. Whether a certificate is the one that was asked for is for the caller to check.
type Client struct {
	name  string
	rpc   pb.BackendClient
	chain atomic.Pointer[[][]byte] // the last that came with a certificate, checked: most often the next one's too
}

// NewClient makes the facade of the plugin that answers on the connection. name begins every error.
func NewClient(conn grpc.ClientConnInterface, name string) *Client {
	return &Client{name: name, rpc: pb.NewBackendClient(tracing{conn})}
}

// messageBounds caps what one answer may be, whatever the connection was dialled with.
var messageBounds = []grpc.CallOption{grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)}

// fail makes the error of a call, from what gRPC returned, the caller's own.
func (c *Client) fail(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	code := st.Code()
	switch {
	case code == codes.OK || code > codes.Unauthenticated:
		code = codes.Unknown
	case code == codes.Canceled && ctx.Err() == nil:
		// Not by this caller: the connection was closed under the call.
		code = codes.Unavailable
	}
	out := status.New(code, c.name+": "+clean(st.Message()))
	if d, ok := RetryAfter(err); ok {
		d = min(max(d, 0), 7*24*time.Hour)
		if with, err := out.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(d)}); err == nil {
			out = with
		}
	}
	if IsUnable(err) {
		if with, err := out.WithDetails(&errdetails.ErrorInfo{Reason: unable, Domain: domain}); err == nil {
			out = with
		}
	}
	return out.Err()
}

// garbage makes the error for an answer that is none.
func (c *Client) garbage(method string, err error) error {
	return status.Errorf(codes.Internal, "%s: %s answered %s", c.name, method, clean(err.Error()))
}

// clean bounds a text from outside to one printable line.
func clean(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == 0x2028 || r == 0x2029 || r == '\uFFFD' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
}

// Validate is Backend.Validate.
func (c *Client) Validate(ctx context.Context, config []byte) error {
	_, err := c.rpc.Validate(ctx, &pb.ValidateRequest{Config: config}, messageBounds...)
	return c.fail(ctx, err)
}

// Configure is Backend.Configure.
func (c *Client) Configure(ctx context.Context, config []byte) error {
	_, err := c.rpc.Configure(ctx, &pb.ConfigureRequest{Config: config}, messageBounds...)
	return c.fail(ctx, err)
}

// Describe is Backend.Describe. Forms, fields and capabilities that this version does not know are left out.
func (c *Client) Describe(ctx context.Context) (*Description, error) {
	w, err := c.rpc.Describe(ctx, &pb.DescribeRequest{}, messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	d := &Description{
		Name:         w.Name,
		Version:      w.Version,
		Forms:        fromWire(formNames, w.Forms),
		Overrides:    fromWire(fieldNames, w.Overrides),
		Decides:      fromWire(fieldNames, w.Decides),
		Idempotency:  idempotencyNames[w.Idempotency],
		Capabilities: fromWire(capabilityNames, w.Capabilities),
	}
	switch {
	case d.Name == "" || !printable(d.Name, MaxName) || !printable(d.Version, MaxName):
		return nil, c.garbage("Describe", errors.New("no well-formed name and version"))
	case len(d.Forms) == 0 && !slices.Contains(d.Capabilities, CapKeys):
		return nil, c.garbage("Describe", errors.New("no form that this gateway knows"))
	case d.Idempotency == "":
		return nil, c.garbage("Describe", errors.New("no idempotency that this gateway knows"))
	}
	// Sets, so that two descriptions compare.
	slices.Sort(d.Forms)
	slices.Sort(d.Overrides)
	slices.Sort(d.Decides)
	slices.Sort(d.Capabilities)
	d.Forms, d.Overrides, d.Decides, d.Capabilities = slices.Compact(d.Forms), slices.Compact(d.Overrides), slices.Compact(d.Decides), slices.Compact(d.Capabilities)
	return d, nil
}

// CACertificates is Backend.CACertificates.
func (c *Client) CACertificates(ctx context.Context) ([]CA, error) {
	w, err := c.rpc.CACertificates(ctx, &pb.CACertificatesRequest{}, messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	cas, err := casFromWire(w.Cas)
	if err != nil {
		return nil, c.garbage("CACertificates", err)
	}
	return cas, nil
}

func casFromWire(w []*pb.CA) ([]CA, error) {
	if len(w) == 0 || len(w) > MaxCAs {
		return nil, fmt.Errorf("%d CAs, not 1 to %d", len(w), MaxCAs)
	}
	names := map[string]bool{}
	var cas []CA
	for _, one := range w {
		ca, err := caFromWire(one)
		if err != nil {
			return nil, err
		}
		if names[ca.Name] {
			return nil, errors.New("a CA without a name of its own")
		}
		names[ca.Name] = true
		cas = append(cas, *ca)
	}
	return cas, nil
}

// Issue is Backend.Issue.
func (c *Client) Issue(ctx context.Context, r *IssueRequest) (*Issuance, error) {
	w, err := c.rpc.Issue(sendRequestID(ctx, r.ID), requestToWire(r), messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return c.issuance("Issue", w.Issuance)
}

func (c *Client) issuance(method string, w *pb.Issuance) (*Issuance, error) {
	i, err := issuanceFromWire(w)
	if err != nil {
		return nil, c.garbage(method, err)
	}
	if known := c.chain.Load(); known == nil || !slices.EqualFunc(*known, i.Chain, bytes.Equal) {
		if err := checkChain(i.Chain); err != nil {
			return nil, c.garbage(method, err)
		}
		kept := make([][]byte, len(i.Chain)) // the caller may do with his what he likes
		for n, der := range i.Chain {
			kept[n] = bytes.Clone(der)
		}
		c.chain.Store(&kept)
	}
	return i, nil
}

// Lookup is Backend.Lookup.
func (c *Client) Lookup(ctx context.Context, r *IssueRequest) (*Outcome, error) {
	w, err := c.rpc.Lookup(sendRequestID(ctx, r.ID), &pb.LookupRequest{Request: requestToWire(r)}, messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	o := &Outcome{State: outcomeNames[w.State]}
	switch o.State {
	case "":
		return nil, c.garbage("Lookup", errors.New("no outcome that this gateway knows"))
	case OutcomeIssued, OutcomePending:
		if o.Issuance, err = c.issuance("Lookup", w.Issuance); err != nil {
			return nil, err
		}
		if (o.State == OutcomeIssued) != (o.Issuance.Certificate != nil) {
			return nil, c.garbage("Lookup", fmt.Errorf("%q without what belongs to it", o.State))
		}
	}
	return o, nil
}

// Poll is Backend.Poll.
func (c *Client) Poll(ctx context.Context, r *IssueRequest, ticket string) (*Issuance, error) {
	w, err := c.rpc.Poll(sendRequestID(ctx, r.ID), &pb.PollRequest{Request: requestToWire(r), Ticket: ticket}, messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return c.issuance("Poll", w.Issuance)
}

// Revoke is Backend.Revoke.
func (c *Client) Revoke(ctx context.Context, r *RevokeRequest) error {
	_, err := c.rpc.Revoke(sendRequestID(ctx, ""), &pb.RevokeRequest{
		Issuer: r.Issuer, Serial: r.Serial, Reason: int32(r.Reason), At: timeToWire(r.At), Certificate: r.Certificate,
	}, messageBounds...)
	return c.fail(ctx, err)
}

// CRL is Backend.CRL. When it fails, w has perhaps been given a part, which is worth nothing.
func (c *Client) CRL(ctx context.Context, issuer string, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when w or the answer fails
	stream, err := c.rpc.CRL(sendRequestID(ctx, ""), &pb.CRLRequest{Issuer: issuer}, messageBounds...)
	if err != nil {
		return c.fail(ctx, err)
	}
	s := sequence{limit: MaxCRL}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if err := s.end(); err != nil {
				return c.garbage("CRL", err)
			}
			return nil
		}
		if err != nil {
			return c.fail(ctx, err)
		}
		if err := s.add(m.Chunk); err != nil {
			return c.garbage("CRL", err)
		}
		if _, err := w.Write(m.Chunk); err != nil {
			return fmt.Errorf("%s: writing the CRL: %w", c.name, err)
		}
	}
}

// SignCMS is CMSSigner.SignCMS.
func (c *Client) SignCMS(ctx context.Context, issuer string, content []byte) ([]byte, error) {
	w, err := c.rpc.SignCMS(sendRequestID(ctx, ""), &pb.SignCMSRequest{Issuer: issuer, Content: content}, messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	if err := checkSequence(w.SignedData, MaxContent); err != nil {
		return nil, c.garbage("SignCMS", err)
	}
	return w.SignedData, nil
}

// OCSP is OCSPResponder.OCSP.
func (c *Client) OCSP(ctx context.Context, issuer string, request []byte) ([]byte, error) {
	w, err := c.rpc.OCSP(sendRequestID(ctx, ""), &pb.OCSPRequest{Issuer: issuer, Request: request}, messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	if err := checkSequence(w.Response, MaxOCSP); err != nil {
		return nil, c.garbage("OCSP", err)
	}
	return w.Response, nil
}

// Exchange is Exchanger.Exchange.
func (c *Client) Exchange(ctx context.Context, id string, message []byte) ([]byte, error) {
	w, err := c.rpc.Exchange(sendRequestID(ctx, id), &pb.ExchangeRequest{Id: id, Message: message}, messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	if err := checkSequence(w.Message, MaxContent); err != nil {
		return nil, c.garbage("Exchange", err)
	}
	return w.Message, nil
}

// Rollover is Roller.Rollover.
func (c *Client) Rollover(ctx context.Context, r *RolloverRequest) (*CA, error) {
	kind, ok := wireOf(rolloverNames, r.Kind)
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "no such rollover: %q", r.Kind)
	}
	w, err := c.rpc.Rollover(sendRequestID(ctx, r.ID), &pb.RolloverRequest{Id: r.ID, Issuer: r.Issuer, Kind: kind, Root: r.Root, Announce: r.Announce}, messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	ca, err := caFromWire(w.Ca)
	if err == nil && r.Issuer != "" && ca.Name != r.Issuer {
		err = errors.New("another CA")
	}
	if err != nil {
		return nil, c.garbage("Rollover", err)
	}
	return ca, nil
}

var (
	_ Backend   = (*Client)(nil)
	_ CMSSigner = (*Client)(nil)
	_ Exchanger = (*Client)(nil)
	_ Roller    = (*Client)(nil)

	_ OCSPResponder = (*Client)(nil)
)
