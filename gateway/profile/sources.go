package profile

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// facts is what the values of one certificate are taken from.
type facts struct {
	r *gateway.Request
	g *gateway.Grant
}

// Sources of values.
const (
	originDevice      = "device"
	originRequest     = "request"
	originCertificate = "certificate" // that authenticated the request
	originOld         = "old"         // the certificate that is renewed
	originAttributes  = "attributes"  // what the operator's services said of the request
)

var (
	originNames      = []string{originDevice, originRequest, originCertificate, originOld, originAttributes}
	deviceFields     = []string{"name", "serial", "imei", "udid", "mac", "meid", "vendor", "attributes", "attr", "id"}
	requestFields    = []string{"subject", "san"}
	certFields       = []string{"subject", "issuer", "san", "serial"}
	sanFields        = []string{"dns", "ip", "email", "uri"}
	oidSubjectAlt    = asn1.ObjectIdentifier{2, 5, 29, 17}
	maxFieldsOfValue = 3
)

// source finds the look-up of a value by its source and fields.
func source(origin string, fields []string) (func(*facts) (string, error), error) {
	if !slices.Contains(originNames, origin) {
		if slices.Contains(pipeNames, origin) {
			return nil, fmt.Errorf("%s is a pipe: a value stands before it, as in {{device.serial | lower}}", origin)
		}
		return nil, fmt.Errorf("there is no value %q%s", origin, strictyaml.Suggest(origin, originNames))
	}
	if origin == originAttributes {
		return answeredSource(fields)
	}
	if len(fields) == 0 || len(fields) > maxFieldsOfValue {
		return nil, fmt.Errorf("%s has the fields %s", origin, strings.Join(fieldsOf(origin), ", "))
	}
	head, rest := fields[0], fields[1:]
	if !slices.Contains(fieldsOf(origin), head) {
		err := fmt.Errorf("%s has no %q%s", origin, head, strictyaml.Suggest(head, fieldsOf(origin)))
		if origin == originDevice {
			err = fmt.Errorf("%w; an identifier of another kind is written device.id %q", err, head)
		}
		return nil, err
	}
	if origin == originDevice {
		return deviceSource(head, rest)
	}
	switch head {
	case "subject", "issuer":
		return nameSource(origin, head, rest)
	case "san":
		return sanSource(origin, rest)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%s.%s has no fields", origin, head)
	}
	return func(f *facts) (string, error) {
		c, err := f.certificate(origin)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%x", c.SerialNumber), nil
	}, nil
}

func fieldsOf(origin string) []string {
	switch origin {
	case originDevice:
		return deviceFields
	case originRequest:
		return requestFields
	}
	return certFields
}

// identifierKind is what the inventory takes for a kind (gateway.Device.Check).
var identifierKind = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

func deviceSource(field string, rest []string) (func(*facts) (string, error), error) {
	switch field {
	case "attributes", "attr":
		if len(rest) != 1 || rest[0] == "" {
			return nil, fmt.Errorf("device.%s wants the attribute: device.attributes.site or device.attr \"site\"", field)
		}
		if err := gateway.CheckAttribute(rest[0], "x"); err != nil {
			return nil, fmt.Errorf("no device has such an attribute: %w", err)
		}
		return func(f *facts) (string, error) { return f.attribute(rest[0]) }, nil
	case "id":
		if len(rest) != 1 || rest[0] == "" {
			return nil, fmt.Errorf(`device.id wants the kind of identifier: device.id "cse-id"`)
		}
		if !identifierKind.MatchString(rest[0]) {
			return nil, fmt.Errorf("no device has such an identifier: %q is no kind of one: lower-case letters, digits and hyphens, such as cse-id", rest[0])
		}
		return func(f *facts) (string, error) { return f.identifier(rest[0]) }, nil
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("device.%s has no fields", field)
	}
	if field == "vendor" {
		return (*facts).vendor, nil
	}
	return func(f *facts) (string, error) { return f.identifier(field) }, nil
}

// identifier is one of the device's names. Without an entry of the inventory it has the one that a stage found.
func (f *facts) identifier(kind string) (string, error) {
	d := f.g.Inventory
	if d != nil {
		if v := d.Identifier(kind); v != "" {
			return v, nil
		}
		return "", &absent{fmt.Sprintf("the inventory entry %s has no %s", d.Name, kind)}
	}
	switch {
	case f.g.Device == "":
		return "", &absent{"no stage has named the device"}
	case kind == "name" || kind == "serial":
		return f.g.Device, nil
	}
	return "", &absent{fmt.Sprintf("device %s has no %s: it has no inventory entry", f.g.Device, kind)}
}

func (f *facts) attribute(name string) (string, error) {
	d := f.g.Inventory
	if d == nil {
		return "", &absent{fmt.Sprintf("there is no attribute %s: the device %s has no inventory entry", name, f.g.Device)}
	}
	if v, ok := d.Attributes[name]; ok {
		return v, nil
	}
	return "", &absent{fmt.Sprintf("the inventory entry %s has no attribute %s", d.Name, name)}
}

// answeredSource is an attribute of the request.
func answeredSource(fields []string) (func(*facts) (string, error), error) {
	if len(fields) != 1 || fields[0] == "" {
		return nil, errors.New("attributes wants the name of one: attributes.site")
	}
	name := fields[0]
	if err := gateway.CheckAttribute(name, "x"); err != nil {
		return nil, fmt.Errorf("no request has such an attribute: %w", err)
	}
	return func(f *facts) (string, error) {
		if v, ok := f.g.Attributes[name]; ok {
			return v, nil
		}
		return "", &absent{"no service has said the attribute " + name}
	}, nil
}

func (f *facts) vendor() (string, error) {
	if d := f.g.Inventory; d != nil && d.Vendor != "" {
		return d.Vendor, nil
	}
	if f.g.Vendor != "" {
		return f.g.Vendor, nil
	}
	return "", &absent{"the device's vendor is not known"}
}

// certificate is the one that the source names.
func (f *facts) certificate(origin string) (*x509.Certificate, error) {
	if origin == originOld {
		if f.r.OldCert == nil {
			return nil, &absent{"no certificate is renewed"}
		}
		return f.r.OldCert, nil
	}
	for _, c := range f.r.Credentials {
		if c.Proven() && len(c.Chain) > 0 && f.g.Authenticated(c) {
			return c.Chain[0], nil
		}
	}
	return nil, &absent{"no certificate has authenticated the request"}
}

// names are subject (or issuer) and subjectAltName of a source; what says what they are, for messages.
func (f *facts) names(origin string) (subject, issuer, san []byte, what string, err error) {
	if origin == originRequest {
		san, _ := f.r.Extension(oidSubjectAlt)
		return f.r.Subject, nil, san, "the request", nil
	}
	c, err := f.certificate(origin)
	if err != nil {
		return nil, nil, nil, "", err
	}
	for _, e := range c.Extensions {
		if e.Id.Equal(oidSubjectAlt) {
			san = e.Value
		}
	}
	what = "the certificate that authenticated the request"
	if origin == originOld {
		what = "the certificate that is renewed"
	}
	return c.RawSubject, c.RawIssuer, san, what, nil
}

// nameSource is an attribute of a subject or issuer. One value is wanted: which of two is the device is not for us to say.
func nameSource(origin, field string, rest []string) (func(*facts) (string, error), error) {
	if len(rest) != 1 {
		return nil, fmt.Errorf("%s.%s wants the attribute: %s.%s.CN or %s.%s \"2.5.4.3\"", origin, field, origin, field, origin, field)
	}
	attribute, ok := pkix.AttributeTypeNamed(rest[0])
	if !ok {
		return nil, fmt.Errorf("no attribute %q%s", rest[0], suggestAttribute(rest[0]))
	}
	return func(f *facts) (string, error) {
		subject, issuer, _, what, err := f.names(origin)
		if err != nil {
			return "", err
		}
		der := subject
		if field == "issuer" {
			der = issuer
		}
		if len(der) == 0 {
			return "", &absent{fmt.Sprintf("%s has no %s", what, field)}
		}
		name, err := pkix.ParseName(der)
		if err != nil {
			return "", fmt.Errorf("the %s of %s: %w", field, what, err)
		}
		values := name.Values(attribute.OID)
		switch len(values) {
		case 0:
			return "", &absent{fmt.Sprintf("the %s of %s has no %s", field, what, attribute.Name)}
		case 1:
			return values[0], nil
		}
		return "", fmt.Errorf("the %s of %s has %d values of %s, one is wanted", field, what, len(values), attribute.Name)
	}, nil
}

// sanSource is the first name of a kind.
func sanSource(origin string, rest []string) (func(*facts) (string, error), error) {
	if len(rest) != 1 {
		return nil, fmt.Errorf("%s.san wants the kind of name: %s.san.dns (%s)", origin, origin, strings.Join(sanFields, ", "))
	}
	kind := rest[0]
	if !slices.Contains(sanFields, kind) {
		return nil, fmt.Errorf("no kind of name %q%s", kind, strictyaml.Suggest(kind, sanFields))
	}
	return func(f *facts) (string, error) {
		_, _, san, what, err := f.names(origin)
		if err != nil {
			return "", err
		}
		names := &pkix.GeneralNames{}
		if len(san) > 0 {
			if names, err = pkix.ParseGeneralNames(san); err != nil {
				return "", fmt.Errorf("the subjectAltName of %s: %w", what, err)
			}
		}
		var first string
		switch {
		case kind == "dns" && len(names.DNS) > 0:
			first = names.DNS[0]
		case kind == "ip" && len(names.IP) > 0:
			first = names.IP[0].String()
		case kind == "email" && len(names.Email) > 0:
			first = names.Email[0]
		case kind == "uri" && len(names.URI) > 0:
			first = names.URI[0]
		default:
			return "", &absent{fmt.Sprintf("the subjectAltName of %s has no name of kind %s", what, kind)}
		}
		return first, nil
	}, nil
}

// suggestAttribute names the nearest attribute type, long or short.
func suggestAttribute(got string) string {
	var names []string
	for _, a := range pkix.AttributeTypes() {
		names = append(names, a.Name)
	}
	return strictyaml.Suggest(got, append(names, "CN", "O", "OU", "C", "ST", "L", "DC", "UID"))
}

// isEmptyName reports whether a DER Name has no attributes.
func isEmptyName(der []byte) bool { return len(der) == 0 || bytes.Equal(der, []byte{0x30, 0}) }
