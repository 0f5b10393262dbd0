package profile

import (
	"bytes"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Word says what becomes of a part that a request asks for.
type Word string

const (
	// Replace: what is asked for counts for nothing, the profile's is granted. The client is told where its protocol can
	// (CMP: grantedWithMods).
	Replace Word = "replace"
	// Refuse: a request that asks for something else than the profile's is refused.
	Refuse Word = "refuse"
	// Allow: as asked for, within the profile's limits; what is not asked for is the profile's.
	Allow Word = "allow"
)

var words = []string{string(Replace), string(Refuse), string(Allow)}

// UnmarshalText reads one of the words.
func (w *Word) UnmarshalText(text []byte) error {
	if *w = Word(text); !slices.Contains(words, string(text)) {
		return fmt.Errorf("%q is not known%s", text, strictyaml.Suggest(string(text), words))
	}
	return nil
}

// or is the word, by default Replace or Allow.
func (w Word) or(replace bool) Word {
	switch {
	case w != "":
		return w
	case replace:
		return Replace
	}
	return Allow
}

// Ask says what may be asked for beyond what the profile gives: replace, refuse or allow for each part.
type Ask struct {
	// Subject. Default: replace where the profile has one, else allow.
	Subject Word `yaml:"subject"`
	// SAN is the subjectAltName. Default: replace where the profile has a san or a subject, else allow.
	SAN Word `yaml:"san"`
	// KeyUsage; allow: the profile's key-usage and those allowed below. Default: replace.
	KeyUsage Word `yaml:"key-usage"`
	// ExtKeyUsage; allow: the profile's ext-key-usage and those allowed below. Default: replace.
	ExtKeyUsage Word `yaml:"ext-key-usage"`
	// Validity; allow: a start at most 1d from the profile's, either way, and an end not after the profile's; a later end
	// becomes the profile's. Default: replace.
	Validity Word `yaml:"validity"`
	// Extensions are all others; allow: those allowed below. Default: replace, which leaves them out.
	Extensions Word `yaml:"extensions"`
	// Allowed is what may be asked for with allow.
	Allowed Allowed `yaml:"allowed"`
}

// Allowed is what may be asked for beside the profile's own.
type Allowed struct {
	// KeyUsage by RFC 5280's names.
	KeyUsage []string `yaml:"key-usage"`
	// ExtKeyUsage by name, or OIDs.
	ExtKeyUsage []string `yaml:"ext-key-usage"`
	// Extensions by OID. They are certified as they are asked for: nothing looks into them.
	Extensions []string `yaml:"extensions"`
}

const (
	maxStart           = 24 * time.Hour // of an asked start from the profile's, either way
	maxAskedExtensions = 16
	maxAskedValue      = 4096 // bytes
	maxAskedPurposes   = 32
)

// decided are extensions that something else decides about, so that none of them can be asked for as it stands.
var decided = map[string]string{
	"2.5.29.17": "san decides", "2.5.29.15": "key-usage decides", "2.5.29.37": "ext-key-usage decides",
	"2.5.29.14": "the CA sets it", "2.5.29.35": "the CA sets it", "2.5.29.19": "the CA sets it", "2.5.29.31": "the CA sets it",
	"1.3.6.1.5.5.7.1.1": "the CA sets it", "2.5.29.46": "the CA sets it", "2.5.29.18": "the CA sets it",
	"2.5.29.30": "it is for CAs", "2.5.29.33": "it is for CAs", "2.5.29.36": "it is for CAs", "2.5.29.54": "it is for CAs",
	"1.3.6.1.4.1.11129.2.4.3": "it makes a certificate that is none",
}

// checkAsk checks what may be asked for.
func (s *Shaper) checkAsk() error {
	var errs []error
	for i, text := range s.ask.Allowed.Extensions {
		oid, ok := pkix.ParseOID(text)
		switch why, taken := decided[text]; {
		case !ok:
			errs = append(errs, keyError(fmt.Errorf("%q is not an OID", text), "ask", "allowed", "extensions", fmt.Sprint(i)))
		case taken:
			errs = append(errs, keyError(fmt.Errorf("%s cannot be asked for: %s", text, why), "ask", "allowed", "extensions", fmt.Sprint(i)))
		}
		s.extensions = append(s.extensions, oid)
	}
	for _, part := range []struct {
		key  string
		word Word
		more []string
	}{
		{"key-usage", s.ask.KeyUsage, s.ask.Allowed.KeyUsage},
		{"ext-key-usage", s.ask.ExtKeyUsage, s.ask.Allowed.ExtKeyUsage},
		{"extensions", s.ask.Extensions, s.ask.Allowed.Extensions},
	} {
		if len(part.more) > 0 && part.word != Allow {
			errs = append(errs, keyError(fmt.Errorf("it counts only with `ask: {%s: allow}`", part.key), "ask", "allowed", part.key))
		}
	}
	if s.ask.Extensions == Allow && len(s.ask.Allowed.Extensions) == 0 {
		errs = append(errs, keyError(errors.New("which may be asked for? List their OIDs in ask.allowed.extensions"), "ask", "extensions"))
	}
	return errors.Join(errs...)
}

var (
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
)

func badTemplate(g *gateway.Grant, format string, args ...any) error {
	detail := fmt.Sprintf(format, args...)
	return gateway.Errorf(gateway.BadTemplate, detail, "profile %s: %s", g.Profile, detail)
}

func (s *Shaper) shapeKeyUsage(r *gateway.Request, g *gateway.Grant) error {
	der, asked := r.Extension(oidKeyUsage)
	if !asked || s.ask.KeyUsage == Replace {
		return nil
	}
	usage, ok := parseKeyUsage(der)
	switch {
	case !ok:
		return badTemplate(g, "the keyUsage asked for is malformed")
	case s.ask.KeyUsage == Refuse && usage != g.KeyUsage:
		return badTemplate(g, "the keyUsage is not the device's to choose: ask for none")
	case usage == 0 || usage&^s.limits.KeyUsage != 0:
		return badTemplate(g, "the keyUsage asked for has more than is certified here")
	}
	g.KeyUsage = usage
	return nil
}

// parseKeyUsage reads KeyUsage ::= BIT STRING (RFC 5280 section 4.2.1.3). Bit n of x509.KeyUsage is bit n of the list.
func parseKeyUsage(der []byte) (x509.KeyUsage, bool) {
	in := cryptobyte.String(der)
	var bits asn1.BitString
	if !in.ReadASN1BitString(&bits) || !in.Empty() || bits.BitLength > 9 {
		return 0, false
	}
	var usage x509.KeyUsage
	for i := range bits.BitLength {
		usage |= x509.KeyUsage(bits.At(i)) << i
	}
	return usage, true
}

func (s *Shaper) shapeExtKeyUsage(r *gateway.Request, g *gateway.Grant) error {
	der, asked := r.Extension(oidExtKeyUsage)
	if !asked || s.ask.ExtKeyUsage == Replace {
		return nil
	}
	ids, ok := parsePurposes(der)
	within := func(list, in []asn1.ObjectIdentifier) bool {
		return !slices.ContainsFunc(list, func(id asn1.ObjectIdentifier) bool { return !slices.ContainsFunc(in, id.Equal) })
	}
	switch {
	case !ok:
		return badTemplate(g, "the extKeyUsage asked for is malformed")
	case s.ask.ExtKeyUsage == Refuse:
		if !within(ids, g.ExtKeyUsage) || !within(g.ExtKeyUsage, ids) {
			return badTemplate(g, "the extKeyUsage is not the device's to choose: ask for none")
		}
		return nil
	case !within(ids, s.limits.ExtKeyUsage):
		return badTemplate(g, "the extKeyUsage asked for has more than is certified here")
	}
	g.ExtKeyUsage = ids
	return nil
}

// parsePurposes reads ExtKeyUsageSyntax ::= SEQUENCE SIZE (1..MAX) OF KeyPurposeId (RFC 5280 section 4.2.1.12).
func parsePurposes(der []byte) ([]asn1.ObjectIdentifier, bool) {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, false
	}
	var ids []asn1.ObjectIdentifier
	for !seq.Empty() {
		var id asn1.ObjectIdentifier
		if len(ids) == maxAskedPurposes || !seq.ReadASN1ObjectIdentifier(&id) || slices.ContainsFunc(ids, id.Equal) {
			return nil, false
		}
		ids = append(ids, id)
	}
	return ids, len(ids) > 0
}

// shapeValidity lets the asked period be within that of the grant, and begin a bounded time away from it. The end never
// lies after the grant's, whatever stage has set it.
func (s *Shaper) shapeValidity(r *gateway.Request, g *gateway.Grant) error {
	start, end := r.Validity.NotBefore.UTC().Truncate(time.Second), r.Validity.NotAfter.UTC().Truncate(time.Second)
	if r.Validity.NotBefore.IsZero() {
		start = g.NotBefore
	}
	if r.Validity.NotAfter.IsZero() {
		end = g.NotAfter
	}
	switch {
	case s.ask.Validity == Replace:
		return nil
	case s.ask.Validity == Refuse:
		if !start.Equal(g.NotBefore) || !end.Equal(g.NotAfter) {
			return badTemplate(g, "the validity is not the device's to choose: ask for none")
		}
		return nil
	case start.Before(g.NotBefore.Add(-maxStart)) || start.After(g.NotBefore.Add(maxStart)):
		return badTemplate(g, "the validity asked for begins more than a day from now")
	}
	if !r.Validity.NotAfter.IsZero() && end.After(g.Latest()) || r.Validity.NotAfter.IsZero() && end.After(g.NotAfter) {
		end = g.NotAfter
	}
	if !start.Before(end) {
		return badTemplate(g, "the validity asked for ends before it begins")
	}
	g.NotBefore, g.NotAfter = start, end
	return nil
}

// endEntity reports whether BasicConstraints are those of an end entity, cA left out or, against DER, FALSE.
func endEntity(der []byte) bool {
	return bytes.Equal(der, []byte{0x30, 0}) || bytes.Equal(der, []byte{0x30, 3, 1, 1, 0})
}

// shapeExtensions judges all others than names and usages. A subjectKeyIdentifier and the basicConstraints of an end entity,
// which many clients ask for, are what every certificate has.
func (s *Shaper) shapeExtensions(r *gateway.Request, g *gateway.Grant) error {
	if s.ask.Extensions == Replace {
		return nil
	}
	var granted []stdpkix.Extension
	for _, e := range r.Extensions {
		switch {
		case e.Id.Equal(oidSubjectAlt), e.Id.Equal(oidKeyUsage), e.Id.Equal(oidExtKeyUsage), e.Id.Equal(oidSubjectKeyID),
			e.Id.Equal(oidBasicConstraints) && endEntity(e.Value):
			continue
		case s.ask.Extensions == Refuse, !slices.ContainsFunc(s.extensions, e.Id.Equal):
			return badTemplate(g, "the extension %s is not certified here: ask without it", e.Id)
		case slices.ContainsFunc(granted, func(o stdpkix.Extension) bool { return o.Id.Equal(e.Id) }):
			return badTemplate(g, "the extension %s is asked for twice", e.Id)
		case len(granted) == maxAskedExtensions || len(e.Value) > maxAskedValue:
			return badTemplate(g, "the extensions asked for are too many or too long")
		case !isDER(e.Value):
			return badTemplate(g, "the value of the extension %s is not one DER element", e.Id)
		}
		granted = append(granted, e)
	}
	if granted != nil {
		g.Extensions = append(slices.Clip(g.Extensions), granted...)
	}
	return nil
}

// isDER reports whether a value is one element and no more. An extension of anything else breaks whoever reads the certificate.
func isDER(der []byte) bool {
	in := cryptobyte.String(der)
	var element cryptobyte.String
	return in.ReadAnyASN1Element(&element, new(cbasn1.Tag)) && in.Empty()
}
