package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
)

// explainFlags say which request is meant.
type explainFlags struct {
	clientFlags
	last   bool
	device string
}

func newExplainCommand() *cobra.Command {
	f := &explainFlags{}
	cmd := &cobra.Command{
		Use:   "explain ID | --last [--device DEVICE]",
		Short: "Tell what became of a request, and why",
		Long: `Tells what a device asked for, what each stage decided and why, and what the CA did.
The ID stands in the gateway's answer and log, and in "muster ls"; 6 characters of its beginning or end will do.
--last tells of the newest request, with --device of that device's newest.`,
		Example: "  muster explain --last --device SN0001",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case f.last && len(args) > 0:
				return errors.New("explain wants an ID or --last, not both")
			case f.device != "" && !f.last:
				return errors.New("--device goes with --last")
			case !f.last && (len(args) != 1 || args[0] == ""):
				return errors.New(`explain wants one ID, or --last: it stands in the gateway's answer and log, and in "muster ls"`)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id := strings.Join(args, "")
			if f.last {
				var err error
				if id, err = f.newest(cmd.Context()); err != nil {
					return f.explained(err)
				}
			}
			t, err := f.client().Explain(cmd.Context(), id)
			if err != nil {
				return f.explained(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), t)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), account(t, time.Now()))
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.last, "last", false, "the newest request")
	cmd.Flags().StringVar(&f.device, "device", "", "with --last: of this `DEVICE`, by its name or an identifier")
	return cmd
}

// newest is the ID of the newest request, of the device if one is given: refused ones count, too.
func (f *explainFlags) newest(ctx context.Context) (string, error) {
	device := f.device
	if device != "" {
		// In the inventory it may have another name than the one that people know it by.
		switch d, err := f.client().Device(ctx, device); {
		case err == nil:
			device = d.Name
		case !isStatus(err, http.StatusNotFound):
			return "", err
		}
	}
	found, err := f.client().Transactions(ctx, admin.TransactionQuery{Device: device, Limit: 1, Strangers: true})
	switch {
	case err != nil:
		return "", err
	case len(found.Transactions) == 0 && device != "":
		return "", fmt.Errorf("the device %s has asked for nothing, as far as is known; \"muster ls --refused\" lists the requests of strangers", words.Plain(f.device))
	case len(found.Transactions) == 0:
		return "", errors.New("nobody has asked for anything yet")
	}
	return found.Transactions[0].ID, nil
}

// isStatus reports whether the API answered with the status of HTTP.
func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*admin.Error](err)
	return ok && e.Status == status
}
