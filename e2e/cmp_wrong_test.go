package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	x509pkix "crypto/x509/pkix"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// An endpoint for devices with the secret, or with the vendor's certificate and an entry in the inventory.
const wrongConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 90d, keys: [P-256, "RSA>=2048"]}
endpoints:
  ran:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - anyOf:
          - shared-secret: {secrets: {factory: {file: factory.secret}, other: {file: other.secret}}}
          - [vendor-ca: {cas: [vendor.pem], serial: subject.serialNumber}, inventory: {}]
      - names: {}
    renew: [own-certificate: {}]
    revoke: [own-certificate: {}]
`

// vendorCertificates writes a vendor's CA and device certificates of it, each with its key, into the folder: known, unlisted
// (not in the inventory), expired, young (not valid yet), foreign (of a CA with the same name).
func vendorCertificates(t *testing.T, dir string) {
	t.Helper()
	save := func(name string, c []byte, key crypto.Signer) {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for suffix, b := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: c}, ".key": {Type: "PRIVATE KEY", Bytes: der}} {
			if err := os.WriteFile(filepath.Join(dir, name+suffix), pem.EncodeToMemory(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	newKey := func() crypto.Signer {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	now := time.Now()
	cas, keys := map[string]*x509.Certificate{}, map[string]crypto.Signer{}
	for _, name := range []string{"vendor", "stranger"} {
		keys[name] = newKey()
		cas[name] = &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: x509pkix.Name{CommonName: "Vendor Root"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		der, err := x509.CreateCertificate(rand.Reader, cas[name], cas[name], keys[name].Public(), keys[name])
		if err != nil {
			t.Fatal(err)
		}
		save(name, der, keys[name])
	}
	for i, d := range []struct {
		name, serial, ca string
		begins, ends     time.Duration
	}{
		{"known", "SN0001", "vendor", -time.Hour, time.Hour}, {"unlisted", "SN9999", "vendor", -time.Hour, time.Hour}, {"expired", "SN0001", "vendor", -2 * time.Hour, -time.Hour},
		{"young", "SN0001", "vendor", time.Hour, 2 * time.Hour}, {"foreign", "SN0001", "stranger", -time.Hour, time.Hour},
	} {
		key := newKey()
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(int64(100 + i)), Subject: x509pkix.Name{CommonName: "bts", SerialNumber: d.serial}, NotBefore: now.Add(d.begins), NotAfter: now.Add(d.ends),
			KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: random(20),
		}, cas[d.ca], key.Public(), keys[d.ca])
		if err != nil {
			t.Fatal(err)
		}
		save(d.name, der, key)
	}
}

// retagged is a device's ir with another tag on its body, well protected.
func retagged(d *cmpDevice, tag byte) []byte {
	d.t.Helper()
	var m struct{ Header, Body, Protection asn1.RawValue }
	if _, err := asn1.Unmarshal(d.message(d.request(cmpmsg.TypeIR)), &m); err != nil {
		d.t.Fatal(err)
	}
	body := asn1.RawValue{FullBytes: append([]byte{tag}, m.Body.FullBytes[1:]...)}
	encode := func(v any) []byte {
		der, err := asn1.Marshal(v)
		if err != nil {
			d.t.Fatal(err)
		}
		return der
	}
	mac := d.mac.Sum(d.secret, encode(struct{ Header, Body asn1.RawValue }{m.Header, body}))
	protection := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: encode(asn1.BitString{Bytes: mac, BitLength: 8 * len(mac)})}
	return encode(struct{ Header, Body, Protection asn1.RawValue }{m.Header, body, protection})
}

// reference is that of a refusal, "" for none.
func reference(text string) string {
	if m := regexp.MustCompile(`reference ([0-9a-hjkmnp-tv-z]{26})`).FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// said is the status in an answer.
func said(t *testing.T, m *cmpmsg.Message) cmpmsg.PKIStatusInfo {
	t.Helper()
	switch b := m.Body.(type) {
	case *cmpmsg.ErrorMsg:
		return b.Status
	case *cmpmsg.CertRepMessage:
		return b.Responses[0].Status
	case *cmpmsg.RevRep:
		return b.Statuses[0]
	}
	t.Fatalf("answered %s", m.Body.Type())
	return cmpmsg.PKIStatusInfo{}
}

// Everything done wrong, and what the server says to it. What openssl 3.0 cannot make by itself is a message made here, which
// openssl sends in the place of its own (-reqin).
func TestCMPWrong(t *testing.T) {
	const secret = "what all devices of the factory share"
	dir := t.TempDir()
	vendorCertificates(t, dir)
	g := configured(t, wrongConfig, "factory.secret", secret, "other.secret", "what the others share", "vendor.pem", string(fileOf(t, dir, "vendor.pem")))
	g.muster("device", "add", "bts-1", "--serial", "SN0001")
	const prelude = `cmp() { openssl cmp -config '' -batch -server "$MUSTER_HTTP" -path .well-known/cmp -trusted "$MUSTER_CA" "$@" 2>>cmp.log || { cat cmp.log; return 1; }; }
	shared() { cmp -ref factory -secret 'pass:` + secret + `' "$@"; }
	rm -f cmp.log
`
	g.sh(dir, prelude+`for n in mine other gone updated; do `+ecKey+`$n.key; shared -cmd ir -newkey $n.key -subject /CN=$n -certout $n.pem; done
		cmp -cmd rr -cert gone.pem -key gone.key -oldcert gone.pem -revreason 4
		`+ecKey+`next.key; cmp -cmd kur -cert updated.pem -key updated.key -newkey next.key -certout next.pem
		`+ecKey+`new.key; openssl genrsa 1024 >weak.key 2>/dev/null; openssl genrsa 2048 >rsa.key 2>/dev/null; openssl req -new -key new.key -subj /CN=csr -out new.csr
		openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out p384.key; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out k1.key
		openssl genpkey -algorithm ED448 -out ed448.key`)

	// Messages of our own.
	device := func() *cmpDevice {
		d := g.cmpDevice("wrong")
		d.ref, d.secret = "factory", []byte(secret)
		return d
	}
	ir := func(d *cmpDevice) []byte { return d.message(d.request(cmpmsg.TypeIR)) }
	edited := func(edit func(*cmpmsg.Outgoing)) func() []byte {
		return func() []byte {
			d := device()
			d.edit = edit
			return ir(d)
		}
	}
	asking := func(change func(*cmpDevice, *cmpmsg.CertReqMessages)) func() []byte {
		return func() []byte {
			d := device()
			b := d.request(cmpmsg.TypeIR)
			change(d, b)
			return d.message(b)
		}
	}
	// begun is a device that has its certificate and has not confirmed it.
	begun := func(change func(*cmpDevice)) *cmpDevice {
		d := device()
		if change != nil {
			change(d)
		}
		if m, err := d.exchange(d.request(cmpmsg.TypeIR)); err != nil || d.cert == nil {
			t.Fatalf("%v, %v", m, err)
		}
		return d
	}
	confirming := func(change func(*cmpDevice, *cmpmsg.CertConf)) func() []byte {
		return func() []byte {
			d := begun(nil)
			b := d.certConf()
			change(d, b)
			return d.message(b)
		}
	}
	signs := func(d *cmpDevice, name string) *cmpDevice {
		block, _ := pem.Decode(fileOf(t, dir, name+".key"))
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		d.signer, d.chain = key.(crypto.Signer), [][]byte{certificates(t, filepath.Join(dir, name+".pem"))[0].Raw}
		return d
	}
	profile, err := cmpmsg.MarshalTexts("no-such-profile")
	if err != nil {
		t.Fatal(err)
	}
	popOf := func(m *cmpmsg.CertReqMsg, key crypto.Signer) {
		request, err := m.Request()
		if err != nil {
			t.Fatal(err)
		}
		alg, signature, err := pkix.Sign(key, request)
		if err != nil {
			t.Fatal(err)
		}
		m.POP.Signing = &cmpmsg.POPOSigningKey{Algorithm: cmpmsg.AlgorithmIdentifier{Raw: alg}, Signature: signature}
	}

	// What openssl 3.0 does not even read.
	const notItsOwn = " (not known to 3.0)"
	const irWith = `-cmd ir -newkey new.key -subject /CN=wrong `
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT WAS SENT\tBY\tANSWER\tSTATUS\tFAILINFO\tSTATUSSTRING")
	for _, tt := range []struct {
		name   string
		script string        // of openssl; "" where made sends it
		made   func() []byte // the message, where openssl cannot make it
		answer string        // body
		fail   string
		text   string // in the statusString
	}{
		// Who asks.
		{"ir, wrong secret", `cmp -ref factory -secret pass:wrong ` + irWith, nil, "error", "badMessageCheck", "MAC"},
		{"ir, unknown reference", `cmp -ref nobody -secret pass:wrong ` + irWith, nil, "error", "badMessageCheck", "MAC"},
		{"ir, unprotected", `cmp -unprotected_requests ` + irWith, nil, "error", "badMessageCheck", "protect"},
		{"ir, signer of a CA that is not known", `cmp -cert foreign.pem -key foreign.key ` + irWith, nil, "ip", "signerNotTrusted", ""},
		{"ir, signer's certificate left out", "", func() []byte {
			d := signs(device(), "known")
			d.edit = func(o *cmpmsg.Outgoing) { o.ExtraCerts = nil }
			return ir(d)
		}, "error", "badMessageCheck", "extraCerts"},
		{"ir, signer not in the inventory", `cmp -cert unlisted.pem -key unlisted.key ` + irWith, nil, "ip", "notAuthorized", ""},
		{"ir, signer expired", `cmp -cert expired.pem -key expired.key ` + irWith, nil, "ip", "signerNotTrusted", "not valid now"},
		{"ir, signer not valid yet", `cmp -cert young.pem -key young.key ` + irWith, nil, "ip", "signerNotTrusted", "not valid now"},
		{"ir, signed by another key than its certificate's", "", func() []byte {
			d := signs(device(), "known")
			d.chain = [][]byte{certificates(t, filepath.Join(dir, "unlisted.pem"))[0].Raw}
			return ir(d)
		}, "error", "badMessageCheck", "signature does not verify"},
		{"ir, SHA-1 in the signature", `cmp -cert known.pem -key known.key -digest sha1 ` + irWith, nil, "error", "badAlg", "SHA1"},
		{"ir, PBM with MD5", "", edited(func(o *cmpmsg.Outgoing) {
			o.Header.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{OID: asn1.ObjectIdentifier{1, 2, 840, 113533, 7, 66, 13}, Parameters: []byte{
				0x30, 0x20, 0x04, 2, 1, 2, 0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 5, 2, 2, 1, 0xf4, 0x30, 0x0a, 6, 8, 0x2b, 6, 1, 5, 5, 8, 1, 1,
			}}
		}), "error", "badAlg", "MAC"},

		// The header.
		{"ir, pvno 4", "", edited(func(o *cmpmsg.Outgoing) { o.Header.PVNO = 4 }), "error", "unsupportedVersion", "version"},
		{"ir, pvno 1", "", edited(func(o *cmpmsg.Outgoing) { o.Header.PVNO = 1 }), "error", "unsupportedVersion", "version"},
		{"ir, messageTime an hour ago", "", edited(func(o *cmpmsg.Outgoing) { o.Header.MessageTime = o.Header.MessageTime.Add(-time.Hour) }), "error", "badTime", "messageTime"},
		{"ir, no messageTime", "", edited(func(o *cmpmsg.Outgoing) { o.Header.MessageTime = time.Time{} }), "error", "badTime", "messageTime"},
		{"ir, no senderNonce", "", edited(func(o *cmpmsg.Outgoing) { o.Header.SenderNonce = nil }), "error", "badSenderNonce", "senderNonce"},
		{"ir, senderNonce of 8 bytes", "", edited(func(o *cmpmsg.Outgoing) { o.Header.SenderNonce = random(8) }), "error", "badSenderNonce", "senderNonce"},
		{"ir with a recipNonce", "", edited(func(o *cmpmsg.Outgoing) { o.Header.RecipNonce = random(16) }), "error", "badRecipientNonce", "recipNonce"},
		{"ir, transactionID of an open transaction", "", func() []byte {
			d := begun(nil)
			next := device()
			next.tid = d.tid
			return ir(next)
		}, "error", "transactionIdInUse", "transactionID"},
		{"ir, certProfile that is not known", "", edited(func(o *cmpmsg.Outgoing) {
			o.Header.GeneralInfo = []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDCertProfile, Value: profile}}
		}), "ip", "badCertTemplate", "profile"},
		{"17 extraCerts", "", edited(func(o *cmpmsg.Outgoing) {
			for range 17 {
				o.ExtraCerts = append(o.ExtraCerts, certificates(t, filepath.Join(dir, "known.pem"))[0].Raw)
			}
		}), "error", "badDataFormat", "extraCerts"},

		// What is asked for.
		{"ir, no proof of possession", `shared -popo -1 ` + irWith, nil, "ip", "badPOP", "possession"},
		{"ir, raVerified", `shared -popo 0 ` + irWith, nil, "ip", "notAuthorized", "raVerified"},
		{"ir, keyEncipherment with a key that only signs", `shared -popo 2 ` + irWith, nil, "ip", "badPOP", ""},
		{"ir, proof of possession by another key", "", asking(func(d *cmpDevice, b *cmpmsg.CertReqMessages) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			popOf(&b.Messages[0], key)
		}), "ip", "badPOP", "does not verify"},
		{"ir, certReqId 7", "", asking(func(d *cmpDevice, b *cmpmsg.CertReqMessages) {
			b.Messages[0].ReqID = big.NewInt(7)
			popOf(&b.Messages[0], d.key)
		}), "error", "badRequest", "certReqId"},
		{"ir, two requests", "", asking(func(_ *cmpDevice, b *cmpmsg.CertReqMessages) { b.Messages = append(b.Messages, b.Messages[0]) }), "error", "badRequest", "2 certificates"},
		{"ir, no name", `shared -cmd ir -newkey new.key -subject /`, nil, "ip", "badCertTemplate", "ask for a name"},
		{"ir, RSA-1024", `shared -cmd ir -newkey weak.key -subject /CN=wrong`, nil, "ip", "badCertTemplate", "1024"},
		{"ir, P-384, which the profile does not have", `shared -cmd ir -newkey p384.key -subject /CN=wrong`, nil, "ip", "badCertTemplate", "of this size"},
		{"ir, secp256k1, which nobody has", `shared -cmd ir -newkey k1.key -subject /CN=wrong`, nil, "ip", "badAlg", "key"},
		{"ir, Ed448", `shared -cmd ir -newkey ed448.key -subject /CN=wrong`, nil, "ip", "badAlg", "key"},
		{"p10cr, SHA-1 in its signature", `openssl req -new -sha1 -key new.key -subj /CN=wrong -out sha1.csr; shared -cmd p10cr -csr sha1.csr`, nil, "cp", "badAlg", "SHA1"},
		{"p10cr, signed by another key", "", func() []byte {
			block, _ := pem.Decode(fileOf(t, dir, "new.csr"))
			csr := block.Bytes
			csr[len(csr)-1] ^= 1
			return device().message(&cmpmsg.PKCS10{CSR: csr})
		}, "cp", "badPOP", "does not verify"},
		{"krr", "", func() []byte {
			d := device()
			b := d.request(cmpmsg.TypeKRR)
			return d.message(b)
		}, "error", "badRequest", "does not support krr"},
		{"a body of no known type" + notItsOwn, "", func() []byte { return retagged(device(), 0xbe) }, "error", "badDataFormat", ""},

		// Updates.
		{"kur with a MAC", `shared -cmd kur -oldcert mine.pem -newkey new.key`, nil, "error", "wrongIntegrity", "a kur is signed"},
		{"kur, oldCertId of another certificate", `cmp -cmd kur -cert mine.pem -key mine.key -oldcert other.pem -newkey new.key`, nil, "kup", "badCertId", "oldCertId"},
		{"kur signed by the vendor's certificate", `cmp -cmd kur -cert known.pem -key known.key -newkey new.key`, nil, "kup", "signerNotTrusted", "not issued here"},
		{"kur, another subject", `cmp -cmd kur -cert mine.pem -key mine.key -newkey new.key -subject /CN=other`, nil, "kup", "notAuthorized", "names cannot be changed"},
		{"kur by a revoked certificate", `cmp -cmd kur -cert gone.pem -key gone.key -newkey new.key`, nil, "kup", "certRevoked", "revoked"},

		{"kur by a certificate whose update is confirmed", `cmp -cmd kur -cert updated.pem -key updated.key -newkey new.key`, nil, "kup", "certRevoked", "use that one"},

		// Confirmation.
		{"certConf, wrong certHash", "", confirming(func(_ *cmpDevice, b *cmpmsg.CertConf) { b.Statuses[0].CertHash[0] ^= 1 }), "error", "badCertId", "certHash"},
		{"certConf, certReqId 7", "", confirming(func(_ *cmpDevice, b *cmpmsg.CertConf) { b.Statuses[0].ReqID = big.NewInt(7) }), "error", "badRequest", "certReqId"},
		{"certConf, hashAlg under pvno 2" + notItsOwn, "", confirming(func(_ *cmpDevice, b *cmpmsg.CertConf) {
			b.Statuses[0].HashAlg = &cmpmsg.AlgorithmIdentifier{OID: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}}
		}), "error", "badCertId", "hashAlg"},
		{"certConf, recipNonce of nobody's", "", confirming(func(d *cmpDevice, _ *cmpmsg.CertConf) { d.peer = random(16) }), "error", "badRecipientNonce", "recipNonce"},
		{"certConf, another transactionID", "", confirming(func(d *cmpDevice, _ *cmpmsg.CertConf) { d.tid = random(16) }), "error", "badRequest", "no transaction"},
		{"certConf, signed, after an ir with a MAC", "", confirming(func(d *cmpDevice, _ *cmpmsg.CertConf) { signs(d, "known") }), "error", "wrongIntegrity", "begun with a MAC"},
		{"certConf by another's secret", "", confirming(func(d *cmpDevice, _ *cmpmsg.CertConf) { d.ref, d.secret = "other", []byte("what the others share") }), "error", "notAuthorized", "another requester"},
		{"certConf of what is confirmed", "", func() []byte {
			d := begun(nil)
			if m, err := d.exchange(d.certConf()); err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
				t.Fatalf("%v, %v", m, err)
			}
			return d.message(d.certConf())
		}, "error", "certConfirmed", "confirmed already"},
		{"certConf of what was rejected", "", func() []byte {
			d := begun(nil)
			if m, err := d.exchange(&cmpmsg.CertConf{}); err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
				t.Fatalf("%v, %v", m, err)
			}
			return d.message(d.certConf())
		}, "error", "certRevoked", "rejected"},
		{"pollReq without a transaction", "", func() []byte {
			return device().message(&cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}})
		}, "error", "badRequest", "no transaction"},

		// Revocation.
		{"rr with a MAC", `shared -cmd rr -oldcert mine.pem`, nil, "error", "wrongIntegrity", "an rr is signed"},
		{"rr of an unknown serial number", `cmp -cmd rr -cert mine.pem -key mine.key -oldcert known.pem`, nil, "rp", "badCertId", "no such certificate"},
		{"rr of another's certificate", `cmp -cmd rr -cert mine.pem -key mine.key -oldcert other.pem`, nil, "rp", "notAuthorized", "itself only"},
		{"rr without a serial number", "", func() []byte {
			d := signs(device(), "mine")
			return d.message(&cmpmsg.RevReq{Details: []cmpmsg.RevDetails{{Certificate: cmpmsg.CertTemplate{Issuer: certificates(t, filepath.Join(dir, "mine.pem"))[0].RawIssuer}}}})
		}, "rp", "addInfoNotAvailable", "serialNumber"},
		{"rr, certificateHold", `cmp -cmd rr -cert mine.pem -key mine.key -oldcert mine.pem -revreason 6`, nil, "rp", "notAuthorized", "for good"},
		{"rr, once more", `cmp -cmd rr -cert gone.pem -key gone.key -oldcert gone.pem -revreason 4`, nil, "rp", "certRevoked", "revoked"},
	} {
		by, script := "openssl", tt.script
		if tt.made != nil {
			by, script = "-reqin", `shared `+irWith+`-reqin made.der`
			if strings.HasSuffix(tt.name, notItsOwn) {
				by, script = "curl", `curl -sS --fail -H 'Content-Type: application/pkixcmp' --data-binary @made.der "$MUSTER_HTTP/.well-known/cmp" -o answer.der; false`
			}
			if err := os.WriteFile(filepath.Join(dir, "made.der"), tt.made(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.RemoveAll(filepath.Join(dir, "answer.der")); err != nil {
			t.Fatal(err)
		}
		before := len(g.ledger("")) // what the preparation made is there
		switch {
		case by == "curl":
		case strings.Contains(script, "-cmd rr"):
			script += " -rspout answer.der"
		default:
			script += " -rspout answer.der -certout not.pem"
		}
		out, code := g.run(dir, "sh", "-euc", prelude+script)
		if code == 0 {
			t.Errorf("%s: it was let in\n%s", tt.name, out)
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "answer.der")); err != nil {
			t.Errorf("%s: no answer\n%s", tt.name, out)
			continue
		}
		m := messageIn(t, dir, "answer.der")
		s := said(t, m)
		if m.Body.Type().String() != tt.answer || s.Status != cmpmsg.StatusRejection || s.FailInfo.String() != tt.fail || len(s.Text) != 1 || !strings.Contains(s.Text[0], tt.text) {
			t.Errorf("%s: %s, %s, %s, %q; want %s, %s, %q", tt.name, m.Body.Type(), s.Status, s.FailInfo, s.Text, tt.answer, tt.fail, tt.text)
		}
		// openssl verified the answer and shows it, where the message was its own.
		if tt.made == nil && !strings.Contains(out, tt.fail) {
			t.Errorf("%s: openssl shows\n%s", tt.name, out)
		}
		if m.Header.ProtectionAlg == nil || len(s.Text) == 1 && reference(s.Text[0]) == "" {
			t.Errorf("%s: unprotected, or without a reference: %q", tt.name, s.Text)
		}
		if after := len(g.ledger("")); after != before {
			t.Errorf("%s: %d certificates were issued", tt.name, after-before)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", tt.name, by, m.Body.Type(), s.Status, s.FailInfo, regexp.MustCompile(` \(reference .*\)$`).ReplaceAllString(strings.Join(s.Text, " / "), ""))
	}
	w.Flush()
	t.Logf("\n%s", table.String())
}
