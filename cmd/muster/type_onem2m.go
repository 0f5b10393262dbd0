package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/est"
)

// oneM2MSuite is what TS-0003 clause 10.2.3 has every TLS implementation speak, and Go's crypto/tls does not unless it is told to.
const oneM2MSuite = "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"

// isMEF reports whether an endpoint is an M2M Enrolment Function as TS-0003 clause 8.3.6.2 has it: EST, and certificates on both sides.
func (e *EndpointConfig) isMEF() bool {
	return e.Protocol == gateway.EST && section(e.EST).Type == est.TypeMEF
}

// mef checks what `est: {type: onem2m-mef}` says of an endpoint's listeners and profiles (oneM2M TS-0003 clauses 10.1 and 10.2).
func (f *review) mef(name string, e *EndpointConfig) {
	if !e.isMEF() {
		return
	}
	for _, l := range e.Listeners {
		listener := f.c.Listeners[l]
		if listener == nil { // said already
			continue
		}
		if listener.TLS == nil || len(listener.Proxies) > 0 {
			f.fail(at("listeners", l), "endpoint %s is of `type: onem2m-mef`: both sides authenticate to each other (oneM2M TS-0003 clause 8.3.6.2.1), so that TLS ends here, with `tls`, and at no proxy", name)
			continue
		}
		if fault, key := mefTLS(listener.TLS); fault != "" {
			f.fail(at("listeners", l, "tls", key), "endpoint %s is of `type: onem2m-mef`: %s", name, fault)
		}
	}
	for _, p := range e.offered() {
		if profile := f.c.Profiles[p]; profile != nil {
			if fault, key := mefProfile(profile); fault != "" {
				f.fail(at("profiles", p, key), "endpoint %s is of `type: onem2m-mef`: %s", name, fault)
			}
		}
	}
}

// mefTLS says what is wrong with a listener's policy, and at which key.
func mefTLS(t *serve.TLS) (fault, key string) {
	if t.Min != "" && t.Min != "1.2" {
		return `its clients speak TLS 1.2 (oneM2M TS-0003 clause 10.2.1): leave min out`, "min"
	}
	if !t.Lists(oneM2MSuite) {
		return "oneM2M TS-0003 clause 10.2.3 has " + oneM2MSuite + " spoken: list it in suites, newer ones beside it", "suites"
	}
	return "", ""
}

// mefProfile says what is wrong with a profile, and at which key.
func mefProfile(p *ProfileConfig) (fault, key string) {
	if !slices.Equal(p.Keys, []string{"P-256"}) {
		return "oneM2M TS-0003 clause 10.1.1.1 has P-256 keys and no others: keys: [P-256]", "keys"
	}
	if usage, err := parseKeyUsage(p.KeyUsage); err == nil && usage != x509.KeyUsageDigitalSignature {
		return "its certificates are for digitalSignature (oneM2M TS-0003 clause 10.1.1.1), and for nothing else: leave key-usage out", "key-usage"
	}
	if extended, err := parseExtKeyUsage(p.ExtKeyUsage); err == nil && !slices.ContainsFunc(extended, pkix.OIDClientAuth.Equal) {
		return "its certificates renew themselves in the TLS handshake, and need clientAuth for that: add it, or leave ext-key-usage out", "ext-key-usage"
	}
	if s, err := p.shaper(); err == nil && (s == nil || !s.DerivesSubject()) {
		return "what identifies a client is its subjectAltName, and the subject must not name another: give the profile a subject of its own, such as `subject: CN={{device.name}}`", "subject"
	}
	return "", ""
}

// checkMEF refuses a pipeline that the type rules out: other credentials than certificates, who asks in another's place, a way
// around the registered identifier or around the certificate of the TLS client, and renewals by anything but the MEF's own.
func (c *Config) checkMEF(path []string, op gateway.Operation, e *EndpointConfig, nodes []yaml.Node) error {
	if !e.isMEF() {
		return nil
	}
	list := pipelineNodes(nodes)
	errs := c.checkMEFWays(path, op, e, list)
	fail := func(n *yaml.Node, format string, args ...any) {
		errs = append(errs, c.faultAt(n, strings.Join(path, "."), "type: onem2m-mef: "+format, args...))
	}
	c.walk(list, false, func(name string, n, settings *yaml.Node, _ bool) {
		switch {
		case slices.Contains(secretStages, name):
			fail(n, "%s: clients authenticate with a certificate in the TLS handshake, and with nothing else (oneM2M TS-0003 clause 8.3.6.2.1)", name)
		case name == "own-certificate":
			var own authz.OwnCertificateConfig
			if strictyaml.DecodeNode(c.file, settings, &own) == nil && !slices.Equal(own.Purposes, []string{"clientAuth"}) {
				fail(n, "own-certificate: the extended key usage of the certificate counts (oneM2M TS-0003 clause 8.3.6.2.3): purposes: [clientAuth]")
			}
		}
	})
	if op == gateway.Revoke || op == gateway.Query {
		return errors.Join(errs...)
	}
	if !c.everyWay(list, func(name string, _ *yaml.Node) bool { return name == "registration" }) {
		errs = append(errs, c.fault(path, "type: onem2m-mef: the stage registration has to be on every way through these stages: it holds the identifier asked for against the registered one"))
	}
	if !c.everyWay(list, func(name string, _ *yaml.Node) bool {
		return slices.Contains([]string{"client-certificate", "vendor-ca", "own-certificate"}, name)
	}) {
		errs = append(errs, c.fault(path, "type: onem2m-mef: a stage that judges the TLS client's certificate has to be on every way through these stages: vendor-ca, client-certificate or own-certificate"))
	} else if !c.everyWay(list, c.names) {
		errs = append(errs, c.fault(path, "type: onem2m-mef: the certificate has to say which device it is on every way through these stages, since an identifier is registered for each: "+
			"the serial of vendor-ca, the device of client-certificate, or an inventory by certificate.subject.CN or the like"))
	}
	if op != gateway.Enroll && !c.held(list) {
		errs = append(errs, c.fault(path, "type: onem2m-mef: a certificate is renewed by itself alone: `own-certificate: {purposes: [clientAuth]}` has to be on every way through these stages"))
	}
	return errors.Join(errs...)
}

// checkMEFServers refuses server certificates of a kind with which the suite does not work. The gateway's own are P-256.
func (c *Config) checkMEFServers(e *EndpointConfig) error {
	if !e.isMEF() {
		return nil
	}
	var errs []error
	for _, name := range e.Listeners {
		l := c.Listeners[name]
		if l == nil || l.TLS == nil || l.TLS.SelfManaged() {
			continue
		}
		pair, err := tls.LoadX509KeyPair(c.path(l.TLS.Cert), c.path(l.TLS.Key))
		if err != nil {
			continue // told where the listener is made
		}
		if !onP256(pair.Leaf) {
			errs = append(errs, c.fault(at("listeners", name, "tls", "cert"), "type: onem2m-mef: %s needs a P-256 key in the server's certificate (oneM2M TS-0003 clauses 10.1.1.1 and 10.2.3), and this one has another", oneM2MSuite))
		}
	}
	return errors.Join(errs...)
}

// suitsMEF reports why a profile's CA is none for an MEF: not all certificates of its chain are P-256 and signed with SHA-256 (oneM2M
// TS-0003 clause 10.1.1.3).
func (rt *Runtime) suitsMEF(name, profileName string) error {
	e := rt.cfg.Endpoints[name]
	if !e.isMEF() {
		return nil
	}
	path := e.profilePath(name, profileName)
	return rt.cfg.Profiles[profileName].forEach(func(one *ProfileConfig) error { return rt.suitsMEFCA(path, one) })
}

// suitsMEFCA reports it of one of the profile's CAs.
func (rt *Runtime) suitsMEFCA(path []string, profile *ProfileConfig) error {
	_, chain, err := issuerOf(rt.cas, profile.Backend, profile.Issuer)
	if err != nil {
		return rt.cfg.fault(path, "%v", err)
	}
	for _, c := range chain {
		if !onP256(c) || c.SignatureAlgorithm != x509.ECDSAWithSHA256 {
			return rt.cfg.fault(path, "type: onem2m-mef: the CA certificate %s is not of a P-256 key, or not signed with ecdsa-with-SHA256 (oneM2M TS-0003 clause 10.1.1.3): name a CA whose chain is, up to the root", pkix.FormatName(c.RawSubject))
		}
	}
	return nil
}

// unconstrained lists the MEF endpoints that do without name constraints.
func (c *Config) unconstrained() (names []string) {
	for _, name := range byName(c.Endpoints) {
		if e := c.Endpoints[name]; e.Protocol == gateway.EST && slices.Contains(section(e.EST).Allow, est.AllowUnconstrainedCA) {
			names = append(names, name)
		}
	}
	return names
}

func onP256(cert *x509.Certificate) bool {
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	return ok && key.Curve == elliptic.P256()
}
