package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/gateway/lint"
	"github.com/muster-pki/muster/gateway/profile"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp"
	"github.com/muster-pki/muster/protocols/est"
	"github.com/muster-pki/muster/protocols/mdm"
	"github.com/muster-pki/muster/protocols/scep"
)

// Config is a configuration file. Relative paths in it start from the folder that it lies in.
type Config struct {
	// Version of this format: 1.
	Version int `yaml:"version,required"`
	// Listeners are the sockets, by the name that endpoints use.
	Listeners map[string]*serve.Listener `yaml:"listeners,required"`
	// Store is sqlite:PATH or postgres://USER@HOST/DATABASE. Default: sqlite:muster.db
	Store string `yaml:"store"`
	// Backends are the CAs.
	Backends map[string]*BackendConfig `yaml:"backends,required"`
	// Seal says what seals the shared secrets of devices in the store. Default: a key that the gateway makes, in its data
	// directory.
	Seal *SealConfig `yaml:"seal"`
	// ServerCertificate says which CA certifies the TLS listeners that have no certificate file.
	ServerCertificate *ServerCertificate `yaml:"server-certificate"`
	// Metrics says where Prometheus finds /metrics. Default: nowhere.
	Metrics *Metrics `yaml:"metrics"`
	// Tracing sends traces of requests to an OpenTelemetry collector. Default: none are made.
	Tracing *TracingConfig `yaml:"tracing"`
	// Admin opens the admin API to operators over the network. Default: it is reached through its Unix socket only.
	Admin *admin.RemoteConfig `yaml:"admin"`
	// Distribution says where anybody gets CRLs and CA certificates, at /crl/ and /ca/. Default: nowhere.
	Distribution *Distribution `yaml:"distribution"`
	// Audit says how long the audit trail is kept. Default: for ever.
	Audit *AuditConfig `yaml:"audit"`
	// Retention says how long the store keeps what is over. Default: refusals 90d, the rest for ever.
	Retention *RetentionConfig `yaml:"retention"`
	// Profiles are kinds of certificate.
	Profiles map[string]*ProfileConfig `yaml:"profiles"`
	// Endpoints are what devices reach, by the name that stands in the URL.
	Endpoints map[string]*EndpointConfig `yaml:"endpoints"`
	// Watch has the configuration read again when it changes, or a file that it names. Default: false, which leaves that to
	// `muster reload` and SIGHUP.
	Watch bool `yaml:"watch"`

	file string     // as named on the command line
	dir  string     // that it lies in, absolute
	root *yaml.Node // for the lines of errors

	sha256 string // of the file, hexadecimal
}

// SealConfig is the key that secrets are sealed with.
type SealConfig struct {
	// File with 32 random bytes in base64, which only the gateway's user may read: `openssl rand -base64 32`. Replicas
	// that share a store need the same one.
	File string `yaml:"file,required"`
}

// BackendConfig is one CA.
type BackendConfig struct {
	// Plugin is a shipped backend's name ("local"), or the path of an executable.
	Plugin string `yaml:"plugin,required"`
	// SHA256 of the executable, hexadecimal. Required for a path, which is run only while it matches.
	SHA256 string `yaml:"sha256"`
	// Rate bounds how fast it is asked to issue: docs/storms.md. Default: as fast as requests come.
	Rate *RateConfig `yaml:"rate"`
	// Offline has requests wait while the CA cannot be asked, and go to it in the order of their arrival: docs/edge-forward.md. Default: they are refused.
	Offline *OfflineConfig `yaml:"offline"`
	// Config is the backend's own. Its page says what stands here. Where the store is PostgreSQL, "local" gets that for its ledger.
	Config *yaml.Node `yaml:"config"`
}

// ServerCertificate is how the gateway gets a TLS certificate of its own.
type ServerCertificate struct {
	// Backend that issues it. Default: the one backend whose plugin is "local".
	Backend string `yaml:"backend"`
	// Issuer of the backend. Default: the backend's default.
	Issuer string `yaml:"issuer"`
	// Names, DNS names or addresses, beside localhost, 127.0.0.1, ::1, the host's name and the listeners' hosts.
	Names []string `yaml:"names"`
	// Validity. Default: 90d. Renewed when a third of it is left.
	Validity strictyaml.Duration `yaml:"validity"`
}

// Metrics says where /metrics is served.
type Metrics struct {
	// Listeners by name. Anyone who reaches one may read.
	Listeners []string `yaml:"listeners,required"`
}

// Distribution says where CRLs (RFC 5280 section 4.2.1.13), CA certificates (section 4.2.2.1) and OCSP (RFC 6960) are served:
// /crl/BACKEND/NAME.crl, /ca/BACKEND/NAME.crt and NAME.p7c, /ocsp/BACKEND/NAME, by the names of the backend's CAs.
type Distribution struct {
	// Listeners by name. Their URLs in certificates are http: who checks a certificate cannot check another for it
	// (RFC 5280 section 8), so that one without TLS is the place.
	Listeners []string `yaml:"listeners,required"`
}

// ProfileConfig is one kind of certificate.
type ProfileConfig struct {
	// Backend that issues it.
	Backend string `yaml:"backend,required"`
	// Issuer of the backend, for one that has several. Default: the backend's default.
	Issuer string `yaml:"issuer"`
	// Standby are further CAs, asked in this order while those before cannot be: names of backends, or {backend: NAME, issuer: NAME}.
	// docs/routing.md. Default: none.
	Standby []*StandbyConfig `yaml:"standby"`
	// Keys that are certified: P-256, P-384, P-521, Ed25519, RSA-3072 (exactly), RSA>=3072. Default: all of them, RSA
	// from 2048 on.
	Keys []string `yaml:"keys"`
	// Validity of a certificate. Default: 397d.
	Validity strictyaml.Duration `yaml:"validity"`
	// Jitter has each certificate end earlier by a random part of it, so that devices that enrolled in one hour do not all renew
	// in one: a period, or a share of the validity (10%), at most half of it. Not where a device asks for an end and gets it.
	// Default: none.
	Jitter authz.Portion `yaml:"jitter"`
	// Backdate sets the start of validity into the past, for devices whose clock is slow. Default: 0s. At most 1d.
	Backdate strictyaml.Duration `yaml:"backdate"`
	// KeyUsage by RFC 5280's names. Default: digitalSignature.
	KeyUsage []string `yaml:"key-usage"`
	// ExtKeyUsage: clientAuth, serverAuth, emailProtection, codeSigning, ipsecIKE, or OIDs. Default: clientAuth.
	ExtKeyUsage []string `yaml:"ext-key-usage"`
	// Subject, SAN, RenewNames and Ask: the names of certificates, and what a device may ask for. docs/profiles.md
	profile.Config `yaml:",inline"`
	// Lint says which lints a certificate has to pass, before it is made and after. Default: those of RFC 5280.
	Lint *lint.Config `yaml:"lint"`
}

// EndpointConfig is one endpoint: who may get what there. An operation that is left out is denied.
type EndpointConfig struct {
	// Protocol: cmp, est, scep or mdm.
	Protocol gateway.Protocol `yaml:"protocol,required"`
	// Listeners that serve it.
	Listeners []string `yaml:"listeners,required"`
	// Profile of the certificates.
	Profile string `yaml:"profile,required"`
	// Profiles are further ones, for devices that ask for them by name (where the protocol has a way) or whose inventory
	// entry names them. Default: none.
	Profiles []string `yaml:"profiles"`
	// Enroll, Renew, Rekey, Revoke, Query are pipelines: stages, in order, all of which have to allow. Rekey's is
	// Renew's unless it has its own.
	Enroll []yaml.Node `yaml:"enroll"`
	Renew  []yaml.Node `yaml:"renew"`
	Rekey  []yaml.Node `yaml:"rekey"`
	Revoke []yaml.Node `yaml:"revoke"`
	Query  []yaml.Node `yaml:"query"`
	// Repeat is for how long an equal request gets the same certificate again. Default: 10m.
	Repeat strictyaml.Duration `yaml:"repeat"`
	// Default serves it under the protocol's path without a name as well. One endpoint of a listener may be it.
	Default bool `yaml:"default"`
	// RA is the RA's certificate and key, by which CMP and SCEP answers are signed, and SCEP requests decrypted. Default:
	// the gateway has one issued by the profile's CA, and renews it. Replicas that serve SCEP need the same one.
	RA *RAConfig `yaml:"ra"`
	// CMP, EST and SCEP are what only that protocol has.
	CMP  *cmp.Config  `yaml:"cmp"`
	EST  *est.Config  `yaml:"est"`
	SCEP *scep.Config `yaml:"scep"`
	// MDM is the profile service's.
	MDM *mdm.Config `yaml:"mdm"`
}

// RAConfig is an RA certificate of the operator's own.
type RAConfig struct {
	// Cert is a PEM file: the certificate, then its chain. For SCEP its key is RSA, its usage digitalSignature and
	// keyEncipherment.
	Cert string `yaml:"cert,required"`
	// Key is a PEM file with the private key of Cert.
	Key string `yaml:"key"`
	// Token is where the private key of Cert is, when it is in no file.
	Token *TokenKey `yaml:"token"`
}

// stages returns an operation's pipeline as it stands in the file, and whether its key is there.
func (e *EndpointConfig) stages(op gateway.Operation) ([]yaml.Node, bool) {
	n := map[gateway.Operation][]yaml.Node{
		gateway.Enroll: e.Enroll, gateway.Renew: e.Renew, gateway.Rekey: e.Rekey, gateway.Revoke: e.Revoke, gateway.Query: e.Query,
	}[op]
	return n, n != nil
}

const (
	defaultStore           = "sqlite:muster.db"
	defaultValidity        = 397 * 24 * time.Hour
	defaultServerValidity  = 90 * 24 * time.Hour
	maxValidity            = 36525 * 24 * time.Hour
	maxBackdate            = 24 * time.Hour
	selfEndpoint           = "self"  // the gateway's own; no configured endpoint has this name
	selfPrefix             = "self-" // and those of its RA certificates; no configured endpoint begins with it
	maxRepeat              = 30 * 24 * time.Hour
	maxConfigurationLength = 4 << 20
)

// loadConfig reads a file and checks all that can be told without asking a backend. The error names every fault
// with its line.
func loadConfig(file string) (*Config, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxConfigurationLength {
		return nil, fmt.Errorf("%s: larger than %d bytes", file, maxConfigurationLength)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(file, dir, data)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		if u, err := url.Parse(c.Store); err == nil && u.User != nil {
			if _, secret := u.User.Password(); secret {
				return nil, fmt.Errorf("%s has mode %#o, and the store's password in it: others may not have access to a secret (chmod 600); or keep it in a PGPASSFILE", file, mode)
			}
		}
	}
	return c, nil
}

func parseConfig(file, dir string, data []byte) (*Config, error) {
	root, err := strictyaml.Parse(file, data)
	if err != nil {
		return nil, err
	}
	c := &Config{file: file, dir: dir, root: root, sha256: fmt.Sprintf("%x", sha256.Sum256(data))}
	if err := strictyaml.DecodeNode(file, root, c); err != nil {
		return nil, err
	}
	if c.Version != 1 {
		return nil, c.fault([]string{"version"}, "this muster reads version 1")
	}
	if c.Store == "" {
		c.Store = defaultStore
	}
	f := &review{c: c}
	f.listeners()
	f.store()
	f.backends()
	f.rates()
	f.offline()
	f.profiles()
	f.endpoints()
	f.spools()
	f.admin()
	f.serverCertificate()
	f.audit()
	f.retention()
	f.tracing()
	if err := errors.Join(f.errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// fault is the error that what stands at the path is wrong.
func (c *Config) fault(path []string, format string, args ...any) error {
	return &strictyaml.Error{
		File: c.file, Line: strictyaml.Line(c.root, path...), Path: strings.Join(path, "."), Message: fmt.Sprintf(format, args...),
	}
}

// path resolves one that stands in the file.
func (c *Config) path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

// storeDSN is what store.Open takes.
func (c *Config) storeDSN() string {
	if p, ok := strings.CutPrefix(c.Store, "sqlite:"); ok {
		return "sqlite:" + c.path(p)
	}
	return c.Store
}
