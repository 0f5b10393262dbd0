package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/asn1"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// smallPrimes is the product of the odd primes up to 167: a modulus without these factors has to be looked at further.
func smallPrimes() *big.Int {
	m := big.NewInt(1)
	for p := int64(3); p <= 167; p++ {
		if b := big.NewInt(p); b.ProbablyPrime(0) {
			m.Mul(m, b)
		}
	}
	return m
}

// weakKeys are SubjectPublicKeyInfos that no request gets through with, however its sender has authenticated.
func weakKeys(t testing.TB) map[string][]byte {
	t.Helper()
	m := smallPrimes()
	// A power of 65537 modulo each small prime, as CVE-2017-15361 makes them.
	roca := new(big.Int).Exp(big.NewInt(65537), big.NewInt(123457), m)
	for k := new(big.Int).Lsh(m, uint(2047-m.BitLen())); roca.BitLen() < 2048 || roca.Bit(0) == 0; k.Add(k, m) {
		roca.Add(new(big.Int).Exp(big.NewInt(65537), big.NewInt(123457), m), k)
		if k.BitLen() < 2048 {
			k.Lsh(k, 1)
		}
	}
	// Factors next to each other, as CVE-2022-26320 makes them.
	p, err := rand.Prime(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	q, gcd, one, two := new(big.Int).Set(p), new(big.Int), big.NewInt(1), big.NewInt(2)
	for gcd.Cmp(one) != 0 {
		gcd.GCD(nil, nil, q.Add(q, two), m)
	}
	var key, huge cryptobyte.Builder
	key.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(bigRSA(2048, 3).N)
		b.AddASN1BigInt(bigRSA(131072, 3).N)
	})
	huge.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidRSA)
			b.AddASN1NULL()
		})
		b.AddASN1BitString(key.BytesOrPanic())
	})
	return map[string][]byte{
		"RSA of 131,072 bits":         rsaSPKI(bigRSA(131072, 3).N, 65537),
		"an exponent of 131,072 bits": huge.BytesOrPanic(),
		"an exponent of 2^62-1":       rsaSPKI(bigRSA(8192, 3).N, 1<<62-1),
		"an exponent of 2^32-1":       rsaSPKI(bigRSA(8192, 3).N, 1<<32-1),
		"ROCA":                        rsaSPKI(roca, 65537),
		"close primes":                rsaSPKI(new(big.Int).Mul(p, q), 65537),
		"a point that is none":        ecSPKI(oidP256, append([]byte{4}, random(64)...)),
	}
}

// authenticated are requests for weak keys by who has a password, secret or challenge: they get as far as the look at the key.
func authenticated(t testing.TB, g *instance) (all []hostile) {
	t.Helper()
	s := g.scepDevice()
	for name, spki := range weakKeys(t) {
		p := parts{name: "hostile", spki: spki, algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, signature: append([]byte{0x7f}, random(255)...)}
		csr := p.der()
		basic := "Authorization: Basic " + toBase64([]byte(g.env["MUSTER_EST_USER"]+":"+g.env["MUSTER_EST_PASSWORD"]))
		all = append(all, hostile{name: "EST, with a password: " + name, tls: true, method: "POST", path: "/.well-known/est/simpleenroll",
			header: []string{"Content-Type: application/pkcs10", basic}, body: []byte(toBase64(csr))})
		all = append(all, hostile{name: "CMP p10cr, with a secret: " + name, method: "POST", path: "/.well-known/cmp",
			header: []string{"Content-Type: application/pkixcmp"}, body: g.cmpDevice("hostile").message(&cmpmsg.PKCS10{CSR: csr})})
		p.attrs = attribute(oidChallenge, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(g.env["MUSTER_SCEP_CHALLENGE"])) })
		})
		envelope, err := cms.Encrypt(p.der(), s.ra, cms.AES128)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, hostile{name: "SCEP, with a challenge: " + name, method: "POST", path: "/scep?operation=PKIOperation",
			header: []string{"Content-Type: application/x-pki-message"}, body: s.message(scepWish{envelope: envelope}).der})
	}
	return all
}

// nestedMessages are CMP messages in each other and beside each other, each protected well by a secret that nobody has.
func nestedMessages(g *instance) map[string][]byte {
	d := g.cmpDevice("hostile")
	d.secret = random(16)
	one := d.message(d.request(cmpmsg.TypeIR))
	deep := one
	for range 4 {
		deep = d.message(&cmpmsg.Nested{Messages: [][]byte{deep}})
	}
	batch := func(n int) []byte {
		all := make([][]byte, n)
		for i := range all {
			all[i] = one
		}
		return d.message(&cmpmsg.Nested{Messages: all})
	}
	return map[string][]byte{"4 messages in each other": deep, "50 messages": batch(50), "300 messages": batch(300)}
}

// crowdedCMS are SCEP's messages with more of something than anybody needs.
func crowdedCMS(t testing.TB, g *instance) map[string][]byte {
	t.Helper()
	d := g.scepDevice()
	type signed struct {
		Type    asn1.ObjectIdentifier
		Content struct {
			Version                                   int
			Digests, Encap, Certificates, SignerInfos asn1.RawValue
		} `asn1:"explicit,tag:0"`
	}
	type enveloped struct {
		Type    asn1.ObjectIdentifier
		Content struct {
			Version    int
			Recipients asn1.RawValue
			Encrypted  struct {
				Type   asn1.ObjectIdentifier
				Cipher asn1.RawValue
				Text   asn1.RawValue
			}
		} `asn1:"explicit,tag:0"`
	}
	read := func(der []byte, into any) {
		if rest, err := asn1.Unmarshal(der, into); err != nil || len(rest) > 0 {
			t.Fatal(len(rest), err)
		}
	}
	write := func(from any) []byte {
		der, err := asn1.Marshal(from)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	times := func(v *asn1.RawValue, n int) { v.FullBytes = tlv(0x31, bytes.Repeat(v.Bytes, n)) }
	all := map[string][]byte{}
	var s signed
	der := d.message(scepWish{name: "hostile"}).der
	read(der, &s)
	times(&s.Content.Digests, 10_000)
	all["10,000 digest algorithms"] = write(s)
	read(der, &s)
	times(&s.Content.SignerInfos, 300)
	all["300 signers"] = write(s)
	csr, err := scepCSR(d.key, "hostile", "")
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := cms.Encrypt(csr, d.ra, cms.AES128)
	if err != nil {
		t.Fatal(err)
	}
	var e enveloped
	read(envelope, &e)
	times(&e.Content.Recipients, 300)
	all["300 recipients"] = d.message(scepWish{envelope: write(e)}).der
	read(envelope, &e)
	text := &e.Content.Encrypted.Text
	text.FullBytes = tlv(0x80, text.Bytes[:len(text.Bytes)-1])
	all["ciphertext of no whole blocks"] = d.message(scepWish{envelope: write(e)}).der
	text.FullBytes = tlv(0x80, nil)
	all["no ciphertext"] = d.message(scepWish{envelope: write(e)}).der
	return all
}

// oddHTTP is what clients and proxies send that mean no good.
func oddHTTP(csr []byte) (all []hostile) {
	digest := func(name, value string) {
		all = append(all, hostile{name: "EST, a Digest header: " + name, tls: true, method: "POST", path: "/.well-known/est/simpleenroll",
			header: []string{"Content-Type: application/pkcs10", "Authorization: Digest " + value}, body: csr})
	}
	digest("nothing", "")
	digest("9,000 commas", strings.Repeat(",", 9000))
	digest("2,000 parameters", strings.Repeat(`a="b",`, 2000)+`a="b"`)
	digest("the same 2,000 times", strings.Repeat(`nonce="b",`, 2000)+`nonce="b"`)
	digest("a string without end", `username="`+strings.Repeat(`\"`, 8000))
	digest("a nonce of 16 KB", `username="alice", realm="est", nonce="`+strings.Repeat("A", 16_000)+`", uri="/", cnonce="c", nc=ffffffff, qop=auth, algorithm=SHA-256, response="`+strings.Repeat("0", 64)+`"`)
	for _, path := range []string{"/.well-known/est/csrattrs", "/.well-known/est/cacerts"} {
		for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "ODD"} {
			body := random(100_000)
			all = append(all, hostile{name: method + " with a body: " + path, tls: true, method: method, path: path,
				header: []string{fmt.Sprintf("Content-Length: %d", len(body))}, body: body})
		}
		all = append(all, hostile{name: "POST with a body: " + path, tls: true, method: "POST", path: path, body: nestedTLV(20_000)})
	}
	const next = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
	all = append(all,
		hostile{name: "100 requests in a row", method: "GET", path: "/healthz", body: []byte(strings.Repeat(next, 99)), answers: 100},
		hostile{name: "an HTTP/2 preface", raw: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"},
		hostile{name: "HTTP/3.0", raw: "GET / HTTP/3.0\r\nHost: x\r\n\r\n"},
		hostile{name: "no Host", raw: "GET /healthz HTTP/1.1\r\n\r\n"},
		hostile{name: "length, chunks and one more", method: "GET", path: "/healthz", header: []string{"Content-Length: 5", "Transfer-Encoding: chunked"}, body: []byte("0\r\n\r\n" + next)},
		hostile{name: "100-continue", method: "POST", path: "/.well-known/cmp", header: []string{"Content-Type: application/pkixcmp", "Expect: 100-continue"}, body: nestedTLV(100)},
		hostile{name: "a chunk of 2^64-1", method: "GET", path: "/healthz", header: []string{"Transfer-Encoding: chunked"}, body: []byte("ffffffffffffffff\r\nx")},
	)
	return all
}

// TestReliabilityHostileMDM sends what is no property list, or more of one, to what phones talk to, signed by anybody and by a phone.
func TestReliabilityHostileMDM(t *testing.T) {
	if !long {
		t.Parallel()
	}
	maker := newDeviceMaker(t)
	g := profileService(t, maker)
	before := len(listing[map[string]any](g, "certificates"))
	phone := maker.iPhone(g, udid7, serial7)
	key := rsaKey(t, 2048)
	stranger := signer{key: key, cert: (&scepDevice{t: t, key: key}).certify("nobody", nil)}
	const head = `<?xml version="1.0"?><plist version="1.0"><dict>`
	lists := map[string]string{
		"deep":           head + "<key>UDID</key>" + strings.Repeat("<array>", 20_000),
		"deep and ended": head + "<key>UDID</key>" + strings.Repeat("<array>", 5000) + strings.Repeat("</array>", 5000) + "</dict></plist>",
		"entities": `<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><plist><dict>` +
			`<key>UDID</key><string>&b;</string></dict></plist>`,
		"a file's entity":   `<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY a SYSTEM "file:///etc/passwd">]><plist><dict><key>UDID</key><string>&a;</string></dict></plist>`,
		"10,000 attributes": `<plist ` + strings.Repeat(`a="b" `, 10_000) + `><dict></dict></plist>`,
		"30,000 elements":   head + strings.Repeat("<a/>", 30_000),
		"a key of 150 KB":   head + "<key>" + strings.Repeat("x", 150_000) + "</key><string>x</string></dict></plist>",
		"8,000 keys":        head + manyKeys(8000) + "</dict></plist>",
		"binary":            "bplist00" + string(random(1000)),
		"nothing":           "",
	}
	var all []hostile
	for name, list := range lists {
		for who, by := range map[string]signer{"anybody": stranger, "a phone": phone.own} {
			all = append(all, hostile{name: "MDM answer by " + who + ": " + name, method: "POST", path: "/ota/ota",
				header: []string{"Content-Type: application/pkcs7-signature"}, body: by.signed(t, []byte(list), false)})
			all = append(all, hostile{name: "MDM check by " + who + ": " + name, method: "POST", path: "/ota/ota/check",
				header: []string{"Mdm-Signature: " + toBase64(by.signed(t, []byte(list), true))}, body: []byte(list)})
		}
	}
	for name, body := range structures() {
		all = append(all, hostile{name: "MDM answer: " + name, method: "POST", path: "/ota/ota", header: []string{"Content-Type: application/pkcs7-signature"}, body: body})
	}
	f := finding{test: "hostile phones"}
	memory := rss(t, g, "VmRSS")
	worst, dearest := g.assault(t, all, scaled(1, 100), &f)
	grown := rss(t, g, "VmHWM") - memory
	if long && grown > mostMemory {
		t.Errorf("the gateway has taken %d KiB more", grown)
	}
	g.sound(t, before)
	f.worst = fmt.Sprintf("%.1f ms CPU (%s), %d MiB", float64(worst)/1e6, dearest, grown>>10)
	found(f)
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "<key>%d</key><true/>", i)
	}
	return b.String()
}
