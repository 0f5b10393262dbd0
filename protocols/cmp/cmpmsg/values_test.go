package cmpmsg

import (
	"encoding/asn1"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/protocols/cms"
)

// value is one of the parsers of values with its way back, as functions of bytes.
type value struct {
	name  string
	again func(der []byte) ([]byte, error)
	good  []string
	bad   []string
}

// through parses and makes again.
func through[T any](parse func([]byte) (T, error), make func(T) ([]byte, error)) func([]byte) ([]byte, error) {
	return func(der []byte) ([]byte, error) {
		v, err := parse(der)
		if err != nil {
			return nil, err
		}
		return make(v)
	}
}

func values() []value {
	return []value{
		{
			"texts", through(ParseTexts, func(s []string) ([]byte, error) { return MarshalTexts(s...) }),
			[]string{seq(utf("profile")), seq(utf(""), utf("b"))},
			[]string{seq(), utf("a"), seq(tlv(0x13, "a")), seq(utf("\xff")), seq(strings.Repeat(utf("a"), 65))},
		}, {
			"text", through(ParseText, MarshalText),
			[]string{utf("token"), utf("")},
			[]string{tlv(4, "a"), utf("\xff"), utf(strings.Repeat("a", 4097))},
		}, {
			"sequences", through(ParseSequences, func(l [][]byte) ([]byte, error) { return MarshalSequences(l...) }),
			[]string{seq(aCert), seq(aCert, seq())},
			[]string{seq(), aCert + aCert, seq("\x05\x00")},
		}, {
			"algorithms", through(ParseAlgorithms, func(l []AlgorithmIdentifier) ([]byte, error) { strip(l); return MarshalAlgorithms(l...) }),
			[]string{seq(anAlg), seq(anAlg, string(withNull.Raw))},
			[]string{seq(), anAlg, seq(seq("\x05\x00"))},
		}, {
			"algorithm", through(ParseAlgorithm, func(a *AlgorithmIdentifier) ([]byte, error) { strip(a); return a.Marshal() }),
			[]string{anAlg, string(withNull.Raw)},
			[]string{seq(), seq("\x06\x01\x2a", "\x05\x00", "\x05\x00"), seq("\x06\x02\x2a\x80")},
		}, {
			"OIDs", through(ParseOIDs, func(l []asn1.ObjectIdentifier) ([]byte, error) { return MarshalOIDs(l...) }),
			[]string{seq("\x06\x01\x2a"), seq("\x06\x01\x2a", "\x06\x02\x88\x37")},
			[]string{seq(), seq("\x05\x00")},
		}, {
			"time", through(ParseTime, MarshalTime),
			[]string{tlv(0x18, minute)},
			[]string{tlv(0x17, minute[2:]), tlv(0x18, "202611211230Z"), tlv(0x18, minute) + "\x00"},
		}, {
			"root update", through(ParseRootUpdate, (*CAKeyUpdate).MarshalRootUpdate),
			[]string{seq(aCert), seq(aCert, tlv(0xa0, aCert), tlv(0xa1, seq())), seq(aCert, tlv(0xa1, seq()))},
			[]string{seq(), seq(aCert, aCert, aCert), seq(aCert, tlv(0xa1, aCert), tlv(0xa0, aCert)), seq(aCert, tlv(0xa0))},
		}, {
			"template", through(ParseCertReqTemplate, func(v *CertReqTemplate) ([]byte, error) { strip(v); return v.Marshal() }),
			[]string{seq(seq()), seq(seq(tlv(0xa5, aName)), seq(seq("\x06\x01\x2a", integer(2048))))},
			[]string{seq(), seq(seq(tlv(0xa6, aKey[2:]))), seq(seq(), seq(), seq())},
		}, {
			"CRL status", through(ParseCRLStatusList, func(l []CRLStatus) ([]byte, error) { return MarshalCRLStatusList(l...) }),
			[]string{
				seq(seq(tlv(0xa1, seq(dirGN)), tlv(0x17, minute[2:]))), seq(seq(tlv(0xa0, tlv(0xa0, "\x86\x01u")))),
				seq(seq(tlv(0xa0, tlv(0xa1, "\x05\x00"))), seq(tlv(0xa1, seq()), tlv(0x18, "20500101000000Z"))),
			},
			[]string{seq(), seq(seq()), seq(seq(tlv(0xa0, "\x05\x00"))), seq(seq(tlv(0xa0, tlv(0xa0, "\x05\x00")))), seq(seq(tlv(0xa1, seq(dirGN)), "\x05\x00")), seq(seq(tlv(0xa0, tlv(0xa0), tlv(0xa0))))},
		}, {
			"KEM", through(ParseKemCiphertext, func(k *KemCiphertext) ([]byte, error) { strip(k); return k.Marshal() }),
			[]string{seq(anAlg, tlv(4, "ct"))},
			[]string{seq(anAlg), seq(tlv(4, "ct")), seq(anAlg, tlv(4, "ct"), "\x05\x00")},
		}, {
			"CertId", through(ParseCertID, (*CertID).Marshal),
			[]string{seq(dirGN, integer(3)), seq("\x86\x01u", integer(-1))},
			[]string{seq(dirGN), seq(aName, integer(3)), seq(dirGN, integer(3), integer(3)), seq(dirGN, tlv(2, strings.Repeat("\x01", 100)))},
		}, {
			"publication", through(ParsePublicationInfo, (*PublicationInfo).Marshal),
			[]string{seq(integer(0)), seq(integer(1), seq(seq(integer(2), "\x86\x01u"), seq(integer(0))))},
			[]string{seq(), seq(integer(2)), seq(integer(1), seq(seq(integer(2), "\x05\x00"))), seq(integer(1), seq(seq(integer(-1))))},
		}, {
			"archive", through(ParseArchiveOptions, (*ArchiveOptions).Marshal),
			[]string{tlv(0xa0, anEnv), tlv(0xa0, seq("\x03\x02\x00\x01")), tlv(0x81, "parameters"), "\x82\x01\xff", "\x82\x01\x00"},
			[]string{"\x82\x01\x01", "\x82\x00", tlv(0xa0), tlv(0x83, "a"), tlv(0xa0, anEnv) + "\x00"},
		}, {
			"public key", ParsePublicKey,
			[]string{aKey},
			[]string{seq(), seq(anAlg), seq(anAlg, tlv(4, "k")), aKey + "\x00"},
		},
	}
}

func TestValues(t *testing.T) {
	for _, v := range values() {
		t.Run(v.name, func(t *testing.T) {
			for _, der := range v.good {
				got, err := v.again([]byte(der))
				if err != nil || string(got) != der {
					t.Errorf("%x: %x, %v", der, got, err)
				}
			}
			for _, der := range append(v.bad, "", "\x30\x80\x00\x00", v.good[0]+"\x05\x00", v.good[0][:len(v.good[0])-1]) {
				got, err := v.again([]byte(der))
				var e *Error
				if !errors.As(err, &e) {
					t.Errorf("%x: %x, %v", der, got, err)
				}
			}
		})
	}
}

// The guard stands before the parsers of values too: what they do not look into is within its bounds all the same.
func TestValuesAreGuarded(t *testing.T) {
	deep := "\x05\x00"
	for range cms.DefaultDepth {
		deep = seq(deep)
	}
	if _, err := ParseAlgorithm([]byte(seq("\x06\x01\x2a", deep))); !errors.Is(err, cms.ErrLimit) {
		t.Errorf("%v", err)
	}
	if _, err := ParseAlgorithm([]byte(seq("\x06\x01\x2a", seq("\x04\x81\x01a")))); !errors.Is(err, cms.ErrNotDER) {
		t.Errorf("%v", err)
	}
}

func TestNames(t *testing.T) {
	name, ok := DirectoryName([]byte(dirGN))
	if !ok {
		t.Fatal("no directoryName")
	}
	sameBytes(t, "Name", name, []byte(aName))
	sameBytes(t, "GeneralName", GeneralDirectoryName(name), []byte(dirGN))
	for _, bad := range []string{"", aName, "\x86\x01u", dirGN + "\x00", tlv(0xa4, aName, aName), tlv(0xa4)} {
		if _, ok := DirectoryName([]byte(bad)); ok {
			t.Errorf("%x is a directoryName", bad)
		}
	}
	for _, bad := range []string{"", "x", dirGN, seq(seq())} {
		if gn := GeneralDirectoryName([]byte(bad)); gn != nil {
			t.Errorf("%x: %x", bad, gn)
		}
	}
	if !IsNullDN([]byte(nullDN)) || IsNullDN([]byte(dirGN)) || IsNullDN(nil) || IsNullDN([]byte("\x86\x02\x30\x00")) {
		t.Error("IsNullDN")
	}
}

func TestStrings(t *testing.T) {
	for got, want := range map[string]string{
		TypeIR.String(): "ir", TypeP10CR.String(): "p10cr", TypeCCP.String(): "ccp", TypePKIConf.String(): "pkiconf", TypeNested.String(): "nested",
		TypeCertConf.String(): "certConf", TypePollRep.String(): "pollRep", BodyType(27).String(): "body 27", BodyType(-1).String(): "body -1",
		StatusAccepted.String(): "accepted", StatusKeyUpdateWarning.String(): "keyUpdateWarning", Status(7).String(): "status 7", Status(-1).String(): "status -1",
		BadPOP.String(): "badPOP", (BadAlg | BadRequest).String(): "badAlg,badRequest", DuplicateCertReq.String(): "duplicateCertReq",
		SignerNotTrusted.String(): "signerNotTrusted", FailInfo(0).String(): "", FailInfo(1 << 27).String(): "bit 27",
		POPSignature.String(): "signature", POPKind(4).String(): "proof of possession 4",
		InfoTypeName(OIDImplicitConfirm): "implicitConfirm", InfoTypeName(OIDKemCiphertextInfo): "KemCiphertextInfo", InfoTypeName(OIDRegToken) + "-": "-",
		ControlName(OIDOldCertID): "oldCertID", ControlName(OIDUTF8Pairs): "utf8Pairs", ControlName(OIDRSAKeyLen): "rsaKeyLen",
		InfoTypeName(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 999}) + "+": "+", ControlName(nil) + "/": "/",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestControl(t *testing.T) {
	m := CertReqMsg{Controls: []AttributeTypeAndValue{{OIDRegToken, []byte(utf("a"))}, {OIDRegToken, []byte(utf("b"))}}}
	if v, ok := m.Control(OIDRegToken); !ok || string(v) != utf("a") {
		t.Errorf("%q, %v", v, ok)
	}
	if _, ok := m.Control(OIDAuthenticator); ok {
		t.Error("an authenticator")
	}
}

// What is signed with poposkInput has the tag of a SEQUENCE (RFC 4211 section 4.1).
func TestSigningInput(t *testing.T) {
	s := POPOSigningKey{Sender: []byte(dirGN), PublicKey: []byte(aKey), Algorithm: anAlgorithm, Signature: []byte{1}}
	want := seq(tlv(0xa0, dirGN), aKey)
	input, err := s.Input()
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "input", input, []byte(want))
	m, err := Parse([]byte(pop(tlv(0xa1, "\xa0"+want[1:], anAlg, "\x03\x02\x00\x01"))))
	if err != nil {
		t.Fatal(err)
	}
	got := m.Body.(*CertReqMessages).Messages[0].POP.Signing
	sameBytes(t, "RawInput", got.RawInput, []byte(want))
	sameBytes(t, "publicKey", got.PublicKey, []byte(aKey))
	sameBytes(t, "sender", got.Sender, []byte(dirGN))
}

func TestTimeIsUTC(t *testing.T) {
	der, err := MarshalTime(when.In(time.FixedZone("", -7200)).Add(999 * time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "time", der, []byte(tlv(0x18, minute)))
	if _, err := MarshalCRLStatusList(CRLStatus{}); err == nil {
		t.Error("a CRLStatus without a source")
	}
	if _, err := (&CertID{Serial: big.NewInt(1)}).Marshal(); err == nil {
		t.Error("a CertId without an issuer")
	}
	if _, err := (&CertReqTemplate{Template: CertTemplate{PublicKey: []byte(aKey)}}).Marshal(); err == nil {
		t.Error("a public key in a CertReqTemplateContent")
	}
}
