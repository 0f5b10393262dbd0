package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/gateway/admin"
)

// deviceExportFlags select entries and their form.
type deviceExportFlags struct {
	clientFlags
	csv            bool
	vendor, prefix string
}

func newDeviceExportCommand() *cobra.Command {
	f := &deviceExportFlags{}
	cmd := &cobra.Command{
		Use: "export", Short: "Write the inventory as CSV or JSON, as \"muster device import --replace\" takes it",
		Long: `Writes the inventory to standard output, CSV unless --json is given. Secrets and passwords are not in it: has-secret and
has-password say that there is one, and "muster device import --replace" then keeps the one that stands.`,
		Example: "  muster device export > devices.csv\n  muster device export --json --vendor acme > acme.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, _, err := devicePages(cmd.Context(), f.client(), admin.DeviceQuery{Vendor: f.vendor, Prefix: f.prefix}, 1<<30)
			if err != nil {
				return f.explained(err)
			}
			w := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			if f.json {
				err = exportJSON(w, all)
			} else {
				err = exportCSV(w, all)
			}
			if err != nil {
				return err
			}
			return w.Flush()
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.csv, "csv", false, "write CSV, which is the default")
	cmd.Flags().StringVar(&f.vendor, "vendor", "", "only devices of this `VENDOR`")
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "only devices whose names begin with this `TEXT`")
	cmd.MarkFlagsMutuallyExclusive("csv", "json")
	return cmd
}

// exportJSON writes an array, an object a line.
func exportJSON(w io.Writer, all []admin.Device) error {
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

// exportColumn is a column of the CSV file, with its cell for a device. One that is empty throughout is left out.
type exportColumn struct {
	name string
	cell func(d *admin.Device) string
}

// exportCSV writes the columns that some device has a value for.
func exportCSV(w io.Writer, all []admin.Device) error {
	columns := exportColumns(all)
	columns = slices.DeleteFunc(columns, func(c exportColumn) bool {
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
					return fmt.Errorf("device %s: %q has a separator in it, which CSV cannot carry: --json can", plain(d.Name), list[bad])
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

// exportColumns are all columns: those of identifiers as often as one device has them, in the order of identifierKinds.
func exportColumns(all []admin.Device) []exportColumn {
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
	columns := []exportColumn{{"name", func(d *admin.Device) string { return d.Name }}}
	kinds := slices.Clone(identifierKinds)
	for _, kind := range slices.Sorted(maps.Keys(most)) {
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	for i, kind := range kinds {
		name := kind
		if i >= len(identifierKinds) {
			name = idPrefix + kind
		}
		for n := range most[kind] {
			columns = append(columns, exportColumn{name, func(d *admin.Device) string {
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
		exportColumn{"vendor", func(d *admin.Device) string { return d.Vendor }},
		exportColumn{"endpoints", func(d *admin.Device) string { return strings.Join(d.Endpoints, ";") }},
		exportColumn{"profiles", func(d *admin.Device) string { return strings.Join(d.Profiles, ";") }},
		exportColumn{"enrollments", func(d *admin.Device) string {
			if d.Enrollments == 0 {
				return ""
			}
			return d.Enrollments.String()
		}},
		exportColumn{"not-before", func(d *admin.Device) string { return date(d.NotBefore) }},
		exportColumn{"not-after", func(d *admin.Device) string { return date(d.NotAfter) }},
		exportColumn{"disabled", func(d *admin.Device) string { return yes[d.Disabled] }},
	)
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		columns = append(columns, exportColumn{attrPrefix + name, func(d *admin.Device) string { return d.Attributes[name] }})
	}
	return append(columns,
		exportColumn{"note", func(d *admin.Device) string { return d.Note }},
		exportColumn{"has-password", func(d *admin.Device) string { return yes[d.HasPassword] }},
		exportColumn{"has-secret", func(d *admin.Device) string { return yes[d.HasSecret] }},
	)
}

// quoteCSV writes a value so that it is read as it is (RFC 4180 section 2).
func quoteCSV(s string) string {
	if strings.ContainsAny(s, "\",;\t") || strings.TrimSpace(s) != s || rounded(s) {
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return s
}
