package authz

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// field is one place in a certificate's or a request's names: "subject.serialNumber", "san.uri".
type field struct {
	name string
	oid  string // of a subject's attribute; "" for a subjectAltName
	san  string
}

// Places are places in names as a configuration writes them: one, or a list.
type Places []string

// UnmarshalStrict reads a word or a list of words.
func (p *Places) UnmarshalStrict(file string, n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
		*p = Places{""}
		return strictyaml.DecodeNode(file, n, &(*p)[0])
	}
	return strictyaml.DecodeNode(file, n, (*[]string)(p))
}

func parseField(s string) (field, error) {
	where, what, _ := strings.Cut(s, ".")
	switch where {
	case "subject":
		if oid, ok := attributeOID(what); ok {
			return field{name: s, oid: oid}, nil
		}
		return field{}, fmt.Errorf("%q: no attribute %q%s", s, what, strictyaml.Suggest(what, attributeNames()))
	case "san":
		if slices.Contains(sanKinds, what) {
			return field{name: s, san: what}, nil
		}
		return field{}, fmt.Errorf("%q: no kind %q%s", s, what, strictyaml.Suggest(what, sanKinds))
	}
	return field{}, fmt.Errorf("%q: want subject.ATTRIBUTE or san.KIND, such as subject.serialNumber or san.uri", s)
}

// of returns the one value that stands in the field. None and several are errors: neither says which device this is.
// subject is a DER Name, san DER GeneralNames or nil.
func (f field) of(subject, san []byte) (string, error) {
	value, found, err := f.find(subject, san)
	if err == nil && !found {
		err = fmt.Errorf("%s has 0 values, one is needed", f.name)
	}
	return value, err
}

// find is of, for a field that may have no value. A subject may be nil.
func (f field) find(subject, san []byte) (value string, found bool, err error) {
	var values []string
	if f.oid != "" && subject != nil {
		// Vendors' certificates have string types that a request may not have.
		name, err := pkix.ParseName(subject)
		if err != nil {
			return "", false, fmt.Errorf("the subject: %w", err)
		}
		for _, rdn := range name {
			for _, a := range rdn {
				if a.OID.String() == f.oid {
					values = append(values, a.Text)
				}
			}
		}
	} else if f.san != "" && san != nil {
		all, err := parseNames(san)
		if err != nil {
			return "", false, fmt.Errorf("the subjectAltName: %w", err)
		}
		for _, n := range all {
			if n.kind == f.san {
				values = append(values, n.text)
			}
		}
	}
	switch {
	case len(values) == 0:
		return "", false, nil
	case len(values) != 1:
		return "", false, fmt.Errorf("%s has %d values, one is needed", f.name, len(values))
	case values[0] == "" || len(values[0]) > 256:
		return "", false, fmt.Errorf("%s has %d bytes, 1 to 256 are taken", f.name, len(values[0]))
	case !printable(values[0]):
		return "", false, fmt.Errorf("%s has control or invisible characters", f.name)
	}
	return values[0], true, nil
}
