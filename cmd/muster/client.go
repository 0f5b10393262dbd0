package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
)

// adminSocket is the socket's name in the data folder.
const adminSocket = "admin.sock"

// clientFlags say which gateway a command asks: the one on this machine, over its Unix socket, or one over the network.
type clientFlags struct {
	data, socket string
	url          string
	remote       admin.RemoteOptions
	tokenFile    string
	json         bool

	made *admin.Client // for url

	narrowing []string // flags that mean something else when they are empty, as by a variable that is not set: refused then
}

// remoteFlags have variables of the environment in their place: --url is MUSTER_URL. The variables count where neither
// --data nor --socket is given.
var remoteFlags = []struct{ name, usage string }{
	{"url", "ask the gateway whose admin API is at `URL` (https://host:9443), not the one on this machine (MUSTER_URL)"},
	{"ca", "PEM `FILE` with the roots of that gateway's certificate (MUSTER_CA; default the system's)"},
	{"cert", "PEM `FILE` with your client certificate (MUSTER_CERT)"},
	{"key", "PEM `FILE` with its key (MUSTER_KEY)"},
	{"token-file", "`FILE` with your token (MUSTER_TOKEN_FILE)"},
}

// variable is a remote flag's in the environment.
func variable(flag string) string {
	return "MUSTER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func (f *clientFlags) add(cmd *cobra.Command) {
	f.where(cmd)
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
}

// where adds the flags that say which gateway is asked.
func (f *clientFlags) where(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.data, "data", defaultData, "the gateway's data `DIR`")
	cmd.Flags().StringVar(&f.socket, "socket", "", "the gateway's admin socket `PATH` (default DIR/"+adminSocket+")")
	for i, into := range f.remoteValues() {
		cmd.Flags().StringVar(into, remoteFlags[i].name, "", remoteFlags[i].usage)
	}
	cmd.MarkFlagsMutuallyExclusive("data", "socket", "url")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := cmd.ValidateFlagGroups(); err != nil {
			return err
		}
		names := append([]string{"data", "socket"}, f.narrowing...)
		for _, flag := range remoteFlags {
			names = append(names, flag.name)
		}
		for _, name := range names {
			if !cmd.Flags().Changed(name) {
				continue
			}
			switch cmd.Flags().Lookup(name).Value.String() {
			case "", "[]", `[""]`:
				return fmt.Errorf("--%s is given, and empty: say what, or leave it out", name)
			}
		}
		return f.resolve(cmd.Flags().Changed, os.Getenv)
	}
}

// remoteValues are where the values of remoteFlags go.
func (f *clientFlags) remoteValues() []*string {
	return []*string{&f.url, &f.remote.CA, &f.remote.Cert, &f.remote.Key, &f.tokenFile}
}

// resolve takes from the environment what no flag says, and makes the client of a remote gateway.
func (f *clientFlags) resolve(given func(flag string) bool, getenv func(string) string) error {
	if !given("data") && !given("socket") {
		for i, into := range f.remoteValues() {
			// A certificate and its key come from the same place, and so do the ways to say who one is.
			mine := remoteFlags[i].name
			if *into == "" && !(i >= 2 && (given("cert") || given("key") || given("token-file"))) {
				*into = getenv(variable(mine))
			}
		}
	}
	if f.url == "" {
		for _, flag := range remoteFlags[1:] {
			if given(flag.name) {
				return fmt.Errorf("--%s goes with --url, which says where the gateway is", flag.name)
			}
		}
		return nil
	}
	if f.tokenFile != "" {
		token, err := readToken(f.tokenFile)
		if err != nil {
			return err
		}
		f.remote.Token = token
	}
	client, err := admin.NewRemoteClient(f.url, f.remote)
	if err != nil {
		return fmt.Errorf("%w (--url, --ca, --cert and --key, --token-file, or MUSTER_URL, ...)", err)
	}
	f.made = client
	return nil
}

// maxTokenFile is more than a token with its line's end has.
const maxTokenFile = 4 << 10

func readToken(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxTokenFile+1))
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || len(text) > maxTokenFile || strings.ContainsFunc(token, unicode.IsSpace) {
		return "", fmt.Errorf("token: %s holds none: want one line", path)
	}
	return token, nil
}

func (f *clientFlags) client() *admin.Client {
	if f.made != nil {
		return f.made
	}
	return admin.NewClient(f.path())
}

func (f *clientFlags) path() string {
	if f.socket != "" {
		return f.socket
	}
	return filepath.Join(f.data, adminSocket)
}

// explained adds to an error of the client what can be done about it.
func (f *clientFlags) explained(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, admin.ErrNotRunning) && f.url != "":
		return fmt.Errorf("%w: does it run there, and does its configuration have the admin API listen?", err)
	case errors.Is(err, admin.ErrNotRunning):
		return fmt.Errorf("%w: start it with `muster serve`, or say where it is with --data DIR, --socket PATH or --url URL", err)
	}
	if e, ok := errors.AsType[*admin.Error](err); ok && len(e.Candidates) > 0 {
		err = fmt.Errorf("%w:\n  %s", err, strings.Join(e.Candidates, "\n  "))
	}
	return harmless{err}
}

// harmless is an error whose words may come from elsewhere, fit to be shown.
type harmless struct{ error }

func (e harmless) Error() string {
	lines := strings.Split(e.error.Error(), "\n")
	for i := range lines {
		lines[i] = words.Plain(strings.ReplaceAll(lines[i], "\t", "    ")) // a configuration's errors are indented by tabs, cobra's suggestions too
	}
	return strings.Join(lines, "\n")
}

func (e harmless) Unwrap() error { return e.error }

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// widthOf is the number of columns of the terminal that w is, 0 when it is none.
func widthOf(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}
