package cmp

import (
	"context"
	"net/http"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// Exchange is backend.Exchanger: the message as it is, or within a nested one that the RA signs (RFC 9810 section 5.1.3.5). What the CA
// answers is for the device, and given back as it is; whether it fits the message is looked at by the gateway.
func (ca *CA) Exchange(ctx context.Context, _ string, message []byte) ([]byte, error) {
	r, err := ca.open.Get(ctx)
	if err != nil {
		return nil, err
	}
	send := message
	var d *dialogue
	switch r.Exchange {
	case "":
		return nil, backend.Refuse(codes.Unimplemented, "the configuration does not say that it passes messages on (exchange)")
	case exchangeNested:
		if d, send, err = r.nest(message); err != nil {
			return nil, err
		}
	}
	a, err := r.post(ctx, send)
	if err != nil {
		return nil, err
	}
	m, err := cmpmsg.Parse(a.Body)
	switch {
	case m == nil && a.Status != http.StatusOK:
		return nil, backend.Refuse(codes.Unavailable, "HTTP %d and no message", a.Status)
	case m == nil:
		return nil, backend.Refuse(codes.Internal, "the answer does not parse: %v", err)
	}
	if n, ok := m.Body.(*cmpmsg.Nested); ok {
		return d.unnest(m, n)
	}
	return a.Body, nil
}

// nest puts a message into one that the RA signs. transactionID and nonces are those of what is in it: so the answer, which is the
// device's, answers both.
func (r *running) nest(message []byte) (*dialogue, []byte, error) {
	m, err := cmpmsg.Parse(message)
	if m == nil {
		return nil, nil, backend.Refuse(codes.InvalidArgument, "the message does not parse: %v", err)
	}
	h := &m.Header
	d, err := r.dialogue(h.TransactionID)
	if err != nil {
		return nil, nil, err
	}
	d.first = h.SenderNonce
	der, err := d.id.protect(&cmpmsg.Outgoing{Body: &cmpmsg.Nested{Messages: [][]byte{message}}, Header: cmpmsg.Header{
		PVNO: h.PVNO, Recipient: h.Recipient, MessageTime: r.now().UTC(), TransactionID: h.TransactionID, SenderNonce: h.SenderNonce, RecipNonce: h.RecipNonce,
	}}, nil)
	if err != nil {
		return nil, nil, backend.Refuse(codes.Internal, "%v", err)
	}
	return d, der, nil
}

// unnest takes the device's answer out of one that the CA has nested likewise. d is nil where nothing nested was sent.
func (d *dialogue) unnest(m *cmpmsg.Message, n *cmpmsg.Nested) ([]byte, error) {
	if d == nil || len(n.Messages) != 1 {
		return nil, backend.Refuse(codes.Internal, "a nested answer with %d messages to one that was sent", len(n.Messages))
	}
	if _, err := d.take(m, d.first, false); err != nil {
		return nil, err
	}
	return n.Messages[0], nil
}
