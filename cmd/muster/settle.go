package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// maxFinding bounds a file with a certificate and its chain, in bytes: the API takes 16 KiB.
const maxFinding = 14 << 10

func newSettleCommand() *cobra.Command {
	f := &clientFlags{}
	file, never, note := "", false, ""
	cmd := &cobra.Command{
		Use: "settle ID --issued FILE | --never", Short: "Say what became of a request at a CA that cannot be asked",
		Long: `A CA that keeps no record by ID cannot be asked what it did when its answer was lost: the transaction is stuck ('muster ls --state stuck').
Others may not say for long: unknown, waiting. With --never one that is queued ends too, of which its CA has nothing yet.
Look into the CA's own records, by subject and key ('muster explain ID' has both), and say here what you found. A certificate has to be the one
that was asked for; the device gets it when it asks again. With --never the request has failed, and the device may ask anew: revoke at the CA
what turns up later.`,
		Example: "  muster ls --state stuck\n  muster settle 06gz... --issued bts-0001.pem --note \"found in the CA's database\"\n  muster settle 06gz... --never",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (file != "") == never {
				return errors.New("say what you found: --issued FILE or --never")
			}
			found := admin.Finding{Never: never, Note: note}
			if file != "" {
				text, err := readFinding(file)
				if err != nil {
					return err
				}
				found.Certificate = text
			}
			x, err := f.client().Settle(cmd.Context(), args[0], found)
			switch {
			case err != nil:
				return f.explained(err)
			case f.json:
				return printJSON(cmd.OutOrStdout(), x)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), settled(x))
			return err
		},
	}
	f.narrowing = []string{"issued"}
	f.add(cmd)
	cmd.Flags().StringVar(&file, "issued", "", "PEM `FILE` of the certificate that was issued; its chain behind it, where it is not the backend's own")
	cmd.Flags().BoolVar(&never, "never", false, "nothing was issued, and nothing will be")
	cmd.Flags().StringVar(&note, "note", "", "`TEXT` for the audit trail")
	return cmd
}

func readFinding(name string) (string, error) {
	in, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, maxFinding+1))
	if err == nil && len(text) > maxFinding {
		err = fmt.Errorf("%s: more than %d bytes: give the certificate, and its chain", name, maxFinding)
	}
	return string(text), err
}

// settled says what is recorded.
func settled(x *admin.Transaction) string {
	a := &story{}
	if c := x.Certificate; c != nil {
		if x.State == string(gateway.StateFailed) { // by the lints, which look at what a CA has made
			a.printf("Settled: the certificate is recorded, and revoked: %s\n\n", x.Note)
		} else {
			a.printf("Settled: the certificate is recorded, and the device gets it when it asks again\n\n")
		}
		whatWasAsked(a, x)
		a.row("Serial", c.Serial)
		a.row("Period", words.Moment(c.NotBefore)+" to "+words.Moment(c.NotAfter))
		return a.text.String()
	}
	a.printf("Settled: nothing was issued; the device may ask anew\n\n")
	whatWasAsked(a, x)
	return a.text.String()
}
