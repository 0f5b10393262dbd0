package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/status"
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/backends/acme"
	cmpca "github.com/muster-pki/muster/backends/cmp"
	"github.com/muster-pki/muster/backends/ejbca"
	"github.com/muster-pki/muster/backends/est"
	execca "github.com/muster-pki/muster/backends/exec"
	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/backends/scep"
	"github.com/muster-pki/muster/backends/stepca"
	"github.com/muster-pki/muster/backends/vault"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/plugins/host"
)

// shipped is a backend that is part of this program.
type shipped struct {
	paths   []string                          // keys of its configuration that are paths, below others with a dot, * for any: the file's folder is theirs; upstream.Paths of one that is asked over HTTP
	holds   []string                          // those of them whose folder no two processes may have at once
	issuers []string                          // names of its CAs, and "" for the default one; nil where only the running backend knows them
	rsa     []string                          // those of them whose chain is RSA throughout
	ledger  bool                              // it has a ledger that replicas share in PostgreSQL: the keys ledger and ledger-name
	moves   func(config []byte) time.Duration // how much longer than others a start with it may take
	make    func(log *slog.Logger) backend.Backend
}

// shippedBackends are the backends that `muster plugin NAME` runs.
func shippedBackends() map[string]shipped {
	return map[string]shipped{
		"acme": {paths: acme.Paths, make: func(log *slog.Logger) backend.Backend {
			return acme.New(acme.Options{Log: log, Version: version()})
		}},
		"cmp": {paths: cmpca.Paths, make: func(log *slog.Logger) backend.Backend {
			return cmpca.New(cmpca.Options{Log: log, Version: version()})
		}},
		"ejbca": {paths: ejbca.Paths, make: func(log *slog.Logger) backend.Backend {
			return ejbca.New(ejbca.Options{Log: log, Version: version()})
		}},
		"est": {paths: est.Paths, make: func(log *slog.Logger) backend.Backend {
			return est.New(est.Options{Log: log, Version: version()})
		}},
		"exec": {paths: execca.Paths, make: func(log *slog.Logger) backend.Backend {
			return execca.New(execca.Options{Log: log, Version: version()})
		}},
		"local": {paths: []string{"dir", "issuers.*.import.cert", "issuers.*.import.key"}, holds: []string{"dir"}, issuers: []string{"", local.IssuerEC, local.IssuerRSA}, rsa: []string{local.IssuerRSA}, ledger: true, moves: local.MoveTime, make: func(log *slog.Logger) backend.Backend {
			return local.New(local.Options{Log: log, Crash: crashFunc(), Version: version(), RSAKey: rsaKey()})
		}},
		"scep": {paths: scep.Paths, make: func(log *slog.Logger) backend.Backend {
			return scep.New(scep.Options{Log: log, Version: version()})
		}},
		"stepca": {paths: stepca.Paths, make: func(log *slog.Logger) backend.Backend {
			return stepca.New(stepca.Options{Log: log, Version: version()})
		}},
		"vault": {paths: vault.Paths, make: func(log *slog.Logger) backend.Backend {
			return vault.New(vault.Options{Log: log, Version: version()})
		}},
	}
}

// notRSA reports whether the CA of that name is known, before the backend runs, to have another kind of key in its chain than SCEP's
// clients take. Of those that only the running backend knows it is asked at the start (Runtime.suits).
func (s shipped) notRSA(issuer string) bool {
	return slices.Contains(s.issuers, issuer) && !slices.Contains(s.rsa, issuer)
}

// validate checks a configuration in this process: no file is touched.
func (s shipped) validate(config []byte) error {
	return s.make(slog.New(slog.DiscardHandler)).Validate(context.Background(), config)
}

// hostConfig is how the plugin of a backend is run.
func (c *Config) hostConfig(name, runDir string, log *slog.Logger) (host.Config, error) {
	b := c.Backends[name]
	config, _, err := c.backendConfig(name)
	if err != nil {
		return host.Config{}, err
	}
	h := host.Config{Name: name, Plugin: b.Plugin, SHA256: strings.ToLower(b.SHA256), Config: config, Dir: runDir, Log: log, Env: faultEnv()}
	if strings.Contains(b.Plugin, "/") {
		h.Plugin = c.path(b.Plugin)
	}
	if s := shippedBackends()[b.Plugin]; s.moves != nil {
		h.StartTimeout = host.StartTimeout + s.moves(config)
	}
	if keysInToken(b.Config) {
		h.StartTimeout = host.StartTimeout + keyTime
	}
	return h, nil
}

// backendConfig is a backend's own configuration as the plugin gets it, and which lines it came from.
func (c *Config) backendConfig(name string) ([]byte, lineMap, error) {
	b := c.Backends[name]
	if b.Config == nil {
		return nil, nil, nil
	}
	n := b.Config
	if s, ok := shippedBackends()[b.Plugin]; ok && n.Kind == yaml.MappingNode {
		n = clone(n)
		for _, path := range s.paths {
			c.resolve(n, strings.Split(path, "."))
		}
		if s.ledger {
			c.shareLedger(n, name)
		}
	}
	var buf bytes.Buffer
	if err := yaml.NewEncoder(&buf).Encode(n); err != nil {
		return nil, nil, c.fault(at("backends", name, "config"), "%v", err)
	}
	written, err := strictyaml.Parse("config", buf.Bytes())
	if err != nil {
		return nil, nil, c.fault(at("backends", name, "config"), "%v", err)
	}
	lines := lineMap{}
	lines.learn(written, b.Config)
	return buf.Bytes(), lines, nil
}

// resolve makes what stands under the keys, * for any, a path from the configuration's folder.
func (c *Config) resolve(n *yaml.Node, keys []string) {
	if len(keys) == 0 {
		if n.Kind == yaml.ScalarNode && n.Value != "" {
			n.Value = c.path(n.Value)
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if keys[0] == "*" || n.Content[i].Value == keys[0] {
			c.resolve(n.Content[i+1], keys[1:])
		}
	}
}

// storeIsShared reports whether the store is PostgreSQL, which other gateways may share.
func (c *Config) storeIsShared() bool {
	return strings.HasPrefix(c.Store, "postgres://") || strings.HasPrefix(c.Store, "postgresql://")
}

// shareLedger has a CA keep its ledger where the gateway's store is, when that is PostgreSQL and the configuration names no other
// place: two ledgers would make two certificates of one request. The plugin is told by Configure alone: there is a password in it.
// The backend's name tells several CAs in one database apart.
func (c *Config) shareLedger(n *yaml.Node, name string) {
	add := func(key, value string) {
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value})
	}
	has := func(key string) bool {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return true
			}
		}
		return false
	}
	if !has("ledger") {
		if !c.storeIsShared() {
			return
		}
		add("ledger", withPassword(c.Store))
	}
	if !has("ledger-name") {
		add("ledger-name", name)
	}
}

// withPassword puts into the URL the password that PGPASSWORD or PGPASSFILE has for it: a plugin does not see our environment.
func withPassword(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		return dsn
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil || config.Password == "" || u.Query().Has("password") {
		return dsn
	}
	if _, there := u.User.Password(); !there {
		u.User = url.UserPassword(config.User, config.Password)
	}
	return u.String()
}

func clone(n *yaml.Node) *yaml.Node {
	c := *n
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, child := range n.Content {
		c.Content[i] = clone(child)
	}
	return &c
}

// lineMap says which line of the configuration file a line of the plugin's copy came from.
type lineMap map[int]int

func (m lineMap) learn(written, original *yaml.Node) {
	if _, ok := m[written.Line]; !ok {
		m[written.Line] = original.Line
	}
	for i := range min(len(written.Content), len(original.Content)) {
		m.learn(written.Content[i], original.Content[i])
	}
}

// placed finds the place in a line of strictyaml's, whatever stands before it.
var placed = regexp.MustCompile(`^(?:[^:]+: )*?[^\s:]+:(\d+): (.*)$`)

// place turns what a backend says of its configuration into faults of the file, a line each.
func (m lineMap) place(c *Config, path []string, err error) []error {
	var all []error
	for line := range strings.SplitSeq(status.Convert(err).Message(), "\n") {
		e := &strictyaml.Error{File: c.file, Line: strictyaml.Line(c.root, path...), Path: strings.Join(path, "."), Message: line}
		if p := placed.FindStringSubmatch(line); p != nil {
			e.Message = p[2]
			if n, err := strconv.Atoi(p[1]); err == nil && m[n] > 0 {
				e.Line = m[n]
			}
		}
		all = append(all, e)
	}
	return all
}

// checkExecutable compares a third party's plugin with its configured hash, without running it.
func (c *Config) checkExecutable(name string) error {
	b := c.Backends[name]
	if !strings.Contains(b.Plugin, "/") {
		return nil
	}
	sum, err := fileSHA256(c.path(b.Plugin))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return c.fault(at("backends", name, "plugin"), "there is no file %s", c.path(b.Plugin))
	case err != nil:
		return c.fault(at("backends", name, "plugin"), "%v", err)
	case !strings.EqualFold(hex.EncodeToString(sum), b.SHA256):
		return c.fault(at("backends", name, "sha256"), "%s has another hash: %x", c.path(b.Plugin), sum)
	}
	return nil
}
