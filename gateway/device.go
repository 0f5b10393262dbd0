package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Device is an entry of the inventory: a machine that may ask for certificates, under one name in every protocol.
type Device struct {
	Name        string     // unique; Grant.Device once a stage has recognised it
	Identifiers []DeviceID // further names it goes by, each one device's only
	Vendor      string     // who made it; "" when that does not matter
	Endpoints   []string   // where it may ask; none: everywhere
	Profiles    []string   // what it may have, the first unless it asks for another; none: what the endpoint gives
	Enrollments int        // how many first certificates it may have; 0: as many as the stage says; Unlimited
	NotBefore   time.Time  // of the entry; zero: at once
	NotAfter    time.Time  // of the entry; zero: for ever
	Disabled    bool
	Password    string            // hash of its one-time password, as in authz ("{sha256}..." or "$argon2id$..."); "" for none
	Sealed      []byte            // its shared secret, by gateway/seal for ("device", Name); nil for none
	Attributes  map[string]string // what templates and policies use
	Note        string            // the operator's
	Created     time.Time
	Updated     time.Time
}

// Unlimited is Device.Enrollments of one that may enrol any number of times.
const Unlimited = -1

// DeviceID is one of the names of a device, such as serial, imei, udid, mac, cse-id or ae-id. Kinds are lower case; the
// kind "name" is Device.Name itself. Values are compared byte for byte, in the form of NormalIdentifier.
type DeviceID struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

// EnrollmentsKey is the claim that counts a device's first certificates.
func EnrollmentsKey(device string) string { return "enrollments:" + device }

// PasswordKey is the claim that spends a device's one-time password. hash is Device.Password: a new one is good again.
func PasswordKey(device, hash string) string {
	// Claims are told in notes: what stands there must not help anybody to guess the password.
	sum := sha256.Sum256([]byte(hash))
	return "password:" + device + ":" + hex.EncodeToString(sum[:8])
}

// LimitsKey is how the claims begin that count what something has, such as a device, an endpoint or a source, by the stage limits. The
// length has no name begin another's keys.
func LimitsKey(kind, name string) string {
	return "limit:" + kind + ":" + strconv.Itoa(len(name)) + ":" + name + ":"
}

// DeviceLimitsKey is LimitsKey of a device.
func DeviceLimitsKey(device string) string { return LimitsKey("device", device) }

// Inventory is the part of the Store that keeps devices. Each method is one commit, durable when it returns.
type Inventory interface {
	// ImportDevices commits entries with its audit event: all of them, or none. Those that stand under the same names are
	// replaced where replace says so, and keep their Created. *DeviceConflictError says what stands in the way. progress,
	// nil for none, is told how many are done; other commits go on meanwhile.
	ImportDevices(ctx context.Context, devices []*Device, replace bool, e AuditEvent, progress func(done int)) (added, replaced int, err error)
	// DropDevice takes an entry away; its certificates stay. ErrNotFound.
	DropDevice(ctx context.Context, name string, e AuditEvent) error
	// Device finds an entry by one of its identifiers, in one look-up by index; kind "" for any, the name included.
	// ErrNotFound; *AmbiguousDeviceError when the value is two devices', under different kinds.
	Device(ctx context.Context, kind, value string) (*Device, error)
	// Devices lists entries by name.
	Devices(ctx context.Context, f DeviceFilter) ([]*Device, error)
	// Uses says how many uses of each claim stand; those without any are left out.
	Uses(ctx context.Context, keys []string) (map[string]int64, error)
	// UsesUnder is Uses of all claims whose keys begin so, at most 500; prefix ends in a colon.
	UsesUnder(ctx context.Context, prefix string) (map[string]int64, error)
	// FreeClaims sets claims back to no use at all. Their transactions give nothing back any more.
	FreeClaims(ctx context.Context, keys []string, e AuditEvent) error
}

// DeviceFilter selects devices. The zero value selects all.
type DeviceFilter struct {
	Vendor   string
	Prefix   string // of the name
	Disabled *bool
	After    string // name: only later ones, for paging
	Limit    int    // 0: 100
}

// DeviceConflictError lists entries that cannot be imported because of ones that stand, or of each other.
type DeviceConflictError struct {
	Conflicts []DeviceConflict // at most 100
	More      int              // further ones
}

// DeviceConflict is one entry that cannot be imported.
type DeviceConflict struct {
	Index int    // in the list that was given
	Why   string // "device X stands already", "serial 123 is device Y's"
}

func (e *DeviceConflictError) Error() string {
	if len(e.Conflicts) == 0 {
		return "devices cannot be imported"
	}
	more := ""
	if n := len(e.Conflicts) - 1 + e.More; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	return e.Conflicts[0].Why + more
}

// AmbiguousDeviceError says that a value is the identifier of two devices.
type AmbiguousDeviceError struct {
	Value   string
	Devices []string // names
}

func (e *AmbiguousDeviceError) Error() string {
	return fmt.Sprintf("%q is an identifier of %d devices: %s, ...", e.Value, len(e.Devices), e.Devices[0])
}

// NormalIdentifier is an identifier as it is stored and looked up: without space around it, a MAC address as six pairs of
// lower-case digits with colons, an IMEI without the signs between its digits, a UDID in upper case, a CSE-ID, which is a domain
// name, in lower case. Others stand as they are.
func NormalIdentifier(kind, value string) string {
	value = strings.TrimSpace(value)
	switch kind {
	case "mac":
		if mac, err := net.ParseMAC(value); err == nil {
			return mac.String()
		}
		if raw, err := hex.DecodeString(value); err == nil && len(raw) == 6 {
			return net.HardwareAddr(raw).String()
		}
	case "imei":
		return strings.Map(func(r rune) rune {
			if r == '-' || r == ' ' || r == '/' {
				return -1
			}
			return r
		}, value)
	case "udid":
		return strings.ToUpper(value)
	case KindCSEID:
		return strings.ToLower(value)
	}
	return value
}

// ErrEarlyDate is the fault of an entry's date that programs write for "none".
var ErrEarlyDate = errors.New("the date is 1970-01-01 or earlier: leave it out where there is none, and disable a device that is to get nothing")

// CheckIdentifier says what is wrong with an identifier in its normal form, of the kinds whose form is known. Device.Check does
// not ask it: whoever takes an entry from people does.
func CheckIdentifier(kind, value string) error {
	switch kind {
	case "imei":
		if !imeiPattern.MatchString(value) {
			return errors.New("an IMEI has 15 digits (14 without its check digit, 16 with the software version)")
		}
	case "mac":
		if _, err := net.ParseMAC(value); err != nil {
			return errors.New("a MAC address has six pairs of hexadecimal digits, e.g. 00:1a:2b:3c:4d:5e")
		}
	default:
		return checkRegistered(kind, value)
	}
	return nil
}

// Bounds of an entry.
const (
	MaxDeviceName  = 256 // bytes, of names and identifiers
	maxDeviceIDs   = 32
	maxDeviceAttrs = 64
	maxDeviceValue = 1024 // bytes, of an attribute's value and the note
)

// word reports what is wrong with a text of a record: longest is in bytes.
func word(what, s string, longest int) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is empty", what)
	case len(s) > longest:
		return fmt.Errorf("%s has %d bytes, at most %d are taken", what, len(s), longest)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%s has characters that cannot be printed", what)
	case strings.TrimSpace(s) != s:
		return fmt.Errorf("%s has space around it", what)
	}
	return nil
}

// CheckAttribute reports what is wrong with an attribute, of a device or of a request.
func CheckAttribute(name, value string) error {
	if !attributePattern.MatchString(name) {
		return fmt.Errorf("%q is no name of an attribute: letters, digits and underscores, a letter first", name)
	}
	return word("attribute "+name, value, maxDeviceValue)
}

// Check says what is wrong with an entry, nil when it can be stored. It looks at nothing but the entry.
func (d *Device) Check() error {
	if err := word("the name", d.Name, MaxDeviceName); err != nil {
		return err
	}
	if len(d.Identifiers) > maxDeviceIDs {
		return fmt.Errorf("%d identifiers, at most %d are taken", len(d.Identifiers), maxDeviceIDs)
	}
	for i, id := range d.Identifiers {
		if !kindPattern.MatchString(id.Kind) || id.Kind == "name" {
			return fmt.Errorf("%q is no kind of identifier: lower-case letters, digits and hyphens, such as serial, imei, udid, mac, cse-id, ae-id", id.Kind)
		}
		if err := word(id.Kind, id.Value, MaxDeviceName); err != nil {
			return err
		}
		if NormalIdentifier(id.Kind, id.Value) != id.Value {
			return fmt.Errorf("%s %q is written %q", id.Kind, id.Value, NormalIdentifier(id.Kind, id.Value))
		}
		if slices.Contains(d.Identifiers[:i], id) {
			return fmt.Errorf("%s %q stands twice", id.Kind, id.Value)
		}
	}
	if d.Enrollments < Unlimited {
		return fmt.Errorf("enrollments: %d", d.Enrollments)
	}
	for _, t := range []time.Time{d.NotBefore, d.NotAfter} {
		if !t.IsZero() && t.UnixMicro() <= 0 { // stores keep 0 for "none": the entry would be good for ever
			return ErrEarlyDate
		}
	}
	if !d.NotBefore.IsZero() && !d.NotAfter.IsZero() && !d.NotBefore.Before(d.NotAfter) {
		return fmt.Errorf("the entry ends (%s) before it begins (%s)", d.NotAfter.UTC().Format(time.RFC3339), d.NotBefore.UTC().Format(time.RFC3339))
	}
	if len(d.Attributes) > maxDeviceAttrs {
		return fmt.Errorf("%d attributes, at most %d are taken", len(d.Attributes), maxDeviceAttrs)
	}
	for _, k := range slices.Sorted(maps.Keys(d.Attributes)) {
		if err := CheckAttribute(k, d.Attributes[k]); err != nil {
			return err
		}
	}
	for what, list := range map[string][]string{"endpoint": d.Endpoints, "profile": d.Profiles} {
		if len(list) > maxDeviceIDs {
			return fmt.Errorf("%d %ss, at most %d are taken", len(list), what, maxDeviceIDs)
		}
		for i, s := range list {
			if err := word(what, s, MaxDeviceName); err != nil {
				return err
			}
			if slices.Contains(list[:i], s) {
				return fmt.Errorf("%s %q stands twice", what, s)
			}
		}
	}
	for what, s := range map[string]string{"the vendor": d.Vendor, "the note": d.Note} {
		if s != "" {
			if err := word(what, s, maxDeviceValue); err != nil {
				return err
			}
		}
	}
	return nil
}

var (
	imeiPattern      = regexp.MustCompile(`^[0-9]{14,16}$`)
	kindPattern      = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	attributePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)
)

// Fault says why an entry does not count at an endpoint at a time, "" when it does. It reads on after "device X".
func (d *Device) Fault(endpoint string, now time.Time) string {
	switch {
	case d.Disabled:
		return "is disabled"
	case !d.NotBefore.IsZero() && now.Before(d.NotBefore):
		return "is not valid yet: its entry begins " + d.NotBefore.UTC().Format(time.RFC3339)
	case !d.NotAfter.IsZero() && now.After(d.NotAfter):
		return "is not valid any more: its entry ended " + d.NotAfter.UTC().Format(time.RFC3339)
	case len(d.Endpoints) > 0 && !slices.Contains(d.Endpoints, endpoint):
		return fmt.Sprintf("may ask at the endpoints %s, not at %s", strings.Join(d.Endpoints, ", "), endpoint)
	}
	return ""
}

// Identifier returns the device's first identifier of the kind, "" for none. The kind "name" is its name.
func (d *Device) Identifier(kind string) string {
	if kind == "name" {
		return d.Name
	}
	for _, i := range d.Identifiers {
		if i.Kind == kind {
			return i.Value
		}
	}
	return ""
}
