package simulate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

var (
	errNoX509   = errors.New("the certificate does not parse")
	errPoolCMP  = errors.New("over CMP the keys are P-256: a gateway takes a key that comes twice, with the same secret, for the same device's")
	errForeign  = errors.New("an answer to another message")
	errUnproved = errors.New("an answer whose protection does not verify")
)

// CMP is a client of RFC 9810: ir with a MAC, kur signed with the certificate that it updates, certConf after each; rr signed with the
// certificate that is to be revoked; pollReq when told to wait. MACs of answers are verified, and signatures by the first of extraCerts, whose own issuer nobody looks for: what the devices
// get protects nothing.
type CMP struct {
	link        *link
	ref, secret []byte
}

// NewCMP makes one for the service at the target's URL (http://HOST/.well-known/cmp, with /p/NAME where there is one).
func NewCMP(t Target, ref, secret string) (*CMP, error) {
	l, err := newLink(t)
	return &CMP{l, []byte(ref), []byte(secret)}, err
}

// Fits says why devices with such keys cannot use CMP.
func (*CMP) Fits(keys string) error {
	if keys != P256 {
		return errPoolCMP
	}
	return nil
}

// dialogue is a CMP transaction as the device has it.
type dialogue struct {
	client *CMP
	device Device
	signer *x509.Certificate // nil: MAC
	tid    []byte
	nonce  []byte // our last one
	peer   []byte // the gateway's last one
}

// waiting is what a device keeps of a transaction that waits.
type waiting struct{ tid, peer []byte }

// Ask makes one try: a transaction, or with Open the next pollReq of one.
func (c *CMP) Ask(ctx context.Context, d Device) Answer {
	x := &dialogue{client: c, device: d, tid: random(16)}
	if d.Cert != nil {
		var err error
		if x.signer, err = x509.ParseCertificate(d.Cert); err != nil {
			return Answer{Refused: errNoX509.Error()}
		}
	}
	var body cmpmsg.Body
	var err error
	if w, ok := d.Open.(*waiting); ok {
		x.tid, x.peer = w.tid, w.peer
		body = pollReq()
	} else if body, err = x.request(); err != nil {
		return Answer{Refused: "making the request: " + err.Error()}
	}
	m, fault := x.exchange(ctx, body)
	if d.Revoke {
		return x.revoked(m, fault)
	}
	if fault == nil && waits(m) { // when to ask again is what pollRep says
		m, fault = x.exchange(ctx, pollReq())
	}
	if fault != nil {
		if _, polls := body.(*cmpmsg.PollReq); polls && fault.Away != "" {
			fault.Open = d.Open
		}
		return *fault
	}
	return x.conclude(ctx, m)
}

func pollReq() cmpmsg.Body { return &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}} }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
	return b
}

func (x *dialogue) request() (cmpmsg.Body, error) {
	if x.signer == nil {
		return CertRequest(cmpmsg.TypeIR, x.device.Subject, x.device.Key)
	}
	if x.device.Revoke { // RFC 9483 section 4.2
		return &cmpmsg.RevReq{Details: []cmpmsg.RevDetails{{Certificate: cmpmsg.CertTemplate{SerialNumber: x.signer.SerialNumber, Issuer: x.signer.RawIssuer}}}}, nil
	}
	old, err := oldCertID(x.signer)
	if err != nil {
		return nil, err
	}
	return CertRequest(cmpmsg.TypeKUR, x.device.Subject, x.device.Key, old)
}

// conclude reads the answer to a request or pollReq, and confirms a certificate.
func (x *dialogue) conclude(ctx context.Context, m *cmpmsg.Message) Answer {
	switch b := m.Body.(type) {
	case *cmpmsg.PollRep:
		if len(b.Responses) == 1 {
			return Answer{Away: "pollRep", After: time.Duration(min(b.Responses[0].CheckAfter, maxTold)) * time.Second, Open: &waiting{x.tid, x.peer}}
		}
	case *cmpmsg.CertRepMessage:
		if len(b.Responses) != 1 {
			break
		}
		cert := b.Responses[0].Certificate
		if cert == nil {
			return refusedBy(b.Responses[0].Status)
		}
		conf, err := certConf(cert)
		if err != nil {
			return Answer{Refused: err.Error()}
		}
		if m, fault := x.exchange(ctx, conf); fault != nil {
			return *fault // asked for again in a new transaction, the gateway goes on with this certificate
		} else if m.Body.Type() != cmpmsg.TypePKIConf {
			return Answer{Refused: "certConf was answered by " + m.Body.Type().String()}
		}
		return Answer{Cert: bytes.Clone(cert)}
	}
	return Answer{Refused: "an answer of another kind: " + m.Body.Type().String()}
}

// revoked reads the answer to an rr. That a certificate is revoked already is as good: an answer may have been lost.
func (x *dialogue) revoked(m *cmpmsg.Message, fault *Answer) Answer {
	if fault != nil {
		return *fault
	}
	b, ok := m.Body.(*cmpmsg.RevRep)
	if !ok || len(b.Statuses) != 1 {
		return Answer{Refused: "an answer of another kind: " + m.Body.Type().String()}
	}
	if s := b.Statuses[0]; s.Status != cmpmsg.StatusAccepted && s.Status != cmpmsg.StatusGrantedWithMods && s.FailInfo&cmpmsg.CertRevoked == 0 {
		return refusedBy(s)
	}
	return Answer{Cert: x.device.Cert}
}

func waits(m *cmpmsg.Message) bool {
	b, ok := m.Body.(*cmpmsg.CertRepMessage)
	return ok && len(b.Responses) == 1 && b.Responses[0].Status.Status == cmpmsg.StatusWaiting
}

// refusedBy is a rejection: for now only, where the system is said to be unavailable.
func refusedBy(s cmpmsg.PKIStatusInfo) Answer {
	text := ""
	if len(s.Text) > 0 {
		text = s.Text[0]
	}
	switch {
	case s.FailInfo&cmpmsg.SystemUnavail != 0:
		return Answer{Away: "systemUnavail"}
	case s.FailInfo&cmpmsg.SystemFailure != 0:
		return Answer{Broken: "systemFailure: " + firstLine([]byte(text))}
	}
	return Answer{Refused: fmt.Sprintf("%v: %s", s.FailInfo, firstLine([]byte(text)))}
}

// exchange sends a body and reads the answer. An answer that is a failure is a fault.
func (x *dialogue) exchange(ctx context.Context, body cmpmsg.Body) (*cmpmsg.Message, *Answer) {
	der, err := x.message(body)
	if err != nil {
		return nil, &Answer{Refused: "making the message: " + err.Error()}
	}
	res, err := x.client.link.do(ctx, call{method: http.MethodPost, contentType: "application/pkixcmp", body: der})
	if err != nil {
		a := broken(err)
		return nil, &a
	}
	m, err := x.take(res.body)
	if err != nil {
		a := Answer{Broken: err.Error()}
		if res.status != http.StatusOK {
			a = res.failed()
		}
		return nil, &a
	}
	if e, ok := m.Body.(*cmpmsg.ErrorMsg); ok {
		a := refusedBy(e.Status)
		if a.Away != "" {
			a.After = res.retryAfter()
		}
		return nil, &a
	}
	return m, nil
}

// message protects a body with a fresh nonce: by MAC to enrol, by the certificate to renew.
func (x *dialogue) message(body cmpmsg.Body) ([]byte, error) {
	x.nonce = random(16)
	out := &cmpmsg.Outgoing{
		Header: cmpmsg.Header{
			PVNO: 2, Sender: cmpmsg.GeneralDirectoryName([]byte{0x30, 0}), Recipient: cmpmsg.GeneralDirectoryName([]byte{0x30, 0}),
			MessageTime: time.Now().UTC().Truncate(time.Second), TransactionID: x.tid, SenderNonce: x.nonce, RecipNonce: x.peer,
		},
		Body: body,
	}
	if x.signer == nil {
		mac, err := cmpmsg.NewPBM(crypto.SHA256, crypto.SHA256, 500, random(16))
		if err != nil {
			return nil, err
		}
		alg := mac.Algorithm()
		out.Header.SenderKID, out.Header.ProtectionAlg = x.client.ref, &alg
		return out.Protect(func(part []byte) ([]byte, error) { return mac.Sum(x.client.secret, part), nil })
	}
	alg, err := pkix.SignatureAlgorithm(x.device.Key)
	if err != nil {
		return nil, err
	}
	out.Header.Sender, out.Header.SenderKID = cmpmsg.GeneralDirectoryName(x.signer.RawSubject), x.signer.SubjectKeyId
	out.Header.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{Raw: alg}
	out.ExtraCerts = [][]byte{x.signer.Raw}
	return out.Protect(func(part []byte) ([]byte, error) {
		_, signature, err := pkix.Sign(x.device.Key, part)
		return signature, err
	})
}

// take reads an answer to our last message.
func (x *dialogue) take(der []byte) (*cmpmsg.Message, error) {
	m, err := cmpmsg.Parse(der)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(m.Header.TransactionID, x.tid) || !bytes.Equal(m.Header.RecipNonce, x.nonce) {
		return nil, errForeign
	}
	if !x.proved(m) {
		return nil, errUnproved
	}
	x.peer = bytes.Clone(m.Header.SenderNonce)
	return m, nil
}

func (x *dialogue) proved(m *cmpmsg.Message) bool {
	alg := m.Header.ProtectionAlg
	switch {
	case alg == nil:
		_, failed := m.Body.(*cmpmsg.ErrorMsg)
		return failed // a gateway that cannot protect what it refuses (RFC 9483 section 3.6)
	case alg.IsMAC():
		mac, err := cmpmsg.ParseMAC(alg, cmpmsg.MACPolicy{})
		return err == nil && mac.Verify(x.client.secret, m.Protected(), m.Protection)
	case len(m.ExtraCerts) == 0:
		return false
	}
	cert, err := x509.ParseCertificate(m.ExtraCerts[0])
	return err == nil && pkix.VerifySignature(cert.PublicKey, alg.Raw, m.Protected(), m.Protection) == nil
}
