package cmpmsg

import (
	"encoding/asn1"
	"math"
	"slices"
)

// Bounds of the header.
const (
	maxHeaderOctets = 1024 // of each OCTET STRING
	maxInfo         = 64   // elements of generalInfo, genm and genp
)

// header reads a PKIHeader.
//
//	PKIHeader ::= SEQUENCE {                            -- RFC 9810 section 5.1.1
//	    pvno           INTEGER,
//	    sender         GeneralName,
//	    recipient      GeneralName,
//	    messageTime    [0] GeneralizedTime OPTIONAL,     -- all tags are explicit
//	    protectionAlg  [1] AlgorithmIdentifier OPTIONAL,
//	    senderKID      [2] KeyIdentifier OPTIONAL,       -- OCTET STRING
//	    recipKID       [3] KeyIdentifier OPTIONAL,
//	    transactionID  [4] OCTET STRING OPTIONAL,
//	    senderNonce    [5] OCTET STRING OPTIONAL,
//	    recipNonce     [6] OCTET STRING OPTIONAL,
//	    freeText       [7] PKIFreeText OPTIONAL,
//	    generalInfo    [8] SEQUENCE SIZE (1..MAX) OF InfoTypeAndValue OPTIONAL }
func (in *input) header() (h Header) {
	in.sequence("PKIHeader", func(in *input) {
		h.PVNO = int(in.int("pvno", math.MinInt32, math.MaxInt32))
		h.Sender = in.generalName("sender")
		h.Recipient = in.generalName("recipient")
		in.tagged(0, "messageTime", func(in *input) { h.MessageTime = in.generalizedTime("messageTime") })
		in.tagged(1, "protectionAlg", func(in *input) {
			a := in.algorithm("protectionAlg")
			h.ProtectionAlg = &a
		})
		for i, f := range []struct {
			to   *[]byte
			what string
		}{
			{&h.SenderKID, "senderKID"}, {&h.RecipKID, "recipKID"}, {&h.TransactionID, "transactionID"},
			{&h.SenderNonce, "senderNonce"}, {&h.RecipNonce, "recipNonce"},
		} {
			in.tagged(uint8(i+2), f.what, func(in *input) { *f.to = in.octets(f.what, maxHeaderOctets) })
		}
		in.tagged(7, "freeText", func(in *input) { h.FreeText = in.freeText("freeText") })
		in.tagged(8, "generalInfo", func(in *input) { h.GeneralInfo = in.info("generalInfo") })
	})
	return h
}

// info reads a SEQUENCE OF InfoTypeAndValue.
//
//	InfoTypeAndValue ::= SEQUENCE {                     -- RFC 9810 section 5.3.19
//	    infoType   OBJECT IDENTIFIER,
//	    infoValue  ANY DEFINED BY infoType OPTIONAL }
func (in *input) info(what string) (list []InfoTypeAndValue) {
	in.list(what, 0, maxInfo, func(in *input) {
		var v InfoTypeAndValue
		in.sequence(what, func(in *input) {
			v.Type = in.oid(what + " infoType")
			if in.more() {
				v.Value = keep(in.any(what + " infoValue"))
			}
		})
		list = append(list, v)
	})
	return list
}

// Info returns the value of the first generalInfo element of that type, nil when it has none, and whether there is one.
func (h *Header) Info(infoType asn1.ObjectIdentifier) (value []byte, ok bool) {
	i := slices.IndexFunc(h.GeneralInfo, func(v InfoTypeAndValue) bool { return v.Type.Equal(infoType) })
	if i < 0 {
		return nil, false
	}
	return h.GeneralInfo[i].Value, true
}

func (b *builder) header(h *Header) {
	b.sequence(func(b *builder) {
		b.AddASN1Int64(int64(h.PVNO))
		b.generalName(h.Sender, "sender")
		b.generalName(h.Recipient, "recipient")
		if !h.MessageTime.IsZero() {
			b.tagged(0, func(b *builder) { b.AddASN1GeneralizedTime(h.MessageTime.UTC()) })
		}
		if h.ProtectionAlg != nil {
			b.tagged(1, func(b *builder) { b.algorithm(h.ProtectionAlg) })
		}
		for i, v := range [][]byte{h.SenderKID, h.RecipKID, h.TransactionID, h.SenderNonce, h.RecipNonce} {
			if v != nil {
				b.tagged(uint8(i+2), func(b *builder) { b.AddASN1OctetString(v) })
			}
		}
		if len(h.FreeText) > 0 {
			b.tagged(7, func(b *builder) { b.freeText(h.FreeText) })
		}
		if len(h.GeneralInfo) > 0 {
			b.tagged(8, func(b *builder) { b.info(h.GeneralInfo) })
		}
	})
}

func (b *builder) info(list []InfoTypeAndValue) {
	b.sequence(func(b *builder) {
		for _, v := range list {
			b.sequence(func(b *builder) {
				b.AddASN1ObjectIdentifier(v.Type)
				if v.Value != nil {
					b.element(v.Value, "infoValue")
				}
			})
		}
	})
}
