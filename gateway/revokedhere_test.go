package gateway_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// marks keeps what the audit trail is told when a certificate is marked.
type marks struct {
	gateway.Store
	notes []string
}

func (m *marks) MarkRevoked(ctx context.Context, r *gateway.Revocation) error {
	m.notes = append(m.notes, r.Audit.Note)
	return m.Store.MarkRevoked(ctx, r)
}

// A CA that takes no revocations, as it has said before or says now, is not asked again and again: the certificate is revoked here, whoever
// ordered it is told that nobody else knows, and so is the audit trail.
func TestRevokedHereAlone(t *testing.T) {
	for name, desc := range map[string]func(*backend.Description){
		"it describes no revocation": func(d *backend.Description) {
			d.Capabilities = slices.DeleteFunc(slices.Clone(d.Capabilities), func(c backend.Capability) bool { return c == backend.CapRevoke })
		},
		"it says so now": func(*backend.Description) {},
	} {
		t.Run(name, func(t *testing.T) {
			m := &marks{}
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
				w.desc, w.wrap = desc, func(s gateway.Store) gateway.Store { m.Store = s; return m }
			})
			calls := 0
			w.twist(&twisted{revoke: func(context.Context, *backend.RevokeRequest) error {
				calls++
				return backend.Refuse(codes.Unimplemented, "no")
			}})
			cert := w.mustEnroll(w.request("device-1")).Certificate
			c, heard, err := w.gw.RevokeCertificate(t.Context(), cert.RawIssuer, cert.SerialNumber.Bytes(), 1, "alice", "stolen")
			if err != nil || heard != gateway.ToldNobody || c.RevokedAt.IsZero() {
				t.Fatalf("told %d, %v", heard, err)
			}
			was := calls
			w.work(time.Hour)
			w.work(time.Hour)
			if limit := map[bool]int{true: 1, false: 0}[name == "it says so now"]; calls != was || calls > limit {
				t.Errorf("the CA was asked %d times, then %d", was, calls)
			}
			if n, err := w.gw.Work(t.Context()); n != 0 || err != nil {
				t.Errorf("%d rows of work are left, %v", n, err)
			}
			if len(m.notes) != 1 || !strings.Contains(m.notes[0], "at this gateway alone") {
				t.Errorf("the audit trail: %q", m.notes)
			}
		})
	}
}
