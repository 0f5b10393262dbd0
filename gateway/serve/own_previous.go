package serve

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
)

// maxPrevious is how many certificates before the current one are kept with their keys: a CA that is changed over now and
// then needs few, and one that is changed over in a loop fills no disk.
const maxPrevious = 8

// previousFile is where a certificate lies once another has taken its place: NAME.previous-FINGERPRINT.pem.
func (o *Own) previousFile(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return fmt.Sprintf("%s%x.pem", o.previousPrefix(), sum[:8])
}

func (o *Own) previousPrefix() string { return strings.TrimSuffix(o.path, ".pem") + ".previous-" }

// setAside keeps a copy of the file that is about to be replaced, where it holds a certificate that has not ended.
func (o *Own) setAside() error {
	data, err := os.ReadFile(o.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	was, _, err := parseOwned(data)
	if err != nil || o.clock().After(was.identity.Certificate.NotAfter) {
		return nil
	}
	return WriteFile(o.previousFile(was.identity.Certificate), data, 0o600)
}

// previous returns the certificates before the current one as a list by Identity.Previous, the last first. Those that have
// ended, and those beyond maxPrevious, are deleted: their keys are of no use any more.
func (o *Own) previous(current *x509.Certificate, want *Want) *gateway.Identity {
	entries, err := os.ReadDir(filepath.Dir(o.path))
	if err != nil {
		o.log.Warn("the certificates before the current one cannot be read", "what", o.what, "err", err)
		return nil
	}
	var found []*gateway.Identity
	for _, e := range entries {
		path := filepath.Join(filepath.Dir(o.path), e.Name())
		if !strings.HasPrefix(path, o.previousPrefix()) || !strings.HasSuffix(path, ".pem") {
			continue
		}
		data, err := os.ReadFile(path)
		if err == nil {
			var was *owned
			if was, _, err = parseOwned(data); err == nil {
				found = append(found, was.identity)
				continue
			}
		}
		o.log.Warn("a certificate before the current one cannot be read", "what", o.what, "file", path, "err", err)
	}
	slices.SortFunc(found, func(a, b *gateway.Identity) int {
		if by := b.Certificate.NotBefore.Compare(a.Certificate.NotBefore); by != 0 {
			return by
		}
		return b.Certificate.NotAfter.Compare(a.Certificate.NotAfter)
	})
	var first *gateway.Identity
	last, kept := &first, 0
	for _, id := range found {
		if kept == maxPrevious || o.clock().After(id.Certificate.NotAfter) {
			if err := os.Remove(o.previousFile(id.Certificate)); err != nil {
				o.log.Warn("a key that is not needed any more is not deleted", "what", o.what, "err", err)
			}
			continue
		}
		// A crash between the two files leaves the same in both.
		if _, isRSA := id.Certificate.PublicKey.(*rsa.PublicKey); isRSA == want.RSA && !id.Certificate.Equal(current) {
			*last = id
			last, kept = &id.Previous, kept+1
		}
	}
	return first
}
