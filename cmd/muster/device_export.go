package main

import (
	"bufio"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/devicefile"
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
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, _, err := devicePages(cmd.Context(), f.client(), admin.DeviceQuery{Vendor: f.vendor, Prefix: f.prefix}, 1<<30)
			if err != nil {
				return f.explained(err)
			}
			w := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			if f.json {
				err = devicefile.WriteJSON(w, all)
			} else {
				err = devicefile.WriteCSV(w, all)
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
