package mdm

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"

	"github.com/micromdm/plist"

	"github.com/muster-pki/muster/gateway"
	gatewaypkix "github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
)

// Types of payloads (Apple, Device Management: Profile-Specific Payload Keys).
const (
	typeConfiguration  = "Configuration"
	typeProfileService = "Profile Service"
	typeSCEP           = "com.apple.security.scep"
	typeMDM            = "com.apple.mdm"
	typeRoot           = "com.apple.security.root"
	typeCertificate    = "com.apple.security.pkcs1" // DER, one certificate
)

type dict = map[string]any

// payload is the beginning of a profile or of a payload in one. part tells it from the endpoint's others: its identifier and UUID
// are the same each time, so that a device replaces what it has and adds nothing.
func (e *endpoint) payload(kind, part, title string) dict {
	id := e.Config.Identifier + "." + part
	p := dict{
		"PayloadType": kind, "PayloadVersion": 1, "PayloadIdentifier": id, "PayloadUUID": uuidOf(e.Name, id), "PayloadDisplayName": title,
	}
	if e.Config.Organization != "" {
		p["PayloadOrganization"] = e.Config.Organization
	}
	return p
}

// uuidOf is a UUID by a hash of the texts (RFC 9562 section 5.8, version 8).
func uuidOf(texts ...string) string {
	u := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16]))
}

// serviceProfile is phase 1: what the device is to answer, and where.
func (e *endpoint) serviceProfile(token string) ([]byte, error) {
	p := e.payload(typeProfileService, "ota", e.Config.Title)
	attributes := make([]any, len(messageValues))
	for i, name := range messageValues {
		attributes[i] = name
	}
	content := dict{"URL": e.Config.URL + root + "/" + e.Name, "DeviceAttributes": attributes}
	if token != "" {
		content["Challenge"] = token
	}
	p["PayloadContent"] = content
	return plist.Marshal(p)
}

// usageBoth is Key Usage for signing and encryption (Apple, SCEP payload).
const usageBoth = 5

// scepPayload has the device enrol a key of its own. challenge is good for the subject.
func (e *endpoint) scepPayload(part, uuid string, usage int, subject []byte, challenge string) (dict, error) {
	rdns, err := appleSubject(subject)
	if err != nil {
		return nil, err
	}
	p := e.payload(typeSCEP, part, e.Config.Title+" certificate")
	if uuid != "" {
		p["PayloadUUID"] = uuid
	}
	p["PayloadContent"] = dict{
		"URL": e.Config.SCEP.URL, "Name": e.Config.SCEP.Endpoint, "Subject": rdns, "Challenge": challenge,
		"Keysize": e.Config.SCEP.KeySize, "Key Type": "RSA", "Key Usage": usage, "Retries": 3, "RetryDelay": 10,
	}
	return p, nil
}

// enrollmentProfile is the answer of phase 2: a certificate for the device.
func (e *endpoint) enrollmentProfile(subject []byte, challenge string) ([]byte, error) {
	scep, err := e.scepPayload("device.scep", "", usageBoth, subject, challenge)
	if err != nil {
		return nil, err
	}
	p := e.payload(typeConfiguration, "device", e.Config.Title)
	p["PayloadContent"] = []any{scep}
	return plist.Marshal(p)
}

// trustProfile is one of CA certificates.
func (e *endpoint) trustProfile(certs []*x509.Certificate) ([]byte, error) {
	var payloads []any
	for i, c := range certs {
		kind := typeCertificate
		if string(c.RawSubject) == string(c.RawIssuer) {
			kind = typeRoot
		}
		p := e.payload(kind, fmt.Sprintf("trust.%x", sha256.Sum256(c.Raw)), gatewaypkix.FormatName(c.RawSubject))
		p["PayloadCertificateFileName"], p["PayloadContent"] = fmt.Sprintf("%d.cer", i+1), c.Raw
		payloads = append(payloads, p)
	}
	p := e.payload(typeConfiguration, "trust", e.Config.Title+": certificates")
	p["PayloadContent"] = payloads
	return plist.Marshal(p)
}

// sealedFor turns a configuration profile into one that only the certificate's holder reads: its payloads, as a property list of
// their own, encrypted in EncryptedPayloadContent.
func sealedFor(p dict, to *x509.Certificate) ([]byte, error) {
	content, err := plist.Marshal(p["PayloadContent"])
	if err != nil {
		return nil, err
	}
	delete(p, "PayloadContent")
	if p["EncryptedPayloadContent"], err = cms.Encrypt(content, to, cms.AES256); err != nil {
		return nil, err
	}
	return plist.Marshal(p)
}

// sign makes a SignedData of a profile, with the signer's certificate and the CAs above it.
func sign(profile []byte, id *gateway.Identity) ([]byte, error) {
	return cms.Sign(cms.SignOptions{
		Content: profile, Key: id.Key, Certificate: id.Certificate, Certificates: append([]*x509.Certificate{id.Certificate}, id.Chain...),
		Digest: cms.FittingDigest(id.Certificate.PublicKey),
	})
}

// subjectOf is the name that the device asks for, in DER.
func (e *endpoint) subjectOf(v values) ([]byte, error) {
	text, err := e.subject.expand(v, escapeRFC4514)
	if err != nil {
		return nil, err
	}
	der, err := gatewaypkix.ParseRFC4514(text)
	if err != nil {
		return nil, gateway.Errorf(gateway.NotAuthorized, "the device's entry makes no name for its certificate", "the subject %q of device %s: %w", text, v.who.Device, err)
	}
	return der, nil
}

// shortNames are the attributes that Apple's payload has names for.
var shortNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU",
}

// appleSubject is a Name as the SCEP payload has it: for each RDN a list of pairs of type and value.
func appleSubject(der []byte) ([]any, error) {
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &name); err != nil || len(rest) > 0 || len(name) == 0 {
		return nil, errors.New("the subject is no Name, or empty")
	}
	var rdns []any
	for _, set := range name {
		var rdn []any
		for _, a := range set {
			kind := a.Type.String()
			if short, ok := shortNames[kind]; ok {
				kind = short
			}
			text, ok := a.Value.(string)
			if !ok {
				return nil, fmt.Errorf("the value of %s in the subject is no text", kind)
			}
			rdn = append(rdn, []any{kind, text})
		}
		rdns = append(rdns, rdn)
	}
	return rdns, nil
}
