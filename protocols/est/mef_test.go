package est

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// mefWorld serves an MEF under the label plant, beside a plain endpoint.
func mefWorld(t *testing.T, c Config) (w *world, later *atomic.Int64) {
	t.Helper()
	c.Type = TypeMEF
	w = newWorld(t, worldOptions{endpoints: []Endpoint{{Name: "ran", Default: true}, {Name: "plant", Config: c}}})
	w.gateway.accepts = false // as pipelines of the type do
	w.gateway.profile = &gateway.Profile{Keys: []string{"P-256"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{clientAuth}, Shaper: asks{}}
	later = new(atomic.Int64)
	w.handler.now = func() time.Time { return testTime.Add(time.Duration(later.Load())) }
	return w, later
}

// registers has the gateway know the certificate's holder.
func (w *world) registers(cert *x509.Certificate, kind string) {
	w.gateway.registered = func(credentials []gateway.Credential) (*gateway.Registration, *gateway.Error) {
		if len(credentials) != 1 || credentials[0].Kind != gateway.CredentialTLS || !credentials[0].Chain[0].Equal(cert) {
			return nil, gateway.Errorf(gateway.NotAuthorized, "this client is not known here", "another certificate")
		}
		return &gateway.Registration{Type: kind, Value: "x"}, nil
	}
}

func tls12(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }

// oneM2M TS-0003 clause 8.3.6.2.1: both sides authenticate, on every operation, and HTTP authentication is not used.
func TestMEFClientsAuthenticate(t *testing.T) {
	w, _ := mefWorld(t, Config{})
	mine, key := w.device("ae")
	strange, strangeKey := w.device("stranger")
	w.registers(mine, gateway.KindAEID)
	w.gateway.crls = func(string) ([]gateway.CurrentCRL, error) {
		return nil, gateway.Errorf(gateway.UnknownCert, "none", "none")
	}
	w.gateway.query = func(*gateway.Request) (*gateway.Result, error) {
		return nil, gateway.Errorf(gateway.UnknownCert, "none", "none")
	}
	body := b64(makeCSR(t, csrOptions{key: newP256()}))
	path := root + "/plant/"
	const handshake = "clients authenticate here with a certificate in the TLS handshake"
	for _, segment := range []string{"cacerts", "csrattrs", "crls", "eecerts", "simpleenroll", "simplereenroll", "serverkeygen", "fullcmc"} {
		ask := func() *http.Request {
			if strings.HasSuffix(segment, "s") {
				return w.request(http.MethodGet, path+segment, nil)
			}
			return w.enrollment(path+segment, body)
		}
		for name, set := range map[string]func(*http.Request){
			"nothing": func(*http.Request) {}, "a password": func(r *http.Request) { r.SetBasicAuth("u", "p") },
		} {
			r := ask()
			set(r)
			got := send(t, w.client(nil, nil, nil), r)
			if got.StatusCode != 403 || !strings.Contains(got.body, handshake) || got.Header.Get("WWW-Authenticate") != "" {
				t.Errorf("%s with %s: %d %q %v", segment, name, got.StatusCode, got.body, got.Header)
			}
		}
	}
	for _, segment := range []string{"cacerts", "csrattrs", "crls"} {
		got := send(t, w.client(strange, strangeKey, nil), w.request(http.MethodGet, path+segment, nil))
		if got.StatusCode != 403 || !strings.Contains(got.body, "this client is not known here") {
			t.Errorf("%s: %d %q", segment, got.StatusCode, got.body)
		}
		if c := w.gateway.lastRejected(t).request.Credentials; len(c) != 1 || c[0].ID != gateway.Fingerprint(strange) {
			t.Errorf("%s: noted %v", segment, c)
		}
		want := map[string]int{"cacerts": 200, "csrattrs": 200, "crls": 400}[segment]
		if got := send(t, w.client(mine, key, nil), w.request(http.MethodGet, path+segment, nil)); (got.StatusCode == 200) != (want == 200) || got.StatusCode == 403 {
			t.Errorf("%s: %d %q", segment, got.StatusCode, got.body)
		}
	}
	w.gateway.registered = func([]gateway.Credential) (*gateway.Registration, *gateway.Error) {
		return nil, &gateway.Error{Reason: gateway.Unavailable, Detail: "later"}
	}
	if got := send(t, w.client(mine, key, nil), w.request(http.MethodGet, path+"csrattrs", nil)); got.StatusCode != 503 {
		t.Errorf("%d %q", got.StatusCode, got.body)
	}
	// The other endpoint is as it was.
	if got := send(t, w.client(nil, nil, nil), w.request(http.MethodGet, root+"/ran/cacerts", nil)); got.StatusCode != 200 {
		t.Errorf("%d %q", got.StatusCode, got.body)
	}
}

// oneM2M TS-0003 clause 8.3.6.2.2: csrattrs has a challengePassword, and the identity attribute for the type of identifier that is registered for the
// client: the extension for those who read RFC 8951, its kind of name for those who read RFC 9908.
func TestMEFCSRAttrs(t *testing.T) {
	for kind, tag := range map[string]byte{gateway.KindCSEID: 0x82, gateway.KindAEID: 0x86, gateway.KindNodeID: 0x86} {
		for _, form := range []CSRAttrs{CSRAttrsAuto, CSRAttrsTemplate, ""} {
			w, _ := mefWorld(t, Config{CSRAttrs: form})
			mine, key := w.device("x")
			w.registers(mine, kind)
			client := w.client(mine, key, nil)
			first := send(t, client, w.request(http.MethodGet, root+"/plant/csrattrs", nil))
			der, err := base64.StdEncoding.DecodeString(first.body)
			if err != nil || first.StatusCode != 200 {
				t.Fatalf("%d %q", first.StatusCode, first.body)
			}
			lines := asked(t, der)
			if !strings.HasPrefix(lines, oidChallengePassword.String()+"\n1.2.840.10045.2.1 = 1.2.840.10045.3.1.7\n") || !strings.HasSuffix(lines, "\n1.2.840.10045.4.3.2") {
				t.Errorf("%s, %q: %s", kind, form, lines)
			}
			// The template: subjectAltName with one empty name of the tag; the purposes, which a renewal must not change (8.3.6.2.3).
			if !bytes.Contains(der, []byte{0x06, 3, 0x55, 0x1d, 0x11, 4, 4, 0x30, 2, tag, 0}) || !bytes.Contains(der, []byte{0x06, 3, 0x55, 0x1d, 0x25}) {
				t.Errorf("%s, %q: %x", kind, form, der)
			}
			older := oidExtensionRequest.String() + " = " + oidSubjectAltName.String()
			if strings.Contains(lines, older) != (form != CSRAttrsTemplate) {
				t.Errorf("%s, %q: %s", kind, form, lines)
			}
			if again := send(t, client, w.request(http.MethodGet, root+"/plant/csrattrs", nil)); again.body != first.body {
				t.Errorf("%s: another answer", kind)
			}
			// What is kept is for the profile and the type alone.
			other := map[string]string{gateway.KindCSEID: gateway.KindAEID, gateway.KindAEID: gateway.KindCSEID, gateway.KindNodeID: gateway.KindCSEID}[kind]
			w.registers(mine, other)
			if got := send(t, client, w.request(http.MethodGet, root+"/plant/csrattrs", nil)); got.body == first.body {
				t.Errorf("%s: the same as for %s", other, kind)
			}
			w.registers(mine, kind)
			w.gateway.profile = &gateway.Profile{Keys: []string{"P-384"}}
			if got := send(t, client, w.request(http.MethodGet, root+"/plant/csrattrs", nil)); got.body == first.body {
				t.Errorf("%s: the profile that was", kind)
			}
		}
	}
	w, _ := mefWorld(t, Config{})
	mine, key := w.device("x")
	w.registers(mine, "serial")
	if got := send(t, w.client(mine, key, nil), w.request(http.MethodGet, root+"/plant/csrattrs", nil)); got.StatusCode != 500 {
		t.Errorf("%d", got.StatusCode)
	}
}

// oneM2M TS-0003 clauses 8.3.6.2.2 and 8.3.6.2.3: each request carries a challengePassword, which is verified: the channel binding, or what csrattrs
// has supplied where the endpoint does that: to this client, here, in the last 10 minutes or the 10 before.
func TestMEFChallengePassword(t *testing.T) {
	for _, supplies := range []bool{false, true} {
		c := Config{}
		if supplies {
			c.Challenge = ChallengeSupplied
		}
		w, later := mefWorld(t, c)
		mine, key := w.device("mine")
		other, otherKey := w.device("other")
		w.gateway.registered = func([]gateway.Credential) (*gateway.Registration, *gateway.Error) {
			return &gateway.Registration{Type: gateway.KindAEID, Value: "x"}, nil
		}
		supplied := func(cert *x509.Certificate, key crypto.Signer) string {
			got := send(t, w.client(cert, key, tls12), w.request(http.MethodGet, root+"/plant/csrattrs", nil))
			der, err := base64.StdEncoding.DecodeString(got.body)
			var list []asn1.RawValue
			if err == nil {
				_, err = asn1.Unmarshal(der, &list)
			}
			var a struct {
				Type   asn1.ObjectIdentifier
				Values []string `asn1:"set"`
			}
			if err == nil && supplies {
				_, err = asn1.Unmarshal(list[0].FullBytes, &a)
			}
			if err != nil {
				t.Fatal(err)
			}
			if !supplies {
				return ""
			}
			if !a.Type.Equal(oidChallengePassword) || len(a.Values) != 1 || len(a.Values[0]) != 44 {
				t.Fatalf("%+v", a)
			}
			return a.Values[0]
		}
		value, theirs := supplied(mine, key), supplied(other, otherKey)
		if supplies && (value == theirs || value != supplied(mine, key)) {
			t.Error("not one value a client")
		}
		client := w.client(mine, key, tls12)
		own := channelBinding(send(t, client, w.request(http.MethodGet, root+"/plant/cacerts", nil)).TLS)
		challenge := func(v string) []byte { return attribute(oidChallengePassword, printable(v)) }
		linking := func(v string) []byte { return attribute(oidIdentityLinking, printable(v)) }
		const none = "the request has no challengePassword, which /csrattrs asks for"
		for name, q := range map[string]struct {
			attributes [][]byte
			later      time.Duration
			want       string // "" when it passes
		}{
			"the channel binding":          {attributes: [][]byte{challenge(own)}},
			"both attributes":              {attributes: [][]byte{challenge(own), linking(own)}},
			"nothing":                      {want: none},
			"estIdentityLinking alone":     {attributes: [][]byte{linking(own)}, want: none},
			"another value":                {attributes: [][]byte{challenge("d3Jvbmc=")}, want: "the request's challengePassword is not the channel binding"},
			"an empty value":               {attributes: [][]byte{challenge("")}, want: "the request's challengePassword is not"},
			"another estIdentityLinking":   {attributes: [][]byte{challenge(own), linking("d3Jvbmc=")}, want: "the request's estIdentityLinking is not"},
			"what was supplied":            {attributes: [][]byte{challenge(value)}, want: map[bool]string{false: "the request's challengePassword is not"}[supplies]},
			"the same, in the next window": {attributes: [][]byte{challenge(value)}, later: challengeWindow, want: map[bool]string{false: "the request's challengePassword is not"}[supplies]},
			"the same, too late":           {attributes: [][]byte{challenge(value)}, later: 2 * challengeWindow, want: "the request's challengePassword is not"},
			"the same, too early":          {attributes: [][]byte{challenge(value)}, later: -challengeWindow, want: "the request's challengePassword is not"},
			"what another was supplied":    {attributes: [][]byte{challenge(theirs)}, want: "the request's challengePassword is not"},
			"supplied, as the other":       {attributes: [][]byte{challenge(own), linking(value)}, want: "the request's estIdentityLinking is not"},
		} {
			for _, segment := range []string{"simpleenroll", "simplereenroll"} {
				later.Store(int64(q.later))
				before := len(w.gateway.allEnrolled())
				got := send(t, client, w.enrollment(root+"/plant/"+segment, b64(makeCSR(t, csrOptions{key: newP256(), subject: "mine", attributes: q.attributes}))))
				if q.want == "" {
					if got.StatusCode != 200 || w.gateway.lastEnrolled(t).POP != gateway.POPLinked {
						t.Errorf("%t, %s, %s: %d %q", supplies, name, segment, got.StatusCode, got.body)
					}
				} else if got.StatusCode != 400 || !strings.Contains(got.body, q.want) || len(w.gateway.allEnrolled()) != before || w.gateway.lastRejected(t).err.Reason != gateway.BadPOP {
					t.Errorf("%t, %s, %s: %d %q", supplies, name, segment, got.StatusCode, got.body)
				} else if strings.Contains(got.body, "or the value that /csrattrs has given") != (supplies && !strings.Contains(q.want, "estIdentityLinking")) {
					t.Errorf("%t, %s: %q", supplies, name, got.body)
				}
				later.Store(0)
			}
		}
	}
}

// A supplied value is an endpoint's own, and known to replicas that have the same secret.
func TestMEFSuppliedValues(t *testing.T) {
	key := newP256()
	cert := newTestCA(t, newP256).issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "x"}}, key.Public())
	value := func(secret byte, endpoint string) string {
		h, err := New(Options{
			Gateway: &fakeGateway{}, Clock: func() time.Time { return testTime }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Secret: bytes.Repeat([]byte{secret}, 32),
			Endpoints: []Endpoint{{Name: "a", Config: Config{Type: TypeMEF, Challenge: ChallengeSupplied}}, {Name: "b", Config: Config{Type: TypeMEF, Challenge: ChallengeSupplied}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		x := &exchange{h: h, endpoint: h.endpoints[endpoint]}
		x.R = &http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}}
		values := x.suppliedChallenges()
		if len(values) != 2 || values[0] == values[1] {
			t.Fatal(values)
		}
		return values[0]
	}
	if first, replica := value(1, "a"), value(1, "a"); first != replica || first == value(1, "b") || first == value(2, "a") {
		t.Error("not one value for each endpoint and secret")
	}
}

// What a request brings along for HTTP authentication is noted, and not looked at.
func TestMEFIgnoresPasswords(t *testing.T) {
	w, _ := mefWorld(t, Config{})
	mine, key := w.device("mine")
	w.registers(mine, gateway.KindAEID)
	client := w.client(mine, key, tls12)
	own := channelBinding(send(t, client, w.request(http.MethodGet, root+"/plant/cacerts", nil)).TLS)
	r := w.enrollment(root+"/plant/simpleenroll", b64(makeCSR(t, csrOptions{key: newP256(), attributes: [][]byte{attribute(oidChallengePassword, printable(own))}})))
	r.SetBasicAuth("u", "p")
	if got := send(t, client, r); got.StatusCode != 200 {
		t.Fatalf("%d %q", got.StatusCode, got.body)
	}
	last := w.gateway.lastEnrolled(t)
	if len(last.Credentials) != 1 || last.Credentials[0].Kind != gateway.CredentialTLS || !strings.Contains(strings.Join(last.Notes, "\n"), "an Authorization header came with it") {
		t.Errorf("%v %q", last.Credentials, last.Notes)
	}
}

func TestMEFConfig(t *testing.T) {
	for text, want := range map[string]string{
		"{type: onem2m-mef, challenge: supplied, csrattrs: template, allow: [unconstrained-ca]}": "",
		"{type: onem2m-mfe}":                     `type: "onem2m-mfe" is none`,
		"{type: onem2m-mef, csrattrs: none}":     "csrattrs: none: an MEF names the identity attribute",
		"{type: onem2m-mef, challenge: fixed}":   `challenge: "fixed" is not known`,
		"{type: onem2m-mef, allow: [all]}":       `allow: "all" is not known`,
		"{type: onem2m-mef, http-auth: [basic]}": "http-auth: an MEF's clients do not log in over HTTP",
		"{challenge: supplied}":                  "challenge: it is for `type: onem2m-mef` alone",
		"{allow: [unconstrained-ca]}":            "allow: it is for",
	} {
		var f struct {
			EST Config `yaml:"est"`
		}
		err := strictyaml.Decode("muster.yaml", []byte("est: "+text), &f)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
