package e2e

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

const replayHeldConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 90d}
  mobile: {backend: local, issuer: rsa, validity: 90d, key-usage: [digitalSignature, keyEncipherment]}
endpoints:
  cmp: &cmp
    protocol: cmp
    listeners: [http]
    profile: device
    cmp: {clock-skew: any}
    enroll: [shared-secret: {secrets: {factory: {file: factory.secret}, other: {file: other.secret}}}, names: {}, approval: {approvers: 1}]
  cmp2: *cmp
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    enroll: &challenged [challenge: {file: challenges}, names: {}, approval: {approvers: 1}]
  scep2: {protocol: scep, listeners: [http], profile: mobile, enroll: *challenged}
`

// heldReplays says what becomes of the requests and polls that were recorded when people have to decide: while they have not, when one was
// approved and the other one denied, when the approved one's certificate is revoked, and after the time for repeats. What was denied
// may be asked for again, which people have to decide on again ("ip" and "pending").
var heldReplays = map[string][4]string{
	"CMP approved, ir":                          {"ip", "certificate", "transactionIdInUse", "transactionIdInUse"},
	"CMP approved, ir, another endpoint":        {"duplicateCertReq", "duplicateCertReq", "duplicateCertReq", "duplicateCertReq"},
	"CMP approved, pollReq":                     {"pollRep", "certificate", "certRevoked", "certRevoked"},
	"CMP approved, pollReq, another endpoint":   {"badRequest", "badRequest", "badRequest", "badRequest"},
	"CMP approved, pollReq by another device":   {"notAuthorized", "notAuthorized", "notAuthorized", "notAuthorized"},
	"CMP denied, ir":                            {"ip", "notAuthorized", "notAuthorized", "duplicateCertReq"},
	"CMP denied, ir, another endpoint":          {"duplicateCertReq", "ip", "ip", "ip"},
	"CMP denied, pollReq":                       {"pollRep", "notAuthorized", "notAuthorized", "notAuthorized"},
	"CMP denied, pollReq, another endpoint":     {"badRequest", "badRecipientNonce", "badRecipientNonce", "badRecipientNonce"},
	"CMP denied, pollReq by another device":     {"notAuthorized", "notAuthorized", "notAuthorized", "notAuthorized"},
	"SCEP approved, PKCSReq":                    {"pending", "certificate", "failInfo 2", "failInfo 2"},
	"SCEP approved, PKCSReq, another endpoint":  {"failInfo 2", "failInfo 2", "failInfo 2", "failInfo 2"},
	"SCEP approved, CertPoll":                   {"pending", "certificate", "failInfo 2", "failInfo 2"},
	"SCEP approved, CertPoll by another device": {"failInfo 4", "failInfo 4", "failInfo 4", "failInfo 4"},
	"SCEP denied, PKCSReq":                      {"pending", "failInfo 2", "failInfo 2", "pending"},
	"SCEP denied, CertPoll":                     {"pending", "failInfo 2", "failInfo 2", "failInfo 2"},
}

// A request that people have to decide on, and the polls for it, recorded and sent again: none of it goes past them.
func TestReliabilityReplayHeld(t *testing.T) {
	if !long {
		t.Parallel()
	}
	g := configured(t, replayHeldConfig, "factory.secret", "the secret of device 1\n", "other.secret", "the secret of device 2\n", "challenges", heldSecret(t, "the challenge"))
	w := &replays{instance: g, t: t, told: map[string]bool{}}
	all, ids := map[string]func() string{}, map[string]string{}
	confirmed := w.recordHeldCMP(all, ids)
	w.recordHeldSCEP(all, ids)

	sent := 0
	round := func(when string, column, issued, held int) {
		for _, what := range slices.Sorted(maps.Keys(all)) {
			outcome := all[what]()
			sent++
			if want := heldReplays[what][column]; outcome != want {
				t.Errorf("%s: %s: %s, want %q", when, what, outcome, want)
			}
		}
		if n, waiting := len(w.issued()), len(listing[admin.Transaction](g, "--state", "held")); n != issued || waiting != held {
			t.Errorf("%s: %d certificates, want %d; %d are held, want %d", when, n, issued, waiting, held)
		}
	}
	round("held", 0, 0, 4)
	g.again()
	round("restarted", 0, 0, 4)
	for name, id := range ids {
		if strings.Contains(name, "approved") {
			g.muster("approve", id)
		} else {
			g.muster("deny", id, "--reason", "unknown")
		}
	}
	round("decided", 1, 2, 1)
	confirmed()
	for serial := range w.issued() {
		g.muster("revoke", serial, "--reason", "cessationOfOperation")
	}
	round("revoked", 2, 2, 1)
	w.repeatsOver()
	round("after the time for repeats", 3, 2, 2)
	if len(all) != len(heldReplays) {
		t.Errorf("%d requests were recorded, the table has %d", len(all), len(heldReplays))
	}
	found(finding{test: "held requests and polls sent again", n: sent, twice: len(w.issued()) - 2})
}

// recordHeldCMP records an ir and a pollReq each of two devices. What it returns confirms the certificate of the approved one.
func (w *replays) recordHeldCMP(all map[string]func() string, ids map[string]string) (confirm func()) {
	w.t.Helper()
	outcome := func(endpoint string, der []byte) string {
		o := w.cmpOutcome(&recorded{}, endpoint, der, nil)
		if o == "another" || o == "told before" {
			return "certificate"
		}
		return o
	}
	for _, name := range []string{"approved", "denied"} {
		d := w.cmpDevice("replayed-" + name)
		d.url += "/p/cmp"
		d.ref, d.secret = "factory", []byte("the secret of device 1")
		send := func(body cmpmsg.Body) []byte {
			der := d.message(body)
			answer, err := d.post(der)
			if err != nil {
				w.t.Fatal(err)
			}
			if _, err := d.take(answer); err != nil {
				w.t.Fatal(err)
			}
			return der
		}
		poll := &cmpmsg.PollReq{ReqIDs: []*big.Int{new(big.Int)}}
		ir, asked := send(d.request(cmpmsg.TypeIR)), send(poll)
		ids["CMP "+name] = w.held("replayed-" + name)
		all["CMP "+name+", ir"] = func() string { return outcome("cmp", ir) }
		all["CMP "+name+", ir, another endpoint"] = func() string { return outcome("cmp2", ir) }
		all["CMP "+name+", pollReq"] = func() string { return outcome("cmp", asked) }
		all["CMP "+name+", pollReq, another endpoint"] = func() string { return outcome("cmp2", asked) }
		all["CMP "+name+", pollReq by another device"] = func() string {
			other := *d
			other.t, other.ref, other.secret = w.t, "other", []byte("the secret of device 2")
			return outcome("cmp", other.message(poll))
		}
		if name == "approved" {
			confirm = func() {
				send(poll)
				if d.cert == nil {
					w.t.Fatal("no certificate after the approval")
				}
				send(d.certConf())
			}
		}
	}
	return confirm
}

// recordHeldSCEP records a PKCSReq and a CertPoll each of two devices.
func (w *replays) recordHeldSCEP(all map[string]func() string, ids map[string]string) {
	w.t.Helper()
	stranger := w.scepAt()
	for _, name := range []string{"approved", "denied"} {
		d := w.scepAt()
		d.key = rsaKey(w.t, 2048)
		d.self = d.certify("SCEP SIGNER", nil)
		// IssuerAndSubject (RFC 8894 section 3.3.3).
		envelope, err := cms.Encrypt([]byte{0x30, 4, 0x30, 0, 0x30, 0}, d.ra, cms.AES128)
		if err != nil {
			w.t.Fatal(err)
		}
		outcome := func(d *scepDevice, endpoint string, m *scepMessage) string {
			to := *d
			to.path = "/scep/" + endpoint
			a, err := to.send(m)
			if err != nil {
				w.t.Fatal(err)
			}
			switch {
			case a.cert != nil:
				return "certificate"
			case a.status == "3":
				return "pending"
			case a.http != 200:
				return fmt.Sprint("HTTP ", a.http)
			}
			return "failInfo " + a.failInfo
		}
		request := d.message(scepWish{name: "replayed-scep-" + name, challenge: "the challenge"})
		poll := d.message(scepWish{kind: "20", tid: request.tid, envelope: envelope})
		if first := outcome(d, "scep", request); first != "pending" {
			w.t.Fatal(first)
		}
		ids["SCEP "+name] = w.held("replayed-scep-" + name)
		all["SCEP "+name+", PKCSReq"] = func() string { return outcome(d, "scep", request) }
		all["SCEP "+name+", CertPoll"] = func() string { return outcome(d, "scep", poll) }
		if name == "approved" {
			all["SCEP approved, PKCSReq, another endpoint"] = func() string { return outcome(d, "scep2", request) }
			all["SCEP approved, CertPoll by another device"] = func() string {
				return outcome(stranger, "scep", stranger.message(scepWish{kind: "20", tid: request.tid, envelope: envelope}))
			}
		}
	}
}
