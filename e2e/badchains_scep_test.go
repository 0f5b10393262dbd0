package e2e

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/pkix/pkixtest"
)

// Every chain that no endpoint may accept, as the signer of a PKCSReq for a key of its own. The leaves have RSA keys, or SCEP
// would refuse them all for that. Each endpoint trusts the root of its case and nothing else.
func TestBadChainsSCEP(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	startIn(t, dir).stop()
	keys, err := scepKeys()
	if err != nil {
		t.Fatal(err)
	}
	cases := slices.DeleteFunc(pkixtest.BadChainsOf(t, time.Now(), keys[0].key), func(c pkixtest.Case) bool {
		_, edwards := c.Key.Public().(ed25519.PublicKey)
		return edwards // which signs no CMS of SCEP's digests
	})
	config, err := os.OpenFile(filepath.Join(dir, "muster.yaml"), os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(config.Name()); err != nil || bytes.LastIndex(text, []byte("\nendpoints:")) < bytes.LastIndex(text, []byte("\nprofiles:")) {
		t.Fatalf("the quickstart's configuration does not end with its endpoints: %v", err)
	}
	endpoint := func(i int) string { return fmt.Sprintf("chain-scep-%03d", i) }
	for i, c := range cases {
		fmt.Fprintf(config, "\n  %s:\n    protocol: scep\n    listeners: [http]\n    profile: mobile\n    enroll:\n      - vendor-ca: {%s, purposes: [clientAuth]}\n      - names: {}\n",
			endpoint(i), chainFiles(t, filepath.Join(dir, "chains", fmt.Sprint(i)), c))
	}
	if err := config.Close(); err != nil {
		t.Fatal(err)
	}
	g := startIn(t, dir)
	d := g.scepDevice()
	logged := map[string]*regexp.Regexp{}
	for i, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			name := endpoint(i) + "-device"
			d.t, d.path = t, "/scep/"+endpoint(i)
			a := d.ask(scepWish{name: name, signer: c.Chain[0], signerKey: c.Key, chain: c.Chain[1:]})
			entries := g.ledger(name)
			if c.WantErr == nil {
				if a.cert == nil || !d.key.PublicKey.Equal(a.cert.PublicKey) || len(entries) != 1 {
					t.Fatalf("a sound chain got %v, %d in the ledger", a, len(entries))
				}
				return
			}
			t.Log(a)
			if a.cert != nil || len(entries) != 0 {
				t.Errorf("a chain that is %v: %v, %d in the ledger", c.WantErr, a, len(entries))
			}
			// FAILURE is final: what is beyond the bounds of a message, and what cannot be judged now, is HTTP's.
			byHTTP := map[string]int{
				"17 certificates": http.StatusBadRequest, "an extension twice": http.StatusBadRequest,
				"revocation unknown": http.StatusServiceUnavailable, "list of before": http.StatusServiceUnavailable,
			}
			if status := byHTTP[c.Name]; status != 0 {
				if a.http != status {
					t.Errorf("refused by %v", a)
				}
				return
			}
			if a.status != "2" {
				t.Fatalf("refused by %v", a)
			}
			// It was the chain, not something else that an RSA-only endpoint minds, and the operator can read what.
			if !beforeTheStage(c) && !c.Unreadable && c.Name != "self-signed" {
				reference := chainTold(t, c, "2 "+a.text)
				logged[reference] = chainFound("vendor-ca", c)
				if story := g.muster("explain", reference); !logged[reference].MatchString(story) {
					t.Errorf("explain does not say %v:\n%s", logged[reference], story)
				}
				return
			}
			_, reference, _ := strings.Cut(a.text, "(reference ")
			if story := g.muster("explain", strings.TrimSuffix(reference, ")")); strings.Contains(story, "vendor-ca") {
				t.Errorf("explain:\n%s", story)
			}
		})
	}
	chainLogged(g, logged)
}

// beforeTheStage reports whether what verifies a message's signature refuses the signer's key before any stage looks at its chain.
func beforeTheStage(c pkixtest.Case) bool {
	return c.Name == "ROCA" || c.Name == "close primes" || c.Name == "RSA-1024" || c.Name == "P-224"
}
