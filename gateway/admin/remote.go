package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// RemoteOptions say how a Client proves who it is, and whom it believes.
type RemoteOptions struct {
	CA    string // PEM file with the roots that the gateway's certificate stands under; "": the system's
	Cert  string // PEM file with a client certificate and its chain; "" for none
	Key   string // PEM file with its key
	Token string // "" for none
}

// NewRemoteClient makes a Client of the gateway whose admin API is at an address such as https://muster.example:9443.
func NewRemoteClient(address string, o RemoteOptions) (*Client, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "":
		return nil, fmt.Errorf("%q is no address: want https://HOST:PORT", address)
	case u.Scheme != "https":
		return nil, fmt.Errorf("%s: the admin API speaks https only", address)
	case u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("the address of a gateway is https://HOST:PORT, without more")
	case o.Cert == "" && o.Token == "":
		return nil, errors.New("a gateway asks who comes over the network: give a token, or a certificate with its key")
	case (o.Cert == "") != (o.Key == ""):
		return nil, errors.New("a certificate and its key belong together: give both")
	}
	if err := checkToken(o.Token); o.Token != "" && err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CA != "" {
		if conf.RootCAs, err = readPool(o.CA); err != nil {
			return nil, err
		}
	}
	if o.Cert != "" {
		pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", o.Cert, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			d := net.Dialer{Timeout: 10 * time.Second}
			return d.DialContext(ctx, network, addr)
		},
	}
	// A redirection could carry the token elsewhere, and this API has none.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{
		where: u.Scheme + "://" + u.Host, base: u.Scheme + "://" + u.Host, token: o.Token,
		http: &http.Client{Transport: transport, CheckRedirect: stay},
	}, nil
}

// maxPEM bounds a file of certificates.
const maxPEM = 1 << 20

// readPool reads a PEM file of certificates.
func readPool(path string) (*x509.CertPool, error) {
	data, err := strictyaml.ReadFile("", path, maxPEM)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s: no certificate in it (PEM)", path)
	}
	return pool, nil
}
