package cmp

import (
	"cmp"
	"fmt"

	"github.com/muster-pki/muster/gateway/pkix"
)

// facts is what the operator is shown of a message that was understood: how it came and is protected, and what it is about.
func (x *exchange) facts(rec *record) string {
	h := &x.message.Header
	protection := ""
	if x.requester.mac != nil {
		protection = x.requester.mac.String()
	} else {
		protection = "signed with " + pkix.SignatureName(h.ProtectionAlg.Raw)
	}
	key := "a key"
	if pub, err := pkix.ParsePublicKey(x.Request.PublicKey); err == nil {
		key = "a key of type " + pkix.KeyName(pub)
	}
	if k := x.Request.KeyGen; k != nil {
		key = "a key " + cmp.Or(k.Algorithm, "of any kind") + " to be made, for the requester to open by " + string(k.Wrap) + " encryption"
	}
	confirm := "certConf to follow"
	if rec.Implicit {
		confirm = "implicitConfirm granted"
	}
	return fmt.Sprintf("%s, pvno %d, %d bytes, %s, %d extraCerts; %s, possession shown by %s; %s",
		rec.Body, h.PVNO, len(x.Request.Raw), protection, len(x.message.ExtraCerts), key, x.Request.POP, confirm)
}
