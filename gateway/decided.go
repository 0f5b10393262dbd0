package gateway

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
)

// How far the dates of a CA that goes by its own clock and its own rounding may lie outside of those granted.
const (
	decidedSkew     = time.Hour      // at the end, and no more than a tenth of what was granted
	decidedBackdate = 24 * time.Hour // at the start: CAs begin a certificate before they make it, for clocks that are slow
)

// decided is what compare allows for a field that the CA sets by rules of its own (backend.Description.Decides): less than
// was granted, never more. What it returns says in what the certificate has more, "" for nothing.
var decided = map[backend.Field]func(leaf *x509.Certificate, t *backend.Template) string{
	backend.FieldValidity:       decidedValidity,
	backend.FieldKeyUsage:       decidedKeyUsage,
	backend.FieldExtKeyUsage:    decidedExtKeyUsage,
	backend.FieldSubject:        decidedSubject,
	backend.FieldSubjectAltName: decidedSubjectAltName,
}

// setByCA says which fields of a certificate that compare let pass the CA has set otherwise than granted, "" for none: for the operator.
func setByCA(leaf *x509.Certificate, t *backend.Template, decides []backend.Field) string {
	eku, _ := parseOIDs(extension(leaf, oidExtKeyUsage))
	var list []string
	for _, f := range []struct {
		field backend.Field
		same  bool
		shown string
	}{
		{backend.FieldSubject, bytes.Equal(leaf.RawSubject, t.Subject), shownName(leaf.RawSubject)},
		{backend.FieldSubjectAltName, bytes.Equal(extension(leaf, oidSubjectAltName), t.SubjectAltName), shownSAN(extension(leaf, oidSubjectAltName))},
		{backend.FieldValidity, leaf.NotBefore.Equal(t.NotBefore) && leaf.NotAfter.Equal(t.NotAfter), "from " + leaf.NotBefore.Format(time.RFC3339) + " to " + leaf.NotAfter.Format(time.RFC3339)},
		{backend.FieldKeyUsage, leaf.KeyUsage == t.KeyUsage, keyUsageNames(leaf.KeyUsage)},
		{backend.FieldExtKeyUsage, sameOIDs(eku, t.ExtKeyUsage), oidList(eku)},
	} {
		if !f.same && slices.Contains(decides, f.field) {
			list = append(list, string(f.field)+" "+f.shown)
		}
	}
	if len(list) == 0 {
		return ""
	}
	return cut("the CA set by its own rules: "+strings.Join(list, "; "), maxShown)
}

// overrun is by how much a certificate of a CA that decides the validity may end later than granted.
func overrun(t *backend.Template) time.Duration {
	return min(decidedSkew, t.NotAfter.Sub(t.NotBefore)/10)
}

// decidedValidity: it ends no later than granted, and has begun.
func decidedValidity(leaf *x509.Certificate, t *backend.Template) string {
	switch {
	case leaf.NotAfter.After(t.NotAfter.Add(overrun(t))):
		return fmt.Sprintf("valid until %s, and granted until %s", leaf.NotAfter, t.NotAfter)
	case leaf.NotBefore.After(t.NotBefore.Add(decidedSkew)):
		return fmt.Sprintf("valid from %s only, and granted from %s", leaf.NotBefore, t.NotBefore)
	case leaf.NotBefore.Before(t.NotBefore.Add(-decidedBackdate)):
		return fmt.Sprintf("valid from %s, and granted from %s", leaf.NotBefore, t.NotBefore)
	case !leaf.NotAfter.After(leaf.NotBefore):
		return fmt.Sprintf("valid from %s to %s, which is never", leaf.NotBefore, leaf.NotAfter)
	}
	return ""
}

// onlyOneWay are the usages that narrow keyAgreement (RFC 5280 section 4.2.1.3): a certificate without them has more.
const onlyOneWay = x509.KeyUsageEncipherOnly | x509.KeyUsageDecipherOnly

// decidedKeyUsage: a certificate without the extension is good for anything (RFC 5280 section 4.2.1.3).
func decidedKeyUsage(leaf *x509.Certificate, t *backend.Template) string {
	has, granted := leaf.KeyUsage, t.KeyUsage
	if granted == 0 {
		return ""
	}
	wider := has&x509.KeyUsageKeyAgreement != 0 && granted&onlyOneWay&^has != 0
	if has == 0 || has&^granted != 0 || wider {
		return fmt.Sprintf("key usage %s, and granted %s", keyUsageNames(has), keyUsageNames(granted))
	}
	return ""
}

// oidAnyExtKeyUsage is anyExtendedKeyUsage (RFC 5280 section 4.2.1.12).
var oidAnyExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37, 0}

// decidedExtKeyUsage: likewise (section 4.2.1.12).
func decidedExtKeyUsage(leaf *x509.Certificate, t *backend.Template) string {
	der := extension(leaf, oidExtKeyUsage)
	eku, err := parseOIDs(der)
	if err != nil || der != nil && len(eku) == 0 {
		return "an extended key usage that does not parse"
	}
	granted := func(id asn1.ObjectIdentifier) bool { return slices.ContainsFunc(t.ExtKeyUsage, id.Equal) }
	if len(t.ExtKeyUsage) == 0 || granted(oidAnyExtKeyUsage) {
		return ""
	}
	if len(eku) == 0 || slices.ContainsFunc(eku, func(id asn1.ObjectIdentifier) bool { return !granted(id) }) {
		return fmt.Sprintf("extended key usage %v, and granted %v", eku, t.ExtKeyUsage)
	}
	return ""
}

// decidedSubject: attributes may be missing, and those of different types may change places, as CAs sort them. Where no common name
// was granted, it may be one of the DNS names that are, if it is among those of the certificate too, which is what CAs of the Web do
// (CA/Browser Forum Baseline Requirements section 7.1.4.3). A certificate that names nobody is none that was granted.
func decidedSubject(leaf *x509.Certificate, t *backend.Template) string {
	san := extension(leaf, oidSubjectAltName)
	if nameless(leaf.RawSubject, san) && !nameless(t.Subject, t.SubjectAltName) {
		return fmt.Sprintf("no name at all, and granted %q", pkix.FormatName(t.Subject))
	}
	has, more := subjectWithin(leaf.RawSubject, t.Subject)
	if more == nil || commonDNSName(more) && among(dnsNames(san), more[0].Text) && among(dnsNames(t.SubjectAltName), more[0].Text) && !hasType(t.Subject, oidCommonName) {
		return ""
	}
	return fmt.Sprintf("subject %q, and granted %q", has, pkix.FormatName(t.Subject))
}

// commonDNSName reports whether the attributes are one common name, in ASCII.
func commonDNSName(attributes pkix.RDN) bool {
	return len(attributes) == 1 && attributes[0].OID.Equal(oidCommonName) && attributes[0].IsText && isASCII(attributes[0].Text)
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

func among(dns []string, name string) bool {
	return slices.ContainsFunc(dns, func(d string) bool { return strings.EqualFold(d, name) })
}

// hasType reports whether a DER Name has an attribute of the type; one that does not parse may.
func hasType(name []byte, oid asn1.ObjectIdentifier) bool {
	n, err := pkix.ParseName(name)
	return err != nil || slices.ContainsFunc(slices.Concat(n...), func(a pkix.NameAttribute) bool { return a.OID.Equal(oid) })
}

// oidDomainComponent is domainComponent (RFC 4519 section 2.4): several make one domain name, and fewer of them another one.
var oidDomainComponent = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}

// subjectWithin is what attributes a DER Name has that another one has not, nil for none: attributes of one type keep their order,
// each counts once, and domain components are all there or none is. has is the name, for people.
func subjectWithin(name, granted []byte) (has string, more pkix.RDN) {
	mine, err := pkix.ParseName(name)
	may, failed := pkix.ParseName(granted)
	if err != nil || failed != nil {
		return pkix.FormatName(name), pkix.RDN{}
	}
	allowed := slices.Concat(may...)
	next := map[string]int{} // by type, from where on its next one may stand
	domains := 0
	for _, a := range slices.Concat(mine...) {
		from := next[a.OID.String()]
		i := slices.IndexFunc(allowed[from:], a.Same)
		if i < 0 {
			more = append(more, a)
			continue
		}
		next[a.OID.String()] = from + i + 1
		if a.OID.Equal(oidDomainComponent) {
			domains++
		}
	}
	for _, a := range allowed {
		if a.OID.Equal(oidDomainComponent) && domains > 0 {
			domains-- // as many as there are
		} else if a.OID.Equal(oidDomainComponent) && next[oidDomainComponent.String()] > 0 {
			more = append(more, a)
		}
	}
	return mine.String(), more
}

// nameless reports whether neither the DER Name nor the DER GeneralNames, nil for none, name anybody.
func nameless(subject, san []byte) bool {
	name, err := pkix.ParseName(subject)
	names, ok := generalNames(san)
	return err == nil && ok && len(name) == 0 && len(names) == 0
}

// decidedSubjectAltName: names may be missing, and change places.
func decidedSubjectAltName(leaf *x509.Certificate, t *backend.Template) string {
	san := extension(leaf, oidSubjectAltName)
	if nameless(leaf.RawSubject, san) && !nameless(t.Subject, t.SubjectAltName) {
		return "no name at all"
	}
	return namesWithin(san, t.SubjectAltName)
}

// namesWithin says what DER GeneralNames, nil for none, have that others have not, "" for nothing. Letters of DNS names count alike
// in either case (RFC 5280 section 7.2).
func namesWithin(san, granted []byte) string {
	has, ok := generalNames(san)
	may, wellFormed := generalNames(granted)
	if !ok || !wellFormed {
		return "a subjectAltName that does not parse"
	}
	for _, name := range has {
		if !slices.ContainsFunc(may, func(g []byte) bool { return sameGeneralName(g, name) }) {
			return "a name in subjectAltName that was not granted"
		}
	}
	return ""
}

func sameGeneralName(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, ok := dnsName(a)
	y, also := dnsName(b)
	return ok && also && strings.EqualFold(x, y)
}

// generalNames are the elements of GeneralNames, DER each; none of nil.
func generalNames(der []byte) (names [][]byte, ok bool) {
	if der == nil {
		return nil, true
	}
	in, list := cryptobyte.String(der), cryptobyte.String(nil)
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, false
	}
	for !list.Empty() {
		var name cryptobyte.String
		if !list.ReadAnyASN1Element(&name, nil) {
			return nil, false
		}
		names = append(names, name)
	}
	return names, true
}

// dnsName is a GeneralName's dNSName (RFC 5280 section 4.2.1.6), an IA5String.
func dnsName(der []byte) (string, bool) {
	in, value := cryptobyte.String(der), cryptobyte.String(nil)
	if !in.ReadASN1(&value, cbasn1.Tag(2).ContextSpecific()) || !isASCII(string(value)) {
		return "", false
	}
	return string(value), true
}

// dnsNames are the dNSNames of GeneralNames.
func dnsNames(der []byte) (out []string) {
	names, _ := generalNames(der)
	for _, n := range names {
		if name, ok := dnsName(n); ok {
			out = append(out, name)
		}
	}
	return out
}
