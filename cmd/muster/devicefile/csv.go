package devicefile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/muster-pki/muster/cmd/muster/words"
)

// readCSV reads a header and a row for each device (RFC 4180, but for one thing: no value goes over a line's end, so that a
// quote that is missing costs one row). The header tells the separator: comma, semicolon or tab.
func (d *reader) readCSV(r *bufio.Reader) error {
	var columns []*field
	var labels []string
	separator := byte(0)
	for line := 1; ; line++ {
		text, tooLong, err := words.ReadLine(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case tooLong || len(text) > maxLine:
			d.rows++
			d.add(fault{line: line, why: fmt.Sprintf("the line is longer than %d bytes", maxLine)})
			if columns == nil {
				return nil
			}
			continue
		case columns == nil:
			if rest, ok := bytes.CutPrefix(text, []byte("sep=")); ok && line == 1 && len(rest) == 1 && strings.Contains(separators, string(rest)) {
				separator = rest[0] // Excel's own
				continue
			}
			if len(bytes.TrimSpace(text)) == 0 {
				continue
			}
			if separator == 0 {
				separator = separatorOf(text)
			}
			if columns, labels = d.header(line, text, separator); columns == nil {
				return nil
			}
			continue
		}
		if len(bytes.Trim(text, " \t,;\"")) == 0 {
			continue // spreadsheets leave such rows
		}
		if d.full(line) {
			return nil
		}
		d.row(line, text, separator, columns, labels)
	}
}

// separators are those that may stand between values.
const separators = ",;\t"

// separatorOf is the one that the header has most of.
func separatorOf(header []byte) byte {
	best, most := byte(','), 0
	for _, c := range []byte(separators) {
		if n := bytes.Count(header, []byte{c}); n > most {
			best, most = c, n
		}
	}
	return best
}

// header finds the columns; nil when something is wrong with them.
func (d *reader) header(line int, text []byte, separator byte) (columns []*field, labels []string) {
	if !utf8.Valid(text) {
		d.add(fault{line: line, why: "this is not UTF-8: save the file as UTF-8"})
		return nil, nil
	}
	names, err := splitCSV(text, separator)
	if bytes.Contains(text, []byte("\r")) {
		err = errors.New("lines end with CR alone, as old Macs had them: save the file with LF or CRLF")
	}
	if err == nil && len(names) > maxColumns {
		err = fmt.Errorf("%d columns, at most %d are taken", len(names), maxColumns)
	}
	if err != nil {
		d.add(fault{line: line, why: err.Error()})
		return nil, nil
	}
	unknown := 0
	at := map[string]int{}
	for i := range names {
		name := names[i].text
		column := fmt.Sprintf("column %d", i+1)
		field, err := fieldNamed(name)
		switch {
		case name == "":
			d.add(fault{line: line, why: column + " has no name"})
		case err != nil:
			unknown++
			d.add(fault{line: line, label: column, value: words.Quote(name), why: err.Error()})
		case at[field.name] > 0 && !field.many:
			d.add(fault{line: line, label: column, value: words.Quote(name), why: fmt.Sprintf("column %d has this name already", at[field.name])})
		default:
			at[field.name] = i + 1
			columns = append(columns, field)
			labels = append(labels, field.name)
		}
	}
	if unknown == len(names) {
		d.faults, d.more = nil, 0
		d.add(fault{line: line, label: "header", value: words.Quote(string(text)), why: "none of these is a column: the first line names them, e.g. serial,vendor,endpoints"})
	}
	if len(d.faults) > 0 {
		return nil, nil
	}
	return columns, labels
}

// row reads one device.
func (d *reader) row(line int, text []byte, separator byte, columns []*field, labels []string) {
	faults := len(d.faults) + d.more
	cells, err := splitCSV(text, separator)
	if err == nil && len(cells) != len(columns) {
		hint := ""
		switch {
		case len(cells) > len(columns):
			hint = ": a value with a separator in it is written in quotes"
		case separatorOf(text) != separator && bytes.IndexByte(text, separator) < 0:
			hint = fmt.Sprintf(": in the header %q stands between them, here %q", separator, separatorOf(text))
		}
		err = fmt.Errorf("%s, the header names %s%s", words.Counted(len(cells), "value"), words.Counted(len(columns), "column"), hint)
	}
	if err != nil {
		d.rows++
		d.add(fault{line: line, why: err.Error()})
		return
	}
	e := &Entry{line: line, values: make([]fieldValue, 0, len(columns))}
	for i, cell := range cells {
		v := fieldValue{line: line, field: columns[i], label: labels[i]}
		switch {
		case cell.text == "":
		case columns[i].split:
			for _, v.text = range strings.FieldsFunc(cell.text, func(r rune) bool { return r == ';' || r == ' ' }) {
				d.put(e, v)
			}
		default:
			v.text = cell.text
			d.put(e, v)
			if columns[i].number && !cell.quoted && rounded(cell.text) {
				d.fault(v, "a spreadsheet has rounded this number: make the column text there, and export it again")
			}
		}
	}
	d.entry(e, faults)
}

// csvCell is one value of a line.
type csvCell struct {
	text   string
	quoted bool
}

// splitCSV parts a line. Space around values is dropped, but within quotes.
func splitCSV(line []byte, separator byte) ([]csvCell, error) {
	var cells []csvCell
	text := string(line)
	for {
		rest := strings.TrimLeft(text, " ")
		if !strings.HasPrefix(rest, `"`) {
			cell, after, more := strings.Cut(text, string(separator))
			if strings.Contains(cell, `"`) {
				return nil, fmt.Errorf("value %d has a quote in it: write the value in quotes, and that quote twice", len(cells)+1)
			}
			cells = append(cells, csvCell{text: strings.TrimSpace(cell)})
			if !more {
				return cells, nil
			}
			text = after
			continue
		}
		var cell strings.Builder
		rest = rest[1:]
		for {
			part, after, closed := strings.Cut(rest, `"`)
			cell.WriteString(part)
			if !closed {
				return nil, fmt.Errorf("value %d begins with a quote, and none ends it on this line", len(cells)+1)
			}
			if !strings.HasPrefix(after, `"`) {
				rest = strings.TrimLeft(after, " ")
				break
			}
			cell.WriteByte('"')
			rest = after[1:]
		}
		cells = append(cells, csvCell{cell.String(), true})
		if rest == "" {
			return cells, nil
		}
		if rest[0] != separator {
			return nil, fmt.Errorf("value %d goes on behind the quote that ends it", len(cells))
		}
		text = rest[1:]
	}
}
