package local

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// constrainedTo configures a CA m2m under name constraints.
func constrainedTo(constraints string) string {
	return "issuers: {rsa: {bits: 2048}, m2m: {name-constraints: " + constraints + "}}"
}

const m2mDNS = "{permitted: {dns: [m2m.example.com]}}"

// names of a certificate that is asked for.
type asked struct{ cn, dns, uri, ip, email string }

func (a asked) altName(t testing.TB) []byte {
	t.Helper()
	var body []byte
	add := func(tag byte, s string) {
		if s != "" {
			body = append(append(body, tag, byte(len(s))), s...)
		}
	}
	add(0x81, a.email)
	add(0x82, a.dns)
	add(0x86, a.uri)
	if a.ip != "" {
		ip := net.ParseIP(a.ip)
		if four := ip.To4(); four != nil {
			ip = four
		}
		add(0x87, string(ip))
	}
	if len(body) == 0 {
		return nil
	}
	return append([]byte{0x30, byte(len(body))}, body...)
}

func (a asked) request(t testing.TB, id string) *backend.IssueRequest {
	q := request(t, id)
	q.Issuer = "m2m"
	if a.cn != "" {
		q.Template.Subject = name(t, pkix.Name{CommonName: a.cn})
	}
	q.Template.SubjectAltName = a.altName(t)
	return q
}

// What is outside of the name constraints is refused before it is signed (RFC 5280 section 4.2.1.10), and nothing else is:
// openssl verifies what is issued, and openssl or crypto/x509 does not verify what is refused.
func TestNameConstraints(t *testing.T) {
	type verdict struct{ issued, openssl, golang bool } // who verifies it; when it is refused, signed by the CA's key all the same
	both, neither := verdict{true, true, true}, verdict{}
	// Under constraints of any kind crypto/x509 (Go 1.26) takes no URI without a host, which RFC 5280 has be rejected under
	// constraints of URIs alone.
	opensslAlone := verdict{issued: true, openssl: true}
	cases := map[string]map[asked]verdict{
		// The identifiers of oneM2M under DNS constraints alone.
		m2mDNS: {
			{dns: "cse1.in-cse.m2m.example.com"}:     both,
			{dns: "CSE1.IN-CSE.M2M.Example.com"}:     both,
			{dns: "m2m.example.com"}:                 both,
			{uri: "//m2m.example.com/S98821"}:        both,
			{uri: "urn:gsma:imei:90420156-025763-0"}: opensslAlone,
			{uri: "https://elsewhere.example/"}:      both,
			{ip: "192.0.2.1"}:                        both,
			{cn: "S98821"}:                           both,
			{cn: "a b.example.org"}:                  both,
			{cn: "S98821.m2m.example.com"}:           both,
			{dns: "*.m2m.example.com"}:               both,
			{dns: "cse1.example.com"}:                neither,
			{dns: "xm2m.example.com"}:                neither,
			{dns: "m2m.example.com.attacker.test"}:   neither,
			// A host name in the CN: openssl constrains it where there is no dNSName, crypto/x509 does not look at it.
			{cn: "cse1.example.org"}:                                     {golang: true},
			{cn: "cse1.example.org", uri: "//m2m.example.com/S98821"}:    {golang: true},
			{cn: "cse1.example.org", dns: "cse1.in-cse.m2m.example.com"}: both,
		},
		// A wildcard reaches into an excluded subtree: crypto/x509 says so, openssl does not see it.
		"{excluded: {dns: [a.m2m.example.com]}}": {
			{dns: "*.m2m.example.com"}:   {openssl: true},
			{dns: "*.b.m2m.example.com"}: both,
		},
		// Under URI constraints: no form of an AE-ID or Node-ID without scheme and host.
		"{permitted: {dns: [m2m.example.com], uri: [m2m.example.com]}}": {
			{dns: "cse1.in-cse.m2m.example.com"}:     both,
			{uri: "https://m2m.example.com/S98821"}:  both,
			{uri: "https://M2M.example.com:8443/"}:   both,
			{uri: "//m2m.example.com/S98821"}:        {golang: true},
			{uri: "urn:gsma:imei:90420156-025763-0"}: neither,
			{uri: "https://a.m2m.example.com/"}:      {golang: true}, // as if it were a DNS constraint
			{uri: "https://example.org/S98821"}:      neither,
			{uri: "https://192.0.2.1/"}:              neither,
		},
		"{excluded: {uri: [example.org]}}": {
			{uri: "https://m2m.example.com/"}: both,
			{uri: "https://example.org/"}:     neither,
			{uri: "//m2m.example.com/S98821"}: {golang: true},
		},
		"{permitted: {uri: [.example.com]}}": {
			{uri: "https://m2m.example.com/"}: both,
			{uri: "https://example.com/"}:     neither,
		},
		"{permitted: {dns: [example.com]}, excluded: {dns: [m2m.example.com], ip: [0.0.0.0/0, \"::/0\"]}}": {
			{dns: "cse1.example.com"}:     both,
			{dns: "cse1.m2m.example.com"}: neither,
			{ip: "192.0.2.1"}:             neither,
			{ip: "2001:db8::1"}:           neither,
		},
		"{permitted: {ip: [192.0.2.0/24]}}": {
			{ip: "192.0.2.1"}:    both,
			{ip: "198.51.100.1"}: neither,
			{ip: "2001:db8::1"}:  neither,
		},
	}
	for constraints, names := range cases {
		t.Run(constraints, func(t *testing.T) {
			c := open(t, filepath.Join(t.TempDir(), "ca"), Options{}, constrainedTo(constraints))
			i := c.open.Load().issuer("m2m")
			n := 0
			for a, want := range names {
				n++
				got, err := c.Issue(t.Context(), a.request(t, "n"+strconv.Itoa(n)))
				if !want.issued {
					wantStatus(t, a, err, codes.InvalidArgument, "m2m")
				} else if err != nil {
					t.Errorf("%+v: %v", a, err)
					continue
				}
				leaf := signedAnyway(t, i, a)
				if err == nil {
					leaf = got.Certificate
				}
				opensslVerifies(t, want.openssl, i.root, i.chain[:1], leaf)
				if ok := verifiesInGo(t, i, leaf); ok != want.golang {
					t.Errorf("%+v: crypto/x509 verifies: %t", a, ok)
				}
			}
		})
	}
}

func wantStatus(t *testing.T, a asked, err error, code codes.Code, says string) {
	t.Helper()
	want(t, err, code)
	if err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%+v: %v", a, err)
	}
}

// signedAnyway signs the names with the CA's key, past all checks.
func signedAnyway(t testing.TB, i *issuer, a asked) []byte {
	t.Helper()
	key, err := publicKey(deviceKeys()["P-256"])
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-1), NotAfter: now.Add(day),
		Subject: pkix.Name{CommonName: a.cn}, KeyUsage: x509.KeyUsageDigitalSignature}
	if a.cn == "" {
		c.Subject.CommonName = "device"
	}
	if san := a.altName(t); san != nil {
		c.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAltName, Value: san}}
	}
	der, err := x509.CreateCertificate(nil, c, i.cert, key, &signer{key: i.key})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func verifiesInGo(t testing.TB, i *issuer, leaf []byte) bool {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	o.Roots.AddCert(i.root)
	o.Intermediates.AddCert(i.cert)
	_, err := parsed(t, leaf).Verify(o)
	return err == nil
}

// The constraints stand, critical, in all CA certificates: of the issuing CA, its root, and, after a new root key, in the
// links. Those of other issuers have none.
func TestNameConstraintsInCertificates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	c := open(t, dir, Options{}, constrainedTo("{permitted: {dns: [m2m.example.com]}, excluded: {ip: [0.0.0.0/0]}}"))
	first := c.open.Load().issuer("m2m").generation
	roll(t, c, backend.RolloverRequest{ID: "1", Issuer: "m2m", Kind: backend.RolloverRekey, Root: true})
	second := c.open.Load().issuer("m2m").generation
	all := []*x509.Certificate{first.cert, first.root, second.cert, second.root, second.oldWithNew, second.newWithOld}
	roll(t, c, backend.RolloverRequest{ID: "2", Issuer: "m2m", Kind: backend.RolloverRenew})
	all = append(all, c.open.Load().issuer("m2m").cert)
	for n, cert := range all {
		text := openssl(t, "x509", "-noout", "-ext", "nameConstraints", "-in", pemFile(t, "CERTIFICATE", cert.Raw))
		for _, want := range []string{"X509v3 Name Constraints: critical", "Permitted:\n      DNS:m2m.example.com", "Excluded:\n      IP:0.0.0.0/0.0.0.0"} {
			if !strings.Contains(text, want) {
				t.Errorf("%d, %s: no %q in %s", n, cert.Subject, want, text)
			}
		}
	}
	leaf := issue(t, c, asked{dns: "cse1.m2m.example.com"}.request(t, "x"))
	now := c.open.Load().issuer("m2m")
	opensslVerifies(t, true, first.root, [][]byte{now.cert.Raw, second.newWithOld.Raw, second.root.Raw}, leaf.Raw)
	goVerifies(t, first.root, [][]byte{now.cert.Raw, second.newWithOld.Raw}, leaf.Raw)
	for _, name := range []string{IssuerEC, IssuerRSA} {
		if i := c.open.Load().issuer(name); constraintsOf(i.cert) != "none" || constraintsOf(i.root) != "none" {
			t.Errorf("%s: %s", name, constraintsOf(i.cert))
		}
	}
}

// A CA that stands keeps its certificates. A changed setting counts at once for what is issued, is said at each start, and is
// in the certificates after a rollover of root and issuing CA; a setting that is left out leaves what stands.
func TestNameConstraintsChanged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	plain := "issuers: {rsa: {bits: 2048}, m2m: {}}"
	inside, outside, other := asked{dns: "a.m2m.example.com"}, asked{dns: "a.example.com"}, asked{dns: "a.example.org"}
	ids := 0
	issues := func(c *CA, a asked) bool {
		ids++
		_, err := c.Issue(t.Context(), a.request(t, "i"+strconv.Itoa(ids)))
		return err == nil
	}
	shut(t, open(t, dir, Options{}, plain))
	steps := []struct {
		config                 string
		warns                  bool
		roll                   backend.RolloverRequest
		inside, outside, other bool
		stands                 string // in the end
	}{
		{config: plain, inside: true, outside: true, other: true, stands: "none"},
		{config: constrainedTo(m2mDNS), warns: true, inside: true, stands: "none"},
		{config: constrainedTo(m2mDNS), warns: true, roll: backend.RolloverRequest{Kind: backend.RolloverRenew}, inside: true, stands: "permitted dns m2m.example.com"},
		{config: constrainedTo(m2mDNS), warns: true, inside: true, stands: "permitted dns m2m.example.com"}, // the root has none yet
		{config: constrainedTo(m2mDNS), warns: true, roll: backend.RolloverRequest{Kind: backend.RolloverRenew, Root: true}, inside: true, stands: "permitted dns m2m.example.com"},
		{config: constrainedTo(m2mDNS), inside: true, stands: "permitted dns m2m.example.com"},
		{config: plain, inside: true, roll: backend.RolloverRequest{Kind: backend.RolloverRekey, Root: true}, stands: "permitted dns m2m.example.com"},
		{config: "issuers: {rsa: {bits: 2048}}", inside: true, roll: backend.RolloverRequest{Kind: backend.RolloverRenew, Root: true}, stands: "permitted dns m2m.example.com"},
		{config: constrainedTo("{permitted: {dns: [Example.com]}}"), warns: true, inside: true, stands: "permitted dns m2m.example.com"},
		{config: constrainedTo("{permitted: {dns: [Example.com]}}"), warns: true, roll: backend.RolloverRequest{Kind: backend.RolloverRenew, Root: true}, inside: true, outside: true, stands: "permitted dns example.com"},
		{config: constrainedTo("{}"), warns: true, roll: backend.RolloverRequest{Kind: backend.RolloverRenew, Root: true}, inside: true, outside: true, other: true, stands: "none"},
	}
	for n, s := range steps {
		warned := make(chan struct{})
		c := New(Options{Clock: func() time.Time { return now }, Log: tell("have it made anew by `muster ca renew --root`", warned)})
		if err := c.Configure(t.Context(), []byte("dir: "+dir+"\n"+s.config)); err != nil {
			t.Fatal(n, err)
		}
		said := false
		select {
		case <-warned:
			said = true
		default:
		}
		if said != s.warns {
			t.Errorf("%d: said that the certificates differ: %t", n, said)
		}
		if s.roll.Kind != "" {
			s.roll.ID, s.roll.Issuer = strconv.Itoa(n), "m2m"
			roll(t, c, s.roll)
		}
		for a, want := range map[asked]bool{inside: s.inside, outside: s.outside, other: s.other} {
			if issues(c, a) != want {
				t.Errorf("%d: %+v issued: %t", n, a, !want)
			}
		}
		if i := c.open.Load().issuer("m2m"); constraintsOf(i.cert) != s.stands {
			t.Errorf("%d: %s", n, constraintsOf(i.cert))
		}
		shut(t, c)
	}
}

func TestNameConstraintsRefused(t *testing.T) {
	for says, constraints := range map[string]string{
		`name-constraints.permitted.dns: ".m2m.example.com" is not a domain`: "{permitted: {dns: [.m2m.example.com]}}",
		`name-constraints.permitted.dns: "*.example.com" is not a domain`:    "{permitted: {dns: [\"*.example.com\"]}}",
		`name-constraints.excluded.dns: "" is not a domain`:                  "{excluded: {dns: [\"\"]}}",
		`name-constraints.excluded.uri: "https://example.com" is neither`:    "{excluded: {uri: [\"https://example.com\"]}}",
		`name-constraints.permitted.ip: "192.0.2.1/24" is not a network`:     "{permitted: {ip: [192.0.2.1/24]}}",
		`name-constraints.permitted.ip: "192.0.2.1" is not a network`:        "{permitted: {ip: [192.0.2.1]}}",
		`name-constraints.excluded.dns: "example.com" is permitted as well`:  "{permitted: {dns: [Example.com]}, excluded: {dns: [example.com]}}",
		`name-constraints.permitted.dns: more than 100`:                      "{permitted: {dns: [" + strings.Repeat("a.test, ", 101) + "]}}",
		`unknown key "dsn"`: "{permitted: {dsn: [a.test]}}",
	} {
		err := New(Options{}).Validate(t.Context(), []byte("dir: /ca\n"+constrainedTo(constraints)))
		want(t, err, codes.InvalidArgument)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	err := New(Options{}).Validate(t.Context(), []byte("dir: /ca\nissuers: {m2m: {name-constraints: {}, import: {cert: /c.pem, key: /k.pem}}}"))
	if err == nil || !strings.Contains(err.Error(), "issuers.m2m.name-constraints: it is that of the imported certificate") {
		t.Error(err)
	}
}

// An IPv4 address written as IPv6 is within no network of IPv4: "the iPAddress field of GeneralName MUST contain" four octets for that
// (RFC 5280 section 4.2.1.10).
func TestNameConstraintsMappedAddress(t *testing.T) {
	_, network, err := net.ParseCIDR("192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{PermittedIPRanges: []*net.IPNet{network}}
	for _, octets := range []net.IP{net.ParseIP("192.0.2.1").To4(), net.ParseIP("192.0.2.1").To16()} {
		if err := (constrained{kind: "iPAddress", text: octets.String(), octets: octets}).within(ca); (err == nil) != (len(octets) == 4) {
			t.Errorf("%x: %v", octets, err)
		}
	}
}

// What nobody could read the same way is no host.
func TestURIHost(t *testing.T) {
	for uri, want := range map[string]string{
		"https://m2m.example.com": "m2m.example.com", "https://m2m.example.com:443/x": "m2m.example.com", "coap://M2M.example.com/": "M2M.example.com",
		"//m2m.example.com/S98821": "", "urn:gsma:imei:1": "", "https://user@m2m.example.com/": "", "https:///x": "", "https://[2001:db8::1]/": "",
		"https://192.0.2.1/": "", "https://m2m.example.com?x": "", "https://m2m.example.com#x": "", "https://m2m.example%2ecom/": "", "": "",
	} {
		u, err := url.Parse(uri)
		if host, ok := uriHost(uri); host != want || ok != (want != "") {
			t.Errorf("%s: %q, %t (%v, %v)", uri, host, ok, u, err)
		}
	}
}
