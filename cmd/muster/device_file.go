package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// Bounds of a file of devices.
const (
	maxDeviceRows    = 1_000_000
	maxDeviceFile    = 1 << 30  // bytes
	maxDeviceLine    = 64 << 10 // bytes, of a line of CSV, or of a JSON object
	maxDeviceEntry   = 16 << 10 // bytes, of an entry in the admin API's JSON, which takes no more
	maxDeviceColumns = 256
	maxFileFaults    = 50 // that are shown; further ones are counted
)

// fileDevice is an entry of the inventory as a file has it.
type fileDevice struct {
	gateway.Device
	line     int    // where it begins
	password string // its one-time password in clear; "" for none, or when Device.Password has a hash
	secret   []byte // its shared secret; nil for none
	values   []fileValue

	hasPassword, hasSecret bool // what stands is kept
}

// fileValue is what stands in one field, kept until the entry has been checked, for its faults to be placed.
type fileValue struct {
	line  int
	field *deviceField
	label string // the column, or the key
	text  string
}

// fileFault is one thing that is wrong with a file.
type fileFault struct {
	line  int    // 0: the file
	label string // column or key; "" for the row
	value string // as it stands, shortened and quoted; "" for a secret's
	why   string
}

// fileFaults is all that is wrong with a file: nothing of it is imported.
type fileFaults struct {
	file   string
	faults []fileFault // the first maxFileFaults
	more   int
	rows   int // that were read
}

func (e *fileFaults) add(f fileFault) {
	if len(e.faults) == maxFileFaults {
		e.more++
		return
	}
	e.faults = append(e.faults, f)
}

// Error has a line for each fault, as compilers write them.
func (e *fileFaults) Error() string {
	var b strings.Builder
	for _, f := range e.faults {
		b.WriteString(plain(e.file))
		if f.line > 0 {
			fmt.Fprintf(&b, ":%d", f.line)
		}
		b.WriteString(": ")
		if f.label != "" {
			b.WriteString(plain(f.label))
			if f.value != "" {
				b.WriteString(" " + f.value)
			}
			b.WriteString(": ")
		}
		b.WriteString(plain(f.why) + "\n")
	}
	if e.more > 0 {
		fmt.Fprintf(&b, "... and %d more like these\n", e.more)
	}
	b.WriteString("nothing was imported")
	return b.String()
}

// shown is a value as a message has it: short, and on one line.
func shown(s string) string { return strconv.Quote(cut(strings.ToValidUTF8(s, "\ufffd"), 40)) }

// deviceReader gathers the entries of a file and what is wrong with them.
type deviceReader struct {
	fileFaults
	maxRows  int
	maxBytes int64
	devices  []*fileDevice
	seen     map[gateway.DeviceID]*fileDevice // by identifier, names under the kind "name"
}

func newDeviceReader(name string) *deviceReader {
	return &deviceReader{fileFaults: fileFaults{file: name}, maxRows: maxDeviceRows, maxBytes: maxDeviceFile, seen: map[gateway.DeviceID]*fileDevice{}}
}

// devicesOf reads a file of devices: CSV, or JSON when it begins with a bracket or a brace. Its error is *fileFaults, or one
// of reading.
func (d *deviceReader) devicesOf(in io.Reader) ([]*fileDevice, error) {
	limited := &io.LimitedReader{R: in, N: d.maxBytes + 1}
	r := bufio.NewReaderSize(limited, maxDeviceLine+2) // a line with its end
	switch err := d.read(r); {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", d.file, err)
	case limited.N == 0:
		return nil, fmt.Errorf("%s is larger than %d MiB: import it in parts", d.file, d.maxBytes>>20)
	case len(d.faults) > 0:
		return nil, &d.fileFaults
	case len(d.devices) == 0:
		return nil, fmt.Errorf("%s holds no devices", d.file)
	}
	return d.devices, nil
}

// read tells the forms apart, and names those that people mistake for them.
func (d *deviceReader) read(r *bufio.Reader) error {
	start, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.HasPrefix(start, []byte("\xff\xfe")), bytes.HasPrefix(start, []byte("\xfe\xff")):
		d.add(fileFault{why: "this is UTF-16: save it as UTF-8 (in a spreadsheet: CSV UTF-8)"})
		return nil
	case bytes.HasPrefix(start, []byte("PK\x03\x04")), bytes.HasPrefix(start, []byte("\xd0\xcf\x11\xe0")), bytes.HasPrefix(start, []byte("\x1f\x8b")):
		d.add(fileFault{why: "this is a spreadsheet or an archive: save it as CSV"})
		return nil
	case len(start) > 1 && (start[0] == 0) != (start[1] == 0): // without its mark
		d.add(fileFault{why: "this is UTF-16: save it as UTF-8 (in a spreadsheet: CSV UTF-8)"})
		return nil
	case bytes.HasPrefix(start, []byte("\ufeff")):
		r.Discard(3) //nolint:errcheck // they were seen
	}
	for n := 1; ; n++ {
		ahead, err := r.Peek(n)
		if err != nil {
			break // nothing but space
		}
		switch ahead[n-1] {
		case ' ', '\t', '\r', '\n':
			continue
		case '[', '{':
			return d.readJSON(r)
		}
		break
	}
	return d.readCSV(r)
}

// put takes a value into an entry.
func (d *deviceReader) put(e *fileDevice, v fileValue) {
	e.values = append(e.values, v)
	if !utf8.ValidString(v.text) {
		d.fault(v, "this is not UTF-8: save the file as UTF-8")
		return
	}
	if err := v.field.put(e, v.text); err != nil {
		d.fault(v, err.Error())
	}
}

func (d *deviceReader) fault(v fileValue, why string) {
	f := fileFault{line: v.line, label: v.label, why: why}
	if !v.field.secret {
		f.value = shown(v.text)
	}
	d.add(f)
}

// entry ends an entry: checks it as a whole, and against those before it. faults is how many there were before it began.
func (d *deviceReader) entry(e *fileDevice, faults int) {
	d.rows++
	named := e.Name != ""
	if !named && len(e.Identifiers) > 0 {
		e.Name = e.Identifiers[0].Value
	}
	wrong := len(d.faults)+d.more > faults
	switch {
	case wrong: // said already
	case e.Name == "":
		d.add(fileFault{line: e.line, why: "the device has neither a name nor an identifier"})
		return
	case e.password != "" && e.Password != "":
		d.add(fileFault{line: e.line, why: "password and password-hash: one of them says it"})
	default:
		if err := e.Check(); err != nil {
			d.place(e, err)
		} else if n := e.size(); n > maxDeviceEntry {
			d.add(fileFault{line: e.line, why: fmt.Sprintf("the device's entry has %d bytes as JSON, at most %d are taken", n, maxDeviceEntry)})
		}
	}
	twice := false
	for _, id := range e.Identifiers {
		twice = d.once(e, id.Kind, id.Value) || twice
	}
	if named || !twice { // else that is said
		d.once(e, "name", e.Name)
	}
	e.values = nil
	d.devices = append(d.devices, e)
}

// place says in which field the fault is that Device.Check found: in the one that is at fault by itself.
func (d *deviceReader) place(e *fileDevice, err error) {
	for _, v := range e.values {
		alone := &fileDevice{}
		alone.Name = "x"
		if v.field.put(alone, v.text) == nil && alone.Check() != nil {
			d.fault(v, alone.Check().Error())
			return
		}
	}
	d.add(fileFault{line: e.line, why: err.Error()})
}

// once says when an identifier stands in an earlier entry, and reports whether it does.
func (d *deviceReader) once(e *fileDevice, kind, value string) bool {
	id := gateway.DeviceID{Kind: kind, Value: value}
	first, ok := d.seen[id]
	switch {
	case value == "", first == e: // Device.Check speaks of those that stand twice in one entry
		return false
	case !ok:
		d.seen[id] = e
		return false
	}
	d.add(fileFault{line: e.line, label: kind, value: shown(value), why: fmt.Sprintf("line %d has it already", first.line)})
	return true
}

// full says when there are too many entries.
func (d *deviceReader) full(line int) bool {
	if d.rows < d.maxRows {
		return false
	}
	d.add(fileFault{line: line, why: fmt.Sprintf("more than %d devices: import them in parts", d.maxRows)})
	return true
}

// size is that of the entry as the admin API takes it, 0 when it cannot be too large.
func (e *fileDevice) size() int {
	const grows, names = 6, 4 << 10 // a character becomes \u003c at worst; keys and the like
	values := 0
	for _, v := range e.values {
		values += len(v.text) + len(v.label)
	}
	if grows*values+names <= maxDeviceEntry {
		return 0
	}
	line, err := json.Marshal(e.wire())
	if err != nil {
		return 0 // the import says so
	}
	return len(line)
}

// wire is the entry as the admin API takes it.
func (e *fileDevice) wire() admin.Device {
	d := admin.Device{
		Name: e.Name, Vendor: e.Vendor, Endpoints: e.Endpoints, Profiles: e.Profiles, Enrollments: admin.Enrollments(e.Enrollments),
		Disabled: e.Disabled, Attributes: e.Attributes, Note: e.Note, Password: e.password, PasswordHash: e.Password, Secret: e.secret,
		HasPassword: e.hasPassword, HasSecret: e.hasSecret,
	}
	for _, id := range e.Identifiers {
		d.Identifiers = append(d.Identifiers, admin.Identifier{Kind: id.Kind, Value: id.Value})
	}
	if !e.NotBefore.IsZero() {
		d.NotBefore = &e.NotBefore
	}
	if !e.NotAfter.IsZero() {
		d.NotAfter = &e.NotAfter
	}
	return d
}
