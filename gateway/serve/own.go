package serve

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Issue has a CSR certified for the gateway itself and returns the certificate, then its chain, the root last; DER.
// The names in the CSR are those of Own.Names.
type Issue func(ctx context.Context, csr []byte) (chain [][]byte, err error)

// Own keeps the certificate that the gateway has issued for itself, with its P-256 key, in one file of mode 0600.
// Each certificate has a new key.
type Own struct {
	path    string
	clock   func() time.Time
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]
}

// NewOwn keeps the certificate in dir, which exists.
func NewOwn(dir string, clock func() time.Time, log *slog.Logger) *Own {
	return &Own{path: filepath.Join(dir, "server.pem"), clock: clock, log: log}
}

// Certificate is the current one with its chain, nil before the first Ensure.
func (o *Own) Certificate() *tls.Certificate { return o.current.Load() }

// Names are what the certificate is to be good for: DNS names and addresses.
type Names struct {
	DNS []string
	IP  []netip.Addr
}

// NamesOf collects localhost, both loopback addresses, the host's name, the hosts that the addresses (host:port) name,
// and further names as configured.
func NamesOf(hostname string, addresses, further []string) Names {
	n := Names{}
	add := func(s string) {
		s = strings.ToLower(strings.TrimSuffix(s, "."))
		if a, err := netip.ParseAddr(s); err == nil {
			if a = a.Unmap().WithZone(""); !a.IsUnspecified() && !slices.Contains(n.IP, a) {
				n.IP = append(n.IP, a)
			}
		} else if validDNS(s) && !slices.Contains(n.DNS, s) {
			n.DNS = append(n.DNS, s)
		}
	}
	for _, s := range []string{"localhost", "127.0.0.1", "::1", hostname} {
		add(s)
	}
	for _, a := range addresses {
		if host, _, err := net.SplitHostPort(a); err == nil {
			add(host)
		}
	}
	for _, s := range further {
		add(s)
	}
	return n
}

// validDNS reports whether s can stand in a certificate as a host name (RFC 5280 section 4.2.1.6).
func validDNS(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// Equal reports whether a certificate is good for exactly these names.
func (n Names) Equal(cert *x509.Certificate) bool {
	if len(cert.DNSNames) != len(n.DNS) || len(cert.IPAddresses) != len(n.IP) || len(cert.EmailAddresses)+len(cert.URIs) > 0 {
		return false
	}
	for _, d := range cert.DNSNames {
		if !slices.Contains(n.DNS, d) {
			return false
		}
	}
	for _, ip := range cert.IPAddresses {
		a, ok := netip.AddrFromSlice(ip)
		if !ok || !slices.Contains(n.IP, a.Unmap()) {
			return false
		}
	}
	return true
}

// Ensure loads the certificate, and has another one issued when there is none that can be read, when its names or
// its root changed, or when less than a third of its life is left. While a certificate that is still valid for the
// names is at hand, a failure to replace it is logged and is no error. Calls do not overlap.
func (o *Own) Ensure(ctx context.Context, names Names, roots []*x509.Certificate, issue Issue) error {
	cert, why := o.load(names, roots)
	if cert != nil {
		o.current.Store(cert)
	}
	if why == "" {
		return nil
	}
	fresh, err := o.renew(ctx, names, issue)
	if err != nil {
		err = fmt.Errorf("the gateway's own TLS certificate (%s): %w", why, err)
		if cert != nil {
			o.log.Error("renewing failed, the old one goes on being used", "err", err)
			return nil
		}
		return err
	}
	o.current.Store(fresh)
	o.log.Info("TLS certificate for the gateway itself", "why", why, "serial", fmt.Sprintf("%x", fresh.Leaf.SerialNumber),
		"not-after", fresh.Leaf.NotAfter.UTC().Format(time.RFC3339), "names", names.String())
	return nil
}

// String lists them for the log.
func (n Names) String() string {
	all := slices.Clone(n.DNS)
	for _, a := range n.IP {
		all = append(all, a.String())
	}
	return strings.Join(all, " ")
}

// load returns the certificate on disk if it can be used, and why it should be replaced, "" when it should not.
func (o *Own) load(names Names, roots []*x509.Certificate) (*tls.Certificate, string) {
	data, err := os.ReadFile(o.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, "there is none yet"
	}
	if err != nil {
		return nil, err.Error()
	}
	cert, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, o.path + " cannot be read: " + err.Error()
	}
	now, leaf := o.clock(), cert.Leaf
	root := cert.Certificate[len(cert.Certificate)-1]
	switch {
	case !names.Equal(leaf):
		return nil, "its names changed"
	case !slices.ContainsFunc(roots, func(r *x509.Certificate) bool { return bytes.Equal(r.Raw, root) }):
		return nil, "the CA is another one"
	case now.After(leaf.NotAfter) || now.Before(leaf.NotBefore):
		return nil, "it is not valid now"
	case now.After(leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3)):
		return &cert, "less than a third of its life is left"
	}
	return &cert, ""
}

func (o *Own) renew(ctx context.Context, names Names, issue Issue) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := names.csr(key)
	if err != nil {
		return nil, err
	}
	chain, err := issue(ctx, csr)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	blocks := []*pem.Block{{Type: "PRIVATE KEY", Bytes: pkcs8}}
	for _, der := range chain {
		blocks = append(blocks, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	for _, b := range blocks {
		if err := pem.Encode(&buf, b); err != nil {
			return nil, err
		}
	}
	cert, err := tls.X509KeyPair(buf.Bytes(), buf.Bytes())
	if err != nil {
		return nil, fmt.Errorf("the certificate that was issued is not for the key: %w", err)
	}
	if !names.Equal(cert.Leaf) {
		return nil, errors.New("the certificate that was issued has other names than were asked for")
	}
	return &cert, WriteFile(o.path, buf.Bytes(), 0o600)
}

func (n Names) csr(key crypto.Signer) ([]byte, error) {
	t := &x509.CertificateRequest{DNSNames: n.DNS}
	// The names count; the common name is there for people, and has 64 characters at most (RFC 5280 appendix A.1).
	if i := slices.IndexFunc(n.DNS, func(d string) bool { return d != "localhost" && len(d) <= 64 }); i >= 0 {
		t.Subject = pkix.Name{CommonName: n.DNS[i]}
	} else {
		t.Subject = pkix.Name{CommonName: "localhost"}
	}
	for _, a := range n.IP {
		t.IPAddresses = append(t.IPAddresses, a.AsSlice())
	}
	return x509.CreateCertificateRequest(rand.Reader, t, key)
}

// WriteFile puts data at path by rename, durably: a crash leaves the old file or the new one.
func WriteFile(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
