package devicefile

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/passhash"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// field is a column of a CSV file of devices, or a key of a JSON one.
type field struct {
	name   string
	many   bool // may have several values: columns that stand twice, arrays
	split  bool // several in one column, parted by ; or space
	secret bool // never shown
	number bool // spreadsheets take its values for numbers
	put    func(e *Entry, value string) error
}

// identifierKinds are those that have a column of their own name; others are written id:KIND.
var identifierKinds = []string{"serial", "imei", "udid", "mac", "cse-id", "ae-id", "node-id"}

// What stands before the kind of an identifier that has no column of its own, and before the name of an attribute.
const (
	IDPrefix   = "id:"
	AttrPrefix = "attr:"
)

// fields are all but identifiers and attributes, in the order in which `muster device export` writes them.
var fields = []*field{
	{name: "name", number: true, put: func(e *Entry, v string) error { e.Name = v; return sheetError(v) }},
	{name: "vendor", put: func(e *Entry, v string) error { e.Vendor = v; return nil }},
	{name: "endpoints", many: true, split: true, put: func(e *Entry, v string) error { e.Endpoints = append(e.Endpoints, v); return nil }},
	{name: "profiles", many: true, split: true, put: func(e *Entry, v string) error { e.Profiles = append(e.Profiles, v); return nil }},
	{name: "enrollments", put: func(e *Entry, v string) (err error) { e.Enrollments, err = parseEnrollments(v); return err }},
	{name: "not-before", put: func(e *Entry, v string) (err error) { e.NotBefore, err = parseDate(v, false); return err }},
	{name: "not-after", put: func(e *Entry, v string) (err error) { e.NotAfter, err = parseDate(v, true); return err }},
	{name: "disabled", put: func(e *Entry, v string) (err error) { e.Disabled, err = parseYes(v); return err }},
	{name: "password", secret: true, put: func(e *Entry, v string) (err error) {
		switch e.password = v; {
		case v == Generate:
			err = errors.New("passwords are made for single devices only: `muster device add --password generate`")
		case len(v) < minPassword:
			err = fmt.Errorf("in a file a password is a random one of %d characters or more: others take long to hash, and stand as password-hash (`muster password`)", minPassword)
		case len(v) > passhash.MaxPassword:
			err = fmt.Errorf("a password has at most %d bytes", passhash.MaxPassword)
		}
		return err
	}},
	{name: "password-hash", secret: true, put: func(e *Entry, v string) error {
		e.Password = v
		_, err := passhash.Parse(v)
		return err
	}},
	{name: "secret", secret: true, put: func(e *Entry, v string) (err error) { e.secret, err = parseSecret(v); return err }},
	{name: "note", put: func(e *Entry, v string) error { e.Note = v; return nil }},
	// With --replace: what stands is kept.
	{name: "has-password", put: func(e *Entry, v string) (err error) { e.hasPassword, err = parseYes(v); return err }},
	{name: "has-secret", put: func(e *Entry, v string) (err error) { e.hasSecret, err = parseYes(v); return err }},
}

// shownOnly are what lists show of an entry beside it; in a file they are passed over.
var shownOnly = []string{"enrolled", "password-used", "created", "updated"}

// Generate asks for a password that the gateway makes: in the place of one, and not in a file.
const Generate = "generate"

// minPassword is in characters, of a password in clear: as the admin API has it.
const minPassword = 20

// Bounds of a shared secret, in bytes.
const (
	MinSecret = 8
	MaxSecret = 1024
)

// fieldNamed finds a field by its name in any case, hyphens or underscores. The error says which name was meant.
func fieldNamed(name string) (*field, error) {
	if key, ok := strings.CutPrefix(name, AttrPrefix); ok {
		if err := (&gateway.Device{Name: "x", Attributes: map[string]string{key: "x"}}).Check(); err != nil {
			return nil, err
		}
		return &field{name: name, put: func(e *Entry, v string) error {
			if e.Attributes == nil {
				e.Attributes = map[string]string{}
			}
			e.Attributes[key] = v
			return nil
		}}, nil
	}
	folded := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	if kind, ok := strings.CutPrefix(folded, IDPrefix); ok {
		sample := gateway.NormalIdentifier(kind, "x") // its kind is looked at
		if err := (&gateway.Device{Name: "x", Identifiers: []gateway.DeviceID{{Kind: kind, Value: sample}}}).Check(); err != nil {
			return nil, err
		}
		return identifierField(folded, kind), nil
	}
	var known []string
	for _, f := range fields {
		if f.name == folded {
			return f, nil
		}
		known = append(known, f.name)
	}
	if slices.Contains(identifierKinds, folded) {
		return identifierField(folded, folded), nil
	}
	if slices.Contains(shownOnly, folded) {
		return &field{name: folded, put: func(*Entry, string) error { return nil }}, nil
	}
	known = append(known, identifierKinds...)
	hint := strictyaml.Suggest(name, append(known, IDPrefix+"KIND", AttrPrefix+"NAME"))
	return nil, fmt.Errorf("unknown name%s; a property of your own is written %sNAME", hint, AttrPrefix)
}

func identifierField(name, kind string) *field {
	return &field{name: name, many: true, number: true, put: func(e *Entry, v string) error {
		id, err := parseIdentifier(kind, v)
		e.Identifiers = append(e.Identifiers, id)
		return err
	}}
}

// parseIdentifier makes an identifier of what people write, and refuses what cannot be one.
func parseIdentifier(kind, value string) (gateway.DeviceID, error) {
	id := gateway.DeviceID{Kind: kind, Value: gateway.NormalIdentifier(kind, value)}
	if err := sheetError(id.Value); err != nil {
		return id, err
	}
	return id, gateway.CheckIdentifier(kind, id.Value)
}

func sheetError(v string) error {
	if sheetErrors[v] || len(v) > 2 && strings.Trim(v, "#") == "" {
		return errors.New("this is what a spreadsheet shows in the place of a value: mend it there, and export it again")
	}
	return nil
}

// sheetErrors are what spreadsheets export of cells that they cannot work out, or show.
var sheetErrors = map[string]bool{"#N/A": true, "#REF!": true, "#VALUE!": true, "#NAME?": true, "#DIV/0!": true, "#NUM!": true, "#NULL!": true}

var roundedPattern = regexp.MustCompile(`^[0-9]([.,][0-9]+)?[Ee]\+?[0-9]{1,2}$`)

// rounded recognises what spreadsheets make of long numbers.
func rounded(v string) bool {
	return len(v) <= 24 && strings.ContainsAny(v, "Ee") && strings.ContainsAny(v, "+.,") && roundedPattern.MatchString(v)
}

// unlimited is how people write gateway.Unlimited.
const unlimited = "unlimited"

func parseEnrollments(v string) (int, error) {
	if v == unlimited {
		return gateway.Unlimited, nil
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return 0, errors.New("want a number, or " + unlimited)
	}
	return int(n), nil
}

// parseDate reads a time of RFC 3339, or a date: its first second in UTC, or its last.
func parseDate(v string, end bool) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, v); err == nil {
		if end {
			t = t.AddDate(0, 0, 1).Add(-time.Second)
		}
		return t, early(t)
	}
	t, err := time.Parse(time.RFC3339, v)
	if err != nil {
		return time.Time{}, errors.New("want a date such as 2027-12-31, or a time such as 2027-12-31T12:00:00Z")
	}
	return t.UTC(), early(t)
}

// early refuses what stands for "no date" in programs: taken for a date, it would have the entry be good for ever.
func early(t time.Time) error {
	if t.UnixMicro() <= 0 {
		return gateway.ErrEarlyDate
	}
	return nil
}

func parseYes(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "true", "yes", "1":
		return true, nil
	case "false", "no", "0":
		return false, nil
	}
	return false, errors.New("want yes or no")
}

// parseSecret reads a shared secret: text, or hex: and hexadecimal digits. Its errors hold nothing of it.
func parseSecret(v string) ([]byte, error) {
	secret := []byte(v)
	if digits, ok := strings.CutPrefix(v, "hex:"); ok {
		var err error
		if secret, err = hex.DecodeString(digits); err != nil {
			return nil, errors.New("want hex: and hexadecimal digits")
		}
	}
	if len(secret) < MinSecret || len(secret) > MaxSecret {
		return nil, fmt.Errorf("a shared secret has %d to %d bytes", MinSecret, MaxSecret)
	}
	return bytes.Clone(secret), nil
}
