package authz

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

var cmcRA = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}

// purposed gives a certificate other purposes than clientAuth; none: no extended key usage.
func purposed(purposes ...asn1.ObjectIdentifier) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, purposes }
}

func TestRA(t *testing.T) {
	v := newVendor(t)
	ra := v.issuing.issue(2, "RA 1", purposed(cmcRA))
	second := v.issuing.issue(3, "RA 2", purposed(cmcRA))
	device := v.issuing.issue(4, "device-1", nil)
	plain := v.issuing.issue(5, "device-2", purposed())
	any := v.issuing.issue(6, "device-3", purposed(asn1.ObjectIdentifier{2, 5, 29, 37, 0}))
	stranger := newCA(t, "Vendor Root", nil).issue(7, "RA 1", purposed(cmcRA))
	expired := v.issuing.issue(8, "RA 3", func(c *x509.Certificate) {
		purposed(cmcRA)(c)
		c.NotBefore, c.NotAfter = noon.AddDate(-1, 0, 0), noon.AddDate(0, 0, -1)
	})
	revoked := v.issuing.issue(66, "RA 4", purposed(cmcRA))
	write(t, v.dir, "ra.pem", pemOf(ra, expired))
	write(t, v.dir, "device.pem", pemOf(device))
	write(t, v.dir, "plain.der", plain.Raw)
	write(t, v.dir, "block", []byte(hexSum(ra.RawSubjectPublicKeyInfo)+"\n"))
	write(t, v.dir, "issuing.crl", v.issuing.crl(noon.AddDate(0, 0, -1), noon.AddDate(0, 0, 6), 66))
	write(t, v.dir, "root.crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: v.root.crl(noon.AddDate(0, 0, -1), noon.AddDate(0, 0, 6))}))
	under := RAConfig{CAs: []string{"root.pem"}}
	with := func(change func(*RAConfig)) RAConfig { c := under; change(&c); return c }
	crls := with(func(c *RAConfig) {
		c.Intermediates, c.CRLs = []string{"issuing.der"}, []string{"issuing.crl", "root.crl"}
	})
	half := with(func(c *RAConfig) { c.Intermediates, c.CRLs = []string{"issuing.der"}, []string{"issuing.crl"} })
	lax := half
	lax.AllowUnknownRevocation = true
	names := with(func(c *RAConfig) { c.Names = []string{"serialNumber=SN-RA 2,CN=RA 2", "CN=RA 9"} })

	for name, c := range map[string]struct {
		config RAConfig
		cert   *x509.Certificate // nil: a shared secret alone
		reason gateway.Reason    // "" when allowed
		note   string
	}{
		"the purpose":                   {config: under, cert: ra, note: "CN=Vendor Root"},
		"an intermediate is configured": {config: with(func(c *RAConfig) { c.Intermediates = []string{"issuing.der"} }), cert: ra},
		"not revoked":                   {config: crls, cert: ra},
		"unknown revocation, allowed":   {config: lax, cert: ra},
		"a name that is listed":         {config: names, cert: second},
		"another purpose, by name": {config: with(func(c *RAConfig) {
			c.Purposes, c.Names = []string{"clientAuth"}, []string{"serialNumber=SN-device-1,CN=device-1"}
		}), cert: device},
		"listed itself":                  {config: RAConfig{Certificates: []string{"ra.pem"}}, cert: ra, note: "one of those listed"},
		"listed, of another purpose":     {config: RAConfig{Certificates: []string{"device.pem"}}, cert: device},
		"listed, of no purpose":          {config: RAConfig{Certificates: []string{"plain.der"}}, cert: plain},
		"not listed, but under a CA":     {config: with(func(c *RAConfig) { c.Certificates = []string{"device.pem"} }), cert: ra},
		"a device":                       {config: under, cert: device, reason: gateway.Untrusted, note: "extended key usage"},
		"a device without purposes":      {config: under, cert: plain, reason: gateway.Untrusted, note: "absent"},
		"a device with any purpose":      {config: under, cert: any, reason: gateway.Untrusted},
		"another CA of the name":         {config: under, cert: stranger, reason: gateway.Untrusted},
		"expired":                        {config: under, cert: expired, reason: gateway.Untrusted},
		"listed, but expired":            {config: RAConfig{Certificates: []string{"ra.pem"}}, cert: expired, reason: gateway.Untrusted},
		"not listed":                     {config: RAConfig{Certificates: []string{"ra.pem"}}, cert: second, reason: gateway.Untrusted, note: "not among"},
		"a name that is not listed":      {config: names, cert: ra, reason: gateway.Untrusted, note: "names"},
		"revoked":                        {config: crls, cert: revoked, reason: gateway.Revoked},
		"revocation cannot be told":      {config: half, cert: ra, reason: gateway.Unavailable},
		"on the block list":              {config: with(func(c *RAConfig) { c.Blocklist = "block" }), cert: ra, reason: gateway.Untrusted},
		"listed, and on the block list":  {config: RAConfig{Certificates: []string{"ra.pem"}, Blocklist: "block"}, cert: ra, reason: gateway.Untrusted},
		"nobody has signed":              {config: under, reason: gateway.Unauthenticated},
		"names are subjects, not values": {config: with(func(c *RAConfig) { c.Names = []string{"CN=RA 1"} }), cert: ra, reason: gateway.Untrusted},
	} {
		t.Run(name, func(t *testing.T) {
			for _, nested := range []bool{false, true} {
				config, kind := c.config, gateway.CredentialSigner
				if config.Nested = nested; nested {
					kind = gateway.CredentialNested
				}
				s, err := NewRA(config, v.dir, atNoon)
				if err != nil {
					t.Fatal(err)
				}
				mac := gateway.Credential{Kind: gateway.CredentialMAC, ID: "ref-1"}
				r := &gateway.Request{Operation: gateway.Enroll, Credentials: []gateway.Credential{mac}}
				var ofRA gateway.Credential
				if c.cert != nil {
					ofRA = credential(kind, c.cert, v.issuing.cert)
					r.Credentials = append(r.Credentials, ofRA)
				}
				g := &gateway.Grant{}
				reason := c.reason
				if nested && reason == gateway.Unauthenticated {
					reason = gateway.NotAuthorized
				}
				want := func(v gateway.Verdict) {
					t.Helper()
					switch reason {
					case "":
						expect(t, v, gateway.Allow, "", c.note)
					case gateway.Unavailable:
						expect(t, v, gateway.CannotAnswer, reason, c.note)
					default:
						if v.Decision != gateway.Deny || v.Reason != reason {
							t.Errorf("%s %s: %s", v.Decision, v.Reason, v.Note)
						}
					}
				}
				want(s.Decide(context.Background(), r, g))
				// Who has passed a message on is not who asks, and vouches for nothing.
				if speaks := c.reason == "" && !nested; g.Vouched() != speaks || (g.Requester != "") != speaks || g.Device != "" {
					t.Errorf("nested %t: vouched %t, requester %q, device %q", nested, g.Vouched(), g.Requester, g.Device)
				}
				if c.cert != nil {
					want(s.TrustsRA(context.Background(), ofRA, false))
					if nested {
						reason = gateway.NotAuthorized
					}
					want(s.TrustsRA(context.Background(), ofRA, true))
				}
				v, proves := s.Identify(context.Background(), r, &gateway.Grant{})
				if proves == nested || nested && v.Decision != gateway.Allow || !nested && (v.Decision == gateway.Allow) != (c.reason == "") {
					t.Errorf("nested %t: identified %s, proof %t", nested, v.Decision, proves)
				}
				if c.cert != nil {
					endedDenies(t, s, r)
				}
			}
		})
	}
}

// The one who has passed a message on does not ask in the device's place, whatever he may do elsewhere.
func TestRASpeaksByItsOwnSignature(t *testing.T) {
	v := newVendor(t)
	ra := v.issuing.issue(2, "RA", purposed(cmcRA))
	s, err := NewRA(RAConfig{CAs: []string{"root.pem"}}, v.dir, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway.Grant{}
	r := &gateway.Request{Credentials: []gateway.Credential{
		credential(gateway.CredentialSigner, v.issuing.issue(3, "device", nil), v.issuing.cert), credential(gateway.CredentialNested, ra, v.issuing.cert),
	}}
	expect(t, s.Decide(context.Background(), r, g), gateway.Deny, gateway.Untrusted, "CN=device")
	if g.Vouched() || g.Requester != "" {
		t.Errorf("%+v", g)
	}
}

// An RA is the client of the TLS connection where messages are not signed (RFC 7030 section 3.7); where they are, the signer
// counts. Nobody passes on by TLS what a device has protected.
func TestRAByTLS(t *testing.T) {
	v := newVendor(t)
	ra, device := v.issuing.issue(2, "RA", purposed(cmcRA)), v.issuing.issue(3, "device", nil)
	stranger := newCA(t, "Vendor Root", nil).issue(7, "RA", purposed(cmcRA))
	const tls, signer = gateway.CredentialTLS, gateway.CredentialSigner
	for name, c := range map[string]struct {
		nested bool
		shown  []gateway.Credential
		reason gateway.Reason
	}{
		"an RA":                       {shown: []gateway.Credential{credential(tls, ra, v.issuing.cert)}},
		"without the purpose":         {shown: []gateway.Credential{credential(tls, device, v.issuing.cert)}, reason: gateway.Untrusted},
		"of another CA":               {shown: []gateway.Credential{credential(tls, stranger)}, reason: gateway.Untrusted},
		"a device's message by an RA": {shown: []gateway.Credential{credential(tls, ra, v.issuing.cert), credential(signer, device, v.issuing.cert)}, reason: gateway.Untrusted},
		"an RA's message by a device": {shown: []gateway.Credential{credential(tls, device, v.issuing.cert), credential(signer, ra, v.issuing.cert)}},
		"nested":                      {nested: true, shown: []gateway.Credential{credential(tls, ra, v.issuing.cert)}, reason: gateway.NotAuthorized},
	} {
		s, err := NewRA(RAConfig{CAs: []string{"root.pem"}, Nested: c.nested}, v.dir, atNoon)
		if err != nil {
			t.Fatal(err)
		}
		r, g := &gateway.Request{Operation: gateway.Enroll, Credentials: c.shown}, &gateway.Grant{}
		got := s.Decide(context.Background(), r, g)
		if (got.Decision == gateway.Allow) != (c.reason == "") || got.Reason != c.reason || g.Vouched() != (c.reason == "") {
			t.Errorf("%s: %s %s (%s), vouched %t", name, got.Decision, got.Reason, got.Note, g.Vouched())
		}
	}
}

func TestRAConfig(t *testing.T) {
	v := newVendor(t)
	ra := v.issuing.issue(2, "RA", purposed(cmcRA))
	write(t, v.dir, "ra.pem", pemOf(ra))
	write(t, v.dir, "junk.pem", []byte("junk"))
	write(t, v.dir, "other.crl", newCA(t, "Other", nil).crl(noon, noon.AddDate(0, 0, 6)))
	for want, c := range map[string]RAConfig{
		"no RA is trusted":                     {},
		"there are none":                       {Certificates: []string{"ra.pem"}, Names: []string{"CN=x"}},
		"certificates for clientAuth, too":     {CAs: []string{"root.pem"}, Purposes: []string{"cmcRA", "clientAuth"}},
		`"cmcra2" is not known`:                {CAs: []string{"root.pem"}, Purposes: []string{"cmcra2"}},
		`names: "RA"`:                          {CAs: []string{"root.pem"}, Names: []string{"RA"}},
		"a name is empty":                      {CAs: []string{"root.pem"}, Names: []string{""}},
		"put it under cas":                     {Certificates: []string{"root.pem"}},
		"is not a CA's certificate":            {CAs: []string{"ra.pem"}},
		"certificates: junk.pem":               {Certificates: []string{"junk.pem"}},
		"certificates: stat":                   {Certificates: []string{"missing.pem"}},
		"signed the list of":                   {CAs: []string{"root.pem"}, CRLs: []string{"other.crl"}},
		"none of cas and intermediates signed": {Certificates: []string{"ra.pem"}, CRLs: []string{"other.crl"}},
		"blocklist:":                           {Certificates: []string{"ra.pem"}, Blocklist: "missing"},
	} {
		_, err := NewRA(c, v.dir, atNoon)
		wantError(t, err, want)
	}
	if _, err := NewRA(RAConfig{CAs: []string{"root.pem"}}, v.dir, nil); err == nil {
		t.Error("no clock")
	}
}

// Behind `ra`, own-certificate judges the certificate that the RA asks about, not the RA's.
func TestOwnCertificateBehindRA(t *testing.T) {
	ca := newCA(t, "Operator", nil)
	mine := ca.issue(2, "device-0002", nil)
	gone := ca.issue(3, "device-0003", nil)
	unknown := ca.issue(4, "device-0004", nil)
	ra := ca.issue(5, "RA", purposed(cmcRA))
	goneRecord := record(gone, "device-0003")
	goneRecord.RevokedAt = noon
	store := &issued{certs: []*gateway.Certificate{record(mine, "device-0002"), goneRecord}}
	dir := t.TempDir()
	write(t, dir, "ra.pem", pemOf(ra))
	first, err := NewRA(RAConfig{Certificates: []string{"ra.pem"}}, dir, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	second, err := NewOwnCertificate(OwnCertificateConfig{}, store, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*gateway.Request)
		broken bool
		reason gateway.Reason
		device string
	}{
		"renewal":                        {change: func(r *gateway.Request) {}, device: "device-0002"},
		"of a revoked one":               {change: func(r *gateway.Request) { *r = *renewal(gone) }, reason: gateway.Revoked},
		"of one that is not ours":        {change: func(r *gateway.Request) { *r = *renewal(unknown) }, reason: gateway.Untrusted},
		"of the RA's own, not from here": {change: func(r *gateway.Request) { *r = *renewal(ra) }, reason: gateway.Untrusted},
		"that names none":                {change: func(r *gateway.Request) { r.OldCert = nil }, reason: gateway.Untrusted},
		"under another name":             {change: func(r *gateway.Request) { r.Subject = subject(t, "CN=victim") }, reason: gateway.NotAuthorized, device: "device-0002"},
		"revocation":                     {change: func(r *gateway.Request) { revokes(r, mine) }, device: "device-0002"},
		"revocation of nothing":          {change: func(r *gateway.Request) { revokes(r, unknown) }, reason: gateway.UnknownCert},
		"revocation that names none":     {change: func(r *gateway.Request) { revokes(r, mine); r.Target = nil }, reason: gateway.Untrusted},
		"revocation, no look-up":         {change: func(r *gateway.Request) { revokes(r, mine) }, broken: true, reason: gateway.Unavailable},
	} {
		r := renewal(mine)
		c.change(r)
		// A certificate of TLS, which nobody has judged, is none of its concern.
		tls := credential(gateway.CredentialTLS, unknown)
		r.Credentials = []gateway.Credential{credential(gateway.CredentialSigner, ra, ca.cert), tls}
		store.err = nil
		if c.broken {
			store.err = context.DeadlineExceeded
		}
		g := &gateway.Grant{Subject: r.Subject}
		if v := first.Decide(context.Background(), r, g); v.Decision != gateway.Allow {
			t.Fatalf("%s: %s", name, v.Note)
		}
		v := second.Decide(context.Background(), r, g)
		if (v.Decision == gateway.Allow) != (c.reason == "") || v.Reason != c.reason || g.Device != c.device {
			t.Errorf("%s: %s %s (%s), device %q", name, v.Decision, v.Reason, v.Note, g.Device)
		}
		if g.Requester != "message-signer:"+gateway.Fingerprint(ra) || g.Authenticated(tls) {
			t.Errorf("%s: requester %q", name, g.Requester)
		}
	}
	store.err = nil
	// Whoever no stage has found to be an RA renews his own certificate alone.
	r := renewal(mine)
	r.Credentials = []gateway.Credential{credential(gateway.CredentialSigner, ra, ca.cert)}
	expect(t, second.Decide(context.Background(), r, &gateway.Grant{}), gateway.Deny, gateway.Untrusted)
}
