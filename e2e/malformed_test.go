package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"

	encasn1 "encoding/asn1"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidRSA         = encasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC          = encasn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidP256        = encasn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidP224        = encasn1.ObjectIdentifier{1, 3, 132, 0, 33}
	oidECDSASHA256 = encasn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidMD5RSA      = encasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}
	oidChallenge   = encasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}
	oidExtensions  = encasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
)

// parts are those of a CertificationRequest (RFC 2986 section 4), each replaceable by something wrong.
type parts struct {
	version   int64
	name      string
	spki      []byte
	attrs     func(*cryptobyte.Builder)
	algorithm encasn1.ObjectIdentifier
	key       *ecdsa.PrivateKey
	signature []byte // instead of a true one
	trailing  []byte
}

func (p parts) der() []byte {
	var info cryptobyte.Builder
	info.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(p.version)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(encasn1.ObjectIdentifier{2, 5, 4, 3})
					b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(p.name)) })
				})
			})
		})
		b.AddBytes(p.spki)
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			if p.attrs != nil {
				p.attrs(b)
			}
		})
	})
	tbs := info.BytesOrPanic()
	signature := p.signature
	if signature == nil {
		digest := sha256.Sum256(tbs)
		var err error
		if signature, err = ecdsa.SignASN1(rand.Reader, p.key, digest[:]); err != nil {
			panic(err)
		}
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(p.algorithm) })
		b.AddASN1BitString(signature)
	})
	return append(b.BytesOrPanic(), p.trailing...)
}

func rsaSPKI(n *big.Int, e int64) []byte {
	var key, b cryptobyte.Builder
	key.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(n)
		b.AddASN1Int64(e)
	})
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidRSA)
			b.AddASN1NULL()
		})
		b.AddASN1BitString(key.BytesOrPanic())
	})
	return b.BytesOrPanic()
}

func ecSPKI(curve encasn1.ObjectIdentifier, point []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidEC)
			b.AddASN1ObjectIdentifier(curve)
		})
		b.AddASN1BitString(point)
	})
	return b.BytesOrPanic()
}

func attribute(oid encasn1.ObjectIdentifier, value func(*cryptobyte.Builder)) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddASN1(cbasn1.SET, value)
		})
	}
}

// cpu is the time in nanoseconds that all threads of the process have run (Linux: /proc/PID/task/*/schedstat).
func cpu(t testing.TB, pid int) (ns int64) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no schedstat: %v", err)
	}
	for _, f := range files {
		var run, wait, slices int64
		b, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that has just ended
		}
		if _, err := fmt.Sscan(string(b), &run, &wait, &slices); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		ns += run
	}
	return ns
}

// TestMalformed sends what no honest client sends: a clear answer, no certificate, nothing in the books. The CPU column
// is for reading, nothing depends on it.
func TestMalformed(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	before := len(listing[map[string]any](g, "certificates"))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	good := parts{name: "malformed", spki: spki, algorithm: oidECDSASHA256, key: key}
	with := func(change func(*parts)) []byte {
		p := good
		change(&p)
		return []byte(toBase64(p.der()))
	}
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Logf("no RSA-1024 key from this Go: %v", err)
		rsa1024 = &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}}
	}
	wide := func(bits int) *big.Int { return new(big.Int).SetBit(big.NewInt(1), bits-1, 1) }
	offCurve := append([]byte{4}, bytes.Repeat([]byte{7}, 64)...)
	subtleReq := attribute(oidChallenge, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.PrintableString, func(b *cryptobyte.Builder) { b.AddBytes([]byte("bm90IHRoZSB0bHMgYmluZGluZw==")) })
	})
	extReq := attribute(oidExtensions, func(b *cryptobyte.Builder) { b.AddASN1(cbasn1.SEQUENCE, func(*cryptobyte.Builder) {}) })
	nested := bytes.Repeat([]byte{0x30, 0x80}, 80_000)
	goodDER := good.der()

	const pkcs10 = "application/pkcs10"
	for _, c := range []struct {
		name   string
		op     string
		typ    string
		body   []byte
		status int
		says   string // in the answer
	}{
		{"empty body", "simpleenroll", pkcs10, nil, 400, ""},
		{"raw DER", "simpleenroll", pkcs10, goodDER, 400, "base64"},
		{"PEM", "simpleenroll", pkcs10, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: goodDER}), 400, "PEM"},
		{"not base64", "simpleenroll", pkcs10, []byte("!!!! ????"), 400, "base64"},
		{"base64 cut short", "simpleenroll", pkcs10, []byte(toBase64(goodDER)[:101]), 400, ""},
		{"base64 of text", "simpleenroll", pkcs10, []byte(toBase64([]byte("hello, world"))), 400, ""},
		{"DER cut short", "simpleenroll", pkcs10, []byte(toBase64(goodDER[:60])), 400, ""},
		{"bytes behind the request", "simpleenroll", pkcs10, with(func(p *parts) { p.trailing = []byte{0} }), 400, ""},
		{"80,000 nested indefinite lengths", "simpleenroll", pkcs10, []byte(toBase64(nested)), 400, ""},
		{"300 KB", "simpleenroll", pkcs10, bytes.Repeat([]byte("A"), 300<<10), 413, ""},
		{"another type", "simpleenroll", "application/json", []byte("{}"), 415, "application/pkcs10"},
		{"no type", "simpleenroll", "", []byte(toBase64(goodDER)), 415, "application/pkcs10"},
		{"wrong signature", "simpleenroll", pkcs10, with(func(p *parts) { p.signature = bytes.Repeat([]byte{1}, 70) }), 400, ""},
		{"version 5", "simpleenroll", pkcs10, with(func(p *parts) { p.version = 5 }), 400, ""},
		{"RSA-1024", "simpleenroll", pkcs10, with(func(p *parts) { p.spki = rsaSPKI(rsa1024.N, 65537) }), 400, ""},
		{"RSA of 131,072 bits", "simpleenroll", pkcs10, with(func(p *parts) { p.spki = rsaSPKI(wide(131072), 65537) }), 400, ""},
		{"RSA exponent 1", "simpleenroll", pkcs10, with(func(p *parts) { p.spki = rsaSPKI(wide(2048), 1) }), 400, ""},
		{"RSA modulus even", "simpleenroll", pkcs10, with(func(p *parts) { p.spki = rsaSPKI(new(big.Int).Sub(wide(2048), big.NewInt(1)), 65538) }), 400, ""},
		{"point off the curve", "simpleenroll", pkcs10, with(func(p *parts) { p.spki = ecSPKI(oidP256, offCurve) }), 400, ""},
		{"P-224", "simpleenroll", pkcs10, with(func(p *parts) { p.spki = ecSPKI(oidP224, offCurve[:57]) }), 400, ""},
		{"MD5 signature", "simpleenroll", pkcs10, with(func(p *parts) { p.algorithm = oidMD5RSA }), 400, ""},
		{"extensionRequest twice", "simpleenroll", pkcs10, with(func(p *parts) { p.attrs = func(b *cryptobyte.Builder) { extReq(b); extReq(b) } }), 400, ""},
		{"channel binding of another connection", "simpleenroll", pkcs10, with(func(p *parts) { p.attrs = subtleReq }), 400, ""},
		{"empty common name", "simpleenroll", pkcs10, with(func(p *parts) { p.name = "" }), 400, ""},
		{"no such operation", "simpleenrol", pkcs10, []byte(toBase64(goodDER)), 404, ""},
		{"no such label", "nowhere/simpleenroll", pkcs10, []byte(toBase64(goodDER)), 404, ""},
		{"full CMC", "fullcmc", "application/pkcs7-mime", []byte(toBase64(goodDER)), 501, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := g.client(nil)
			send := func() *answer {
				a, err := g.post(t.Context(), client, c.op, g.env["MUSTER_EST_USER"], g.env["MUSTER_EST_PASSWORD"], c.typ, c.body)
				if err != nil {
					t.Fatal(err)
				}
				return a
			}
			a := send()
			if a.status != c.status || !strings.Contains(a.body, c.says) {
				t.Errorf("answered %d %q, want %d with %q", a.status, a.body, c.status, c.says)
			}
			if a.header.Get("Content-Length") == "" {
				t.Error("no Content-Length")
			}
			const again = 20
			start := cpu(t, g.cmd.Process.Pid)
			for range again {
				send()
			}
			row(t, c.name, a, (cpu(t, g.cmd.Process.Pid)-start)/again/1000)
		})
	}
	if after := len(listing[map[string]any](g, "certificates")); after != before {
		t.Errorf("%d certificates came of it", after-before)
	}
	if a, err := g.enroll(t.Context(), g.client(nil), newDevice(t, "after-all")); err != nil || a.status != http.StatusOK {
		t.Errorf("an honest client afterwards: %v %v", a, err)
	}
}

func row(t *testing.T, name string, a *answer, us int64) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 40, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\t%d\t%d µs CPU\t%s", name, a.status, us, strings.TrimSpace(a.body))
	w.Flush()
	t.Log(b.String())
}
