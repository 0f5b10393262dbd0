package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
)

// revokeFlags say which certificates are revoked, and why.
type revokeFlags struct {
	clientFlags
	device, transaction, issuer, reason, note string
	yes                                       bool
}

func newRevokeCommand() *cobra.Command {
	f := &revokeFlags{}
	cmd := &cobra.Command{
		Use: "revoke SERIAL | --device NAME | --transaction ID", Short: "Revoke a certificate, or all valid ones of a device",
		Long: `Revokes a certificate by its serial number (hexadecimal, as openssl x509 -serial prints it) or by the transaction that issued it,
or all valid ones of a device. For the gateway it counts no more at once; its CA is told, again and again until it has it. A CA that takes no revocations from Muster
(EST and SCEP have none) is not told: what is to be done there, the command says.`,
		Example: "  muster revoke 5f3a9c... --reason keyCompromise\n  muster revoke --device bts-0001 --reason cessationOfOperation --note \"ticket 4711\"",
		Args:    cobra.MaximumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.device, "device", "", "all valid certificates of this device: its `NAME` or an identifier")
	cmd.Flags().StringVar(&f.transaction, "transaction", "", "the certificate of the transaction with this `ID`")
	cmd.Flags().StringVar(&f.issuer, "issuer", "", "the issuer's `NAME`, e.g. CN=CA,O=Acme, where two CAs gave the same serial number")
	cmd.Flags().StringVar(&f.reason, "reason", "", "`REASON` by RFC 5280: unspecified (default), keyCompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn, ...")
	cmd.Flags().StringVar(&f.note, "note", "", "`TEXT` for the audit trail")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask where several are revoked")
	return cmd
}

func (f *revokeFlags) run(cmd *cobra.Command, args []string) error {
	named := 0
	for _, given := range []bool{len(args) == 1, f.device != "", f.transaction != ""} {
		if given {
			named++
		}
	}
	if named != 1 {
		return errors.New("say which certificate: by its serial number, --transaction ID, or --device NAME")
	}
	if f.issuer != "" && len(args) == 0 {
		return errors.New("--issuer goes with a serial number")
	}
	q := admin.RevokeQuery{Issuer: f.issuer, Transaction: f.transaction}
	if len(args) == 1 {
		var err error
		if q.Serial, err = parseSerial(args[0]); err != nil {
			return err
		}
	}
	c, ctx := f.client(), cmd.Context()
	if f.device != "" {
		name, several, err := f.several(ctx, c, time.Now())
		if err != nil {
			return f.explained(err)
		}
		if len(several) > 1 && !f.yes {
			if err := confirm(cmd, f.question(name, several)); err != nil {
				return err
			}
		}
		q.Device, q.All = name, true
	}
	done, err := c.Revoke(ctx, q, f.reason, f.note)
	if err != nil {
		return f.explained(err)
	}
	w := cmd.OutOrStdout()
	if f.json {
		return printJSON(w, done)
	}
	waiting, alone := false, false
	for _, r := range done.Revoked {
		x := r.Certificate
		if r.Already {
			when := ""
			if x.RevokedAt != nil {
				when = ", " + words.Moment(*x.RevokedAt)
			}
			fmt.Fprintf(w, "%s was revoked before, as %s%s: nothing was changed\n", words.Plain(x.Serial), orElse(words.Plain(x.Revocation), "unspecified"), when)
			continue
		}
		told := ""
		switch {
		case r.Alone:
			told, alone = " (here alone: its CA takes no revocations from Muster)", true
		case !r.Told:
			told, waiting = " (its CA has not answered yet)", true
		}
		fmt.Fprintf(w, "revoked %s  %s, of %s, %s%s\n", words.Plain(x.Serial), words.Plain(x.Subject), words.Plain(x.Issuer), orElse(words.Plain(x.Revocation), "unspecified"), told)
	}
	if alone {
		fmt.Fprintln(w, "The gateway takes it for revoked, and nobody else does: revoke it at its CA as well, by the serial number, with the CA's own tools.\n"+
			"Until then the CA's CRL and OCSP do not have it, and whoever trusts the CA accepts it.")
	}
	if waiting {
		fmt.Fprintln(w, "The gateway takes it for revoked already, and goes on telling the CA until it has it in its CRL.")
	}
	return nil
}

// several finds a device's valid certificates. It may be none of the inventory.
func (f *revokeFlags) several(ctx context.Context, c *admin.Client, now time.Time) (name string, valid []admin.Certificate, err error) {
	name = f.device
	d, err := c.Device(ctx, name)
	if e, ok := errors.AsType[*admin.Error](err); err != nil && (!ok || e.Status != 404) {
		return "", nil, err
	}
	if err == nil {
		name = d.Name
	}
	valid, _, err = pages(1<<30, func(before string, limit int) ([]admin.Certificate, string, error) {
		l, err := c.Certificates(ctx, admin.CertificateQuery{Device: name, Valid: true, Before: before, Limit: limit})
		if err != nil {
			return nil, "", err
		}
		return l.Certificates, l.Next, nil
	})
	if err == nil && len(valid) == 0 {
		err = fmt.Errorf("device %s has no valid certificate", name)
	}
	return name, valid, err
}

// question lists what would be revoked.
func (f *revokeFlags) question(name string, several []admin.Certificate) string {
	var b strings.Builder
	for i, x := range several {
		if i == 20 {
			fmt.Fprintf(&b, "  ... and %d more\n", len(several)-i)
			break
		}
		fmt.Fprintf(&b, "  %s  %s  until %s\n", words.Plain(x.Serial), words.Plain(x.Subject), x.NotAfter.UTC().Format(time.DateOnly))
	}
	return fmt.Sprintf("Device %s has %d valid certificates:\n%sRevoke all of them?", words.Plain(name), len(several), b.String())
}

// parseSerial reads a serial number as people copy it: 0x, colons and leading zeros count as nothing.
func parseSerial(s string) (string, error) {
	digits := strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(strings.TrimSpace(s)))
	digits = strings.TrimPrefix(strings.TrimPrefix(digits, "serial="), "0x") // openssl x509 -serial
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) == 0 || len(raw) > 64 {
		return "", fmt.Errorf("%s is no serial number: want hexadecimal digits; a device is named with --device", words.Quote(s))
	}
	for len(raw) > 1 && raw[0] == 0 {
		raw = raw[1:]
	}
	return hex.EncodeToString(raw), nil
}
