// Package cmpmsg reads and writes messages of the Certificate Management Protocol (RFC 9810, with the certificate request
// messages of RFC 4211): the whole grammar of RFC 9810 appendix F, each type with its ASN.1 in a comment.
//
// It is a leaf: pure functions from bytes to structures and back, without HTTP, without the gateway. It judges form,
// and computes MACs; signatures, keys and certificates are for gateway/pkix, and everything that has a meaning is for
// protocols/cmp. Whatever was received is kept as the bytes it came in: protection covers those, never a re-encoding.
package cmpmsg

import (
	"encoding/asn1"
	"math/big"
	"time"
)

// Message is a PKIMessage.
//
//	PKIMessage ::= SEQUENCE {                       -- RFC 9810 section 5.1
//	    header      PKIHeader,
//	    body        PKIBody,
//	    protection  [0] PKIProtection OPTIONAL,     -- BIT STRING
//	    extraCerts  [1] SEQUENCE SIZE (1..MAX) OF CMPCertificate OPTIONAL }
type Message struct {
	Raw        []byte // the whole message, DER
	RawHeader  []byte // DER of the header, as received
	RawBody    []byte // DER of the body with its tag, as received
	Header     Header
	Body       Body     // nil with an error of Parse that is about the body
	Protection []byte   // nil when absent
	ExtraCerts [][]byte // DER, in the order received; each one SEQUENCE, not parsed further
}

// Header is a PKIHeader (RFC 9810 section 5.1.1).
type Header struct {
	PVNO          int
	Sender        []byte               // DER GeneralName
	Recipient     []byte               // DER GeneralName
	MessageTime   time.Time            // zero when absent; UTC
	ProtectionAlg *AlgorithmIdentifier // nil when absent
	SenderKID     []byte               // nil when absent, also below
	RecipKID      []byte
	TransactionID []byte
	SenderNonce   []byte
	RecipNonce    []byte
	FreeText      []string
	GeneralInfo   []InfoTypeAndValue
}

// AlgorithmIdentifier is RFC 5280's, with the DER that it came in.
type AlgorithmIdentifier struct {
	Raw        []byte // DER of the whole; when nil, it is made of OID and Parameters
	OID        asn1.ObjectIdentifier
	Parameters []byte // DER, nil when absent
}

// InfoTypeAndValue is a generalInfo, genm or genp element (RFC 9810 section 5.3.19).
type InfoTypeAndValue struct {
	Type  asn1.ObjectIdentifier
	Value []byte // DER, nil when absent
}

// BodyType is the tag number of a PKIBody (RFC 9810 section 5.1.2).
type BodyType int

// The bodies of RFC 9810 section 5.1.2.
const (
	TypeIR       BodyType = 0
	TypeIP       BodyType = 1
	TypeCR       BodyType = 2
	TypeCP       BodyType = 3
	TypeP10CR    BodyType = 4
	TypePOPDecC  BodyType = 5
	TypePOPDecR  BodyType = 6
	TypeKUR      BodyType = 7
	TypeKUP      BodyType = 8
	TypeKRR      BodyType = 9
	TypeKRP      BodyType = 10
	TypeRR       BodyType = 11
	TypeRP       BodyType = 12
	TypeCCR      BodyType = 13
	TypeCCP      BodyType = 14
	TypeCKUAnn   BodyType = 15
	TypeCAnn     BodyType = 16
	TypeRAnn     BodyType = 17
	TypeCRLAnn   BodyType = 18
	TypePKIConf  BodyType = 19
	TypeNested   BodyType = 20
	TypeGenM     BodyType = 21
	TypeGenP     BodyType = 22
	TypeError    BodyType = 23
	TypeCertConf BodyType = 24
	TypePollReq  BodyType = 25
	TypePollRep  BodyType = 26
)

// Body is one of the pointer types below; several types of body share one.
type Body interface{ Type() BodyType }

// CertReqMessages is ir, cr, kur, krr and ccr (RFC 4211 section 3).
type CertReqMessages struct {
	Kind     BodyType
	Messages []CertReqMsg
}

// CertReqMsg is one request (RFC 4211 section 3).
type CertReqMsg struct {
	Raw        []byte
	RawRequest []byte // DER of the CertRequest: what POPOSigningKey without poposkInput signs (RFC 4211 section 4.1)
	ReqID      *big.Int
	Template   CertTemplate
	Controls   []AttributeTypeAndValue
	POP        *ProofOfPossession // nil when absent
	RegInfo    []AttributeTypeAndValue
}

// AttributeTypeAndValue is a control or registration info (RFC 4211 sections 6 and 7).
type AttributeTypeAndValue struct {
	Type  asn1.ObjectIdentifier
	Value []byte // DER
}

// CertTemplate is RFC 4211 section 5. Fields that are absent are nil or zero.
type CertTemplate struct {
	Raw          []byte
	Version      *int
	SerialNumber *big.Int
	SigningAlg   *AlgorithmIdentifier
	Issuer       []byte // DER Name
	NotBefore    time.Time
	NotAfter     time.Time
	Subject      []byte // DER Name
	PublicKey    []byte // DER SubjectPublicKeyInfo, re-tagged as the SEQUENCE it is outside of a template
	IssuerUID    *asn1.BitString
	SubjectUID   *asn1.BitString
	Extensions   []byte // DER Extensions, re-tagged likewise
}

// POPKind says how possession is proven (RFC 4211 section 4).
type POPKind int

// The choices of ProofOfPossession.
const (
	POPRAVerified      POPKind = 0
	POPSignature       POPKind = 1
	POPKeyEncipherment POPKind = 2
	POPKeyAgreement    POPKind = 3
)

// ProofOfPossession is RFC 4211 section 4.
type ProofOfPossession struct {
	Kind    POPKind
	Signing *POPOSigningKey // POPSignature
	Raw     []byte          // the whole, DER; POPOPrivKey is not taken apart further than PrivKey below
	PrivKey *POPOPrivKey    // POPKeyEncipherment, POPKeyAgreement
}

// POPOSigningKey is RFC 4211 section 4.1.
type POPOSigningKey struct {
	RawInput  []byte // DER of poposkInput as what is signed: with the SEQUENCE tag; nil when absent
	Sender    []byte // authInfo sender: DER GeneralName; nil when absent
	KeyMAC    *PKMACValue
	PublicKey []byte // poposkInput's DER SubjectPublicKeyInfo; nil without poposkInput
	Algorithm AlgorithmIdentifier
	Signature []byte
}

// PKMACValue is RFC 4211 section 4.1: a MAC over the DER of the public key.
type PKMACValue struct {
	Algorithm AlgorithmIdentifier
	Value     []byte
}

// POPOPrivKey is RFC 4211 section 4.2. Method is the tag number: 0 thisMessage, 1 subsequentMessage, 2 dhMAC, 3 agreeMAC,
// 4 encryptedKey.
type POPOPrivKey struct {
	Method     int
	Subsequent int // method 1: 0 encrCert, 1 challengeResp
	Value      []byte
}

// PKCS10 is p10cr.
type PKCS10 struct{ CSR []byte }

// CertRepMessage is ip, cp, kup and ccp (RFC 9810 section 5.3.4).
type CertRepMessage struct {
	Kind      BodyType
	CAPubs    [][]byte // DER
	Responses []CertResponse
}

// CertResponse is one answer of a CertRepMessage.
type CertResponse struct {
	ReqID       *big.Int // -1 in the answer to p10cr
	Status      PKIStatusInfo
	Certificate []byte // DER; nil when absent
	EncrCert    []byte // DER EncryptedKey in the place of Certificate
	PrivateKey  []byte // DER EncryptedKey
	// PublicationInfo is a DER PKIPublicationInfo; nil when absent, also below.
	PublicationInfo []byte
	RspInfo         []byte
}

// Status is a PKIStatus (RFC 9810 section 5.2.3).
type Status int

// The values of PKIStatus.
const (
	StatusAccepted Status = iota
	StatusGrantedWithMods
	StatusRejection
	StatusWaiting
	StatusRevocationWarning
	StatusRevocationNotification
	StatusKeyUpdateWarning
)

// FailInfo is a PKIFailureInfo: bit n of the BIT STRING is 1<<n.
type FailInfo uint32

// The bits of PKIFailureInfo (RFC 9810 section 5.2.3).
const (
	BadAlg FailInfo = 1 << iota
	BadMessageCheck
	BadRequest
	BadTime
	BadCertID
	BadDataFormat
	WrongAuthority
	IncorrectData
	MissingTimeStamp
	BadPOP
	CertRevoked
	CertConfirmed
	WrongIntegrity
	BadRecipientNonce
	TimeNotAvailable
	UnacceptedPolicy
	UnacceptedExtension
	AddInfoNotAvailable
	BadSenderNonce
	BadCertTemplate
	SignerNotTrusted
	TransactionIDInUse
	UnsupportedVersion
	NotAuthorized
	SystemUnavail
	SystemFailure
	DuplicateCertReq
)

// PKIStatusInfo is RFC 9810 section 5.2.3.
type PKIStatusInfo struct {
	Status   Status
	Text     []string
	FailInfo FailInfo // 0 when absent
}

// PKIConf is pkiconf: NULL.
type PKIConf struct{}

// CertConf is certConf (RFC 9810 section 5.3.18).
type CertConf struct{ Statuses []CertStatus }

// CertStatus is what the requester says of one certificate.
type CertStatus struct {
	CertHash []byte
	ReqID    *big.Int
	Status   *PKIStatusInfo       // nil when absent, which means accepted
	HashAlg  *AlgorithmIdentifier // pvno 3
}

// ErrorMsg is error (RFC 9810 section 5.3.21).
type ErrorMsg struct {
	Status  PKIStatusInfo
	Code    *big.Int // nil when absent
	Details []string
}

// PollReq is pollReq (RFC 9810 section 5.3.22).
type PollReq struct{ ReqIDs []*big.Int }

// PollRep is pollRep.
type PollRep struct{ Responses []PollResponse }

// PollResponse says when to ask again.
type PollResponse struct {
	ReqID      *big.Int
	CheckAfter int64 // seconds
	Reason     []string
}

// Nested is nested: messages, each of them whole (RFC 9810 section 5.1.3.4).
type Nested struct{ Messages [][]byte }
