package e2e

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	x509pkix "crypto/x509/pkix"

	"github.com/muster-pki/muster/cmd/muster/simulate"
	"github.com/muster-pki/muster/protocols/cms"
)

// scepKeys are what the benchmark's devices share: making an RSA key takes a hundred times as long as enrolling it.
var scepKeys = sync.OnceValues(func() ([]*scepKey, error) {
	keys := make([]*scepKey, 32)
	for i := range keys {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: x509pkix.Name{CommonName: "SCEP SIGNER"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			return nil, err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		keys[i] = &scepKey{key, cert}
	}
	return keys, nil
})

// scepKey is a device's key and its self-signed certificate.
type scepKey struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

// scepCSR is a PKCS #10 request with the challenge.
func scepCSR(key *rsa.PrivateKey, name, challenge string) ([]byte, error) {
	subject, err := asn1.Marshal(x509pkix.Name{CommonName: name}.ToRDNSequence())
	if err != nil {
		return nil, err
	}
	return simulate.ChallengeRequest(key, subject, challenge)
}

// pkcsReq is a PKCSReq for a name, signed with SHA-256.
func (k *scepKey) pkcsReq(name, challenge string, ra *x509.Certificate, cipher cms.Cipher) ([]byte, error) {
	csr, err := scepCSR(k.key, name, challenge)
	if err != nil {
		return nil, err
	}
	envelope, err := cms.Encrypt(csr, ra, cipher)
	if err != nil {
		return nil, err
	}
	return cms.Sign(cms.SignOptions{
		Content: envelope, Key: k.key, Certificate: k.cert, Certificates: []*x509.Certificate{k.cert}, Digest: crypto.SHA256,
		Attributes: []cms.Attribute{
			cms.AttributePrintable(cms.SCEPMessageType, "19"), cms.AttributePrintable(cms.SCEPTransactionID, "of "+name),
			cms.AttributeOctets(cms.SCEPSenderNonce, random(16)),
		},
	})
}

// scepRA is the certificate that SCEP's clients encrypt to.
func (g *instance) scepRA() (*x509.Certificate, error) {
	return scepRA(g.env["MUSTER_HTTP"] + "/scep")
}

// scepRA is the first certificate of a server's GetCACert, which may be one certificate or a list.
func scepRA(url string) (*x509.Certificate, error) {
	res, err := http.Get(url + "?operation=GetCACert")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	der, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if c, err := x509.ParseCertificate(der); err == nil {
		return c, nil
	}
	certs, err := cms.ParseCertsOnly(der, cms.Limits{})
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(certs[0])
}

// pkiOperation posts a message and returns the answer's envelope; an answer without SUCCESS is an error.
func (g *instance) pkiOperation(c *http.Client, message []byte) (envelope []byte, err error) {
	return pkiOperation(c, g.env["MUSTER_HTTP"]+"/scep", message)
}

// pkiOperation is the same at any server.
func pkiOperation(c *http.Client, url string, message []byte) (envelope []byte, err error) {
	res, err := c.Post(url+"?operation=PKIOperation", "application/x-pki-message", bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	der, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP %d: %s", res.StatusCode, der)
	}
	rep, err := cms.ParseSigned(der, cms.Limits{})
	if err != nil {
		return nil, err
	}
	if status, _ := rep.Attribute(cms.SCEPPKIStatus); !bytes.HasSuffix(status, []byte("0")) {
		return nil, fmt.Errorf("pkiStatus %q", status)
	}
	return rep.Content, nil
}

// scepCrypto measures, on this machine and now, what an enrollment over SCEP cannot do without, in nanoseconds: with private
// keys, opening the envelope and signing the certificate and the answer; with public keys, verifying the message, the
// request, the certificate in the CA before it leaves and in the gateway before it is handed out, and sealing the
// answer. All are RSA-2048 but the certificate's, which is as the CA's key.
func scepCrypto(b *testing.B, caBits int) (private, all float64) {
	b.Helper()
	keys, err := scepKeys()
	if err != nil {
		b.Fatal(err)
	}
	ra := keys[0].key
	ca := ra
	if caBits != 2048 {
		if ca, err = rsa.GenerateKey(rand.Reader, caBits); err != nil {
			b.Fatal(err)
		}
	}
	digest, session := random(32), random(24)
	//lint:ignore SA1019 RFC 8894 clients know no other key transport
	sealed, err := rsa.EncryptPKCS1v15(rand.Reader, &ra.PublicKey, session)
	if err != nil {
		b.Fatal(err)
	}
	sign := func(key *rsa.PrivateKey) []byte {
		signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest)
		if err != nil {
			b.Fatal(err)
		}
		return signature
	}
	verify := func(key *rsa.PrivateKey, signature []byte) {
		if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest, signature); err != nil {
			b.Fatal(err)
		}
	}
	const n = 200
	var public time.Duration
	defer ownThread()()
	start := threadTime(b)
	for range n {
		//lint:ignore SA1019 as above
		if err := rsa.DecryptPKCS1v15SessionKey(nil, ra, sealed, session); err != nil {
			b.Fatal(err)
		}
		ofRA, ofCA := sign(ra), sign(ca)
		between := threadTime(b)
		for range 2 {
			verify(ra, ofRA)
			verify(ca, ofCA)
		}
		//lint:ignore SA1019 as above
		if _, err := rsa.EncryptPKCS1v15(rand.Reader, &ra.PublicKey, session); err != nil {
			b.Fatal(err)
		}
		public += threadTime(b) - between
	}
	took := threadTime(b) - start
	return float64((took - public).Nanoseconds()) / n, float64(took.Nanoseconds()) / n
}

// startWithRSA runs a gateway whose RSA CA has a key of that size.
func startWithRSA(b *testing.B, bits int) *instance {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "data")
	// A configuration, as the quickstart writes it; its CA is made with the first start that uses it.
	startIn(b, dir).stop()
	if bits != 3072 {
		config := filepath.Join(dir, "muster.yaml")
		text, err := os.ReadFile(config)
		if err != nil {
			b.Fatal(err)
		}
		changed := strings.Replace(string(text), "        rsa: {", fmt.Sprintf("        rsa: {bits: %d, ", bits), 1)
		if changed == string(text) {
			b.Fatal("the quickstart's configuration has no local CA")
		}
		if err := os.WriteFile(config, []byte(changed), 0o600); err != nil {
			b.Fatal(err)
		}
		for _, name := range []string{"ca", "muster.db", "muster.db-wal", "muster.db-shm"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				b.Fatal(err)
			}
		}
	}
	return startIn(b, dir)
}

// BenchmarkEnrollSCEP is the whole way of a PKCSReq over plain HTTP, with RSA-2048 for the device, the RA and the CA, and
// with the CA's default, RSA-3072. cpu-µs/op is what gateway and plugin used together; private-µs/op is the sum of its
// operations with private RSA keys, crypto-µs/op that of all with RSA, both measured beside it.
func BenchmarkEnrollSCEP(b *testing.B) {
	for _, c := range []struct {
		name    string
		bits    int
		cipher  cms.Cipher
		clients int
	}{
		{"2048/AES/1-client", 2048, cms.AES128, 1},
		{"2048/AES/16-clients", 2048, cms.AES128, 16},
		{"2048/DES/1-client", 2048, cms.DES, 1}, // as scepclient
		{"3072/AES/1-client", 3072, cms.AES128, 1},
		{"3072/AES/16-clients", 3072, cms.AES128, 16},
	} {
		b.Run(c.name, func(b *testing.B) {
			keys, err := scepKeys()
			if err != nil {
				b.Fatal(err)
			}
			g := startWithRSA(b, c.bits)
			ra, err := g.scepRA()
			if err != nil {
				b.Fatal(err)
			}
			messages := make([][]byte, b.N+1)
			for i := range messages {
				if messages[i], err = keys[i%len(keys)].pkcsReq("bench-"+strconv.Itoa(i), g.env["MUSTER_SCEP_CHALLENGE"], ra, c.cipher); err != nil {
					b.Fatal(err)
				}
			}
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}
			envelope, err := g.pkiOperation(client, messages[b.N])
			if err != nil {
				b.Fatal(err)
			}
			k := keys[b.N%len(keys)]
			if sealed, err := cms.ParseEnveloped(envelope, cms.Limits{}); err != nil {
				b.Fatal(err)
			} else if _, err := sealed.Decrypt(k.key, k.cert); err != nil {
				b.Fatal(err)
			}
			private, all := scepCrypto(b, c.bits)
			g.measure(b, c.clients, func(i int) error {
				_, err := g.pkiOperation(client, messages[i])
				return err
			})
			b.ReportMetric(private/1000, "private-µs/op")
			b.ReportMetric(all/1000, "crypto-µs/op")
		})
	}
}
