package mdm

import (
	"bytes"
	"errors"
	"fmt"

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
	for _, key := range []string{"PayloadIdentifier", "PayloadUUID"} {
		if s, ok := root[key].(string); !ok || s == "" {
			return nil, fmt.Errorf("it has no %s", key)
		}
	}
	if root["PayloadType"] != typeConfiguration {
		return nil, fmt.Errorf("its PayloadType is not %s", typeConfiguration)
	}
	payloads, ok := root["PayloadContent"].([]any)
	if !ok || len(payloads) == 0 {
		return nil, errors.New("it has no payloads in PayloadContent")
	}
	f := &finalProfile{}
	taken := map[any]bool{}
	var mdm dict
	for i, p := range payloads {
		d, ok := p.(dict)
		if !ok || d["PayloadType"] == nil {
			return nil, fmt.Errorf("payload %d is no dictionary with a PayloadType", i+1)
		}
		if taken[d["PayloadUUID"]] = true; d["PayloadType"] != typeMDM {
			continue
		}
		if mdm != nil {
			return nil, errors.New("it has two MDM payloads, and a device takes one")
		}
		mdm = d
	}
	f.uuid = uuid
	if mdm != nil {
		switch stated, _ := mdm["IdentityCertificateUUID"].(string); stated {
		case "", "{{scep.uuid}}":
			mdm["IdentityCertificateUUID"] = uuid
		default:
			f.uuid = stated
		}
	}
	if taken[f.uuid] {
		return nil, fmt.Errorf("a payload of it has the UUID %s already, which is to be that of the SCEP payload that is put in: leave IdentityCertificateUUID out", f.uuid)
	}
	made, err := parsed(root, 0)
	if err != nil {
		return nil, err
	}
	f.root = made.(dict)
	return f, nil
}

// parsed turns the texts of a value into templates.
func parsed(v any, depth int) (any, error) {
	if depth > maxFinalDepth {
		return nil, fmt.Errorf("deeper than %d", maxFinalDepth)
	}
	switch v := v.(type) {
	case string:
		t, err := parseTemplate(v, deviceValues|scepValues)
		if err != nil {
			return nil, err
		}
		return t, nil
	case []any:
		list := make([]any, len(v))
		for i := range v {
			var err error
			if list[i], err = parsed(v[i], depth+1); err != nil {
				return nil, err
			}
		}
		return list, nil
	case dict:
		made := make(dict, len(v))
		for key := range v {
			var err error
			if made[key], err = parsed(v[key], depth+1); err != nil {
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
