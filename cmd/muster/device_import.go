package main

import (
	"cmp"
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
)

// deviceImportFlags say how a file goes into the inventory.
type deviceImportFlags struct {
	clientFlags
	replace, dryRun bool
}

// imported is what `muster device import --json` prints.
type imported struct {
	Devices  int     `json:"devices"`
	Added    int     `json:"added"`
	Replaced int     `json:"replaced"`
	DryRun   bool    `json:"dry_run,omitempty"` // nothing was imported
	Took     float64 `json:"took_s"`            // seconds
}

func newDeviceImportCommand() *cobra.Command {
	f := &deviceImportFlags{}
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Put the devices of a CSV or JSON file into the inventory: all of them, or none",
		Long: `Puts the devices of a file into the inventory: all of them, or none, when something is wrong with one. What is wrong is said
with line and column. - is standard input.

CSV has a header that names the columns, in any order; comma, semicolon or tab between them:

  name           unique; without one, the first identifier is the name
  serial, imei, udid, mac, cse-id, ae-id, node-id, id:KIND
                 identifiers; a column may stand several times
  vendor, note
  endpoints, profiles
                 several with ; or space between them
  enrollments    a number, or unlimited
  not-before, not-after
                 2027-12-31 (its first second, its last), or 2027-12-31T12:00:00Z
  disabled       yes or no
  password       a one-time password: random, of 20 characters or more
  password-hash  the hash of any: $argon2id$..., as "muster password" prints, or {sha256}... of a random one
  secret         a shared secret: text, or hex: and digits
  attr:NAME      an attribute that templates use
  has-password, has-secret
                 yes, with --replace: keep the one that stands ("muster device export" writes them)

JSON is an array of objects, or one object after another, with the same names; "identifiers" and "attributes" are objects.`,
		Example: "  muster device import bts.csv --dry-run\n  muster device import bts.csv --replace",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.replace, "replace", false, "devices that stand under the same names get the file's entries, as a whole")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "check the file only; the gateway is not asked")
	return cmd
}

func (f *deviceImportFlags) run(cmd *cobra.Command, path string) error {
	begun := time.Now()
	in := cmd.InOrStdin()
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	entries, err := devicefile.Read(path, in)
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	if f.dryRun {
		if f.json {
			return printJSON(w, imported{Devices: len(entries), DryRun: true, Took: time.Since(begun).Seconds()})
		}
		fmt.Fprintf(w, "%s: nothing is wrong with its %s. Nothing was imported (--dry-run)\n", words.Plain(path), words.Counted(len(entries), "device"))
		return nil
	}
	devices := make([]admin.Device, len(entries))
	for i, e := range entries {
		devices[i] = e.Wire()
	}
	p := &progress{w: cmd.ErrOrStderr(), width: widthOf(cmd.ErrOrStderr()), now: time.Now}
	result, err := f.client().ImportDevices(cmd.Context(), devices, f.replace, p.show)
	p.end()
	if refused, ok := errors.AsType[*admin.ImportError](err); ok {
		return f.explained(inFile(path, entries, refused, f.replace))
	}
	if err != nil {
		return f.explained(err)
	}
	took := time.Since(begun)
	if f.json {
		return printJSON(w, imported{Devices: len(entries), Added: result.Added, Replaced: result.Replaced, Took: took.Seconds()})
	}
	fmt.Fprintf(w, "imported %s (%d new, %d replaced) in %.1fs\n", words.Counted(result.Added+result.Replaced, "device"), result.Added, result.Replaced, took.Seconds())
	return nil
}

// inFile says of the gateway's objections where in the file the entries stand.
func inFile(path string, entries []*devicefile.Entry, refused *admin.ImportError, replace bool) error {
	err := devicefile.Refused(path, entries, refused)
	stands := func(f admin.ImportFailure) bool { return strings.Contains(f.Error, "stands already") }
	if !replace && slices.ContainsFunc(refused.Failures, stands) {
		return fmt.Errorf("%w: --replace puts the file's entries into the place of those that stand", err)
	}
	return err
}

// progress shows how far something has come: on a terminal a bar, redrawn at most ten times a second; else a line every five
// seconds.
type progress struct {
	w     io.Writer
	what  string // "records"; "" for devices
	width int    // of the terminal; 0: it is none
	now   func() time.Time
	last  time.Time
	drawn bool
}

const (
	barEvery  = 100 * time.Millisecond
	lineEvery = 5 * time.Second
)

func (p *progress) show(done, total int) {
	now := p.now()
	every := lineEvery
	if p.width > 0 {
		every = barEvery
	}
	if p.last.IsZero() && p.width == 0 {
		p.last = now // what takes less than that needs no line
	}
	if total <= 0 || !p.last.IsZero() && now.Sub(p.last) < every {
		return
	}
	p.last = now
	said := fmt.Sprintf("%d of %d %s", done, total, cmp.Or(p.what, "devices"))
	if p.width == 0 {
		fmt.Fprintln(p.w, said)
		return
	}
	bar := max(min(p.width-len(said)-4, 50), 0)
	full := min(bar*done/total, bar)
	fmt.Fprintf(p.w, "\r[%s%s] %s", strings.Repeat("#", full), strings.Repeat(" ", bar-full), said)
	p.drawn = true
}

// end clears the bar.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", max(p.width-1, 0)))
	}
}
