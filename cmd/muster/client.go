package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muster-pki/muster/gateway/admin"
)

// adminSocket is the socket's name in the data folder.
const adminSocket = "admin.sock"

// clientFlags say which gateway a command asks.
type clientFlags struct {
	data, socket string
	json         bool
}

func (f *clientFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.data, "data", defaultData, "the gateway's data `DIR`")
	cmd.Flags().StringVar(&f.socket, "socket", "", "the gateway's admin socket `PATH` (default DIR/"+adminSocket+")")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("data", "socket")
}

func (f *clientFlags) client() *admin.Client { return admin.NewClient(f.path()) }

func (f *clientFlags) path() string {
	if f.socket != "" {
		return f.socket
	}
	return filepath.Join(f.data, adminSocket)
}

// explained adds to an error of the client what can be done about it.
func (f *clientFlags) explained(err error) error {
	if errors.Is(err, admin.ErrNotRunning) {
		return fmt.Errorf("%w: start it with `muster serve`, or say where it is with --data DIR or --socket PATH", err)
	}
	if e, ok := errors.AsType[*admin.Error](err); ok && len(e.Candidates) > 0 {
		return fmt.Errorf("%w:\n  %s", err, strings.Join(e.Candidates, "\n  "))
	}
	return err
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// plain makes what strangers sent fit to be shown: nothing in it moves the cursor, breaks the line or hides.
func plain(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
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
