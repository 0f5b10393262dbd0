package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/cmd/muster/bundle"
	"github.com/muster-pki/muster/cmd/muster/devicefile"
	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func newBundleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bundle", Short: "Carry configuration, trust anchors and devices to a site that no network reaches",
		Long: `A bundle is one file, signed with OpenPGP: a configuration, the trust anchors that it names, and an inventory. The office exports it, somebody carries
it, and the site imports it: all of it, or nothing, and nothing before its signature is verified. No key, secret or password is in it.`,
	}
	cmd.AddCommand(newBundleExportCommand(), newBundleImportCommand())
	return cmd
}

type bundleExportFlags struct {
	config, devices, site string
	sign, passphrase      string
	unsigned              bool
	sequence              uint64
	now                   func() time.Time
	configuration, left   []string // what is carried and what is not, for the screen
}

func newBundleExportCommand() *cobra.Command {
	f := &bundleExportFlags{now: time.Now}
	cmd := &cobra.Command{
		Use: "export FILE", Short: "Write a signed bundle",
		Long: `Writes a bundle: the configuration of --config; of the files that it names, those below its folder that are trust anchors (PEM of certificates, CRLs
and public keys alone); the devices of --devices. Whatever else the configuration names is left out and listed: keys and secrets are the site's own.

The signature is within the file; "gpg --verify FILE" shows it. With --unsigned a tar is written, for "gpg --sign" or "gpg --detach-sign".`,
		Example: "  muster device export > devices.csv\n" +
			"  muster bundle export site.bundle --config site/edge.yaml --devices devices.csv --site pump-house --sign office.asc",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := f.make()
			if err != nil {
				return err
			}
			if err := os.WriteFile(args[0], data, 0o644); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			for _, path := range f.configuration {
				fmt.Fprintln(w, "carries "+words.Plain(path))
			}
			for _, path := range f.left {
				fmt.Fprintln(w, "leaves  "+words.Plain(path))
			}
			fmt.Fprintf(w, "wrote %s: number %d, %d bytes\n", words.Plain(args[0]), f.sequence, len(data))
			return nil
		},
	}
	cmd.Flags().StringVar(&f.config, "config", "", "the site's configuration `FILE`")
	cmd.Flags().StringVar(&f.devices, "devices", "", "`FILE` of devices, as \"muster device export\" writes it: without secrets and passwords")
	cmd.Flags().StringVar(&f.site, "site", "", "the `NAME` of the site: it takes no other's bundle")
	cmd.Flags().StringVar(&f.sign, "sign", "", "`FILE` of the OpenPGP key to sign with (gpg --export-secret-keys --armor KEY)")
	cmd.Flags().StringVar(&f.passphrase, "passphrase", "", "`FILE` with the key's passphrase")
	cmd.Flags().BoolVar(&f.unsigned, "unsigned", false, "write the tar, for gpg to sign")
	cmd.Flags().Uint64Var(&f.sequence, "sequence", 0, "the bundle's `NUMBER`: a site takes no lower one (default: the seconds since 1970)")
	cmd.MarkFlagRequired("config") //nolint:errcheck // it is there
	cmd.MarkFlagsMutuallyExclusive("sign", "unsigned")
	cmd.MarkFlagsOneRequired("sign", "unsigned")
	return cmd
}

// make makes the bundle's file.
func (f *bundleExportFlags) make() ([]byte, error) {
	now := f.now()
	if f.sequence == 0 {
		f.sequence = uint64(max(now.Unix(), 1))
	}
	files, err := f.files()
	if err != nil {
		return nil, err
	}
	content, err := bundle.Pack(bundle.Manifest{Sequence: f.sequence, Created: now.UTC().Truncate(time.Second), Version: version(), Site: f.site}, files)
	if err != nil || f.unsigned {
		return content, err
	}
	key, err := strictyaml.ReadSecret("", f.sign, 1<<20)
	if err != nil {
		return nil, fmt.Errorf("--sign: %w", err)
	}
	keys, err := bundle.ReadKeys(key)
	if err != nil {
		return nil, fmt.Errorf("--sign %s: %w", f.sign, err)
	}
	var passphrase []byte
	if f.passphrase != "" {
		if passphrase, err = strictyaml.ReadSecret("", f.passphrase, 4<<10); err != nil {
			return nil, fmt.Errorf("--passphrase: %w", err)
		}
		passphrase = bytes.TrimRight(passphrase, "\r\n")
	}
	return bundle.Sign(content, keys, passphrase, now)
}

// files are what the bundle holds.
func (f *bundleExportFlags) files() ([]bundle.File, error) {
	c, err := loadConfig(f.config)
	if err != nil {
		return nil, err
	}
	if c.storeIsShared() && strings.Contains(c.Store, "@") {
		return nil, c.fault(at("store"), "a bundle carries no database's name and password: let the site have them in PGUSER and PGPASSFILE")
	}
	if err := c.secretInside(c.root); err != nil {
		return nil, err
	}
	text, err := strictyaml.ReadFile("", f.config, maxConfigurationLength)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(f.config)
	files := []bundle.File{{Entry: bundle.Entry{Path: name, Kind: bundle.Configuration}, Data: text}}
	f.configuration = append(f.configuration, name)
	dir, err := filepath.Abs(filepath.Dir(f.config))
	if err != nil {
		return nil, err
	}
	ofKey := map[string]bool{}
	besideKeys(dir, c.root, ofKey)
	for _, path := range c.namedFiles() {
		rel, err := filepath.Rel(dir, path)
		if err != nil || !filepath.IsLocal(rel) {
			f.left = append(f.left, path+": it is not below the configuration's folder")
			continue
		}
		if ofKey[path] {
			f.left = append(f.left, rel+": it is the certificate of a key, which stays where that is")
			continue
		}
		data, err := strictyaml.ReadFile("", path, 4<<20)
		if err == nil {
			err = bundle.Public(data)
		}
		if err != nil {
			f.left = append(f.left, rel+": "+strings.TrimPrefix(err.Error(), path+" "))
			continue
		}
		files = append(files, bundle.File{Entry: bundle.Entry{Path: filepath.ToSlash(rel), Kind: bundle.Trust}, Data: data})
		f.configuration = append(f.configuration, rel)
	}
	if f.devices != "" {
		data, err := strictyaml.ReadFile("", f.devices, 32<<20)
		if err != nil {
			return nil, fmt.Errorf("--devices: %w", err)
		}
		if _, err := publicDevices(f.devices, data); err != nil {
			return nil, err
		}
		files = append(files, bundle.File{Entry: bundle.Entry{Path: "devices.csv", Kind: bundle.Inventory}, Data: data})
		f.configuration = append(f.configuration, f.devices)
	}
	return files, nil
}

// publicDevices reads an inventory that has no secret in it.
func publicDevices(name string, data []byte) ([]*devicefile.Entry, error) {
	entries, err := devicefile.Read(name, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if d := e.Wire(); d.Password != "" || d.PasswordHash != "" || len(d.Secret) > 0 {
			return nil, fmt.Errorf("%s: %s has a secret or a password in it, which no bundle carries: give it at the site, and leave it out here (has-secret keeps the one that stands)", name, e.Name)
		}
	}
	return entries, nil
}

// urlSecret is a password in a URL: before its host, or as a parameter of PostgreSQL's.
var urlSecret = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://([^/?#@]*:[^/?#@]+@|.*[?&](ssl)?password=[^&])`)

// secretInside reports a secret that stands in the configuration itself, and not in a file that it names.
func (c *Config) secretInside(n *yaml.Node) error {
	if n == nil {
		return nil
	}
	if n.Kind == yaml.ScalarNode && (urlSecret.MatchString(n.Value) || strings.Contains(n.Value, "PRIVATE KEY-----")) {
		return &strictyaml.Error{File: c.file, Line: n.Line, Message: "there is a password or a private key in it, which no bundle carries"}
	}
	for _, child := range n.Content {
		if err := c.secretInside(child); err != nil {
			return err
		}
	}
	return nil
}

// besideKeys finds the files that are named as `cert` beside a `key`: the certificates of the site itself, which it renews, and no trust anchors.
func besideKeys(dir string, n *yaml.Node, found map[string]bool) {
	if n == nil {
		return
	}
	all := childrenOf(n)
	if cert, key := all["cert"], all["key"]; cert != nil && key != nil && cert.Kind == yaml.ScalarNode {
		found[strictyaml.Below(dir, cert.Value)] = true
	}
	for _, child := range n.Content {
		besideKeys(dir, child, found)
	}
}

// namedFiles are the regular files that the configuration names, those of shipped backends too, without itself.
func (c *Config) namedFiles() []string {
	seen := lookAt(c.file).present()
	delete(seen, c.file)
	for name, b := range c.Backends {
		if _, ok := shippedBackends()[b.Plugin]; !ok || b.Config == nil {
			continue
		}
		data, _, err := c.backendConfig(name)
		if err != nil {
			continue
		}
		if n, err := strictyaml.Parse("config", data); err == nil {
			more := fileMarks{}
			more.add(c.dir, n)
			for path := range more.present() {
				seen[path] = more[path]
			}
		}
	}
	var all []string
	for path := range seen {
		if abs, err := filepath.Abs(path); err == nil && !slices.Contains(all, abs) {
			all = append(all, abs)
		}
	}
	slices.Sort(all)
	return all
}
