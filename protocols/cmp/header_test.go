package cmp

import (
	"bytes"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// content is what is inside of a DER element.
func content(t testing.TB, der []byte) []byte {
	t.Helper()
	in := cryptobyte.String(der)
	var out cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&out, &tag) || !in.Empty() {
		t.Fatalf("not one element: %x", der)
	}
	return out
}

// protectedWith puts header and body together under a MAC over what the client says that they are.
func protectedWith(t testing.TB, c *client, m *cmpmsg.Message, header, body, over []byte) []byte {
	t.Helper()
	mac, err := cmpmsg.ParseMAC(m.Header.ProtectionAlg, cmpmsg.MACPolicy{})
	if err != nil {
		t.Fatal(err)
	}
	c.lastSent = element(0x30, header, body, element(0xa0, element(0x03, append([]byte{0}, mac.Sum(c.secret, over)...))))
	return c.lastSent
}

// Protection covers the bytes as they came, and so does the proof of possession (RFC 9810 section 5.1.3: "the DER encoding of
// the following data structure"; RFC 4211 section 4.1): empty lists, which no encoder here writes, are covered with the rest.
func TestProtectionCoversWhatCame(t *testing.T) {
	w := newWorld(t, worldOptions{})
	parts := func(c *client) (m *cmpmsg.Message, header, body []byte) {
		m, err := cmpmsg.Parse(c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t)))
		if err != nil {
			t.Fatal(err)
		}
		request := m.Body.(*cmpmsg.CertReqMessages).Messages[0].Raw
		header = element(0x30, content(t, m.RawHeader), element(0xa8, element(0x30)))          // generalInfo
		body = element(0xa0, element(0x30, element(0x30, content(t, request), element(0x30)))) // regInfo
		if bytes.Equal(header, m.RawHeader) || bytes.Equal(body, m.RawBody) {
			t.Fatal("nothing is added")
		}
		return m, header, body
	}
	c := w.macClient("ref-1")
	m, header, body := parts(c)
	certificate(t, c.send(protectedWith(t, c, m, header, body, element(0x30, header, body))), cmpmsg.TypeIP)
	// What an encoder would make of them is not what was sent.
	for name, over := range map[string]func(m *cmpmsg.Message, header, body []byte) []byte{
		"header": func(m *cmpmsg.Message, _, body []byte) []byte { return element(0x30, m.RawHeader, body) },
		"body":   func(m *cmpmsg.Message, header, _ []byte) []byte { return element(0x30, header, m.RawBody) },
	} {
		c := w.macClient("ref-1")
		m, header, body := parts(c)
		if fail, text, _ := failure(c.send(protectedWith(t, c, m, header, body, over(m, header, body)))); fail != cmpmsg.BadMessageCheck {
			t.Errorf("protection over another %s: %v %s", name, fail, text)
		}
	}
}

// A message is DER (RFC 9810 section 5.1.3, RFC 9811 section 3.2): BER is told from it, and not mended.
func TestBERIsRefused(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	der := c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	ber := slices.Concat([]byte{0x30, 0x80}, content(t, der), []byte{0, 0})
	if fail, text, _ := failure(c.send(ber)); fail != cmpmsg.BadDataFormat || w.gateway.issued != 0 {
		t.Errorf("%v %s", fail, text)
	}
}

// The signer is the named sender: a certificate that chains to the same anchor is not enough (RFC 9810 sections 5.1.1, 5.1.3.3).
// A NULL-DN names nobody, and goes with a senderKID that does.
func TestSignerIsTheSender(t *testing.T) {
	for name, tt := range map[string]struct {
		prep func(c *client, other *client)
		want cmpmsg.FailInfo
	}{
		"itself": {func(*client, *client) {}, 0},
		"another device of the same CA": {func(c, other *client) {
			c.sender, c.extra = other.cert.RawSubject, append(slices.Clone(other.extra), c.extra...)
		}, cmpmsg.BadMessageCheck},
		"another device, its key named": {func(c, other *client) {
			c.sender, c.extra = other.cert.RawSubject, append(slices.Clone(other.extra), c.extra...)
			c.change = func(o *cmpmsg.Outgoing) { o.Header.SenderKID = other.cert.SubjectKeyId }
		}, cmpmsg.BadMessageCheck},
		"its issuer": {func(c, _ *client) { c.sender = c.cert.RawIssuer }, cmpmsg.BadMessageCheck},
		"a name that is no directoryName": {func(c, _ *client) {
			c.change = func(o *cmpmsg.Outgoing) { o.Header.Sender = element(0x82, []byte("device-1.example")) }
		}, cmpmsg.BadMessageCheck},
		"NULL-DN and its senderKID": {func(c, _ *client) { c.sender = nullDN[:] }, cmpmsg.BadMessageCheck},
	} {
		w := newWorld(t, worldOptions{})
		device := func(cn string) *client {
			key := newP256()
			cert := w.ca.issue(t, &x509.Certificate{Subject: stdpkix.Name{CommonName: cn}, SubjectKeyId: []byte("kid of " + cn)}, key.Public())
			c := w.signer(cert, key)
			c.extra = [][]byte{cert.Raw, w.ca.issuer.Raw, w.ca.root.Raw}
			return c
		}
		c := device("device-1")
		tt.prep(c, device("device-2"))
		if fail, text, _ := failure(c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))); fail != tt.want {
			t.Errorf("%s: %v %s", name, fail, text)
		}
	}
	// Whose certificate has no subject is named by the senderKID alone.
	for name, tt := range map[string]struct {
		ski, kid []byte
		want     cmpmsg.FailInfo
	}{
		"its key identifier":      {[]byte("kid"), []byte("kid"), 0},
		"another":                 {[]byte("kid"), []byte("other"), cmpmsg.BadMessageCheck},
		"no senderKID":            {[]byte("kid"), nil, cmpmsg.BadMessageCheck},
		"a certificate with none": {nil, []byte("kid"), cmpmsg.BadMessageCheck},
		"neither has one":         {nil, nil, cmpmsg.BadMessageCheck},
	} {
		w := newWorld(t, worldOptions{})
		key := newP256()
		c := w.signer(w.ca.issue(t, &x509.Certificate{DNSNames: []string{"device-1.example"}, SubjectKeyId: tt.ski}, key.Public()), key)
		c.change = func(o *cmpmsg.Outgoing) { o.Header.SenderKID = tt.kid }
		if fail, text, _ := failure(c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))); fail != tt.want {
			t.Errorf("no subject, %s: %v %s", name, fail, text)
		}
	}
}

// The answer's senderKID is its own signer's or the secret's, whatever the request said, recipKID is not sent, and no two
// answers have the same senderNonce, refusals among them (RFC 9810 section 5.1.1).
func TestAnswerHeader(t *testing.T) {
	w := newWorld(t, worldOptions{})
	seen := map[string]bool{}
	q := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}
	for range 2 {
		for _, c := range []*client{w.macClient("ref-1"), w.vendorClient("device-1")} {
			for _, body := range []cmpmsg.Body{q.body(t), genm(cmpmsg.OIDCACerts), &cmpmsg.PKIConf{}} {
				c.txid, c.peer = random(16), nil
				c.change = func(o *cmpmsg.Outgoing) { o.Header.RecipKID = []byte("whom the client means") }
				m := c.ask(body) // which looks at senderKID
				if m.Header.RecipKID != nil {
					t.Errorf("recipKID %q", m.Header.RecipKID)
				}
				if n := string(m.Header.SenderNonce); seen[n] || len(n) < 16 {
					t.Errorf("senderNonce %x", n)
				} else {
					seen[n] = true
				}
			}
		}
	}
}

// A refusal is judged anew when the same message comes again (RFC 9810 section 5.1.1: only what is in progress is in use).
func TestRefusalsAreNotRepeated(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	der := c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) {
		return &gateway.Error{Reason: gateway.NotAuthorized}, ""
	}
	if fail, _, _ := failure(c.send(der)); fail != cmpmsg.NotAuthorized {
		t.Fatal(fail)
	}
	w.gateway.decide = nil
	certificate(t, c.send(der), cmpmsg.TypeIP)
}
