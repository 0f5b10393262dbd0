package gateway

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	x509pkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
)

// Where the trail shows what this file decides.
const (
	stageProof = "proof"
	stageKey   = "key"
)

// stageBackend is where the trail shows that the backend's CA cannot certify what was granted.
const stageBackend = "backend"

// RSA keys that are made at once, each of which takes up to seconds of a processor, and requests that wait for their turn
// besides: they are among those that the gateway has under way, of which one device must not take all.
const (
	maxMaking = 2
	maxTurns  = maxMaking + 16
)

// keyFor sees to the key of a request that its pipeline has allowed, or held: to the proof of its possession or, where the
// gateway is to make it, to the key, which stands in the grant then. The key is nil where the device has its own.
//
// A key that is not kept is made once the request is approved: for one that is held, the key in the grant is of the right kind,
// so that the profile and its lints have what they judge, and nobody keeps its other half.
func (g *Gateway) keyFor(ctx context.Context, rt *Runtime, e *Endpoint, d *decision, held bool) (crypto.Signer, *Error) {
	r := d.request
	if err := possession(r, d.grant, e.KeepUnconfirmed); err != nil {
		return nil, g.refuseAfter(ctx, d, stageProof, err)
	}
	if r.POP == POPConfirm {
		d.trail = append(d.trail, Judged{Stage: stageProof, Decision: Allow, Note: "possession is proven by confirming the certificate, and not before"})
	}
	if r.KeyGen == nil {
		d.csr = r.CSR
		if d.grant.PublicKey == nil {
			return nil, g.refuseAfter(ctx, d, stageProof, Errorf(BadTemplate, "the request has no public key", "the request has no public key, and asks for none to be made"))
		}
		return nil, nil
	}
	start := g.now()
	kind, refused := kindFor(r, d.grant)
	if refused == nil && r.KeyGen.bare() {
		refused = bareKey(rt, d, held)
	}
	if refused != nil {
		return nil, g.refuseAfter(ctx, d, stageKey, refused)
	}
	key, spki, err := g.makeKey(ctx, kind)
	if err != nil {
		d.stage, d.note = stageKey, cause(err, "")
		return nil, err
	}
	d.grant.PublicKey, d.made = spki, kind
	note := madeNote(kind, r.KeyGen.bare())
	if held && r.KeyGen.bare() {
		key, note = nil, "a "+kind+" key is made when the device asks again, once this is approved: it is not kept"
	}
	d.trail = append(d.trail, Judged{Stage: stageKey, Decision: Allow, Note: note, Took: g.now().Sub(start)})
	return key, nil
}

func madeNote(kind string, bare bool) string {
	if bare {
		return "made a " + kind + " key for the device, which is given with one answer and not kept"
	}
	return "made a " + kind + " key for the device"
}

// bareKey refuses a key that would travel without protection of its own where it could not be made anew, should it get lost.
func bareKey(rt *Runtime, d *decision, held bool) *Error {
	const detail = "a key is only given encrypted"
	r := d.request
	switch {
	case r.Confirm || r.Resume != nil:
		// It would have to stand in the store as it is, for the next message of the exchange.
		return Errorf(Unsupported, detail, "a key is asked for without protection of its own, in an exchange of several messages")
	case !rt.canRevoke(d.grant.Backend):
		return Errorf(Unsupported, detail, "a key is asked for without protection of its own, and the backend %s revokes nothing: "+
			"the certificate of a key that got lost on its way would stay", d.grant.Backend)
	case held && repeatKey(r) == "":
		return Errorf(Unsupported, detail, "a key is asked for without protection of its own and is held, and nothing would tell who comes for it")
	}
	return nil
}

// refuseAfter refuses a request whose stages allowed it, and says so behind them.
func (g *Gateway) refuseAfter(ctx context.Context, d *decision, stage string, e *Error) *Error {
	d.stage, d.note = stage, cut(cause(e, ""), maxNote)
	d.trail = append(d.trail, Judged{Stage: stage, Decision: Deny, Reason: e.Reason, Note: d.note})
	return g.refuse(ctx, d, e)
}

// possession refuses a request whose key nobody has proven that its holder has, whatever the stages said: the gateway would
// name a key in a certificate that may be somebody else's (RFC 4211 section 4). keep: certificates that nobody confirms are kept.
func possession(r *Request, gr *Grant, keep bool) *Error {
	const detail = "possession of the key is not proven as required"
	if r.Relayed && !gr.Vouched() {
		return Errorf(BadPOP, "the request is bound to another TLS connection (RFC 7030 section 3.5): only a registration authority may pass it on",
			"the request is bound to another connection, and none of the stages that allowed it found that an RA asks")
	}
	switch r.POP {
	case POPSignature, POPLinked:
		return nil
	case POPNone:
		if r.KeyGen == nil {
			return Errorf(BadPOP, detail, "possession of the key is not proven")
		}
		return nil
	case POPRA:
		// RFC 9810 section 5.2.8.1: "An end entity MUST NOT use raVerified."
		switch {
		case !gr.Vouched():
			return Errorf(NotAuthorized, "only a registration authority can vouch for the possession of a key", "an RA is to vouch for the key, and no stage found that one asks")
		case !slices.Contains(gr.proofs, POPRA):
			return Errorf(BadPOP, detail, "an RA vouches for the key, and no stage keys takes its word (pop: [ra])")
		}
		return nil
	case POPConfirm:
		switch {
		case r.KeyGen != nil:
			return Errorf(BadPOP, detail, "possession is to be proven of a key that is still to be made")
		case !slices.Contains(gr.proofs, POPConfirm):
			return Errorf(BadPOP, detail, "possession is to be proven by decrypting the certificate, and no stage keys allows that (pop: [pending-confirm])")
		case !r.Confirm:
			return Errorf(Internal, "", "possession is to be proven by confirming the certificate, which waits for no confirmation")
		case keep:
			return Errorf(BadPOP, detail, "possession is to be proven by confirming the certificate, which is kept where nobody does")
		}
		return nil
	}
	return Errorf(BadPOP, detail, "a proof of possession of an unknown kind, %q", cut(string(r.POP), 64))
}

// unproven reports whether nobody has the certificate's key, as far as is known, before the certificate is confirmed.
func (t *Transaction) unproven() bool {
	return slices.ContainsFunc(t.Verdicts, func(j Judged) bool { return j.Stage == stageProof && j.Decision == Allow })
}

// kindFor is the kind of key to make for a request, of those that a stage allows and the profile certifies.
func kindFor(r *Request, gr *Grant) (string, *Error) {
	k := r.KeyGen
	switch {
	case r.PublicKey != nil || gr.PublicKey != nil:
		return "", Errorf(BadTemplate, "the request has a public key, and asks for one to be made", "the request has a public key, and asks for one to be made")
	case len(gr.generates) == 0:
		return "", Errorf(NotAuthorized, "this endpoint makes no keys", "a key is asked for, and no stage keys allows the gateway to make one (generate)")
	}
	kinds := slices.DeleteFunc(slices.Clone(gr.generates), func(kind string) bool { return !certified(gr.profile.Keys, kind) })
	if len(kinds) == 0 {
		return "", Errorf(BadAlgorithm, "no kind of key that is made here is certified", "stage keys has %s made, and profile %s certifies only %s",
			strings.Join(gr.generates, ", "), gr.Profile, strings.Join(gr.profile.Keys, ", "))
	}
	if i := slices.IndexFunc(kinds, k.Fits); i >= 0 {
		return k.preferred(kinds, kinds[i]), nil
	}
	made := strings.Join(kinds, ", ")
	return "", Errorf(BadAlgorithm, "keys of this kind are not made here, but "+made, "a key %q is asked for; %s are made", cut(k.Algorithm, 64), made)
}

// certified reports whether a key of the kind is among those of Profile.Keys.
func certified(keys []string, kind string) bool {
	size, isRSA := strings.CutPrefix(kind, "RSA-")
	bits, _ := strconv.Atoi(size)
	return len(keys) == 0 || slices.ContainsFunc(keys, func(key string) bool {
		floor, ok := strings.CutPrefix(key, "RSA>=")
		from, err := strconv.Atoi(floor)
		return key == kind || ok && isRSA && err == nil && bits >= from
	})
}

// makeKey makes a key. The error is Busy where others are made for as long as the request may take, or too many wait for theirs.
func (g *Gateway) makeKey(ctx context.Context, kind string) (crypto.Signer, []byte, *Error) {
	if strings.HasPrefix(kind, "RSA-") {
		defer g.turns.Add(-1)
		if g.turns.Add(1) > maxTurns {
			return nil, nil, &Error{Reason: Busy, Detail: "too many keys are being made", RetryAfter: retryUnavailable, Err: errTurns}
		}
		select {
		case g.making <- struct{}{}:
			defer func() { <-g.making }()
		case <-ctx.Done():
			return nil, nil, &Error{Reason: Busy, Detail: "too many keys are being made", RetryAfter: retryUnavailable, Err: ctx.Err()}
		}
	}
	key, err := pkix.GenerateKey(kind)
	var spki []byte
	if err == nil {
		spki, err = x509.MarshalPKIXPublicKey(key.Public())
	}
	if err != nil {
		return nil, nil, &Error{Reason: Internal, Err: fmt.Errorf("a key %s cannot be made: %w", kind, err)}
	}
	return key, spki, nil
}

var errTurns = fmt.Errorf("%d requests for an RSA key are under way already", maxTurns)

// sealed makes of a generated key what travels, and what else has to be made with it while it is there: the CSR, for a CA that
// takes nothing else. Nobody keeps the key.
func (g *Gateway) sealed(ctx context.Context, rt *Runtime, d *decision, key crypto.Signer) *Error {
	if key == nil {
		return nil
	}
	out, err := g.seal(d.request.KeyGen, key)
	if err == nil && rt.wantsCSR(d.grant.profile) {
		d.csr, err = requestOf(templateOf(d.grant), key)
	}
	if err != nil {
		d.trail = slices.DeleteFunc(d.trail, func(j Judged) bool { return j.Stage == stageKey })
		return g.refuseAfter(ctx, d, stageKey, AsError(err))
	}
	if d.request.KeyGen.bare() {
		d.given = out
	} else {
		d.key = out
	}
	return nil
}

// seal calls an adapter's Seal. What that panics with is not shown: the key may be part of it.
func (g *Gateway) seal(k *KeyGen, key crypto.Signer) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("panic while a generated key was sealed", "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			out, err = nil, errors.New("panic while the generated key was sealed")
		}
	}()
	out, err = k.Seal(key)
	if err == nil && len(out) == 0 {
		err = errors.New("the generated key was sealed to nothing")
	}
	return out, err
}

// requestOf is the PKCS#10 request for what a CA is to certify, signed with the key. Validity is the CA's to set.
func requestOf(t *backend.Template, key crypto.Signer) ([]byte, error) {
	q := &x509.CertificateRequest{RawSubject: t.Subject}
	add := func(id asn1.ObjectIdentifier, critical bool, value []byte) {
		q.ExtraExtensions = append(q.ExtraExtensions, x509pkix.Extension{Id: id, Critical: critical, Value: value})
	}
	if t.SubjectAltName != nil {
		// RFC 5280 section 4.2.1.6: critical where there is no subject beside it.
		add(oidSubjectAltName, len(t.Subject) == 0 || bytes.Equal(t.Subject, []byte{0x30, 0}), t.SubjectAltName)
	}
	if t.KeyUsage != 0 {
		value, err := keyUsageValue(t.KeyUsage)
		if err != nil {
			return nil, err
		}
		add(oidKeyUsage, true, value)
	}
	if len(t.ExtKeyUsage) > 0 {
		value, err := asn1.Marshal(t.ExtKeyUsage)
		if err != nil {
			return nil, err
		}
		add(oidExtKeyUsage, false, value)
	}
	for _, e := range t.Extensions {
		add(e.Id, e.Critical, e.Value)
	}
	return x509.CreateCertificateRequest(rand.Reader, q, key)
}

// withKey gives an earlier outcome again to a request for a key: without the key, which is not kept for ever, it is of no use.
func withKey(r *Request, res *Result, err error) (*Result, error) {
	if err == nil && res != nil && r.KeyGen != nil && res.Kind == ResultIssued && res.Key == nil {
		return nil, Errorf(DuplicateCert, "the key was given already: ask for another one in a new request", "the generated key of transaction %s is not kept any more", res.Transaction)
	}
	return res, err
}

// wipe is the work of a transaction whose answer nobody is given again: the key that was made for it is erased, nothing else
// changes.
func (g *Gateway) wipe(ctx context.Context, a *ask) error {
	t := a.t
	if t.State != StateIssued {
		return fmt.Errorf("a generated key is due to be erased in state %q", t.State)
	}
	return g.store.Settle(ctx, &Settlement{
		Transaction: t.ID, Epoch: a.epoch, State: t.State, Reason: t.Reason, Note: t.Note, Ticket: t.Ticket, Now: t.Updated,
	})
}
