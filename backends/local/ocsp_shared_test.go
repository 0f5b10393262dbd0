package local

import (
	"crypto"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/muster-pki/muster/plugins/backend"
)

// testSharedOCSP: what one replica revokes, the others say within two seconds, and what one has issued, they answer for at once. After
// a rollover that a replica has not the folder of, it answers for nothing of the new key.
func testSharedOCSP(t *testing.T, s *sharing) {
	clock := now
	a, b, _ := s.replicas(t, Options{}, Options{Clock: func() time.Time { return clock }})
	ca := a.open.Load().issuer(IssuerEC).cert
	one, other := issue(t, a, request(t, "one")), issue(t, a, request(t, "other"))
	for _, leaf := range []string{"one", "other"} {
		if got := ask(t, b, "", issue(t, a, request(t, leaf)), ca, crypto.SHA1); got.Status != ocsp.Good {
			t.Errorf("%s: %+v", leaf, got)
		}
	}
	signed := b.open.Load().ocsp.signed.Load()
	revoke(t, a, one, 1, now)
	clock = now.Add(ocspFollow)
	if got := ask(t, b, "", one, ca, crypto.SHA1); got.Status != ocsp.Revoked || got.RevocationReason != 1 {
		t.Errorf("revoked by the other replica: %+v", got)
	}
	if got := ask(t, b, "", other, ca, crypto.SHA1); got.Status != ocsp.Good || b.open.Load().ocsp.signed.Load() != signed+1 {
		t.Errorf("the other certificate: %+v, %d signatures", got, b.open.Load().ocsp.signed.Load()-signed)
	}
	if err := b.signAll(t.Context(), func(time.Duration) {}); err != nil || b.open.Load().ocsp.signed.Load() != signed+1 {
		t.Errorf("in advance: %d signatures, %v", b.open.Load().ocsp.signed.Load()-signed, err)
	}
	roll(t, a, backend.RolloverRequest{ID: "rekey", Kind: backend.RolloverRekey})
	fresh := issue(t, a, request(t, "fresh"))
	refuses(t, b, "a key that is not here", "", question(t, fresh, a.open.Load().issuer(IssuerEC).cert, crypto.SHA1), ocsp.Unauthorized)
	if got := ask(t, b, "", other, ca, crypto.SHA1); got.Status != ocsp.Good {
		t.Errorf("%+v", got)
	}
}
