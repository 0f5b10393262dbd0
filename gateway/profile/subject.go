package profile

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

const maxAttributes = 16 // of a subject

// Subject is a subject with templates as its values: "CN={{device.serial}},O=Operator", as RFC 4514 writes names, the most
// specific RDN first. It is taken apart before any value is known, so no value can become an RDN of its own.
type Subject struct {
	source string
	rdns   [][]attribute // in the order of the encoding, the most significant first
}

type attribute struct {
	kind  pkix.AttributeType
	value *Template
}

// UnmarshalStrict parses the subject where it stands in a configuration.
func (s *Subject) UnmarshalStrict(file string, n *yaml.Node) error {
	var text string
	if err := strictyaml.DecodeNode(file, n, &text); err != nil {
		return err
	}
	parsed, err := ParseSubject(text)
	if err != nil {
		return strictyaml.Errorf(file, n, "%v", err)
	}
	*s = *parsed
	return nil
}

// String is the subject as it was written.
func (s *Subject) String() string { return s.source }

// ParseSubject parses a name of RFC 4514 whose values are templates. Separators within {{ }} separate nothing. Spaces around
// names and values are left out, as most people write them for reading.
func ParseSubject(source string) (*Subject, error) {
	if len(source) > 4*maxSource {
		return nil, fmt.Errorf("the subject has %d bytes, at most %d are taken", len(source), 4*maxSource)
	}
	s := &Subject{source: source}
	rest, count := strings.TrimSpace(source), 0
	if rest == "" {
		return nil, errors.New("the subject is empty")
	}
	var rdn []attribute
	for {
		name, after, ok := strings.Cut(rest, "=")
		name = strings.TrimSpace(name)
		if !ok || name == "" || strings.ContainsAny(name, "{},+") {
			return nil, fmt.Errorf("want ATTRIBUTE=VALUE, such as CN={{device.serial}}, not %s", shown(rest))
		}
		kind, ok := pkix.AttributeTypeNamed(name)
		if !ok {
			return nil, fmt.Errorf("no attribute %q%s", name, suggestAttribute(name))
		}
		value, separator, after, err := cutValue(after)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if text, ok := value.fixed(); ok {
			if err := checkAttribute(kind, text); err != nil {
				return nil, err
			}
		}
		rdn = append(rdn, attribute{kind, value})
		if count++; count > maxAttributes {
			return nil, fmt.Errorf("more than %d attributes", maxAttributes)
		}
		if separator != '+' {
			s.rdns, rdn = append(s.rdns, rdn), nil
		}
		if separator == 0 {
			break
		}
		rest = after
	}
	slices.Reverse(s.rdns)
	return s, nil
}

// cutValue reads an attribute's value up to the separator behind it, which is 0 at the end (RFC 4514 section 3).
//
//	string = [ ( leadchar / pair ) [ *( stringchar / pair ) ( trailchar / pair ) ] ]
//	pair = ESC ( ESC / special / hexpair )
func cutValue(s string) (value *Template, separator byte, after string, err error) {
	s = strings.TrimLeft(s, " ")
	if strings.HasPrefix(s, "#") {
		return nil, 0, "", errors.New("values in hexadecimal (#...) are not read: write the text")
	}
	whole := s
	var parts []part
	var literal []byte
	kept := 0 // of literal: what an unescaped space at the end does not belong to
	flush := func() {
		if len(literal) > 0 {
			parts = append(parts, part{literal: string(literal)})
		}
		literal, kept = nil, 0
	}
	for s != "" {
		switch c := s[0]; {
		case strings.HasPrefix(s, "{{"):
			content, rest, err := cutAction(s[2:])
			if err != nil {
				return nil, 0, "", err
			}
			a, err := parseAction(content)
			if err != nil {
				return nil, 0, "", err
			}
			flush()
			parts = append(parts, part{action: a})
			s = rest
			continue
		case c == '\\':
			b, n, err := unescape(s)
			if err != nil {
				return nil, 0, "", err
			}
			literal = append(literal, b)
			kept, s = len(literal), s[n:]
			continue
		case c == ',' || c == '+':
			separator, after = c, s[1:]
		case strings.IndexByte(`;<>"`, c) >= 0:
			return nil, 0, "", fmt.Errorf("%q has a meaning of its own in names: write \\%c for the character itself", c, c)
		default:
			if literal = append(literal, c); c != ' ' {
				kept = len(literal)
			}
			s = s[1:]
			continue
		}
		break
	}
	literal = literal[:kept]
	flush()
	written := strings.TrimSpace(whole[:len(whole)-len(s)])
	switch {
	case len(parts) == 0:
		return nil, 0, "", errors.New("the value is empty")
	case separator != 0 && strings.TrimSpace(after) == "":
		return nil, 0, "", fmt.Errorf("nothing stands behind the last %q", separator)
	}
	value, err = newTemplate(written, parts)
	return value, separator, after, err
}

func unescape(s string) (b byte, n int, err error) {
	if len(s) >= 2 && strings.IndexByte(`\"+,;<>#= `, s[1]) >= 0 {
		return s[1], 2, nil
	}
	if len(s) >= 3 {
		if raw, err := hex.DecodeString(s[1:3]); err == nil {
			return raw[0], 3, nil
		}
	}
	return 0, 0, errors.New(`\ stands before one of \"+,;<>#= and space, or two hexadecimal digits`)
}

var (
	oidCountry      = asn1.ObjectIdentifier{2, 5, 4, 6}
	oidSerialNumber = asn1.ObjectIdentifier{2, 5, 4, 5}
	oidDNQualifier  = asn1.ObjectIdentifier{2, 5, 4, 46}
	oidDomain       = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}
	oidEmail        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
)

// stringType is the one that RFC 5280 appendix A.1 gives the attribute, UTF8String where it leaves the choice.
func stringType(oid asn1.ObjectIdentifier) cbasn1.Tag {
	switch {
	case oid.Equal(oidCountry), oid.Equal(oidSerialNumber), oid.Equal(oidDNQualifier):
		return cbasn1.PrintableString
	case oid.Equal(oidDomain), oid.Equal(oidEmail):
		return cbasn1.IA5String
	}
	return cbasn1.UTF8String
}

// checkAttribute says why a text cannot be the value of an attribute.
func checkAttribute(kind pkix.AttributeType, text string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s %s "+format, append([]any{kind.Name, shown(text)}, args...)...)
	}
	if err := checkText(text); err != nil {
		return bad("%w", err)
	}
	if n := utf8.RuneCountInString(text); n > kind.Bound {
		return bad("has %d characters, at most %d are certified (RFC 5280 appendix A.1)", n, kind.Bound)
	}
	switch stringType(kind.OID) {
	case cbasn1.PrintableString:
		for _, c := range text {
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(" '()+,-./:=?", c)) {
				return bad("has the character %q, which a PrintableString cannot hold (RFC 5280 appendix A.1)", c)
			}
		}
	case cbasn1.IA5String:
		if strings.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) {
			return bad("has characters beyond ASCII, which an IA5String cannot hold (RFC 5280 appendix A.1)")
		}
	}
	switch {
	case kind.OID.Equal(oidCountry) && (len(text) != 2 || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != ""):
		return bad("is no country of ISO 3166: two capital letters")
	case kind.OID.Equal(oidEmail) && !pkix.IsMailbox(text):
		return bad("is no address")
	}
	return nil
}

// checkText says why a text stands in no name.
func checkText(text string) error {
	switch {
	case text == "":
		return errors.New("is empty")
	case !utf8.ValidString(text):
		return errors.New("is not UTF-8")
	case !pkix.IsPrintable(text):
		return errors.New("has control or invisible characters")
	case strings.TrimSpace(text) != text:
		return errors.New("has space around it (the pipe trim takes it away)")
	}
	return nil
}

// make gives the DER Name. What is optional and not there is left out.
func (s *Subject) make(f *facts) ([]byte, error) {
	var b cryptobyte.Builder
	var failed error
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, rdn := range s.rdns {
			var set [][]byte
			for _, a := range rdn {
				der, err := a.make(f)
				if err != nil && failed == nil {
					failed = err
				}
				if der != nil {
					set = append(set, der)
				}
			}
			if len(set) == 0 {
				continue
			}
			slices.SortFunc(set, bytes.Compare) // DER: SET OF is sorted (X.690 section 11.6)
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
				for _, der := range set {
					b.AddBytes(der)
				}
			})
		}
	})
	if failed != nil {
		return nil, failed
	}
	return b.Bytes()
}

// make gives a DER AttributeTypeAndValue, nil when it is left out.
func (a *attribute) make(f *facts) ([]byte, error) {
	text, ok, err := a.value.render(f)
	if err != nil || !ok {
		return nil, err
	}
	if err := checkAttribute(a.kind, text); err != nil {
		return nil, &textError{a.value, err}
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(a.kind.OID)
		b.AddASN1(stringType(a.kind.OID), func(b *cryptobyte.Builder) { b.AddBytes([]byte(text)) })
	})
	return b.Bytes()
}

// sure reports whether some attribute always stands in the subject.
func (s *Subject) sure() bool {
	for _, rdn := range s.rdns {
		for _, a := range rdn {
			if a.value.sure() {
				return true
			}
		}
	}
	return false
}

func (s *Subject) templates() []*Template {
	var all []*Template
	for _, rdn := range s.rdns {
		for _, a := range rdn {
			all = append(all, a.value)
		}
	}
	return all
}

// textError says what is wrong with a text that a template made.
type textError struct {
	template *Template
	err      error
}

func (e *textError) Error() string { return e.template.source + ": " + e.err.Error() }
func (e *textError) Unwrap() error { return e.err }
