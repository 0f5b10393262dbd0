package store

import (
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// FillAudit appends n events, many to a commit.
func FillAudit(t testing.TB, s *Store, n int) {
	t.Helper()
	body, err := eventBody(&gateway.AuditEvent{Kind: "issued", Transaction: strings.Repeat("x", 26), Endpoint: "ran", Requester: strings.Repeat("x", 64),
		Subject: "CN=device-0000001,O=Operator", Fingerprint: strings.Repeat("0", 64), Serial: strings.Repeat("0", 40)}, required)
	if err != nil {
		t.Fatal(err)
	}
	for n > 0 {
		err := s.write(t.Context(), func(u unit) error {
			for range min(n, 10_000) {
				if err := u.audit(body); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		n -= 10_000
	}
}
