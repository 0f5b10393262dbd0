package e2e

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/http"
	"strconv"
	"testing"
)

const handshakesConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 90d}
endpoints:
  vendor:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - client-certificate: {cas: [vendor.pem]}
      - names: {san: {dns: {}}}
`

// p256 measures operations on P-256 of which there are so many, in nanoseconds for all. An agreement is a new key pair and ECDH with it.
func p256(b *testing.B, signatures, verifications, agreements int) (ns float64) {
	b.Helper()
	key, digest, signature := somethingSigned(b)
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	const n = 500
	defer ownThread()()
	start := threadTime(b)
	for range n {
		for range signatures {
			if _, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
				b.Fatal(err)
			}
		}
		for range verifications {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
				b.Fatal("the signature does not verify")
			}
		}
		for range agreements {
			own, err := ecdh.P256().GenerateKey(rand.Reader)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := own.ECDH(peer.PublicKey()); err != nil {
				b.Fatal(err)
			}
		}
	}
	return float64((threadTime(b) - start).Nanoseconds()) / n
}

// BenchmarkEnrollByCertificate is EST with a vendor's certificate on TLS 1.3: on connections that stay open, with a full handshake
// for each enrollment, and with a resumed session for each. crypto-µs/op is what the gateway cannot do without: the certificate's
// signature, and those of the request, of the client's certificate and, in CA and gateway, of what was made verified; for a handshake
// an agreement, and where it is a full one a signature made and the client's verified.
func BenchmarkEnrollByCertificate(b *testing.B) {
	for _, kind := range []string{"open", "handshake", "resumed"} {
		for _, clients := range []int{1, 16} {
			b.Run(kind+"/"+strconv.Itoa(clients)+"-clients", func(b *testing.B) {
				caPEM, certify := certifier(b, "Vendor CA")
				g := configured(b, handshakesConfig, "vendor.pem", caPEM)
				devices := make([]*device, b.N)
				for i := range devices {
					devices[i] = newDevice(b, "bench-"+strconv.Itoa(i))
				}
				connections := make(chan *http.Client, clients)
				for range clients {
					c := g.client(certify("vendor-0001"))
					transport := c.Transport.(*http.Transport)
					transport.DisableKeepAlives = kind != "open"
					transport.TLSClientConfig.CurvePreferences = []tls.CurveID{tls.CurveP256}
					if kind == "resumed" {
						transport.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
					}
					connections <- c
				}
				enroll := func(d *device) error {
					c := <-connections
					defer func() { connections <- c }()
					a, err := g.post(b.Context(), c, "simpleenroll", "", "", "application/pkcs10", []byte(toBase64(d.csr)))
					if err == nil && a.status != http.StatusOK {
						err = fmt.Errorf("answered %d: %s", a.status, a.body)
					}
					return err
				}
				for i := range clients { // the channel turns them round: each has a connection, or a session, then
					if err := enroll(newDevice(b, "warm-up-"+strconv.Itoa(i))); err != nil {
						b.Fatal(err)
					}
				}
				var operations float64
				switch kind {
				case "open":
					operations = p256(b, 1, 4, 0)
				case "handshake":
					operations = p256(b, 2, 5, 1)
				case "resumed":
					operations = p256(b, 1, 4, 1)
				}
				g.measure(b, clients, func(i int) error { return enroll(devices[i]) })
				b.ReportMetric(operations/1000, "crypto-µs/op")
			})
		}
	}
}
