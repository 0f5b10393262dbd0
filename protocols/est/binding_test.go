package est

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// A connection without a binding cannot verify a value, so that the value is refused.
func TestNoChannelBinding(t *testing.T) {
	if linked, err := checkBinding("", "tls-unique", []binding{{"challengePassword", ""}}); linked || err == nil || !strings.Contains(err.Error(), "no channel binding") {
		t.Errorf("%v, %v", linked, err)
	}
	if linked, err := checkBinding("", "tls-unique", nil); linked || err != nil {
		t.Errorf("%v, %v", linked, err)
	}
	if got := channelBinding(&tls.ConnectionState{Version: tls.VersionTLS12}); got != "" {
		t.Errorf("%q", got)
	}
	// Of TLS that ends at a proxy there are the certificates, and nothing to export from.
	proxied := &tls.ConnectionState{HandshakeComplete: true}
	if got := channelBinding(proxied); got != "" {
		t.Errorf("%q", got)
	}
	if linked, err := checkBinding(channelBinding(proxied), bindingName(proxied), []binding{{"challengePassword", ""}}); linked || err == nil || !strings.Contains(err.Error(), "TLS ends at a proxy") {
		t.Errorf("%v, %v", linked, err)
	}
}

// A refusal names the attribute that is wrong (RFC 7894 section 4: each on its own), and what belongs there.
func TestWrongBindingIsNamed(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for version, kind := range map[uint16]string{tls.VersionTLS12: "tls-unique (RFC 7030 section 3.5)", tls.VersionTLS13: "tls-exporter (RFC 9266)"} {
		client := w.client(nil, nil, func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
		own := channelBinding(send(t, client, w.request(http.MethodGet, root+"/cacerts", nil)).TLS)
		challenge := func(v string) []byte { return attribute(oidChallengePassword, printable(v)) }
		linking := func(v string) []byte { return attribute(oidIdentityLinking, printable(v)) }
		for want, attributes := range map[string][][]byte{
			"the request's challengePassword is not":  {challenge("d3Jvbmc="), linking(own)},
			"the request's estIdentityLinking is not": {challenge(own), linking("d3Jvbmc=")},
		} {
			got := send(t, client, w.enrollment(root+"/simpleenroll", b64(makeCSR(t, csrOptions{key: newP256(), attributes: attributes}))))
			if got.StatusCode != 400 || !strings.Contains(got.body, want) || !strings.Contains(got.body, "the base64 of "+kind+" (reference") {
				t.Errorf("TLS %x: %d %q", version, got.StatusCode, got.body)
			}
		}
	}
}

// RFC 7030 section 3.7: what an RA passes on is bound to the device's connection with the RA, which is not verified.
func TestRegistrationAuthority(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		w := newWorld(t, worldOptions{})
		raCert, raKey := w.device("RA 1")
		deviceCert, deviceKey := w.device("device-0001")
		downCert, downKey := w.device("RA 2")
		asked := 0
		w.gateway.ra = func(endpoint string, c gateway.Credential, speaks bool) *gateway.Error {
			asked++
			if endpoint != "plant" || c.Kind != gateway.CredentialTLS || !speaks {
				t.Errorf("asked about %s at %s, speaks %t", c, endpoint, speaks)
			}
			switch {
			case c.Chain[0].Equal(raCert):
				return nil
			case c.Chain[0].Equal(downCert):
				return gateway.Errorf(gateway.Unavailable, "the registration authority cannot be judged now", "no list")
			}
			return gateway.Errorf(gateway.NotAuthorized, "", "not an RA")
		}
		connect := func(cert *x509.Certificate, key crypto.Signer) *http.Client {
			return w.client(cert, key, func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
		}
		ra, device, down, nobody := connect(raCert, raKey), connect(deviceCert, deviceKey), connect(downCert, downKey), connect(nil, nil)
		own := channelBinding(send(t, ra, w.request(http.MethodGet, root+"/cacerts", nil)).TLS)
		foreign := channelBinding(send(t, nobody, w.request(http.MethodGet, root+"/cacerts", nil)).TLS)
		password := attribute(oidChallengePassword, printable(foreign))
		linking := attribute(oidIdentityLinking, printable(foreign))
		for _, c := range []struct {
			name, operation string
			client          *http.Client
			csr             csrOptions
			status          int
			reason          gateway.Reason // where it is refused here
			detail          string
			relayed         bool
			pop             gateway.POP
			asks            int
		}{
			{"challengePassword", "simpleenroll", ra, csrOptions{attributes: [][]byte{password}}, 200, "", "", true, gateway.POPSignature, 1},
			{"estIdentityLinking", "simpleenroll", ra, csrOptions{attributes: [][]byte{linking}}, 200, "", "", true, gateway.POPSignature, 1},
			{"both", "simpleenroll", ra, csrOptions{attributes: [][]byte{password, linking}}, 200, "", "", true, gateway.POPSignature, 1},
			{"neither", "simpleenroll", ra, csrOptions{}, 200, "", "", false, gateway.POPSignature, 0},
			{"its own", "simpleenroll", ra, csrOptions{attributes: [][]byte{attribute(oidChallengePassword, printable(own))}}, 200, "", "", false, gateway.POPLinked, 0},
			{"one its own, one not", "simpleenroll", ra, csrOptions{attributes: [][]byte{attribute(oidChallengePassword, printable(own)), linking}}, 200, "", "", true, gateway.POPSignature, 1},
			{"the signature is wrong", "simpleenroll", ra, csrOptions{attributes: [][]byte{password}, breakSig: true}, 400, gateway.BadPOP, "signature does not verify", false, "", 0},
			{"otpChallenge", "simpleenroll", ra, csrOptions{attributes: [][]byte{attribute(oidOTPChallenge, printable("1"))}}, 400, gateway.BadTemplate, "otpChallenge", false, "", 0},
			{"not an RA", "simpleenroll", device, csrOptions{attributes: [][]byte{password}}, 400, gateway.BadPOP, "challengePassword is not the channel binding", false, "", 1},
			{"an RA that cannot be judged", "simpleenroll", down, csrOptions{attributes: [][]byte{password}}, 503, gateway.Unavailable, "cannot be judged", false, "", 1},
			{"no certificate", "simpleenroll", nobody, csrOptions{attributes: [][]byte{attribute(oidChallengePassword, printable(own))}}, 400, gateway.BadPOP, "", false, "", 0},

			{"for a device", "simplereenroll", ra, csrOptions{}, 403, gateway.NotAuthorized, "use /simpleenroll for the device", false, "", 1},
			{"for a device, bound", "simplereenroll", ra, csrOptions{attributes: [][]byte{password}}, 403, gateway.NotAuthorized, "use /simpleenroll for the device", false, "", 1},
			{"the RA's own", "simplereenroll", ra, csrOptions{subject: "RA 1"}, 200, "", "", false, gateway.POPSignature, 0},
			{"the RA's own, bound", "simplereenroll", ra, csrOptions{subject: "RA 1", attributes: [][]byte{attribute(oidIdentityLinking, printable(own))}}, 200, "", "", false, gateway.POPLinked, 0},
			{"the RA's own, bound elsewhere", "simplereenroll", ra, csrOptions{subject: "RA 1", attributes: [][]byte{password}}, 400, gateway.BadPOP, "", false, "", 0},
			{"a device's own", "simplereenroll", device, csrOptions{}, 200, "", "", false, gateway.POPSignature, 0},
			// Whether the names may differ is the pipeline's to say.
			{"another device's", "simplereenroll", device, csrOptions{subject: "device-0002"}, 200, "", "", false, gateway.POPSignature, 1},
			{"another's, cannot be judged", "simplereenroll", down, csrOptions{}, 200, "", "", false, gateway.POPSignature, 1},
			{"another's, bound, cannot be judged", "simplereenroll", down, csrOptions{attributes: [][]byte{password}}, 503, gateway.Unavailable, "", false, "", 1},
		} {
			asked = 0
			c.csr.key = newP256()
			der := makeCSR(t, c.csr)
			got := send(t, c.client, w.enrollment(root+"/plant/"+c.operation, b64(der)))
			if got.StatusCode != c.status || asked != c.asks {
				t.Errorf("TLS %x, %s, %s: %d %q, asked %d times", version, c.operation, c.name, got.StatusCode, got.body, asked)
				continue
			}
			if c.reason != "" {
				if e := w.gateway.lastRejected(t).err; e.Reason != c.reason || !strings.Contains(got.body, c.detail) {
					t.Errorf("TLS %x, %s, %s: %s %q", version, c.operation, c.name, e.Reason, got.body)
				}
				continue
			}
			r := w.gateway.lastEnrolled(t)
			noted := strings.Contains(strings.Join(r.Notes, "\n"), "as an RA passes it on")
			if r.POP != c.pop || r.Relayed != c.relayed || noted != c.relayed || !bytes.Equal(r.CSR, der) {
				t.Errorf("TLS %x, %s, %s: POP %s, relayed %t, notes %q", version, c.operation, c.name, r.POP, r.Relayed, r.Notes)
			}
		}
	}
}
