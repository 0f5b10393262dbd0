package gateway

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"time"
)

// Profile is a configured kind of certificate: where it comes from and what it is allowed to be.
type Profile struct {
	Name        string
	Backend     string        // the configured backend
	Issuer      string        // backend.CA.Name, "" for the backend's default
	Standby     []Route       // asked, in this order, while those before cannot be; each of another backend
	Validity    time.Duration // of a certificate
	Jitter      time.Duration // a certificate ends earlier by a random part of this, which its request's ID decides
	Backdate    time.Duration // NotBefore lies this far in the past, for devices whose clock is slow
	KeyUsage    x509.KeyUsage
	ExtKeyUsage []asn1.ObjectIdentifier
	Keys        []string // that are certified, as a configuration writes them (P-256, RSA-3072, RSA>=3072); nil: all. A stage judges them, not the gateway
	Shaper      Shaper   // nil: as asked for
	Linter      Linter   // nil for none
}

// Grant is what will be certified. The gateway fills it from request and profile, stages shape it, issuing
// records it before the CA is asked and compares the certificate with it.
type Grant struct {
	Requester      string                  // who authenticated, e.g. "password:factory"; set by Authenticate
	Device         string                  // which device this is; set by NameDevice
	Profile        string                  // Profile.Name
	Backend        string                  // Profile.Backend, or that of a standby
	Issuer         string                  // the Route's
	Subject        []byte                  // DER Name
	SubjectAltName []byte                  // DER GeneralNames, nil for none
	PublicKey      []byte                  // DER SubjectPublicKeyInfo, nil until a generated key is made
	NotBefore      time.Time               // UTC, whole seconds
	NotAfter       time.Time               // UTC, whole seconds
	KeyUsage       x509.KeyUsage           // 0 for no extension
	ExtKeyUsage    []asn1.ObjectIdentifier // nil for no extension
	Extensions     []pkix.Extension        // further ones, certified as they stand
	Replaces       *Replaced               // the certificate that this one succeeds
	Revokes        *Replaced               // the certificate of which a stage found that the request may revoke it
	Owned          *Owned                  // query: the certificate that the requester has shown to be its own

	Inventory *Device // the device's entry, once a stage has looked it up; nobody changes it
	Vendor    string  // the vendor under whose CA the device authenticated

	Attributes map[string]string // what the operator's services said of the request; a stage that adds some replaces the map

	Registration *Registration // the identifier that the certificate names, alone; set by a stage that has read it from Inventory

	Forward string // the backend that the message is passed on to, unchanged; set by a stage at the end of the pipeline

	generates []string            // kinds of keys that the gateway may make for the device; empty: none
	asked     bool                // a stage has said which
	proofs    []POP               // that suffice beside a signature by the key
	authentic []string            // Credential.String of those that stages accepted
	alias     string              // the name that the device had before it was recognised
	recorded  bool                // Device is a name of our own records, and no identifier that somebody else states
	vouched   bool                // an RA asks in the device's place
	profile   *Profile            // that of Profile
	profiles  map[string]*Profile // that the endpoint offers
	chosen    bool                // a stage has chosen the profile
	until     time.Time           // EndBy; zero: the profile says alone
	id        string              // of the request
	jitter    time.Duration       // by which NotAfter is earlier than the profile's validity
}

// Replaced identifies a certificate of ours that a renewal succeeds, or a revocation ends.
type Replaced struct {
	Issuer []byte // DER Name
	Serial []byte // big-endian
}

// Owned identifies a certificate of ours whose holder asks, and says where others of the same device may have been issued.
type Owned struct {
	Replaced
	Endpoints []string // names
}

// Authenticate records who the requester is. Only stages that have proof call it.
func (g *Grant) Authenticate(c Credential) {
	if g.Requester == "" {
		g.Requester = c.String()
	}
	g.authentic = append(slices.Clip(g.authentic), c.String())
}

// Authenticated reports whether a stage has accepted the credential: what it names counts then.
func (g *Grant) Authenticated(c Credential) bool { return slices.Contains(g.authentic, c.String()) }

// Vouch records that a registration authority asks in the device's place: its word for the device and for the possession of
// the key counts. Only a stage calls it that has found the requester to be an RA that may.
func (g *Grant) Vouch() { g.vouched = true }

// Vouched reports whether a registration authority asks in the device's place.
func (g *Grant) Vouched() bool { return g.vouched }

// AllowKeyGen records which kinds of keys (as pkix.KeyName has them) the gateway may make for the device; the first when the
// request leaves it open. Where several stages say so, what all of them allow counts. Without it a request for a key is denied.
func (g *Grant) AllowKeyGen(kinds []string) {
	if g.asked {
		kinds = slices.DeleteFunc(slices.Clone(g.generates), func(kind string) bool { return !slices.Contains(kinds, kind) })
	}
	g.generates, g.asked = kinds, true
}

// AllowPOP records that an RA's word (POPRA), or decrypting the certificate (POPConfirm), suffices as proof of the key's possession.
// Without it such a request is denied.
func (g *Grant) AllowPOP(p POP) { g.proofs = append(slices.Clip(g.proofs), p) }

// NameDevice records which device this is. It reports false when another stage named another device:
// the caller denies then, since no request may speak for two.
func (g *Grant) NameDevice(name string) bool {
	g.recorded = false
	if g.Device == "" {
		g.Device = name
	}
	return g.Device == name || g.alias != "" && g.alias == name || g.Inventory.goesBy(name)
}

// NameRecorded is NameDevice with the name under which the gateway itself has recorded the device: with a challenge that was made
// for it, or a certificate that it has.
func (g *Grant) NameRecorded(name string) bool {
	first := g.Device == "" || g.recorded
	ok := g.NameDevice(name)
	g.recorded = first && ok
	return ok
}

// Recorded reports whether Device is nothing but a name of the gateway's own records, which stands for whatever identifiers the
// device's entry has; what a certificate or a user names may be another device's identifier of another kind.
func (g *Grant) Recorded() bool { return g.recorded }

// Recognise records that the device is the one of an inventory entry: its name takes the place of the identifier that an
// earlier stage found, and further stages may name it by either. It reports false when an earlier stage named another device.
func (g *Grant) Recognise(d *Device) bool {
	if g.Device != "" && !d.goesBy(g.Device) || g.Inventory != nil && g.Inventory.Name != d.Name {
		return false
	}
	if g.Device == "" {
		g.recorded = true
	}
	if g.Device != d.Name {
		g.alias = g.Device
	}
	g.Device, g.Inventory = d.Name, d
	return true
}

// goesBy reports whether a name is one of the device's, in whatever way it is spelled. A nil device has none.
func (d *Device) goesBy(name string) bool {
	if d == nil || name == "" {
		return false
	}
	return name == d.Name || slices.ContainsFunc(d.Identifiers, func(i DeviceID) bool { return NormalIdentifier(i.Kind, name) == i.Value })
}

// ChooseProfile makes the grant one of another profile that the endpoint offers: validity, usages and CA are then that one's.
// It reports false when the endpoint does not offer it.
func (g *Grant) ChooseProfile(name string) bool {
	p := g.profiles[name]
	if g.profile != nil && name == g.profile.Name {
		p = g.profile // an endpoint with one profile lists none
	}
	if p == nil {
		return false
	}
	if p != g.profile {
		g.use(p)
	}
	g.chosen = true
	return true
}

// ProfileChosen reports whether a stage has chosen the profile: another one must not change it.
func (g *Grant) ProfileChosen() bool { return g.chosen }

// use takes what a profile gives.
func (g *Grant) use(p *Profile) {
	start := g.NotBefore
	if g.profile != nil {
		start = start.Add(g.profile.Backdate)
	}
	g.profile, g.Profile, g.Backend, g.Issuer = p, p.Name, p.Backend, p.Issuer
	g.NotBefore = start.Add(-p.Backdate)
	// RFC 5280 section 4.1.2.5: the period includes both ends.
	g.jitter = spread("jitter", g.id, p.Jitter)
	g.NotAfter = start.Add(p.Validity - time.Second - g.jitter)
	g.KeyUsage, g.ExtKeyUsage = p.KeyUsage, p.ExtKeyUsage
	if !g.until.IsZero() {
		g.EndBy(g.until)
	}
}

// EndBy has what will be certified end at a time, or before it: whatever profile a later stage chooses, and however long it is
// held. It never lengthens.
func (g *Grant) EndBy(t time.Time) {
	t = t.UTC().Truncate(time.Second)
	if g.until.IsZero() || t.Before(g.until) {
		g.until = t
	}
	if g.NotAfter.After(t) {
		g.NotAfter = t
	}
}

// EndsBy is the time that EndBy was told, zero when it was not.
func (g *Grant) EndsBy() time.Time { return g.until }

// NewGrant is the grant that a pipeline starts with at an endpoint, of its own profile.
func NewGrant(r *Request, e *Endpoint, now time.Time) *Grant { return newGrant(r, e, e.Profile, now) }

// newGrant starts a grant from what is asked for and what the profile gives.
func newGrant(r *Request, e *Endpoint, p *Profile, now time.Time) *Grant {
	san, _ := r.Extension(oidSubjectAltName)
	g := &Grant{
		Subject:        bytes.Clone(r.Subject),
		SubjectAltName: bytes.Clone(san),
		PublicKey:      bytes.Clone(r.PublicKey),
		NotBefore:      now.UTC().Truncate(time.Second),
		profiles:       e.Profiles,
		id:             r.ID,
	}
	g.use(p)
	return g
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
