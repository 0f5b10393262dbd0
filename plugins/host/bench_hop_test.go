package host_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/muster-pki/muster/plugins/backend"
	pb "github.com/muster-pki/muster/plugins/backend/backendpb/v1"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// hopCA answers every Issue with one and the same certificate: what is measured is the way there and back.
type hopCA struct {
	backend.Backend
	answer *backend.Issuance
}

func newHopCA() backend.Backend {
	memory := backendtest.NewMemory(backendtest.MemoryOptions{Seed: "hop"})
	answer, err := memory.Issue(context.Background(), hopRequest("hop"))
	if err != nil {
		panic(err)
	}
	return &hopCA{memory, answer}
}

func (h *hopCA) Issue(context.Context, *backend.IssueRequest) (*backend.Issuance, error) {
	return h.answer, nil
}

// bareCA is the same without anything of the contract: bytes for bytes.
type bareCA struct {
	pb.UnimplementedBackendServer
	answer *pb.IssueResponse
}

func (b *bareCA) Issue(context.Context, *pb.IssueRequest) (*pb.IssueResponse, error) {
	return b.answer, nil
}

// hopKey is a device's RSA-2048 key.
var hopKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// hopRequest is a device's, whole: a template for an RSA-2048 key, and the PKCS#10 that it came with.
func hopRequest(id string) *backend.IssueRequest {
	r := request(id)
	r.Template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	r.Template.ExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}, {1, 3, 6, 1, 5, 5, 7, 3, 2}}
	name := "device-0001.factory.example"
	r.Template.SubjectAltName = append([]byte{0x30, byte(len(name) + 2), 0x82, byte(len(name))}, name...)
	var err error
	if r.Template.PublicKey, err = x509.MarshalPKIXPublicKey(hopKey().Public()); err == nil {
		r.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: r.Template.Subject}, hopKey())
	}
	if err != nil {
		panic(err)
	}
	return r
}

// hopMessages are the two messages on the wire.
func hopMessages() (*pb.IssueRequest, *pb.IssueResponse) {
	q, a := hopRequest("01JZ8M3V7Q4W2N6X5Y0K9T1RBC"), newHopCA().(*hopCA).answer
	t := &pb.Template{
		Subject: q.Template.Subject, SubjectAltName: q.Template.SubjectAltName, PublicKey: q.Template.PublicKey, KeyUsage: uint32(q.Template.KeyUsage),
		NotBefore: timestamppb.New(q.Template.NotBefore), NotAfter: timestamppb.New(q.Template.NotAfter),
	}
	for _, purpose := range q.Template.ExtKeyUsage {
		t.ExtKeyUsage = append(t.ExtKeyUsage, purpose.String())
	}
	return &pb.IssueRequest{Id: q.ID, Csr: q.CSR, Template: t},
		&pb.IssueResponse{Issuance: &pb.Issuance{Certificate: a.Certificate, Chain: a.Chain}}
}

// runBare serves bareCA on a socket until it is killed.
func runBare(socket string) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, answer := hopMessages()
	s := grpc.NewServer(grpc.StaticStreamWindowSize(backend.Window), grpc.StaticConnWindowSize(backend.Window))
	pb.RegisterBackendServer(s, &bareCA{answer: answer})
	fmt.Println("ready")
	if err := s.Serve(l); err != nil {
		os.Exit(1)
	}
}

// cpu is what this process (getrusage) and another one, 0 for none, have used: user and system time of all threads, those that have ended too.
// The other's is its CPU-time clock (clock_getcpuclockid): getrusage tells of children once they have ended.
func cpu(b *testing.B, pid int) (used time.Duration) {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	used = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	if pid == 0 {
		return used
	}
	const schedulers = 2 // CPUCLOCK_SCHED
	var other unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedulers), &other); err != nil {
		b.Fatal(err)
	}
	return used + time.Duration(other.Nano())
}

// hop measures calls from so many callers: CPU of both processes for each, and how long one takes.
func hop(b *testing.B, pid, callers int, issue func(ctx context.Context, r *backend.IssueRequest) error) {
	b.Helper()
	q, a := hopMessages()
	r := hopRequest(q.Id)
	for range 200 {
		if err := issue(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
	var next atomic.Int64
	var all sync.WaitGroup
	runtime.GC()
	b.ResetTimer()
	before := cpu(b, pid)
	for range callers {
		all.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := issue(b.Context(), r); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	used := cpu(b, pid) - before
	b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())*float64(min(callers, b.N))/1e3/float64(b.N), "wall-us/op")
	b.ReportMetric(float64(proto.Size(q)), "there-B")
	b.ReportMetric(float64(proto.Size(a)), "back-B")
	b.ReportMetric(0, "ns/op")
}

// taken is what the gateway does with an answer in each case: it wants the certificate parsed.
func taken(a *backend.Issuance, err error) error {
	if err == nil {
		_, err = a.Leaf()
	}
	return err
}

// BenchmarkHop is the way of an Issue to its CA and back, until the gateway has the certificate parsed: by a plain call within the process,
// by gRPC over a Unix socket with nothing beside it and nothing parsed, and to a plugin. cpu-us/op is the CPU of both processes for an
// issuance; there-B and back-B are the bytes of the messages.
func BenchmarkHop(b *testing.B) {
	within := newHopCA()
	for _, callers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("in-process-%d", callers), func(b *testing.B) {
			hop(b, 0, callers, func(ctx context.Context, r *backend.IssueRequest) error { return taken(within.Issue(ctx, r)) })
		})
	}
	for _, callers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("bare-grpc-%d", callers), func(b *testing.B) { benchmarkBare(b, callers) })
	}
	for _, callers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("plugin-%d", callers), func(b *testing.B) {
			c, _ := config(b, "")
			c.Plugin = "hop"
			p := start(b, c)
			hop(b, p.PID(), callers, func(ctx context.Context, r *backend.IssueRequest) error { return taken(p.Issue(ctx, r)) })
		})
	}
}

// startBare runs runBare in a process of its own until the benchmark's end.
func startBare(b *testing.B, socket string) (pid int) {
	b.Helper()
	cmd := exec.Command("/proc/self/exe", "bare", socket)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	var line string
	if _, err := fmt.Fscanln(out, &line); err != nil || line != "ready" {
		b.Fatal(line, err)
	}
	return cmd.Process.Pid
}

func benchmarkBare(b *testing.B, callers int) {
	dir, err := os.MkdirTemp("", "hop-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	pid := startBare(b, socket)
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(backend.Window), grpc.WithStaticConnWindowSize(backend.Window))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	api := pb.NewBackendClient(conn)
	bare, _ := hopMessages()
	hop(b, pid, callers, func(ctx context.Context, _ *backend.IssueRequest) error {
		_, err := api.Issue(ctx, bare)
		return err
	})
}
