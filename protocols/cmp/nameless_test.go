package cmp

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// A request without any name is refused unless a profile gives one (RFC 9810 section 5.2.3, badCertTemplate).
func TestNameless(t *testing.T) {
	key := newP256()
	bare := crmf{kind: cmpmsg.TypeIR, key: key, rawSubject: nullDN[:]}
	empty, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	named := bare
	named.dns = []string{"a.example"}
	for name, tt := range map[string]struct {
		nameless map[string]bool
		profile  string
		body     cmpmsg.Body
		refused  bool
	}{
		"the profile gives one":      {nil, "", bare.body(t), false},
		"none does":                  {map[string]bool{"": true}, "", bare.body(t), true},
		"none does, absent":          {map[string]bool{"": true}, "", crmf{kind: cmpmsg.TypeCR, key: key}.body(t), true},
		"none does, PKCS#10":         {map[string]bool{"": true}, "", &cmpmsg.PKCS10{CSR: empty}, true},
		"a subjectAltName is a name": {map[string]bool{"": true}, "", named.body(t), false},
		"the one asked for does":     {map[string]bool{"": true}, "base", bare.body(t), false},
		"the one asked for does not": {map[string]bool{"base": true}, "base", bare.body(t), true},
	} {
		w := newWorld(t, worldOptions{})
		w.gateway.nameless = tt.nameless
		c := w.macClient("ref-1")
		if tt.profile != "" {
			c.info = profiles(tt.profile)
		}
		m := c.ask(tt.body)
		fail, text, rejection := failure(m)
		if tt.refused && (fail != cmpmsg.BadCertTemplate || !rejection || !strings.Contains(text, "ask for a name")) || !tt.refused && fail != 0 {
			t.Errorf("%s: %b %s %t", name, fail, text, rejection)
		}
	}
}

// A repetition is answered as before, whatever the profile says by now.
func TestNamelessRepeat(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	der := c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), rawSubject: nullDN[:]}.body(t))
	first := w.post(der)
	w.gateway.nameless = map[string]bool{"": true}
	if !bytes.Equal(w.post(der), first) {
		t.Error("another answer")
	}
}

// What templates put in the place of what was asked for is told part by part.
func TestChanges(t *testing.T) {
	ext := func(id []int, value ...byte) stdpkix.Extension { return stdpkix.Extension{Id: id, Value: value} }
	asked := []stdpkix.Extension{ext(oidSubjectAltName, 1), ext(oidKeyUsage, 2), ext(oidExtKeyUsage, 3), ext([]int{1, 2, 3}, 4), ext([]int{1, 2, 4}, 5)}
	w := wishOf(cn("asked"), nil, time.Time{}, time.Time{}, asked)
	for name, tt := range map[string]struct {
		cert *x509.Certificate
		want []string
	}{
		"as asked":   {&x509.Certificate{RawSubject: cn("asked"), Extensions: asked}, nil},
		"all":        {&x509.Certificate{RawSubject: cn("given")}, []string{"subject", "subjectAltName", "keyUsage", "extKeyUsage", "extensions"}},
		"key usage":  {&x509.Certificate{RawSubject: cn("asked"), Extensions: append([]stdpkix.Extension{ext(oidKeyUsage, 9), asked[0]}, asked[2:]...)}, []string{"keyUsage"}},
		"extensions": {&x509.Certificate{RawSubject: cn("asked"), Extensions: asked[:3]}, []string{"extensions"}},
	} {
		if got := w.changes(tt.cert); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
