package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func newCACommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ca", Short: "List the CAs behind the gateway, change them over, fetch their CRLs",
	}
	cmd.AddCommand(newCALsCommand(), newCARollCommand("renew"), newCARollCommand("rekey"), newCACRLCommand())
	return cmd
}

// caName is how a CA is named: BACKEND/NAME.
func caName(c *admin.CA) string {
	if c.Name == "" {
		return c.Backend
	}
	return c.Backend + "/" + c.Name
}

func newCALsCommand() *cobra.Command {
	f := &clientFlags{}
	cmd := &cobra.Command{
		Use: "ls", Short: "List the CAs of all backends, with the certificates of every generation", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := f.client().CAs(cmd.Context())
			if err != nil {
				return f.explained(err)
			}
			w := cmd.OutOrStdout()
			if f.json {
				return printJSON(w, l.CAs)
			}
			return listCAs(w, widthOf(w), l.CAs, time.Now())
		},
	}
	f.add(cmd)
	return cmd
}

func listCAs(w io.Writer, width int, all []admin.CA, now time.Time) error {
	t := &table{columns: []column{
		{title: "CA"}, {title: "CERTIFICATE"}, {title: "SUBJECT", rest: 20, most: 60}, {title: "KEY", from: 100}, {title: "KEY ID", from: 110}, {title: "UNTIL"}, {title: "CRL", from: 90},
	}}
	for i := range all {
		c := &all[i]
		name := caName(c)
		if c.Default {
			name += " *"
		}
		if c.Error != "" {
			t.row(name, "", "does not answer: "+c.Error, "", "", "", "")
			continue
		}
		certs := append(append(append([]admin.CACertificate{}, c.Chain...), c.Rollover...), c.Next...)
		for n, x := range certs {
			until, crls := x.NotAfter.UTC().Format(time.DateOnly), ""
			if now.After(x.NotAfter) {
				until += ", over"
			}
			if n == 0 {
				crls = crlNames(c)
			} else {
				name = ""
			}
			kind := x.Kind
			switch {
			case n >= len(c.Chain)+len(c.Rollover):
				kind = "next " + kind
			case n >= len(c.Chain) && (kind == "issuing" || kind == "root"):
				kind = "other " + kind
			}
			t.row(name, kind, x.Subject, x.Key, words.Cut(x.KeyID, 9), until, crls)
		}
	}
	if err := t.print(w, width, "no CAs", false); err != nil || len(t.rows) == 0 {
		return err
	}
	_, err := fmt.Fprintln(w, "\n* the backend's default")
	return err
}

// crlNames are the names of a CA's CRLs; those of many shards by the first and the last.
func crlNames(c *admin.CA) string {
	names := c.CRLs
	switch n := len(c.CRLShards); {
	case n > 3:
		names = append(slices.Clip(names), fmt.Sprintf("%s to %s (%d shards)", c.CRLShards[0], c.CRLShards[n-1], n))
	default:
		names = append(slices.Clip(names), c.CRLShards...)
	}
	return strings.Join(names, ", ")
}

// rollFlags say which CA changes over.
type rollFlags struct {
	clientFlags
	root, yes bool
	announce  bool
	id        string
}

func newCARollCommand(kind string) *cobra.Command {
	f := &rollFlags{}
	short := map[string]string{"renew": "Give a CA a new certificate for the same key", "rekey": "Give a CA a new key, and a certificate for it"}[kind]
	cmd := &cobra.Command{
		Use: kind + " BACKEND[/ISSUER]", Short: short,
		Long: short + `. The CA issues under it from then on; certificates that it issued before stay good until they
expire or are revoked. docs/rollover.md says what devices notice.`,
		Example: "  muster ca " + kind + " local/ec\n  muster ca " + kind + " local/rsa --root",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd, kind, args[0]) },
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.root, "root", false, "the CA's root changes, and with it the issuing CA; else the issuing CA alone")
	cmd.Flags().BoolVar(&f.announce, "announce", false, "make it known to devices, and go on as before: the same command without --announce puts it in force")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	cmd.Flags().StringVar(&f.id, "id", "", "`ID` of a change that was ordered before, of which no answer came: it is made if it was not, and never twice")
	return cmd
}

// findCA finds a CA by BACKEND/NAME, or a backend's default by BACKEND.
func findCA(ctx context.Context, c *admin.Client, given string) (*admin.CA, error) {
	l, err := c.CAs(ctx)
	if err != nil {
		return nil, err
	}
	backend, issuer, named := strings.Cut(given, "/")
	var known []string
	for i := range l.CAs {
		one := &l.CAs[i]
		known = append(known, caName(one))
		if one.Backend == backend && (named && one.Name == issuer || !named && (one.Default || one.Error != "")) {
			if one.Error != "" {
				return nil, fmt.Errorf("backend %s does not answer: %s", backend, one.Error)
			}
			return one, nil
		}
	}
	return nil, fmt.Errorf("there is no CA %s%s", words.Quote(given), strictyaml.Suggest(given, known))
}

func (f *rollFlags) run(cmd *cobra.Command, kind, given string) error {
	if f.id != "" && !gateway.ValidID(f.id) {
		return fmt.Errorf("--id %s: want the 26 letters and digits that were told when no answer came", words.Quote(f.id))
	}
	c, ctx := f.client(), cmd.Context()
	before, err := findCA(ctx, c, given)
	if err != nil {
		return f.explained(err)
	}
	if !before.CanRoll {
		return f.explained(fmt.Errorf("%s cannot be changed over from here: its backend does not do it", caName(before)))
	}
	if !f.yes {
		if err := confirm(cmd, changes(before, kind, f.root, f.announce)+"\nGo on?"); err != nil {
			return err
		}
	}
	order := admin.RolloverOrder{ID: f.id, Issuer: before.Name, Kind: kind, Root: f.root, Announce: f.announce}
	if order.ID == "" {
		order.ID = gateway.NewID(time.Now())
	}
	after, err := c.Rollover(ctx, before.Backend, order)
	if err != nil {
		err = f.explained(err)
		if e, ok := errors.AsType[*admin.Error](err); !ok || e.Status >= http.StatusInternalServerError {
			err = fmt.Errorf("%w\nIt may have been changed over. The same command with --id %s makes sure, and changes nothing twice", err, order.ID)
		}
		return err
	}
	w := cmd.OutOrStdout()
	if f.json {
		return printJSON(w, after)
	}
	_, err = io.WriteString(w, changed(before, after, kind, f.root, f.announce))
	return err
}

// changes says what is about to happen.
func changes(c *admin.CA, kind string, root, announce bool) string {
	a := &story{}
	what := map[string]string{"renew": "a new certificate for the same key", "rekey": "a new key, and a certificate for it"}[kind]
	if root {
		a.printf("The root of %s gets %s, and the issuing CA below it too:\n", caName(c), what)
	} else {
		a.printf("The issuing CA %s gets %s, under the same root:\n", caName(c), what)
	}
	for i, x := range c.Chain {
		if i == 0 || root {
			a.printf("  %s  %s, %s, until %s\n", x.Kind, x.Subject, x.Key, words.Moment(x.NotAfter))
		}
	}
	if announce {
		a.printf("It is announced alone: certificates are issued as before, until the same command without --announce puts it in force.\n")
		return strings.TrimSuffix(a.text.String(), "\n")
	}
	if len(c.Next) > 0 {
		a.printf("It is the one that was announced, %s, SHA-256 %s.\n", c.Next[0].Subject, c.Next[0].Fingerprint)
	}
	a.printf("Certificates are issued under the new one at once. Those issued before stay good.\n")
	if root {
		a.printf("Devices and relying parties that know the present root only have to get the new one.\n")
	}
	return strings.TrimSuffix(a.text.String(), "\n")
}

// changed says what has happened, and what is left to do.
func changed(before, after *admin.CA, kind string, root, announce bool) string {
	a := &story{}
	if announce {
		a.printf("%s has announced what follows:\n", caName(after))
		for _, x := range after.Next {
			a.printf("  next  %s  %s, %s, until %s\n        SHA-256 %s\n", x.Kind, x.Subject, x.Key, words.Moment(x.NotAfter), x.Fingerprint)
		}
		a.printf("\nNext\n  Give it to whoever has to know it. SCEP clients ask for GetNextCACert. `muster ca %s %s", kind, caName(after))
		if root {
			a.printf(" --root")
		}
		a.printf("` puts it in force.\n  Back up the CA, which has changed.\n")
		return a.text.String()
	}
	old, fresh := map[string]bool{}, &story{}
	for _, x := range append(append([]admin.CACertificate{}, before.Chain...), before.Rollover...) {
		old[x.Fingerprint] = true
	}
	for _, x := range append(append([]admin.CACertificate{}, after.Chain...), after.Rollover...) {
		if !old[x.Fingerprint] {
			fresh.printf("  new  %s  %s, %s, until %s\n       SHA-256 %s\n", x.Kind, x.Subject, x.Key, words.Moment(x.NotAfter), x.Fingerprint)
		}
	}
	if fresh.text.Len() == 0 {
		a.printf("%s was changed over by this order before: nothing is new. `muster ca ls` shows every generation.\n", caName(after))
		return a.text.String()
	}
	a.printf("%s is changed over:\n", caName(after))
	a.text.WriteString(fresh.text.String())
	a.printf("\nNext\n")
	switch {
	case root && kind == "rekey":
		a.printf("  Give the new root to whoever trusts the present one, before that expires: until then OldWithNew and NewWithOld,\n" +
			"  in cacerts (EST) and in the extraCerts of CMP, lead from one to the other. SCEP clients ask for GetCACert again.\n")
	case root:
		a.printf("  Give the renewed root to whoever trusts the present one, before that expires: the key is the same.\n")
	default:
		a.printf("  Devices that trust the root need nothing. Those that pin the issuing certificate need the new one.\n")
	}
	if kind == "rekey" {
		a.printf("  Both keys' CRLs have to be published until the last certificate under the former key has expired: %s.\n", strings.Join(after.CRLs, ", "))
	}
	a.printf("  Back up the CA, which has changed. `muster ca ls` shows every generation.\n")
	return a.text.String()
}

// fetchedCRL is what `muster ca crl --json` prints.
type fetchedCRL struct {
	Backend    string    `json:"backend"`
	Name       string    `json:"name,omitempty"`
	Issuer     string    `json:"issuer"`
	Number     string    `json:"number,omitempty"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
	Revoked    int       `json:"revoked"` // entries
	DER        []byte    `json:"der"`     // base64
}

func newCACRLCommand() *cobra.Command {
	f := &clientFlags{}
	file := ""
	cmd := &cobra.Command{
		Use: "crl BACKEND[/NAME]", Short: "Fetch a CRL: DER into a file or a pipe, PEM on a terminal",
		Long: `Fetches a CRL by one of the names that "muster ca ls" shows under CRL: the CA's, that of an earlier key of its, or that
of a shard.`,
		Example: `  muster ca crl local/ec -o ec.crl
  muster ca crl local/ec | openssl crl -inform DER -noout -text`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			backend, name, _ := strings.Cut(args[0], "/")
			der, err := f.client().CRL(cmd.Context(), backend, name)
			if err != nil {
				return f.explained(err)
			}
			crl, err := x509.ParseRevocationList(der)
			if err != nil {
				return fmt.Errorf("what the gateway sent is no CRL: %w", err)
			}
			if file != "" {
				if err := os.WriteFile(file, der, 0o644); err != nil {
					return err
				}
			}
			w := cmd.OutOrStdout()
			said := fetchedCRL{
				Backend: backend, Name: name, Issuer: crl.Issuer.String(), ThisUpdate: crl.ThisUpdate.UTC(), NextUpdate: crl.NextUpdate.UTC(),
				Revoked: len(crl.RevokedCertificateEntries), DER: der,
			}
			if crl.Number != nil {
				said.Number = hex.EncodeToString(crl.Number.Bytes())
			}
			switch {
			case f.json:
				return printJSON(w, said)
			case file != "":
				_, err = fmt.Fprintf(w, "%s: %s, of %s, next update %s\n", words.Plain(file), words.Counted(said.Revoked, "revoked certificate"), words.Plain(said.Issuer), words.Moment(said.NextUpdate))
			case widthOf(w) > 0:
				err = pem.Encode(w, &pem.Block{Type: "X509 CRL", Bytes: der})
			default:
				_, err = w.Write(der)
			}
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().StringVarP(&file, "output", "o", "", "write to this `FILE`")
	return cmd
}
