package est

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// A body to a request: base64, bounds, PKCS#10, its signature, the content of a repeat. The signature's share is
// BenchmarkVerifyP256.
func BenchmarkDecodeParse(b *testing.B) {
	body := encodeBody(makeCSR(b, csrOptions{key: newP256(), san: []string{"device-0001.example"}}), true)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, ref := read(body); ref != nil {
			b.Fatal(ref.Err)
		}
	}
}

func BenchmarkVerifyP256(b *testing.B) {
	csr := must(pkix.ParseCSR(makeCSR(b, csrOptions{key: newP256()})))
	b.ReportAllocs()
	for b.Loop() {
		if err := csr.CheckSignature(); err != nil {
			b.Fatal(err)
		}
	}
}

// Refusing 256 KiB that are no request.
func BenchmarkRefuseGarbage(b *testing.B) {
	for name, body := range map[string][]byte{
		"zeros":  b64(make([]byte, 190<<10)),
		"nested": b64(bytes.Repeat([]byte{0x30, 0x80}, 95<<10)),
		"flat":   b64(append([]byte{0x30, 0x83, 2, 0xf0, 0}, bytes.Repeat([]byte{5, 0}, 94<<10)...)),
		"text":   bytes.Repeat([]byte("\r\n"), 128<<10),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, ref := read(body); ref == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}

type answeringGateway struct {
	fakeGateway
	result *gateway.Result
}

func (g *answeringGateway) Enroll(context.Context, *gateway.Request) (*gateway.Result, error) {
	return g.result, nil
}

// The whole handler without TLS, the gateway and the network.
func BenchmarkHandler(b *testing.B) {
	ca := newTestCA(b, newP256)
	key := newP256()
	cert := ca.issue(b, &x509.Certificate{}, key.Public())
	g := &answeringGateway{result: &gateway.Result{Kind: gateway.ResultIssued, Certificate: cert}}
	h := must(New(Options{Gateway: g, Endpoints: []Endpoint{{Name: "ran", Default: true}}, Secret: testSecret, Clock: time.Now, Log: slog.New(slog.DiscardHandler)}))
	body := b64(makeCSR(b, csrOptions{key: key}))
	serves := func(string) bool { return true }
	state := &tls.ConnectionState{Version: tls.VersionTLS12, TLSUnique: make([]byte, 12)}
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, root+"/simpleenroll", bytes.NewReader(body))
		r.Header.Set("Content-Type", typePKCS10)
		r.TLS = state
		w := httptest.NewRecorder()
		h.serve(w, r, serves)
		if w.Code != 200 {
			b.Fatal(w.Code, w.Body)
		}
	}
}
