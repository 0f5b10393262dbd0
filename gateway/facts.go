package gateway

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
)

// Facts is what is known of a request when it is judged, without secrets, in one form for whoever judges it by rules of his
// own: expressions of a policy read it by these names, the operator's services are asked with it as JSON, and it is kept with
// the transaction, so that rules can be tried on what was asked before. What is not there is zero, and absent in JSON. Names
// are only ever added.
//
// What stands in Request is the requester's word, but for how it came and what its POP says; Credentials say of each what
// was found of it; Device and Grant are what the stages before have made of it.
type Facts struct {
	Request     FactsRequest      `json:"request"`
	Credentials []FactsCredential `json:"credentials,omitempty"`
	Requester   string            `json:"requester,omitempty"` // who authenticated, e.g. "password:factory"
	Device      FactsDevice       `json:"device,omitzero"`
	Grant       FactsGrant        `json:"grant,omitzero"`
	Attributes  map[string]string `json:"attributes,omitempty"` // what the operator's services said of the request
	Now         time.Time         `json:"now"`                  // when it is judged, UTC
}

// FactsRequest is the request as it was asked.
type FactsRequest struct {
	ID          string              `json:"id"`
	Protocol    string              `json:"protocol"`
	Endpoint    string              `json:"endpoint"`
	Operation   string              `json:"operation"`
	Transaction string              `json:"transaction,omitempty"` // the protocol's own ID, as the client chose it
	Profile     string              `json:"profile,omitempty"`     // as asked for
	Subject     FactsName           `json:"subject,omitzero"`
	SANs        FactsSANs           `json:"sans,omitzero"`
	Key         FactsKey            `json:"key,omitzero"`        // zero where the gateway makes it
	Generates   bool                `json:"generates,omitempty"` // the gateway is asked to make the key
	POP         string              `json:"pop,omitempty"`
	Extensions  []string            `json:"extensions,omitempty"` // OIDs of those that are asked for
	NotBefore   time.Time           `json:"notBefore,omitzero"`   // as asked for
	NotAfter    time.Time           `json:"notAfter,omitzero"`
	Renews      FactsCertificate    `json:"renews,omitzero"`     // renew, rekey: what the request names as the certificate that it renews
	NewSubject  FactsName           `json:"newSubject,omitzero"` // renew, rekey with a change of names: what the certificate is to have
	NewSANs     FactsSANs           `json:"newSans,omitzero"`
	Target      FactsTarget         `json:"target,omitzero"` // revoke, query
	Identifiers map[string][]string `json:"identifiers,omitempty"`
	Source      string              `json:"source,omitempty"` // the peer's address, "" when it did not come over the network
	Proxy       string              `json:"proxy,omitempty"`
	Transport   string              `json:"transport,omitempty"`
	Received    time.Time           `json:"received"`
	SHA256      string              `json:"sha256,omitempty"`  // of the message as received, hexadecimal
	Partial     bool                `json:"partial,omitempty"` // never while it is judged: of what was kept, most was left out, since it was too much
}

// FactsName is a distinguished name.
type FactsName struct {
	DN                     string              `json:"dn,omitempty"`           // RFC 4514
	CommonName             string              `json:"commonName,omitempty"`   // "" where there are several
	SerialNumber           string              `json:"serialNumber,omitempty"` // likewise
	OrganizationName       []string            `json:"organizationName,omitempty"`
	OrganizationalUnitName []string            `json:"organizationalUnitName,omitempty"`
	Attributes             map[string][]string `json:"attributes,omitempty"` // all of them, by their long names, or OIDs
}

// FactsSANs are the names of a subjectAltName.
type FactsSANs struct {
	DNS   []string `json:"dns,omitempty"`
	IP    []string `json:"ip,omitempty"`
	Email []string `json:"email,omitempty"`
	URI   []string `json:"uri,omitempty"`
	Other int      `json:"other,omitempty"` // how many of other kinds
	// Malformed: there is a subjectAltName that does not parse, of which nothing stands here.
	Malformed bool `json:"malformed,omitempty"`
}

// FactsKey is a public key.
type FactsKey struct {
	Type      string `json:"type,omitempty"`      // "P-256", "RSA-3072", "Ed25519"
	Algorithm string `json:"algorithm,omitempty"` // "EC", "RSA", "Ed25519"
	Bits      int    `json:"bits,omitempty"`      // of the modulus, or the curve
	SHA256    string `json:"sha256,omitempty"`    // of the SubjectPublicKeyInfo, hexadecimal
}

// FactsCertificate is a certificate.
type FactsCertificate struct {
	Subject   FactsName `json:"subject,omitzero"`
	Issuer    FactsName `json:"issuer,omitzero"`
	Serial    string    `json:"serial,omitempty"` // hexadecimal, as `muster ls` has it
	SANs      FactsSANs `json:"sans,omitzero"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	SHA256    string    `json:"sha256,omitempty"` // of its DER; "" where there is none
}

// FactsTarget names a certificate that is to be revoked, or asked for.
type FactsTarget struct {
	Issuer string `json:"issuer,omitempty"` // RFC 4514
	Serial string `json:"serial,omitempty"` // hexadecimal
	Reason int    `json:"reason,omitempty"` // CRLReason
}

// FactsCredential is one thing by which the requester authenticates.
type FactsCredential struct {
	Kind        string           `json:"kind"` // CredentialKind
	ID          string           `json:"id,omitempty"`
	Proven      bool             `json:"proven,omitempty"`   // possession was shown, whatever it is worth
	Accepted    bool             `json:"accepted,omitempty"` // a stage has accepted it
	Certificate FactsCertificate `json:"certificate,omitzero"`
}

// FactsDevice is the device as the stages before have found it.
type FactsDevice struct {
	Name        string              `json:"name,omitempty"`
	Known       bool                `json:"known,omitempty"` // it stands in the inventory, where a stage has looked
	Vendor      string              `json:"vendor,omitempty"`
	Identifiers map[string][]string `json:"identifiers,omitempty"` // by kind
	Attributes  map[string]string   `json:"attributes,omitempty"`
	Profiles    []string            `json:"profiles,omitempty"` // that it may have
}

// FactsGrant is what would be certified, as far as the stages before have shaped it. The profile's templates come later.
type FactsGrant struct {
	Profile   string    `json:"profile,omitempty"`
	Backend   string    `json:"backend,omitempty"`
	Vendor    string    `json:"vendor,omitempty"` // under whose CA the device authenticated
	Vouched   bool      `json:"vouched,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
}

// FactsOf gathers what is known of a request, and of the grant as the stages so far have made it; nil is none yet.
func FactsOf(r *Request, g *Grant, now time.Time) *Facts {
	f := &Facts{Request: factsOfRequest(r), Now: now.UTC()}
	for _, c := range r.Credentials {
		fact := FactsCredential{Kind: string(c.Kind), ID: c.ID, Proven: c.Proven(), Accepted: g != nil && g.Authenticated(c)}
		if len(c.Chain) > 0 && c.Chain[0] != nil {
			fact.Certificate = factsOfCertificate(c.Chain[0])
		}
		f.Credentials = append(f.Credentials, fact)
	}
	if g == nil {
		return f
	}
	f.Requester, f.Attributes = g.Requester, g.Attributes
	f.Device = FactsDevice{Name: g.Device}
	if d := g.Inventory; d != nil {
		f.Device = FactsDevice{
			Name: d.Name, Known: true, Vendor: d.Vendor, Identifiers: factsOfIdentifiers(d.Identifiers), Attributes: d.Attributes, Profiles: d.Profiles,
		}
	}
	f.Grant = FactsGrant{
		Profile: g.Profile, Backend: g.Backend, Vendor: g.Vendor, Vouched: g.vouched, NotBefore: g.NotBefore, NotAfter: g.NotAfter,
	}
	return f
}

func factsOfRequest(r *Request) FactsRequest {
	f := FactsRequest{
		ID: r.ID, Protocol: string(r.Protocol), Endpoint: r.Endpoint, Operation: string(r.Operation), Transaction: r.WireID,
		Profile: r.Profile, Subject: factsOfName(r.Subject), Key: factsOfKey(r.PublicKey), Generates: r.KeyGen != nil, POP: string(r.POP),
		NotBefore: r.Validity.NotBefore.UTC(), NotAfter: r.Validity.NotAfter.UTC(), Identifiers: factsOfIdentifiers(r.Identifiers),
		Proxy: r.Proxy, Transport: r.Transport, Received: r.Received.UTC(), SHA256: requestHash(r),
	}
	if san, ok := r.Extension(oidSubjectAltName); ok {
		f.SANs = factsOfSANs(san)
	}
	for _, e := range r.Extensions {
		f.Extensions = append(f.Extensions, e.Id.String())
	}
	if r.OldCert != nil {
		f.Renews = factsOfCertificate(r.OldCert)
	}
	if n := r.NewNames; n != nil {
		f.NewSubject = factsOfName(n.Subject)
		if n.SubjectAltName != nil {
			f.NewSANs = factsOfSANs(n.SubjectAltName)
		}
	}
	if t := r.Target; t != nil {
		f.Target = FactsTarget{Issuer: pkix.FormatName(t.Issuer), Serial: factsOfSerial(t.Serial), Reason: t.Reason}
	}
	if r.Source.IsValid() {
		f.Source = r.Source.Unmap().WithZone("").String()
	}
	return f
}

func factsOfIdentifiers(ids []DeviceID) map[string][]string {
	if len(ids) == 0 {
		return nil
	}
	m := make(map[string][]string, len(ids))
	for _, id := range ids {
		m[id.Kind] = append(m[id.Kind], id.Value)
	}
	return m
}

// factsOfName takes a Name apart. Nothing of one that is malformed stands there but that.
func factsOfName(der []byte) FactsName {
	if len(der) == 0 {
		return FactsName{}
	}
	f := FactsName{DN: pkix.FormatName(der)} // whole: rules compare it
	name, err := pkix.ParseName(der)
	if err != nil {
		return f
	}
	f.Attributes = map[string][]string{}
	for _, rdn := range name {
		for _, a := range rdn {
			value := a.Text
			if !a.IsText {
				value = "#" + hex.EncodeToString(a.Value) // as RFC 4514 section 2.4 writes it
			}
			key := pkix.AttributeTypeOf(a.OID).Name
			f.Attributes[key] = append(f.Attributes[key], value)
		}
	}
	one := func(key string) string {
		if v := f.Attributes[key]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
	f.CommonName, f.SerialNumber = one("commonName"), one("serialNumber")
	f.OrganizationName, f.OrganizationalUnitName = f.Attributes["organizationName"], f.Attributes["organizationalUnitName"]
	return f
}

func factsOfSANs(der []byte) FactsSANs {
	names, err := pkix.ParseGeneralNames(der)
	if err != nil {
		return FactsSANs{Malformed: true}
	}
	f := FactsSANs{DNS: names.DNS, Email: names.Email, URI: names.URI, Other: names.Other}
	for _, ip := range names.IP {
		f.IP = append(f.IP, ip.String())
	}
	return f
}

func factsOfKey(spki []byte) FactsKey {
	if spki == nil {
		return FactsKey{}
	}
	sum := sha256.Sum256(spki)
	f := FactsKey{SHA256: hex.EncodeToString(sum[:])}
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return f
	}
	f.Type = pkix.KeyName(pub)
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		f.Algorithm, f.Bits = "RSA", pub.N.BitLen()
	case *ecdsa.PublicKey:
		f.Algorithm, f.Bits = "EC", pub.Curve.Params().BitSize
	case ed25519.PublicKey:
		f.Algorithm, f.Bits = "Ed25519", 256
	}
	return f
}

func factsOfCertificate(c *x509.Certificate) FactsCertificate {
	f := FactsCertificate{
		Subject: factsOfName(c.RawSubject), Issuer: factsOfName(c.RawIssuer), Serial: factsOfSerial(c.SerialNumber),
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), SHA256: Fingerprint(c),
	}
	for _, e := range c.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			f.SANs = factsOfSANs(e.Value)
		}
	}
	return f
}

func factsOfSerial(n *big.Int) string {
	if n == nil {
		return ""
	}
	return hex.EncodeToString(n.Bytes())
}

// maxFacts bounds what is kept of a request's facts, in bytes of JSON; maxStrangersFacts of those of a stranger, in memory.
const (
	maxFacts          = 32 << 10
	maxStrangersFacts = 2 << 10
)

// keepFacts has a transaction keep the facts of its request: none where nothing was judged, and part of them where they are too many.
func keepFacts(t *Transaction, d *decision) {
	if d.grant == nil {
		return
	}
	f := FactsOf(d.request, d.grant, d.judged)
	t.asked, t.requestHash = askedFrom(&f.Request), f.Request.SHA256
	data, err := json.Marshal(f)
	if err == nil && len(data) > maxFacts {
		data, err = json.Marshal(f.partial())
	}
	if err == nil {
		t.Facts = data
	}
}

// partial is of facts that are too many what the audit trail needs.
func (f *Facts) partial() *Facts {
	q := f.Request
	q.Subject, q.NewSubject = FactsName{DN: cut(q.Subject.DN, eventText)}, FactsName{DN: cut(q.NewSubject.DN, eventText)}
	for _, s := range []*FactsSANs{&q.SANs, &q.NewSANs} {
		n := len(s.DNS) + len(s.IP) + len(s.Email) + len(s.URI) + s.Other
		*s = FactsSANs{Other: n}
	}
	q.Transaction, q.Profile, q.Target.Issuer = cut(q.Transaction, eventText), cut(q.Profile, eventText), cut(q.Target.Issuer, eventText)
	q.Partial, q.Extensions, q.Identifiers, q.Renews = true, nil, nil, FactsCertificate{Serial: q.Renews.Serial}
	return &Facts{Request: q, Requester: cut(f.Requester, eventText), Now: f.Now}
}
