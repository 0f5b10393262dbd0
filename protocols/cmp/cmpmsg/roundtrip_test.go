package cmpmsg

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"
	"time"
)

var (
	anAlgorithm = AlgorithmIdentifier{Raw: []byte(anAlg), OID: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}
	withNull    = AlgorithmIdentifier{
		Raw: []byte("\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00"),
		OID: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, Parameters: []byte{5, 0},
	}
	rejected = PKIStatusInfo{StatusRejection, []string{"no", "nein"}, BadPOP | BadAlg}
	accepted = PKIStatusInfo{}
	accID    = CertID{Issuer: []byte(dirGN), Serial: big.NewInt(77)}
)

// bodies are values with every field set, and with as few as there may be.
func bodies() map[string]Body {
	version := 2
	full := CertTemplate{
		Version: &version, SerialNumber: big.NewInt(-5), SigningAlg: new(withNull), Issuer: []byte(aName), NotBefore: when,
		NotAfter: time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC), Subject: []byte("\x30\x00"), PublicKey: []byte(aKey),
		IssuerUID: &asn1.BitString{Bytes: []byte{0xa0}, BitLength: 3}, SubjectUID: &asn1.BitString{Bytes: []byte{}}, Extensions: []byte(anExt),
	}
	control := []AttributeTypeAndValue{{OIDRegToken, []byte(utf("token"))}}
	pop := func(p ProofOfPossession) *CertReqMessages {
		return &CertReqMessages{TypeIR, []CertReqMsg{{ReqID: big.NewInt(0), POP: &p}}}
	}
	encrypted := CertResponse{ReqID: big.NewInt(1), EncrCert: []byte(anEnv), PrivateKey: []byte(seq("\x03\x02\x00\x01")), PublicationInfo: []byte(seq(integer(0))), RspInfo: []byte{}}
	m := map[string]Body{
		"ir":            &CertReqMessages{TypeIR, []CertReqMsg{{ReqID: big.NewInt(0)}}},
		"cr full":       &CertReqMessages{TypeCR, []CertReqMsg{{ReqID: big.NewInt(0), Template: full, Controls: control, POP: &ProofOfPossession{}, RegInfo: control}, {ReqID: big.NewInt(1)}}},
		"kur notAfter":  &CertReqMessages{TypeKUR, []CertReqMsg{{ReqID: big.NewInt(0), Template: CertTemplate{NotAfter: when}}}},
		"krr":           &CertReqMessages{TypeKRR, []CertReqMsg{{ReqID: big.NewInt(0)}}},
		"ccr":           &CertReqMessages{TypeCCR, []CertReqMsg{{ReqID: big.NewInt(0)}}},
		"pop signature": pop(ProofOfPossession{Kind: POPSignature, Signing: &POPOSigningKey{Algorithm: anAlgorithm, Signature: []byte{1, 2}}}),
		"pop sender":    pop(ProofOfPossession{Kind: POPSignature, Signing: &POPOSigningKey{Sender: []byte(dirGN), PublicKey: []byte(aKey), Algorithm: anAlgorithm, Signature: []byte{1}}}),
		"pop keyMAC":    pop(ProofOfPossession{Kind: POPSignature, Signing: &POPOSigningKey{KeyMAC: &PKMACValue{anAlgorithm, []byte{9}}, PublicKey: []byte(aKey), Algorithm: anAlgorithm, Signature: []byte{1}}}),
		"pop encrCert":  pop(ProofOfPossession{Kind: POPKeyEncipherment, PrivKey: &POPOPrivKey{Method: 1}}),
		"pop challenge": pop(ProofOfPossession{Kind: POPKeyAgreement, PrivKey: &POPOPrivKey{Method: 1, Subsequent: 1}}),
		"pop message":   pop(ProofOfPossession{Kind: POPKeyEncipherment, PrivKey: &POPOPrivKey{Value: []byte("\x80\x02\x00\x01")}}),
		"pop dhMAC":     pop(ProofOfPossession{Kind: POPKeyAgreement, PrivKey: &POPOPrivKey{Method: 2, Value: []byte("\x82\x02\x00\x01")}}),
		"pop agreeMAC":  pop(ProofOfPossession{Kind: POPKeyAgreement, PrivKey: &POPOPrivKey{Method: 3, Value: []byte(tlv(0xa3, anAlg, "\x03\x02\x00\x01"))}}),
		"pop encrKey":   pop(ProofOfPossession{Kind: POPKeyEncipherment, PrivKey: &POPOPrivKey{Method: 4, Value: []byte("\xa4\x03\x02\x01\x00")}}),

		"p10cr":          &PKCS10{[]byte(aCert)},
		"ip":             &CertRepMessage{TypeIP, [][]byte{[]byte(aCert), []byte(aCert)}, []CertResponse{{ReqID: big.NewInt(0), Status: accepted, Certificate: []byte(aCert)}}},
		"cp":             &CertRepMessage{TypeCP, nil, []CertResponse{{ReqID: big.NewInt(-1), Status: rejected}}},
		"kup":            &CertRepMessage{TypeKUP, nil, []CertResponse{encrypted}},
		"ccp empty":      &CertRepMessage{Kind: TypeCCP},
		"popdecc":        &Challenges{[]Challenge{{new(anAlgorithm), []byte{1}, []byte{}, []byte(seq("\x05\x00"))}, {Witness: []byte{2}, Challenge: []byte{3}}}},
		"popdecr":        &ChallengeResponses{[]*big.Int{big.NewInt(7), new(big.Int).Lsh(big.NewInt(1), 1000)}},
		"krp":            &KeyRecRep{accepted, []byte(aCert), [][]byte{[]byte(aCert)}, []CertifiedKeyPair{{Certificate: []byte(aCert), PrivateKey: []byte(anEnv)}, {EncrCert: []byte(anEnv)}}},
		"krp bare":       &KeyRecRep{Status: rejected},
		"rr":             &RevReq{[]RevDetails{{full, []byte(anExt)}, {Certificate: CertTemplate{SerialNumber: big.NewInt(1)}}}},
		"rp":             &RevRep{[]PKIStatusInfo{accepted, rejected}, []CertID{accID, accID}, [][]byte{[]byte(aCert)}},
		"rp bare":        &RevRep{Statuses: []PKIStatusInfo{rejected}},
		"ckuann":         &CAKeyUpdate{NewWithNew: []byte(aCert), NewWithOld: []byte(seq(integer(1))), OldWithNew: []byte(seq(integer(2)))},
		"ckuann newOnly": &CAKeyUpdate{NewWithNew: []byte(aCert)},
		"ckuann V2":      &CAKeyUpdate{V2: true, NewWithNew: []byte(aCert), NewWithOld: []byte(seq(integer(1))), OldWithNew: []byte(seq(integer(2)))},
		"cann":           &CertAnn{[]byte(aCert)},
		"rann":           &RevAnn{StatusRevocationWarning, accID, when, when.Add(-time.Hour), []byte(anExt)},
		"rann bare":      &RevAnn{Status: StatusRevocationNotification, Certificate: accID, WillBeRevoked: when, BadSince: when},
		"crlann":         &CRLAnn{[][]byte{[]byte(aCert)}},
		"pkiconf":        &PKIConf{},
		"nested":         &Nested{[][]byte{[]byte(simple("\xb3\x02\x05\x00")), []byte(aCert)}},
		"genm":           &General{TypeGenM, []InfoTypeAndValue{{OIDCACerts, nil}, {OIDCertProfile, []byte(seq(utf("a")))}, {OIDSuppLangTags, []byte("\x7f\x81\x01\x00")}}},
		"genp empty":     &General{Kind: TypeGenP},
		"error":          &ErrorMsg{rejected, big.NewInt(-129), []string{"details"}},
		"error bare":     &ErrorMsg{Status: PKIStatusInfo{Status: StatusWaiting}},
		"certConf":       &CertConf{[]CertStatus{{[]byte{1}, big.NewInt(0), new(rejected), new(anAlgorithm)}, {CertHash: []byte{2}, ReqID: big.NewInt(1)}}},
		"certConf empty": &CertConf{},
		"pollReq":        &PollReq{[]*big.Int{big.NewInt(0), big.NewInt(-1)}},
		"pollRep":        &PollRep{[]PollResponse{{big.NewInt(0), 60, []string{"held"}}, {ReqID: big.NewInt(1)}}},
	}
	return m
}

func TestEveryBody(t *testing.T) {
	seen := map[BodyType]bool{}
	for name, body := range bodies() {
		t.Run(name, func(t *testing.T) {
			seen[body.Type()] = true
			o := Outgoing{Header: Header{PVNO: 2, Sender: []byte(nullDN), Recipient: []byte(dirGN)}, Body: body}
			der, err := o.Protect(nil)
			if err != nil {
				t.Fatal(err)
			}
			m, err := Parse(der)
			if err != nil {
				t.Fatalf("%x: %v", der, err)
			}
			sameBytes(t, "again", again(t, m), der)
			strip(m.Body)
			// Again from the fields, and equal to what was given.
			sameBytes(t, "from fields", again(t, m), der)
			sameBytes(t, "from fields, parsed again", again(t, reparsed(t, der)), der)
			want := body
			strip(want)
			clearPrivKeyValue(m.Body)
			equal(t, "body", m.Body, want)
		})
	}
	for b := TypeIR; b <= TypePollRep; b++ {
		if !seen[b] {
			t.Errorf("no %v", b)
		}
	}
}

func reparsed(t *testing.T, der []byte) *Message {
	m, err := Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// clearPrivKeyValue drops the bytes of subsequentMessage, whose meaning is in Subsequent.
func clearPrivKeyValue(b Body) {
	c, ok := b.(*CertReqMessages)
	if !ok {
		return
	}
	for _, m := range c.Messages {
		if m.POP != nil && m.POP.PrivKey != nil && m.POP.PrivKey.Method == 1 {
			m.POP.PrivKey.Value = nil
		}
	}
}

func TestHeaderAndProtection(t *testing.T) {
	h := Header{
		PVNO: 3, Sender: []byte(dirGN), Recipient: []byte("\x86\x01a"), MessageTime: when.In(time.FixedZone("", 3600)), ProtectionAlg: new(anAlgorithm),
		SenderKID: []byte("kid"), RecipKID: []byte("rkid"), TransactionID: []byte("tid"), SenderNonce: []byte{}, RecipNonce: []byte("rn"),
		FreeText: []string{"hello", ""}, GeneralInfo: []InfoTypeAndValue{{OIDImplicitConfirm, []byte{5, 0}}, {OIDCertProfile, []byte(seq(utf("p")))}},
	}
	var part []byte
	o := Outgoing{h, &PKIConf{}, [][]byte{[]byte(aCert), []byte(seq())}}
	der, err := o.Protect(func(p []byte) ([]byte, error) { part = p; return []byte("signature"), nil })
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "ProtectedPart", m.Protected(), part)
	sameBytes(t, "header and body", append(bytes.Clone(m.RawHeader), m.RawBody...), part[len(part)-len(m.RawHeader)-len(m.RawBody):])
	sameBytes(t, "protection", m.Protection, []byte("signature"))
	equal(t, "extraCerts", m.ExtraCerts, o.ExtraCerts)
	h.MessageTime = when
	equal(t, "header", m.Header, h)
	if v, ok := m.Header.Info(OIDCertProfile); !ok || string(v) != seq(utf("p")) {
		t.Errorf("certProfile %x, %v", v, ok)
	}

	// The message by hand, so that the encoder and the parser are not wrong in the same way.
	want := seq(
		seq(integer(3), dirGN, "\x86\x01a", tlv(0xa0, tlv(0x18, minute)), tlv(0xa1, anAlg), tlv(0xa2, tlv(4, "kid")), tlv(0xa3, tlv(4, "rkid")),
			tlv(0xa4, tlv(4, "tid")), tlv(0xa5, tlv(4)), tlv(0xa6, tlv(4, "rn")), tlv(0xa7, seq(utf("hello"), utf(""))),
			tlv(0xa8, seq(seq("\x06\x08\x2b\x06\x01\x05\x05\x07\x04\x0d", "\x05\x00"), seq("\x06\x08\x2b\x06\x01\x05\x05\x07\x04\x15", seq(utf("p")))))),
		"\xb3\x02\x05\x00", tlv(0xa0, tlv(3, "\x00signature")), tlv(0xa1, seq(aCert, seq())))
	sameBytes(t, "by hand", der, []byte(want))
}

// What is given away cannot be appended to into the message.
func TestSlicesAreClipped(t *testing.T) {
	m := parsed(t, "ir-sig")
	before := bytes.Clone(m.Raw)
	r := m.Body.(*CertReqMessages).Messages[0]
	for _, b := range [][]byte{m.Raw, m.RawHeader, m.RawBody, m.Header.Sender, m.Header.TransactionID, m.Protection, m.ExtraCerts[0], m.Header.ProtectionAlg.Raw, r.Raw, r.RawRequest, r.Template.Raw, r.Template.Subject, r.POP.Raw, r.POP.Signing.Signature} {
		_ = append(b, 0xff)
	}
	sameBytes(t, "message", m.Raw, before)
}

func TestProtectRefuses(t *testing.T) {
	good := func() *Outgoing {
		return &Outgoing{Header: Header{PVNO: 2, Sender: []byte(nullDN), Recipient: []byte(nullDN)}, Body: &PKIConf{}}
	}
	if _, err := good().Protect(nil); err != nil {
		t.Fatal(err)
	}
	bad := errors.New("no key")
	if _, err := (&Outgoing{Header: Header{PVNO: 2, Sender: []byte(nullDN), Recipient: []byte(nullDN), ProtectionAlg: new(anAlgorithm)}, Body: &PKIConf{}}).
		Protect(func([]byte) ([]byte, error) { return nil, bad }); !errors.Is(err, bad) {
		t.Errorf("%v", err)
	}
	if _, err := good().Protect(func([]byte) ([]byte, error) { return []byte{1}, nil }); err == nil {
		t.Error("protection without protectionAlg")
	}
	for name, change := range map[string]func(*Outgoing){
		"protectionAlg alone": func(o *Outgoing) { o.Header.ProtectionAlg = new(anAlgorithm) },
		"no sender":           func(o *Outgoing) { o.Header.Sender = nil },
		"Name as sender":      func(o *Outgoing) { o.Header.Sender = []byte(aName) },
		"no recipient":        func(o *Outgoing) { o.Header.Recipient = nil },
		"year 10000":          func(o *Outgoing) { o.Header.MessageTime = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"text not UTF-8":      func(o *Outgoing) { o.Header.FreeText = []string{"\xff"} },
		"no infoType":         func(o *Outgoing) { o.Header.GeneralInfo = []InfoTypeAndValue{{}} },
		"infoValue":           func(o *Outgoing) { o.Header.GeneralInfo = []InfoTypeAndValue{{OIDCACerts, []byte{5}}} },
		"two in infoValue":    func(o *Outgoing) { o.Header.GeneralInfo = []InfoTypeAndValue{{OIDCACerts, []byte{5, 0, 5, 0}}} },
		"no body":             func(o *Outgoing) { o.Body = nil },
		"extraCerts":          func(o *Outgoing) { o.ExtraCerts = [][]byte{{4, 0}} },
		"BER":                 func(o *Outgoing) { o.ExtraCerts = [][]byte{{0x30, 0x80, 0, 0}} },
		"kind of requests":    func(o *Outgoing) { o.Body = &CertReqMessages{TypeIP, []CertReqMsg{{ReqID: big.NewInt(0)}}} },
		"kind of answers":     func(o *Outgoing) { o.Body = &CertRepMessage{Kind: TypeKRP} },
		"kind of genm":        func(o *Outgoing) { o.Body = &General{Kind: TypeIR} },
		"kind beyond":         func(o *Outgoing) { o.Body = &General{Kind: 27} },
		"no request":          func(o *Outgoing) { o.Body = &CertReqMessages{Kind: TypeIR} },
		"no certReqId":        func(o *Outgoing) { o.Body = &PollReq{[]*big.Int{nil}} },
		"no message":          func(o *Outgoing) { o.Body = &Nested{} },
		"no status":           func(o *Outgoing) { o.Body = &RevRep{} },
		"cert and encrCert": func(o *Outgoing) {
			o.Body = &CertRepMessage{Kind: TypeIP, Responses: []CertResponse{{ReqID: big.NewInt(0), Certificate: []byte(aCert), EncrCert: []byte(anEnv)}}}
		},
		"private key alone": func(o *Outgoing) {
			o.Body = &CertRepMessage{Kind: TypeIP, Responses: []CertResponse{{ReqID: big.NewInt(0), PrivateKey: []byte(anEnv)}}}
		},
		"certificate": func(o *Outgoing) {
			o.Body = &CertRepMessage{Kind: TypeIP, Responses: []CertResponse{{ReqID: big.NewInt(0), Certificate: []byte("PEM")}}}
		},
		"CSR": func(o *Outgoing) { o.Body = &PKCS10{} },
		"POP without content": func(o *Outgoing) {
			o.Body = &CertReqMessages{TypeIR, []CertReqMsg{{ReqID: big.NewInt(0), POP: &ProofOfPossession{Kind: POPSignature}}}}
		},
		"poposkInput without authInfo": func(o *Outgoing) {
			o.Body = &CertReqMessages{TypeIR, []CertReqMsg{{ReqID: big.NewInt(0), POP: &ProofOfPossession{Kind: POPSignature, Signing: &POPOSigningKey{PublicKey: []byte(aKey), Algorithm: anAlgorithm}}}}}
		},
		"poposkInput with two authInfos": func(o *Outgoing) {
			o.Body = &CertReqMessages{TypeIR, []CertReqMsg{{ReqID: big.NewInt(0), POP: &ProofOfPossession{Kind: POPSignature, Signing: &POPOSigningKey{Sender: []byte(dirGN), KeyMAC: &PKMACValue{anAlgorithm, []byte{9}}, PublicKey: []byte(aKey), Algorithm: anAlgorithm}}}}}
		},
		"too large": func(o *Outgoing) {
			for range 5 {
				o.ExtraCerts = append(o.ExtraCerts, []byte(seq(tlv(4, string(make([]byte, 60_000))))))
			}
		},
	} {
		o := good()
		change(o)
		if der, err := o.Protect(nil); err == nil {
			t.Errorf("%s: %x", name, der[:min(len(der), 64)])
		}
	}
}
