package cmp

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// maxBatch is how many messages a nested message may have in it.
const maxBatch = 16

// relay is the RA that has passed a message on (RFC 9810 section 5.1.3.5).
type relay struct {
	credential gateway.Credential
	note       string   // for the operator
	late       *refusal // its message came too late, or too early; repeats are answered all the same
}

// unwrap answers a nested message: one that an RA has added its protection to, or a batch of several (RFC 9810 section 5.1.3.5).
// The RA's signature is verified here, and whether it is an RA at all; each message in it has the protection of the device that
// made it, and is answered as if it had come by itself.
func (x *exchange) unwrap(b *cmpmsg.Nested) *refusal {
	switch n := len(b.Messages); {
	case x.relay != nil:
		return refused(gateway.Unsupported, "a nested message within another one is not taken: one RA passes a message on, or one batch holds it", nil)
	case n > maxBatch:
		return refused(gateway.Unsupported, fmt.Sprintf("the nested message has %d messages in it: send at most %d", n, maxBatch), nil)
	case x.message.Header.ProtectionAlg.IsMAC():
		return refused(gateway.WrongProtection, "a nested message is signed by the RA that sends it, this one has a MAC", nil)
	}
	if ref := x.authenticate(nil); ref != nil {
		return ref
	}
	c, _ := x.Request.Credential(gateway.CredentialSigner)
	c.Kind = gateway.CredentialNested
	x.Request.Credentials = []gateway.Credential{c}
	if e := x.h.gateway.TrustedRA(x.R.Context(), x.endpoint.Name, c, false); e != nil {
		if e.Reason == gateway.NotAuthorized {
			return refused(gateway.NotAuthorized, "the signer of the nested message is not a registration authority here", e.Err)
		}
		return &refusal{Refusal: wire.Refusal{Err: e}}
	}
	h := &x.message.Header
	r := &relay{credential: c, late: x.checkTime(), note: fmt.Sprintf("%s, signed with %s, added by %s",
		"nested", pkix.SignatureName(h.ProtectionAlg.Raw), pkix.FormatName(x.requester.signer.RawSubject))}
	if len(b.Messages) > 1 {
		return x.batch(b.Messages, r)
	}
	der := b.Messages[0]
	m, err := cmpmsg.Parse(der)
	if m == nil {
		return refused(gateway.Malformed, "within nested: "+parseDetail(err), err)
	}
	// The answer is the device's, and goes to it as it is: the RA knows it by these.
	if !bytes.Equal(m.Header.TransactionID, h.TransactionID) {
		return refused(gateway.Unsupported, "the transactionID of a nested message is that of the one message in it", nil)
	}
	if !bytes.Equal(m.Header.SenderNonce, h.SenderNonce) {
		return failing(cmpmsg.BadSenderNonce, gateway.Malformed, "the senderNonce of a nested message is that of the one message in it")
	}
	x.passedOn(r)
	return x.take(m, der, err)
}

// passedOn makes the exchange that of a message which the RA has passed on. Nobody has authenticated for it yet.
func (x *exchange) passedOn(r *relay) {
	x.relay, x.requester = r, nil
	x.Request.Credentials = []gateway.Credential{r.credential}
	x.Request.Notes = append(x.Request.Notes, r.note)
}

// batch answers several messages at once, each as if it had come by itself, with a nested message of the answers in the same
// order. It is a transaction of its own, which is over then. A batch that is repeated repeats the answers in it.
func (x *exchange) batch(list [][]byte, r *relay) *refusal {
	h := &x.message.Header
	if h.RecipNonce != nil {
		return failing(cmpmsg.BadRecipientNonce, gateway.Malformed, "a batch is a transaction of its own, and its first message has no recipNonce")
	}
	seen, nonces := map[string]bool{string(h.TransactionID): true}, map[string]bool{}
	for i, der := range list {
		m, _ := cmpmsg.Parse(der)
		if m == nil {
			continue // answered in its place
		}
		if id := string(m.Header.TransactionID); id != "" {
			if seen[id] {
				return refused(gateway.Unsupported, fmt.Sprintf("the transactionID of message %d in the batch is that of another, or the batch's own", i+1), nil)
			}
			seen[id] = true
		}
		if bytes.Equal(m.Header.SenderNonce, h.SenderNonce) {
			return failing(cmpmsg.BadSenderNonce, gateway.Malformed, fmt.Sprintf("the senderNonce of the batch is that of message %d in it: use one of its own", i+1))
		}
		if n := string(m.Header.SenderNonce); n != "" {
			if nonces[n] {
				return failing(cmpmsg.BadSenderNonce, gateway.Malformed, fmt.Sprintf("the senderNonce of message %d in the batch is that of another", i+1))
			}
			nonces[n] = true
		}
	}
	answers, members := make([][]byte, len(list)), make([]*exchange, len(list))
	var all sync.WaitGroup
	for i, der := range list {
		one := *r
		one.note += fmt.Sprintf(", number %d of %d in a batch", i+1, len(list))
		members[i] = x.memberOf(&one)
		all.Go(func() { answers[i] = members[i].answerMember(der) })
	}
	all.Wait()
	for i, a := range answers {
		if a == nil {
			return refused(gateway.Internal, "", fmt.Errorf("message %d in the batch has no answer", i+1))
		}
	}
	p, err := x.h.parts()
	if err != nil {
		return refused(gateway.Internal, "", err)
	}
	for {
		der, err := x.render(p, &cmpmsg.Nested{Messages: answers}, nil, nil)
		switch {
		case err == nil:
			x.Write(http.StatusOK, typePKIXCMP, der)
			return nil
		case !errors.Is(err, cms.ErrLimit):
			return refused(gateway.Internal, "", err)
		case !x.shorten(answers, members):
			// Nothing is lost: each message gets its answer when it comes again.
			return refused(gateway.Unsupported, "the answers are larger together than a message may be: send fewer messages in a batch", err)
		}
	}
}

// shorten puts an error into the place of the largest answer in a batch that is too large, so that the others get theirs; it
// reports false when that saves nothing any more. What was decided stands: the message gets its answer when it comes by itself.
func (x *exchange) shorten(answers [][]byte, members []*exchange) bool {
	largest := 0
	for i := range answers {
		if len(answers[i]) > len(answers[largest]) {
			largest = i
		}
	}
	y := members[largest]
	x.Log.Warn("an answer is too large for its batch", "id", y.Request.ID, "batch", x.Request.ID, "bytes", len(answers[largest]))
	e := &gateway.Error{Reason: gateway.Unsupported, Transaction: y.Request.ID,
		Detail: "the answer is too large for a batch with the others: send this message again, by itself"}
	der, err := y.failure(e, &refusal{})
	if err != nil || len(der) >= len(answers[largest]) {
		return false
	}
	answers[largest] = der
	return true
}

// memberOf is the exchange of one message of a batch.
func (x *exchange) memberOf(r *relay) *exchange {
	y := &exchange{h: x.h, endpoint: x.endpoint, identity: x.identity, byFile: x.byFile, pvno: x.pvno,
		Exchange: wire.New(&memory{header: http.Header{}}, x.R, gateway.CMP, x.Request.Received, x.h.log)}
	y.Limits = x.Limits
	q := y.Request
	q.Operation, q.Endpoint, q.Source, q.Transport, q.ConfirmWait = gateway.Enroll, x.Request.Endpoint, x.Request.Source, x.Request.Transport, x.Request.ConfirmWait
	y.passedOn(r)
	return y
}

// answerMember answers one message of a batch; nil when there is no way to.
func (y *exchange) answerMember(der []byte) []byte {
	func() {
		defer y.Contain(func(ref *wire.Refusal) { y.refuse(&refusal{Refusal: *ref}) })
		if ref := y.handle(der); ref != nil {
			y.refuse(ref)
		}
	}()
	w := y.W.(*memory)
	if w.status == http.StatusOK && w.header.Get("Content-Type") == typePKIXCMP {
		return w.body
	}
	e := y.failed
	if e == nil {
		e = &gateway.Error{Reason: gateway.Internal, Transaction: y.Request.ID}
	}
	answer, err := y.failure(e, &refusal{})
	if err != nil {
		return nil
	}
	return answer
}
