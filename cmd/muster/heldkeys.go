package main

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// TokenKey names a private key that a backend holds, in an HSM: docs/backends/pkcs11.md.
type TokenKey struct {
	// Backend is one of backends, whose configuration lets the gateway use the key (pkcs11: {keys: [LABEL]}).
	Backend string `yaml:"backend,required"`
	// Label is the key's.
	Label string `yaml:"label,required"`
}

// maxRACertificates bounds the file of an RA's certificate and chain.
const maxRACertificates = 1 << 20

// heldPair is an RA's certificate with its chain, as serve.KeyPair has it, whose key a backend holds. The key is opened when the backend
// runs: openKeys.
func (c *Config) heldPair(r *RAConfig) (tls.Certificate, error) {
	var pair tls.Certificate
	switch _, ok := c.Backends[r.Token.Backend]; {
	case r.Key != "":
		return pair, errors.New("key and token: the key is in one of the two")
	case !ok:
		return pair, fmt.Errorf("token.backend: there is no backend %q%s", r.Token.Backend, strictyaml.Suggest(r.Token.Backend, byName(c.Backends)))
	}
	text, err := strictyaml.ReadFile("", c.path(r.Cert), maxRACertificates)
	if err != nil {
		return pair, err
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			pair.Certificate = append(pair.Certificate, block.Bytes)
		}
	}
	if len(pair.Certificate) == 0 {
		return pair, fmt.Errorf("cert: %s holds no certificate in PEM", c.path(r.Cert))
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return pair, fmt.Errorf("cert: %w", err)
	}
	if pub, ok := leaf.PublicKey.(*rsa.PublicKey); ok && pub.Size() > 1024 {
		return pair, errors.New("cert: an RSA key of more than 8192 bits")
	}
	pair.PrivateKey = backend.NewHeldKey(r.Token.Label, leaf.PublicKey)
	return pair, nil
}

// openKeys finds the keys of RAs where backends hold them.
func (rt *Runtime) openKeys(ctx context.Context, ras map[string]*gateway.Identity) error {
	var errs []error
	for _, name := range byName(ras) {
		key, ok := ras[name].Key.(*backend.HeldKey)
		if !ok {
			continue
		}
		from := rt.cfg.Endpoints[name].RA.Token.Backend
		plugin := rt.plugins[from].plugin
		if d := plugin.Description(); !slices.Contains(d.Capabilities, backend.CapKeys) {
			errs = append(errs, rt.cfg.fault(at("endpoints", name, "ra", "token", "backend"), "backend %s (%s) holds no keys for the gateway: name one with `plugin: /path/of/muster-pkcs11` and `pkcs11: {keys: [LABEL]}`", from, d.Name))
		} else if err := key.Open(ctx, plugin); err != nil {
			errs = append(errs, rt.cfg.fault(at("endpoints", name, "ra", "token"), "%v", err))
		}
	}
	return errors.Join(errs...)
}

// holdsOnly reports whether a backend is no CA, and holds keys.
func holdsOnly(d *backend.Description) bool { return len(d.Forms) == 0 }

// keyTime is how much longer than others the start of a plugin with a token may take: an HSM may need a minute for an RSA key, and a start
// that was broken off would leave it there.
const keyTime = 10 * time.Minute

// keysInToken reports whether the configuration of a plugin is that of muster-pkcs11.
func keysInToken(config *yaml.Node) bool {
	return config != nil && config.Kind == yaml.MappingNode && slices.ContainsFunc(config.Content, func(n *yaml.Node) bool { return n.Value == "pkcs11" })
}
