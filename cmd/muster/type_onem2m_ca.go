package main

import (
	"crypto/x509"
	"net/url"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/est"
	"github.com/muster-pki/muster/protocols/scep"
)

// mefByPassword reports whether an endpoint is an M2M Enrolment Function whose clients log in by user name and password.
func mefByPassword(e *EndpointConfig) bool {
	return e.Protocol == gateway.EST && section(e.EST).Type == est.TypeMEFPassword
}

// mefBySCEP reports whether an endpoint is an M2M Enrolment Function that speaks SCEP.
func mefBySCEP(e *EndpointConfig) bool {
	return e.Protocol == gateway.SCEP && section(e.SCEP).Type == scep.TypeOneM2MMEF
}

// mefType is the type of an M2M Enrolment Function as the configuration names it, "" of other endpoints.
func mefType(e *EndpointConfig) string {
	if e.Protocol == gateway.EST {
		return string(section(e.EST).Type)
	}
	return string(section(e.SCEP).Type)
}

// constrained wants a profile's CA to have name constraints, as an M2M Enrolment Function's do (oneM2M TS-0003 clause 10.1.1.5): for DNS
// names, and for URIs only where the identifiers that are registered are URIs that can be verified under them.
func (rt *Runtime) constrained(name, profileName string) error {
	e := rt.cfg.Endpoints[name]
	if mefType(e) == "" {
		return nil
	}
	path := e.profilePath(name, profileName)
	return rt.cfg.Profiles[profileName].forEach(func(one *ProfileConfig) error { return rt.constrainedCA(e, path, one) })
}

// constrainedCA wants it of one of the profile's CAs.
func (rt *Runtime) constrainedCA(e *EndpointConfig, path []string, profile *ProfileConfig) error {
	ca, chain, err := issuerOf(rt.cas, profile.Backend, profile.Issuer)
	if err != nil {
		return rt.cfg.fault(path, "%v", err)
	}
	for _, c := range chain {
		if len(c.PermittedURIDomains)+len(c.ExcludedURIDomains) == 0 {
			continue
		}
		if uri := rt.cfg.hostless(e); uri != "" {
			return rt.cfg.fault(path, "type: %s: the CA certificate %s constrains URIs, and those without scheme and host, such as %s, nobody can verify below it (RFC 5280 section 4.2.1.10; "+
				"openssl and Go refuse them): have DNS names constrained alone, or name other `types` or forms in registration", mefType(e), c.Subject, uri)
		}
	}
	// "The certificate used to sign": what the root alone has, verifiers that anchor trust in the issuing CA never read.
	if len(chain[0].PermittedDNSDomains) == 0 && !slices.Contains(section(e.EST).Allow, est.AllowUnconstrainedCA) {
		return rt.cfg.fault(path, "type: %s: the certificate of CA %s, backend %s, has no name constraints that permit DNS names, which an MEF's CA has (oneM2M TS-0003 clause 10.1.1.5): name an issuer in the profile "+
			"that is constrained to the service provider's domain (the local CA is by issuers.%s.name-constraints; one that stands, by `muster ca renew --root` after that)%s", mefType(e), ca, profile.Backend, ca,
			map[bool]string{true: ", or say `est: {allow: [unconstrained-ca]}`"}[e.Protocol == gateway.EST])
	}
	return nil
}

// hostless is an example of an identifier that an endpoint certifies as a URI without scheme and host, "" when there is none.
func (c *Config) hostless(e *EndpointConfig) (example string) {
	for _, op := range gateway.Operations {
		nodes, _ := e.stages(op)
		c.walk(pipelineNodes(nodes), false, func(name string, _, settings *yaml.Node, _ bool) {
			var r authz.RegistrationConfig
			if name != "registration" || strictyaml.DecodeNode(c.file, settings, &r) != nil {
				return
			}
			for kind, made := range map[string][2]string{gateway.KindAEID: {r.AEIDForm, "//m2m.example.com/S98821"}, gateway.KindNodeID: {r.NodeIDForm, "urn:gsma:imei:90420156-025763-0"}} {
				form, value := made[0], made[1]
				if strings.Contains(form, "{{value}}") {
					value = strings.Replace(form, "{{value}}", value, 1)
				}
				if u, err := url.Parse(value); slices.Contains(r.Certified(), kind) && (err != nil || u.Scheme == "" || u.Host == "") {
					example = value
				}
			}
		})
	}
	return example
}

// mefOthers checks what `est: {type: onem2m-mef-password}` and `scep: {type: onem2m-mef}` say of an endpoint's listeners and profiles.
func (f *review) mefOthers(name string, e *EndpointConfig) {
	if !mefByPassword(e) && !mefBySCEP(e) {
		return
	}
	for _, l := range e.Listeners {
		if listener := f.c.Listeners[l]; mefByPassword(e) && listener != nil && listener.TLS != nil { // said already
			if fault, key := mefTLS(listener.TLS); fault != "" {
				f.fail(at("listeners", l, "tls", key), "endpoint %s is of `type: %s`: %s", name, mefType(e), fault)
			}
		}
	}
	for _, p := range e.offered() {
		profile := f.c.Profiles[p]
		if profile == nil {
			continue
		}
		check := mefProfile
		if mefBySCEP(e) {
			check = mefSCEPProfile
		}
		if fault, key := check(profile); fault != "" {
			f.fail(at("profiles", p, key), "endpoint %s is of `type: %s`: %s", name, mefType(e), fault)
		}
	}
}

// mefSCEPProfile says what is wrong with a profile of an M2M Enrolment Function that speaks SCEP, and at which key. Its keys are RSA,
// other than TS-0003 has them, since SCEP's answers are encrypted to them: those of its clients sign and decrypt.
func mefSCEPProfile(p *ProfileConfig) (fault, key string) {
	if usage, err := parseKeyUsage(p.KeyUsage); err == nil && usage&^x509.KeyUsageKeyEncipherment != x509.KeyUsageDigitalSignature {
		return "its certificates are for digitalSignature (oneM2M TS-0003 clause 10.1.1.1), and at most keyEncipherment beside it", "key-usage"
	}
	if s, err := p.shaper(); err == nil && (s == nil || !s.DerivesSubject()) {
		return "what identifies a client is its subjectAltName, and the subject must not name another: give the profile a subject of its own, such as `subject: CN={{device.name}}`", "subject"
	}
	return "", ""
}
