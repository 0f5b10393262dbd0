package gateway_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// recognise asks as one whose request the pipeline finds as w.asks says, and gives what it was told.
func (w *queryWorld) recognise(answer func(*gateway.Recognised) error) (*gateway.Recognised, *gateway.Result, error) {
	w.t.Helper()
	var told *gateway.Recognised
	r := w.request("unused")
	r.Subject, r.PublicKey, r.Content, r.POP, r.Operation = nil, nil, nil, gateway.POPNone, gateway.Query
	res, err := w.gw.Recognise(w.t.Context(), r, func(_ context.Context, who *gateway.Recognised) ([]byte, string, error) {
		told = who
		if answer != nil {
			return nil, "", answer(who)
		}
		return []byte("profile"), "profile given", nil
	})
	return told, res, err
}

func TestRecogniseWhoAsks(t *testing.T) {
	w := newQueryWorld(t)
	cert, nobodys := w.has("device-a", "est"), w.has("", "est")
	stored := len(w.transactions())
	as := func(device string, owned *gateway.Owned) {
		w.asks = func(g *gateway.Grant) {
			if device != "" {
				g.NameDevice(device)
			}
			g.Owned = owned
		}
	}

	as("device-a", nil)
	who, res, err := w.recognise(nil)
	if err != nil || who.Device != "device-a" || who.Certificate != nil || who.Requester == "" || string(res.Answer) != "profile" || res.Kind != gateway.ResultAnswer {
		t.Errorf("%+v %+v %v", who, res, err)
	}
	if !strings.Contains(w.logged.String(), "profile given") {
		t.Errorf("the log: %s", &w.logged)
	}
	as("device-a", shows(cert, "est"))
	if who, _, err := w.recognise(nil); err != nil || who.Certificate == nil || string(who.Certificate.DER) != string(cert.Raw) {
		t.Errorf("by its certificate: %+v %v", who, err)
	}
	if n := len(w.transactions()); n != stored {
		t.Errorf("an answer was stored: %d transactions, before %d", n, stored)
	}

	as("", nil)
	if who, _, err := w.recognise(nil); reason(err) != gateway.NotAuthorized || who != nil {
		t.Errorf("no device: %+v %v", who, err)
	}
	as("device-a", shows(nobodys, "est"))
	if who, _, err := w.recognise(nil); reason(err) != gateway.NotAuthorized || who != nil {
		t.Errorf("a certificate that is no device's: %+v %v", who, err)
	}
	as("device-a", nil)
	if _, res, err := w.recognise(func(*gateway.Recognised) error { return gateway.Errorf(gateway.BadAlgorithm, "no", "no") }); reason(err) != gateway.BadAlgorithm || res != nil {
		t.Errorf("what answer refuses: %+v %v", res, err)
	}
	waits := w.has("device-a", "est", func(r *gateway.Request) { r.Confirm, r.WireID = true, "waits" })
	as("device-a", shows(waits, "est"))
	if who, _, err := w.recognise(nil); reason(err) != gateway.Revoked || who != nil {
		t.Errorf("not confirmed: %+v %v", who, err)
	}
	as("device-a", shows(cert, "est"))
	if _, _, err := w.gw.RevokeCertificate(t.Context(), cert.RawIssuer, cert.SerialNumber.Bytes(), 1, "operator", "test"); err != nil {
		t.Fatal(err)
	}
	if who, _, err := w.recognise(nil); reason(err) != gateway.Revoked || who != nil {
		t.Errorf("revoked: %+v %v", who, err)
	}
	as("device-a", shows(cert, "est"))
	w.reads = func() error { return errors.New("down") }
	if who, _, err := w.recognise(nil); reason(err) != gateway.Unavailable || who != nil {
		t.Errorf("the store fails: %+v %v", who, err)
	}
	w.reads = func() error { return nil }
	ends := w.has("device-a", "est")
	w.clock.add(73 * time.Hour)
	as("device-a", shows(ends, "est"))
	if who, _, err := w.recognise(nil); reason(err) != gateway.Revoked || who != nil {
		t.Errorf("expired: %+v %v", who, err)
	}
	// A use is committed with a transaction, and here is none.
	w.query = gateway.Pipeline{password{"secret"}, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
		g.NameDevice("device-a")
		return gateway.Allowed("", gateway.Claim{Key: "x", Limit: 1})
	})}
	w.put()
	if who, _, err := w.recognise(nil); reason(err) != gateway.NotAuthorized || who != nil {
		t.Errorf("a stage that counts uses: %+v %v", who, err)
	}
}

// A maker's certificate is no way to fill the store: all of the maker's devices have one.
func TestRecogniseDevicesOfNobodys(t *testing.T) {
	w := newQueryWorld(t)
	w.query = gateway.Pipeline{stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
		g.Authenticate(r.Credentials[0])
		w.asks(g)
		return gateway.Denied(gateway.NotAuthorized, "no", "no")
	})}
	w.put()
	refused := func(kind gateway.CredentialKind, asks func(*gateway.Grant)) int {
		before := len(w.transactions())
		w.asks = asks
		r := w.request("unused")
		r.Subject, r.PublicKey, r.Content, r.POP, r.Operation = nil, nil, nil, gateway.POPNone, gateway.Query
		r.Credentials = []gateway.Credential{{Kind: kind, ID: "f00d"}}
		if _, err := w.gw.Recognise(t.Context(), r, nil); reason(err) != gateway.NotAuthorized {
			t.Error(err)
		}
		return len(w.transactions()) - before
	}
	nobody := func(*gateway.Grant) {}
	if n := refused(gateway.CredentialDevice, nobody); n != 0 {
		t.Errorf("a device that no inventory knows: %d refusals are stored", n)
	}
	if n := refused(gateway.CredentialDevice, func(g *gateway.Grant) { g.Recognise(&gateway.Device{Name: "device-a"}) }); n != 1 {
		t.Errorf("a device of the inventory: %d refusals are stored", n)
	}
	if n := refused(gateway.CredentialSigner, nobody); n != 1 {
		t.Errorf("by a certificate that was issued here: %d refusals are stored", n)
	}
}

func TestIssueChallenge(t *testing.T) {
	w := newQueryWorld(t)
	c := gateway.IssuedChallenge{Endpoint: "est", Device: "device-a", Subject: "CN=a", Uses: 1, NotAfter: w.clock.now().Add(time.Hour), By: "endpoint ota"}
	issue := func(c gateway.IssuedChallenge) error {
		return w.gw.IssueChallenge(t.Context(), gateway.Secret("s3cret"), c)
	}
	if err := issue(c); err != nil {
		t.Fatal(err)
	}
	if err := issue(c); err != nil {
		t.Errorf("the same again: %v", err)
	}
	for name, change := range map[string]func(*gateway.IssuedChallenge){
		"endpoint": func(c *gateway.IssuedChallenge) { c.Endpoint = "other" }, "device": func(c *gateway.IssuedChallenge) { c.Device = "device-b" },
		"subject": func(c *gateway.IssuedChallenge) { c.Subject = "CN=b" }, "profile": func(c *gateway.IssuedChallenge) { c.Profile = "x" },
	} {
		other := c
		change(&other)
		if err := issue(other); reason(err) != gateway.NotAuthorized {
			t.Errorf("another %s: %v", name, err)
		}
	}
	// One that was used is not good again.
	sum := sha256.Sum256([]byte("used"))
	spent := gateway.IssuedChallenge{ID: hex.EncodeToString(sum[:8])}
	again := func() error { return w.gw.IssueChallenge(t.Context(), gateway.Secret("used"), c) }
	if err := again(); err != nil {
		t.Fatal(err)
	}
	rt := &gateway.Runtime{Backends: map[string]backend.Backend{"ca": w.ca}, Endpoints: map[string]*gateway.Endpoint{"est": {
		Name: "est", Protocol: gateway.EST, Profile: &gateway.Profile{Name: "device", Backend: "ca", Validity: time.Hour},
		Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {password{"secret"}, stage(func(*gateway.Request, *gateway.Grant) gateway.Verdict {
			return gateway.Allowed("", gateway.Claim{Key: spent.Key(), Limit: 1})
		})}},
	}}}
	if err := w.gw.Swap(t.Context(), rt); err != nil {
		t.Fatal(err)
	}
	w.has("device-a", "est")
	if err := again(); reason(err) != gateway.NotAuthorized || !strings.Contains(err.Error(), "has been used") {
		t.Errorf("used: %v", err)
	}
	// It is not good again by being asked for again.
	w.clock.add(time.Hour + time.Second)
	c.NotAfter = w.clock.now().Add(time.Hour)
	if err := issue(c); reason(err) != gateway.NotAuthorized || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
}

// late is a store that does not see a challenge at once, as if a twin of the request were about to make it.
type late struct {
	gateway.Store
	blind *bool
}

func (s late) Challenge(ctx context.Context, hash []byte) (*gateway.IssuedChallenge, error) {
	if *s.blind {
		*s.blind = false
		return nil, gateway.ErrNotFound
	}
	return s.Store.Challenge(ctx, hash)
}

// full is a store that can be read, and not written.
type full struct{ gateway.Store }

func (full) PutChallenge(context.Context, *gateway.IssuedChallenge, gateway.AuditEvent) error {
	return errors.New("the disk is full")
}

func TestIssueChallengeCannotBeStored(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(in *world) { in.wrap = func(s gateway.Store) gateway.Store { return full{s} } })
	err := w.gw.IssueChallenge(t.Context(), gateway.Secret("s3cret"), gateway.IssuedChallenge{Endpoint: "est", Uses: 1, NotAfter: w.clock.now().Add(time.Hour)})
	if reason(err) != gateway.Unavailable || !strings.Contains(err.Error(), "the disk is full") {
		t.Error(err)
	}
}

func TestIssueChallengeTwins(t *testing.T) {
	blind := false
	w := newWorld(t, backendtest.FaultPlan{}, func(in *world) { in.wrap = func(s gateway.Store) gateway.Store { return late{s, &blind} } })
	c := gateway.IssuedChallenge{Endpoint: "est", Device: "device-a", Uses: 1, NotAfter: w.clock.now().Add(time.Hour), By: "endpoint ota"}
	issue := func() error { return w.gw.IssueChallenge(t.Context(), gateway.Secret("s3cret"), c) }
	if err := issue(); err != nil {
		t.Fatal(err)
	}
	blind = true
	if err := issue(); err != nil || blind {
		t.Errorf("a twin that was first: %v", err)
	}
	blind, c.Device = true, "device-b"
	if err := issue(); reason(err) != gateway.NotAuthorized {
		t.Errorf("a twin of another device: %v", err)
	}
}
