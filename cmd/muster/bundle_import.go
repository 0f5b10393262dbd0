package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/bundle"
	"github.com/muster-pki/muster/cmd/muster/devicefile"
	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

type bundleImportFlags struct {
	clientFlags
	config, trust, signature, site string
	check, older, stopped          bool
	now                            func() time.Time
}

func newBundleImportCommand() *cobra.Command {
	f := &bundleImportFlags{now: time.Now}
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Verify a bundle, and put all of it into force, or nothing",
		Long: `Verifies a bundle's signature over all of it; checks that it is newer than the last one and for this site; checks its configuration as "muster config
check" does, with the site's own keys and files; replaces the configuration and its trust anchors; has the gateway reload; and puts the devices into the
inventory, in the place of those of their names. When anything is refused, all is as it was. Devices that are not in the bundle stay: "muster device rm".`,
		Example: "  muster bundle import site.bundle --config edge.yaml --trust office.pub --site pump-house --check\n" +
			"  muster bundle import site.tar --signature site.tar.sig --config edge.yaml --trust office.pub",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), cmd.OutOrStdout(), args[0]) },
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.config, "config", "", "the configuration `FILE` that the gateway runs with: the bundle's takes its place")
	cmd.Flags().StringVar(&f.trust, "trust", "", "`FILE` of the OpenPGP keys whose bundles are taken (gpg --export --armor KEY)")
	cmd.Flags().StringVar(&f.signature, "signature", "", "`FILE` of a detached signature, as gpg --detach-sign makes it; then the bundle is the tar")
	cmd.Flags().StringVar(&f.site, "site", "", "the `NAME` of this site: a bundle for another one is refused")
	cmd.Flags().BoolVar(&f.check, "check", false, "say what would change, and change nothing")
	cmd.Flags().BoolVar(&f.older, "allow-older", false, "take a bundle that is older than the last one")
	cmd.Flags().BoolVar(&f.stopped, "stopped", false, "the gateway does not run: replace the files, and import no devices")
	for _, name := range []string{"config", "trust"} {
		cmd.MarkFlagRequired(name) //nolint:errcheck // it is there
	}
	return cmd
}

// bundleMark is what the data folder keeps of the last bundle.
type bundleMark struct {
	Sequence uint64    `json:"sequence"`
	Created  time.Time `json:"created"`
	Signer   string    `json:"signer"`            // fingerprint
	SHA256   string    `json:"sha256"`            // of its configuration: the reload of it stands in the audit trail as the bundle's
	Imported time.Time `json:"imported,omitzero"` // zero: an import that began, and whose end nobody knows
}

const bundleMarkName = "bundle.json"

func (f *bundleImportFlags) run(ctx context.Context, w io.Writer, file string) error {
	b, signer, err := f.read(file)
	if err != nil {
		return fmt.Errorf("%s: %w; nothing has changed", file, err)
	}
	mark, err := f.lastMark()
	if err != nil {
		return err
	}
	switch {
	case b.Site != "" && b.Site != f.site:
		return fmt.Errorf("%s is for the site %q (--site); nothing has changed", file, b.Site)
	case !mark.before(b) && !f.older:
		return fmt.Errorf("%s has the number %d, and this site has imported number %d: --allow-older takes it all the same; nothing has changed", file, b.Sequence, mark.Sequence)
	}
	var devices []*devicefile.Entry
	for _, inventory := range b.Of(bundle.Inventory) {
		if devices, err = publicDevices(inventory.Path, inventory.Data); err != nil {
			return fmt.Errorf("%s: %w; nothing has changed", file, err)
		}
	}
	s := &siteFiles{dir: filepath.Dir(f.config), config: filepath.Base(f.config)}
	if err := s.plan(ctx, b); err != nil {
		return fmt.Errorf("%s: %w\nnothing has changed", file, err)
	}
	fmt.Fprintf(w, "%s: number %d of %s, signed by %s\n", words.Plain(file), b.Sequence, b.Created.UTC().Format(time.RFC3339), signer)
	for _, line := range s.changes() {
		fmt.Fprintln(w, "  "+words.Plain(line))
	}
	if len(devices) > 0 {
		fmt.Fprintf(w, "  %s\n", words.Counted(len(devices), "device"))
	}
	if f.check {
		fmt.Fprintln(w, "nothing has changed (--check)")
		return nil
	}
	was, mark := mark, bundleMark{
		Sequence: b.Sequence, Created: b.Created, Signer: signer, SHA256: b.Of(bundle.Configuration)[0].SHA256,
	}
	if err := f.setMark(mark); err != nil { // before the gateway reads the files: its audit trail tells whose they are
		return fmt.Errorf("that it is imported cannot be noted: %w; nothing has changed", err)
	}
	if err := f.apply(ctx, s, devices); err != nil {
		return errors.Join(err, f.setMark(was))
	}
	mark.Imported = f.now().UTC().Truncate(time.Second)
	if err := f.setMark(mark); err != nil {
		return fmt.Errorf("the bundle is in force, and that cannot be noted: %w", err)
	}
	fmt.Fprintln(w, "in force")
	return nil
}

// read verifies a bundle.
func (f *bundleImportFlags) read(file string) (*bundle.Bundle, string, error) {
	key, err := strictyaml.ReadFile("", f.trust, 1<<20)
	if err != nil {
		return nil, "", fmt.Errorf("--trust: %w", err)
	}
	trust, err := bundle.ReadKeys(key)
	if err != nil {
		return nil, "", fmt.Errorf("--trust %s: %w", f.trust, err)
	}
	data, err := strictyaml.ReadFile("", file, bundle.MaxFile)
	if err != nil {
		return nil, "", err
	}
	var signature []byte
	if f.signature != "" {
		if signature, err = strictyaml.ReadFile("", f.signature, 1<<20); err != nil {
			return nil, "", fmt.Errorf("--signature: %w", err)
		}
	}
	content, signer, err := bundle.Verify(data, signature, trust, f.now())
	if err != nil {
		return nil, "", err
	}
	b, err := bundle.Unpack(content)
	return b, signer, err
}

// before reports whether a bundle comes after the one of the mark: by its number, or as that very one, in whose import the machine went
// down.
func (m bundleMark) before(b *bundle.Bundle) bool {
	return b.Sequence > m.Sequence || b.Sequence == m.Sequence && m.Imported.IsZero() && b.Of(bundle.Configuration)[0].SHA256 == m.SHA256
}

// apply puts files and devices into force, or leaves all as it was.
func (f *bundleImportFlags) apply(ctx context.Context, s *siteFiles, devices []*devicefile.Entry) error {
	if !f.stopped {
		if _, err := f.client().Status(ctx); err != nil {
			return fmt.Errorf("%w; --stopped replaces the files alone; nothing has changed", f.explained(err))
		}
	}
	if err := s.replace(); err != nil {
		return errors.Join(fmt.Errorf("%w; nothing has changed", err), s.restore())
	}
	if f.stopped {
		return nil
	}
	if _, err := f.client().Reload(ctx); err != nil {
		if _, refused := errors.AsType[*admin.Error](err); refused {
			return errors.Join(fmt.Errorf("the gateway does not take it: %w; nothing has changed", f.explained(err)), s.restore())
		}
		// It may have read the files all the same.
		return f.undone(ctx, s, fmt.Errorf("the gateway did not say whether it takes it: %w; all is put back", f.explained(err)))
	}
	if len(devices) == 0 {
		return nil
	}
	entries := make([]admin.Device, len(devices))
	for i, e := range devices {
		entries[i] = e.Wire()
	}
	if _, err := f.client().ImportDevices(ctx, entries, true, nil); err != nil {
		if _, refused := errors.AsType[*admin.Error](err); refused {
			return f.undone(ctx, s, fmt.Errorf("the gateway does not take the devices: %w; nothing has changed", f.explained(err)))
		}
		return f.undone(ctx, s, fmt.Errorf("the gateway did not say whether it has the devices now: %w; the files are put back: see `muster device ls`, or import again", f.explained(err)))
	}
	return nil
}

// undone puts the files back that the gateway may have read, and has it read them again, also for who has pressed Ctrl-C.
func (f *bundleImportFlags) undone(ctx context.Context, s *siteFiles, why error) error {
	if err := s.restore(); err != nil {
		return errors.Join(why, err)
	}
	if _, err := f.client().Reload(context.WithoutCancel(ctx)); err != nil {
		return errors.Join(why, fmt.Errorf("the files are as they were, and the gateway could not read them again: %w: muster reload", f.explained(err)))
	}
	return why
}

func (f *bundleImportFlags) lastMark() (bundleMark, error) {
	m, err := readMark(f.data)
	if errors.Is(err, os.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("%s says which bundle was the last: %w; nothing has changed", filepath.Join(f.data, bundleMarkName), err)
	}
	return m, nil
}

func readMark(dir string) (m bundleMark, err error) {
	data, err := strictyaml.ReadFile(dir, bundleMarkName, 64<<10)
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	return m, err
}

// ofBundle is what the audit trail says of a configuration that a bundle brought, "" for any other.
func ofBundle(dir, sha256 string) string {
	m, err := readMark(dir)
	if err != nil || m.SHA256 != sha256 {
		return ""
	}
	return fmt.Sprintf(" of bundle %d, signed by %s", m.Sequence, words.Cut(m.Signer, 80))
}

func (f *bundleImportFlags) setMark(m bundleMark) error {
	if m.Sequence == 0 { // there was none
		err := os.Remove(filepath.Join(f.data, bundleMarkName))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(f.data)
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := root.Stat(".")
	if err != nil {
		return err
	}
	as := ownershipOf(dir) // whose gateway's it is, which reads this
	as.mode = 0o600
	return writeSynced(root, bundleMarkName, append(text, '\n'), as)
}

// bundled says what becomes of one file.
func bundled(path string, before, after []byte) string {
	switch {
	case before == nil:
		return "new        " + path
	case string(before) == string(after):
		return "unchanged  " + path
	}
	return fmt.Sprintf("changed    %s (%s)", path, lineChanges(string(before), string(after)))
}

// lineChanges counts lines that stand in one of two texts alone.
func lineChanges(before, after string) string {
	count := map[string]int{}
	for l := range strings.Lines(before) {
		count[l]--
	}
	for l := range strings.Lines(after) {
		count[l]++
	}
	more, less := 0, 0
	for _, n := range count {
		more, less = more+max(n, 0), less-min(n, 0)
	}
	return fmt.Sprintf("%d lines more, %d less", more, less)
}
