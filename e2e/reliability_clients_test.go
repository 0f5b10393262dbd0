//go:build reliability

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// promise is what a client read in an answer: what must be true from then on, whatever breaks.
type promise struct {
	what string // one of the words below
	name string // the device, or the challenge's ID
	cert []byte // with certificate
}

const (
	toldCertificate = "certificate" // the device was given this one
	toldConfirmed   = "confirmed"   // and its certConf was accepted
	toldChallenge   = "challenge"   // one-time, made by an operator
	toldSpent       = "spent"       // that one, for a certificate that the device has
	toldApproved    = "approved"    // by an operator
	toldRevoked     = "revoked"     // by an operator
)

// crowd are the clients of a run, devices and operators, with what they were told.
type crowd struct {
	g     *instance // as it began: a restart changes nothing of it that clients need
	admin *admin.Client
	http  *http.Client
	scep  []*scepDevice // their keys are shared: making one costs more than all else that a device does

	mu  sync.Mutex
	all []promise
}

// oneTime is the SCEP endpoint whose challenges are good once, and for these names only.
const oneTime = `
  one-time:
    protocol: scep
    listeners: [http]
    profile: mobile
    enroll:
      - challenge: {issued: true}
      - names: {common-name: "reliable-[0-9]+"}
`

// crowd makes the clients of a gateway that is ready.
func (g *instance) crowd(n int) *crowd {
	g.t.Helper()
	begun := &instance{t: g.t, dir: g.dir, env: g.env}
	c := &crowd{g: begun, admin: admin.NewClient(filepath.Join(g.dir, "admin.sock")), http: begun.client(nil)}
	ra, err := begun.scepRA()
	if err != nil {
		g.t.Fatal(err)
	}
	for range n {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			g.t.Fatal(err)
		}
		d := &scepDevice{t: g.t, g: begun, http: &http.Client{Timeout: 30 * time.Second}, path: "/scep/one-time", ra: ra, key: key}
		d.self = d.certify("SCEP SIGNER", nil)
		c.scep = append(c.scep, d)
	}
	return c
}

func (c *crowd) was(t promise) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, t)
}

// heard is what they were told until now.
func (c *crowd) heard() []promise {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[:len(c.all):len(c.all)]
}

// reliable is one device of the run that has what it wanted.
type reliable struct {
	name   string
	cert   []byte
	silent bool // it never confirms

	cmp, held, revoked bool
}

// enrol has device i enrol over the protocol that is its turn, and its certificate revoked if it is one of those.
func (c *crowd) enrol(i int, retry func() bool) (reliable, error) {
	d := reliable{name: fmt.Sprintf("reliable-%d", i), cmp: i%2 == 1, held: isHeld(i), revoked: isRevoked(i)}
	var err error
	switch i % 4 {
	case 0:
		d.cert, err = c.enrolEST(&d, retry)
	case 2:
		d.cert, err = c.enrolSCEP(&d, i, retry)
	default:
		err = c.enrolCMP(&d, i, retry)
	}
	if err != nil || !d.revoked {
		return d, err
	}
	leaf, err := x509.ParseCertificate(d.cert)
	if err != nil {
		return d, err
	}
	return d, c.revoke(d.name, fmt.Sprintf("%x", leaf.SerialNumber), retry)
}

// given notes a certificate as soon as it is read.
func (c *crowd) given(name string, cert []byte) {
	c.was(promise{what: toldCertificate, name: name, cert: cert})
}

func (c *crowd) enrolEST(d *reliable, retry func() bool) ([]byte, error) {
	dev, operation := newDevice(c.g.t, d.name), "simpleenroll"
	if d.held {
		operation = "held-devices/" + operation
	}
	for {
		a, err := c.g.post(c.g.t.Context(), c.http, operation, c.g.env["MUSTER_EST_USER"], c.g.env["MUSTER_EST_PASSWORD"],
			"application/pkcs10", []byte(toBase64(dev.csr)))
		if err == nil && a.status == http.StatusOK {
			c.given(d.name, a.cert.Raw)
			return a.cert.Raw, nil
		}
		if err == nil && a.status != http.StatusAccepted && a.status != http.StatusServiceUnavailable {
			return nil, fmt.Errorf("%d %s", a.status, a.body)
		}
		if !retry() {
			return nil, fmt.Errorf("no certificate: %v %v", a, err)
		}
	}
}

// enrolSCEP has a device enrol with a challenge of its own. Every second one asks for a name first that it may not have,
// which must leave its challenge good. Afterwards another device tries the challenge, which must be good for nothing.
func (c *crowd) enrolSCEP(d *reliable, i int, retry func() bool) ([]byte, error) {
	challenge, err := c.challenge(retry)
	if err != nil {
		return nil, err
	}
	dev, other := c.scep[i/4%len(c.scep)], c.scep[(i/4+1)%len(c.scep)]
	ask := func(by *scepDevice, name string) (*scepAnswer, error) {
		m := by.message(scepWish{name: name, challenge: challenge.Challenge})
		for {
			a, err := by.send(m)
			switch {
			case err == nil && a.http == http.StatusOK && a.status != "3":
				return a, nil
			case err == nil && a.http != http.StatusOK && a.http != http.StatusServiceUnavailable:
				return nil, fmt.Errorf("answered %s", a)
			case !retry():
				return nil, fmt.Errorf("no answer after all: %v %v", a, err)
			}
		}
	}
	if i%8 == 2 {
		if a, err := ask(dev, "somebody-else"); err != nil || a.status != "2" {
			return nil, fmt.Errorf("with a name that is not allowed: %v %w", a, err)
		}
	}
	a, err := ask(dev, d.name)
	if err != nil || a.cert == nil {
		return nil, fmt.Errorf("no certificate: %v %w", a, err)
	}
	c.given(d.name, a.cert.Raw)
	c.was(promise{what: toldSpent, name: challenge.ID})
	if again, err := ask(other, d.name); err != nil || again.status != "2" {
		return nil, fmt.Errorf("the challenge is good a second time: %v %w", again, err)
	}
	return a.cert.Raw, nil
}

// enrolCMP has a device enrol over CMP: each message is sent, byte for byte the same, until it is answered. Every fourth
// device never confirms its certificate, and another fourth begins anew after its first answer. Those that are held or revoked
// all confirm.
func (c *crowd) enrolCMP(r *reliable, i int, retry func() bool) error {
	d := c.g.cmpDevice(r.name)
	if r.held {
		d.url += "/p/held-cmp"
	}
	// answered sends a message until the answer is neither missing, nor waiting, nor that of a server that cannot answer now.
	answered := func(der []byte) (*cmpmsg.Message, error) {
		for {
			answer, err := d.post(der)
			var m *cmpmsg.Message
			if err == nil {
				if m, err = d.take(answer); err != nil {
					return nil, err
				}
				rep, ok := m.Body.(*cmpmsg.CertRepMessage)
				waiting := ok && len(rep.Responses) == 1 && rep.Responses[0].Status.Status == cmpmsg.StatusWaiting
				if !waiting && failure(m) != "systemUnavail" {
					return m, nil
				}
			}
			if !retry() {
				return nil, fmt.Errorf("no answer after all: %v", err)
			}
		}
	}
	ask := func() error {
		m, err := answered(d.message(d.request(cmpmsg.TypeIR)))
		if err == nil && d.cert == nil {
			err = fmt.Errorf("ir answered %s: %s", m.Body.Type(), failure(m))
		}
		if err == nil {
			c.given(r.name, d.cert.Raw)
		}
		return err
	}
	if err := ask(); err != nil {
		return err
	}
	r.cert = d.cert.Raw
	kind := i / 2 % 4
	if kind == 1 && (r.held || r.revoked) {
		kind = 0
	}
	switch kind {
	case 1:
		r.silent = true
		return nil
	case 2: // its answer was lost, and it forgot what it asked
		d.tid, d.peer, d.cert = random(16), nil, nil
		if err := ask(); err != nil {
			return err
		}
		if !bytes.Equal(d.cert.Raw, r.cert) {
			return errors.New("another certificate for the same wish")
		}
	}
	m, err := answered(d.message(d.certConf()))
	if err == nil && m.Body.Type() != cmpmsg.TypePKIConf {
		err = fmt.Errorf("certConf answered %s: %s", m.Body.Type(), failure(m))
	}
	if err == nil {
		c.was(promise{what: toldConfirmed, name: r.name})
	}
	return err
}

// challenge has one made. One whose answer is lost stays unused.
func (c *crowd) challenge(retry func() bool) (made *admin.Challenge, err error) {
	err = c.operate(retry, func(ctx context.Context) error {
		made, err = c.admin.NewChallenge(ctx, admin.NewChallenge{Endpoint: "one-time"})
		return err
	})
	if err == nil {
		c.was(promise{what: toldChallenge, name: made.ID})
	}
	return made, err
}

// revoke has a device's certificate revoked, however often it takes. What a gateway that dies did not answer may have been done.
func (c *crowd) revoke(name, serial string, retry func() bool) error {
	err := c.operate(retry, func(ctx context.Context) error {
		_, err := c.admin.Revoke(ctx, admin.RevokeQuery{Serial: serial}, "cessationOfOperation", "")
		return err
	})
	if err == nil {
		c.was(promise{what: toldRevoked, name: name})
	}
	return err
}

// operate repeats what an operator does until the gateway has done it. One that cannot answer now is asked again.
func (c *crowd) operate(retry func() bool, do func(context.Context) error) error {
	for {
		err := do(c.g.t.Context())
		var refused *admin.Error
		if err == nil || errors.As(err, &refused) && refused.Status < 500 || !retry() {
			return err
		}
	}
}

// approve approves whatever is held, until the function that is returned is called.
func (c *crowd) approve() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 { // two, so that they race
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(50 * time.Millisecond):
				}
				held, err := c.admin.Transactions(c.g.t.Context(), admin.TransactionQuery{States: []string{"held"}, Limit: 1000})
				if err != nil {
					continue
				}
				for _, tx := range held.Transactions {
					if _, err := c.admin.Approve(c.g.t.Context(), tx.ID, "it is on the list"); err == nil {
						_, name, _ := strings.Cut(tx.Subject, "CN=")
						c.was(promise{what: toldApproved, name: name})
					}
				}
			}
		})
	}
	return func() { close(done); wg.Wait() }
}
