package authz

import (
	"errors"
	"fmt"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// place is where a request may say which device it is about.
type place struct {
	name string
	from placeKind
	kind string // placeStated: of identifier
	field
}

type placeKind int

const (
	placeDevice      placeKind = iota // what an earlier stage named
	placeRequest                      // the request's own names: a claim of the requester
	placeCertificate                  // the certificate that an earlier stage accepted
	placeReference                    // the shared secret that an earlier stage accepted
	placeUser                         // the user that an earlier stage accepted
	placeStated                       // what the message states that an accepted signer signed
)

const certificatePrefix = "certificate."

// parsePlaces reads a list of places; [device] when it is empty.
func parsePlaces(names []string) ([]place, error) {
	if len(names) == 0 {
		names = []string{"device"}
	}
	var all []place
	for _, name := range names {
		p := place{name: name}
		for _, before := range all {
			if before.name == name {
				return nil, fmt.Errorf("%q stands twice", name)
			}
		}
		rest, certificate := strings.CutPrefix(name, certificatePrefix)
		word, _, dotted := strings.Cut(name, ".")
		switch {
		case name == "device":
			p.from = placeDevice
		case name == "reference":
			p.from = placeReference
		case name == "user":
			p.from = placeUser
		case dotted && word == "identifier":
			p.from, p.kind = placeStated, strings.TrimPrefix(name, "identifier.")
			if err := checkKind(p.kind); err != nil || p.kind == "" {
				return nil, fmt.Errorf("%q wants a kind of identifier, as in identifier.udid", name)
			}
		case certificate || dotted && (word == "subject" || word == "san"):
			p.from = placeRequest
			if certificate {
				p.from = placeCertificate
			}
			var err error
			if p.field, err = parseField(rest); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("%q is no place of an identifier%s: device, subject.ATTRIBUTE, san.KIND, certificate.subject.ATTRIBUTE, certificate.san.KIND, identifier.KIND, reference or user",
				name, strictyaml.Suggest(word, []string{"device", "subject", "san", "certificate", "identifier", "reference", "user"}))
		}
		all = append(all, p)
	}
	return all, nil
}

// find returns what stands in the place, and whether something does. What nobody has accepted stands in none of the places
// but those of the request itself.
func (p place) find(r *gateway.Request, g *gateway.Grant) (value string, found bool, err error) {
	switch p.from {
	case placeDevice:
		return g.Device, g.Device != "", nil
	case placeRequest:
		san, _ := r.Extension(oidSubjectAltName)
		return p.field.find(r.Subject, san)
	case placeCertificate:
		for _, kind := range []gateway.CredentialKind{gateway.CredentialSigner, gateway.CredentialTLS} {
			c, ok := carried(r, []gateway.CredentialKind{kind})
			if !ok || !g.Authenticated(c) {
				continue
			}
			value, found, err := p.field.find(c.Chain[0].RawSubject, sanOf(c.Chain[0]))
			if found || err != nil {
				return value, found, err
			}
		}
		return "", false, nil
	case placeStated:
		if !signed(r, g) {
			return "", false, nil
		}
		value, found = stated(r, p.kind)
		return value, found, nil
	}
	kind := gateway.CredentialMAC
	if p.from == placeUser {
		kind = gateway.CredentialPassword
	}
	c, ok := r.Credential(kind)
	if !ok || !g.Authenticated(c) || c.ID == "" {
		return "", false, nil
	}
	if len(c.ID) > gateway.MaxDeviceName || !printable(c.ID) {
		return "", false, fmt.Errorf("the %s has %d bytes, or characters that cannot be printed", p.name, len(c.ID))
	}
	return c.ID, true, nil
}

// errNoPlace is returned when no place has a value.
var errNoPlace = errors.New("no value stands there")

// identifier returns the first value that stands in one of the places, and where that was.
func identifier(places []place, r *gateway.Request, g *gateway.Grant) (value string, at place, err error) {
	for _, p := range places {
		value, found, err := p.find(r, g)
		if err != nil || found {
			return value, p, err
		}
	}
	return "", place{}, errNoPlace
}

// claimed reports whether a request may say by itself which device it is about.
func claimed(places []place) bool {
	for _, p := range places {
		if p.from == placeRequest {
			return true
		}
	}
	return false
}

func listPlaces(places []place) string {
	words := make([]string, len(places))
	for i, p := range places {
		words[i] = p.name
	}
	return strings.Join(words, ", ")
}
