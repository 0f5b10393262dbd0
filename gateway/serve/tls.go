package serve

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// TLS is the TLS policy of a listener.
type TLS struct {
	// Cert is a PEM file: the certificate, then its chain. Without it the gateway has a certificate issued for itself.
	Cert string `yaml:"cert"`
	// Key is a PEM file with the private key of Cert.
	Key string `yaml:"key"`
	// Min is the lowest version, "1.2" (default) or "1.3".
	Min string `yaml:"min"`
	// Max is the highest version, "1.2" or "1.3" (default). oneM2M and tls-unique (RFC 7030 section 3.5) need 1.2.
	Max string `yaml:"max"`
	// Suites are the cipher suites of TLS 1.2 by their IANA names, TLS_ and WITH_ optional, in any order. Default:
	// Go's, all of them ECDHE with AES-GCM or ChaCha20. TLS 1.3's are not configurable.
	Suites []string `yaml:"suites"`
	// Resumption has clients resume sessions: with a fresh key exchange, and without signatures. Trust in the client's
	// certificate is judged with each request all the same. A reload ends what can be resumed. Default: true
	Resumption *bool `yaml:"resumption"`
}

// SelfManaged reports whether the gateway's own certificate is used.
func (t *TLS) SelfManaged() bool { return t != nil && t.Cert == "" }

func (t *TLS) resumes() bool { return t.Resumption == nil || *t.Resumption }

var versions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

func version(key, s string, def uint16) (uint16, error) {
	if s == "" {
		return def, nil
	}
	if v, ok := versions[s]; ok {
		return v, nil
	}
	return 0, fmt.Errorf(`tls.%s must be "1.2" or "1.3", in quotes: older versions are not spoken`, key)
}

func (t *TLS) check() error {
	if t == nil {
		return nil
	}
	if (t.Cert == "") != (t.Key == "") {
		return errors.New("tls.cert and tls.key belong together: give both, or neither for a certificate of the gateway's own")
	}
	cfg, err := t.base()
	if err == nil && t.SelfManaged() && !works(cfg, &ecdsa.PublicKey{}) {
		return errors.New("tls.suites: none of them works with the gateway's own certificate, whose key is an ECDSA one: name one of ECDSA, or give tls.cert and tls.key")
	}
	return err
}

// base is the part of the policy that needs no files.
func (t *TLS) base() (*tls.Config, error) {
	least, err := version("min", t.Min, tls.VersionTLS12)
	if err != nil {
		return nil, err
	}
	most, err := version("max", t.Max, tls.VersionTLS13)
	if err != nil {
		return nil, err
	}
	if least > most {
		return nil, errors.New("tls.min is above tls.max")
	}
	suites, err := parseSuites(t.Suites)
	if err != nil {
		return nil, err
	}
	if len(suites) > 0 && least > tls.VersionTLS12 {
		return nil, errors.New(`tls.suites are TLS 1.2's, which tls.min: "1.3" excludes: leave one of them out`)
	}
	return &tls.Config{
		// strongSwan's pki reads an answer in two steps and does not wait for a second record: an answer that Go would
		// spread over small first records is lost to it.
		DynamicRecordSizingDisabled: true,

		MinVersion:   least,
		MaxVersion:   most,
		CipherSuites: suites,
		NextProtos:   []string{"http/1.1"},
		ClientAuth:   tls.RequestClientCert,

		SessionTicketsDisabled: !t.resumes(),
	}, nil
}

// suitesByName maps the suites that may be configured: Go's secure ones, and ECDHE with CBC and SHA-256, which
// oneM2M TS-0003 clause 10.2 demands. RC4, 3DES and RSA key exchange stay out.
func suitesByName() (map[string]*tls.CipherSuite, []string) {
	byName, names := map[string]*tls.CipherSuite{}, []string(nil)
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		usable := slices.Contains(s.SupportedVersions, tls.VersionTLS12) && strings.HasPrefix(s.Name, "TLS_ECDHE_") && !strings.Contains(s.Name, "RC4") && !strings.Contains(s.Name, "3DES")
		if usable && (!s.Insecure || strings.HasSuffix(s.Name, "_CBC_SHA256")) {
			byName[shortSuite(s.Name)] = s
			names = append(names, s.Name)
		}
	}
	return byName, names
}

func shortSuite(name string) string {
	return strings.Replace(strings.TrimPrefix(strings.ToUpper(name), "TLS_"), "_WITH_", "_", 1)
}

// Lists reports whether a suite of TLS 1.2, by its IANA name, stands in Suites.
func (t *TLS) Lists(suite string) bool {
	return slices.ContainsFunc(t.Suites, func(s string) bool { return shortSuite(s) == shortSuite(suite) })
}

func parseSuites(names []string) ([]uint16, error) {
	byName, known := suitesByName()
	var ids []uint16
	for _, n := range names {
		s, ok := byName[shortSuite(n)]
		if !ok {
			return nil, fmt.Errorf("tls.suites: %q is not a TLS 1.2 suite that this listener speaks (known: %s)", n, strings.Join(known, ", "))
		}
		if slices.Contains(ids, s.ID) {
			return nil, fmt.Errorf("tls.suites: %q stands twice", n)
		}
		ids = append(ids, s.ID)
	}
	return ids, nil
}

// Policy makes the tls.Config of a listener. dir is what its relative paths start from; own gives the gateway's own
// certificate where no file is configured; cas are the CAs whose names are told to clients, so that they know which
// of their certificates may help.
func (t *TLS) Policy(dir string, own func() *tls.Certificate, cas []*x509.Certificate, clock func() time.Time) (*tls.Config, error) {
	cfg, err := t.base()
	if err != nil {
		return nil, err
	}
	cfg.Time = clock
	// With RequestClientCert the pool is told to clients and never verified against.
	cfg.ClientCAs = x509.NewCertPool()
	if nameable(cas) {
		for _, ca := range cas {
			cfg.ClientCAs.AddCert(ca)
		}
	}
	if t.Cert == "" {
		cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := own(); c != nil {
				return c, nil
			}
			return nil, errors.New("the gateway has no certificate of its own yet")
		}
		if t.resumes() {
			resumable(cfg, func() []byte {
				if c := own(); c != nil {
					return c.Certificate[0]
				}
				return nil
			})
		}
		return cfg, nil
	}
	pair, err := KeyPair(dir, t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("tls.cert, tls.key: %w", err)
	}
	if !works(cfg, pair.Leaf.PublicKey) {
		return nil, errors.New("tls.suites: none of them works with the kind of key that tls.cert has")
	}
	cfg.Certificates = []tls.Certificate{pair}
	if t.resumes() {
		resumable(cfg, func() []byte { return pair.Certificate[0] })
	}
	return cfg, nil
}

// maxKeyPair bounds the files of a key pair.
const maxKeyPair = 1 << 20

// KeyPair reads an operator's certificate with its chain, and its key, which others than the file's owner and group may not touch. Both
// may stand in one file.
func KeyPair(dir, cert, key string) (tls.Certificate, error) {
	certs, err := strictyaml.ReadFile(dir, cert, maxKeyPair)
	if err != nil {
		return tls.Certificate{}, err
	}
	private, err := strictyaml.ReadSecret(dir, key, maxKeyPair)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certs, private)
}

// maxCANames is how many bytes of CA names are told to clients. Small ones read no handshake message that is longer than a TLS record,
// and beyond 64 KiB the list has no length (RFC 5246 section 7.4.4, RFC 8446 section 4.2.4), so that every handshake would fail.
const maxCANames = 12 << 10

// nameable reports whether the names of the CAs can be told. No name at all means any CA.
func nameable(cas []*x509.Certificate) bool {
	size := 0
	for _, ca := range cas {
		size += 2 + len(ca.RawSubject)
	}
	return size <= maxCANames
}

// works reports whether a policy and a server's key leave clients a way to connect.
func works(cfg *tls.Config, key any) bool {
	if cfg.MaxVersion > tls.VersionTLS12 || len(cfg.CipherSuites) == 0 {
		return true
	}
	kind := "_ECDSA_" // Ed25519 signs under these as well (RFC 8422 section 5.10)
	if _, isRSA := key.(*rsa.PublicKey); isRSA {
		kind = "_RSA_"
	}
	return slices.ContainsFunc(cfg.CipherSuites, func(id uint16) bool { return strings.Contains(tls.CipherSuiteName(id), kind) })
}
