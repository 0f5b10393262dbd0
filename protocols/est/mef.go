package est

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/wire"
)

// Type is a kind of endpoint whose settings belong together; "" is none in particular.
type Type string

// TypeMEF is the M2M Enrolment Function of oneM2M TS-0003 clause 8.3.6.2. Clients authenticate in the handshake on every operation,
// and by nothing else; /csrattrs names the challengePassword and the identifier that is registered for the client; requests carry that
// challengePassword. cmd/muster holds listeners, profiles and pipelines against it.
const TypeMEF Type = "onem2m-mef"

// Challenge is "" or supplied.
type Challenge string

// ChallengeSupplied is the one value of Config.Challenge.
const ChallengeSupplied Challenge = "supplied"

// Allow names something that a type demands and that an endpoint does without.
type Allow string

// AllowUnconstrainedCA is the one value of Config.Allow: CA certificates without name constraints.
const AllowUnconstrainedCA Allow = "unconstrained-ca"

// checkType refuses settings that the type rules out, and those that only it has.
func (c Config) checkType() error {
	switch c.Type {
	case "":
		if c.Challenge != "" {
			return errors.New("challenge: it is for `type: onem2m-mef` alone")
		}
		if len(c.Allow) > 0 {
			return errors.New("allow: it is for `type: onem2m-mef` alone")
		}
		return nil
	case TypeMEF:
	case TypeMEFPassword:
		if err := c.checkMEFPassword(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("type: %q is none: onem2m-mef, onem2m-mef-password, or leave it out%s", c.Type, strictyaml.Suggest(string(c.Type), []string{string(TypeMEF), string(TypeMEFPassword)}))
	}
	if c.Challenge != "" && c.Challenge != ChallengeSupplied {
		return fmt.Errorf("challenge: %q is not known: supplied, or leave it out", c.Challenge)
	}
	for _, a := range c.Allow {
		if a != AllowUnconstrainedCA {
			return fmt.Errorf("allow: %q is not known (known: %s)", a, AllowUnconstrainedCA)
		}
	}
	if c.CSRAttrs == CSRAttrsNone {
		return errors.New("csrattrs: none: an MEF names the identity attribute (oneM2M TS-0003 clause 8.3.6.2.2): leave it out")
	}
	if c.HTTPAuth != nil && c.Type == TypeMEF {
		return errors.New("http-auth: an MEF's clients do not log in over HTTP (oneM2M TS-0003 clause 8.3.6.2.1): leave it out")
	}
	return nil
}

// mef reports whether the endpoint is an MEF.
func (x *exchange) mef() bool { return x.endpoint != nil && x.endpoint.Config.Type == TypeMEF }

// admit refuses to an MEF's clients what they ask for without having authenticated: both sides do, before the first operation
// (oneM2M TS-0003 clause 8.3.6.2.2, precondition B), /cacerts too. Enrollments and /eecerts are judged by their pipelines; of the
// others the client learns when a stage knows it.
func (x *exchange) admit(segment string) *wire.Refusal {
	if x.mefByPassword() {
		return x.admitUser(segment)
	}
	if !x.mef() {
		return nil
	}
	if len(x.R.TLS.PeerCertificates) == 0 {
		return wire.Refused(gateway.NotAuthorized, "clients authenticate here with a certificate in the TLS handshake, on every operation (oneM2M TS-0003 clause 8.3.6.2.1); a password does not count", nil)
	}
	switch segment {
	case "cacerts", "csrattrs", "crls":
	default:
		return nil
	}
	if ref := x.authenticate(); ref != nil {
		return ref
	}
	return x.register()
}

// register finds the identifier that is registered for the client.
func (x *exchange) register() *wire.Refusal {
	reg, err := x.h.gateway.Registered(x.R.Context(), x.Request)
	if err != nil {
		return &wire.Refusal{Err: err}
	}
	x.registration = reg
	return nil
}

// announcedIdentity is what asks the client, in CsrAttrs, for the identifier that is registered for it, and for what the profile wants.
// It is made once for each type of identifier.
func (x *exchange) announcedIdentity() ([]byte, error) {
	profiles := x.h.gateway.ProfilesOf(x.endpoint.Name)
	if len(profiles) == 0 || x.registration == nil {
		return nil, errors.New("the endpoint has no profile, or the client is not known")
	}
	p, reg := profiles[0], x.registration
	kept := x.endpoint.announcedTo[reg.Type]
	if kept == nil {
		return nil, fmt.Errorf("an identifier of the type %q", reg.Type)
	}
	a := kept.Load()
	if a == nil || a.profile != p {
		der, err := announceTo(p, x.endpoint.Config.CSRAttrs, reg.Tag())
		if err != nil {
			return nil, err
		}
		a = &announcement{p, der}
		kept.Store(a)
	}
	return a.der, nil
}

// announcedToMEF are the CsrAttrs for the client: challengePassword, and what names the identifier that is registered for it.
func (x *exchange) announcedToMEF() ([]byte, error) {
	identity, err := x.announcedIdentity()
	if err != nil {
		return nil, err
	}
	challenge := attrOrOID{oid: oidChallengePassword}
	if x.endpoint.Config.Challenge == ChallengeSupplied {
		value := cryptobyte.NewBuilder(nil)
		value.AddASN1(cryptobyteasn1.PrintableString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(x.suppliedChallenges()[0])) })
		challenge.isAttribute, challenge.value = true, value.BytesOrPanic()
	}
	return sequence(func(b *cryptobyte.Builder) {
		challenge.add(b)
		b.AddBytes(identity)
	})
}

// announceTo makes what stands in CsrAttrs beside challengePassword, for clients whose identifier is a GeneralName of the tag: the
// template of RFC 9908 section 3.4, which says of what kind the name is, and with auto what older clients read (RFC 8951 section 4), which
// names the extension alone.
func announceTo(p *gateway.Profile, form CSRAttrs, tag uint8) ([]byte, error) {
	wanted := p.NamesWanted()
	wanted.SAN = []uint8{tag}
	list, err := askedFor(p, wanted, true, form == CSRAttrsAuto)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	for _, a := range list {
		a.add(&b)
	}
	return b.Bytes()
}

// newAnnouncedTo has a place for each type of identifier.
func newAnnouncedTo() map[string]*atomic.Pointer[announcement] {
	m := map[string]*atomic.Pointer[announcement]{}
	for _, kind := range []string{gateway.KindCSEID, gateway.KindAEID, gateway.KindNodeID} {
		m[kind] = new(atomic.Pointer[announcement])
	}
	return m
}

// challengeWindow is for how long a supplied challenge is the same. It counts in its own window and in the next.
const challengeWindow = 10 * time.Minute

// suppliedChallenges are the values of challengePassword that count for the client now, the newest first, none unless the endpoint supplies
// them: base64 of HMAC-SHA-256 over endpoint, client certificate and time. Nothing is kept of them, and replicas that have the same
// secret know each other's.
func (x *exchange) suppliedChallenges() []string {
	if x.endpoint.Config.Challenge != ChallengeSupplied {
		return nil
	}
	key, err := hkdf.Expand(sha256.New, x.h.secret, "onem2m-mef challenge", sha256.Size)
	if err != nil {
		panic("est: " + err.Error()) // for lengths beyond 255 hashes only
	}
	window := x.h.now().Unix() / int64(challengeWindow/time.Second)
	client := sha256.Sum256(x.R.TLS.PeerCertificates[0].Raw)
	var values []string
	for _, w := range []int64{window, window - 1} {
		mac := hmac.New(sha256.New, key)
		mac.Write(client[:]) // of fixed length, as is the window
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(w)))
		mac.Write([]byte(x.endpoint.Name))
		values = append(values, base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return values
}

// linkToMEF verifies the challengePassword, which every request carries (oneM2M TS-0003 clauses 8.3.6.2.2 and 8.3.6.2.3): the
// connection's channel binding, or the value that /csrattrs has supplied.
func (x *exchange) linkToMEF(c *certification) *wire.Refusal {
	supplied := x.suppliedChallenges()
	also := ""
	if len(supplied) > 0 {
		also = ", or the value that /csrattrs has given (again after at most 10 minutes)"
	}
	own, kind := channelBinding(x.R.TLS), bindingName(x.R.TLS)
	x.Request.POP = gateway.POPSignature
	challenged := false
	for _, b := range c.bindings {
		hint := ""
		if b.attribute == nameChallengePassword {
			challenged, hint = true, also
			if among(supplied, b.value) {
				continue
			}
		}
		if _, err := checkBinding(own, kind, []binding{b}); err != nil {
			return wire.Refused(gateway.BadPOP, err.Error()+hint, err)
		}
	}
	if !challenged {
		return wire.Refused(gateway.BadPOP, "the request has no challengePassword, which /csrattrs asks for (oneM2M TS-0003 clause 8.3.6.2.2): it has to be the base64 of "+kind+also, nil)
	}
	x.Request.POP = gateway.POPLinked
	return nil
}

// among compares a value with each of the list, in the same time whichever it is.
func among(list []string, value string) bool {
	found := 0
	for _, s := range list {
		found |= subtle.ConstantTimeCompare([]byte(s), []byte(value))
	}
	return found == 1
}
