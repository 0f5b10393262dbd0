package pkix

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of a name that a person writes.
const (
	maxNameText       = 4 << 10 // bytes
	maxNameAttributes = 32
)

// ParseRFC4514 is the DER Name of what FormatName prints, with UTF8Strings. Types may be written by their long names too, and
// spaces may stand around separators ("CN=a, O=b"). The empty string is the empty Name.
//
//	distinguishedName = [ relativeDistinguishedName *( COMMA relativeDistinguishedName ) ]   ; RFC 4514 section 3
//	relativeDistinguishedName = attributeTypeAndValue *( PLUS attributeTypeAndValue )
//	attributeTypeAndValue = attributeType EQUALS attributeValue
//	attributeValue = string / ( SHARP 1*hexpair )
func ParseRFC4514(s string) ([]byte, error) {
	if len(s) > maxNameText || !utf8.ValidString(s) {
		return nil, fmt.Errorf("a name has at most %d bytes of UTF-8", maxNameText)
	}
	var rdns [][]byte
	count := 0
	for rest := strings.TrimLeft(s, " "); rest != "" || len(rdns) > 0; {
		var attributes [][]byte
		sep := byte('+')
		for sep == '+' {
			if count++; count > maxNameAttributes {
				return nil, fmt.Errorf("a name has at most %d attributes", maxNameAttributes)
			}
			var attribute []byte
			var err error
			if attribute, rest, sep, err = readAttribute(rest); err != nil {
				return nil, err
			}
			attributes = append(attributes, attribute)
		}
		slices.SortFunc(attributes, slices.Compare[[]byte]) // DER of a SET OF
		rdns = append(rdns, slices.Concat(attributes...))
		if sep == 0 {
			break
		}
	}
	slices.Reverse(rdns) // the text begins with the last one
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, rdn := range rdns {
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(rdn) })
		}
	})
	return b.Bytes()
}

// readAttribute reads one type and value, and the separator behind it, 0 at the end.
func readAttribute(s string) (der []byte, rest string, sep byte, err error) {
	word, s, ok := strings.Cut(s, "=")
	word = strings.TrimSpace(word)
	if !ok {
		return nil, "", 0, fmt.Errorf("%q: want TYPE=VALUE", word)
	}
	kind, ok := AttributeTypeNamed(word)
	if !ok {
		return nil, "", 0, fmt.Errorf("no attribute %q", word)
	}
	value, rest, sep, err := readValue(strings.TrimLeft(s, " "))
	if err != nil {
		return nil, "", 0, fmt.Errorf("%s: %w", word, err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(kind.OID)
		b.AddBytes(value)
	})
	der, err = b.Bytes()
	return der, rest, sep, err
}

// readValue reads a value up to the separator that ends it, as the DER of its encoding.
func readValue(s string) (der []byte, rest string, sep byte, err error) {
	var text []byte
	kept := 0 // bytes of text that are there to stay: unescaped spaces behind them are not
	i := 0
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c == ',' || c == '+':
			sep = c
		case c == '\\' && i+1 < len(s) && strings.IndexByte(`\"+,;<> #=`, s[i+1]) >= 0:
			i++
			text = append(text, s[i])
			kept = len(text)
			continue
		case c == '\\':
			if i+2 >= len(s) {
				return nil, "", 0, fmt.Errorf(`a \ is followed by a special character or two hexadecimal digits`)
			}
			b, err := hex.DecodeString(s[i+1 : i+3])
			if err != nil {
				return nil, "", 0, fmt.Errorf(`a \ is followed by a special character or two hexadecimal digits`)
			}
			i += 2
			text = append(text, b...)
			kept = len(text)
			continue
		case strings.IndexByte(`";<>`, c) >= 0:
			return nil, "", 0, fmt.Errorf(`%q is written \%c`, c, c)
		default:
			text = append(text, c)
			if c != ' ' {
				kept = len(text)
			}
			continue
		}
		break
	}
	if sep != 0 {
		rest = s[i+1:]
	}
	text = text[:kept]
	if strings.HasPrefix(s, "#") {
		der, err := hex.DecodeString(string(text[1:]))
		input := cryptobyte.String(der)
		var tag cbasn1.Tag
		var content cryptobyte.String
		if err != nil || !input.ReadAnyASN1(&content, &tag) || !input.Empty() {
			return nil, "", 0, fmt.Errorf("after # comes the DER of the value in hexadecimal")
		}
		return der, rest, sep, nil
	}
	if len(text) == 0 || !utf8.Valid(text) {
		return nil, "", 0, fmt.Errorf("the value is empty, or no UTF-8")
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes(text) })
	der, err = b.Bytes()
	return der, rest, sep, err
}
