package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/devicefile"
	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/gateway/passhash"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// deviceAddFlags are an entry, as a command line has it.
type deviceAddFlags struct {
	clientFlags
	serials, ids, endpoints, profiles, attributes []string
	vendor, enrollments, notBefore, notAfter      string
	expires, password, secretFile, note           string
	disabled, replace                             bool
}

func newDeviceAddCommand() *cobra.Command {
	f := &deviceAddFlags{}
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Put a device into the inventory",
		Long: `Puts a device into the inventory. It goes by its name and by its identifiers, each of which is one device's only.

--password generate makes a one-time password of 128 bits, and prints it this once. With --password FILE it is the first line of the
file; - is standard input.`,
		Example: `  muster device add bts-0001 --serial 2102311TNB --vendor acme --endpoint ran --enrollments 1
  muster device add phone-7 --id imei=490154203237518 --password generate --expires 30d --attr site=north`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	f.narrowing = []string{"serial", "id", "vendor", "endpoint", "profile", "enrollments", "not-before", "not-after", "expires", "password", "secret-file"}
	f.add(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&f.serials, "serial", nil, "its serial `NUMBER`")
	flags.StringArrayVar(&f.ids, "id", nil, "a further identifier, `KIND=VALUE`: imei, udid, mac, cse-id, ae-id, node-id, or a kind of your own")
	flags.StringVar(&f.vendor, "vendor", "", "the `VENDOR` who made it")
	flags.StringSliceVar(&f.endpoints, "endpoint", nil, "an `ENDPOINT` where it may ask (default: everywhere)")
	flags.StringSliceVar(&f.profiles, "profile", nil, "a `PROFILE` that it may have, the first unless it asks for another (default: what the endpoint gives)")
	flags.StringVar(&f.enrollments, "enrollments", "", "how many first certificates it may have: a `NUMBER`, or unlimited (default: as many as the stage inventory says)")
	flags.StringVar(&f.notBefore, "not-before", "", "the entry is good from this `DATE` on")
	flags.StringVar(&f.notAfter, "not-after", "", "the entry is good to this `DATE`, its last second")
	flags.StringVar(&f.expires, "expires", "", "the entry is good for this `PERIOD`, e.g. 30d")
	flags.StringArrayVar(&f.attributes, "attr", nil, "an attribute that templates use, `NAME=VALUE`")
	flags.StringVar(&f.password, "password", "", "its one-time password: generate, or the `FILE` that holds it")
	flags.StringVar(&f.secretFile, "secret-file", "", "`FILE` that holds its shared secret, 8 to 1024 bytes; - is standard input; one line end after it is cut")
	flags.StringVar(&f.note, "note", "", "a `TEXT` for yourself")
	flags.BoolVar(&f.disabled, "disabled", false, "it gets nothing until it is enabled")
	flags.BoolVar(&f.replace, "replace", false, "take the place of the entry that stands under this name, as a whole")
	cmd.MarkFlagsMutuallyExclusive("not-after", "expires")
	return cmd
}

// entry makes the entry of the flags; what is wrong with one names it.
func (f *deviceAddFlags) entry(name string, in io.Reader, now time.Time) (*admin.Device, error) {
	e := &devicefile.Entry{}
	e.Disabled = f.disabled
	for flag, all := range map[string][]string{"serial": f.serials, "endpoint": f.endpoints, "profile": f.profiles} {
		if slices.Contains(all, "") {
			return nil, fmt.Errorf("--%s: one of them is empty", flag)
		}
	}
	put := func(flag, field, value string) error {
		if value == "" {
			return nil
		}
		if err := e.Put(field, value); err != nil {
			return fmt.Errorf("%s %s: %w", flag, words.Quote(value), err)
		}
		return nil
	}
	errs := []error{
		put("the name", "name", name), put("--vendor", "vendor", f.vendor), put("--enrollments", "enrollments", f.enrollments),
		put("--not-before", "not-before", f.notBefore), put("--not-after", "not-after", f.notAfter), put("--note", "note", f.note),
	}
	for _, s := range f.serials {
		errs = append(errs, put("--serial", "serial", s))
	}
	pairs := func(flag, prefix, shape string, all []string) {
		for _, pair := range all {
			key, value, ok := strings.Cut(pair, "=")
			if !ok || key == "" || value == "" {
				errs = append(errs, fmt.Errorf("%s %s: want %s", flag, words.Quote(pair), shape))
				continue
			}
			errs = append(errs, put(flag+" "+key, prefix+key, value))
		}
	}
	pairs("--id", devicefile.IDPrefix, "KIND=VALUE, e.g. imei=490154203237518", f.ids)
	pairs("--attr", devicefile.AttrPrefix, "NAME=VALUE", f.attributes)
	for _, s := range f.endpoints {
		errs = append(errs, put("--endpoint", "endpoints", s))
	}
	for _, s := range f.profiles {
		errs = append(errs, put("--profile", "profiles", s))
	}
	if f.expires != "" {
		period, err := strictyaml.ParseDuration(f.expires)
		if err != nil || period == 0 {
			errs = append(errs, fmt.Errorf("--expires %s: want a period such as 12h or 30d", f.expires))
		}
		e.NotAfter = now.Add(time.Duration(period)).UTC().Truncate(time.Second)
	}
	if f.password == "-" && f.secretFile == "-" {
		errs = append(errs, errors.New("--password and --secret-file: only one of them can be standard input"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var secret []byte
	if f.secretFile != "" {
		var err error
		if secret, err = readSharedSecret(f.secretFile, in); err != nil {
			return nil, err
		}
		if n := len(secret); n < devicefile.MinSecret || n > devicefile.MaxSecret {
			return nil, fmt.Errorf("--secret-file: a shared secret has %d to %d bytes, this one %d", devicefile.MinSecret, devicefile.MaxSecret, n)
		}
	}
	password := f.password
	if password != "" && password != devicefile.Generate {
		var err error
		if password, err = readPasswordFile(f.password, in); err != nil {
			return nil, fmt.Errorf("--password: %w", err)
		}
	}
	if err := e.Check(); err != nil {
		return nil, err
	}
	d := e.Wire()
	d.Password, d.Secret = password, secret
	return &d, nil
}

// maxPasswordLine is in bytes; what is longer is no password anyway.
const maxPasswordLine = 64 << 10

// readPasswordFile reads the first line of a file, "-" for standard input.
func readPasswordFile(path string, in io.Reader) (string, error) {
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("%w (or say generate)", err)
		}
		defer file.Close()
		in = file
	}
	line, _, err := words.ReadLine(bufio.NewReaderSize(in, maxPasswordLine))
	switch {
	case errors.Is(err, io.EOF), err == nil && len(line) == 0:
		return "", errors.New("there is no password")
	case err != nil:
		return "", err
	case len(line) > passhash.MaxPassword:
		return "", fmt.Errorf("a password has at most %d bytes", passhash.MaxPassword)
	case string(line) == devicefile.Generate:
		return "", errors.New("this password means that one is to be made")
	}
	return string(line), nil
}

func (f *deviceAddFlags) run(cmd *cobra.Command, name string) error {
	d, err := f.entry(name, cmd.InOrStdin(), time.Now())
	if err != nil {
		return err
	}
	c := f.client()
	kept, err := c.AddDevice(cmd.Context(), *d, f.replace)
	if e, ok := errors.AsType[*admin.Error](err); ok && e.Status == 409 && !f.replace {
		// Only the name's entry can be replaced; an identifier may be another device's.
		if there, look := c.Device(cmd.Context(), name); look == nil && there.Name == name {
			return f.explained(fmt.Errorf("%w: --replace puts this entry into its place", err))
		}
	}
	if err != nil {
		return f.explained(err)
	}
	w := cmd.OutOrStdout()
	said := fmt.Sprintf("%s is in the inventory", words.Plain(kept.Name))
	if ids := identifiersOf(kept, ", "); ids != "" {
		said += " (" + words.Plain(ids) + ")"
	}
	if kept.NotAfter != nil {
		said += ", until " + words.Moment(*kept.NotAfter)
		if kept.NotAfter.Before(time.Now()) {
			said += ", which is over: it gets nothing"
		}
	}
	switch {
	case f.json:
		return printJSON(w, kept)
	case kept.Password == "":
		fmt.Fprintf(w, "%s\n%s", said, usedBefore(kept))
	default:
		// The password alone goes to standard output, for scripts.
		fmt.Fprintf(cmd.ErrOrStderr(), "%s%s. Its one-time password, shown this once:\n", usedBefore(kept), said)
		fmt.Fprintln(w, kept.Password)
	}
	return nil
}
