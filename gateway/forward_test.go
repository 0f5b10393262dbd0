package gateway_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// upstream is a backend that passes messages on to a function.
type upstream struct {
	backend.Backend // nil: what is not below is not asked for
	exchange        func(id string, message []byte) ([]byte, error)
	revokes         func(*backend.RevokeRequest) error // nil: it cannot, and says so
	mu              sync.Mutex
	asked           []string
}

func (u *upstream) Revoke(_ context.Context, r *backend.RevokeRequest) error {
	return u.revokes(r)
}
func (u *upstream) Describe(context.Context) (*backend.Description, error) {
	d := &backend.Description{Name: "upstream", Forms: []backend.Form{backend.FormExchange}, Capabilities: []backend.Capability{backend.CapExchange}}
	if u.revokes != nil {
		d.Capabilities = append(d.Capabilities, backend.CapRevoke)
	}
	return d, nil
}
func (u *upstream) CACertificates(context.Context) ([]backend.CA, error) { return nil, nil }
func (u *upstream) Exchange(_ context.Context, id string, message []byte) ([]byte, error) {
	u.mu.Lock()
	u.asked = append(u.asked, string(message))
	u.mu.Unlock()
	return u.exchange(id, message)
}

// passing is a Forwarding of words: what an answer says is what it means.
type passing struct {
	message string
	certs   map[string]*x509.Certificate // by the word behind "cert "
}

type passedRecord map[string]string // message -> answer

func (p passing) Answered(exchange []byte) []byte {
	var rec passedRecord
	if json.Unmarshal(exchange, &rec) == nil && rec[p.message] != "" {
		return []byte(rec[p.message])
	}
	return nil
}

func (p passing) Judge(exchange, answer []byte) (*gateway.Forwarded, error) {
	rec := passedRecord{}
	_ = json.Unmarshal(exchange, &rec)
	rec[p.message] = string(answer)
	kept, err := json.Marshal(rec)
	out := &gateway.Forwarded{State: gateway.StateForwarded, Note: string(answer), Exchange: kept}
	word, rest, _ := strings.Cut(string(answer), " ")
	switch word {
	case "wait":
	case "cert", "implicit", "other":
		out.Certificate = p.certs[rest]
		if word == "implicit" {
			out.State = gateway.StateIssued
		}
		if word == "other" {
			err = errors.New("another public key")
		}
	case "confirmed":
		out.State = gateway.StateIssued
	case "given-up":
		out.State = gateway.StateRejected
	case "refused":
		out.State, out.Reason = gateway.StateFailed, gateway.NotAuthorized
	case "revoked":
		c := p.certs[rest]
		out.State, out.Revokes = gateway.StateRevoked, &gateway.CertID{Issuer: c.RawIssuer, Serial: c.SerialNumber, Reason: 1}
	case "panic":
		panic("judge")
	default:
		err = errors.New("garbage")
	}
	return out, err
}

// forwards is the stage.
type forwards struct{ to string }

func (forwards) Name() string         { return "forward" }
func (f forwards) ForwardsTo() string { return f.to }
func (f forwards) Decide(_ context.Context, _ *gateway.Request, g *gateway.Grant) gateway.Verdict {
	g.Forward = f.to
	return gateway.Allowed("on to " + f.to)
}

// passWorld is a world whose endpoint passes everything on.
type passWorld struct {
	*world
	up    *upstream
	certs map[string]*x509.Certificate
}

func newPassWorld(t *testing.T, stages ...gateway.Stage) *passWorld {
	t.Helper()
	w := &passWorld{world: newWorld(t, backendtest.FaultPlan{}), up: &upstream{}, certs: map[string]*x509.Certificate{}}
	w.enroll = append(append(gateway.Pipeline{password{"secret"}}, stages...), forwards{"up"})
	w.revoke = gateway.Pipeline{signer{}, forwards{"up"}}
	w.put()
	return w
}

// put puts the configuration into force, after a restart too.
func (w *passWorld) put() {
	w.t.Helper()
	err := w.gw.Swap(w.t.Context(), &gateway.Runtime{
		Endpoints: map[string]*gateway.Endpoint{"est": {
			Name: "est", Protocol: gateway.EST, Profile: &gateway.Profile{Name: "device", Backend: "ca", Validity: time.Hour}, KeepUnconfirmed: w.keep,
			Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: w.enroll, gateway.Revoke: w.revoke},
		}},
		Backends: map[string]backend.Backend{"ca": described{w.ca, nil}, "up": w.up}, Rates: w.rates,
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// restart is the world's, with this configuration.
func (w *passWorld) restart() {
	w.t.Helper()
	own := w.enroll
	w.enroll, w.revoke = gateway.Pipeline{password{"secret"}}, nil
	w.world.restart()
	w.enroll, w.revoke = own, gateway.Pipeline{signer{}, forwards{"up"}}
	w.put()
}

// cert has the memory CA make a certificate, as the authority behind would.
func (w *passWorld) cert(name string, r *gateway.Request) {
	w.t.Helper()
	i, err := w.memory.Issue(w.t.Context(), &backend.IssueRequest{ID: "up-" + name, Template: backend.Template{
		Subject: r.Subject, PublicKey: r.PublicKey, NotBefore: w.clock.now(), NotAfter: w.clock.now().Add(90 * 24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	if w.certs[name], err = x509.ParseCertificate(i.Certificate); err != nil {
		w.t.Fatal(err)
	}
}

// ask makes a request of a message that begins a transaction.
func (w *passWorld) ask(message string) *gateway.Request {
	r := w.request("device-1")
	r.Raw, r.WireID, r.Content = []byte(message), "wire-"+message, []byte(message)
	r.Resume = []byte("resume")
	r.Exchange, r.Forwarding, r.Confirm = []byte("{}"), passing{message, w.certs}, true
	return r
}

// later is a further message of the one who began it.
func (w *passWorld) later(first *gateway.Request, message string) *gateway.Request {
	r := w.again(first)
	r.Raw, r.Forwarding = []byte(message), passing{message, w.certs}
	return r
}

// answers has the upstream answer, in order.
func (w *passWorld) answers(list ...string) {
	w.up.exchange = func(string, []byte) ([]byte, error) {
		if len(list) == 0 {
			w.t.Error("asked again")
			return nil, errors.New("asked again")
		}
		a := list[0]
		list = list[1:]
		if a == "down" {
			return nil, errors.New("down")
		}
		return []byte(a), nil
	}
}

func (w *passWorld) want(res *gateway.Result, err error, answer string) {
	w.t.Helper()
	if err != nil || res.Kind != gateway.ResultAnswer || string(res.Answer) != answer {
		w.t.Fatalf("%+v, %v; want %q", res, err, answer)
	}
}

func (w *passWorld) tx(id string) *gateway.Transaction {
	w.t.Helper()
	t, err := w.store.Transaction(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

// A message goes on unchanged; what comes back is given back unchanged and stored; the same message gets it again without that
// anybody is asked; the certificate counts once it is confirmed.
func TestForward(t *testing.T) {
	w := newPassWorld(t)
	r := w.ask("ir")
	w.cert("a", r)
	w.answers("cert a", "confirmed")
	res, err := w.gw.Enroll(t.Context(), r)
	w.want(res, err, "cert a")
	tx := w.tx(r.ID)
	if tx.State != gateway.StateForwarded || tx.Backend != "up" || tx.Certificate == nil || !bytes.Equal(tx.Certificate.DER, w.certs["a"].Raw) || tx.Intent != nil {
		t.Fatalf("%+v", tx)
	}
	w.restart()
	res, err = w.gw.Enroll(t.Context(), w.again(r))
	w.want(res, err, "cert a")
	conf := w.later(r, "certConf")
	res, err = w.gw.Forward(t.Context(), r.ID, conf)
	w.want(res, err, "confirmed")
	if tx = w.tx(r.ID); tx.State != gateway.StateIssued {
		t.Errorf("%s", tx.State)
	}
	res, err = w.gw.Forward(t.Context(), r.ID, w.later(r, "certConf"))
	w.want(res, err, "confirmed")
	res, err = w.gw.Enroll(t.Context(), w.again(r))
	w.want(res, err, "cert a")
	if _, err := w.gw.Forward(t.Context(), r.ID, w.later(r, "certConf 2")); !errors.Is(err, gateway.ErrStale) {
		t.Errorf("a message after the end: %v", err)
	}
	if !slices.Equal(w.up.asked, []string{"ir", "certConf"}) {
		t.Errorf("passed on: %q", w.up.asked)
	}
	c, err := w.store.Certificate(t.Context(), w.certs["a"].RawIssuer, w.certs["a"].SerialNumber.Bytes())
	if err != nil || c.State != gateway.StateIssued || c.Backend != "up" || c.Transaction != r.ID {
		t.Errorf("%+v, %v", c, err)
	}
}

// What the pipeline refuses never leaves the house; nor does what could not be checked when it comes back.
func TestForwardRefused(t *testing.T) {
	w := newPassWorld(t)
	w.answers()
	wrong := w.ask("ir")
	wrong.Credentials[0].Secret = gateway.Secret("guessed")
	noKey := w.ask("no key")
	noKey.PublicKey, noKey.KeyGen = nil, &gateway.KeyGen{}
	encr := w.ask("encrCert")
	encr.POP = gateway.POPConfirm
	dumb := w.ask("no adapter")
	dumb.Forwarding = nil
	for r, want := range map[*gateway.Request]gateway.Reason{wrong: gateway.Unauthenticated, noKey: gateway.Unsupported, encr: gateway.Unsupported, dumb: gateway.Unsupported} {
		if _, err := w.gw.Enroll(t.Context(), r); reason(err) != want {
			t.Errorf("%s: %v", r.Raw, err)
		}
	}
	for name, change := range map[string]func(){
		"held":      func() { w.enroll = gateway.Pipeline{password{"secret"}, always(gateway.Held("wait")), forwards{"up"}} },
		"anonymous": func() { w.enroll = gateway.Pipeline{forwards{"up"}} },
	} {
		change()
		w.put()
		if _, err := w.gw.Enroll(t.Context(), w.ask(name)); reason(err) != gateway.NotAuthorized {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w.up.asked) > 0 {
		t.Errorf("passed on: %q", w.up.asked)
	}
	w.enroll = gateway.Pipeline{password{"secret"}, forwards{"ca"}}
	err := w.gw.Swap(t.Context(), &gateway.Runtime{
		Endpoints: map[string]*gateway.Endpoint{"est": {Name: "est", Protocol: gateway.EST, Profile: &gateway.Profile{Backend: "ca"}, Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: w.enroll}}},
		Backends:  map[string]backend.Backend{"ca": described{w.ca, nil}},
	})
	if err == nil || !strings.Contains(err.Error(), "passes nothing on") {
		t.Errorf("a backend without Exchange: %v", err)
	}
}

// Without an answer that is fit to be given back the transaction stays open, and the same message is passed on again.
func TestForwardAgain(t *testing.T) {
	w := newPassWorld(t)
	r := w.ask("ir")
	w.cert("a", r)
	w.answers("down", "garbage", "panic", "", "implicit a")
	for i, want := range []gateway.Reason{gateway.Unavailable, gateway.Internal, gateway.Internal, gateway.Unavailable} {
		if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != want {
			t.Fatalf("%d: %v", i, err)
		}
		if all := w.transactions(); len(all) != 1 || all[0].State != gateway.StateForwarded || !strings.Contains(all[0].Note, "nothing to give back from up") {
			t.Fatalf("%d: %+v", i, all)
		}
	}
	res, err := w.gw.Enroll(t.Context(), w.again(r))
	w.want(res, err, "implicit a")
	if all := w.transactions(); len(all) != 1 || all[0].State != gateway.StateIssued || len(w.up.asked) != 5 {
		t.Errorf("%+v, asked %d times", all, len(w.up.asked))
	}
}

// No record, no answer; and the message after it finds its way.
func TestForwardNotRecorded(t *testing.T) {
	s := &watched{}
	w := newPassWorld(t)
	w.wrap = func(inner gateway.Store) gateway.Store { s.Store = inner; return s }
	w.restart()
	r := w.ask("ir")
	w.cert("a", r)
	w.answers("cert a", "cert a")
	s.settling = func(context.Context) error { return errors.New("disk full") }
	if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Unavailable {
		t.Fatalf("answered without a record: %v", err)
	}
	s.settling = nil
	res, err := w.gw.Enroll(t.Context(), w.again(r))
	w.want(res, err, "cert a")
}

// A certificate for another key ends it: it is never given back, and revoked where that can be done.
func TestForwardOtherKey(t *testing.T) {
	for _, can := range []bool{true, false} {
		w := newPassWorld(t)
		var revoked []*backend.RevokeRequest
		if can {
			w.up.revokes = func(q *backend.RevokeRequest) error { revoked = append(revoked, q); return nil }
			w.put()
		}
		r := w.ask("ir")
		w.cert("b", w.request("somebody"))
		w.answers("other b")
		if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Internal {
			t.Fatalf("given back: %v", err)
		}
		if tx := w.tx(r.ID); tx.State != gateway.StateFailed || tx.Certificate == nil {
			t.Errorf("%+v", tx)
		}
		w.work(time.Second)
		if (len(revoked) == 1) != can || can && !bytes.Equal(revoked[0].Serial, w.certs["b"].SerialNumber.Bytes()) {
			t.Errorf("revoked %v, can %t", revoked, can)
		}
	}
}

// A refusal ends it, with its claims given back; a certificate that the client does not take counts no more.
func TestForwardEnds(t *testing.T) {
	claim := always(gateway.Allowed("", gateway.Claim{Key: "once", Limit: 1}))
	w := newPassWorld(t, claim)
	r := w.ask("refused")
	w.answers("refused no")
	res, err := w.gw.Enroll(t.Context(), r)
	w.want(res, err, "refused no")
	if tx := w.tx(r.ID); tx.State != gateway.StateFailed || tx.Reason != gateway.NotAuthorized {
		t.Errorf("%+v", tx)
	}
	r = w.ask("ir") // the claim is there again
	w.cert("a", r)
	w.answers("cert a", "given-up")
	res, err = w.gw.Enroll(t.Context(), r)
	w.want(res, err, "cert a")
	other := w.ask("another key")
	other.Resume = []byte("another wish")
	if _, err := w.gw.Enroll(t.Context(), other); reason(err) != gateway.NotAuthorized {
		t.Errorf("the claim is used twice: %v", err)
	}
	res, err = w.gw.Forward(t.Context(), r.ID, w.later(r, "no thanks"))
	w.want(res, err, "given-up")
	if tx := w.tx(r.ID); tx.State != gateway.StateRejected {
		t.Errorf("%+v", tx)
	}
	w.answers("wait")
	if _, err = w.gw.Enroll(t.Context(), w.again(other)); err != nil {
		t.Errorf("the claim was not given back: %v", err)
	}
}

// Whoever begins anew, because an answer got lost, goes on with the transaction that stands open, claims and all. The authority
// behind may give the same certificate, or another one in its place.
func TestForwardResumed(t *testing.T) {
	for _, again := range []string{"cert a", "cert b"} {
		w := newPassWorld(t, always(gateway.Allowed("", gateway.Claim{Key: "once", Limit: 1})))
		r := w.ask("ir")
		w.cert("a", r)
		w.cert("b", r)
		w.answers("cert a", again, "confirmed")
		res, err := w.gw.Enroll(t.Context(), r)
		w.want(res, err, "cert a")
		anew := w.again(r)
		anew.WireID, anew.Raw, anew.Content, anew.Forwarding = "wire-anew", []byte("ir anew"), []byte("ir anew"), passing{"ir anew", w.certs}
		res, err = w.gw.Enroll(t.Context(), anew)
		w.want(res, err, again)
		res, err = w.gw.Forward(t.Context(), r.ID, w.later(anew, "certConf"))
		w.want(res, err, "confirmed")
		tx := w.tx(r.ID)
		if tx.State != gateway.StateIssued || tx.WireID != "wire-anew" || !bytes.Equal(tx.Certificate.DER, w.certs[strings.TrimPrefix(again, "cert ")].Raw) || len(w.transactions()) != 1 {
			t.Errorf("%s: %+v", again, tx)
		}
	}
}

// The same certificate again after the end is the requester's own; in another's transaction it is an alarm.
func TestForwardCertificateTwice(t *testing.T) {
	w := newPassWorld(t)
	r := w.ask("ir")
	w.cert("a", r)
	w.answers("implicit a", "implicit a", "implicit a")
	res, err := w.gw.Enroll(t.Context(), r)
	w.want(res, err, "implicit a")
	anew := w.ask("ir anew")
	res, err = w.gw.Enroll(t.Context(), anew)
	w.want(res, err, "implicit a")
	if tx := w.tx(anew.ID); tx.State != gateway.StateFailed || tx.Reason != gateway.DuplicateCert || tx.Certificate != nil {
		t.Errorf("%+v", tx)
	}
	w.enroll = gateway.Pipeline{stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
		g.Authenticate(gateway.Credential{Kind: gateway.CredentialPassword, ID: "somebody"})
		return gateway.Allowed("")
	}), forwards{"up"}}
	w.put()
	other := w.ask("of somebody")
	other.Resume = nil
	if _, err := w.gw.Enroll(t.Context(), other); reason(err) != gateway.Internal {
		t.Errorf("another's certificate: %v", err)
	}
	if tx := w.tx(r.ID); tx.State != gateway.StateIssued || tx.Certificate == nil {
		t.Errorf("whose it is: %+v", tx)
	}
}

// What never ends is closed: without a certificate after 30 days, with one a day after the last message.
func TestForwardExpires(t *testing.T) {
	w := newPassWorld(t, always(gateway.Allowed("", gateway.Claim{Key: "device", Limit: 2})))
	waits := w.ask("waits")
	w.answers("wait", "wait")
	res, err := w.gw.Enroll(t.Context(), waits)
	w.want(res, err, "wait")
	w.work(29 * 24 * time.Hour)
	if s := w.state(waits.ID); s != gateway.StateForwarded {
		t.Fatalf("%s after 29 days", s)
	}
	res, err = w.gw.Forward(t.Context(), waits.ID, w.later(waits, "poll"))
	w.want(res, err, "wait")
	w.work(24 * time.Hour)
	if s := w.state(waits.ID); s != gateway.StateFailed {
		t.Fatalf("%s after 30 days", s)
	}
	certified := w.ask("ir")
	certified.Resume = []byte("other")
	w.cert("a", certified)
	w.answers("cert a")
	res, err = w.gw.Enroll(t.Context(), certified)
	w.want(res, err, "cert a")
	w.work(23 * time.Hour)
	if s := w.state(certified.ID); s != gateway.StateForwarded {
		t.Fatalf("%s after 23 hours", s)
	}
	w.work(time.Hour)
	if s := w.state(certified.ID); s != gateway.StateRejected {
		t.Fatalf("%s after a day", s)
	}
	// The claim of what may have been issued stays; that of what was not confirmed is there again.
	w.answers("wait")
	third := w.ask("third")
	third.Resume = nil
	if _, err := w.gw.Enroll(t.Context(), third); err != nil {
		t.Errorf("the claim of the unconfirmed was not given back: %v", err)
	}
	fourth := w.ask("fourth")
	fourth.Resume = nil
	if _, err := w.gw.Enroll(t.Context(), fourth); reason(err) != gateway.NotAuthorized {
		t.Errorf("the claim of the unknown was given back: %v", err)
	}
}

// A revocation goes the same way, and its certificate counts no more here when the authority behind says so.
func TestForwardRevocation(t *testing.T) {
	w := newPassWorld(t)
	r := w.ask("ir")
	w.cert("a", r)
	w.answers("implicit a", "down", "revoked a")
	res, err := w.gw.Enroll(t.Context(), r)
	w.want(res, err, "implicit a")
	w.revoke = gateway.Pipeline{signer{}, allows(w.certs["a"]), forwards{"up"}}
	w.put()
	rr := w.rr(w.certs["a"], "rr")
	rr.Raw, rr.Exchange, rr.Forwarding = []byte("rr"), []byte("{}"), passing{"rr", w.certs}
	if _, err := w.gw.Revoke(t.Context(), rr); reason(err) != gateway.Unavailable {
		t.Fatal(err)
	}
	if c := w.tx(r.ID).Certificate; !c.RevokedAt.IsZero() {
		t.Error("revoked without a word from upstream")
	}
	res, err = w.gw.Revoke(t.Context(), w.again(rr))
	w.want(res, err, "revoked a")
	if c := w.tx(r.ID).Certificate; c.RevokedAt.IsZero() || c.Revocation != 1 {
		t.Errorf("%+v", c)
	}
	res, err = w.gw.Revoke(t.Context(), w.again(rr))
	w.want(res, err, "revoked a")
	if len(w.up.asked) != 3 || w.state(rr.ID) != gateway.StateRevoked {
		t.Errorf("asked %q, %s", w.up.asked, w.state(rr.ID))
	}
	// What an RA asks about a certificate that is not ours is for those behind to say; a device's is not.
	unknown := &x509.Certificate{RawIssuer: w.certs["a"].RawIssuer, SerialNumber: big.NewInt(4711)}
	w.certs["unknown"] = unknown
	for device, want := range map[string]gateway.Reason{"": "", "device-1": gateway.UnknownCert} {
		w.revoke = gateway.Pipeline{signer{device}, forwards{"up"}}
		w.put()
		w.answers("revoked unknown")
		rr := w.rr(unknown, "rr of "+device)
		rr.Raw, rr.Forwarding = []byte("rr"), passing{"rr", w.certs}
		if _, err := w.gw.Revoke(t.Context(), rr); reason(err) != want {
			t.Errorf("device %q: %v", device, err)
		}
	}
}

// A crash at any point loses nothing: the same message ends with one certificate.
func TestForwardCrashes(t *testing.T) {
	for _, point := range gateway.CrashPoints {
		t.Run(point, func(t *testing.T) {
			w := newPassWorld(t)
			w.opts.Crash = func(at string) {
				if at == point {
					panic("crash")
				}
			}
			w.restart()
			r := w.ask("ir")
			w.cert("a", r)
			w.up.exchange = func(string, []byte) ([]byte, error) { return []byte("cert a"), nil }
			func() {
				defer func() {
					if recover() == nil {
						t.Error("it did not crash")
					}
				}()
				w.gw.Enroll(t.Context(), r) //nolint:errcheck // it crashes
			}()
			w.opts.Crash = nil
			w.restart()
			res, err := w.gw.Enroll(t.Context(), w.again(r))
			w.want(res, err, "cert a")
			if all := w.transactions(); len(all) != 1 || all[0].State != gateway.StateForwarded {
				t.Errorf("%+v", all)
			}
		})
	}
}

// The line of a later message says whose transaction it goes on with.
func TestForwardIsLogged(t *testing.T) {
	w := newPassWorld(t)
	var log strings.Builder
	w.logs = &log
	w.restart()
	r := w.ask("ir")
	w.answers("wait", "wait")
	if _, err := w.gw.Enroll(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	log.Reset()
	if _, err := w.gw.Forward(t.Context(), r.ID, w.later(r, "poll")); err != nil {
		t.Fatal(err)
	}
	if line := log.String(); !strings.Contains(line, "requester="+w.tx(r.ID).Requester) || !strings.Contains(line, "goes on with "+r.ID) {
		t.Error(line)
	}
}
