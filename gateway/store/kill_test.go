package store_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/plugins/backend"
)

// childDSN names the database on which a test process is to write until it is killed.
const childDSN = "STORE_TEST_CHILD_DSN"

// childAudit names the folder of its audit key and head file.
const childAudit = "STORE_TEST_CHILD_AUDIT"

func TestMain(m *testing.M) {
	if dsn := os.Getenv(childDSN); dsn != "" {
		if err := writeUntilKilled(dsn, os.Getenv(childAudit)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	goleak.VerifyTestMain(pgtest.Main{M: m})
}

// writeUntilKilled prints a line after each commit that was acknowledged.
func writeUntilKilled(dsn, dir string) error {
	key, _, err := audit.LoadKey(filepath.Join(dir, "child.key"), filepath.Join(dir, "audit.pub"))
	if err != nil {
		return err
	}
	s, err := store.Open(context.Background(), dsn, store.Options{Instance: "child", AuditKey: key, AuditHead: filepath.Join(dir, "child.head")})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for range 8 {
		go func() {
			for {
				tx := newTransaction()
				epoch, err := s.Begin(context.Background(), &gateway.Beginning{Transaction: tx, Lease: time.Hour,
					Claims: []gateway.Claim{{Key: "all", Limit: 1 << 40}}})
				if err != nil {
					failed <- err
					return
				}
				os.Stdout.WriteString("issuing " + tx.ID + "\n") // one write(2): lines stay whole
				if err := s.Settle(context.Background(), newSettlement(tx, epoch)); err != nil {
					failed <- err
					return
				}
				os.Stdout.WriteString("issued " + tx.ID + "\n")
			}
		}()
	}
	return <-failed
}

func newTransaction() *gateway.Transaction {
	now := time.Now()
	id := gateway.NewID(now)
	return &gateway.Transaction{
		ID: id, Protocol: gateway.EST, Endpoint: "ran", Operation: gateway.Enroll, State: gateway.StateIssuing, Source: "192.0.2.1",
		Credentials: []string{"password:factory"}, Requester: "password:factory", Device: "device-" + id, Subject: "CN=device-" + id,
		Verdicts: []gateway.Judged{{Stage: "password", Decision: gateway.Allow}, {Stage: "key-policy", Decision: gateway.Allow}},
		Repeat:   gateway.RepeatKey("repeat of " + id), Backend: "local", Profile: "device", Received: now,
		Intent: &backend.IssueRequest{ID: id, Template: backend.Template{Subject: make([]byte, 60), PublicKey: make([]byte, 91),
			NotBefore: now, NotAfter: now.Add(time.Hour)}, CSR: make([]byte, 400)},
	}
}

func newSettlement(tx *gateway.Transaction, epoch int64) *gateway.Settlement {
	now := time.Now()
	return &gateway.Settlement{
		Transaction: tx.ID, Epoch: epoch, State: gateway.StateIssued, Now: now, RepeatUntil: now.Add(10 * time.Minute),
		Certificate: &gateway.Certificate{
			Issuer: make([]byte, 60), Serial: []byte(tx.ID)[10:], Transaction: tx.ID, Backend: tx.Backend, Endpoint: tx.Endpoint,
			Profile: tx.Profile, Device: tx.Device, Requester: tx.Requester, Subject: tx.Subject, SubjectRaw: []byte(tx.Subject),
			KeyHash: make([]byte, 32), NotBefore: now, NotAfter: now.Add(time.Hour), DER: make([]byte, 700),
			Chain: [][]byte{make([]byte, 600), make([]byte, 600)},
		},
		Audit: gateway.AuditEvent{Kind: "issued", At: now, Transaction: tx.ID, Protocol: tx.Protocol, Endpoint: tx.Endpoint,
			Operation: tx.Operation, Requester: tx.Requester, Device: tx.Device, Subject: tx.Subject, Source: tx.Source,
			Issuer: "CN=Issuing CA", Serial: tx.ID, Fingerprint: tx.ID},
	}
}

// TestKill kills a process that writes, several times, and looks for what it acknowledged.
func TestKill(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		acknowledged := map[string]gateway.State{}
		if d.dir == "" {
			d.dir = t.TempDir()
		}
		for range 3 {
			killAfter(t, d.dsn, d.dir, 400, acknowledged)
			s := d.Open(t, "child", nil) // the same instance: its stream goes on
			for id, want := range acknowledged {
				tx, err := s.Transaction(t.Context(), id)
				if err != nil {
					t.Fatalf("%s was acknowledged as %s: %v", id, want, err)
				}
				// Of what was committed last, the acknowledgement may not have been read.
				if tx.State != want && tx.State != gateway.StateIssued {
					t.Errorf("%s is %s, was acknowledged as %s", id, tx.State, want)
				}
				if (tx.State == gateway.StateIssued) != (tx.Certificate != nil) {
					t.Errorf("%s is %s, with certificate: %v", id, tx.State, tx.Certificate != nil)
				}
			}
			if err := s.VerifyAudit(t.Context()); err != nil {
				t.Error(err)
			}
			issuing, err := s.Transactions(t.Context(), gateway.TransactionFilter{States: []gateway.State{gateway.StateIssuing}, Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			due, err := s.ClaimDue(t.Context(), time.Hour, 1000, storetest.AnyPlace)
			if err != nil {
				t.Fatal(err)
			}
			if want := len(issuing); !d.shared && len(due) != want {
				t.Errorf("%d rows of work are due for %d transactions that the kill left", len(due), want)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		t.Logf("%d transactions acknowledged", len(acknowledged))
	})
}

// killAfter starts a writing process, kills it after so many lines, and collects them all.
func killAfter(t *testing.T, dsn, dir string, lines int, acknowledged map[string]gateway.State) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDSN+"="+dsn, childAudit+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	n := 0
	for ; ; n++ {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		state, id, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		acknowledged[id] = gateway.State(state)
		if n == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed
	if n < lines {
		t.Fatalf("the writing process ended by itself after %d lines", n)
	}
}
