package cmpmsg

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/muster-pki/muster/protocols/cms"
)

const conf = "\xb3\x02\x05\x00" // pkiconf

// body is a message with that element in a body of that type.
func body(t BodyType, content ...string) string { return simple(tlv(0xa0|byte(t), content...)) }

func request1(parts ...string) string { return body(TypeIR, seq(seq(parts...))) }

func template(fields ...string) string { return request1(seq(integer(0), seq(fields...))) }

func pop(p string) string { return request1(seq(integer(0), seq()), p) }

func answer(parts ...string) string { return body(TypeIP, seq(seq(seq(parts...)))) }

const good = "\x30\x03\x02\x01\x00" // PKIStatusInfo accepted, or SEQUENCE { INTEGER 0 }

// outcomes of a message
const (
	fine = iota
	badMessage
	badBody
)

var malformed = []struct {
	name string
	der  string
	want int
	what string // in the error
}{
	{"pkiconf", simple(conf), fine, ""},
	{"trailing byte", simple(conf) + "\x00", badMessage, "after the end"},
	{"truncated", simple(conf)[:20], badMessage, ""},
	{"nothing", "", badMessage, ""},
	{"empty SEQUENCE", seq(), badMessage, "PKIHeader"},
	{"SET", tlv(0x31, header(), conf), badMessage, "PKIMessage"},
	{"BER", "\x30\x80" + header() + conf + "\x00\x00", badMessage, ""},
	{"no body", seq(header()), badMessage, "PKIBody"},
	{"protection", seq(header(), conf, tlv(0xa0, "\x03\x02\x00\x01")), fine, ""},
	{"empty protection", seq(header(), conf, tlv(0xa0, "\x03\x01\x00")), fine, ""},
	{"protection with unused bits", seq(header(), conf, tlv(0xa0, "\x03\x02\x01\x02")), badMessage, "protection"},
	{"protection of no octet", seq(header(), conf, tlv(0xa0, "\x03\x00")), badMessage, "protection"},
	{"protection as OCTET STRING", seq(header(), conf, tlv(0xa0, "\x04\x02\x00\x01")), badMessage, "protection"},
	{"two in protection", seq(header(), conf, tlv(0xa0, "\x03\x02\x00\x01\x05\x00")), badMessage, "protection"},
	{"implicit protection", seq(header(), conf, "\x80\x02\x00\x01"), badMessage, "PKIMessage"},
	{"extraCerts", seq(header(), conf, tlv(0xa1, seq(aCert))), fine, ""},
	{"extraCerts empty", seq(header(), conf, tlv(0xa1, seq())), fine, ""},
	{"extraCerts before protection", seq(header(), conf, tlv(0xa1, seq(aCert)), tlv(0xa0, "\x03\x02\x00\x01")), badMessage, "PKIMessage"},
	{"extraCerts implicit", seq(header(), conf, tlv(0xa1, aCert)), badMessage, "extraCerts"},
	{"extraCerts no certificate", seq(header(), conf, tlv(0xa1, seq("\x05\x00"))), badMessage, "extraCerts"},
	{"64 extraCerts", seq(header(), conf, tlv(0xa1, seq(strings.Repeat(aCert, 64)))), fine, ""},
	{"65 extraCerts", seq(header(), conf, tlv(0xa1, seq(strings.Repeat(aCert, 65)))), badMessage, "too many"},
	{"element after extraCerts", seq(header(), conf, tlv(0xa1, seq(aCert)), tlv(0xa2, "\x05\x00")), badMessage, "PKIMessage"},

	{"pvno 99", seq(seq(integer(99), nullDN, dirGN), conf), fine, ""},
	{"pvno of 5 octets", seq(seq("\x02\x05\x01\x00\x00\x00\x00", nullDN, dirGN), conf), badMessage, "pvno"},
	{"pvno not minimal", seq(seq("\x02\x02\x00\x02", nullDN, dirGN), conf), badMessage, "pvno"},
	{"no pvno", seq(seq(nullDN, dirGN), conf), badMessage, "pvno"},
	{"no recipient", seq(seq(integer(2), nullDN), conf), badMessage, "recipient"},
	{"Name as sender", seq(seq(integer(2), aName, dirGN), conf), badMessage, "sender"},
	{"[9] as sender", seq(seq(integer(2), "\x89\x00", dirGN), conf), badMessage, "sender"},
	{"high tag as sender", seq(seq(integer(2), "\x9f\x24\x00", dirGN), conf), badMessage, "sender"},
	{"primitive directoryName", seq(seq(integer(2), "\x84\x02\x30\x00", dirGN), conf), badMessage, "sender"},
	{"two names in sender", seq(seq(integer(2), tlv(0xa4, seq(), seq()), dirGN), conf), badMessage, "sender"},
	{"empty RDN", seq(seq(integer(2), tlv(0xa4, seq(tlv(0x31))), dirGN), conf), badMessage, "sender"},
	{"RDN of one element", seq(seq(integer(2), tlv(0xa4, seq(tlv(0x31, seq("\x06\x03\x55\x04\x03")))), dirGN), conf), badMessage, "sender"},
	{"Name of 32 attributes", seq(seq(integer(2), tlv(0xa4, seq(strings.Repeat(cn, 32))), dirGN), conf), fine, ""},
	{"Name of 33 attributes", seq(seq(integer(2), tlv(0xa4, seq(strings.Repeat(cn, 33))), dirGN), conf), badMessage, "too many"},
	{"rfc822Name", seq(seq(integer(2), "\x81\x01a", dirGN), conf), fine, ""},
	{"messageTime", seq(header(tlv(0xa0, tlv(0x18, minute))), conf), fine, ""},
	{"messageTime with a fraction", seq(header(tlv(0xa0, tlv(0x18, "20261121123000.123Z"))), conf), fine, ""},
	{"messageTime with a fraction that ends in 0", seq(header(tlv(0xa0, tlv(0x18, "20261121123000.10Z"))), conf), badMessage, "messageTime"},
	{"messageTime with letters", seq(header(tlv(0xa0, tlv(0x18, "20261121123000.1aZ"))), conf), badMessage, "messageTime"},
	{"messageTime with a dot alone", seq(header(tlv(0xa0, tlv(0x18, "20261121123000.Z"))), conf), badMessage, "messageTime"},
	{"messageTime with an offset", seq(header(tlv(0xa0, tlv(0x18, "20261121123000+0100"))), conf), badMessage, "messageTime"},
	{"messageTime without seconds", seq(header(tlv(0xa0, tlv(0x18, "202611211230Z"))), conf), badMessage, "messageTime"},
	{"messageTime of local time", seq(header(tlv(0xa0, tlv(0x18, "20261121123000"))), conf), badMessage, "messageTime"},
	{"messageTime of a 30th of February", seq(header(tlv(0xa0, tlv(0x18, "20260230123000Z"))), conf), badMessage, "messageTime"},
	{"messageTime in the year 1", seq(header(tlv(0xa0, tlv(0x18, "00010101000000Z"))), conf), badMessage, "messageTime"},
	{"messageTime as UTCTime", seq(header(tlv(0xa0, tlv(0x17, minute[2:]))), conf), badMessage, "messageTime"},
	{"messageTime implicit", seq(header(tlv(0x80, minute)), conf), badMessage, "PKIHeader"},
	{"fields out of order", seq(header(tlv(0xa5, tlv(4, "n")), tlv(0xa4, tlv(4, "t"))), conf), badMessage, "PKIHeader"},
	{"field twice", seq(header(tlv(0xa4, tlv(4, "t")), tlv(0xa4, tlv(4, "t"))), conf), badMessage, "PKIHeader"},
	{"transactionID of 1024", seq(header(tlv(0xa4, tlv(4, strings.Repeat("t", 1024)))), conf), fine, ""},
	{"transactionID of 1025", seq(header(tlv(0xa4, tlv(4, strings.Repeat("t", 1025)))), conf), badMessage, "transactionID"},
	{"protectionAlg with three", seq(header(tlv(0xa1, seq("\x06\x01\x2a", "\x05\x00", "\x05\x00"))), conf), badMessage, "protectionAlg"},
	{"OID of 65 octets", seq(header(tlv(0xa1, seq(tlv(6, strings.Repeat("\x01", 65))))), conf), badMessage, "protectionAlg"},
	{"OID with an arc beyond 31 bits", seq(header(tlv(0xa1, seq("\x06\x07\x2a\x90\x80\x80\x80\x80\x00"))), conf), badMessage, "protectionAlg"},
	{"freeText", seq(header(tlv(0xa7, seq(utf("hello")))), conf), fine, ""},
	{"freeText of nothing", seq(header(tlv(0xa7, seq())), conf), fine, ""},
	{"32 texts", seq(header(tlv(0xa7, seq(strings.Repeat(utf(""), 32)))), conf), fine, ""},
	{"33 texts", seq(header(tlv(0xa7, seq(strings.Repeat(utf(""), 33)))), conf), badMessage, "freeText"},
	{"text of 4096", seq(header(tlv(0xa7, seq(utf(strings.Repeat("a", 4096))))), conf), fine, ""},
	{"text of 4097", seq(header(tlv(0xa7, seq(utf(strings.Repeat("a", 4097))))), conf), badMessage, "too long"},
	{"text not UTF-8", seq(header(tlv(0xa7, seq(utf("\xff")))), conf), badMessage, "UTF-8"},
	{"PrintableString", seq(header(tlv(0xa7, seq(tlv(0x13, "a")))), conf), badMessage, "UTF8String"},
	{"generalInfo of nothing", seq(header(tlv(0xa8, seq())), conf), fine, ""},
	{"infoValue twice", seq(header(tlv(0xa8, seq(seq("\x06\x01\x2a", "\x05\x00", "\x05\x00")))), conf), badMessage, "generalInfo"},
	{"infoType missing", seq(header(tlv(0xa8, seq(seq("\x05\x00")))), conf), badMessage, "infoType"},
	{"infoValue with a high tag", seq(header(tlv(0xa8, seq(seq("\x06\x01\x2a", "\x9f\x24\x01x")))), conf), fine, ""},
	{"65 in generalInfo", seq(header(tlv(0xa8, seq(strings.Repeat(seq("\x06\x01\x2a"), 65)))), conf), badMessage, "too many"},

	{"[27]", simple("\xbb\x02\x05\x00"), badBody, "no body"},
	{"[36]", simple("\xbf\x24\x02\x05\x00"), badBody, "no body"},
	{"large [36]", simple("\xbf\x24" + tlv(0xbf, tlv(4, strings.Repeat("a", 300)))[1:]), badBody, "no body"},
	{"universal body", simple("\x30\x02\x05\x00"), badBody, "no body"},
	{"primitive body", simple("\x93\x00"), badBody, "no body"},
	{"pkiconf empty", simple("\xb3\x00"), badBody, "NULL"},
	{"pkiconf of two", simple("\xb3\x04\x05\x00\x05\x00"), badBody, "pkiconf"},
	{"NULL with content", simple("\xb3\x03\x05\x01\x00"), badBody, "NULL"},

	{"ir", request1(seq(integer(0), seq())), fine, ""},
	{"ir of nothing", body(TypeIR, seq()), badBody, "no element"},
	{"64 requests", body(TypeIR, seq(strings.Repeat(seq(seq(integer(0), seq())), 64))), fine, ""},
	{"65 requests", body(TypeIR, seq(strings.Repeat(seq(seq(integer(0), seq())), 65))), badBody, "too many"},
	{"no certReqId", request1(seq(seq())), badBody, "certReqId"},
	{"certReqId of 40 octets", request1(seq(tlv(2, strings.Repeat("\x01", 40)), seq())), fine, ""},
	{"certReqId of 300 octets", request1(seq(tlv(2, strings.Repeat("\x01", 300)), seq())), badBody, "certReqId"},
	{"no template", request1(seq(integer(0))), badBody, "certTemplate"},
	{"CertRequest of four", request1(seq(integer(0), seq(), seq(), seq())), badBody, "CertRequest"},
	{"control without a value", request1(seq(integer(0), seq(), seq(seq("\x06\x01\x2a")))), badBody, "controls"},
	{"33 controls", request1(seq(integer(0), seq(), seq(strings.Repeat(seq("\x06\x01\x2a", "\x05\x00"), 33)))), badBody, "too many"},
	{"regInfo", request1(seq(integer(0), seq()), seq(seq("\x06\x01\x2a", "\x05\x00"))), fine, ""},
	{"regInfo before popo", request1(seq(integer(0), seq()), seq(seq("\x06\x01\x2a", "\x05\x00")), "\x80\x00"), badBody, "CertReqMsg"},

	{"version", template("\x80\x01\x02"), fine, ""},
	{"version of nothing", template("\x80\x00"), badBody, "version"},
	{"version negative", template("\x80\x01\xff"), badBody, "version"},
	{"version explicit", template("\xa0\x03\x02\x01\x02"), badBody, "certTemplate"},
	{"serialNumber not minimal", template("\x81\x02\x00\x01"), badBody, "serialNumber"},
	{"signingAlg explicit", template(tlv(0xa2, anAlg)), badBody, "signingAlg"},
	{"signingAlg", template(tlv(0xa2, anAlg[2:])), fine, ""},
	{"issuer", template(tlv(0xa3, aName)), fine, ""},
	{"issuer implicit", template(tlv(0xa3, cn)), badBody, "issuer"},
	{"validity", template(tlv(0xa4, tlv(0xa0, tlv(0x17, minute[2:])), tlv(0xa1, tlv(0x18, "20500101000000Z")))), fine, ""},
	{"UTCTime without seconds", template(tlv(0xa4, tlv(0xa0, tlv(0x17, "2611211230Z")))), badBody, "notBefore"},
	{"UTCTime with an offset", template(tlv(0xa4, tlv(0xa0, tlv(0x17, "261121123000+0100")))), badBody, "notBefore"},
	{"notAfter before notBefore", template(tlv(0xa4, tlv(0xa1, tlv(0x17, minute[2:])), tlv(0xa0, tlv(0x17, minute[2:])))), badBody, "validity"},
	{"subject before issuer", template(tlv(0xa5, aName), tlv(0xa3, aName)), badBody, "certTemplate"},
	{"publicKey", template(tlv(0xa6, aKey[2:])), fine, ""},
	{"publicKey explicit", template(tlv(0xa6, aKey)), badBody, "publicKey"},
	{"publicKey empty, by the CA", template(tlv(0xa6, anAlg, "\x03\x01\x00")), fine, ""},
	{"publicKey with three", template(tlv(0xa6, aKey[2:], "\x05\x00")), badBody, "publicKey"},
	{"issuerUID of no octet", template("\x87\x00"), badBody, "issuerUID"},
	{"subjectUID", template("\x88\x02\x04\xf0"), fine, ""},
	{"subjectUID padded with ones", template("\x88\x02\x04\xff"), badBody, "subjectUID"},
	{"extensions", template(tlv(0xa9, anExt[2:])), fine, ""},
	{"extensions explicit", template(tlv(0xa9, anExt)), badBody, "extensions"},
	{"extension critical", template(tlv(0xa9, seq("\x06\x01\x2a", "\x01\x01\xff", tlv(4)))), fine, ""},
	{"critical of 1", template(tlv(0xa9, seq("\x06\x01\x2a", "\x01\x01\x01", tlv(4)))), badBody, "critical"},
	{"extension without a value", template(tlv(0xa9, seq("\x06\x01\x2a"))), badBody, "extnValue"},
	{"33 extensions", template(tlv(0xa9, strings.Repeat(seq("\x06\x01\x2a", tlv(4)), 33))), badBody, "too many"},
	{"[10] in the template", template("\x8a\x00"), badBody, "certTemplate"},

	{"raVerified", pop("\x80\x00"), fine, ""},
	{"raVerified with content", pop("\x80\x01\x00"), badBody, "raVerified"},
	{"raVerified constructed", pop("\xa0\x00"), badBody, "CertReqMsg"},
	{"signature", pop(tlv(0xa1, anAlg, "\x03\x02\x00\x01")), fine, ""},
	{"signature with unused bits", pop(tlv(0xa1, anAlg, "\x03\x02\x01\x02")), badBody, "signature"},
	{"POPOSigningKey explicit", pop(tlv(0xa1, seq(anAlg, "\x03\x02\x00\x01"))), badBody, ""},
	{"poposkInput", pop(tlv(0xa1, tlv(0xa0, tlv(0xa0, dirGN), aKey), anAlg, "\x03\x02\x00\x01")), fine, ""},
	{"poposkInput with a MAC", pop(tlv(0xa1, tlv(0xa0, seq(anAlg, "\x03\x02\x00\x01"), aKey), anAlg, "\x03\x02\x00\x01")), fine, ""},
	{"poposkInput explicit", pop(tlv(0xa1, tlv(0xa0, seq(tlv(0xa0, dirGN), aKey)), anAlg, "\x03\x02\x00\x01")), badBody, ""},
	{"poposkInput without a key", pop(tlv(0xa1, tlv(0xa0, tlv(0xa0, dirGN)), anAlg, "\x03\x02\x00\x01")), badBody, "publicKey"},
	{"encrCert", pop(tlv(0xa2, "\x81\x01\x00")), fine, ""},
	{"subsequentMessage 2", pop(tlv(0xa2, "\x81\x01\x02")), badBody, "subsequentMessage"},
	{"method 5", pop(tlv(0xa2, "\x85\x00")), badBody, "POPOPrivKey"},
	{"POPOPrivKey of nothing", pop(tlv(0xa3)), badBody, "POPOPrivKey"},
	{"agreeMAC of nothing", pop(tlv(0xa3, tlv(0xa3))), badBody, "agreeMAC"},
	{"thisMessage of no octet", pop(tlv(0xa2, "\x80\x00")), badBody, "POPOPrivKey"},
	{"two proofs", pop("\x80\x00\x80\x00"), badBody, "CertReqMsg"},

	{"p10cr", body(TypeP10CR, aCert), fine, ""},
	{"p10cr of nothing", body(TypeP10CR), badBody, "CertificationRequest"},
	{"p10cr of two", body(TypeP10CR, aCert, aCert), badBody, "p10cr"},
	{"ip", answer(integer(0), good), fine, ""},
	{"status negative", answer(integer(0), seq(integer(-1))), badBody, "status"},
	{"status 9", answer(integer(0), seq(integer(9))), fine, ""},
	{"failInfo", answer(integer(0), seq(integer(2), "\x03\x02\x05\x20")), fine, ""},
	{"failInfo with a bit beyond 31", answer(integer(0), seq(integer(2), "\x03\x06\x06\x00\x00\x00\x00\x40")), fine, ""},
	{"failInfo with bits set in the padding", answer(integer(0), seq(integer(2), "\x03\x02\x05\x3f")), badBody, "failInfo"},
	{"failInfo too long", answer(integer(0), seq(integer(2), tlv(3, "\x00"+strings.Repeat("\x01", 33)))), badBody, "failInfo"},
	{"failInfo before statusString", answer(integer(0), seq(integer(2), "\x03\x02\x05\x20", seq(utf("a")))), badBody, "status"},
	{"certificate", answer(integer(0), good, seq(tlv(0xa0, aCert))), fine, ""},
	{"certificate without a tag", answer(integer(0), good, seq(aCert)), badBody, "CertifiedKeyPair"},
	{"CertifiedKeyPair of nothing", answer(integer(0), good, seq()), badBody, "CertifiedKeyPair"},
	{"encryptedCert", answer(integer(0), good, seq(tlv(0xa1, anEnv), tlv(0xa0, anEnv), tlv(0xa1, seq(integer(1), seq(seq(integer(0), dirGN)))))), fine, ""},
	{"certificate and encryptedCert", answer(integer(0), good, seq(tlv(0xa0, aCert), tlv(0xa1, anEnv))), badBody, "PKIPublicationInfo"},
	{"action 2", answer(integer(0), good, seq(tlv(0xa0, aCert), tlv(0xa1, seq(integer(2))))), badBody, "action"},
	{"rspInfo of 4097", answer(integer(0), good, tlv(4, strings.Repeat("a", 4097))), badBody, "rspInfo"},
	{"caPubs", body(TypeIP, seq(tlv(0xa1, seq(aCert)), seq())), fine, ""},
	{"caPubs after response", body(TypeIP, seq(seq(), tlv(0xa1, seq(aCert)))), badBody, "CertRepMessage"},
	{"17 caPubs", body(TypeIP, seq(tlv(0xa1, seq(strings.Repeat(aCert, 17))), seq())), badBody, "too many"},

	{"certConf", body(TypeCertConf, seq(seq(tlv(4, "h"), integer(0), good, tlv(0xa0, anAlg)))), fine, ""},
	{"certHash of 65", body(TypeCertConf, seq(seq(tlv(4, strings.Repeat("h", 65)), integer(0)))), badBody, "certHash"},
	{"hashAlg implicit", body(TypeCertConf, seq(seq(tlv(4, "h"), integer(0), tlv(0xa0, anAlg[2:])))), badBody, "hashAlg"},
	{"hashAlg before statusInfo", body(TypeCertConf, seq(seq(tlv(4, "h"), integer(0), tlv(0xa0, anAlg), good))), badBody, "CertStatus"},
	{"error without a status", body(TypeError, seq(integer(1))), badBody, "pKIStatusInfo"},
	{"error with details first", body(TypeError, seq(good, seq(utf("a")), integer(1))), badBody, "ErrorMsgContent"},
	{"pollReq of two", body(TypePollReq, seq(seq(integer(0), integer(0)))), badBody, "PollReqContent"},
	{"checkAfter negative", body(TypePollRep, seq(seq(integer(0), integer(-1)))), badBody, "checkAfter"},
	{"checkAfter of 2^31", body(TypePollRep, seq(seq(integer(0), "\x02\x05\x00\x80\x00\x00\x00"))), badBody, "checkAfter"},
	{"nested of nothing", body(TypeNested, seq()), badBody, "no element"},
	{"nested, not looked into", body(TypeNested, seq(seq("\x05\x00"))), fine, ""},
	{"nested with a primitive", body(TypeNested, seq("\x05\x00")), badBody, "NestedMessageContent"},

	{"popdecc without a challenge", body(TypePOPDecC, seq(seq(tlv(4)))), badBody, "challenge"},
	{"witness of 65", body(TypePOPDecC, seq(seq(tlv(4, strings.Repeat("w", 65)), tlv(4)))), badBody, "witness"},
	{"popdecr with an OCTET STRING", body(TypePOPDecR, seq(tlv(4))), badBody, "POPODecKeyRespContent"},
	{"popdecr of 1100 octets", body(TypePOPDecR, seq(tlv(2, strings.Repeat("\x01", 1100)))), badBody, "too long"},
	{"krp without a status", body(TypeKRP, seq(tlv(0xa0, aCert))), badBody, "status"},
	{"krp out of order", body(TypeKRP, seq(good, tlv(0xa1, seq(aCert)), tlv(0xa0, aCert))), badBody, "KeyRecRepContent"},
	{"rr of three", body(TypeRR, seq(seq(seq(), seq(), seq()))), badBody, "RevDetails"},
	{"crlEntryDetails", body(TypeRR, seq(seq(seq(), "\x05\x00"))), badBody, "crlEntryDetails"},
	{"rp without a status", body(TypeRP, seq(seq())), badBody, "no element"},
	{"revCerts", body(TypeRP, seq(seq(good), tlv(0xa0, seq(seq(dirGN))))), badBody, "serialNumber"},
	{"ckuann V2 of two", body(TypeCKUAnn, seq(aCert, aCert)), badBody, "newWithNew"},
	{"ckuann V3 out of order", body(TypeCKUAnn, tlv(0xa0, seq(aCert, tlv(0xa1, aCert), tlv(0xa0, aCert)))), badBody, "RootCaKeyUpdateContent"},
	{"ckuann [1]", body(TypeCKUAnn, tlv(0xa1, seq(aCert))), badBody, "CAKeyUpdAnnContent"},
	{"rann without a time", body(TypeRAnn, seq(integer(4), seq(dirGN, integer(1)), tlv(0x18, minute))), badBody, "badSinceDate"},
	{"rann with UTCTime", body(TypeRAnn, seq(integer(4), seq(dirGN, integer(1)), tlv(0x17, minute[2:]), tlv(0x18, minute))), badBody, "willBeRevokedAt"},
	{"17 CRLs", body(TypeCRLAnn, seq(strings.Repeat(aCert, 17))), badBody, "too many"},
	{"cann of nothing", body(TypeCAnn), badBody, "CertAnnContent"},
	{"65 in genm", body(TypeGenM, seq(strings.Repeat(seq("\x06\x01\x2a"), 65))), badBody, "too many"},
}

func TestMalformed(t *testing.T) {
	names := map[string]bool{}
	for _, tt := range malformed {
		if names[tt.name] {
			t.Errorf("%s twice", tt.name)
		}
		names[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			m, err := Parse([]byte(tt.der))
			var e *Error
			if tt.want == fine {
				if err != nil || m.Body == nil {
					t.Errorf("%v", err)
				}
				return
			}
			if !errors.As(err, &e) {
				t.Fatalf("%v is no *Error", err)
			}
			if e.Body != (tt.want == badBody) || !strings.Contains(err.Error(), tt.what) {
				t.Errorf("%v, body %v", err, e.Body)
			}
			if !errors.Is(err, cms.ErrSyntax) && !errors.Is(err, cms.ErrLimit) && !errors.Is(err, cms.ErrNotDER) {
				t.Errorf("%v has no kind", err)
			}
			if strings.Contains(e.What, "too many elements") != errors.Is(err, cms.ErrLimit) && !strings.Contains(e.What, "too long") {
				t.Errorf("%v of another kind", err)
			}
			if e.Offset < 0 || e.Offset > len(tt.der) {
				t.Errorf("offset %d of %d", e.Offset, len(tt.der))
			}
			switch {
			case e.Body != (m != nil):
				t.Errorf("message %v", m)
			case m != nil:
				if m.Body != nil || m.Header.PVNO != 2 || string(m.Protected()) != tt.der {
					t.Errorf("message %+v", m)
				}
			}
		})
	}
}

// An error names the place: where the element at fault begins.
func TestOffsets(t *testing.T) {
	mark := "\x04\x04mark"
	for name, tt := range map[string]struct{ der, at string }{
		"sender":        {seq(seq(integer(2), mark, dirGN), conf), mark},
		"body":          {simple(tlv(0xb3, mark)), mark},
		"too many":      {simple(tlv(0xb3, "\x05\x00", mark)), mark},
		"deep":          {template(tlv(0xa4, tlv(0xa0, mark))), mark},
		"missing":       {seq(seq(integer(2), dirGN), "\xbf\x24\x06"+mark), "\xbf\x24"},
		"implicit":      {template("\x81\x02\x00\x01"), "\x81\x02\x00\x01"},
		"in a high tag": {simple("\xbf\x24\x06" + mark), "\xbf\x24"},
		"guard":         {seq(header(), tlv(0xb3, "\x05\x81\x00")), "\x05\x81\x00"},
		"extraCerts":    {seq(header(), conf, tlv(0xa1, seq(aCert, mark))), mark},
	} {
		_, err := Parse([]byte(tt.der))
		var e *Error
		if !errors.As(err, &e) || e.Offset != strings.LastIndex(tt.der, tt.at) {
			t.Errorf("%s: %v, want byte %d", name, err, strings.LastIndex(tt.der, tt.at))
		}
	}
}

// The body is at fault: header, protection and extraCerts are there all the same.
func TestBodyError(t *testing.T) {
	der := seq(header(tlv(0xa1, anAlg), tlv(0xa4, tlv(4, "transaction")), tlv(0xa5, tlv(4, "nonce"))), "\xa0\x02\x05\x00", tlv(0xa0, "\x03\x02\x00\x01"), tlv(0xa1, seq(aCert)))
	m, err := Parse([]byte(der))
	var e *Error
	if !errors.As(err, &e) || !e.Body || m == nil || m.Body != nil {
		t.Fatalf("%v, %v", m, err)
	}
	if string(m.Header.TransactionID) != "transaction" || string(m.Header.SenderNonce) != "nonce" || m.Header.ProtectionAlg == nil || len(m.ExtraCerts) != 1 || len(m.Protection) != 1 {
		t.Errorf("%+v", m)
	}
	sameBytes(t, "body", m.RawBody, []byte("\xa0\x02\x05\x00"))
	sameBytes(t, "ProtectedPart", m.Protected(), []byte(seq(string(m.RawHeader), "\xa0\x02\x05\x00")))
}

// Bytes of the input never stand in an error: it is logged, and told to strangers.
func TestErrorsHoldNoInput(t *testing.T) {
	data := read(t, "ir-sig")
	for i := range data {
		c := slices.Clone(data)
		c[i] ^= 0x21
		if _, err := Parse(c); err != nil && strings.ContainsAny(err.Error(), "\x00\n\"%") {
			t.Errorf("%q", err)
		}
	}
}

func TestFractionIsDropped(t *testing.T) {
	m, err := Parse([]byte(seq(header(tlv(0xa0, tlv(0x18, "20261121123000.987Z"))), conf)))
	if err != nil || !m.Header.MessageTime.Equal(when) {
		t.Errorf("%v, %v", m, err)
	}
}

func TestFailInfo(t *testing.T) {
	for f, want := range map[FailInfo]string{
		BadAlg: "\x03\x02\x07\x80", BadPOP: "\x03\x03\x06\x00\x40", BadAlg | IncorrectData: "\x03\x02\x00\x81", DuplicateCertReq: "\x03\x05\x05\x00\x00\x00\x20",
		1 << 31: "\x03\x05\x00\x00\x00\x00\x01",
	} {
		got, err := build(func(b *builder) { b.failInfo(f) })
		if err != nil || string(got) != want {
			t.Errorf("%v: %x, want %x", f, got, want)
		}
	}
	// Zero bits at the end, which DER does not have, are harmless.
	m, err := Parse([]byte(answer(integer(0), seq(integer(2), "\x03\x05\x00\x80\x00\x00\x00"))))
	if err != nil {
		t.Fatal(err)
	}
	if f := m.Body.(*CertRepMessage).Responses[0].Status.FailInfo; f != BadAlg {
		t.Errorf("%v", f)
	}
}

// What an answer gives back is found beside what does not parse, as far as it is whole itself.
func TestRemains(t *testing.T) {
	id, nonce := tlv(0xa4, tlv(4, "transaction")), tlv(0xa5, tlv(4, "nonce"))
	minute := tlv(0xa0, tlv(0x18, "202611211230Z"))
	for name, tt := range map[string]struct{ der, id, nonce string }{
		"messageTime":         {seq(header(minute, id, nonce), conf), "transaction", "nonce"},
		"no body":             {seq(header(id, nonce)), "transaction", "nonce"},
		"extraCerts":          {seq(header(id, nonce), conf, tlv(0xa1, seq("\x05\x00"))), "transaction", "nonce"},
		"transactionID":       {seq(header(tlv(0xa4, "\x05\x00"), nonce), conf), "", "nonce"},
		"two in one":          {seq(header(tlv(0xa4, tlv(4, "one"), tlv(4, "two")), nonce), conf), "", "nonce"},
		"the first":           {seq(header(id, tlv(0xa4, tlv(4, "two")), nonce), conf), "transaction", "nonce"},
		"neither":             {seq(header(minute), conf), "", ""},
		"in no header":        {seq(conf, id, nonce), "", ""},
		"no SEQUENCE":         {tlv(0x31, header(minute, id, nonce)), "", ""},
		"what is not checked": {seq(header(minute, id, nonce), conf) + "\x05", "", ""},
	} {
		if _, err := Parse([]byte(tt.der)); err == nil {
			t.Errorf("%s: it parses", name)
		}
		gotID, gotNonce := Remains([]byte(tt.der))
		if string(gotID) != tt.id || string(gotNonce) != tt.nonce {
			t.Errorf("%s: %q, %q", name, gotID, gotNonce)
		}
	}
}
