package backend

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/muster-pki/muster/plugins/backend/backendpb/v1"
)

// connect serves what register registers and returns the facade over a connection to it.
func connect(t *testing.T, register func(s *grpc.Server)) *Client {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	s := grpc.NewServer(grpc.MaxSendMsgSize(1<<30), grpc.MaxRecvMsgSize(1<<30))
	register(s)
	go s.Serve(listener) //nolint:errcheck // ends with Stop
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("passthrough:///plugin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2<<30-1)), // as go-plugin dials
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return NewClient(conn, "corp")
}

// hostile is a plugin that answers whatever a test wants.
type hostile struct {
	pb.UnimplementedBackendServer
	issuance *pb.Issuance
	outcome  *pb.LookupResponse
	describe *pb.DescribeResponse
	cas      []*pb.CA
	chunks   [][]byte
	content  []byte
	err      error
}

func (h *hostile) Issue(context.Context, *pb.IssueRequest) (*pb.IssueResponse, error) {
	return &pb.IssueResponse{Issuance: h.issuance}, h.err
}
func (h *hostile) Poll(context.Context, *pb.PollRequest) (*pb.PollResponse, error) {
	return &pb.PollResponse{Issuance: h.issuance}, h.err
}
func (h *hostile) Lookup(context.Context, *pb.LookupRequest) (*pb.LookupResponse, error) {
	return h.outcome, h.err
}
func (h *hostile) Describe(context.Context, *pb.DescribeRequest) (*pb.DescribeResponse, error) {
	return h.describe, h.err
}
func (h *hostile) CACertificates(context.Context, *pb.CACertificatesRequest) (*pb.CACertificatesResponse, error) {
	return &pb.CACertificatesResponse{Cas: h.cas}, h.err
}
func (h *hostile) CRL(_ *pb.CRLRequest, s grpc.ServerStreamingServer[pb.CRLResponse]) error {
	for _, c := range h.chunks {
		if err := s.Send(&pb.CRLResponse{Chunk: c}); err != nil {
			return err
		}
	}
	return h.err
}
func (h *hostile) SignCMS(context.Context, *pb.SignCMSRequest) (*pb.SignCMSResponse, error) {
	return &pb.SignCMSResponse{SignedData: h.content}, h.err
}
func (h *hostile) OCSP(context.Context, *pb.OCSPRequest) (*pb.OCSPResponse, error) {
	return &pb.OCSPResponse{Response: h.content}, h.err
}
func (h *hostile) Rollover(context.Context, *pb.RolloverRequest) (*pb.RolloverResponse, error) {
	if len(h.cas) == 0 {
		return &pb.RolloverResponse{}, h.err
	}
	return &pb.RolloverResponse{Ca: h.cas[0]}, h.err
}
func (h *hostile) Exchange(context.Context, *pb.ExchangeRequest) (*pb.ExchangeResponse, error) {
	return &pb.ExchangeResponse{Message: h.content}, h.err
}

// certificate is a well-formed one, about size bytes long.
func certificate(t *testing.T, size int) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	for range size / 1000 {
		c.DNSNames = append(c.DNSNames, strings.Repeat("x", 996))
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func many(n int, der []byte) (chain [][]byte) {
	for range n {
		chain = append(chain, der)
	}
	return chain
}

func TestHostileIssuances(t *testing.T) {
	good, large := certificate(t, 0), certificate(t, 70_000)
	for name, c := range map[string]struct {
		answer *pb.Issuance
		want   string // of the error; "" for none
	}{
		"good":                   {&pb.Issuance{Certificate: good, Chain: many(MaxChain, good)}, ""},
		"ticket":                 {&pb.Issuance{Ticket: "t-1", RetryAfter: durationpb.New(time.Minute)}, ""},
		"nothing":                {nil, "neither certificate nor ticket"},
		"empty":                  {&pb.Issuance{}, "neither certificate nor well-formed ticket"},
		"both":                   {&pb.Issuance{Certificate: good, Ticket: "t"}, "both certificate and ticket"},
		"chain alone":            {&pb.Issuance{Chain: many(1, good)}, "neither"},
		"chain with a ticket":    {&pb.Issuance{Ticket: "t", Chain: many(1, good)}, "a chain without its certificate"},
		"long ticket":            {&pb.Issuance{Ticket: strings.Repeat("t", MaxTicket+1)}, "well-formed ticket"},
		"ticket of two lines":    {&pb.Issuance{Ticket: "a\nb"}, "well-formed ticket"},
		"garbage":                {&pb.Issuance{Certificate: []byte("garbage")}, "certificate: x509"},
		"bytes after":            {&pb.Issuance{Certificate: append(bytes.Clone(good), 0)}, "certificate: x509: trailing data"},
		"cut short":              {&pb.Issuance{Certificate: good[:len(good)-1]}, "certificate: x509"},
		"large":                  {&pb.Issuance{Certificate: large}, "more than 65536"},
		"long chain":             {&pb.Issuance{Certificate: good, Chain: many(MaxChain+1, good)}, "a chain of 11 certificates"},
		"garbage in the chain":   {&pb.Issuance{Certificate: good, Chain: [][]byte{good, {0x30}}}, "chain, certificate 1"},
		"an empty in the chain":  {&pb.Issuance{Certificate: good, Chain: [][]byte{nil}}, "chain, certificate 0"},
		"a message over the cap": {&pb.Issuance{Certificate: make([]byte, MaxMessage)}, "larger than max"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hostile{issuance: c.answer, outcome: &pb.LookupResponse{State: pb.OutcomeState_OUTCOME_STATE_ISSUED, Issuance: c.answer}}
			client := connect(t, func(s *grpc.Server) { pb.RegisterBackendServer(s, h) })
			_, issue := client.Issue(t.Context(), &IssueRequest{ID: "a"})
			_, poll := client.Poll(t.Context(), &IssueRequest{ID: "a"}, "t")
			for _, err := range []error{issue, poll} {
				if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, not %q", err, c.want)
				}
				if Definite(err) {
					t.Errorf("%v passes for a definite refusal", err)
				}
				if err != nil && !strings.HasPrefix(status.Convert(err).Message(), "corp: ") {
					t.Errorf("%v does not name the plugin", err)
				}
			}
			if _, err := client.Lookup(t.Context(), &IssueRequest{ID: "a"}); (err == nil) != (name == "good") {
				t.Errorf("Lookup issued: %v", err)
			}
			h.outcome.State = pb.OutcomeState_OUTCOME_STATE_PENDING
			if _, err := client.Lookup(t.Context(), &IssueRequest{ID: "a"}); (err == nil) != (name == "ticket") {
				t.Errorf("Lookup pending: %v", err)
			}
		})
	}
}

func TestHostileAnswers(t *testing.T) {
	good := certificate(t, 0)
	sequenceOf := func(n int) []byte {
		return append([]byte{0x30, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}, make([]byte, n)...)
	}
	describe := func(change func(*pb.DescribeResponse)) *hostile {
		d := &pb.DescribeResponse{Name: "n", Version: "v", Forms: []pb.Form{1, 99, 1}, Idempotency: 1, Capabilities: []pb.Capability{4, 3, 77}}
		change(d)
		return &hostile{describe: d}
	}
	asked := func(what string) func(*Client) error {
		return func(c *Client) error {
			var err error
			switch what {
			case "describe":
				var d *Description
				if d, err = c.Describe(t.Context()); err == nil && (len(d.Forms) != 1 || len(d.Capabilities) != 2) {
					t.Errorf("unknown and repeated values were kept: %+v", d)
				}
			case "cas":
				_, err = c.CACertificates(t.Context())
			case "lookup":
				_, err = c.Lookup(t.Context(), &IssueRequest{ID: "a"})
			case "crl":
				err = c.CRL(t.Context(), "", io.Discard)
			case "sign":
				_, err = c.SignCMS(t.Context(), "", nil)
			case "ocsp":
				_, err = c.OCSP(t.Context(), "", nil)
			case "exchange":
				_, err = c.Exchange(t.Context(), "a", nil)
			case "rollover":
				_, err = c.Rollover(t.Context(), &RolloverRequest{ID: "a", Issuer: "a", Kind: RolloverRekey})
			}
			return err
		}
	}
	big := sequenceOf(MaxContent)
	for _, c := range []struct {
		name, call string
		h          *hostile
		want       string
	}{
		{"good", "describe", describe(func(*pb.DescribeResponse) {}), ""},
		{"no name", "describe", describe(func(d *pb.DescribeResponse) { d.Name = "" }), "name and version"},
		{"a name of two lines", "describe", describe(func(d *pb.DescribeResponse) { d.Name = "a\nb" }), "name and version"},
		{"a long version", "describe", describe(func(d *pb.DescribeResponse) { d.Version = strings.Repeat("1", MaxName+1) }), "name and version"},
		{"only a form of the future", "describe", describe(func(d *pb.DescribeResponse) { d.Forms = []pb.Form{99} }), "no form"},
		{"an idempotency of the future", "describe", describe(func(d *pb.DescribeResponse) { d.Idempotency = 9 }), "no idempotency"},
		{"good", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(2, good), Rollover: many(3, good)}}}, ""},
		{"none", "cas", &hostile{}, "0 CAs"},
		{"nameless", "cas", &hostile{cas: []*pb.CA{{Chain: many(1, good)}}}, "without a name"},
		{"twins", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good)}, {Name: "a", Chain: many(1, good)}}}, "name of its own"},
		{"no certificate", "cas", &hostile{cas: []*pb.CA{{Name: "a"}}}, "without certificate"},
		{"garbage", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: [][]byte{{1}}}}}, "CA a: chain"},
		{"garbage rollover", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Rollover: [][]byte{{1}}}}}, "rollover"},
		{"much rollover", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Rollover: many(MaxRollover+1, good)}}}, "a rollover of 65"},
		{"garbage next", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Next: [][]byte{{1}}}}}, "next chain"},
		{"long next", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Next: many(MaxChain+1, good)}}}, "a next chain of 11"},
		{"many CRLs", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Crls: make([]string, MaxRollover+1)}}}, "65 CRLs"},
		{"a CRL of two lines", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Crls: []string{"a\nb"}}}}, "a CRL without a name"},
		{"a CRL twice", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Crls: []string{"a", "a"}}}}, "a CRL without a name"},
		{"shards", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Shards: []*pb.CRLShard{{Name: "a.1", Uris: []string{"http://x/1", "http://y/1"}}, {Name: "a.2", Uris: []string{"http://x/2"}}}}}}, ""},
		{"many shards", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Shards: make([]*pb.CRLShard, MaxShards+1)}}}, "1025 CRL shards"},
		{"a nameless shard", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Shards: []*pb.CRLShard{{Uris: []string{"http://x/1"}}}}}}, "a CRL shard without a name"},
		{"a shard named as a CRL", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Crls: []string{"a", "a.1"}, Shards: []*pb.CRLShard{{Name: "a.1", Uris: []string{"http://x/1"}}}}}}, "a CRL shard without a name"},
		{"a shard nowhere", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Shards: []*pb.CRLShard{{Name: "a.1"}}}}}, "with 0 URIs"},
		{"a shard at many places", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Shards: []*pb.CRLShard{{Name: "a.1", Uris: make([]string, MaxURIs+1)}}}}}, "with 9 URIs"},
		{"two shards at one place", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Shards: []*pb.CRLShard{{Name: "a.1", Uris: []string{"http://x"}}, {Name: "a.2", Uris: []string{"http://x"}}}}}}, "without URIs of its own"},
		{"a URI of two lines", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Shards: []*pb.CRLShard{{Name: "a.1", Uris: []string{"http://x\n"}}}}}}, "without URIs of its own"},
		{"a long URI", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Shards: []*pb.CRLShard{{Name: "a.1", Uris: []string{strings.Repeat("x", MaxURI+1)}}}}}}, "without URIs of its own"},
		{"a nameless CRL", "cas", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good), Crls: []string{""}}}}, "a CRL without a name"},
		{"good", "rollover", &hostile{cas: []*pb.CA{{Name: "a", Chain: many(1, good)}}}, ""},
		{"none", "rollover", &hostile{}, "without a name"},
		{"another CA", "rollover", &hostile{cas: []*pb.CA{{Name: "b", Chain: many(1, good)}}}, "another CA"},
		{"no certificate", "rollover", &hostile{cas: []*pb.CA{{Name: "a"}}}, "without certificate"},
		{"many", "cas", &hostile{cas: make([]*pb.CA, MaxCAs+1)}, "17 CAs"},
		{"never", "lookup", &hostile{outcome: &pb.LookupResponse{State: pb.OutcomeState_OUTCOME_STATE_NEVER}}, ""},
		{"a state of the future", "lookup", &hostile{outcome: &pb.LookupResponse{State: 9}}, "no outcome"},
		{"no state", "lookup", &hostile{outcome: &pb.LookupResponse{}}, "no outcome"},
		{"good", "crl", &hostile{chunks: [][]byte{{0x30}, {}, {0x03, 1}, {2, 3}}}, ""},
		{"none", "crl", &hostile{}, "no DER SEQUENCE"},
		{"short", "crl", &hostile{chunks: [][]byte{{0x30, 3, 1, 2}}}, "no DER SEQUENCE"},
		{"long", "crl", &hostile{chunks: [][]byte{{0x30, 3, 1, 2}, {3, 4}}}, "bytes after"},
		{"announced too large", "crl", &hostile{chunks: [][]byte{{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}}}, "more than 67108864"},
		{"no length", "crl", &hostile{chunks: [][]byte{{0x30, 0x80, 0, 0}}}, "no DER SEQUENCE"},
		{"failing after a part", "crl", &hostile{chunks: [][]byte{{0x30, 3}}, err: status.Error(codes.NotFound, "no such CA")}, "corp: no such CA"},
		{"good", "sign", &hostile{content: []byte{0x30, 0}}, ""},
		{"garbage", "sign", &hostile{content: []byte("garbage")}, "no DER SEQUENCE"},
		{"large", "sign", &hostile{content: big}, "more than 1048576"},
		{"good", "ocsp", &hostile{content: []byte{0x30, 3, 0x0a, 1, 6}}, ""},
		{"garbage", "ocsp", &hostile{content: []byte("garbage")}, "no DER SEQUENCE"},
		{"large", "ocsp", &hostile{content: sequenceOf(MaxOCSP)}, "more than 65536"},
		{"good", "exchange", &hostile{content: []byte{0x30, 1, 0}}, ""},
		{"empty", "exchange", &hostile{}, "no DER SEQUENCE"},
		{"large", "exchange", &hostile{content: big}, "more than 1048576"},
	} {
		t.Run(c.call+" "+c.name, func(t *testing.T) {
			client := connect(t, func(s *grpc.Server) { pb.RegisterBackendServer(s, c.h) })
			err := asked(c.call)(client)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, not %q", err, c.want)
			}
		})
	}
}

func TestHostileErrors(t *testing.T) {
	detailed, err := status.New(codes.ResourceExhausted, "full").WithDetails(
		&errdetails.DebugInfo{Detail: "inner workings"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(5 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	endless, err := status.New(codes.ResourceExhausted, "full").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(1e6 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err   error
		code  codes.Code
		text  string
		delay time.Duration
	}{
		"kept":            {status.Error(codes.PermissionDenied, "no"), codes.PermissionDenied, "corp: no", 0},
		"with RetryInfo":  {detailed.Err(), codes.ResourceExhausted, "corp: full", 5 * time.Second},
		"unable":          {Unable("disk %d", 1), codes.Unavailable, "corp: disk 1", 0},
		"endless delay":   {endless.Err(), codes.ResourceExhausted, "corp: full", 7 * 24 * time.Hour},
		"no such code":    {status.Error(4711, "no"), codes.Unknown, "corp: no", 0},
		"cancelled by it": {status.Error(codes.Canceled, "I did"), codes.Unavailable, "corp: I did", 0},
		"forged lines":    {status.Error(codes.Internal, "a\r\nlevel=INFO\x1b[2J"), codes.Internal, "corp: a  level=INFO [2J", 0},
		"very long":       {status.Error(codes.Internal, strings.Repeat("é", 4000)), codes.Internal, "corp: " + strings.Repeat("é", 512) + "...", 0},
	} {
		t.Run(name, func(t *testing.T) {
			client := connect(t, func(s *grpc.Server) { pb.RegisterBackendServer(s, &hostile{err: c.err}) })
			_, err := client.Issue(t.Context(), &IssueRequest{ID: "a"})
			st := status.Convert(err)
			if st.Code() != c.code || st.Message() != c.text {
				t.Errorf("%s %q, not %s %q", st.Code(), st.Message(), c.code, c.text)
			}
			if IsUnable(err) != IsUnable(c.err) || IsUnable(err) != (name == "unable") {
				t.Errorf("unable: %t", IsUnable(err))
			}
			if d, _ := RetryAfter(err); d != c.delay || len(st.Details()) > 1 {
				t.Errorf("RetryInfo %s, not %s; details %v", d, c.delay, st.Details())
			}
		})
	}
}

// TestConnectionLost: whatever gRPC calls it, it is never a refusal.
func TestConnectionLost(t *testing.T) {
	listener := bufconn.Listen(1 << 20)
	conn, err := grpc.NewClient("passthrough:///plugin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	client := NewClient(conn, "corp")
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Issue(t.Context(), &IssueRequest{ID: "a"}); status.Code(err) != codes.Unavailable {
		t.Errorf("%v, not UNAVAILABLE", err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSequence(t *testing.T) {
	for _, c := range []struct {
		in string
		ok bool
	}{
		{"\x30\x00", true}, {"\x30\x01x", true}, {"\x30\x81\x80" + strings.Repeat("x", 128), true},
		{"\x30\x82\x01\x00" + strings.Repeat("x", 256), true},
		{"", false}, {"\x30", false}, {"\x31\x00", false}, {"\x30\x01", false}, {"\x30\x00x", false}, {"\x30\x80\x00\x00", false},
		{"\x30\x81\x7f" + strings.Repeat("x", 127), false},     // not minimal
		{"\x30\x82\x00\x80" + strings.Repeat("x", 128), false}, // not minimal
		{"\x30\x85\x00\x00\x00\x00\x01x", false}, {"\x30\x84\xff\xff\xff\xff", false},
	} {
		for size := 1; size <= len(c.in)+1; size++ {
			s := sequence{limit: 1000}
			var err error
			for in := c.in; in != "" && err == nil; in = in[min(size, len(in)):] {
				err = s.add([]byte(in[:min(size, len(in))]))
			}
			if err = errors.Join(err, s.end()); (err == nil) != c.ok {
				t.Errorf("%.10x in pieces of %d: %v", c.in, size, err)
			}
		}
	}
}

func FuzzSequence(f *testing.F) {
	f.Add([]byte("\x30\x03abc"), 2)
	f.Add([]byte("\x30\x82\x01\x00"), 1)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		whole := checkSequence(in, 1<<16)
		s := sequence{limit: 1 << 16}
		var err error
		for rest := in; len(rest) > 0 && err == nil; rest = rest[min(max(size, 1), len(rest)):] {
			err = s.add(rest[:min(max(size, 1), len(rest))])
		}
		if err = errors.Join(err, s.end()); (err == nil) != (whole == nil) {
			t.Errorf("whole: %v; in pieces: %v", whole, err)
		}
	})
}

var quiet = slog.New(slog.DiscardHandler)
