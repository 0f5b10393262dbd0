package local

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// Here the test is the other replica, which is in the midst of a transaction: what has to wait for it does, and goes by what came of it.

// hold begins a transaction of another replica and returns what ends it.
func (c *CA) hold(t *testing.T, statements ...string) (commit func()) {
	t.Helper()
	tx, err := c.open.Load().ledger.write.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	for _, statement := range statements {
		if _, err := tx.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

// waits returns when call waits for a lock of a transaction that is held. It fails the test when the call comes to its end before.
func (s *sharing) waits(t *testing.T, call func() error) (answer chan error) {
	t.Helper()
	answer = make(chan error, 1)
	go func() { answer <- call() }()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) { // the server is a process of its own
		select {
		case err := <-answer:
			t.Fatalf("it did not wait for the other replica: %v", err)
		default:
		}
		if s.cluster.Count(t, s.db, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) > 0 {
			return answer
		}
	}
	t.Fatal("it neither waits nor answers")
	return nil
}

// A certificate is not recorded while a rollover is being told to the ledger, nor after it.
func testSharedFence(t *testing.T, s *sharing) {
	a, b, config := s.replicas(t)
	issue(t, a, request(t, "before"))
	commit := a.hold(t, `UPDATE generations SET ends = 0 WHERE issuer = 'ec' AND number = 1`)
	answer := s.waits(t, func() error { _, err := b.Issue(t.Context(), request(t, "meanwhile")); return err })
	commit()
	want(t, <-answer, codes.Unavailable)
	if n := len(s.entries(t, config)); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// A rollover knows of what is being recorded when it begins.
func testSharedFenceRollover(t *testing.T, s *sharing) {
	a, b, _ := s.replicas(t)
	last := now.Add(50 * 365 * 24 * time.Hour)
	commit := a.hold(t, `SELECT 1 FROM generations WHERE issuer = 'ec' AND number = 1 AND ends IS NULL FOR SHARE`,
		fmt.Sprintf(`INSERT INTO certificates (id, issuer, generation, serial, certificate, not_after) VALUES ('x', 'ec', 1, '\x77', '\x00', %d)`, last.Unix()))
	answer := s.waits(t, func() error {
		_, err := b.Rollover(t.Context(), &backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey})
		return err
	})
	commit()
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	known, err := b.open.Load().ledger.generations(t.Context())
	if ends := known[generationID{IssuerEC, 1}].Int64; err != nil || ends != last.Unix() {
		t.Errorf("generation 1 ends %d, %v", ends, err)
	}
}

// Of two revocations at once the first one stands, and they are one.
func testSharedFirstRevocation(t *testing.T, s *sharing) {
	a, b, _ := s.replicas(t)
	leaf := issue(t, a, request(t, "x"))
	commit := a.hold(t, `UPDATE certificates SET reason = 1, revoked_at = 1000 WHERE id = 'x'`, `UPDATE keys SET revocations = revocations + 1 WHERE issuer = 'ec'`)
	answer := s.waits(t, func() error {
		return b.Revoke(t.Context(), &backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: leaf.SerialNumber.Bytes(), Reason: 4, At: now.Add(-time.Hour)})
	})
	commit()
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	l := b.open.Load().ledger
	var reason, revoked int64
	if err := l.read.QueryRow(`SELECT reason, revoked_at FROM certificates WHERE id = 'x'`).Scan(&reason, &revoked); err != nil {
		t.Fatal(err)
	}
	if state, err := l.crlState(t.Context(), "ec.1"); err != nil || state.revocations != 1 || reason != 1 || revoked != 1000 {
		t.Errorf("reason %d at %d, %d revocations, %v", reason, revoked, state.revocations, err)
	}
	if x, y := crl(t, a, ""), crl(t, b, ""); !bytes.Equal(x.Raw, y.Raw) || len(x.RevokedCertificateEntries) != 1 {
		t.Error("two CRLs, or not one revocation")
	}
}
