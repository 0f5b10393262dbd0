package mdm

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Bounds of a property list from the network. What a device reports of its apps has many elements, none of them deep.
const (
	maxPlistDepth    = 32
	maxPlistElements = 1 << 18
	maxPlistString   = 1024 // bytes of a string at the top; longer ones count as absent
)

var errPlist = errors.New("not an XML property list with a dictionary at the top")

// readPlist returns the strings of the dictionary at the top of an XML property list (plist(5), Apple's PropertyList-1.0 DTD),
// and "" under the keys of all other values. It keeps nothing else, is linear, and takes neither binary property lists, nor a key
// that stands twice in whatever case, nor anything but text in a key or string at the top: the MDM server behind a check reads the same
// bytes with a parser of its own, and which text counts would be up to it.
//
//	<plist version="1.0"><dict><key>UDID</key><string>...</string>...</dict></plist>
func readPlist(data []byte) (map[string]string, error) {
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return nil, errPlist
	}
	d := xml.NewDecoder(bytes.NewReader(data))
	d.CharsetReader = func(charset string, in io.Reader) (io.Reader, error) {
		return nil, fmt.Errorf("%w: charset %q", errPlist, charset)
	}
	values, keys := map[string]string{}, map[string]bool{}
	var path []string // names of the open elements
	var text strings.Builder
	key, hasKey, top, done := "", false, false, false
	for elements := 0; ; {
		token, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %v", errPlist, err)
		}
		switch t := token.(type) {
		case xml.Directive:
			// The DOCTYPE, without a subset of its own: no entities are defined.
			if len(path) > 0 || done || bytes.ContainsAny(t, "[<") {
				return nil, fmt.Errorf("%w: a directive", errPlist)
			}
		case xml.StartElement:
			if elements++; elements > maxPlistElements || len(path) == maxPlistDepth || done || t.Name.Space != "" {
				return nil, fmt.Errorf("%w: too deep, too long, or more than one", errPlist)
			}
			name := t.Name.Local
			switch {
			case len(path) == 0 && name != "plist", len(path) == 1 && (name != "dict" || top):
				return nil, errPlist
			case len(path) == 1:
				top = true
			case len(path) == 2 && (name == "key") == hasKey:
				return nil, fmt.Errorf("%w: a key without a value, or a value without one", errPlist)
			case isText(path):
				return nil, fmt.Errorf("%w: an element in a %s", errPlist, path[2])
			}
			path = append(path, name)
			text.Reset()
		case xml.Comment, xml.ProcInst:
			if isText(path) {
				return nil, fmt.Errorf("%w: a comment in a %s", errPlist, path[2])
			}
		case xml.CharData:
			switch {
			case isText(path):
				if text.Len() <= maxPlistString {
					text.Write(t)
				}
			case len(path) < 3 && len(bytes.TrimSpace(t)) > 0:
				return nil, fmt.Errorf("%w: text between elements", errPlist)
			}
		case xml.EndElement:
			if len(path) == 0 || t.Name.Local != path[len(path)-1] || t.Name.Space != "" {
				return nil, fmt.Errorf("%w: elements that do not nest", errPlist)
			}
			path = path[:len(path)-1]
			switch {
			case len(path) == 2 && t.Name.Local == "key":
				if text.Len() == 0 || text.Len() > maxPlistString {
					return nil, fmt.Errorf("%w: a key that is empty or too long", errPlist)
				}
				key, hasKey = text.String(), true
				folded := strings.ToLower(strings.TrimSpace(key))
				if keys[folded] {
					return nil, fmt.Errorf("%w: the key %.40q stands twice", errPlist, key)
				}
				keys[folded] = true
			case len(path) == 2:
				if values[key] = ""; t.Name.Local == "string" && text.Len() <= maxPlistString {
					values[key] = text.String()
				}
				hasKey = false
			case len(path) == 1 && hasKey:
				return nil, fmt.Errorf("%w: a key without a value", errPlist)
			case len(path) == 0:
				done = true
			}
		}
	}
	if !done || !top {
		return nil, errPlist
	}
	return values, nil
}

// isText tells whether the innermost of the open elements is a key or a string of the dictionary at the top.
func isText(path []string) bool {
	return len(path) == 3 && (path[2] == "key" || path[2] == "string")
}
