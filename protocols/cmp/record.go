package cmp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// record is what the adapter keeps of a transaction, in the store, with the transaction itself: it is committed with the
// intent, before the CA is asked. All that is random in the answer stands in it, so that the same message gets the same
// answer byte for byte, from every replica and after a restart, and later messages are held against it.
//
// It holds no secret that proves anything to the gateway: Key only ties nonces to the transaction, and that of Envelope opens a
// certificate which lies beside it in the store.
type record struct {
	Version     int             `json:"v"`
	Body        cmpmsg.BodyType `json:"b"`
	ReqID       int64           `json:"i"`            // certReqId of the answer: 0, or -1 for p10cr
	Message     []byte          `json:"m"`            // SHA-256 of the request message
	PVNO        int             `json:"p"`            //
	ClientNonce []byte          `json:"n"`            // senderNonce of the request
	MAC         bool            `json:"a,omitempty"`  // protected by a MAC, not by a signature
	Reference   []byte          `json:"r,omitempty"`  // MAC: senderKID
	Signer      []byte          `json:"s,omitempty"`  // signature: DER of the signer's certificate
	Implicit    bool            `json:"ic,omitempty"` // implicitConfirm is granted with the certificate
	TellWait    bool            `json:"cw,omitempty"` // confirmWaitTime was asked for
	ByFile      bool            `json:"f,omitempty"`  // the request came in a file: the certificate waits for longer
	Wish        wish            `json:"w"`
	Key         []byte          `json:"k"` // of the nonces of further answers
	Answer      parts           `json:"o"`
	KeyGen      bool            `json:"g,omitempty"` // a key made here goes with the certificate
	Envelope    *cms.Envelope   `json:"x,omitempty"` // the certificate is sent encrypted; nil: in the clear
	Confirmed   *confirmed      `json:"c,omitempty"`
	Forward     *passed         `json:"fw,omitempty"` // its messages are passed on; nil: answered here
	Until       int64           `json:"u,omitempty"`  // with Confirmed: the confirmWaitTime that was told, Unix seconds
}

// parts is what an answer does not take from the message that it answers.
type parts struct {
	Nonce []byte `json:"n"` // senderNonce
	Salt  []byte `json:"s"` // of the MAC
	Time  int64  `json:"t"` // messageTime, Unix seconds
}

func (p parts) time() time.Time { return time.Unix(p.Time, 0).UTC() }

// confirmed is the certConf that ended the transaction.
type confirmed struct {
	Message []byte          `json:"m"`           // its SHA-256
	Fail    cmpmsg.FailInfo `json:"f,omitempty"` // what was wrong with it
	Answer  parts           `json:"o"`
}

const (
	recordVersion = 1
	nonceSize     = 16 // bytes: the 128 bits of RFC 9810 section 5.1.1
	saltSize      = 16
	keySize       = 16
)

func (h *Handler) random(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(h.rand, b); err != nil {
		return nil, fmt.Errorf("random bytes: %w", err)
	}
	return b, nil
}

// parts makes those of a new answer.
func (h *Handler) parts() (parts, error) {
	b, err := h.random(nonceSize + saltSize)
	if err != nil {
		return parts{}, err
	}
	return parts{Nonce: b[:nonceSize], Salt: b[nonceSize:], Time: h.now().Unix()}, nil
}

func (r *record) encode() ([]byte, error) { return json.Marshal(r) }

// write encodes a record to be stored, which does not change any more.
func (x *exchange) write(r *record) ([]byte, error) {
	b, err := r.encode()
	if err == nil {
		x.written, x.wrote = b, r
	}
	return b, err
}

// read decodes a record that was stored: most often the one just written.
func (x *exchange) read(stored []byte) (*record, error) {
	if x.wrote != nil && bytes.Equal(stored, x.written) {
		return x.wrote, nil
	}
	return decodeRecord(stored)
}

var errRecord = errors.New("the record of the exchange is not one that this version wrote")

// decodeRecord reads what encode wrote.
func decodeRecord(b []byte) (*record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, errRecord
	}
	if r.Version != recordVersion || len(r.Message) != sha256.Size || len(r.Key) != keySize || !r.Answer.complete() {
		return nil, errRecord
	}
	if r.MAC == (len(r.Signer) > 0) || r.Confirmed != nil && (len(r.Confirmed.Message) != sha256.Size || !r.Confirmed.Answer.complete()) {
		return nil, errRecord
	}
	return &r, nil
}

func (p parts) complete() bool { return len(p.Nonce) >= nonceSize && len(p.Salt) == saltSize }

// until is the confirmWaitTime to tell, zero for none: a certificate that is confirmed by now is answered as it was before.
func (r *record) until(waiting time.Time) time.Time {
	if waiting.IsZero() && r.Until != 0 {
		return time.Unix(r.Until, 0).UTC()
	}
	return waiting
}

// begunBy reports whether the requester is the one who began the transaction.
func (r *record) begunBy(q *requester) bool {
	if r.MAC {
		return q.mac != nil && bytes.Equal(r.Reference, q.reference)
	}
	return q.signer != nil && bytes.Equal(r.Signer, q.signer.Raw)
}

// nonceFor makes the senderNonce of a further answer, to the message with the hash. Nothing is stored when a client
// polls, so the nonce itself has to show that it is one of ours, in this transaction:
//
//	nonce = r || HMAC-SHA-256(Key, "issued" || r)[:16]      r = HMAC-SHA-256(Key, "answer" || hash)[:16]
func (r *record) nonceFor(hash []byte) []byte { return r.mark(tag(r.Key, "answer", hash)) }

// mark makes a nonce of nonceSize bytes into one that shows whose it is.
func (r *record) mark(half []byte) []byte {
	return append(slices.Clip(half), tag(r.Key, "issued", half)...)
}

// gave reports whether a nonce is one that an answer of this transaction had.
func (r *record) gave(nonce []byte) bool {
	if hmac.Equal(nonce, r.Answer.Nonce) || r.Confirmed != nil && hmac.Equal(nonce, r.Confirmed.Answer.Nonce) {
		return true
	}
	if len(nonce) != 2*nonceSize {
		return false
	}
	return hmac.Equal(nonce[nonceSize:], tag(r.Key, "issued", nonce[:nonceSize]))
}

func tag(key []byte, label string, data []byte) []byte {
	m := hmac.New(sha256.New, key)
	io.WriteString(m, label)
	m.Write(data)
	return m.Sum(nil)[:nonceSize:nonceSize]
}
