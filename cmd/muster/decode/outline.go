package decode

import (
	"encoding/asn1"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// How many elements an outline shows: of a value of a message, and of a whole message that does not parse.
const (
	maxOutline       = 200
	maxBrokenOutline = 2000
)

// outliner shows the elements of a DER value of which nothing else is known, or which is broken: then with the offset
// of each, as far as the encoding can be followed. It trusts no length: a message cut short shows what is left of it.
type outliner struct {
	left    int
	offset  bool
	secrets bool // show what follows the OID of a secret
}

// outline shows a value of a message, secrets in it hidden.
func outline(n *node, label string, der []byte) { (&decoder{}).outline(n, label, der) }

func (d *decoder) outline(n *node, label string, der []byte) {
	o := &outliner{left: maxOutline, secrets: d.showSecrets}
	switch e, ok := readElement(der); {
	case ok && e.whole && len(e.rest) == 0:
		o.show(n, label, e, 0, 0)
	default:
		n.add(label, hexOf(der))
	}
}

// brokenOutline shows what can be followed of a message that does not parse. base is its offset in the file.
func (d *decoder) brokenOutline(n *node, der []byte, base int) {
	o := &outliner{left: maxBrokenOutline, offset: true, secrets: d.showSecrets}
	o.list(n, der, base, 0)
}

// element is one tag, length and value.
type element struct {
	tag           byte
	all, content  []byte
	rest          []byte
	length        int  // as the length octets say
	whole         bool // content is all of it
	constructed   bool
	endOfContents bool
}

// readElement takes the first element off, however much of it is there. Tag numbers above 30 are not followed.
func readElement(b []byte) (e element, ok bool) {
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return e, false
	}
	e.tag, e.length, e.constructed = b[0], int(b[1]), b[0]&0x20 != 0
	at := 2
	switch octets := int(b[1] & 0x7f); {
	case b[1] == 0x80: // of indefinite length: up to the end-of-contents, which is shown as an element
		e.length = len(b) - at
		if !e.constructed {
			return e, false
		}
	case b[1] > 0x80:
		if octets > 4 || at+octets > len(b) {
			return e, false
		}
		e.length = 0
		for _, c := range b[at : at+octets] {
			e.length = e.length<<8 | int(c)
		}
		at += octets
	}
	end := min(at+e.length, len(b))
	e.whole = e.length == end-at && e.length >= 0
	if end < at { // 32 bits of length
		end = len(b)
	}
	e.all, e.content, e.rest = b[:end], b[at:end], b[end:]
	e.endOfContents = e.tag == 0 && e.length == 0
	return e, true
}

// list shows all elements of b.
func (o *outliner) list(n *node, b []byte, base, depth int) {
	hidden := false
	for len(b) > 0 {
		e, ok := readElement(b)
		switch {
		case !ok && hidden:
			n.addf(o.label("not an element", base), "%s", bytesOf(len(b)))
			return
		case !ok:
			n.add(o.label("not an element", base), hexOf(b))
			return
		case o.left <= 0:
			if o.left == 0 {
				n.addf("...", "%s more", bytesOf(len(b)))
			}
			o.left = -1
			return
		}
		if label := o.label(tagName(e), base); hidden {
			o.left--
			n.addf(label, "present (%s)", bytesOf(len(e.content)))
		} else {
			o.show(n, label, e, base, depth)
		}
		hidden = hidden || !o.secrets && isSecret(e)
		base += len(e.all)
		b = e.rest
	}
}

// isSecret reports whether an element is the OID of what holds a secret next to it.
func isSecret(e element) bool {
	in := cryptobyte.String(e.all)
	var oid asn1.ObjectIdentifier
	return e.tag == byte(cbasn1.OBJECT_IDENTIFIER) && in.ReadASN1ObjectIdentifier(&oid) &&
		(oid.String() == oidChallenge || oid.Equal(cmpmsg.OIDRegToken) || oid.Equal(cmpmsg.OIDAuthenticator))
}

func (o *outliner) label(name string, base int) string {
	if o.offset {
		return fmt.Sprintf("%d: %s", base, name)
	}
	return name
}

func (o *outliner) show(n *node, label string, e element, base, depth int) {
	o.left--
	cut := ""
	if !e.whole {
		cut = fmt.Sprintf(" (cut short: %d of %s)", len(e.content), bytesOf(e.length))
	}
	switch value, ok := o.oneLine(e); {
	case ok:
		n.add(label, value)
	case !e.constructed:
		value := hexOf(e.content)
		if e.tag&0xc0 == 0 && e.whole {
			value = primitive(cbasn1.Tag(e.tag), e.content, e.all)
		}
		n.add(label, value+cut)
	case depth == 20 || len(e.content) == 0:
		n.add(label, hexOf(e.content)+cut)
	default:
		if label != "" && !o.offset && depth == 0 {
			cut = tagName(e) + cut
		}
		header := len(e.all) - len(e.content)
		o.list(n.add(label, trimmed(cut)), e.content, base+header, depth+1)
	}
}

func trimmed(s string) string {
	if len(s) > 0 && s[0] == ' ' {
		return s[1:]
	}
	return s
}

// oneLine shows what an engineer reads as one thing: a certificate, a name, an algorithm without parameters.
func (o *outliner) oneLine(e element) (string, bool) {
	if e.tag != byte(cbasn1.SEQUENCE) || !e.whole || len(e.content) == 0 {
		return "", false
	}
	if c, ok := parseCertificate(e.all); ok {
		return fmt.Sprintf("certificate of %s, %s", nameText(c.subject), bytesOf(len(e.all))), true
	}
	if e.content[0] == byte(cbasn1.SET) {
		name := nameText(e.all)
		return name, name != malformedName
	}
	if oid, params, ok := readWholeAlgorithm(e.all); ok && (params == nil || string(params) == "\x05\x00") {
		return algorithmName(oid, nil), true
	}
	return "", false
}

// tagName names the type of an element.
func tagName(e element) string {
	if name, ok := tagNames[e.tag]; ok && !e.endOfContents {
		return name
	}
	switch {
	case e.endOfContents:
		return "end-of-contents"
	case e.tag&0xc0 == 0x80:
		return fmt.Sprintf("[%d]", e.tag&0x1f)
	}
	return fmt.Sprintf("tag %#x", e.tag)
}

// tagNames are the universal types by identifier octet (X.680 section 8.4).
var tagNames = map[byte]string{
	0x01: "BOOLEAN", 0x02: "INTEGER", 0x03: "BIT STRING", 0x04: "OCTET STRING", 0x05: "NULL", 0x06: "OBJECT IDENTIFIER",
	0x0a: "ENUMERATED", 0x0c: "UTF8String", 0x12: "NumericString", 0x13: "PrintableString", 0x14: "T61String",
	0x16: "IA5String", 0x17: "UTCTime", 0x18: "GeneralizedTime", 0x1a: "VisibleString", 0x1c: "UniversalString",
	0x1e: "BMPString", 0x23: "BIT STRING in parts", 0x24: "OCTET STRING in parts", 0x30: "SEQUENCE", 0x31: "SET",
}
