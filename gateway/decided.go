package gateway

import (
	"bytes"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
)

// decidedSkew is by how much the dates of a CA that goes by its own clock and its own rounding may lie outside of those granted.
const decidedSkew = time.Hour

// decided is what compare allows for a field that the CA sets by rules of its own (backend.Description.Decides): less than
// was granted, never more. What it returns says in what the certificate has more, "" for nothing.
var decided = map[backend.Field]func(leaf *x509.Certificate, t *backend.Template) string{
	backend.FieldValidity:       decidedValidity,
	backend.FieldKeyUsage:       decidedKeyUsage,
	backend.FieldExtKeyUsage:    decidedExtKeyUsage,
	backend.FieldSubject:        decidedSubject,
	backend.FieldSubjectAltName: decidedSubjectAltName,
}

// decidedValidity: it ends no later than granted, and has begun.
func decidedValidity(leaf *x509.Certificate, t *backend.Template) string {
	switch {
	case leaf.NotAfter.After(t.NotAfter.Add(decidedSkew)):
		return fmt.Sprintf("valid until %s, and granted until %s", leaf.NotAfter, t.NotAfter)
	case leaf.NotBefore.After(t.NotBefore.Add(decidedSkew)):
		return fmt.Sprintf("valid from %s only, and granted from %s", leaf.NotBefore, t.NotBefore)
	case !leaf.NotAfter.After(leaf.NotBefore):
		return fmt.Sprintf("valid from %s to %s, which is never", leaf.NotBefore, leaf.NotAfter)
	}
	return ""
}

// decidedKeyUsage: a certificate without the extension is good for anything (RFC 5280 section 4.2.1.3).
func decidedKeyUsage(leaf *x509.Certificate, t *backend.Template) string {
	if t.KeyUsage != 0 && (leaf.KeyUsage == 0 || leaf.KeyUsage&^t.KeyUsage != 0) {
		return fmt.Sprintf("key usage %#x, and granted %#x", leaf.KeyUsage, t.KeyUsage)
	}
	return ""
}

// decidedExtKeyUsage: likewise (section 4.2.1.12).
func decidedExtKeyUsage(leaf *x509.Certificate, t *backend.Template) string {
	eku, err := parseOIDs(extension(leaf, oidExtKeyUsage))
	if err != nil {
		return "an extended key usage that does not parse"
	}
	granted := func(id asn1.ObjectIdentifier) bool { return slices.ContainsFunc(t.ExtKeyUsage, id.Equal) }
	if len(t.ExtKeyUsage) > 0 && (len(eku) == 0 || slices.ContainsFunc(eku, func(id asn1.ObjectIdentifier) bool { return !granted(id) })) {
		return fmt.Sprintf("extended key usage %v, and granted %v", eku, t.ExtKeyUsage)
	}
	return ""
}

// decidedSubject: attributes may be missing. A common name that was not asked for may be one of the DNS names granted, which is
// what CAs of the Web do (CA/Browser Forum Baseline Requirements section 7.1.4.3).
func decidedSubject(leaf *x509.Certificate, t *backend.Template) string {
	var has, granted stdpkix.RDNSequence
	if _, err := asn1.Unmarshal(leaf.RawSubject, &has); err != nil {
		return "a subject that does not parse"
	}
	if _, err := asn1.Unmarshal(t.Subject, &granted); err != nil {
		return "a subject, and the one granted does not parse"
	}
	for _, rdn := range has {
		for _, a := range rdn {
			if !within(granted, a) && !(a.Type.Equal(oidCommonName) && slices.Contains(dnsNames(t.SubjectAltName), fmt.Sprint(a.Value))) {
				return fmt.Sprintf("subject %q, and granted %q", pkix.FormatName(leaf.RawSubject), pkix.FormatName(t.Subject))
			}
		}
	}
	return ""
}

// within reports whether an attribute of a name stands in another.
func within(name stdpkix.RDNSequence, a stdpkix.AttributeTypeAndValue) bool {
	for _, rdn := range name {
		for _, b := range rdn {
			if a.Type.Equal(b.Type) && fmt.Sprint(a.Value) == fmt.Sprint(b.Value) {
				return true
			}
		}
	}
	return false
}

// decidedSubjectAltName: names may be missing.
func decidedSubjectAltName(leaf *x509.Certificate, t *backend.Template) string {
	has, ok := generalNames(extension(leaf, oidSubjectAltName))
	granted, wellFormed := generalNames(t.SubjectAltName)
	if !ok || !wellFormed {
		return "a subjectAltName that does not parse"
	}
	for _, name := range has {
		if !slices.ContainsFunc(granted, func(g []byte) bool { return bytes.Equal(g, name) }) {
			return "a name in subjectAltName that was not granted"
		}
	}
	return ""
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

// dnsNames are the dNSNames (RFC 5280 section 4.2.1.6) of GeneralNames.
func dnsNames(der []byte) (out []string) {
	names, _ := generalNames(der)
	for _, n := range names {
		in, value := cryptobyte.String(n), cryptobyte.String(nil)
		if in.ReadASN1(&value, cbasn1.Tag(2).ContextSpecific()) {
			out = append(out, string(value))
		}
	}
	return out
}
