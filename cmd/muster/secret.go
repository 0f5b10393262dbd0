package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// secretFlags say which shared secret is meant.
type secretFlags struct {
	clientFlags
	endpoint, reference string
	device, expires     string
	file                string
	replace             bool
}

func newSecretCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "secret", Short: "Give devices shared secrets, list them, take them away",
		Long: `Shared secrets of single devices, by which CMP messages are authenticated (PBM, PBMAC1). The running gateway keeps them
sealed; they are good at endpoints whose stage shared-secret says "devices: true". Where the stage keys has "wrapping: {devices: true}" they
are keys that made keys are encrypted with (EST, RFC 7030 section 4.4.1.1).`,
	}
	cmd.AddCommand(newSecretAddCommand(), newSecretLsCommand(), newSecretRmCommand())
	return cmd
}

func newSecretAddCommand() *cobra.Command {
	f := &secretFlags{}
	cmd := &cobra.Command{
		Use: "add --endpoint NAME --reference REFERENCE", Short: "Give a device a shared secret",
		Long: `Gives a device a shared secret. Without --secret-file a random one of 128 bits is made, and printed this once.
The reference is what the device names it by (openssl cmp -ref): text as it is, other bytes as hex: and hexadecimal digits.`,
		Example: "  muster secret add --endpoint ran --reference SN0001 --device bts-0001 --expires 30d",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.explained(f.put(cmd))
		},
	}
	f.which(cmd)
	cmd.Flags().StringVar(&f.device, "device", "", "the `DEVICE` whose it is; its requests are then that device's")
	cmd.Flags().StringVar(&f.expires, "expires", "", "after this `PERIOD` it is good no more, e.g. 30d (default: never)")
	cmd.Flags().StringVar(&f.file, "secret-file", "", "`FILE` that holds the secret, 8 to 1024 bytes; - is standard input; one line end after it is cut")
	cmd.Flags().BoolVar(&f.replace, "replace", false, "take the place of one that stands")
	return cmd
}

func newSecretLsCommand() *cobra.Command {
	f := &secretFlags{}
	cmd := &cobra.Command{
		Use: "ls", Short: "List shared secrets: whose they are, not what they are",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.explained(f.list(cmd)) },
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.endpoint, "endpoint", "", "only those of this `ENDPOINT`")
	return cmd
}

func newSecretRmCommand() *cobra.Command {
	f := &secretFlags{}
	cmd := &cobra.Command{
		Use: "rm --endpoint NAME --reference REFERENCE", Short: "Take a shared secret away: requests with it are refused from then on",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			reference, err := f.named()
			if err != nil {
				return err
			}
			s, err := f.client().DropSecret(cmd.Context(), f.endpoint, reference)
			if err != nil {
				return f.explained(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), s)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s at %s is removed\n", words.Plain(gateway.ReferenceID(s.Reference)), s.Endpoint)
			return nil
		},
	}
	f.which(cmd)
	return cmd
}

// which adds the flags that name one secret.
func (f *secretFlags) which(cmd *cobra.Command) {
	f.add(cmd)
	cmd.Flags().StringVar(&f.endpoint, "endpoint", "", "the `ENDPOINT` where it is good")
	cmd.Flags().StringVar(&f.reference, "reference", "", "the `REFERENCE` by which requests name it (CMP senderKID, EST DecryptKeyIdentifier)")
	for _, name := range []string{"endpoint", "reference"} {
		cmd.MarkFlagRequired(name) //nolint:errcheck // it is there
	}
}

func (f *secretFlags) named() ([]byte, error) {
	reference, ok := gateway.ParseReferenceID(f.reference)
	if !ok {
		return nil, errors.New("--reference: want text, or hex: and hexadecimal digits")
	}
	return reference, nil
}

// addedSecret is what `muster secret add --json` prints.
type addedSecret struct {
	*admin.Secret
	Made string `json:"secret,omitempty"` // unless it came from a file
}

// put makes or reads the secret and has the gateway keep it.
func (f *secretFlags) put(cmd *cobra.Command) error {
	reference, err := f.named()
	if err != nil {
		return err
	}
	s := admin.NewSecret{Endpoint: f.endpoint, Reference: reference, Device: f.device, Replace: f.replace}
	if f.expires != "" {
		period, err := strictyaml.ParseDuration(f.expires)
		if err != nil || period == 0 {
			return fmt.Errorf("--expires %s: want a period such as 12h or 30d", f.expires)
		}
		until := time.Now().Add(time.Duration(period))
		s.NotAfter = &until
	}
	made := ""
	if f.file == "" {
		made = randomSecret()
		s.Secret = []byte(made)
	} else if s.Secret, err = readSharedSecret(f.file, cmd.InOrStdin()); err != nil {
		return err
	}
	kept, err := f.client().AddSecret(cmd.Context(), s)
	if e, ok := errors.AsType[*admin.Error](err); ok && e.Status == 409 {
		return fmt.Errorf("%w: --replace puts this one into its place", err)
	}
	switch {
	case err != nil:
		return err
	case f.json:
		return printJSON(cmd.OutOrStdout(), addedSecret{kept, made})
	case made == "":
		fmt.Fprintf(cmd.OutOrStdout(), "%s at %s is good%s\n", words.Plain(gateway.ReferenceID(kept.Reference)), kept.Endpoint, untilWhen(kept))
	default:
		// The secret alone goes to standard output, for scripts.
		fmt.Fprintf(cmd.ErrOrStderr(), "%s at %s is good%s. Its secret, shown this once:\n", words.Plain(gateway.ReferenceID(kept.Reference)), kept.Endpoint, untilWhen(kept))
		fmt.Fprintln(cmd.OutOrStdout(), made)
	}
	return nil
}

func untilWhen(s *admin.Secret) string {
	if s.NotAfter == nil {
		return ""
	}
	return " until " + words.Moment(*s.NotAfter)
}

// randomSecret has 128 bits, in characters that need no quoting anywhere.
func randomSecret() string {
	b := make([]byte, 16)
	rand.Read(b) //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
	return hex.EncodeToString(b)
}

// maxSecretFile is more than a secret with its line's end has.
const maxSecretFile = 2 << 10

func readSharedSecret(path string, in io.Reader) ([]byte, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxSecretFile))
	if err != nil {
		return nil, fmt.Errorf("reading the secret: %w", err)
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r")), nil
}

func (f *secretFlags) list(cmd *cobra.Command) error {
	all, _, err := pages(1<<30, func(after string, limit int) ([]admin.Secret, string, error) {
		l, err := f.client().Secrets(cmd.Context(), f.endpoint, after, limit)
		if err != nil {
			return nil, "", err
		}
		return l.Secrets, l.Next, nil
	})
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	if f.json {
		return printJSON(w, all)
	}
	t := &table{columns: []column{
		{title: "ENDPOINT"}, {title: "REFERENCE", rest: 16, most: 60}, {title: "DEVICE", rest: 16, most: 40}, {title: "ADDED (UTC)", from: 80}, {title: "GOOD UNTIL (UTC)"},
	}}
	for _, s := range all {
		until := "for ever"
		if s.NotAfter != nil {
			until = s.NotAfter.UTC().Format(time.DateTime)
			if time.Now().After(*s.NotAfter) {
				until += ", over"
			}
		}
		t.row(s.Endpoint, gateway.ReferenceID(s.Reference), s.Device, s.Created.UTC().Format(time.DateTime), until)
	}
	return t.print(w, widthOf(w), "no shared secrets", false)
}

// takesSecrets says why an endpoint cannot have shared secrets of devices, nil when it can.
func (p *process) takesSecrets(name string) error {
	rt := p.runtime.Load()
	if rt == nil {
		return errors.New("the gateway is starting: try again")
	}
	e := rt.cfg.Endpoints[name]
	if e == nil {
		return fmt.Errorf("there is no endpoint %q%s", name, strictyaml.Suggest(name, byName(rt.cfg.Endpoints)))
	}
	stages := slices.Concat(e.Enroll, e.Renew, e.Rekey, e.Revoke, e.Query)
	if !slices.ContainsFunc(stages, func(n yaml.Node) bool { return storesSecrets(&n) }) {
		return fmt.Errorf("endpoint %s takes no secrets of devices: put `- shared-secret: {devices: true}` into its pipeline, or `wrapping: {devices: true}` beside generate in its stage keys, then reload", name)
	}
	return nil
}

// storesSecrets looks for `shared-secret: {devices: true}` in a stage and the stages below it, and for `wrapping: {devices: true}` in
// a stage keys.
func storesSecrets(n *yaml.Node) bool {
	return switchedOn(n, "shared-secret", "devices") || switchedOn(n, "wrapping", "devices")
}
