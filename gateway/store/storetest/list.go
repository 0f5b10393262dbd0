package storetest

import (
	"slices"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func testTransactions(e *env) {
	// In the order in which they began: held, refused, issuing, issued, failed, and again.
	var all []*gateway.Transaction
	for i := range 10 {
		state := []gateway.State{gateway.StateHeld, gateway.StateRefused, gateway.StateIssuing, gateway.StateIssued, gateway.StateFailed}[i%5]
		start := gateway.StateIssuing
		if state == gateway.StateHeld || state == gateway.StateRefused {
			start = state
		}
		tx := e.transaction(start)
		tx.Endpoint = []string{"ran", "core"}[i/5]
		tx.Device = []string{"a", "b", "c"}[i%3]
		if state == gateway.StateRefused {
			e.must(e.s.Refuse(e.ctx(), tx, event("refused", tx)))
		} else {
			epoch, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: tx, Lease: lease})
			e.must(err)
			switch state {
			case gateway.StateIssued:
				e.must(e.s.Settle(e.ctx(), e.issued(tx, epoch)))
			case gateway.StateFailed:
				e.must(e.s.Settle(e.ctx(), e.failed(tx, epoch)))
			}
		}
		all = append(all, e.get(tx.ID))
	}
	for _, c := range []struct {
		name   string
		filter gateway.TransactionFilter
		want   []int
	}{
		{"all", gateway.TransactionFilter{}, []int{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}},
		{"states", gateway.TransactionFilter{States: []gateway.State{gateway.StateIssued, gateway.StateHeld}}, []int{8, 5, 3, 0}},
		{"no such state", gateway.TransactionFilter{States: []gateway.State{"nonsense"}}, nil},
		{"endpoint", gateway.TransactionFilter{Endpoint: "core"}, []int{9, 8, 7, 6, 5}},
		{"device", gateway.TransactionFilter{Device: "b"}, []int{7, 4, 1}},
		{"both", gateway.TransactionFilter{Device: "b", Endpoint: "ran"}, []int{4, 1}},
		{"limit", gateway.TransactionFilter{Limit: 2}, []int{9, 8}},
		{"page", gateway.TransactionFilter{Limit: 3, Before: all[8].ID}, []int{7, 6, 5}},
		{"page of a filter", gateway.TransactionFilter{Before: all[7].ID, Device: "b", States: []gateway.State{gateway.StateFailed}}, []int{4}},
		{"behind the end", gateway.TransactionFilter{Before: all[0].ID}, nil},
	} {
		e.Run(c.name, func(t *testing.T) {
			got, err := e.s.Transactions(t.Context(), c.filter)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(c.want) {
				t.Fatalf("%d transactions, want %d", len(got), len(c.want))
			}
			for i, n := range c.want {
				want := *all[n]
				want.Exchange, want.Facts = nil, nil
				if want.Certificate != nil { // without what is large
					cert := *want.Certificate
					cert.DER, cert.Chain = nil, nil
					want.Certificate = &cert
				}
				(&env{T: t}).equal("transaction", got[i], &want)
			}
		})
	}
	for range 100 {
		e.begun()
	}
	got, err := e.s.Transactions(e.ctx(), gateway.TransactionFilter{})
	e.must(err)
	if len(got) != 100 {
		e.Errorf("%d without a limit, want 100", len(got))
	}
}

func testCertificates(e *env) {
	var all []*gateway.Certificate
	for i := range 6 {
		tx := e.transaction(gateway.StateIssuing)
		tx.Device, tx.Requester = []string{"a", "b"}[i%2], []string{"x", "y", "z"}[i%3]
		s := e.issued(tx, e.mustBegin(e.s, tx))
		s.Certificate.SubjectRaw = []byte{byte(i / 3)}
		s.Certificate.NotAfter = e.clock.Now().Truncate(time.Second).Add(time.Duration(i+1) * time.Hour)
		e.must(e.s.Settle(e.ctx(), s))
		s.Certificate.State = gateway.StateIssued
		all = append(all, s.Certificate)
	}
	revoke := func(i int, at time.Time) {
		c := all[i]
		e.must(e.s.MarkRevoked(e.ctx(), &gateway.Revocation{Issuer: c.Issuer, Serial: c.Serial, At: at, Reason: 1,
			Audit: gateway.AuditEvent{Kind: "revoked", At: at}}))
		c.RevokedAt, c.Revocation = at, 1
	}
	base := all[0].NotBefore
	revoke(4, base.Add(30*time.Minute))
	revoke(5, base.Add(90*time.Minute))
	for _, c := range []struct {
		name   string
		filter gateway.CertificateFilter
		want   []int
	}{
		{"all", gateway.CertificateFilter{}, []int{5, 4, 3, 2, 1, 0}},
		{"device", gateway.CertificateFilter{Device: "b"}, []int{5, 3, 1}},
		{"requester", gateway.CertificateFilter{Requester: "x"}, []int{3, 0}},
		{"holder", gateway.CertificateFilter{Requester: "x", SubjectRaw: []byte{1}}, []int{3}},
		{"subject", gateway.CertificateFilter{SubjectRaw: []byte{0}}, []int{2, 1, 0}},
		{"valid at first", gateway.CertificateFilter{ValidAt: base}, []int{5, 4, 3, 2, 1, 0}},
		{"valid: its last second is in it", gateway.CertificateFilter{ValidAt: base.Add(time.Hour)}, []int{5, 3, 2, 1, 0}},
		{"valid: then it is over", gateway.CertificateFilter{ValidAt: base.Add(time.Hour + time.Microsecond)}, []int{5, 3, 2, 1}},
		{"valid: revoked then", gateway.CertificateFilter{ValidAt: base.Add(90 * time.Minute)}, []int{3, 2, 1}},
		{"page", gateway.CertificateFilter{Limit: 2, Before: all[4].Transaction}, []int{3, 2}},
		{"behind the end", gateway.CertificateFilter{Before: all[0].Transaction}, nil},
	} {
		e.Run(c.name, func(t *testing.T) {
			got, err := e.s.Certificates(t.Context(), c.filter)
			if err != nil {
				t.Fatal(err)
			}
			var want []*gateway.Certificate
			for _, n := range c.want {
				want = append(want, all[n])
			}
			if len(got) != len(want) {
				t.Fatalf("%d certificates, want %d", len(got), len(want))
			}
			for i := range got {
				(&env{T: t}).equal("certificate", got[i], want[i])
			}
		})
	}
	if !slices.IsSortedFunc(all, func(a, b *gateway.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }) {
		e.Fatal("the fixture is not in order")
	}
}

// testSuccessors: of the certificates that renewed one, those count whose requester was waited for, and has confirmed.
func testSuccessors(e *env) {
	old := []byte{0x4d}
	renewal := func(serial []byte) (*gateway.Transaction, int64) {
		tx := e.transaction(gateway.StateIssuing)
		tx.Replaces = serial
		return tx, e.mustBegin(e.s, tx)
	}
	succeed := func(s *gateway.Settlement, serial []byte) *gateway.Settlement {
		s.Certificate.Replaces = serial
		e.must(e.s.Settle(e.ctx(), s))
		return s
	}
	tx, epoch := renewal(old)
	succeed(e.issued(tx, epoch), old) // nobody was waited for
	other, epoch := renewal([]byte{0x4e})
	succeed(e.unconfirmed(other, epoch, time.Hour), []byte{0x4e})
	e.must(e.s.Conclude(e.ctx(), e.accepted(other)))
	rejected, epoch := renewal(old)
	succeed(e.unconfirmed(rejected, epoch, time.Hour), old)
	e.must(e.s.Conclude(e.ctx(), e.rejected(rejected)))
	confirmed, epoch := renewal(old)
	succeed(e.unconfirmed(confirmed, epoch, time.Hour), old)
	among := func(want ...string) {
		e.Helper()
		list, err := e.s.Certificates(e.ctx(), gateway.CertificateFilter{Renewed: []byte{0, 0x4d}, Confirmed: true})
		e.must(err)
		var got []string
		for _, c := range list {
			got = append(got, c.Transaction)
		}
		e.equal("successors", got, want)
	}
	among()
	e.must(e.s.Conclude(e.ctx(), e.accepted(confirmed)))
	among(confirmed.ID)
}
