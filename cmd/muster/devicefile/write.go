package devicefile

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
)

// WriteJSON writes devices as an array, an object a line, without what the gateway alone knows of them.
func WriteJSON(w io.Writer, all []admin.Device) error {
	before := "[\n"
	for _, d := range all {
		d.Enrolled, d.PasswordUsed, d.Created, d.Updated = 0, false, nil, nil
		line, err := json.Marshal(d)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s%s", before, line); err != nil {
			return err
		}
		before = ",\n"
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "[]")
		return err
	}
	_, err := fmt.Fprintln(w, "\n]")
	return err
}

// column is a column of the CSV file, with its cell for a device. One that is empty throughout is left out.
type column struct {
	name string
	cell func(d *admin.Device) string
}

// WriteCSV writes the columns that some device has a value for. It refuses what CSV cannot carry.
func WriteCSV(w io.Writer, all []admin.Device) error {
	columns := columnsOf(all)
	columns = slices.DeleteFunc(columns, func(c column) bool {
		return c.name != "name" && !slices.ContainsFunc(all, func(d admin.Device) bool { return c.cell(&d) != "" })
	})
	line := make([]string, len(columns))
	for i, c := range columns {
		line[i] = quoteCSV(c.name)
	}
	for i := -1; i < len(all); i++ {
		if i >= 0 {
			d := &all[i]
			for _, list := range [][]string{d.Endpoints, d.Profiles} {
				if bad := slices.IndexFunc(list, func(s string) bool { return strings.ContainsAny(s, "; ") }); bad >= 0 {
					return fmt.Errorf("device %s: %q has a separator in it, which CSV cannot carry: --json can", words.Plain(d.Name), list[bad])
				}
			}
			for j, c := range columns {
				line[j] = quoteCSV(c.cell(d))
			}
		}
		if _, err := fmt.Fprintln(w, strings.Join(line, ",")); err != nil {
			return err
		}
	}
	return nil
}

// columnsOf are all columns: those of identifiers as often as one device has them, in the order of identifierKinds.
func columnsOf(all []admin.Device) []column {
	most, attributes := map[string]int{}, map[string]bool{}
	for _, d := range all {
		have := map[string]int{}
		for _, id := range d.Identifiers {
			have[id.Kind]++
			most[id.Kind] = max(most[id.Kind], have[id.Kind])
		}
		for name := range d.Attributes {
			attributes[name] = true
		}
	}
	columns := []column{{"name", func(d *admin.Device) string { return d.Name }}}
	kinds := slices.Clone(identifierKinds)
	for _, kind := range slices.Sorted(maps.Keys(most)) {
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	for i, kind := range kinds {
		name := kind
		if i >= len(identifierKinds) {
			name = IDPrefix + kind
		}
		for n := range most[kind] {
			columns = append(columns, column{name, func(d *admin.Device) string {
				n := n
				for _, id := range d.Identifiers {
					if id.Kind == kind {
						if n == 0 {
							return id.Value
						}
						n--
					}
				}
				return ""
			}})
		}
	}
	yes := map[bool]string{true: "yes"}
	date := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return t.UTC().Format(time.RFC3339Nano)
	}
	columns = append(columns,
		column{"vendor", func(d *admin.Device) string { return d.Vendor }},
		column{"endpoints", func(d *admin.Device) string { return strings.Join(d.Endpoints, ";") }},
		column{"profiles", func(d *admin.Device) string { return strings.Join(d.Profiles, ";") }},
		column{"enrollments", func(d *admin.Device) string {
			if d.Enrollments == 0 {
				return ""
			}
			return d.Enrollments.String()
		}},
		column{"not-before", func(d *admin.Device) string { return date(d.NotBefore) }},
		column{"not-after", func(d *admin.Device) string { return date(d.NotAfter) }},
		column{"disabled", func(d *admin.Device) string { return yes[d.Disabled] }},
	)
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		columns = append(columns, column{AttrPrefix + name, func(d *admin.Device) string { return d.Attributes[name] }})
	}
	return append(columns,
		column{"note", func(d *admin.Device) string { return d.Note }},
		column{"has-password", func(d *admin.Device) string { return yes[d.HasPassword] }},
		column{"has-secret", func(d *admin.Device) string { return yes[d.HasSecret] }},
	)
}

// quoteCSV writes a value so that it is read as it is (RFC 4180 section 2).
func quoteCSV(s string) string {
	if strings.ContainsAny(s, "\",;\t") || strings.TrimSpace(s) != s || rounded(s) {
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return s
}
