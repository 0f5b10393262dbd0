package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	x509pkix "crypto/x509/pkix"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// hostile is one request that no honest client sends, as it goes over the wire but for Host.
type hostile struct {
	name   string
	tls    bool
	method string
	path   string
	header []string // "Name: value"
	body   []byte
	raw    string // instead of all of these
	// answers is to how many requests it is; 0: one.
	answers int
}

// tlv is one DER element, its length in as many bytes as it takes.
func tlv(tag byte, content []byte) []byte {
	n := len(content)
	head := []byte{tag}
	switch {
	case n < 0x80:
		head = append(head, byte(n))
	case n < 0x100:
		head = append(head, 0x81, byte(n))
	case n < 0x10000:
		head = append(head, 0x82, byte(n>>8), byte(n))
	default:
		head = append(head, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(head, content...)
}

// nestedTLV is SEQUENCEs of definite length within each other.
func nestedTLV(depth int) []byte {
	var heads []byte // innermost first, each reversed: one element that is built once
	size := 0
	for range depth {
		head := tlv(0x30, make([]byte, size))
		head = head[:len(head)-size]
		for i := len(head) - 1; i >= 0; i-- {
			heads = append(heads, head[i])
		}
		size += len(head)
	}
	for i, j := 0, len(heads)-1; i < j; i, j = i+1, j-1 {
		heads[i], heads[j] = heads[j], heads[i]
	}
	return heads
}

// structures are bodies that are hostile to whatever parses them.
func structures() map[string][]byte {
	return map[string][]byte{
		"nothing":                       nil,
		"deep, definite lengths":        nestedTLV(20_000),
		"deep, indefinite lengths":      bytes.Repeat([]byte{0x30, 0x80}, 60_000),
		"deep, ended":                   append(bytes.Repeat([]byte{0x30, 0x80}, 20_000), make([]byte, 40_000)...),
		"constructed strings":           bytes.Repeat([]byte{0x24, 0x80}, 60_000),
		"a length of 2^63":              []byte{0x30, 0x88, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 1, 0},
		"a length of 2^32-1":            []byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 2, 1, 0},
		"a length of 126 bytes":         append([]byte{0x30, 0xfe}, bytes.Repeat([]byte{0xff}, 200)...),
		"80,000 elements":               tlv(0x30, bytes.Repeat([]byte{5, 0}, 80_000)),
		"80,000 empty sequences":        tlv(0x30, tlv(0x31, bytes.Repeat([]byte{0x30, 0}, 80_000))),
		"an endless tag":                append([]byte{0x3f}, bytes.Repeat([]byte{0xff}, 100_000)...),
		"an integer of 800,000 bits":    tlv(0x30, tlv(2, bytes.Repeat([]byte{0x7f}, 100_000))),
		"an identifier of 100,000 arcs": tlv(0x30, tlv(6, bytes.Repeat([]byte{0x2a}, 100_000))),
		"300 KB":                        bytes.Repeat([]byte{0x30}, 300<<10),
	}
}

// bigRSA is a public key of so many bits that nobody has a private one for.
func bigRSA(bits, e int) *rsa.PublicKey {
	n := new(big.Int).SetBytes(random(bits / 8))
	n.SetBit(n, bits-1, 1)
	n.SetBit(n, 0, 1)
	return &rsa.PublicKey{N: n, E: e}
}

// chainBomb is certificates below each other, of keys as large as is taken, whose signatures are noise, all with one name: who builds
// paths by name has every order to try.
func chainBomb(t testing.TB, n int, constraints int) [][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var chain [][]byte
	for i := range n {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: x509pkix.Name{CommonName: "one of many"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), SubjectKeyId: []byte("key"), AuthorityKeyId: []byte("key"),
			KeyUsage: x509.KeyUsageDigitalSignature,
		}
		if i > 0 {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
			for j := range constraints {
				c.PermittedDNSDomains = append(c.PermittedDNSDomains, fmt.Sprintf("c%d.example.com", j))
			}
		} else {
			for j := range constraints {
				c.DNSNames = append(c.DNSNames, fmt.Sprintf("n%d.example.org", j))
			}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, c, bigRSA(pkix.MaxRSABits, 1<<31-1), key)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, rsaSigned(t, der))
	}
	return chain
}

// rsaSigned has a certificate say that an RSA key of 8192 bits signed it, with noise for the signature.
func rsaSigned(t testing.TB, der []byte) []byte {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ecdsaSHA256 := []byte{0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2}
	rsaSHA256 := []byte{0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11, 5, 0}
	var tbs asn1.RawValue
	if _, err := asn1.Unmarshal(c.RawTBSCertificate, &tbs); err != nil {
		t.Fatal(err)
	}
	inner := tlv(0x30, bytes.Replace(tbs.Bytes, ecdsaSHA256, rsaSHA256, 1))
	noise := append([]byte{0, 0x7f}, random(pkix.MaxRSABits/8-1)...)
	return tlv(0x30, bytes.Join([][]byte{inner, rsaSHA256, tlv(3, noise)}, nil))
}

// cmpBombs are CMP messages that are well-formed, and dear to check.
func cmpBombs(t testing.TB, g *instance) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	d := g.cmpDevice("hostile")
	mac := func(name string, m *cmpmsg.MAC, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		d.mac, d.secret, d.tid = m, random(16), random(16)
		all[name] = d.message(d.request(cmpmsg.TypeIR))
	}
	pbm, err := cmpmsg.NewPBM(crypto.SHA256, crypto.SHA256, 100_000, random(128))
	mac("PBM, 100,000 iterations", pbm, err)
	pbm, err = cmpmsg.NewPBM(crypto.SHA512, crypto.SHA512, 50_000, random(128))
	mac("PBM, 50,000 iterations of SHA-512", pbm, err)
	pbmac1, err := cmpmsg.NewPBMAC1(crypto.SHA512, crypto.SHA512, 25_000, random(128))
	mac("PBMAC1, 25,000 iterations of SHA-512", pbmac1, err)
	pbmac1, err = cmpmsg.NewPBMAC1(crypto.SHA256, crypto.SHA512, 25_000, random(128))
	mac("PBMAC1, 25,000 iterations for two outputs", pbmac1, err)
	// One that counts further than is taken: the number is patched, since our own code makes none.
	d.mac, _ = cmpmsg.NewPBM(crypto.SHA256, crypto.SHA256, 100_000, random(16))
	d.tid = random(16)
	all["PBM, 8 million iterations"] = bytes.Replace(d.message(d.request(cmpmsg.TypeIR)), []byte{2, 3, 1, 0x86, 0xa0}, []byte{2, 3, 0x7f, 0xff, 0xff}, 1)
	noise := func(name string, kind cmpmsg.BodyType, chain [][]byte) {
		t.Helper()
		leaf, err := x509.ParseCertificate(chain[0])
		if err != nil {
			t.Fatal(err)
		}
		alg := cmpmsg.AlgorithmIdentifier{Raw: []byte{0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11, 5, 0}}
		out := &cmpmsg.Outgoing{Header: cmpmsg.Header{
			PVNO: 2, Sender: cmpmsg.GeneralDirectoryName(leaf.RawSubject), Recipient: cmpmsg.GeneralDirectoryName([]byte{0x30, 0}), MessageTime: time.Now().UTC().Truncate(time.Second),
			TransactionID: random(16), SenderNonce: random(16), SenderKID: leaf.SubjectKeyId, ProtectionAlg: &alg,
		}, Body: d.request(kind), ExtraCerts: chain}
		der, err := out.Protect(func([]byte) ([]byte, error) { return append([]byte{0x7f}, random(pkix.MaxRSABits/8-1)...), nil })
		if err != nil {
			t.Fatal(err)
		}
		all[name] = der
	}
	for _, kind := range []cmpmsg.BodyType{cmpmsg.TypeIR, cmpmsg.TypeCR, cmpmsg.TypeKUR} {
		noise(fmt.Sprintf("%v signed by RSA-8192, 16 extraCerts of one name", kind), kind, chainBomb(t, 16, 0))
	}
	noise("name constraints, 4 extraCerts", cmpmsg.TypeIR, chainBomb(t, 4, 500))
	return all
}

// scepBombs are SignedData as dear to check.
func scepBombs(t testing.TB, g *instance) map[string][]byte {
	t.Helper()
	d := g.scepDevice()
	all := map[string][]byte{}
	var chain []*x509.Certificate
	for _, der := range chainBomb(t, 15, 0) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	all["16 certificates"] = d.message(scepWish{name: "hostile", chain: chain}).der
	all["an envelope that is none"] = d.message(scepWish{name: "hostile", envelope: nestedTLV(25)}).der
	all["200 certificates"] = d.message(scepWish{name: "hostile", chain: manyOf(chain[0], 200)}).der
	csr := request(t, d.key, "hostile")
	enveloped, err := cms.Encrypt(csr, d.ra, cms.AES128)
	if err != nil {
		t.Fatal(err)
	}
	// The ciphertext is the last octet string: a byte less, and it is of no whole blocks.
	all["ciphertext cut"] = d.message(scepWish{name: "hostile", envelope: enveloped[:len(enveloped)-1]}).der
	return all
}

func manyOf(c *x509.Certificate, n int) []*x509.Certificate {
	all := make([]*x509.Certificate, n)
	for i := range all {
		all[i] = c
	}
	return all
}

// estBombs are requests for certificates with keys that are dear to look at.
func estBombs(t testing.TB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := parts{name: "hostile", algorithm: oidECDSASHA256, key: key}
	for name, spki := range map[string][]byte{
		"RSA of 131,072 bits": rsaSPKI(bigRSA(131072, 3).N, 65537),
		"RSA-8192":            rsaSPKI(bigRSA(8192, 3).N, 1<<32-1),
		"exponent of 2^62-1":  rsaSPKI(bigRSA(8192, 3).N, 1<<62-1),
	} {
		p.spki, p.signature = spki, append([]byte{0x7f}, random(1023)...)
		p.algorithm = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
		all[name] = p.der()
	}
	return all
}

// hostiles is every kind of request for every endpoint of a quickstart that takes one from a stranger.
func hostiles(t testing.TB, g *instance) []hostile {
	t.Helper()
	var all []hostile
	add := func(what string, bodies map[string][]byte, h hostile, shape func([]byte) []byte) {
		for name, body := range bodies {
			h := h
			h.name, h.body = what+": "+name, body
			if shape != nil {
				h.body = shape(body)
			}
			all = append(all, h)
		}
	}
	in64 := func(b []byte) []byte { return []byte(toBase64(b)) }
	cmp := hostile{method: "POST", path: "/.well-known/cmp", header: []string{"Content-Type: application/pkixcmp"}}
	scep := hostile{method: "POST", path: "/scep?operation=PKIOperation", header: []string{"Content-Type: application/x-pki-message"}}
	add("CMP", structures(), cmp, nil)
	add("CMP", cmpBombs(t, g), cmp, nil)
	add("CMP", nestedMessages(g), cmp, nil)
	add("SCEP", structures(), scep, nil)
	add("SCEP", scepBombs(t, g), scep, nil)
	add("SCEP", crowdedCMS(t, g), scep, nil)
	all = append(all, authenticated(t, g)...)
	all = append(all, oddHTTP(in64(estBombs(t)["RSA-8192"]))...)
	for _, op := range []string{"simpleenroll", "simplereenroll", "serverkeygen"} {
		est := hostile{tls: true, method: "POST", path: "/.well-known/est/" + op, header: []string{"Content-Type: application/pkcs10"}}
		add("EST "+op, structures(), est, in64)
		add("EST "+op, estBombs(t), est, in64)
		for _, user := range []string{"factory", "person"} {
			h := est
			h.header = append(slices.Clone(est.header), "Authorization: Basic "+toBase64([]byte(user+":"+strings.Repeat("x", 1000))))
			add("EST "+op+", a wrong password of "+user, map[string][]byte{"RSA-8192": estBombs(t)["RSA-8192"]}, h, in64)
		}
	}
	const zip = "Content-Encoding: gzip"
	for _, h := range []hostile{cmp, scep} {
		h.name, h.header, h.body = "compressed: "+h.path, append([]string{zip}, h.header...), bytes.Repeat([]byte{0x1f, 0x8b}, 1000)
		all = append(all, h)
	}
	get := func(name, path string, header ...string) {
		all = append(all, hostile{name: name, method: "GET", path: path, header: header})
	}
	get("SCEP by GET, deep", "/scep?operation=PKIOperation&message="+url.QueryEscape(toBase64(nestedTLV(3000))))
	get("SCEP by GET, 40 KB", "/scep?operation=PKIOperation&message="+strings.Repeat("A", 40_000))
	get("a header of 40 KB", "/healthz", "X: "+strings.Repeat("x", 40_000))
	get("2,000 headers", "/healthz", strings.Split(strings.TrimSuffix(strings.Repeat("X: y\n", 2000), "\n"), "\n")...)
	get("two lengths", "/healthz", "Content-Length: 1", "Content-Length: 2")
	all = append(all, hostile{name: "length and chunks", method: "GET", path: "/healthz", header: []string{"Content-Length: 4", "Transfer-Encoding: chunked"}, body: []byte("0\r\n\r\n")})
	all = append(all, hostile{name: "chunks with extensions", method: "GET", path: "/healthz", header: []string{"Transfer-Encoding: chunked"}, body: []byte("0;" + strings.Repeat("x", 3000) + "\r\n\r\n")})
	get("an unknown coding", "/healthz", "Transfer-Encoding: xchunked")
	get("an expectation", "/healthz", "Expect: the worst")
	get("a path of dots", "/"+strings.Repeat("../", 5000))
	return all
}

// wire is the request as it is sent.
func (h *hostile) wire() []byte {
	if h.raw != "" {
		return []byte(h.raw)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: x\r\n", h.method, h.path)
	if h.method == "POST" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(h.body))
	}
	for _, line := range h.header {
		io.WriteString(&b, line+"\r\n")
	}
	b.WriteString("\r\n")
	b.Write(h.body)
	return b.Bytes()
}

// noisySigner claims a key that it does not have.
type noisySigner struct{ key *rsa.PublicKey }

func (s noisySigner) Public() crypto.PublicKey { return s.key }

func (s noisySigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	sum := sha256.Sum256(nil)
	return append(make([]byte, s.key.Size()-len(sum)), sum[:]...), nil
}
