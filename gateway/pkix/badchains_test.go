package pkix_test

import (
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/gateway/pkix/pkixtest"
)

// The table that the protocols present to real endpoints gives here what it says, and costs little.
func TestBadChains(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	kinds := []error{
		pkix.ErrMalformed, pkix.ErrWeak, pkix.ErrAlgorithm, pkix.ErrUntrusted, pkix.ErrExpired, pkix.ErrRevoked,
		pkix.ErrRevocationUnknown, pkix.ErrUsage,
	}
	var seen []string
	known := &pkix.KnownPaths{} // of all cases
	for _, c := range pkixtest.BadChains(t, now) {
		if slices.Contains(seen, c.Name) {
			t.Errorf("%s stands twice", c.Name)
		}
		seen = append(seen, c.Name)
		t.Run(c.Name, func(t *testing.T) {
			if c.Unreadable {
				if _, err := x509.ParseCertificate(c.Chain[0].Raw); err == nil || c.WantErr != pkix.ErrMalformed {
					t.Errorf("it is read: %v, want %v", err, c.WantErr)
				}
				return
			}
			p := c.Policy()
			if path, err := p.Verify(c.Chain, now); !errors.Is(err, c.WantErr) || (err == nil) != (len(path) > 0) {
				t.Errorf("path of %d, %v; want %v", len(path), err, c.WantErr)
			}
			if c.WantErr != nil && !slices.Contains(kinds, c.WantErr) {
				t.Errorf("%v is no kind of error", c.WantErr)
			}
			p.Known = known
			for range 2 {
				if path, err := p.Verify(c.Chain, now); !errors.Is(err, c.WantErr) || (err == nil) != (len(path) > 0) {
					t.Errorf("where paths are known: path of %d, %v; want %v", len(path), err, c.WantErr)
				}
			}
			p.AllowSHA1 = true
			if _, err := p.Verify(c.Chain, now); !errors.Is(err, c.Legacy) {
				t.Errorf("with SHA-1 allowed: %v, want %v", err, c.Legacy)
			}
			// Endpoints are sent messages signed with the key.
			algorithm, signature, err := pkix.Sign(c.Key, []byte("message"))
			switch {
			case c.Name == "P-224":
				if !errors.Is(err, pkix.ErrAlgorithm) {
					t.Errorf("signed with a key that nothing fits: %v", err)
				}
			case err != nil:
				t.Error(err)
			default:
				if err := pkix.VerifySignature(c.Chain[0].PublicKey, algorithm, []byte("message"), signature); err != nil {
					t.Errorf("the key is not the leaf's: %v", err)
				}
			}
		})
	}
	if len(seen) == 0 || seen[0] != "sound" {
		t.Errorf("cases %q", seen)
	}
}
