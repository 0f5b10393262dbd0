package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	x509pkix "crypto/x509/pkix"
)

// cmpCrypto measures what an enrollment over CMP cannot do without, in nanoseconds: what one over EST cannot
// (cryptoPerEnrollment; the proof of possession is the request's signature), and the MACs of four messages, two to verify
// and two to make, of 500 iterations each.
func cmpCrypto(b *testing.B) (ns float64) {
	b.Helper()
	signatures := cryptoPerEnrollment(b)
	mac, part, secret := pbm(b), random(600), random(24)
	const n = 300
	defer ownThread()()
	start := threadTime(b)
	for range n {
		for range 4 {
			mac.Sum(secret, part)
		}
	}
	return signatures + float64((threadTime(b)-start).Nanoseconds())/n
}

// BenchmarkEnrollCMP is the whole way of ir, ip, certConf and pkiConf, protected by MAC, over plain HTTP. cpu-µs/op is what
// gateway and plugin used together; crypto-µs/op is the sum of its crypto operations, measured beside it.
func BenchmarkEnrollCMP(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(strconv.Itoa(clients)+"-clients", func(b *testing.B) {
			g := startIn(b, filepath.Join(b.TempDir(), "data"))
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}
			devices := make([]*cmpDevice, b.N+1)
			for i := range devices {
				devices[i] = g.cmpDevice("bench-" + strconv.Itoa(i))
				devices[i].http = client
			}
			if err := devices[b.N].enroll(); err != nil {
				b.Fatal(err)
			}
			crypto := cmpCrypto(b)
			g.measure(b, clients, func(i int) error { return devices[i].enroll() })
			b.ReportMetric(crypto/1000, "crypto-µs/op")
		})
	}
}

// signedConfig: devices come with a vendor's certificate, stand in the inventory, enrol once, and confirm.
const signedConfig = onLocalCA + `profiles:
  device:
    backend: local
    subject: "CN={{device.name}},serialNumber={{device.serial}},O=Operator"
    keys: [P-256]
    validity: 397d
    ext-key-usage: [clientAuth, ipsecIKE]
endpoints:
  ran:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    cmp: {confirm: explicit}
    enroll:
      - vendor-ca: {dir: vendor-ca, serial: subject.serialNumber, vendor: acme}
      - inventory: {enrollments: 1}
  field:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    renew:
      - own-certificate: {endpoints: [ran, field]}
`

// vendor makes devices' certificates: a root that the gateway trusts, and a CA below it, which devices send along.
type vendor struct {
	b         *testing.B
	root, sub *x509.Certificate
	key       *ecdsa.PrivateKey // of both
}

func newVendor(b *testing.B) *vendor {
	b.Helper()
	v := &vendor{b: b}
	v.key = v.newKey()
	ca := func(name string, issuer *x509.Certificate) *x509.Certificate {
		return v.certify(&x509.Certificate{
			Subject: x509pkix.Name{Organization: []string{"Acme"}, CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name),
		}, issuer, v.key)
	}
	v.root = ca("Acme Root", nil)
	v.sub = ca("Acme Devices 1", v.root)
	return v
}

func (v *vendor) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		v.b.Fatal(err)
	}
	return key
}

// certify has the vendor's key sign; nil for the issuer is the certificate itself.
func (v *vendor) certify(tmpl, issuer *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = new(big.Int).SetBytes(random(8)), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	if issuer == nil {
		issuer = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, key.Public(), v.key)
	if err != nil {
		v.b.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		v.b.Fatal(err)
	}
	return cert
}

// device is one with the vendor's certificate for a serial number.
func (v *vendor) device(g *instance, serial string, client *http.Client) *cmpDevice {
	d := g.cmpDevice(serial)
	key := v.newKey()
	cert := v.certify(&x509.Certificate{
		Subject:  x509pkix.Name{Organization: []string{"Acme"}, CommonName: "radio", SerialNumber: serial},
		KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: random(20),
	}, v.sub, key)
	d.signer, d.chain, d.http = key, [][]byte{cert.Raw, v.sub.Raw}, client
	return d
}

// signedCrypto measures, on this machine and now, the operations with P-256 that a signed ir with its certConf cannot do
// without, in nanoseconds: verifying the ir, the device's certificate, the certificate above it, the proof of possession
// and the certConf; signing the certificate, the ip and the pkiconf. What CA and gateway verify of what they have made themselves is not
// among them.
func signedCrypto(b *testing.B) (ns float64) {
	b.Helper()
	key, digest, signature := somethingSigned(b)
	const n = 300
	defer ownThread()()
	start := threadTime(b)
	for range n {
		for range 5 {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
				b.Fatal("the signature does not verify")
			}
		}
		for range 3 {
			if _, err := key.Sign(nil, digest[:], crypto.SHA256); err != nil { // deterministic, as it is done
				b.Fatal(err)
			}
		}
	}
	return float64((threadTime(b) - start).Nanoseconds()) / n
}

// BenchmarkEnrollCMPSigned is ir, ip, certConf and pkiConf, all signed, with P-256 all along, over plain HTTP: a base station
// with its vendor's certificate, which the inventory lists. cpu-µs/op is what gateway and plugin used together; crypto-µs/op
// is the sum of the signature operations that it cannot do without, measured beside it.
func BenchmarkEnrollCMPSigned(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(strconv.Itoa(clients)+"-clients", func(b *testing.B) {
			g, v := configured(b, signedConfig), newVendor(b)
			if err := os.Mkdir(filepath.Join(g.dir, "vendor-ca"), 0o700); err != nil {
				b.Fatal(err)
			}
			root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.root.Raw})
			if err := os.WriteFile(filepath.Join(g.dir, "vendor-ca", "acme.pem"), root, 0o600); err != nil {
				b.Fatal(err)
			}
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}
			devices := make([]*cmpDevice, b.N+1)
			var csv strings.Builder
			csv.WriteString("name,serial,vendor\n")
			for i := range devices {
				fmt.Fprintf(&csv, "bts-%d,SN%d,acme\n", i, i)
			}
			file := filepath.Join(b.TempDir(), "devices.csv")
			if err := os.WriteFile(file, []byte(csv.String()), 0o600); err != nil {
				b.Fatal(err)
			}
			g.muster("device", "import", file)
			g.again() // the vendor's CA is there from the start
			for i := range devices {
				devices[i] = v.device(g, "SN"+strconv.Itoa(i), client)
			}
			if err := devices[b.N].enroll(); err != nil {
				b.Fatal(err)
			}
			crypto := signedCrypto(b)
			g.measure(b, clients, func(i int) error { return devices[i].enroll() })
			b.ReportMetric(crypto/1000, "crypto-µs/op")
		})
	}
}
