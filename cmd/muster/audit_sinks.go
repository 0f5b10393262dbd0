package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// SinkConfig is one sink of the audit trail: a file or a syslog.
type SinkConfig struct {
	// File gets a line of JSON per record.
	File *FileSinkConfig `yaml:"file"`
	// Syslog gets a message per record (RFC 5424).
	Syslog *SyslogSinkConfig `yaml:"syslog"`
}

// FileSinkConfig is a file that records are appended to.
type FileSinkConfig struct {
	// Path of the file, in a folder that is there. It is made with mode 0600. Moved away, it is made anew.
	Path string `yaml:"path,required"`
}

// SyslogSinkConfig is a syslog.
type SyslogSinkConfig struct {
	// Address: tcp://HOST:PORT (RFC 6587, octet counting), tls://HOST:PORT (RFC 5425; port 6514 when it is left out), udp://HOST:PORT
	// (RFC 5426), where nobody learns that a message was lost, or unix:///dev/log.
	Address string `yaml:"address,required"`
	// CA is a PEM file with the roots that a tls server is checked against. Default: those of the system.
	CA string `yaml:"ca"`
	// Facility by its name: audit, authpriv, local0 to local7, ... Default: audit (13).
	Facility string `yaml:"facility"`
	// AppName that messages carry. Default: muster.
	AppName string `yaml:"app-name"`
}

const (
	maxSinks       = 8
	syslogTLSPort  = "6514" // RFC 5425 section 4.1
	defaultAppName = "muster"
	maxSinkCA      = 1 << 20
)

// shippedTo is a sink with what it was made from.
type shippedTo struct {
	key  string // equal for equal settings
	sink audit.Sink
}

// sinks checks the sinks of the audit section.
func (f *review) sinks() {
	if f.c.Audit == nil {
		return
	}
	if n := len(f.c.Audit.Sinks); n > maxSinks {
		f.fail(at("audit", "sinks"), "%d sinks: %d at most", n, maxSinks)
		return
	}
	seen := map[string]bool{}
	for i := range f.c.Audit.Sinks {
		where := at("audit", "sinks", strconv.Itoa(i))
		made, path, err := f.c.sink(&f.c.Audit.Sinks[i])
		if err != nil {
			f.fail(slices.Concat(where, path), "%v", err)
			continue
		}
		if name := made.sink.Name(); seen[name] {
			f.fail(slices.Concat(where, path), "%s is a sink already", name)
		} else {
			seen[name] = true
		}
	}
}

// sink makes a sink, which opens nothing yet. An error comes with what it is about, below the sink.
func (c *Config) sink(s *SinkConfig) (made shippedTo, path []string, err error) {
	switch {
	case (s.File != nil) == (s.Syslog != nil):
		return made, nil, errors.New("a sink is either a file or a syslog")
	case s.File != nil:
		path = at("file", "path")
		if s.File.Path == "" {
			return made, path, errors.New("the file has no name")
		}
		file := c.path(s.File.Path)
		if info, err := os.Stat(filepath.Dir(file)); err != nil || !info.IsDir() {
			return made, path, fmt.Errorf("there is no folder %s: make it, writable for the gateway's user alone", filepath.Dir(file))
		}
		if info, err := os.Stat(file); err == nil && info.IsDir() {
			return made, path, fmt.Errorf("%s is a folder", file)
		}
		return shippedTo{"file\x00" + file, audit.NewFileSink(file)}, path, nil
	}
	return c.syslog(s.Syslog)
}

func (c *Config) syslog(s *SyslogSinkConfig) (made shippedTo, path []string, err error) {
	o := audit.Syslog{AppName: s.AppName, Facility: audit.Facilities["audit"]}
	if o.AppName == "" {
		o.AppName = defaultAppName
	}
	if len(o.AppName) > 48 || strings.ContainsFunc(o.AppName, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return made, at("syslog", "app-name"), errors.New("want at most 48 printable ASCII characters, without spaces (RFC 5424 section 6.2.5)")
	}
	if s.Facility != "" {
		n, ok := audit.Facilities[s.Facility]
		if !ok {
			return made, at("syslog", "facility"), fmt.Errorf("%q is none: want one of %s%s", s.Facility,
				strings.Join(byName(audit.Facilities), ", "), strictyaml.Suggest(s.Facility, byName(audit.Facilities)))
		}
		o.Facility = n
	}
	path = at("syslog", "address")
	u, err := url.Parse(s.Address)
	const want = "want tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT or unix:///PATH"
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return made, path, errors.New(want)
	}
	switch o.Network = u.Scheme; {
	case u.Scheme == "unix" && u.Host == "" && filepath.IsAbs(u.Path):
		o.Address = u.Path
	case slices.Contains([]string{"tcp", "tls", "udp"}, u.Scheme) && u.Hostname() != "" && (u.Path == "" || u.Path == "/"):
		port := u.Port()
		if port == "" && u.Scheme == "tls" {
			port = syslogTLSPort
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return made, path, fmt.Errorf("%s has no port: %s", s.Address, want)
		}
		o.Address = net.JoinHostPort(u.Hostname(), port)
	default:
		return made, path, errors.New(want)
	}
	roots := ""
	if s.CA != "" && o.Network != "tls" {
		return made, at("syslog", "ca"), errors.New("only a tls address has a certificate to check")
	}
	if o.Network == "tls" {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname()}
		if s.CA != "" {
			pem, err := readBoundedFile(c.path(s.CA), maxSinkCA)
			if err != nil {
				return made, at("syslog", "ca"), err
			}
			o.TLS.RootCAs, roots = x509.NewCertPool(), string(pem)
			if !o.TLS.RootCAs.AppendCertsFromPEM(pem) {
				return made, at("syslog", "ca"), fmt.Errorf("%s holds no certificate in PEM", s.CA)
			}
		}
	}
	key := strings.Join([]string{"syslog", o.Network, o.Address, strconv.Itoa(o.Facility), o.AppName, roots}, "\x00")
	return shippedTo{key, audit.NewSyslogSink(o)}, path, nil
}

func readBoundedFile(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > most {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, most)
	}
	return os.ReadFile(path)
}

// ship has the audit trail go to the sinks of a configuration, and to no others. undo has it go where it went before.
func (p *process) ship(ctx context.Context, rt *Runtime) (undo func(), err error) {
	old := p.sinks
	var next []shippedTo
	if a := rt.cfg.Audit; a != nil {
		for i := range a.Sinks {
			made, path, err := rt.cfg.sink(&a.Sinks[i])
			if err != nil {
				return nil, rt.cfg.fault(slices.Concat(at("audit", "sinks", strconv.Itoa(i)), path), "%v", err)
			}
			if i := slices.IndexFunc(old, func(s shippedTo) bool { return s.key == made.key }); i >= 0 {
				made = old[i]
			}
			next = append(next, made)
		}
	}
	if slices.EqualFunc(old, next, func(a, b shippedTo) bool { return a.sink == b.sink }) {
		return func() {}, nil
	}
	to := func(ctx context.Context, list []shippedTo) error {
		var sinks []audit.Sink
		for _, s := range list {
			sinks = append(sinks, s.sink)
		}
		err := p.store.ShipTo(ctx, sinks)
		if err == nil {
			p.sinks = list
		}
		return err
	}
	if err := to(ctx, next); err != nil {
		return nil, err
	}
	return func() {
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if err := to(back, old); err != nil {
			p.log.Error("the audit trail goes to the sinks of a configuration that is not in force: reload again", "err", err)
		}
	}, nil
}

// recorded is what the start makes of the audit trail's answer: with the start recorded, and a sink behind, the gateway runs, and is not ready.
func (p *process) recorded(err error) error {
	if errors.Is(err, gateway.ErrUnaudited) {
		p.log.Warn("the start is recorded, and not in every sink of the audit trail yet", "err", err)
		return nil
	}
	return err
}
