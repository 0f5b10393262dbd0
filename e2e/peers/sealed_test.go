//go:build peers

package peers

import (
	"strings"
	"testing"
)

const sealedConfig = `profiles:
  device: {backend: local, validity: 90d}
  cipher: {backend: local, validity: 90d, key-usage: [digitalSignature, keyEncipherment]}
  agree: {backend: local, validity: 90d, key-usage: [digitalSignature, keyAgreement]}
endpoints:
  made:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    profiles: [agree]
    enroll:
      - anyOf:
          - shared-secret: {secrets: {factory: {file: factory.secret}}}
          - vendor-ca: {dir: vendor-ca}
      - keys: {generate: [P-256, P-384, Ed25519, RSA-2048]}
      - names: {}
    renew:
      - own-certificate: {}
      - keys: {generate: [P-256]}
  encrypted:
    protocol: cmp
    listeners: [http]
    profile: cipher
    profiles: [agree]
    enroll:
      - anyOf:
          - shared-secret: {secrets: {factory: {file: factory.secret}}}
          - vendor-ca: {dir: vendor-ca}
      - keys: {pop: [pending-confirm]}
      - names: {}
  held:
    protocol: cmp
    listeners: [http]
    profile: agree
    enroll:
      - shared-secret: {secrets: {factory: {file: factory.secret}}}
      - keys: {pop: [pending-confirm], generate: [P-256]}
      - names: {}
      - approval: {approvers: 1}
`

// Keys that the gateway makes, for each way in which they are encrypted (RFC 9483 section 4.1.6): BouncyCastle decrypts them and
// verifies who made them.
func TestGeneratedKeys(t *testing.T) {
	g := start(t, sealedConfig, vendor)
	for _, c := range []struct{ name, recipient, key, algorithm string }{
		{"password", "PasswordRecipientInformation", "EC", ""},
		{"password under PBMAC1", "PasswordRecipientInformation", "RSA", "RSA"},
		{"rsa", "KeyTransRecipientInformation", "EC", "P-384"},
		{"P-256", "KeyAgreeRecipientInformation", "EC", ""},
		{"P-384", "KeyAgreeRecipientInformation", "RSA", "RSA"},
		{"P-521", "KeyAgreeRecipientInformation", "Ed25519", "Ed25519"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"-cert", c.name + ".pem", "-key", c.name + ".key"}
			if kind, ok := strings.CutPrefix(c.name, "password"); ok {
				if args = mac; kind != "" {
					args = with(args, "-mac", "pbmac1")
				}
			}
			args = with(args, "-pvno", "3", "-subject", "CN=for "+c.name)
			if c.algorithm != "" {
				args = with(args, "-algorithm", c.algorithm)
			}
			s := g.bc(t, "made", "enroll", args...)
			s.is("recipient", c.recipient)
			s.is("cmKGA", "true")
			s.is("key", c.key)
			s.is("subject", "CN=for "+c.name)
			s.is("confirmed", "true")
		})
	}
	s := g.bc(t, "made", "enroll", "-pvno", "3", "-cert", "Ed25519.pem", "-key", "Ed25519.key", "-subject", "CN=x")
	s.is("status", "2")
	s = g.bc(t, "encrypted", "enroll", with(mac, "-pvno", "3", "-subject", "CN=x")...)
	s.is("failInfo", "notAuthorized")
}

// The same asked for by OpenSSL 3.5, which wants -trusted with a MAC, too: the key is signed.
func TestOpenSSL35GeneratedKeys(t *testing.T) {
	g := start(t, sealedConfig, vendor)
	for _, protection := range []string{"$mac $trusted", "-cert rsa.pem -key rsa.key $trusted", "-cert P-256.pem -key P-256.key $trusted", "-cert P-384.pem -key P-384.key $trusted"} {
		g.Sh(cmp + `rm -f made.key made.pem; new made -cmd ir -centralkeygen -newkeyout made.key -subject /CN=made ` + protection + ` -certout made.pem -extracertsout extra.pem
			good made.pem
			openssl pkey -in made.key -pubout >key.pub; openssl x509 -in made.pem -noout -pubkey >cert.pub; command cmp key.pub cert.pub`)
		if got := g.State("CN=made"); got != "issued" {
			t.Errorf("%s: the transaction is %s", protection, got)
		}
	}
	g.Sh(cmp + `new made -cmd ir -profile agree -centralkeygen -newkeyout first.key -subject /CN=life $mac $trusted -certout first.pem
		new made -cmd kur -centralkeygen -newkeyout second.key -cert first.pem -key first.key $trusted -certout second.pem -extracertsout extra.pem
		good second.pem
		openssl pkey -in second.key -pubout >key.pub; openssl x509 -in second.pem -noout -pubkey >cert.pub; command cmp key.pub cert.pub`)
}

// What is encrypted comes late, too: the request is held, the gateway restarted, the request approved, the gateway restarted.
func TestSealedAfterARestart(t *testing.T) {
	g := start(t, sealedConfig, vendor)
	for name, args := range map[string][]string{
		"a generated key":          nil,
		"an encrypted certificate": {"-newkey", "P-256", "-pop", "agreement"},
	} {
		t.Run(name, func(t *testing.T) {
			ask := with(mac, "-pvno", "3", "-state", strings.ReplaceAll(name, " ", "-")+".state")
			g.bc(t, "held", "enroll", with(ask, with(args, "-subject", "CN="+name)...)...).is("status", "3")
			g.Again()
			g.Muster("approve", g.Transactions(name)[0].ID, "--reason", "it is on the list")
			g.Again()
			s := g.bc(t, "held", "poll", with(ask, args...)...)
			s.is("subject", "CN="+name)
			s.is("confirmed", "true")
			if got := g.State(name); got != "issued" {
				t.Errorf("the transaction is %s", got)
			}
		})
	}
}

// Possession proven by decrypting the certificate (RFC 9810 section 5.2.8.3.2): EnvelopedData under version 3, EncryptedValue under 2.
func TestEncryptedCertificates(t *testing.T) {
	g := start(t, sealedConfig, vendor)
	for _, c := range []struct{ name, version, key, pop, profile, encrypted string }{
		{"RSA under version 3", "3", "RSA-2048", "encipherment", "cipher", "KeyTransRecipientInformation"},
		{"RSA under version 2", "2", "RSA-2048", "encipherment", "cipher", "EncryptedValue"},
		{"P-256", "3", "P-256", "agreement", "agree", "KeyAgreeRecipientInformation"},
		{"P-521", "3", "P-521", "agreement", "agree", "KeyAgreeRecipientInformation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := g.bc(t, "encrypted", "enroll", with(mac, "-pvno", c.version, "-newkey", c.key, "-pop", c.pop, "-profile", c.profile, "-subject", "CN="+c.name)...)
			s.is("encrCert", c.encrypted)
			s.is("subject", "CN="+c.name)
			s.is("confirmed", "true")
			if got := g.State("CN=" + c.name); got != "issued" {
				t.Errorf("the transaction is %s", got)
			}
		})
	}
	s := g.bc(t, "encrypted", "enroll", with(mac, "-newkey", "P-256", "-pop", "agreement", "-profile", "agree", "-subject", "CN=x")...)
	s.is("failInfo", "badPOP")

	// Both versions of OpenSSL, with a MAC and signed.
	g.Sh("openssl genrsa -out rsa-new.key 2048 2>/dev/null")
	for _, tool := range []string{"openssl", `"$NEW"`} {
		for _, protection := range []string{"$mac", "$vendor"} {
			g.Sh(cmp + `rm -f enc.pem; with ` + tool + ` encrypted -cmd ir -popo 2 -newkey rsa-new.key -subject /CN=enc ` + protection + ` -certout enc.pem -extracertsout extra.pem; good enc.pem`)
			if got := g.State("CN=enc"); got != "issued" {
				t.Errorf("%s, %s: the transaction is %s", tool, protection, got)
			}
		}
	}
}
