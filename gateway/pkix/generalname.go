package pkix

import (
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxGeneralNames caps the names of one subjectAltName.
const maxGeneralNames = 128

// GeneralNames is the value of a subjectAltName (RFC 5280 section 4.2.1.6), each kind in the order of the encoding.
type GeneralNames struct {
	DNS, Email, URI []string
	IP              []netip.Addr
	Other           int    // how many names of any other kind (otherName, directoryName, registeredID ...)
	Raw             []byte // DER GeneralNames; nil before Marshal
}

// Tags of GeneralName (RFC 5280 section 4.2.1.6).
const (
	tagOtherName     = 0
	tagRFC822Name    = 1
	tagDNSName       = 2
	tagX400Address   = 3
	tagDirectoryName = 4
	tagEDIPartyName  = 5
	tagURI           = 6
	tagIPAddress     = 7
	tagRegisteredID  = 8
)

// ParseGeneralNames parses a DER GeneralNames: 1 to 128 names, text printable ASCII and not empty, addresses of 4 or
// 16 bytes. Names of other kinds are counted, never dropped silently. Errors are ErrMalformed.
//
//	GeneralNames ::= SEQUENCE SIZE (1..MAX) OF GeneralName
//	GeneralName ::= CHOICE {
//	    otherName                  [0] OtherName,
//	    rfc822Name                 [1] IA5String,
//	    dNSName                    [2] IA5String,
//	    x400Address                [3] ORAddress,
//	    directoryName              [4] Name,
//	    ediPartyName               [5] EDIPartyName,
//	    uniformResourceIdentifier  [6] IA5String,
//	    iPAddress                  [7] OCTET STRING,
//	    registeredID               [8] OBJECT IDENTIFIER }
func ParseGeneralNames(der []byte) (*GeneralNames, error) {
	input := cryptobyte.String(der)
	var seq cryptobyte.String
	if !input.ReadASN1(&seq, cbasn1.SEQUENCE) || !input.Empty() || seq.Empty() {
		return nil, malformed("GeneralNames")
	}
	names := &GeneralNames{Raw: der}
	for count := 0; !seq.Empty(); count++ {
		var content cryptobyte.String
		var tag cbasn1.Tag
		if count == maxGeneralNames {
			return nil, malformed("over %d GeneralNames", maxGeneralNames)
		}
		if !seq.ReadAnyASN1(&content, &tag) {
			return nil, malformed("GeneralName %d", count)
		}
		if !names.add(tag, content) {
			return nil, malformed("name %d%s", count+1, faultOf(tag))
		}
	}
	return names, nil
}

func (n *GeneralNames) add(tag cbasn1.Tag, content cryptobyte.String) bool {
	switch tag {
	case contextTag(tagRFC822Name):
		n.Email = append(n.Email, string(content))
		return visible(content)
	case contextTag(tagDNSName):
		n.DNS = append(n.DNS, string(content))
		return visible(content)
	case contextTag(tagURI):
		n.URI = append(n.URI, string(content))
		return visible(content)
	case contextTag(tagIPAddress):
		addr, ok := netip.AddrFromSlice(content)
		n.IP = append(n.IP, addr)
		return ok
	case contextTag(tagDirectoryName).Constructed():
		n.Other++
		_, err := ParseName(content) // explicitly tagged, since Name is a CHOICE
		return err == nil
	case contextTag(tagOtherName).Constructed(), contextTag(tagX400Address).Constructed(),
		contextTag(tagEDIPartyName).Constructed(), contextTag(tagRegisteredID):
		n.Other++
		return !content.Empty()
	}
	return false
}

// faultOf says what is wrong with a name that add does not take, read on behind "name 1".
func faultOf(tag cbasn1.Tag) string {
	const text = " is empty, or has other characters than printable ASCII without space"
	switch tag {
	case contextTag(tagRFC822Name):
		return ", an rfc822Name," + text
	case contextTag(tagDNSName):
		return ", a dNSName," + text + " (names of other scripts are written xn--...)"
	case contextTag(tagURI):
		return ", a URI," + text
	case contextTag(tagIPAddress):
		return ", an iPAddress, has not 4 or 16 bytes"
	case contextTag(tagDirectoryName).Constructed():
		return ", a directoryName, is no Name"
	}
	return fmt.Sprintf(" has the tag %#02x, which no GeneralName has, or is empty", uint8(tag))
}

func contextTag(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }

// visible reports whether b is printable ASCII and not empty: a NUL or a line break inside a name only deceives.
func visible(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(b) > 0
}

// Marshal sets Raw to the DER GeneralNames of the lists, in the order DNS, IP, Email, URI, and returns it. No names
// at all give nil. Names of other kinds cannot be made (they stand in the Raw of what was parsed): ErrMalformed, as
// for text that is not printable ASCII.
func (n *GeneralNames) Marshal() ([]byte, error) {
	if n.Other > 0 {
		return nil, malformed("%d GeneralNames of kinds that cannot be built", n.Other)
	}
	if total := len(n.DNS) + len(n.IP) + len(n.Email) + len(n.URI); total == 0 {
		n.Raw = nil
		return nil, nil
	} else if total > maxGeneralNames {
		return nil, malformed("over %d GeneralNames", maxGeneralNames)
	}
	var err error
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		text := func(tag uint8, list []string) {
			for _, s := range list {
				if !visible([]byte(s)) {
					err = malformed("GeneralName %q", s)
				}
				b.AddASN1(contextTag(tag), func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
			}
		}
		text(tagDNSName, n.DNS)
		for _, ip := range n.IP {
			if !ip.IsValid() || ip.Zone() != "" {
				err = malformed("address %q", ip)
			}
			b.AddASN1(contextTag(tagIPAddress), func(b *cryptobyte.Builder) { b.AddBytes(ip.AsSlice()) })
		}
		text(tagRFC822Name, n.Email)
		text(tagURI, n.URI)
	})
	if err != nil {
		return nil, err
	}
	n.Raw, err = b.Bytes()
	return n.Raw, err
}

// List is the names as people read them: "dns:...", "ip:...", "email:...", "uri:...", and "other:" with how many there are of
// other kinds.
func (n *GeneralNames) List() []string {
	var out []string
	for _, s := range n.DNS {
		out = append(out, "dns:"+s)
	}
	for _, ip := range n.IP {
		out = append(out, "ip:"+ip.String())
	}
	for _, s := range n.Email {
		out = append(out, "email:"+s)
	}
	for _, s := range n.URI {
		out = append(out, "uri:"+s)
	}
	if n.Other > 0 {
		out = append(out, "other:"+strconv.Itoa(n.Other))
	}
	return out
}
