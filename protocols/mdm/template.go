package mdm

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
)

// template is text with placeholders: {{device.name}}. A placeholder is a value's name and nothing else; there are neither pipes
// nor conditions.
type template struct {
	literals []string // one more than names
	names    []string
}

// Bounds of a template.
const (
	maxTemplate     = 64 << 10
	maxPlaceholders = 64
)

// The values that there are.
//
//	device.name, device.vendor, device.KIND    of the inventory's entry: an identifier of the kind udid, serial, imei, ...
//	device.attributes.NAME                     of the entry
//	message.UDID, .SERIAL, .PRODUCT, ...       as the device stated it
//	scep.url, scep.challenge, scep.uuid        of the second SCEP payload; in the final profile only
const (
	deviceValues = 1 << iota
	scepValues
)

// messageValues are what a device is asked for, by the names of the property list.
var messageValues = []string{"UDID", "VERSION", "PRODUCT", "SERIAL", "MEID", "IMEI"}

// parseTemplate reads a template with values of the given sources.
func parseTemplate(text string, sources int) (*template, error) {
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("a text of %d bytes: at most %d", len(text), maxTemplate)
	}
	t := &template{}
	for rest := text; ; {
		literal, after, found := strings.Cut(rest, "{{")
		t.literals = append(t.literals, literal)
		if !found {
			break
		}
		name, after, closed := strings.Cut(after, "}}")
		name = strings.TrimSpace(name)
		if !closed {
			return nil, errors.New("{{ without }}")
		}
		if !isValue(name, sources) {
			return nil, fmt.Errorf("there is no value %.60q: device.name, device.vendor, device.KIND, device.attributes.NAME, message.%s%s",
				name, strings.Join(messageValues, ", message."), map[bool]string{true: ", scep.url, scep.challenge, scep.uuid"}[sources&scepValues != 0])
		}
		if t.names = append(t.names, name); len(t.names) > maxPlaceholders {
			return nil, fmt.Errorf("more than %d placeholders in one text", maxPlaceholders)
		}
		rest = after
	}
	return t, nil
}

func isValue(name string, sources int) bool {
	origin, field, _ := strings.Cut(name, ".")
	switch origin {
	case "device":
		head, rest, deep := strings.Cut(field, ".")
		if deep {
			return head == "attributes" && rest != "" && (&gateway.Device{Name: "x", Attributes: map[string]string{rest: "x"}}).Check() == nil
		}
		// The form of a value does not matter here.
		return field == "name" || field == "vendor" || field != "attributes" && (&gateway.Device{Name: "x", Identifiers: []gateway.DeviceID{{Kind: field, Value: gateway.NormalIdentifier(field, "x")}}}).Check() == nil
	case "message":
		return slices.Contains(messageValues, field)
	case "scep":
		return sources&scepValues != 0 && (field == "url" || field == "challenge" || field == "uuid")
	}
	return false
}

// values are what placeholders stand for in one answer.
type values struct {
	who     *gateway.Recognised
	message map[string]string
	scep    map[string]string // url, challenge, uuid; nil for none
}

// expand puts the values in, each through escape (nil for none). One that is not there is an error: a profile with a hole in it
// would be installed all the same.
func (t *template) expand(v values, escape func(string) string) (string, error) {
	var b strings.Builder
	for i, literal := range t.literals {
		b.WriteString(literal)
		if i == len(t.names) {
			break
		}
		text, ok := v.of(t.names[i])
		if !ok {
			return "", gateway.Errorf(gateway.NotAuthorized, "the device's entry lacks what its profile needs", "there is no %s for device %s", t.names[i], v.who.Device)
		}
		if escape != nil {
			text = escape(text)
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

func (v values) of(name string) (string, bool) {
	origin, field, _ := strings.Cut(name, ".")
	text := ""
	switch d := v.who.Inventory; origin {
	case "message":
		text = v.message[field]
	case "scep":
		text = v.scep[field]
	default:
		attribute, ok := strings.CutPrefix(field, "attributes.")
		switch {
		case field == "name":
			text = v.who.Device
		case d == nil:
		case ok:
			text = d.Attributes[attribute]
		case field == "vendor":
			text = d.Vendor
		default:
			text = d.Identifier(field)
		}
	}
	return text, text != ""
}

// escapeRFC4514 makes a text stand for itself as the value of an attribute (RFC 4514 section 2.4).
func escapeRFC4514(s string) string {
	var b strings.Builder
	for i, r := range s {
		if strings.ContainsRune(`,+"\<>;=`, r) || i == 0 && (r == '#' || r == ' ') || i == len(s)-1 && r == ' ' {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
