package cmp

import (
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

func TestMain(m *testing.M) {
	backendtest.Main(m, map[string]func() backend.Backend{"cmp": newBackend})
}

func newBackend() backend.Backend { return New(Options{Log: backend.Logger()}) }

// The suite of the contract, in process for each way of asking, and of one through a plugin process that is killed.
func TestConformance(t *testing.T) {
	for name, config := range map[string]string{
		"cr":                        signed + "repeats: true\n",
		"ir, confirmed explicitly":  signed + "repeats: true\nrequest: ir\nconfirm: explicit\nexchange: nested\n",
		"p10cr":                     signed + "repeats: true\nrequest: p10cr\ndecides: [validity]\n",
		"a MAC and no repeats":      "mac: {reference: ref, secret: $/secret}\nrevoke: true\ncrl: true\n",
		"PBM, and caCerts are told": "mac: {reference: ref, secret: $/secret, algorithm: pbm}\nexchange: unchanged\n",
	} {
		t.Run(name, func(t *testing.T) {
			plugin := ""
			if name == "cr" {
				plugin = "cmp"
			}
			backendtest.Run(t, backendtest.Subject{
				New:       newBackend,
				Config:    func(t *testing.T) []byte { return newFake(t).config(config) },
				BadConfig: []byte("url: ftp://nowhere"),
				Plugin:    plugin,
			})
		})
	}
}
