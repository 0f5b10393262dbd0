package host_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

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
	answer, err := memory.Issue(context.Background(), request("hop"))
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

// hopRequest is about 0.8 KB on the wire: a template, and a PKCS#10 that fills it up.
func hopRequest(id string) *backend.IssueRequest {
	r := request(id)
	r.Template.SubjectAltName, r.CSR = bytes.Repeat([]byte{0x30}, 64), bytes.Repeat([]byte{0x31}, 500)
	return r
}

// runBare serves bareCA on a socket until it is killed.
func runBare(socket string) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	a := newHopCA().(*hopCA).answer
	s := grpc.NewServer(grpc.StaticStreamWindowSize(backend.Window), grpc.StaticConnWindowSize(backend.Window))
	pb.RegisterBackendServer(s, &bareCA{answer: &pb.IssueResponse{Issuance: &pb.Issuance{Certificate: a.Certificate, Chain: a.Chain}}})
	fmt.Println("ready")
	if err := s.Serve(l); err != nil {
		os.Exit(1)
	}
}

// cpu is what this process and another one have used. The other's is in nanoseconds, of all of its threads
// (/proc/PID/task/TID/schedstat).
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
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		b.Fatal(tasks, err)
	}
	for _, f := range tasks {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		used += time.Duration(ns)
	}
	return used
}

// hop measures calls from so many callers: CPU of both processes for each, and how long one takes.
func hop(b *testing.B, pid, callers int, issue func(ctx context.Context, r *backend.IssueRequest) error) {
	b.Helper()
	for range 200 {
		if err := issue(b.Context(), hopRequest("warm")); err != nil {
			b.Fatal(err)
		}
	}
	var next atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	before := cpu(b, pid)
	for range callers {
		all.Go(func() {
			r := hopRequest("01JZ8M3V7Q4W2N6X5Y0K9T1RBC")
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
	b.ReportMetric(0, "ns/op")
}

// BenchmarkHop is the way of an Issue to its CA and back, of about 0.8 KB there and 1.5 KB back: by a plain call within the process, by
// gRPC over a Unix socket with nothing beside it, and to a plugin. cpu-us/op is the CPU of both processes for an issuance.
func BenchmarkHop(b *testing.B) {
	within := newHopCA()
	for _, callers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("in-process-%d", callers), func(b *testing.B) {
			hop(b, 0, callers, func(ctx context.Context, r *backend.IssueRequest) error {
				_, err := within.Issue(ctx, r)
				return err
			})
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
			hop(b, p.PID(), callers, func(ctx context.Context, r *backend.IssueRequest) error {
				_, err := p.Issue(ctx, r)
				return err
			})
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
	q := hopRequest("01JZ8M3V7Q4W2N6X5Y0K9T1RBC")
	bare := &pb.IssueRequest{Id: q.ID, Csr: q.CSR, Template: &pb.Template{Subject: q.Template.Subject, SubjectAltName: q.Template.SubjectAltName, PublicKey: q.Template.PublicKey}}
	hop(b, pid, callers, func(ctx context.Context, _ *backend.IssueRequest) error {
		_, err := api.Issue(ctx, bare)
		return err
	})
}
