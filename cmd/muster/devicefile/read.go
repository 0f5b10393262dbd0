// Package devicefile reads and writes files of devices, CSV and JSON: what `muster device import` takes and `muster device
// export` gives. What is wrong with a file is said where it stands, in the words of whoever has to mend it, and a file with
// anything wrong in it gives nothing. It knows nothing of the devices that are in the inventory already: the gateway refuses
// those, and Refused says where in the file they stand. cmd/muster calls it.
package devicefile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// Bounds of a file of devices.
const (
	maxRows    = 1_000_000
	maxFile    = 1 << 30  // bytes
	maxLine    = 64 << 10 // bytes, of a line of CSV, or of a JSON object
	maxEntry   = 16 << 10 // bytes, of an entry in the admin API's JSON, which takes no more
	maxColumns = 256
	maxFaults  = 50 // that are shown; further ones are counted
)

// Entry is an entry of the inventory as a file has it. The zero value is an empty one, to be filled with Put.
type Entry struct {
	gateway.Device
	line     int    // where it begins
	password string // its one-time password in clear; "" for none, or when Device.Password has a hash
	secret   []byte // its shared secret; nil for none
	values   []fieldValue

	hasPassword, hasSecret bool // what stands is kept
}

// fieldValue is what stands in one field, kept until the entry has been checked, for its faults to be placed.
type fieldValue struct {
	line  int
	field *field
	label string // the column, or the key
	text  string
}

// fault is one thing that is wrong with a file.
type fault struct {
	line  int    // 0: the file
	label string // column or key; "" for the row
	value string // as it stands, shortened and quoted; "" for a secret's
	why   string
}

// faultList is all that is wrong with a file: nothing of it is imported.
type faultList struct {
	file   string
	faults []fault // the first maxFaults
	more   int
	rows   int // that were read
}

func (e *faultList) add(f fault) {
	if len(e.faults) == maxFaults {
		e.more++
		return
	}
	e.faults = append(e.faults, f)
}

// Error has a line for each fault, as compilers write them.
func (e *faultList) Error() string {
	var b strings.Builder
	for _, f := range e.faults {
		b.WriteString(words.Plain(e.file))
		if f.line > 0 {
			fmt.Fprintf(&b, ":%d", f.line)
		}
		b.WriteString(": ")
		if f.label != "" {
			b.WriteString(words.Plain(f.label))
			if f.value != "" {
				b.WriteString(" " + f.value)
			}
			b.WriteString(": ")
		}
		b.WriteString(words.Plain(f.why) + "\n")
	}
	if e.more > 0 {
		fmt.Fprintf(&b, "... and %d more like these\n", e.more)
	}
	b.WriteString("nothing was imported")
	return b.String()
}

// reader gathers the entries of a file and what is wrong with them.
type reader struct {
	faultList
	maxRows  int
	maxBytes int64
	devices  []*Entry
	seen     map[gateway.DeviceID]*Entry // by identifier, names under the kind "name"
}

func newReader(name string) *reader {
	return &reader{faultList: faultList{file: name}, maxRows: maxRows, maxBytes: maxFile, seen: map[gateway.DeviceID]*Entry{}}
}

// Read reads a file of devices: CSV, or JSON when it begins with a bracket or a brace. name is what errors call the file.
// What is wrong with it comes as one error with a line for each fault; else the error is one of reading.
func Read(name string, in io.Reader) ([]*Entry, error) { return newReader(name).entries(in) }

// ReadFew is Read of a file that has no more than so many devices.
func ReadFew(name string, in io.Reader, most int) ([]*Entry, error) {
	d := newReader(name)
	d.maxRows = most
	return d.entries(in)
}

// entries reads the whole file. Its error is *faultList, or one of reading.
func (d *reader) entries(in io.Reader) ([]*Entry, error) {
	limited := &io.LimitedReader{R: in, N: d.maxBytes + 1}
	r := bufio.NewReaderSize(limited, maxLine+2) // a line with its end
	switch err := d.read(r); {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", d.file, err)
	case limited.N == 0:
		return nil, fmt.Errorf("%s is larger than %d MiB: import it in parts", d.file, d.maxBytes>>20)
	case len(d.faults) > 0:
		return nil, &d.faultList
	case len(d.devices) == 0:
		return nil, fmt.Errorf("%s holds no devices", d.file)
	}
	return d.devices, nil
}

// read tells the forms apart, and names those that people mistake for them.
func (d *reader) read(r *bufio.Reader) error {
	start, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.HasPrefix(start, []byte("\xff\xfe")), bytes.HasPrefix(start, []byte("\xfe\xff")):
		d.add(fault{why: "this is UTF-16: save it as UTF-8 (in a spreadsheet: CSV UTF-8)"})
		return nil
	case bytes.HasPrefix(start, []byte("PK\x03\x04")), bytes.HasPrefix(start, []byte("\xd0\xcf\x11\xe0")), bytes.HasPrefix(start, []byte("\x1f\x8b")):
		d.add(fault{why: "this is a spreadsheet or an archive: save it as CSV"})
		return nil
	case len(start) > 1 && (start[0] == 0) != (start[1] == 0): // without its mark
		d.add(fault{why: "this is UTF-16: save it as UTF-8 (in a spreadsheet: CSV UTF-8)"})
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
func (d *reader) put(e *Entry, v fieldValue) {
	e.values = append(e.values, v)
	if !utf8.ValidString(v.text) {
		d.fault(v, "this is not UTF-8: save the file as UTF-8")
		return
	}
	if err := v.field.put(e, v.text); err != nil {
		d.fault(v, err.Error())
	}
}

func (d *reader) fault(v fieldValue, why string) {
	f := fault{line: v.line, label: v.label, why: why}
	if !v.field.secret {
		f.value = words.Quote(v.text)
	}
	d.add(f)
}

// entry ends an entry: checks it as a whole, and against those before it. faults is how many there were before it began.
func (d *reader) entry(e *Entry, faults int) {
	d.rows++
	named := e.Name != ""
	if !named && len(e.Identifiers) > 0 {
		e.Name = e.Identifiers[0].Value
	}
	wrong := len(d.faults)+d.more > faults
	switch {
	case wrong: // said already
	case e.Name == "":
		d.add(fault{line: e.line, why: "the device has neither a name nor an identifier"})
		return
	case e.password != "" && e.Password != "":
		d.add(fault{line: e.line, why: "password and password-hash: one of them says it"})
	default:
		if err := e.Check(); err != nil {
			d.place(e, err)
		} else if n := e.size(); n > maxEntry {
			d.add(fault{line: e.line, why: fmt.Sprintf("the device's entry has %d bytes as JSON, at most %d are taken", n, maxEntry)})
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
func (d *reader) place(e *Entry, err error) {
	for _, v := range e.values {
		alone := &Entry{}
		alone.Name = "x"
		if v.field.put(alone, v.text) == nil && alone.Check() != nil {
			d.fault(v, alone.Check().Error())
			return
		}
	}
	d.add(fault{line: e.line, why: err.Error()})
}

// once says when an identifier stands in an earlier entry, and reports whether it does.
func (d *reader) once(e *Entry, kind, value string) bool {
	id := gateway.DeviceID{Kind: kind, Value: value}
	first, ok := d.seen[id]
	switch {
	case value == "", first == e: // Device.Check speaks of those that stand twice in one entry
		return false
	case !ok:
		d.seen[id] = e
		return false
	}
	d.add(fault{line: e.line, label: kind, value: words.Quote(value), why: fmt.Sprintf("line %d has it already", first.line)})
	return true
}

// full says when there are too many entries.
func (d *reader) full(line int) bool {
	if d.rows < d.maxRows {
		return false
	}
	d.add(fault{line: line, why: fmt.Sprintf("more than %d devices: import them in parts", d.maxRows)})
	return true
}

// size is that of the entry as the admin API takes it, 0 when it cannot be too large.
func (e *Entry) size() int {
	const grows, names = 6, 4 << 10 // a character becomes \u003c at worst; keys and the like
	values := 0
	for _, v := range e.values {
		values += len(v.text) + len(v.label)
	}
	if grows*values+names <= maxEntry {
		return 0
	}
	line, err := json.Marshal(e.Wire())
	if err != nil {
		return 0 // the import says so
	}
	return len(line)
}

// Put gives the field, which goes by the name of its column, the value as a file would have it.
func (e *Entry) Put(name, value string) error {
	f, err := fieldNamed(name)
	if err != nil {
		return err
	}
	return f.put(e, value)
}

// Wire is the entry as the admin API takes it.
func (e *Entry) Wire() admin.Device {
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

// Refused says of the gateway's objections to the entries that Read returned where in the file they stand.
func Refused(name string, entries []*Entry, refused *admin.ImportError) error {
	e := &faultList{file: name, more: refused.More}
	for _, one := range refused.Failures {
		f := fault{why: one.Error}
		if one.Index >= 0 && one.Index < len(entries) {
			f.line, f.label, f.value = entries[one.Index].line, "device", words.Quote(entries[one.Index].Name)
		}
		e.add(f)
	}
	return e
}
