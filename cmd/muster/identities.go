package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	x509name "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend"
)

const (
	// raValidity is that of a self-managed RA certificate. It is renewed, with a new key, when a third of it is left, and
	// when its CA has another certificate: a SCEP client that kept the one before goes on with it until that ends.
	raValidity = 397 * 24 * time.Hour
	raNotice   = 30 * 24 * time.Hour // before the end of an operator's own it is told
)

// ownKey is a certificate of the gateway's own that a Runtime needs, with its key.
type ownKey struct {
	endpoint string // through which it is issued
	own      *serve.Own
	instead  string                                                // what the operator can do without one
	want     func(cas map[string][]backend.CA) (serve.Want, error) // what it has to be, under the CAs as they are now
}

// tlsKey is the TLS certificate's.
func (p *process) tlsKey(names serve.Names) ownKey {
	return ownKey{
		endpoint: selfEndpoint, own: p.own,
		instead: "give the listener tls.cert and tls.key, or name another backend under server-certificate",
		want: func(cas map[string][]backend.CA) (serve.Want, error) {
			roots, err := rootsOf(cas)
			if err != nil {
				return serve.Want{}, err
			}
			want := serve.Server(names, roots)
			want.Crosses = func(root *x509.Certificate) []*x509.Certificate { return crossesOf(cas, root) }
			return want, nil
		},
	}
}

// furnishRAs finds the RA identity of each endpoint that has one, and makes the endpoints through which the gateway
// gets those that it manages itself: one for each protocol and CA, whichever endpoints share it, and one more for those where
// it makes keys.
func (p *process) furnishRAs(rt *Runtime, ras map[string]*gateway.Identity) error {
	var errs []error
	for _, name := range byName(rt.cfg.Endpoints) {
		e := rt.cfg.Endpoints[name]
		if s, _ := spoken(e.Protocol); !s.identity && !makesKeys(rt.gateway.Endpoints[name]) {
			continue
		}
		if id := ras[name]; id != nil {
			id = completed(id, rt.cas)
			rt.identities[name] = func() *gateway.Identity { return id }
			if left := id.Certificate.NotAfter.Sub(p.clock()); left < raNotice {
				p.log.Warn("the RA certificate of an endpoint ends soon: put another one into its place, then reload", "endpoint", name,
					"file", rt.cfg.path(e.RA.Cert), "not-after", id.Certificate.NotAfter.UTC().Format(time.RFC3339))
			}
			continue
		}
		profile := rt.cfg.Profiles[e.Profile]
		if r := rt.plugins[profile.Backend]; r != nil && passesOnly(r.plugin.Description()) {
			errs = append(errs, rt.cfg.fault(at("endpoints", name), "it signs what it answers itself (refusals, support messages), and backend %s passes messages on and certifies nothing: "+
				"give it a certificate by ra: {cert: FILE, key: FILE}, or name another backend in the profile", profile.Backend))
			continue
		}
		key, made, err := p.raKey(e.Protocol, profile, rt.cas, makesKeys(rt.gateway.Endpoints[name]))
		if err != nil {
			errs = append(errs, rt.cfg.fault(at("endpoints", name), "%v", err))
			continue
		}
		rt.identities[name] = key.own.Identity
		if rt.gateway.Endpoints[key.endpoint] == nil {
			rt.gateway.Endpoints[key.endpoint] = made
			rt.owns = append(rt.owns, key)
		}
		if e.Protocol == gateway.SCEP && !strings.HasPrefix(rt.cfg.Store, "sqlite:") {
			p.log.Warn("the store can be shared by several gateways, and each would have an RA key of its own: a SCEP client may encrypt to one gateway and reach another; "+
				"give the endpoint one RA certificate for all by ra: {cert: FILE, key: FILE}", "endpoint", name)
		}
	}
	return errors.Join(errs...)
}

// raKey is the key of the RA for a protocol and a profile's CA, and the endpoint through which it is certified. kga: it signs keys
// that the gateway makes, too. That is an RA of its own: no other one is authorized to, and no certificate that devices know
// is replaced when an endpoint begins to make keys.
func (p *process) raKey(protocol gateway.Protocol, profile *ProfileConfig, cas map[string][]backend.CA, kga bool) (ownKey, *gateway.Endpoint, error) {
	ca, chain, err := issuerOf(cas, profile.Backend, profile.Issuer)
	if err != nil {
		return ownKey{}, nil, err
	}
	speaks, _ := spoken(protocol)
	what := speaks.title + " RA certificate"
	name := raName(string(protocol), profile.Backend, ca)
	// Not the instance's name: clients know the RA by its certificate, and that need not change with a host's name.
	want := serve.Want{Subject: x509name.Name{CommonName: "Muster " + speaks.title + " RA"}, Usage: x509.KeyUsageDigitalSignature}
	grant := gateway.Profile{Backend: profile.Backend, Issuer: ca, Validity: raValidity}
	switch protocol {
	case gateway.SCEP:
		// Requests are encrypted to it, and clients look for no purpose in it: it is restricted by its usage alone.
		want.RSA, want.Usage, want.KeepsPrevious = true, want.Usage|x509.KeyUsageKeyEncipherment, true
	case gateway.MDM:
		// It signs profiles, in which devices look for no purpose.
		what, want.Subject.CommonName = "profile signing certificate", "Muster profile service"
		want.RSA = rsaThroughout(chain)
	case gateway.EST:
		// It signs keys that are made here, and nothing else: an RA in EST's sense it is not.
		what, name = speaks.title+" KGA certificate", raName(string(protocol), profile.Backend, ca, "kga")
		want.RSA, want.Subject.CommonName = rsaThroughout(chain), "Muster "+speaks.title+" KGA"
		grant.ExtKeyUsage = []asn1.ObjectIdentifier{oidCMKGA}
	default:
		// id-kp-cmcRA marks an RA in CMP (RFC 9810 section 8.6, RFC 6402 section 2.10). Under a CA that is RSA
		// throughout, clients may know no other algorithm.
		want.RSA = rsaThroughout(chain)
		grant.ExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 28}}
		if kga {
			name = raName(string(protocol), profile.Backend, ca, "kga")
			want.Subject.CommonName += " and KGA"
			grant.ExtKeyUsage = append(grant.ExtKeyUsage, oidCMKGA)
		}
	}
	grant.KeyUsage = want.Usage
	key := ownKey{
		endpoint: selfPrefix + name, own: p.ownAt(name, what),
		instead: "give the endpoint a certificate by ra: {cert: FILE, key: FILE}",
		want: func(cas map[string][]backend.CA) (serve.Want, error) {
			_, chain, err := issuerOf(cas, profile.Backend, ca)
			if err != nil {
				return want, err
			}
			want := want
			want.Fits = func(own []*x509.Certificate) string {
				if len(own) < 2 || !own[1].Equal(chain[0]) {
					return "the CA is another one"
				}
				return ""
			}
			return want, nil
		},
	}
	stage := selfStage{endpoint: key.endpoint, subject: want.Name(), instance: p.instance, until: chain[0].NotAfter}
	return key, selfEndpointOf(stage, grant), nil
}

// raName names a key's file and endpoint: no two keys have the same, whatever stands in the parts.
func raName(parts ...string) string {
	for i, part := range parts {
		var b strings.Builder
		for _, c := range []byte(part) {
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
		parts[i] = b.String()
	}
	name := strings.Join(parts, "-")
	if len(name) > 100 { // a file's name has 255 bytes at most
		name = fmt.Sprintf("%s-%x", parts[0], sha256.Sum256([]byte(name)))
	}
	return name
}

// ownAt keeps one RA key for as long as the process lives, so that a reload goes on with it.
func (p *process) ownAt(name, what string) *serve.Own {
	if p.owns[name] == nil {
		p.owns[name] = serve.NewOwn(filepath.Join(p.data, identityDir, name+".pem"), what, p.clock, p.log)
	}
	return p.owns[name]
}

// prepareOwn sees to it that every certificate of the gateway's own is there, under the CAs as given. They are in force
// once use is called: all of them, or none.
func (p *process) prepareOwn(ctx context.Context, rt *Runtime, cas map[string][]backend.CA) (use func(), err error) {
	var wg sync.WaitGroup
	uses, errs := make([]func(), len(rt.owns)), make([]error, len(rt.owns))
	for i, k := range rt.owns {
		wg.Go(func() {
			want, err := k.want(cas)
			if err == nil {
				uses[i], err = k.own.Prepare(ctx, want, p.issueSelf(rt.answers, k.endpoint, k.instead))
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return func() {
		for _, use := range uses {
			use()
		}
	}, nil
}

// currentCAs are the backends' CAs as they are now; what cannot be asked is as it was.
func (p *process) currentCAs(ctx context.Context, rt *Runtime) map[string][]backend.CA {
	cas := map[string][]backend.CA{}
	for name, r := range rt.plugins {
		now, err := rt.cas[name], error(nil)
		if rt.silence.of(name) == nil { // soundOut asks those
			now, err = casOf(ctx, r.plugin)
		}
		if err != nil {
			p.log.Warn("the CA does not tell its certificates: those of before go on counting", "backend", name, "err", err)
			now = rt.cas[name]
		}
		cas[name] = now
	}
	return cas
}

// issuerOf finds a backend's CA by name, the default one by "".
func issuerOf(cas map[string][]backend.CA, backendName, issuer string) (name string, chain []*x509.Certificate, err error) {
	for _, ca := range cas[backendName] {
		if issuer != "" && ca.Name != issuer {
			continue
		}
		for _, der := range ca.Chain {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return "", nil, fmt.Errorf("backend %s, CA %s: %w", backendName, ca.Name, err)
			}
			chain = append(chain, c)
		}
		if len(chain) == 0 {
			return "", nil, fmt.Errorf("backend %s, CA %s: it has no certificate", backendName, ca.Name)
		}
		return ca.Name, chain, nil
	}
	return "", nil, fmt.Errorf("backend %s has no CA %q", backendName, issuer)
}

// crossesOf are the certificates that lead from a root to those of other generations.
func crossesOf(cas map[string][]backend.CA, root *x509.Certificate) []*x509.Certificate {
	for _, name := range byName(cas) {
		for _, ca := range cas[name] {
			var rollover []*x509.Certificate
			for _, der := range ca.Rollover {
				if c, err := x509.ParseCertificate(der); err == nil {
					rollover = append(rollover, c)
				}
			}
			if crosses := pkix.Crosses(root, rollover); len(crosses) > 0 {
				return crosses
			}
		}
	}
	return nil
}

func rsaThroughout(chain []*x509.Certificate) bool {
	for _, c := range chain {
		if _, ok := c.PublicKey.(*rsa.PublicKey); !ok {
			return false
		}
	}
	return true
}

// loadRAs reads the RA certificates that operators gave, by endpoint. endpoints are those that were made.
func loadRAs(c *Config, endpoints map[string]*gateway.Endpoint, now time.Time) (map[string]*gateway.Identity, error) {
	ids := map[string]*gateway.Identity{}
	var errs []error
	for _, name := range byName(c.Endpoints) {
		e := c.Endpoints[name]
		if e.RA == nil {
			continue
		}
		p, _ := spoken(e.Protocol)
		if !p.identity && !makesKeys(endpoints[name]) {
			errs = append(errs, c.fault(at("endpoints", name, "ra"), "%s has no RA certificate but where the gateway makes keys (generate): leave it out", p.title))
			continue
		}
		id, err := c.loadRA(e.RA, now)
		if err == nil {
			err = p.check(name, e, id)
		}
		if err == nil && makesKeys(endpoints[name]) {
			err = vouchesForKeys(id.Certificate)
		}
		if err != nil {
			errs = append(errs, c.fault(at("endpoints", name, "ra"), "%v", err))
			continue
		}
		ids[name] = id
	}
	return ids, errors.Join(errs...)
}

func (c *Config) loadRA(r *RAConfig, now time.Time) (*gateway.Identity, error) {
	var pair tls.Certificate
	var err error
	switch {
	case r.Token != nil:
		if pair, err = c.heldPair(r); err != nil {
			return nil, err
		}
	case r.Key == "":
		return nil, errors.New("key: required: a file; or token: {backend: NAME, label: LABEL} where the key is in an HSM")
	default:
		if pair, err = serve.KeyPair("", c.path(r.Cert), c.path(r.Key)); err != nil {
			return nil, err
		}
	}
	id := &gateway.Identity{}
	switch pair.PrivateKey.(type) {
	case *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey, *backend.HeldKey:
		id.Key = pair.PrivateKey.(crypto.Signer)
	default:
		return nil, fmt.Errorf("key: a key of type %T does not sign", pair.PrivateKey)
	}
	for i, der := range pair.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("cert: certificate %d: %w", i+1, err)
		}
		if i == 0 {
			id.Certificate = cert
			continue
		}
		if !bytes.Equal(cert.RawSubject, last(id).RawIssuer) || last(id).CheckSignatureFrom(cert) != nil {
			return nil, fmt.Errorf("cert: certificate %d did not issue the one before it: the RA's comes first, then its chain", i+1)
		}
		id.Chain = append(id.Chain, cert)
	}
	switch leaf := id.Certificate; {
	case leaf.IsCA:
		return nil, errors.New("cert: it is a CA's certificate: an RA has a key of its own. `openssl req -x509` makes a CA's unless it is told `-addext basicConstraints=critical,CA:false`")
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("cert: it ended on %s", leaf.NotAfter.UTC().Format(time.DateOnly))
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, errors.New("cert: its key usage lacks digitalSignature")
	}
	return id, nil
}

func last(id *gateway.Identity) *x509.Certificate {
	if n := len(id.Chain); n > 0 {
		return id.Chain[n-1]
	}
	return id.Certificate
}

// completed adds the CAs at the end of the chain that the file left out, where the backends know them.
func completed(id *gateway.Identity, cas map[string][]backend.CA) *gateway.Identity {
	made := &gateway.Identity{Key: id.Key, Certificate: id.Certificate, Chain: append([]*x509.Certificate(nil), id.Chain...)}
	for _, name := range byName(cas) {
		for _, ca := range cas[name] {
			for _, der := range ca.Chain {
				c, err := x509.ParseCertificate(der)
				end := last(made)
				if err == nil && !bytes.Equal(end.RawIssuer, end.RawSubject) && bytes.Equal(c.RawSubject, end.RawIssuer) && end.CheckSignatureFrom(c) == nil {
					made.Chain = append(made.Chain, c)
				}
			}
		}
	}
	return made
}
