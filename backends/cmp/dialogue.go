package cmp

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

const (
	mediaType = "application/pkixcmp" // RFC 9811 section 3.4
	pvno      = 2                     // nothing that is sent needs cmp2021 (RFC 9810 section 7)
	nonceSize = 16                    // bytes: the 128 bits of RFC 9810 section 5.1.1
	maxNonce  = 128                   // of the CA's, bytes
	maxAnswer = 256 << 10             // bytes: what cmpmsg.Parse takes
)

// unreadable is when a request is worth another try that could not be made, because of the RA's own files.
const unreadable = 30 * time.Second

// dialogue is one CMP transaction as its client has it.
type dialogue struct {
	*running
	id    *identity
	tid   []byte // transactionID
	first []byte // senderNonce of the message that began it
	peer  []byte // the CA's last senderNonce, nil before its first answer
}

// reply is an answer to the message that was sent.
type reply struct {
	*cmpmsg.Message
	proved bool // who says it is known: by its protection, or, of an error, by TLS
}

// dialogue begins a transaction. Its error is a refusal: nothing was asked.
func (r *running) dialogue(tid []byte) (*dialogue, error) {
	id, err := r.identity()
	if err != nil {
		return nil, backend.Exhausted(unreadable, "not asked: "+err.Error())
	}
	return &dialogue{running: r, id: id, tid: tid}, nil
}

// derived are 16 bytes that follow from what they are for and from what.
func derived(label string, from ...[]byte) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "muster cmp %s\x00", label)
	for _, f := range from {
		fmt.Fprintf(h, "%d:", len(f))
		h.Write(f)
	}
	return h.Sum(nil)[:nonceSize]
}

func random() []byte {
	b := make([]byte, nonceSize)
	rand.Read(b) //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
	return b
}

// parts is what tells two messages with the same body apart.
type parts struct {
	nonce, salt []byte
	at          time.Time
}

// fresh are those of a message that is sent once.
func (r *running) fresh() parts { return parts{random(), random(), r.now()} }

// say sends a body and reads the answer, whose header is that of one to it. Errors are gRPC statuses; only one that says the message
// did not leave is a refusal.
func (d *dialogue) say(ctx context.Context, body cmpmsg.Body, p parts, info ...cmpmsg.InfoTypeAndValue) (*reply, error) {
	out := &cmpmsg.Outgoing{Body: body, Header: cmpmsg.Header{
		PVNO: pvno, Recipient: cmpmsg.GeneralDirectoryName([]byte{0x30, 0}), MessageTime: p.at.UTC().Truncate(time.Second),
		TransactionID: d.tid, SenderNonce: p.nonce, RecipNonce: d.peer, GeneralInfo: info,
	}}
	der, err := d.id.protect(out, p.salt)
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "what was granted cannot be asked for: %v", err)
	}
	if d.first == nil {
		d.first = p.nonce
	}
	answer, err := d.post(ctx, der)
	if err != nil {
		return nil, err
	}
	m, err := cmpmsg.Parse(answer.Body)
	if err != nil {
		return nil, d.unspoken(answer, err)
	}
	return d.take(m, p.nonce, body.Type() == cmpmsg.TypePollReq)
}

// post sends one message.
func (r *running) post(ctx context.Context, der []byte) (*upstream.Answer, error) {
	if err := ctx.Err(); err != nil { // before it is taken for a CA that is not reached, which would refuse
		return nil, backend.Refuse(codes.Canceled, "%v", err)
	}
	// The very path: openssl's server tells /pkix/ from /pkix.
	q, err := http.NewRequest(http.MethodPost, r.URL, bytes.NewReader(der))
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "%v", err)
	}
	q.Header.Set("Content-Type", mediaType)
	return r.client.Do(ctx, q, maxAnswer)
}

// unspoken is the error of an answer that is no PKIMessage. What is not protected proves something over TLS alone.
func (r *running) unspoken(a *upstream.Answer, why error) error {
	switch {
	case a.Status == http.StatusOK:
		return backend.Refuse(codes.Internal, "the answer does not parse: %v", why)
	case r.secure():
		return a.Refused(a.Header.Get("Content-Type"))
	}
	return backend.Refuse(codes.Unavailable, "HTTP %d and no message, which proves nothing over http", a.Status)
}

// take holds an answer against the message with the nonce. What comes in the end of polling may have the first message's nonce.
func (d *dialogue) take(m *cmpmsg.Message, nonce []byte, polled bool) (*reply, error) {
	h := &m.Header
	_, failed := m.Body.(*cmpmsg.ErrorMsg)
	if failed && h.ProtectionAlg == nil { // of a CA that cannot protect it (RFC 9810 section 5.3.21)
		return &reply{m, d.secure()}, nil
	}
	switch {
	case !bytes.Equal(h.TransactionID, d.tid):
		return nil, backend.Refuse(codes.Internal, "the answer has another transactionID")
	case !bytes.Equal(h.RecipNonce, nonce) && !(polled && bytes.Equal(h.RecipNonce, d.first)):
		return nil, backend.Refuse(codes.Internal, "the answer's recipNonce is not the senderNonce of what was asked")
	case len(h.SenderNonce) > maxNonce:
		return nil, backend.Refuse(codes.Internal, "the answer's senderNonce has %d bytes", len(h.SenderNonce))
	}
	if err := d.id.verify(m, d.now()); err != nil {
		return nil, backend.Refuse(codes.Internal, "the answer's protection: %v", err)
	}
	d.peer = bytes.Clone(h.SenderNonce)
	return &reply{m, true}, nil
}

// words is a status for people.
func words(s cmpmsg.PKIStatusInfo) string {
	said := s.Status.String()
	if s.FailInfo != 0 {
		said += ", " + s.FailInfo.String()
	}
	if len(s.Text) > 0 {
		said += ": " + upstream.Line(strings.Join(s.Text, " / "))
	}
	return said
}
