package mdm

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/micromdm/plist"
)

// finalProfile is the operator's profile: a property list whose texts may have placeholders. They are put in after it has been
// parsed, so that no value can be anything but text in it.
type finalProfile struct {
	root dict   // with *template where texts are
	uuid string // of the second SCEP payload: the IdentityCertificateUUID of the MDM payload
}

// maxFinalDepth bounds a profile's nesting: it is the operator's own.
const maxFinalDepth = 32

// readFinalProfile reads and checks the profile.
func readFinalProfile(c Config) (*finalProfile, error) {
	data, err := c.read(c.FinalProfile)
	if err != nil {
		return nil, err
	}
	f, err := parseFinalProfile(data, uuidOf(c.Identifier, "identity"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.FinalProfile, err)
	}
	return f, nil
}

// parseFinalProfile takes a profile apart. uuid is the SCEP payload's where no MDM payload states one.
func parseFinalProfile(data []byte, uuid string) (*finalProfile, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("<")) {
		return nil, errors.New("not an XML property list; one that is signed cannot be filled in")
	}
	var root dict
	if err := plist.Unmarshal(data, &root); err != nil {
		return nil, fmt.Errorf("not a property list: %w", err)
	}
	if lacks := lacking(root); lacks != "" {
		return nil, fmt.Errorf("it has no %s", lacks)
	}
	if root["PayloadType"] != typeConfiguration {
		return nil, fmt.Errorf("its PayloadType is not %s", typeConfiguration)
	}
	payloads, ok := root["PayloadContent"].([]any)
	if !ok || len(payloads) == 0 {
		return nil, errors.New("it has no payloads in PayloadContent")
	}
	f := &finalProfile{}
	taken := map[string]bool{root["PayloadUUID"].(string): true}
	var mdm dict
	for i, p := range payloads {
		d, ok := p.(dict)
		if !ok {
			return nil, fmt.Errorf("payload %d is no dictionary", i+1)
		}
		if lacks := lacking(d); lacks != "" {
			return nil, fmt.Errorf("payload %d has no %s", i+1, lacks)
		}
		id := d["PayloadUUID"].(string)
		if taken[id] {
			return nil, fmt.Errorf("the PayloadUUID %s stands twice", id)
		}
		taken[id] = true
		if d["PayloadType"] != typeMDM {
			continue
		}
		if mdm != nil {
			return nil, errors.New("it has two MDM payloads, and a device takes one")
		}
		mdm = d
	}
	f.uuid = uuid
	if mdm != nil {
		switch stated, _ := mdm["IdentityCertificateUUID"].(string); {
		case stated == "", scepUUID.MatchString(stated):
			mdm["IdentityCertificateUUID"] = uuid
		case strings.Contains(stated, "{{"):
			return nil, errors.New("the IdentityCertificateUUID of the MDM payload is {{scep.uuid}}, or one UUID for all devices: leave it out")
		default:
			f.uuid = stated
		}
	}
	if taken[f.uuid] {
		return nil, fmt.Errorf("a payload of it has the UUID %s already, which is to be that of the SCEP payload that is put in: leave IdentityCertificateUUID out", f.uuid)
	}
	f.root = dict{}
	for key, v := range root {
		// What stands beside the payloads is not encrypted.
		sources := deviceValues
		if key == "PayloadContent" {
			sources |= scepValues
		}
		var err error
		if f.root[key], err = parsed(v, 0, sources); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	return f, nil
}

var scepUUID = regexp.MustCompile(`^\{\{\s*scep\.uuid\s*\}\}$`)

// lacking is the key that a profile or a payload has to have, and has not (Apple, Device Management: Profile-Specific Payload Keys); ""
// when all are there. A device refuses the whole profile otherwise.
func lacking(d dict) string {
	for _, key := range []string{"PayloadType", "PayloadIdentifier", "PayloadUUID"} {
		if s, ok := d[key].(string); !ok || s == "" {
			return key
		}
	}
	if d["PayloadVersion"] != uint64(1) {
		return "PayloadVersion of 1"
	}
	return ""
}

// parsed turns the texts of a value into templates with values of the given sources.
func parsed(v any, depth, sources int) (any, error) {
	if depth > maxFinalDepth {
		return nil, fmt.Errorf("deeper than %d", maxFinalDepth)
	}
	switch v := v.(type) {
	case string:
		t, err := parseTemplate(v, sources)
		if err != nil {
			return nil, err
		}
		return t, nil
	case []any:
		list := make([]any, len(v))
		for i := range v {
			var err error
			if list[i], err = parsed(v[i], depth+1, sources); err != nil {
				return nil, err
			}
		}
		return list, nil
	case dict:
		made := make(dict, len(v))
		for key := range v {
			var err error
			if made[key], err = parsed(v[key], depth+1, sources); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
		return made, nil
	}
	return v, nil
}

// fill makes the profile of one device, with the SCEP payload before its own.
func (f *finalProfile) fill(v values, scep dict) (dict, error) {
	filled, err := filledIn(f.root, v)
	if err != nil {
		return nil, err
	}
	root := filled.(dict)
	root["PayloadContent"] = append([]any{scep}, root["PayloadContent"].([]any)...)
	return root, nil
}

func filledIn(node any, v values) (any, error) {
	switch node := node.(type) {
	case *template:
		return node.expand(v, nil)
	case []any:
		list := make([]any, len(node))
		for i := range node {
			var err error
			if list[i], err = filledIn(node[i], v); err != nil {
				return nil, err
			}
		}
		return list, nil
	case dict:
		made := make(dict, len(node))
		for key := range node {
			var err error
			if made[key], err = filledIn(node[key], v); err != nil {
				return nil, err
			}
		}
		return made, nil
	}
	return node, nil
}
