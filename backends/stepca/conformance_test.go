package stepca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

func newCA() backend.Backend { return New(Options{}) }

func TestMain(m *testing.M) {
	backendtest.Main(m, map[string]func() backend.Backend{"stepca": newCA})
}

// With an RSA issuing key a request that comes again leads to the same certificate, byte for byte.
func TestConformanceRSA(t *testing.T) {
	backendtest.Run(t, backendtest.Subject{
		New: newCA, Plugin: "stepca", BadConfig: []byte("url: https://ca.example\nprovisioner: x\n"),
		Config: func(t *testing.T) []byte { return newFake(t, rsaKey(2)).config() },
	})
}

// With an ECDSA key it cannot, and says `none`.
func TestConformanceECDSA(t *testing.T) {
	backendtest.Run(t, backendtest.Subject{
		New: newCA, Plugin: "stepca",
		Config: func(t *testing.T) []byte {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			return newFake(t, key).config()
		},
	})
}
