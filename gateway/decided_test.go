package gateway

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/plugins/backend"
)

// ca makes certificates of templates that need not be any good.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t testing.TB) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: stdpkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{cert, key}
}

var (
	clientAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
	serverAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
)

// certify makes a certificate just as the template says; further extensions are more, or in the place of the template's.
func (c *ca) certify(t testing.TB, tmpl *backend.Template, more ...stdpkix.Extension) *x509.Certificate {
	t.Helper()
	extensions := slices.Clone(more)
	add := func(id asn1.ObjectIdentifier, critical bool, value []byte) {
		if value != nil && !slices.ContainsFunc(more, func(e stdpkix.Extension) bool { return e.Id.Equal(id) }) {
			extensions = append(extensions, stdpkix.Extension{Id: id, Critical: critical, Value: value})
		}
	}
	if tmpl.KeyUsage != 0 {
		value, err := keyUsageValue(tmpl.KeyUsage)
		if err != nil {
			t.Fatal(err)
		}
		add(oidKeyUsage, true, value)
	}
	if len(tmpl.ExtKeyUsage) > 0 {
		value, err := asn1.Marshal(tmpl.ExtKeyUsage)
		if err != nil {
			t.Fatal(err)
		}
		add(oidExtKeyUsage, false, value)
	}
	add(oidSubjectAltName, false, tmpl.SubjectAltName)
	pub, err := x509.ParsePKIXPublicKey(tmpl.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7), RawSubject: tmpl.Subject, NotBefore: tmpl.NotBefore, NotAfter: tmpl.NotAfter, ExtraExtensions: extensions,
	}, c.cert, pub, c.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// attribute is one of a Name; without a tag a UTF8String.
type attribute struct {
	oid   asn1.ObjectIdentifier
	value string
	tag   cbasn1.Tag
}

func cn(s string) []attribute { return []attribute{{oid: oidCommonName, value: s}} }
func o(s string) []attribute  { return []attribute{{oid: asn1.ObjectIdentifier{2, 5, 4, 10}, value: s}} }
func ou(s string) []attribute {
	return []attribute{{oid: asn1.ObjectIdentifier{2, 5, 4, 11}, value: s}}
}
func dc(s string) []attribute {
	return []attribute{{oid: oidDomainComponent, value: s, tag: cbasn1.IA5String}}
}

// as gives the attributes another string type.
func as(tag cbasn1.Tag, rdn []attribute) []attribute {
	rdn = slices.Clone(rdn)
	for i := range rdn {
		rdn[i].tag = tag
	}
	return rdn
}

// nameDER is a Name of RDNs, in this order.
func nameDER(rdns ...[]attribute) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, rdn := range rdns {
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
				for _, a := range rdn {
					if a.tag == 0 {
						a.tag = cbasn1.UTF8String
					}
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(a.oid)
						b.AddASN1(a.tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(a.value)) })
					})
				}
			})
		}
	})
	return b.BytesOrPanic()
}

// sanDER are GeneralNames: those that begin with "email:" or "uri:" are such, else DNS names; nil for none.
func sanDER(names ...string) []byte {
	if len(names) == 0 {
		return nil
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, n := range names {
			tag := cbasn1.Tag(2)
			if mail, ok := strings.CutPrefix(n, "email:"); ok {
				tag, n = 1, mail
			} else if uri, ok := strings.CutPrefix(n, "uri:"); ok {
				tag, n = 6, uri
			}
			b.AddASN1(tag.ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(n)) })
		}
	})
	return b.BytesOrPanic()
}

func grantedTemplate(t testing.TB) *backend.Template {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return &backend.Template{
		Subject: nameDER(o("Operator"), ou("a"), ou("b"), cn("pump-1")), SubjectAltName: sanDER("pump-1.example", "pump-1.plant.example", "email:pump@plant.example"),
		PublicKey: spki, NotBefore: from, NotAfter: from.Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement | x509.KeyUsageEncipherOnly, ExtKeyUsage: []asn1.ObjectIdentifier{clientAuth, serverAuth},
	}
}

// Of a field that a CA decides less than granted is taken and more is not; of a field that it does not, nothing but what was granted.
func TestDecided(t *testing.T) {
	const (
		less  = iota // taken where the CA decides the field, and there alone
		more         // never taken
		equal        // always taken
	)
	ca := newCA(t)
	set := func(change func(t *backend.Template)) func(t *backend.Template) { return change }
	subject := func(rdns ...[]attribute) func(t *backend.Template) {
		return set(func(t *backend.Template) { t.Subject = nameDER(rdns...) })
	}
	san := func(names ...string) func(t *backend.Template) {
		return set(func(t *backend.Template) { t.SubjectAltName = sanDER(names...) })
	}
	usage := func(u x509.KeyUsage) func(t *backend.Template) {
		return set(func(t *backend.Template) { t.KeyUsage = u })
	}
	purposes := func(ids ...asn1.ObjectIdentifier) func(t *backend.Template) {
		return set(func(t *backend.Template) { t.ExtKeyUsage = ids })
	}
	ends := func(d time.Duration) func(t *backend.Template) {
		return set(func(t *backend.Template) { t.NotAfter = t.NotAfter.Add(d) })
	}
	begins := func(d time.Duration) func(t *backend.Template) {
		return set(func(t *backend.Template) { t.NotBefore = t.NotBefore.Add(d) })
	}
	short := set(func(t *backend.Template) { t.NotAfter = t.NotBefore.Add(10 * time.Minute) })
	nobody := func(*backend.Template) {}
	const day = 24 * time.Hour
	for name, tc := range map[string]struct {
		field   backend.Field
		granted func(t *backend.Template) // nil: grantedTemplate
		made    func(t *backend.Template) // of what was granted
		want    int
	}{
		"as granted":           {backend.FieldValidity, nil, nobody, equal},
		"shorter":              {backend.FieldValidity, nil, ends(-60 * day), less},
		"an hour longer":       {backend.FieldValidity, nil, ends(time.Hour), less},
		"longer":               {backend.FieldValidity, nil, ends(time.Hour + time.Second), more},
		"years longer":         {backend.FieldValidity, nil, ends(3000 * day), more},
		"short, rounded":       {backend.FieldValidity, short, ends(time.Minute), less},
		"short, doubled":       {backend.FieldValidity, short, ends(10 * time.Minute), more},
		"backdated":            {backend.FieldValidity, nil, begins(-day), less},
		"backdated by a month": {backend.FieldValidity, nil, begins(-30 * day), more},
		"begins soon":          {backend.FieldValidity, nil, begins(time.Minute), less},
		"begins next week":     {backend.FieldValidity, nil, begins(7 * day), more},
		"never valid":          {backend.FieldValidity, short, set(func(t *backend.Template) { t.NotBefore = t.NotAfter }), more},

		"usages as granted":               {backend.FieldKeyUsage, nil, nobody, equal},
		"fewer usages":                    {backend.FieldKeyUsage, nil, usage(x509.KeyUsageDigitalSignature), less},
		"another usage":                   {backend.FieldKeyUsage, nil, usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign), more},
		"no usage, so any":                {backend.FieldKeyUsage, nil, usage(0), more},
		"agreement no longer one way":     {backend.FieldKeyUsage, nil, usage(x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement), more},
		"agreement the other way":         {backend.FieldKeyUsage, nil, usage(x509.KeyUsageKeyAgreement | x509.KeyUsageDecipherOnly), more},
		"agreement, decipherOnly granted": {backend.FieldKeyUsage, usage(x509.KeyUsageKeyAgreement | x509.KeyUsageDecipherOnly), usage(x509.KeyUsageKeyAgreement), more},
		"one way, and nothing granted so": {backend.FieldKeyUsage, usage(x509.KeyUsageKeyAgreement), usage(x509.KeyUsageKeyAgreement | x509.KeyUsageDecipherOnly), more},
		"a usage where any was granted":   {backend.FieldKeyUsage, usage(0), usage(x509.KeyUsageDigitalSignature), less},

		"purposes as granted":             {backend.FieldExtKeyUsage, nil, nobody, equal},
		"purposes in another order":       {backend.FieldExtKeyUsage, nil, purposes(serverAuth, clientAuth), equal},
		"fewer purposes":                  {backend.FieldExtKeyUsage, nil, purposes(serverAuth), less},
		"another purpose":                 {backend.FieldExtKeyUsage, nil, purposes(serverAuth, asn1.ObjectIdentifier{1, 2, 3}), more},
		"any purpose":                     {backend.FieldExtKeyUsage, nil, purposes(oidAnyExtKeyUsage), more},
		"no purpose, so any":              {backend.FieldExtKeyUsage, nil, purposes(), more},
		"a purpose where any was granted": {backend.FieldExtKeyUsage, purposes(oidAnyExtKeyUsage), purposes(serverAuth), less},
		"a purpose where none was said":   {backend.FieldExtKeyUsage, purposes(), purposes(serverAuth), less},

		"subject as granted":                      {backend.FieldSubject, nil, nobody, equal},
		"fewer attributes":                        {backend.FieldSubject, nil, subject(cn("pump-1")), less},
		"sorted otherwise":                        {backend.FieldSubject, nil, subject(cn("pump-1"), o("Operator"), ou("a"), ou("b")), less},
		"another string type":                     {backend.FieldSubject, nil, subject(o("Operator"), ou("a"), ou("b"), as(cbasn1.PrintableString, cn("pump-1"))), less},
		"in one RDN":                              {backend.FieldSubject, nil, subject(append(o("Operator"), cn("pump-1")...)), less},
		"another attribute":                       {backend.FieldSubject, nil, subject(o("Operator"), ou("c"), cn("pump-1")), more},
		"another common name":                     {backend.FieldSubject, nil, subject(o("Operator"), cn("pump-2")), more},
		"a second common name":                    {backend.FieldSubject, nil, subject(cn("pump-1"), cn("pump-1")), more},
		"units in another order":                  {backend.FieldSubject, nil, subject(ou("b"), ou("a"), cn("pump-1")), more},
		"an attribute hidden in it":               {backend.FieldSubject, nil, subject(append(cn("pump-1"), ou("root")...)), more},
		"a value of another type":                 {backend.FieldSubject, nil, subject(as(cbasn1.INTEGER, cn("pump-1"))), more},
		"a DNS name beside a granted common name": {backend.FieldSubject, nil, subject(cn("pump-1.example")), more},
		"a DNS name where none is":                {backend.FieldSubject, subject(o("Operator")), subject(o("Operator"), cn("pump-1.example")), less},
		"a DNS name in capitals":                  {backend.FieldSubject, subject(o("Operator")), subject(cn("PUMP-1.example")), less},
		"somebody else's DNS name":                {backend.FieldSubject, subject(o("Operator")), subject(cn("pump-2.example")), more},
		"a mailbox as common name":                {backend.FieldSubject, subject(o("Operator")), subject(cn("pump@plant.example")), more},
		"a DNS name with the Kelvin sign":         {backend.FieldSubject, set(func(t *backend.Template) { t.Subject, t.SubjectAltName = nameDER(o("O")), sanDER("k.example") }), subject(cn("\u212a.example")), more},
		"two DNS names":                           {backend.FieldSubject, subject(o("Operator")), subject(cn("pump-1.example"), cn("pump-1.plant.example")), more},
		"no subject, and alternative names":       {backend.FieldSubject, nil, subject(), less},
		"a name that is none":                     {backend.FieldSubject, subject(as(cbasn1.Tag(28), cn("\x00\x00\x00a"))), subject(as(cbasn1.Tag(28), cn("\x00\x00\x00b"))), more},
		"<nil> for a name that is none":           {backend.FieldSubject, subject(as(cbasn1.Tag(28), cn("\x00\x00\x00a"))), subject(cn("<nil>")), more},
		"domain as granted":                       {backend.FieldSubject, subject(dc("com"), dc("example"), cn("a")), subject(dc("com"), dc("example")), less},
		"another domain":                          {backend.FieldSubject, subject(dc("com"), dc("example"), dc("corp"), cn("a")), subject(dc("com"), dc("corp"), cn("a")), more},
		"no domain":                               {backend.FieldSubject, subject(dc("com"), dc("example"), cn("a")), subject(cn("a")), less},
		"nobody":                                  {backend.FieldSubject, set(func(t *backend.Template) { t.SubjectAltName = nil }), subject(), more},

		"alternative names as granted":    {backend.FieldSubjectAltName, nil, nobody, equal},
		"fewer names":                     {backend.FieldSubjectAltName, nil, san("pump-1.example"), less},
		"names in another order":          {backend.FieldSubjectAltName, nil, san("email:pump@plant.example", "pump-1.plant.example", "pump-1.example"), less},
		"no names":                        {backend.FieldSubjectAltName, nil, san(), less},
		"DNS names in capitals":           {backend.FieldSubjectAltName, nil, san("PUMP-1.Example"), less},
		"a mailbox in capitals":           {backend.FieldSubjectAltName, nil, san("email:PUMP@plant.example"), more},
		"another name":                    {backend.FieldSubjectAltName, nil, san("pump-1.example", "root.example"), more},
		"a wildcard":                      {backend.FieldSubjectAltName, nil, san("*.example"), more},
		"a name of another kind":          {backend.FieldSubjectAltName, nil, san("uri:pump-1.example"), more},
		"a name where none was granted":   {backend.FieldSubjectAltName, san(), san("pump-1.example"), more},
		"no names, and none in subject":   {backend.FieldSubjectAltName, subject(), san(), more},
		"the common name as a DNS name":   {backend.FieldSubjectAltName, set(func(t *backend.Template) { t.Subject, t.SubjectAltName = nameDER(cn("a.example")), nil }), san("a.example"), more},
		"names that are no list":          {backend.FieldSubjectAltName, set(func(t *backend.Template) { t.SubjectAltName = []byte{0x30, 1, 0x82} }), san("a.example"), more},
		"DNS names that are no DNS names": {backend.FieldSubjectAltName, san("stra\xdfe"), san("STRA\xdfE"), more},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := grantedTemplate(t)
			if tc.granted != nil {
				tc.granted(tmpl)
			}
			made := *tmpl
			tc.made(&made)
			leaf, err := parsable(t, ca, &made)
			if err != nil { // crypto/x509 refuses it, and so compare does
				if tc.want != more {
					t.Fatal(err)
				}
				return
			}
			if err := equals(leaf, tmpl, []backend.Field{tc.field}); (err == nil) != (tc.want != more) {
				t.Errorf("decided by the CA: %v", err)
			}
			var others []backend.Field
			for f := range decided {
				if f != tc.field {
					others = append(others, f)
				}
			}
			for _, decides := range [][]backend.Field{nil, others, {"unknown"}} {
				if err := equals(leaf, tmpl, decides); (err == nil) != (tc.want == equal) {
					t.Errorf("decided by it: %v: %v", decides, err)
				}
			}
		})
	}
}

// parsable is certify, and an error where crypto/x509 reads no such certificate.
func parsable(t *testing.T, c *ca, made *backend.Template) (leaf *x509.Certificate, err error) {
	t.Helper()
	extensions := []stdpkix.Extension{}
	if made.SubjectAltName != nil {
		extensions = append(extensions, stdpkix.Extension{Id: oidSubjectAltName, Value: made.SubjectAltName})
	}
	key, err := x509.ParsePKIXPublicKey(made.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(7), RawSubject: made.Subject, ExtraExtensions: extensions}, c.cert, key, c.key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return c.certify(t, made), nil
}

// Whatever a CA decides, key, version, serial number and further extensions are held to what was granted, and it makes no CAs.
func TestDecidedNothingElse(t *testing.T) {
	ca, tmpl := newCA(t), grantedTemplate(t)
	tmpl.Extensions = []stdpkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}
	all := []backend.Field{backend.FieldSubject, backend.FieldSubjectAltName, backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage}
	given := tmpl.Extensions[0]
	for name, tc := range map[string]struct {
		make func() *x509.Certificate
		want string
	}{
		"as granted": {func() *x509.Certificate { return ca.certify(t, tmpl, given) }, ""},
		"another key": {func() *x509.Certificate {
			other := *tmpl
			other.PublicKey = grantedTemplate(t).PublicKey
			return ca.certify(t, &other, given)
		}, "another public key"},
		"no extension": {func() *x509.Certificate { return ca.certify(t, tmpl) }, "extension 1.2.3 missing"},
		"another extension": {func() *x509.Certificate {
			return ca.certify(t, tmpl, stdpkix.Extension{Id: given.Id, Value: []byte{1}})
		}, "extension 1.2.3 missing or another"},
		"a critical one": {func() *x509.Certificate {
			return ca.certify(t, tmpl, given, stdpkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 4}, Critical: true, Value: []byte{5, 0}})
		}, "critical extension 1.2.4"},
		"a CA": {func() *x509.Certificate {
			return ca.certify(t, tmpl, given, stdpkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}})
		}, "CA certificate"},
		"purposes of no length": {func() *x509.Certificate {
			return ca.certify(t, tmpl, given, stdpkix.Extension{Id: oidExtKeyUsage, Value: []byte{0x30, 0}})
		}, "extended key usage that does not parse"},
	} {
		err := equals(tc.make(), tmpl, all)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// A name is within another one exactly if something can be left out of that, and the types sorted, to make it.
func TestSubjectWithin(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(1, 2))
	types := []func(string) []attribute{cn, o, ou}
	for range 3000 {
		var granted, part [][]attribute
		for range random.IntN(6) {
			granted = append(granted, types[random.IntN(3)](string(rune('a'+random.IntN(3)))))
		}
		for _, rdn := range granted {
			if random.IntN(3) > 0 {
				part = append(part, rdn)
			}
		}
		// Stable in each type, whatever the order of the types.
		rank := random.Perm(3)
		slices.SortStableFunc(part, func(a, b []attribute) int {
			of := func(x []attribute) int { return rank[[]int{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2}[x[0].oid[3]]] }
			return of(a) - of(b)
		})
		if _, more := subjectWithin(nameDER(part...), nameDER(granted...)); more != nil {
			t.Fatalf("%v of %v: %v", part, granted, more)
		}
		strange := slices.Insert(slices.Clone(part), random.IntN(len(part)+1), types[random.IntN(3)]("x"))
		if _, more := subjectWithin(nameDER(strange...), nameDER(granted...)); len(more) != 1 || more[0].Text != "x" {
			t.Fatalf("%v of %v: %v", strange, granted, more)
		}
		if len(granted) > 0 {
			twice := append(slices.Clone(granted), granted[random.IntN(len(granted))])
			if _, more := subjectWithin(nameDER(twice...), nameDER(granted...)); len(more) == 0 {
				t.Fatalf("%v of %v", twice, granted)
			}
		}
	}
}

// FuzzDecidedNames: names of any bytes end in a verdict; those granted are within themselves where they parse, and what is within has no
// text that does not stand in what was granted.
func FuzzDecidedNames(f *testing.F) {
	f.Add(nameDER(cn("a"), o("b")), nameDER(o("b"), cn("a"), ou("c")), sanDER("a", "email:b@c"), sanDER("A", "d", "email:b@c"))
	f.Add([]byte{0x30, 0}, []byte{}, []byte{0x30, 0}, []byte{0x30, 2, 0x82, 0})
	f.Fuzz(func(t *testing.T, name, granted, san, may []byte) {
		if len(name)+len(granted)+len(san)+len(may) > 4096 {
			return
		}
		if _, more := subjectWithin(name, name); len(more) > 0 {
			t.Errorf("%x is not within itself: %v", name, more)
		}
		if has, more := subjectWithin(name, granted); more == nil && has != "" && hasType(granted, nil) {
			t.Errorf("%x within %x, which does not parse", name, granted)
		}
		if namesWithin(san, may) != "" {
			return
		}
		for _, dns := range dnsNames(san) {
			if !bytes.Contains(bytes.ToLower(may), bytes.ToLower([]byte(dns))) {
				t.Errorf("%q in %x within %x", dns, san, may)
			}
		}
	})
}
