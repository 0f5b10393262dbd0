package cmp

import (
	"bytes"
	"errors"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

const day = 24 * time.Hour

// carry sends a body in a file.
func (c *client) carry(body cmpmsg.Body) *cmpmsg.Message {
	c.w.t.Helper()
	return c.carried(c.message(body))
}

func (c *client) carried(der []byte) *cmpmsg.Message {
	c.w.t.Helper()
	answer, err := c.w.handler.Process(c.w.t.Context(), "ran", der)
	if err != nil {
		c.w.t.Fatal(err)
	}
	return c.accept(der, answer)
}

// The messageTime of what is carried (RFC 9810 section 5.1.1): ten days lie between each two steps: request, answer, certConf, pkiconf. The same messages over HTTP are too old.
func TestFilesTakeTheirTime(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	c.info = []cmpmsg.InfoTypeAndValue{confirmWaitTime(testTime)}
	ir := c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	w.now = w.now.Add(10 * day)
	if fail, _, _ := failure(c.send(ir)); fail != cmpmsg.BadTime {
		t.Fatalf("over HTTP: %s", fail)
	}
	m := c.carried(ir)
	cert := certificate(t, m, cmpmsg.TypeIP)
	r := w.gateway.last(t)
	if r.Transport != TransportFile || r.Source != (netip.Addr{}) || r.ConfirmWait != 14*day || r.Endpoint != "ran" || !bytes.Equal(r.Raw, ir) {
		t.Errorf("%+v", r)
	}
	until, ok := m.Header.Info(cmpmsg.OIDConfirmWaitTime)
	if want := confirmWaitTime(w.now.Add(14 * day)).Value; !ok || !bytes.Equal(until, want) {
		t.Errorf("confirmWaitTime %x, want %x", until, want)
	}
	// The same file again, and the same message over HTTP: one transaction, one answer.
	first, err := w.handler.Process(t.Context(), "ran", ir)
	if err != nil {
		t.Fatal(err)
	}
	if again := w.post(ir); !bytes.Equal(first, again) {
		t.Error("the same message has another answer over HTTP")
	}
	c.info = nil
	conf := c.message(confirmation(certHash(cert), 0))
	w.now = w.now.Add(10 * day)
	if fail, _, _ := failure(c.send(conf)); fail != cmpmsg.BadTime {
		t.Errorf("certConf over HTTP: %s", fail)
	}
	if _, ok := c.carried(conf).Body.(*cmpmsg.PKIConf); !ok || w.gateway.tx(t).State != gateway.StateIssued {
		t.Error("not confirmed")
	}
	w.now = w.now.Add(15*day + time.Second)
	c.txid, c.peer = random(16), nil
	old := c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-2"}.body(t))
	w.now = w.now.Add(14*day + time.Second)
	if fail, text, _ := failure(c.carried(old)); fail != cmpmsg.BadTime || !strings.Contains(text, "336h0m0s") {
		t.Errorf("after more than 14 days: %s, %s", fail, text)
	}
}

// What comes over HTTP keeps the endpoint's own times.
func TestHTTPBesideFiles(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	c.info = []cmpmsg.InfoTypeAndValue{confirmWaitTime(testTime)}
	m := c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	if until, _ := m.Header.Info(cmpmsg.OIDConfirmWaitTime); !bytes.Equal(until, confirmWaitTime(w.now.Add(5*time.Minute)).Value) {
		t.Errorf("confirmWaitTime %x", until)
	}
	if r := w.gateway.last(t); r.ConfirmWait != 0 || r.Transport != "" {
		t.Errorf("%+v", r)
	}
}

// A held request is polled for by file, too, and answered once it is decided.
func TestPollByFile(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return nil, gateway.StateHeld }
	c := w.vendorClient("device-1")
	q := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}
	if s := response(t, c.carry(q.body(t)), cmpmsg.TypeIP).Status.Status; s != cmpmsg.StatusWaiting {
		t.Fatalf("%s", s)
	}
	asked := w.gateway.last(t)
	poll := &cmpmsg.PollReq{ReqIDs: []*big.Int{new(big.Int)}}
	w.now = w.now.Add(3 * day)
	if _, ok := c.carry(poll).Body.(*cmpmsg.PollRep); !ok {
		t.Fatal("no pollRep")
	}
	tx := w.gateway.tx(t)
	w.gateway.settle(tx, asked)
	sent := c.message(poll)
	w.now = w.now.Add(3 * day)
	certificate(t, c.carried(sent), cmpmsg.TypeIP)
}

// Everything that is refused over HTTP is refused here, in the same words.
func TestFilesAreJudged(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	c.secret = []byte("another")
	body := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t)
	if fail, _, _ := failure(w.macClient("ref-1").carry(&cmpmsg.PKIConf{})); fail != cmpmsg.BadRequest {
		t.Errorf("an unsupported body: %s", fail)
	}
	if fail, _, _ := failure(c.carry(body)); fail != cmpmsg.BadMessageCheck || len(w.gateway.enrolled) != 0 {
		t.Errorf("a wrong secret: %s", fail)
	}
}

func TestNoAnswerToFiles(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{Limits: wire.Limits{MaxBody: 4096}}})
	whole := w.macClient("ref-1").message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	identity := w.identity
	for name, tt := range map[string]struct {
		endpoint string
		message  []byte
		reason   gateway.Reason
		detail   string
		noted    bool
		before   func()
	}{
		"no such endpoint": {"ram", whole, gateway.NotAuthorized, `"ram"`, false, nil},
		"the default":      {"", whole, gateway.NotAuthorized, `""`, false, nil},
		"no CMP":           {"ran", []byte("-----BEGIN CERTIFICATE-----"), gateway.Malformed, "does not parse, at byte", true, nil},
		"nothing":          {"ran", nil, gateway.Malformed, "does not parse", true, nil},
		"a half":           {"ran", whole[:len(whole)/2], gateway.Malformed, "does not parse", true, nil},
		"too large":        {"ran", append(whole, make([]byte, 4097-len(whole))...), gateway.Malformed, "larger than 4096 bytes", true, nil},
		"no key to sign":   {"ran", whole, gateway.Unavailable, "cannot sign", true, func() { w.identity = nil }},
	} {
		w.gateway.rejected, w.identity = nil, identity
		if tt.before != nil {
			tt.before()
		}
		answer, err := w.handler.Process(t.Context(), tt.endpoint, tt.message)
		var e *gateway.Error
		if answer != nil || !errors.As(err, &e) || e.Reason != tt.reason || !strings.Contains(e.Detail, tt.detail) {
			t.Errorf("%s: %d bytes, %v", name, len(answer), err)
		}
		if (len(w.gateway.rejected) == 1) != tt.noted {
			t.Errorf("%s: noted %v", name, w.gateway.rejected)
		}
		if (tt.endpoint != "ran") != errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.identity = identity
	w.gateway.panics = "Enroll"
	if fail, _, _ := failure(w.macClient("ref-1").carried(whole)); fail != cmpmsg.SystemFailure {
		t.Errorf("a panic: %s", fail)
	}
	w.gateway.panics = "Reject"
	if answer, err := w.handler.Process(t.Context(), "ran", nil); answer != nil || gateway.AsError(err).Reason != gateway.Internal {
		t.Errorf("two panics: %q, %v", answer, err)
	}
}

// An endpoint that no listener has is served by file.
func TestFilesOfAnyEndpoint(t *testing.T) {
	w := newWorld(t, worldOptions{})
	der := w.macClient("ref-1").message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	if _, err := w.handler.Process(t.Context(), "elsewhere", der); err != nil || w.gateway.last(t).Endpoint != "elsewhere" {
		t.Error(err)
	}
}

func TestFilesConfig(t *testing.T) {
	type file struct {
		CMP Config `yaml:"cmp"`
	}
	for text, want := range map[string]Files{
		"{}":                         {ClockSkew: Skew{Window: 14 * day}, ConfirmWait: strictyaml.Duration(14 * day)},
		"{clock-skew: any}":          {ClockSkew: Skew{Any: true, Window: 14 * day}, ConfirmWait: strictyaml.Duration(14 * day)},
		"{clock-skew: 30d}":          {ClockSkew: Skew{Window: 30 * day}, ConfirmWait: strictyaml.Duration(14 * day)},
		"{confirm-wait: 90d}":        {ClockSkew: Skew{Window: 14 * day}, ConfirmWait: strictyaml.Duration(90 * day)},
		"{files: {clock-skew: 1s}}":  {ClockSkew: Skew{Window: time.Second}, ConfirmWait: strictyaml.Duration(14 * day)},
		"{files: {clock-skew: any}}": {ClockSkew: Skew{Any: true}, ConfirmWait: strictyaml.Duration(14 * day)},
		"{confirm-wait: 30d, files: {confirm-wait: 1d, spool: ./spool}}": {ClockSkew: Skew{Window: 14 * day}, ConfirmWait: strictyaml.Duration(day), Spool: "./spool"},
	} {
		var f file
		if err := strictyaml.Decode("muster.yaml", []byte("cmp: "+text), &f); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := f.CMP.WithDefaults().Files; got != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
	for text, want := range map[string]string{
		"{files: {clock-skew: 91d}}":    "files: clock-skew: not from 1s to 90d",
		"{files: {clock-skew: never}}":  "or any",
		"{files: {confirm-wait: 91d}}":  "files: confirm-wait: not from 1s to 90d",
		"{files: {confirm-wait: 10ms}}": "files: confirm-wait",
		"{files: {confirm_wait: 1d}}":   `did you mean "confirm-wait"`,
	} {
		var f file
		if err := strictyaml.Decode("muster.yaml", []byte("\ncmp: "+text), &f); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "muster.yaml:2") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
