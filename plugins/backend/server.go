package backend

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/muster-pki/muster/plugins/backend/backendpb/v1"
)

// server answers the wire's calls by a Backend. It trusts the gateway's authority, not its bytes.
type server struct {
	pb.UnimplementedBackendServer
	b   Backend
	log *slog.Logger

	mu         sync.Mutex
	configured bool          // Configure succeeded
	asked      bool          // Configure was called
	stopping   bool          // no new call
	calls      int           // under way
	idle       chan struct{} // closed when stopping and no call is under way
}

// Register lets s answer for b, once: Configure is refused the second time. Serve is what a plugin process needs;
// this is its part without the process, for a test over a connection of its own.
func Register(s grpc.ServiceRegistrar, b Backend, log *slog.Logger) {
	pb.RegisterBackendServer(s, newServer(b, log))
}

func newServer(b Backend, log *slog.Logger) *server {
	return &server{b: b, log: log, idle: make(chan struct{})}
}

// need says what has to be true before a call.
type need bool

const (
	anytime    need = false
	configured need = true
)

// serve runs one call: it counts it, turns a panic into INTERNAL, and any error into a status.
func serve[T any](s *server, ctx context.Context, method string, n need, fn func(ctx context.Context) (*T, error)) (out *T, err error) {
	if err := s.begin(n); err != nil {
		return nil, err
	}
	defer s.end()
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("the backend panicked", "method", method, "id", RequestID(ctx), "panic", p, "stack", string(debug.Stack()))
			out, err = nil, status.Errorf(codes.Internal, "%s panicked", method)
		}
	}()
	out, err = fn(receiveTrace(receiveRequestID(ctx)))
	if err != nil {
		return nil, asStatus(err)
	}
	return out, nil
}

func (s *server) begin(n need) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return status.Error(codes.Unavailable, "the plugin is stopping")
	}
	if n == configured && !s.configured {
		// Not FAILED_PRECONDITION: that would refuse a request for good that the next process can serve.
		return status.Error(codes.Unavailable, "the plugin has not been configured")
	}
	s.calls++
	return nil
}

func (s *server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls--
	s.checkIdle()
}

func (s *server) checkIdle() {
	if s.stopping && s.calls == 0 {
		select {
		case <-s.idle:
		default:
			close(s.idle)
		}
	}
}

// drain refuses new calls and waits for those under way, at most d.
func (s *server) drain(d time.Duration) {
	s.mu.Lock()
	s.stopping = true
	s.checkIdle()
	s.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.idle:
	case <-t.C:
	}
}

// asStatus makes every error a status, keeping the code and details of one that wraps a status.
func asStatus(err error) error {
	if st, ok := status.FromError(err); ok && st.Code() != codes.OK {
		p := st.Proto()
		p.Message = clean(p.Message) // beyond some 8 KiB gRPC would lose the whole status
		return status.FromProto(p).Err()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, clean(err.Error()))
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, clean(err.Error()))
	}
	return status.Error(codes.Unknown, clean(err.Error()))
}

func badRequest(err error) error { return status.Error(codes.InvalidArgument, clean(err.Error())) }

func bounded(what string, n, limit int) error {
	if n > limit {
		return status.Errorf(codes.InvalidArgument, "%s: %d bytes, more than %d", what, n, limit)
	}
	return nil
}

func (s *server) Validate(ctx context.Context, r *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	return serve(s, ctx, "Validate", anytime, func(ctx context.Context) (*pb.ValidateResponse, error) {
		if err := bounded("configuration", len(r.Config), MaxConfig); err != nil {
			return nil, err
		}
		return &pb.ValidateResponse{}, s.b.Validate(ctx, r.Config)
	})
}

func (s *server) Configure(ctx context.Context, r *pb.ConfigureRequest) (*pb.ConfigureResponse, error) {
	return serve(s, ctx, "Configure", anytime, func(ctx context.Context) (*pb.ConfigureResponse, error) {
		if err := bounded("configuration", len(r.Config), MaxConfig); err != nil {
			return nil, err
		}
		s.mu.Lock()
		again := s.asked
		s.asked = true
		s.mu.Unlock()
		if again {
			return nil, status.Error(codes.FailedPrecondition, "the plugin has been configured already")
		}
		if err := s.b.Configure(ctx, r.Config); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.configured = true
		s.mu.Unlock()
		return &pb.ConfigureResponse{}, nil
	})
}

func (s *server) Describe(ctx context.Context, _ *pb.DescribeRequest) (*pb.DescribeResponse, error) {
	return serve(s, ctx, "Describe", configured, func(ctx context.Context) (*pb.DescribeResponse, error) {
		d, err := s.b.Describe(ctx)
		if err != nil {
			return nil, err
		}
		idempotency, ok := wireOf(idempotencyNames, d.Idempotency)
		if !ok {
			return nil, status.Errorf(codes.Internal, "the description names the idempotency %q", d.Idempotency)
		}
		return &pb.DescribeResponse{
			Name:         d.Name,
			Version:      d.Version,
			Forms:        toWire(formNames, d.Forms),
			Overrides:    toWire(fieldNames, d.Overrides),
			Decides:      toWire(fieldNames, d.Decides),
			Idempotency:  idempotency,
			Capabilities: toWire(capabilityNames, d.Capabilities),
		}, nil
	})
}

func (s *server) CACertificates(ctx context.Context, _ *pb.CACertificatesRequest) (*pb.CACertificatesResponse, error) {
	return serve(s, ctx, "CACertificates", configured, func(ctx context.Context) (*pb.CACertificatesResponse, error) {
		cas, err := s.b.CACertificates(ctx)
		if err != nil {
			return nil, err
		}
		out := &pb.CACertificatesResponse{}
		for _, ca := range cas {
			out.Cas = append(out.Cas, caToWire(&ca))
		}
		return out, nil
	})
}

func (s *server) Issue(ctx context.Context, r *pb.IssueRequest) (*pb.IssueResponse, error) {
	return serve(s, ctx, "Issue", configured, func(ctx context.Context) (*pb.IssueResponse, error) {
		q, err := requestFromWire(r)
		if err != nil {
			return nil, badRequest(err)
		}
		i, err := s.b.Issue(ctx, q)
		if err != nil {
			return nil, err
		}
		return &pb.IssueResponse{Issuance: issuanceToWire(i)}, nil
	})
}

func (s *server) Lookup(ctx context.Context, r *pb.LookupRequest) (*pb.LookupResponse, error) {
	return serve(s, ctx, "Lookup", configured, func(ctx context.Context) (*pb.LookupResponse, error) {
		q, err := requestFromWire(r.Request)
		if err != nil {
			return nil, badRequest(err)
		}
		o, err := s.b.Lookup(ctx, q)
		if err != nil {
			return nil, err
		}
		state, ok := wireOf(outcomeNames, o.State)
		if !ok {
			return nil, status.Errorf(codes.Internal, "the outcome has the state %q", o.State)
		}
		return &pb.LookupResponse{State: state, Issuance: issuanceToWire(o.Issuance)}, nil
	})
}

func (s *server) Poll(ctx context.Context, r *pb.PollRequest) (*pb.PollResponse, error) {
	return serve(s, ctx, "Poll", configured, func(ctx context.Context) (*pb.PollResponse, error) {
		q, err := requestFromWire(r.Request)
		if err != nil {
			return nil, badRequest(err)
		}
		i, err := s.b.Poll(ctx, q, r.Ticket)
		if err != nil {
			return nil, err
		}
		return &pb.PollResponse{Issuance: issuanceToWire(i)}, nil
	})
}

func (s *server) Revoke(ctx context.Context, r *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	return serve(s, ctx, "Revoke", configured, func(ctx context.Context) (*pb.RevokeResponse, error) {
		at, err := timeFromWire("at", r.At)
		if err != nil {
			return nil, badRequest(err)
		}
		return &pb.RevokeResponse{}, s.b.Revoke(ctx, &RevokeRequest{Issuer: r.Issuer, Serial: r.Serial, Reason: int(r.Reason), At: at, Certificate: r.Certificate})
	})
}

func (s *server) CRL(r *pb.CRLRequest, out grpc.ServerStreamingServer[pb.CRLResponse]) error {
	_, err := serve(s, out.Context(), "CRL", configured, func(ctx context.Context) (*pb.CRLResponse, error) {
		return nil, s.b.CRL(ctx, r.Issuer, &chunks{out: out})
	})
	return err
}

// chunks sends what is written to it in messages of at most maxCRLChunk.
type chunks struct {
	out  grpc.ServerStreamingServer[pb.CRLResponse]
	sent int
}

func (c *chunks) Write(p []byte) (n int, err error) {
	if len(p) > MaxCRL-c.sent {
		return 0, status.Errorf(codes.Internal, "a CRL of more than %d bytes", MaxCRL)
	}
	for len(p) > 0 {
		chunk := p[:min(len(p), maxCRLChunk)]
		if err := c.out.Send(&pb.CRLResponse{Chunk: chunk}); err != nil {
			return n, err
		}
		n, c.sent, p = n+len(chunk), c.sent+len(chunk), p[len(chunk):]
	}
	return n, nil
}

func (s *server) SignCMS(ctx context.Context, r *pb.SignCMSRequest) (*pb.SignCMSResponse, error) {
	return serve(s, ctx, "SignCMS", configured, func(ctx context.Context) (*pb.SignCMSResponse, error) {
		signer, ok := s.b.(CMSSigner)
		if !ok {
			return nil, unimplemented("SignCMS")
		}
		if err := bounded("content", len(r.Content), MaxContent); err != nil {
			return nil, err
		}
		signed, err := signer.SignCMS(ctx, r.Issuer, r.Content)
		return &pb.SignCMSResponse{SignedData: signed}, err
	})
}

func (s *server) OCSP(ctx context.Context, r *pb.OCSPRequest) (*pb.OCSPResponse, error) {
	return serve(s, ctx, "OCSP", configured, func(ctx context.Context) (*pb.OCSPResponse, error) {
		responder, ok := s.b.(OCSPResponder)
		if !ok {
			return nil, unimplemented("OCSP")
		}
		if err := bounded("request", len(r.Request), MaxOCSPRequest); err != nil {
			return nil, err
		}
		answer, err := responder.OCSP(ctx, r.Issuer, r.Request)
		return &pb.OCSPResponse{Response: answer}, err
	})
}

func (s *server) Exchange(ctx context.Context, r *pb.ExchangeRequest) (*pb.ExchangeResponse, error) {
	return serve(s, ctx, "Exchange", configured, func(ctx context.Context) (*pb.ExchangeResponse, error) {
		x, ok := s.b.(Exchanger)
		if !ok {
			return nil, unimplemented("Exchange")
		}
		if err := bounded("message", len(r.Message), MaxContent); err != nil {
			return nil, err
		}
		answer, err := x.Exchange(ctx, r.Id, r.Message)
		return &pb.ExchangeResponse{Message: answer}, err
	})
}

func (s *server) Rollover(ctx context.Context, r *pb.RolloverRequest) (*pb.RolloverResponse, error) {
	return serve(s, ctx, "Rollover", configured, func(ctx context.Context) (*pb.RolloverResponse, error) {
		roller, ok := s.b.(Roller)
		if !ok {
			return nil, unimplemented("Rollover")
		}
		if r.Id == "" || !printable(r.Id, MaxName) {
			return nil, badRequest(errors.New("the request has no well-formed ID"))
		}
		kind, ok := rolloverNames[r.Kind]
		if !ok {
			return nil, badRequest(errors.New("no such kind of rollover"))
		}
		ca, err := roller.Rollover(ctx, &RolloverRequest{ID: r.Id, Issuer: r.Issuer, Kind: kind, Root: r.Root, Announce: r.Announce})
		if err != nil {
			return nil, err
		}
		return &pb.RolloverResponse{Ca: caToWire(ca)}, nil
	})
}
