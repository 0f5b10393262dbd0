//go:build peers

package peers

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// said is what the BouncyCastle client printed: values by name, in order.
type said struct {
	t      *testing.T
	text   string
	values map[string][]string
}

// bc runs a command of the client in bc/ against an endpoint. It fails where BouncyCastle found the server to break the protocol.
func (g *gateway) bc(t *testing.T, endpoint, command string, args ...string) said {
	t.Helper()
	all := []string{"-XX:TieredStopAtLevel=1", "-cp", classes + ":" + jars(), "Peer", command, "-url", g.URL + "/.well-known/cmp/p/" + endpoint, "-root", filepath.Join("ca", "roots.pem")}
	out, ok := g.Run("java", append(all, args...)...)
	if !ok || !strings.Contains(out, "end: ok\n") {
		t.Fatalf("%s %s\n%s\n%s", command, args, out, g.Log)
	}
	return parseSaid(t, out)
}

func parseSaid(t *testing.T, out string) said {
	s := said{t, out, map[string][]string{}}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			s.values[name] = append(s.values[name], value)
		}
	}
	return s
}

// is checks what was said under a name.
func (s said) is(name string, want ...string) {
	s.t.Helper()
	if !slices.Equal(s.values[name], want) {
		s.t.Errorf("%s is %q, want %q, in\n%s", name, s.values[name], want, s.text)
	}
}

var mac = []string{"-ref", "factory", "-secret", secret}

// with appends to a copy.
func with(list []string, more ...string) []string { return append(slices.Clone(list), more...) }

const bcConfig = `profiles:
  device: {backend: local, validity: 90d}
  derived: {backend: local, validity: 90d, subject: "CN=derived"}
endpoints:
  vendor:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - vendor-ca: {dir: vendor-ca}
      - names: {}
    renew: [own-certificate: {}]
    revoke: [own-certificate: {}]
  factory:
    protocol: cmp
    listeners: [http]
    profile: device
    enroll:
      - shared-secret: {secrets: {factory: {file: factory.secret}}}
      - names: {}
  derived:
    protocol: cmp
    listeners: [http]
    profile: derived
    enroll:
      - anyOf:
          - shared-secret: {secrets: {factory: {file: factory.secret}}}
          - vendor-ca: {dir: vendor-ca}
  held:
    protocol: cmp
    listeners: [http]
    profile: device
    enroll:
      - shared-secret: {secrets: {factory: {file: factory.secret}}}
      - names: {}
      - approval: {approvers: 1}
`

// The client believes nobody whose certificate does not lead to its roots.
func TestClientIsStrict(t *testing.T) {
	g := start(t, bcConfig, vendor)
	out, ok := g.Run("java", "-cp", classes+":"+jars(), "Peer", "enroll", "-url", g.URL+"/.well-known/cmp/p/vendor", "-root", "vendor-ca/ca.pem",
		"-cert", "P-256.pem", "-key", "P-256.key", "-newkey", "P-256", "-subject", "CN=x")
	if ok || !strings.Contains(out, "CertPathBuilderException") {
		t.Error(out)
	}
}

// ir, certConf and pkiConf with each kind of signature that BouncyCastle makes, and each kind of key certified.
func TestSignatures(t *testing.T) {
	g := start(t, bcConfig, vendor)
	for _, c := range []struct{ name, signer, sig, newkey, popsig string }{
		{"RSA-PSS", "rsa", "SHA256withRSAandMGF1", "RSA-2048", "SHA256withRSAandMGF1"},
		{"RSA-PSS with SHA-512", "rsa", "SHA512withRSAandMGF1", "P-256", "SHA256withECDSA"},
		{"RSA PKCS 1", "rsa", "SHA384withRSA", "RSA-2048", "SHA512withRSA"},
		{"P-256", "P-256", "SHA256withECDSA", "P-256", "SHA256withECDSA"},
		{"P-384", "P-384", "SHA384withECDSA", "P-384", "SHA384withECDSA"},
		{"P-521", "P-521", "SHA512withECDSA", "P-521", "SHA512withECDSA"},
		{"Ed25519", "Ed25519", "Ed25519", "Ed25519", "Ed25519"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := g.bc(t, "vendor", "enroll", "-body", "ir", "-cert", c.signer+".pem", "-key", c.signer+".key", "-sig", c.sig,
				"-newkey", c.newkey, "-popsig", c.popsig, "-subject", "CN="+c.name)
			s.is("status", "0")
			s.is("subject", "CN="+c.name)
			s.is("protection", "signature", "signature")
			s.is("confirmed", "true")
			if got := g.State(c.name); got != "issued" {
				t.Errorf("the transaction is %s", got)
			}
		})
	}
}

// Both kinds of MAC (RFC 9810 section 5.1.3.1): the answers' are verified by BouncyCastle and have the kind of the request's.
func TestMACs(t *testing.T) {
	g := start(t, bcConfig, vendor)
	for _, kind := range []string{"pbm", "pbmac1", "pbmac1-bc"} {
		upper := strings.ToUpper(strings.TrimSuffix(kind, "-bc"))
		for _, body := range []string{"ir", "cr", "p10cr"} {
			for _, implicit := range []bool{false, true} {
				if (implicit || kind == "pbmac1-bc") && body != "ir" {
					continue
				}
				name := kind + " " + body
				args := with(mac, "-mac", kind, "-body", body, "-newkey", "P-256", "-subject", "CN="+name)
				confirmed, protections := []string{"true"}, []string{upper, upper}
				if implicit {
					name += " implicit"
					args = with(mac, "-mac", kind, "-body", body, "-newkey", "P-256", "-subject", "CN="+name, "-implicit", "yes")
					confirmed, protections = nil, protections[:1]
				}
				t.Run(name, func(t *testing.T) {
					s := g.bc(t, "factory", "enroll", args...)
					s.is("status", "0")
					s.is("subject", "CN="+name)
					s.is("protection", protections...)
					s.is("confirmed", confirmed...)
					if body == "ir" {
						s.is("caPubs", "1")
					}
					if got := g.State(name); got != "issued" {
						t.Errorf("the transaction is %s", got)
					}
				})
			}
		}
	}
	s := g.bc(t, "factory", "enroll", "-ref", "factory", "-secret", "wrong", "-mac", "pbmac1", "-newkey", "P-256", "-subject", "CN=x")
	s.is("failInfo", "badMessageCheck")
	s.is("protection", "signature")
}

// kur and rr, signed by the certificate that is updated and by the one that is revoked.
func TestUpdateAndRevocation(t *testing.T) {
	g := start(t, bcConfig, vendor)
	g.bc(t, "vendor", "enroll", "-cert", "rsa.pem", "-key", "rsa.key", "-sig", "SHA256withRSAandMGF1", "-newkey", "RSA-2048", "-subject", "CN=updated",
		"-certout", "first.pem", "-keyout", "first.key").is("confirmed", "true")
	s := g.bc(t, "vendor", "enroll", "-body", "kur", "-cert", "first.pem", "-key", "first.key", "-sig", "SHA256withRSAandMGF1", "-oldcert", "first.pem",
		"-newkey", "P-256", "-subject", "CN=updated", "-certout", "second.pem", "-keyout", "second.key")
	s.is("status", "0")
	s.is("confirmed", "true")
	s.is("body", "8")

	// Another's certificate, and then its own.
	s = g.bc(t, "vendor", "rr", "-cert", "P-256.pem", "-key", "P-256.key", "-oldcert", "second.pem")
	s.is("status", "2")
	s = g.bc(t, "vendor", "rr", "-cert", "second.pem", "-key", "second.key", "-oldcert", "second.pem", "-reason", "1")
	s.is("status", "0")
	s.is("body", "12")
	s = g.bc(t, "vendor", "enroll", "-body", "kur", "-cert", "second.pem", "-key", "second.key", "-newkey", "P-256", "-subject", "CN=updated")
	s.is("failInfo", "certRevoked")
}

// poposkInput (RFC 4211 section 4.1), in templates without a subject: the name that the message's signature shows, or a MAC over the key.
func TestPOPOInput(t *testing.T) {
	g := start(t, bcConfig, vendor)
	for _, c := range []struct {
		name, status, fail string
		args               []string
	}{
		{"publicKeyMAC", "0", "", with(mac, "-pop", "mac")},
		{"publicKeyMAC under PBMAC1", "0", "", with(mac, "-pop", "mac", "-mac", "pbmac1")},
		{"another secret", "2", "badPOP", with(mac, "-pop", "mac", "-popsecret", "wrong")},
		{"sender", "0", "", []string{"-pop", "sender", "-cert", "P-256.pem", "-key", "P-256.key"}},
		{"another sender", "2", "badPOP", []string{"-pop", "sender", "-popsender", "CN=somebody", "-cert", "P-256.pem", "-key", "P-256.key"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := g.bc(t, "derived", "enroll", with(c.args, "-newkey", "P-256")...)
			if c.fail != "" {
				s.is("status", c.status)
				s.is("failInfo", c.fail)
				return
			}
			s.is("confirmed", "true")
			s.is("subject", "CN=derived")
		})
	}
}

// The certHash is made with the hash of the certificate's signature, for Ed25519 SHA-512 (RFC 9810 section 5.3.18, RFC 9481 section 3.3): so say
// BouncyCastle and OpenSSL, each by itself.
func TestCertHash(t *testing.T) {
	config := "profiles:\n"
	endpoints := "endpoints:\n"
	issuers := []string{"ec", "rsa", "p384", "ed"}
	for _, name := range issuers {
		config += "  " + name + ": {backend: local, issuer: " + name + "}\n"
		endpoints += "  " + name + ": {protocol: cmp, listeners: [http], profile: " + name +
			", enroll: [shared-secret: {secrets: {factory: {file: factory.secret}}}, names: {}]}\n"
	}
	g := start(t, config+strings.Replace(endpoints, "protocol: cmp", "protocol: cmp, default: true", 1))
	for _, name := range issuers {
		for _, version := range []string{"2", "3"} {
			s := g.bc(t, name, "enroll", with(mac, "-pvno", version, "-newkey", "P-256", "-subject", "CN="+name+version)...)
			s.is("status", "0")
			s.is("confirmed", "true")
		}
		for _, tool := range []string{"openssl", `"$NEW"`} {
			out, ok := g.Run("sh", "-euc", cmp+`key new.key; with `+tool+" "+name+` -cmd ir $mac -newkey new.key -subject /CN=`+name+` -certout new.pem`)
			if got := g.State("CN=" + name); !ok || got != "issued" {
				t.Errorf("%s, %s: the transaction is %s\n%s", tool, name, got, out)
			}
		}
	}
}

// What a device can ask: read by BouncyCastle's classes, the CRLs and CA certificates verified.
func TestGeneralMessages(t *testing.T) {
	g := start(t, bcConfig, vendor)
	g.bc(t, "factory", "enroll", with(mac, "-newkey", "P-256", "-subject", "CN=asker", "-certout", "asker.pem", "-keyout", "asker.key")...).is("confirmed", "true")
	for _, protection := range [][]string{with(mac, "-mac", "pbm"), with(mac, "-mac", "pbmac1"), {"-cert", "asker.pem", "-key", "asker.key"}} {
		s := g.bc(t, "factory", "genm", with(protection, "-issued", "asker.pem")...)
		s.is("body", "22")
		s.is("caCert", "O=Muster,CN=Muster Issuing CA", "O=Muster,CN=Muster Root CA")
		s.is("templateSubject", "CN=")
		s.is("rsaKeyLen", "2048", "3072", "4096")
		s.is("currentCRL", "0 revoked, by O=Muster,CN=Muster Issuing CA")
		s.is("crl", "0 revoked, by O=Muster,CN=Muster Issuing CA")
		s.is("preferredSymmAlg", "2.16.840.1.101.3.4.1.42")
		s.is("absent", "1.3.6.1.5.5.7.4.18") // rootCaKeyUpdate: the root is the current one
		s.is("unsupported", "1.3.6.1.4.1.99999.1")
	}
}

// A held request is approved while the gateway is restarted; another run of the client fetches its certificate.
func TestPollAfterARestart(t *testing.T) {
	g := start(t, bcConfig, vendor)
	for _, kind := range []string{"pbm", "pbmac1"} {
		name := "held-" + kind
		ask := with(mac, "-mac", kind, "-state", name+".state")
		s := g.bc(t, "held", "enroll", with(ask, "-newkey", "P-256", "-subject", "CN="+name)...)
		s.is("status", "3")
		g.Again()
		s = g.bc(t, "held", "poll", ask...)
		s.is("body", "26")
		g.Muster("approve", g.Transactions(name)[0].ID, "--reason", "it is on the list")
		g.Again()
		s = g.bc(t, "held", "poll", ask...)
		s.is("subject", "CN="+name)
		s.is("confirmed", "true")
		if got := g.State(name); got != "issued" {
			t.Errorf("the transaction is %s", got)
		}
	}
}
