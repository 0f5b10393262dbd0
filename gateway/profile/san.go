package profile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway/pkix"
)

const maxNames = 32 // of a subjectAltName

// SAN are the names of a subjectAltName by kind, each a template.
type SAN struct {
	// DNS are host names. A wildcard stands only where the template itself begins with "*.".
	DNS []*Template `yaml:"dns"`
	// IP are addresses.
	IP []*Template `yaml:"ip"`
	// URI are URIs, those without a scheme too: "//m2m.example.com/{{device.serial}}".
	URI []*Template `yaml:"uri"`
	// Email are mailboxes.
	Email []*Template `yaml:"email"`
	// Other are otherNames.
	Other []*OtherName `yaml:"other"`
}

// OtherName is a name of a type of its own (RFC 5280 section 4.2.1.6). It has one of UTF8 and IA5.
type OtherName struct {
	// Type is its OID, e.g. 1.3.6.1.4.1.311.20.2.3 for a user principal name.
	Type string `yaml:"type,required"`
	// UTF8 is its value, as UTF8String.
	UTF8 *Template `yaml:"utf8"`
	// IA5 is its value, as IA5String.
	IA5 *Template `yaml:"ia5"`
}

// entry is one name of a subjectAltName, checked.
type entry struct {
	kind  string // of sanFields, or "other"
	value *Template
	check func(text string) error
	write func(b *cryptobyte.Builder, text string)
}

// entries checks the configuration and puts the names into one order. Errors are *KeyError below san.
func (s *SAN) entries() ([]entry, error) {
	var list []entry
	var errs []error
	for _, kind := range []struct {
		name  string
		tag   uint8
		from  []*Template
		check func(string) error
	}{
		{"dns", 2, s.DNS, checkDNS}, {"ip", 7, s.IP, checkIP}, {"email", 1, s.Email, checkEmail}, {"uri", 6, s.URI, checkURI},
	} {
		for i, t := range kind.from {
			e := entry{kind: kind.name, value: t, check: kind.check}
			e.write = func(b *cryptobyte.Builder, text string) {
				octets := []byte(text)
				if kind.name == "ip" {
					octets = netip.MustParseAddr(text).AsSlice() // checkIP has read it
				}
				b.AddASN1(cbasn1.Tag(kind.tag).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(octets) })
			}
			if kind.name == "dns" && strings.HasPrefix(t.source, "*.") {
				e.check = func(text string) error { return checkDNS(strings.TrimPrefix(text, "*.")) }
			}
			if text, ok := t.fixed(); ok {
				if err := e.check(text); err != nil {
					errs = append(errs, keyError(fmt.Errorf("%s %s %w", kind.name, shown(text), err), "san", kind.name, fmt.Sprint(i)))
				}
			}
			list = append(list, e)
		}
	}
	for i, o := range s.Other {
		e, err := o.entry()
		if err != nil {
			errs = append(errs, keyError(err, "san", "other", fmt.Sprint(i)))
			continue
		}
		list = append(list, e)
	}
	switch {
	case len(errs) > 0:
	case len(list) == 0:
		errs = append(errs, keyError(fmt.Errorf("there is no name: give a list of %s or other, or leave san out", strings.Join(sanFields, ", ")), "san"))
	case len(list) > maxNames:
		errs = append(errs, keyError(fmt.Errorf("%d names, at most %d are taken", len(list), maxNames), "san"))
	}
	return list, errors.Join(errs...)
}

// entry makes the name's writer.
//
//	OtherName ::= SEQUENCE { type-id OBJECT IDENTIFIER, value [0] EXPLICIT ANY DEFINED BY type-id }   -- [0] IMPLICIT
func (o *OtherName) entry() (entry, error) {
	oid, ok := pkix.ParseOID(o.Type)
	if !ok {
		return entry{}, fmt.Errorf("type: %q is not an OID", o.Type)
	}
	e := entry{kind: "other", value: o.UTF8, check: checkText}
	tag := cbasn1.UTF8String
	switch {
	case (o.UTF8 == nil) == (o.IA5 == nil):
		return entry{}, errors.New("give one value: utf8 or ia5")
	case o.IA5 != nil:
		e.value, e.check, tag = o.IA5, checkVisible, cbasn1.IA5String
	}
	e.write = func(b *cryptobyte.Builder, text string) {
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(text)) })
			})
		})
	}
	return e, nil
}

func checkDNS(text string) error {
	if !pkix.IsHostName(text) {
		return errors.New("is not a host name")
	}
	if _, err := netip.ParseAddr(text); err == nil {
		return errors.New("is an address: it stands under ip")
	}
	return nil
}

func checkIP(text string) error {
	if ip, err := netip.ParseAddr(text); err != nil || ip.Zone() != "" {
		return errors.New("is not an address")
	}
	return nil
}

func checkEmail(text string) error {
	if err := checkVisible(text); err != nil {
		return err
	}
	if !pkix.IsMailbox(text) {
		return errors.New("is not a mailbox")
	}
	return nil
}

func checkURI(text string) error {
	if err := checkVisible(text); err != nil {
		return err
	}
	if !pkix.IsURI(text) {
		return errors.New("is not a URI")
	}
	return nil
}

// checkVisible wants printable ASCII without spaces.
func checkVisible(text string) error {
	if err := checkText(text); err != nil {
		return err
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New("has characters that an IA5String of a name does not hold")
	}
	return nil
}

// makeSAN gives the DER GeneralNames, nil when all were left out. The same name twice stands there once.
func makeSAN(entries []entry, f *facts) ([]byte, error) {
	var all [][]byte
	for _, e := range entries {
		text, ok, err := e.value.render(f)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if err := e.check(text); err != nil {
			return nil, &textError{e.value, fmt.Errorf("%s %s %w", e.kind, shown(text), err)}
		}
		var b cryptobyte.Builder
		e.write(&b, text)
		der, err := b.Bytes()
		if err != nil {
			return nil, &textError{e.value, err}
		}
		if !slices.ContainsFunc(all, func(other []byte) bool { return string(other) == string(der) }) {
			all = append(all, der)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, der := range all {
			b.AddBytes(der)
		}
	})
	return b.Bytes()
}
