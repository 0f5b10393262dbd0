package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
)

func newDeviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "device", Short: "Keep the inventory: which devices there are, and what each may have",
		Long: `The inventory of the running gateway: devices with their identifiers, what each may ask for and how often, and the
secrets that it proves itself with. Endpoints look into it with the stage "inventory".`,
	}
	cmd.AddCommand(newDeviceImportCommand(), newDeviceExportCommand(), newDeviceAddCommand(), newDeviceShowCommand(), newDeviceLsCommand(),
		newDeviceSwitchCommand("disable", "Refuse a device everything, until it is enabled again", true),
		newDeviceSwitchCommand("enable", "Take back that a device is disabled", false),
		newDeviceResetCommand(), newDeviceRmCommand())
	return cmd
}

// deviceLsFlags select entries.
type deviceLsFlags struct {
	clientFlags
	vendor, prefix string
	disabled       bool
	limit          int
}

func newDeviceLsCommand() *cobra.Command {
	f := &deviceLsFlags{}
	cmd := &cobra.Command{
		Use: "ls", Short: "List devices by name",
		Example: "  muster device ls --vendor acme --disabled\n  muster device ls --prefix bts-00 --limit 500",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.limit < 1 {
				return fmt.Errorf("--limit %d: at least 1", f.limit)
			}
			q := admin.DeviceQuery{Vendor: f.vendor, Prefix: f.prefix}
			if cmd.Flags().Changed("disabled") {
				q.Disabled = &f.disabled
			}
			w := cmd.OutOrStdout()
			return f.explained(f.list(cmd.Context(), q, w, widthOf(w), time.Now()))
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.vendor, "vendor", "", "only devices of this `VENDOR`")
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "only devices whose names begin with this `TEXT`")
	cmd.Flags().BoolVar(&f.disabled, "disabled", false, "only those that are disabled; --disabled=false: only those that are not")
	cmd.Flags().IntVar(&f.limit, "limit", 50, "how many")
	return cmd
}

func (f *deviceLsFlags) list(ctx context.Context, q admin.DeviceQuery, w io.Writer, width int, now time.Time) error {
	all, more, err := devicePages(ctx, f.client(), q, f.limit)
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(w, all)
	}
	t := &table{columns: []column{
		{title: "NAME", rest: 16, most: 40}, {title: "VENDOR", from: 90}, {title: "IDENTIFIERS", from: 60, rest: 16, most: 60}, {title: "ENROLLED"}, {title: "STATE"}, {title: "UNTIL", from: 80},
	}}
	for i := range all {
		d := &all[i]
		until := "for ever"
		if d.NotAfter != nil {
			until = d.NotAfter.UTC().Format(time.DateOnly)
		}
		t.row(d.Name, d.Vendor, identifiersOf(d, " "), enrolled(d), deviceState(d, now), until)
	}
	if err := t.print(w, width, "no devices", false); err != nil || !more {
		return err
	}
	_, err = fmt.Fprintf(w, "... and further ones: --limit %d\n", 4*len(all))
	return err
}

// devicePages collects entries page by page until there are limit, or no more.
func devicePages(ctx context.Context, c *admin.Client, q admin.DeviceQuery, limit int) ([]admin.Device, bool, error) {
	return pages(limit, func(after string, limit int) ([]admin.Device, string, error) {
		q.After, q.Limit = after, limit
		l, err := c.Devices(ctx, q)
		if err != nil {
			return nil, "", err
		}
		return l.Devices, l.Next, nil
	})
}

func identifiersOf(d *admin.Device, between string) string {
	var all []string
	for _, id := range d.Identifiers {
		all = append(all, id.Kind+"="+id.Value)
	}
	return strings.Join(all, between)
}

// enrolled says how many enrollments are used up, and of how many.
func enrolled(d *admin.Device) string {
	switch d.Enrollments {
	case 0: // the stage says
		return fmt.Sprint(d.Enrolled)
	case admin.Unlimited:
		return fmt.Sprintf("%d, unlimited", d.Enrolled)
	}
	return fmt.Sprintf("%d of %d", d.Enrolled, d.Enrollments)
}

// deviceState says whether the entry is good.
func deviceState(d *admin.Device, now time.Time) string {
	switch {
	case d.Disabled:
		return "disabled"
	case d.NotBefore != nil && now.Before(*d.NotBefore):
		return "not yet"
	case d.NotAfter != nil && now.After(*d.NotAfter):
		return "expired"
	}
	return "good"
}

func newDeviceSwitchCommand(name, short string, disabled bool) *cobra.Command {
	f := &clientFlags{}
	cmd := &cobra.Command{
		Use: name + " NAME|IDENTIFIER", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := f.client()
			d, err := c.Device(cmd.Context(), args[0])
			if err == nil {
				d, err = c.SetDeviceDisabled(cmd.Context(), d.Name, disabled)
			}
			switch {
			case err != nil:
				return f.explained(err)
			case f.json:
				return printJSON(cmd.OutOrStdout(), d)
			case disabled:
				fmt.Fprintf(cmd.OutOrStdout(), "%s is disabled: it gets no certificates. Those that it has stay good: muster revoke --device %[1]s\n", words.Plain(d.Name))
			default:
				fmt.Fprintf(cmd.OutOrStdout(), "%s is enabled\n", words.Plain(d.Name))
			}
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

func newDeviceResetCommand() *cobra.Command {
	f := &clientFlags{}
	cmd := &cobra.Command{
		Use: "reset NAME|IDENTIFIER", Short: "Let a device enrol anew: its enrollments and its one-time password are good again",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := f.client()
			d, err := c.Device(cmd.Context(), args[0])
			if err == nil {
				d, err = c.ResetDevice(cmd.Context(), d.Name)
			}
			switch {
			case err != nil:
				return f.explained(err)
			case f.json:
				return printJSON(cmd.OutOrStdout(), d)
			}
			password := ""
			if d.HasPassword {
				password = ", and its one-time password is good again"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s has used none of its enrollments now%s\n", words.Plain(d.Name), password)
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

// usedBefore says of enrollments that stay counted while there is no entry, "" where there are none: who takes one out and puts
// another in under the same name does not let the device enrol once more.
func usedBefore(d *admin.Device) string {
	if d.Enrolled == 0 {
		return ""
	}
	return fmt.Sprintf("%s used under this name, and counted for whatever entry has it: muster device reset starts anew\n", words.Counted(int(d.Enrolled), "enrollment"))
}

func newDeviceRmCommand() *cobra.Command {
	f := &clientFlags{}
	cmd := &cobra.Command{
		Use: "rm NAME", Short: "Take a device out of the inventory, by its whole name; its certificates stay", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := f.client().DropDevice(cmd.Context(), args[0])
			switch {
			case err != nil:
				return f.explained(err)
			case f.json:
				return printJSON(cmd.OutOrStdout(), d)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is removed. Certificates that it has stay good: muster revoke --device %[1]s\n%s", words.Plain(d.Name), usedBefore(d))
			return nil
		},
	}
	f.add(cmd)
	return cmd
}
