package gateway_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	x509pkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// sealing is an adapter's Seal that keeps what it was given.
type sealing struct {
	keys []crypto.Signer
	fail func(key crypto.Signer) ([]byte, error)
}

func (s *sealing) seal(key crypto.Signer) ([]byte, error) {
	s.keys = append(s.keys, key)
	if s.fail != nil {
		return s.fail(key)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(spki)
	return append([]byte("sealed "), sum[:]...), nil
}

// making lets the gateway make keys of the kinds.
func making(kinds ...string) stage {
	return func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
		g.AllowKeyGen(kinds)
		return gateway.Allowed("")
	}
}

func makes(kinds ...string) func(*world) {
	return func(w *world) { w.enroll = gateway.Pipeline{password{"secret"}, making(kinds...)} }
}

// keygen is a request for a key, in an exchange that confirms.
func (w *world) keygen(wireID, algorithm string, s *sealing) *gateway.Request {
	r := w.exchange(w.request("device-1"), wireID)
	r.PublicKey, r.POP, r.Resume = nil, gateway.POPNone, []byte("a key "+algorithm)
	r.KeyGen = &gateway.KeyGen{Algorithm: algorithm, Wrap: gateway.WrapAsymmetric, Seal: s.seal}
	return r
}

// sealedKey is what the store has of a transaction's.
func (w *world) sealedKey(id string) []byte {
	w.t.Helper()
	t, err := w.store.Transaction(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return t.SealedKey
}

func TestKeyMade(t *testing.T) {
	for _, c := range []struct{ asked, want string }{
		{"", "P-384"}, {"P-256", "P-256"}, {"P-384", "P-384"}, {"P-521", "P-521"}, {"Ed25519", "Ed25519"}, {"RSA-2048", "RSA-2048"}, {gateway.AnyRSA, "RSA-2048"},
	} {
		t.Run(c.asked, func(t *testing.T) {
			var linted []byte
			w := newWorld(t, backendtest.FaultPlan{}, makes("P-384", "P-256", "P-521", "Ed25519", "RSA-2048"), func(w *world) {
				w.shape = func(p *gateway.Profile) {
					p.Shaper = shaper{func(r *gateway.Request, g *gateway.Grant) error { linted = g.PublicKey; return nil }}
					p.Keys = []string{"P-256", "P-384", "P-521", "Ed25519", "RSA>=2048"}
				}
			})
			s := &sealing{}
			r := w.keygen("a", c.asked, s)
			r.CSR = []byte("signed with another key")
			res := w.mustEnroll(r)
			if len(s.keys) != 1 || !res.Unconfirmed || pkix.KeyName(res.Certificate.PublicKey) != c.want {
				t.Fatalf("%d keys, %+v", len(s.keys), res)
			}
			want, _ := (&sealing{}).seal(s.keys[0])
			spki, err := x509.MarshalPKIXPublicKey(s.keys[0].Public())
			if err != nil || !bytes.Equal(res.Certificate.RawSubjectPublicKeyInfo, spki) || !bytes.Equal(linted, spki) {
				t.Errorf("certified %x, shaped with %x, made %x", res.Certificate.RawSubjectPublicKeyInfo, linted, spki)
			}
			if !bytes.Equal(res.Key, want) || !bytes.Equal(w.sealedKey(r.ID), want) {
				t.Errorf("given %x, stored %x", res.Key, w.sealedKey(r.ID))
			}
			tr, err := w.gw.Explain(t.Context(), r.ID)
			if err != nil || !strings.Contains(fmt.Sprint(tr.Verdicts), "made a "+c.want+" key for the device") || !strings.Contains(tr.Note, "with a key that the gateway made") {
				t.Errorf("the trail is %v, %s; %v", tr.Verdicts, tr.Note, err)
			}
			if tr.Intent.CSR != nil {
				t.Errorf("the CA is given a CSR: %q", tr.Intent.CSR)
			}
		})
	}
}

func TestKeyRefused(t *testing.T) {
	broken := func(err error) func(crypto.Signer) ([]byte, error) {
		return func(crypto.Signer) ([]byte, error) { return nil, err }
	}
	for name, c := range map[string]struct {
		enroll gateway.Pipeline // after the password
		keys   []string         // the profile's
		asked  string
		change func(*gateway.Request)
		fail   func(crypto.Signer) ([]byte, error)
		want   gateway.Reason
		says   string // to the client
		sealed int
	}{
		"no stage lets one be made":              {want: gateway.NotAuthorized, says: "this endpoint makes no keys"},
		"no kind":                                {enroll: gateway.Pipeline{making()}, want: gateway.NotAuthorized},
		"another kind":                           {enroll: gateway.Pipeline{making("P-256", "Ed25519")}, asked: "P-384", want: gateway.BadAlgorithm, says: "but P-256, Ed25519"},
		"RSA of any size":                        {enroll: gateway.Pipeline{making("P-256", "Ed25519")}, asked: gateway.AnyRSA, want: gateway.BadAlgorithm, says: "but P-256, Ed25519"},
		"no kind at all":                         {enroll: gateway.Pipeline{making("P-256")}, asked: strings.Repeat("x", 9999), want: gateway.BadAlgorithm, says: "but P-256"},
		"the first of two stages says no":        {enroll: gateway.Pipeline{making("P-256"), making("P-256", "P-384")}, asked: "P-384", want: gateway.BadAlgorithm, says: "but P-256"},
		"the second of two stages says no":       {enroll: gateway.Pipeline{making("P-384", "P-256"), making("P-256")}, asked: "P-384", want: gateway.BadAlgorithm, says: "but P-256"},
		"two stages that have no kind in common": {enroll: gateway.Pipeline{making("P-384"), making("P-256"), making("P-256")}, want: gateway.NotAuthorized},
		"a stage that was denied":                {enroll: gateway.Pipeline{gateway.Not(gateway.Pipeline{making("P-256"), always(gateway.Denied("", "", ""))})}, want: gateway.NotAuthorized},
		"not the profile's":                      {enroll: gateway.Pipeline{making("P-256", "P-384")}, keys: []string{"P-384"}, asked: "P-256", want: gateway.BadAlgorithm, says: "but P-384"},
		"too small for the profile":              {enroll: gateway.Pipeline{making("RSA-2048", "P-256")}, keys: []string{"RSA>=3072", "P-256"}, asked: "RSA-2048", want: gateway.BadAlgorithm, says: "but P-256"},
		"none is the profile's":                  {enroll: gateway.Pipeline{making("P-256")}, keys: []string{"P-384"}, want: gateway.BadAlgorithm},
		"a kind that nobody makes":               {enroll: gateway.Pipeline{making("DSA")}, want: gateway.Internal},
		"with a key of its own":                  {enroll: gateway.Pipeline{making("P-256")}, change: func(r *gateway.Request) { r.PublicKey = []byte{1} }, want: gateway.BadTemplate},
		"with a stage's key": {enroll: gateway.Pipeline{making("P-256"), stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
			g.PublicKey = []byte{1}
			return gateway.Allowed("")
		})}, want: gateway.BadTemplate},
		"not encrypted":                        {enroll: gateway.Pipeline{making("P-256")}, change: func(r *gateway.Request) { r.KeyGen.Wrap = gateway.WrapNone }, want: gateway.Unsupported},
		"it cannot be sealed to the requester": {enroll: gateway.Pipeline{making("P-256")}, fail: broken(gateway.Errorf(gateway.WrongProtection, "no key to encrypt to", "x")), want: gateway.WrongProtection, says: "no key to encrypt to", sealed: 1},
		"it cannot be sealed":                  {enroll: gateway.Pipeline{making("P-256")}, fail: broken(errors.New("x")), want: gateway.Internal, sealed: 1},
		"sealed to nothing":                    {enroll: gateway.Pipeline{making("P-256")}, fail: broken(nil), want: gateway.Internal, sealed: 1},
		"sealing panics":                       {enroll: gateway.Pipeline{making("P-256")}, fail: func(crypto.Signer) ([]byte, error) { panic("x") }, want: gateway.Internal, sealed: 1},
		"the profile refuses":                  {enroll: gateway.Pipeline{making("P-256")}, keys: []string{"shape"}, want: gateway.BadTemplate},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
				w.enroll = append(gateway.Pipeline{password{"secret"}}, c.enroll...)
				w.shape = func(p *gateway.Profile) {
					if p.Keys = c.keys; slices.Equal(c.keys, []string{"shape"}) {
						p.Keys = nil
						p.Shaper = shaper{func(*gateway.Request, *gateway.Grant) error { return gateway.Errorf(gateway.BadTemplate, "no", "no") }}
					}
				}
			})
			s := &sealing{fail: c.fail}
			r := w.keygen("a", c.asked, s)
			if c.change != nil {
				c.change(r)
			}
			_, err := w.gw.Enroll(t.Context(), r)
			if reason(err) != c.want || !strings.Contains(gateway.AsError(err).Detail, c.says) || len(gateway.AsError(err).Detail) > 200 {
				t.Errorf("%v, want %s %q", err, c.want, c.says)
			}
			if len(s.keys) != c.sealed || w.memory.Total() != 0 {
				t.Errorf("%d sealed, %d issued", len(s.keys), w.memory.Total())
			}
			if c.want == gateway.Internal && strings.HasPrefix(name, "a kind that nobody") {
				return // no fault of the request
			}
			tr, err := w.store.Transaction(t.Context(), r.ID)
			if err != nil || tr.State != gateway.StateRefused || tr.SealedKey != nil || tr.Verdicts[len(tr.Verdicts)-1].Decision != gateway.Deny {
				t.Errorf("%+v, %v", tr, err)
			}
		})
	}
}

// Whatever its stages let pass, the gateway names no key in a certificate of which nobody has proven that its holder has it.
func TestPossession(t *testing.T) {
	decrypts := stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
		g.AllowPOP(gateway.POPConfirm)
		return gateway.Allowed("")
	})
	vouches := stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict { g.Vouch(); return gateway.Allowed("") })
	believes := stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
		g.AllowPOP(gateway.POPRA)
		return gateway.Allowed("")
	})
	refuses := always(gateway.Denied(gateway.NotAuthorized, "", "no"))
	for name, c := range map[string]struct {
		pop     gateway.POP
		enroll  gateway.Pipeline
		confirm bool
		relayed bool
		want    gateway.Reason
	}{
		"signature":                    {pop: gateway.POPSignature},
		"bound to the session":         {pop: gateway.POPLinked},
		"bound to another's, by an RA": {pop: gateway.POPSignature, relayed: true, enroll: gateway.Pipeline{vouches}},
		"bound to another's":           {pop: gateway.POPSignature, relayed: true, want: gateway.BadPOP},
		"bound to another's, held":     {pop: gateway.POPSignature, relayed: true, enroll: gateway.Pipeline{always(gateway.Held("look"))}, want: gateway.BadPOP},
		"bound to another's, an RA elsewhere": {pop: gateway.POPSignature, relayed: true, want: gateway.BadPOP,
			enroll: gateway.Pipeline{gateway.AnyOf(gateway.Pipeline{vouches, refuses}, gateway.Pipeline{always(gateway.Allowed(""))})}},
		"none":                          {pop: gateway.POPNone, want: gateway.BadPOP},
		"none, and all that is allowed": {pop: gateway.POPNone, enroll: gateway.Pipeline{decrypts, vouches, believes, making("P-256")}, want: gateway.BadPOP},
		"not said":                      {want: gateway.BadPOP},
		"hearsay":                       {pop: "hearsay", want: gateway.BadPOP},
		"raVerified":                    {pop: gateway.POPRA, enroll: gateway.Pipeline{decrypts, believes}, want: gateway.NotAuthorized},
		"raVerified by an RA":           {pop: gateway.POPRA, enroll: gateway.Pipeline{vouches, believes}},
		"raVerified, and not believed":  {pop: gateway.POPRA, enroll: gateway.Pipeline{vouches, decrypts}, want: gateway.BadPOP},
		"raVerified, in another branch": {pop: gateway.POPRA, enroll: gateway.Pipeline{vouches, gateway.AnyOf(gateway.Pipeline{believes, refuses}, gateway.Pipeline{always(gateway.Allowed(""))})}, want: gateway.BadPOP},
		"to be decrypted":               {pop: gateway.POPConfirm, confirm: true, enroll: gateway.Pipeline{vouches, believes}, want: gateway.BadPOP},
		"to be decrypted, allowed":      {pop: gateway.POPConfirm, confirm: true, enroll: gateway.Pipeline{decrypts}},
		"to be decrypted, unconfirmed":  {pop: gateway.POPConfirm, enroll: gateway.Pipeline{decrypts}, want: gateway.Internal},
		"to be decrypted, held":         {pop: gateway.POPConfirm, confirm: true, enroll: gateway.Pipeline{always(gateway.Held("look"))}, want: gateway.BadPOP},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.enroll = append(gateway.Pipeline{password{"secret"}}, c.enroll...) })
			r := w.exchange(w.request("device-1"), "a")
			r.POP, r.Confirm, r.Relayed = c.pop, c.confirm, c.relayed
			_, err := w.gw.Enroll(t.Context(), r)
			if reason(err) != c.want || (c.want == "") != (w.memory.Total() == 1) {
				t.Errorf("%v, want %q; %d issued", err, c.want, w.memory.Total())
			}
			if c.want != "" && w.state(r.ID) != gateway.StateRefused {
				t.Errorf("it is %s", w.state(r.ID))
			}
		})
	}
	// Where what nobody confirms is kept, it would prove nothing; nor does it where that is so only since it was issued.
	t.Run("to be decrypted, and kept", func(t *testing.T) {
		w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.keep, w.enroll = true, gateway.Pipeline{password{"secret"}, decrypts} })
		r := w.exchange(w.request("device-1"), "a")
		r.POP = gateway.POPConfirm
		if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.BadPOP || w.memory.Total() != 0 {
			t.Errorf("%v; %d issued", err, w.memory.Total())
		}
		w.keep = false
		w.swap()
		later, signed := w.exchange(w.request("device-2"), "b"), w.exchange(w.request("device-3"), "c")
		later.POP = gateway.POPConfirm
		w.mustEnroll(later)
		w.mustEnroll(signed)
		w.keep = true
		w.swap()
		w.work(time.Hour)
		if w.state(later.ID) != gateway.StateRejected || w.state(signed.ID) != gateway.StateIssued {
			t.Errorf("not proven: %s; signed: %s", w.state(later.ID), w.state(signed.ID))
		}
		w.work(time.Second)
		if !w.revoked(later.ID) || w.revoked(signed.ID) {
			t.Errorf("revoked: %v, %v", w.revoked(later.ID), w.revoked(signed.ID))
		}
	})
	t.Run("of a key that is still to be made", func(t *testing.T) {
		w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.enroll = gateway.Pipeline{password{"secret"}, decrypts, making("P-256")} })
		r := w.keygen("a", "", &sealing{})
		r.POP = gateway.POPConfirm
		if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.BadPOP {
			t.Error(err)
		}
	})
}

// A request without a key that asks for none gets none.
func TestNoKey(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, makes("P-256"))
	r := w.request("device-1")
	r.PublicKey = nil
	if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.BadTemplate || w.state(r.ID) != gateway.StateRefused {
		t.Errorf("%v, %s", err, w.state(r.ID))
	}
}

// A CA that takes PKCS#10 only gets one for what is granted, signed with the key that was made.
func TestKeyForCSR(t *testing.T) {
	san := []byte{0x30, 0x0a, 0x82, 8, 'h', 'o', 's', 't', '.', 'e', 'x', 'a'}
	granted := distinguished(t, "granted")
	for _, kind := range []string{"P-256", "P-384", "P-521", "Ed25519", "RSA-2048"} {
		for name, subject := range map[string][]byte{"subject": granted, "no subject": {0x30, 0}} {
			w := newWorld(t, backendtest.FaultPlan{}, makes(kind), func(w *world) {
				w.desc = func(d *backend.Description) { d.Forms = []backend.Form{backend.FormPKCS10} }
				w.shape = func(p *gateway.Profile) {
					p.KeyUsage |= x509.KeyUsageKeyAgreement | x509.KeyUsageDecipherOnly
					p.Shaper = shaper{func(_ *gateway.Request, g *gateway.Grant) error {
						g.Subject, g.SubjectAltName = subject, san
						g.Extensions = []x509pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}
						return nil
					}}
				}
			})
			s := &sealing{}
			r := w.keygen("a", "", s)
			r.CSR = []byte("signed with another key")
			w.mustEnroll(r)
			tr, err := w.store.Transaction(t.Context(), r.ID)
			if err != nil {
				t.Fatal(err)
			}
			csr, err := pkix.ParseCSR(tr.Intent.CSR)
			if err != nil {
				t.Fatal(err)
			}
			spki, err := x509.MarshalPKIXPublicKey(s.keys[0].Public())
			if err != nil || csr.CheckSignature() != nil || !bytes.Equal(csr.PublicKey, spki) || !bytes.Equal(csr.Subject, subject) {
				t.Errorf("%s, %s: %v, key %x, subject %x; %v", kind, name, csr.CheckSignature(), csr.PublicKey, csr.Subject, err)
			}
			want := []x509pkix.Extension{
				{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: name == "no subject", Value: san},
				{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 3, 7, 0x88, 0x80}},
				{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2}},
				{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}},
			}
			if fmt.Sprint(csr.Extensions) != fmt.Sprint(want) {
				t.Errorf("%s, %s: extensions\n%v, want\n%v", kind, name, csr.Extensions, want)
			}
		}
	}
}

// The one line that a request leaves in the log says when it was not the device that made the key, and when no signature proves it.
func TestUncommonKeysAreLogged(t *testing.T) {
	var log strings.Builder
	w := newWorld(t, backendtest.FaultPlan{}, makes("P-384"), func(w *world) { w.logs = &log })
	w.mustEnroll(w.keygen("a", "", &sealing{}))
	r := w.keygen("b", "P-521", &sealing{})
	if _, err := w.gw.Enroll(t.Context(), r); err == nil {
		t.Error("a key was made that the stages do not allow")
	}
	w.mustEnroll(w.request("c"))
	var keys []string
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "msg=transaction ") {
			_, rest, _ := strings.Cut(line, " key=\"")
			key, _, _ := strings.Cut(rest, "\"")
			keys = append(keys, key)
		}
	}
	if want := []string{"P-384, made here", "asked to be made here", ""}; !slices.Equal(keys, want) {
		t.Errorf("%q, want %q\n%s", keys, want, log.String())
	}
}
