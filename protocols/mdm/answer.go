package mdm

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// answer is phases 2 and 3, which reach the same URL: the signer tells which. A certificate of the device CA's asks for one of
// ours; a certificate of ours for the final profile.
func (x *exchange) answer() *wire.Refusal {
	signed, stated, ref := x.signedPlist()
	if ref == nil {
		ref = x.state(stated)
	}
	if ref != nil {
		return ref
	}
	id, ref := x.identity()
	if ref != nil {
		return ref
	}
	first := issuedUnder(x.endpoint.devices, signed.Signer)
	if !first {
		if ref := x.issued(signed.Signer); ref != nil {
			return ref
		}
	}
	once, ref := x.once(signed, stated, first)
	if ref != nil {
		return ref
	}
	kind, phase, make := gateway.CredentialSigner, "phase 3", x.finalProfile
	if first {
		kind, phase, make = gateway.CredentialDevice, "phase 2", x.enrollmentProfile
	}
	x.Request.Credentials = []gateway.Credential{credential(kind, signed.Signer, signed.Certificates)}
	x.Request.Notes = []string{fmt.Sprintf("%s, signed with %v by %s; it states UDID %s, serial number %s, %s, version %s", phase, signed.Digest,
		pkix.FormatName(signed.Signer.RawSubject), stated["UDID"], stated["SERIAL"], stated["PRODUCT"], stated["VERSION"])}
	res, err := x.h.gateway.Recognise(x.R.Context(), x.Request, func(ctx context.Context, who *gateway.Recognised) ([]byte, string, error) {
		profile, err := make(ctx, id, asked{who: who, stated: stated, once: once, signer: signed.Signer})
		return profile, phase + ": profile given", err
	})
	if err != nil {
		x.writeError(gateway.AsError(err), 0, "")
		return nil
	}
	x.Write(http.StatusOK, profileType, res.Answer)
	return nil
}

// once is what the answer is given for, once: the token of the first profile, or else the message itself. iOS repeats the token in
// the first answer only, some versions in the second as well.
func (x *exchange) once(signed *cms.Signed, stated map[string]string, first bool) (string, *wire.Refusal) {
	token := stated["CHALLENGE"]
	if token != "" && x.endpoint.Config.Challenge == ChallengeRequired {
		if err := x.h.judgeToken(x.endpoint.Name, token, time.Duration(x.endpoint.Config.Within)); err != nil {
			return "", wire.Refused(gateway.Unauthenticated, "the profile that this answers is not good any more: fetch it anew", fmt.Errorf("CHALLENGE: %w", err))
		}
		return token, nil
	}
	if first && x.endpoint.Config.Challenge == ChallengeRequired {
		return "", wire.Refused(gateway.Unauthenticated, "the answer lacks the CHALLENGE of the profile", nil)
	}
	sum := sha256.Sum256(signed.Content)
	made := gateway.Fingerprint(signed.Signer) + hex.EncodeToString(sum[:])
	if first {
		// The device's certificate and what it states are the same in each enrollment; without a token time tells them apart.
		made += strconv.FormatInt(x.h.now().Unix()/int64(time.Duration(x.endpoint.Config.Within)/time.Second), 10)
	}
	return made, nil
}

// asked is what an answer is made of.
type asked struct {
	who    *gateway.Recognised
	stated map[string]string
	once   string
	signer *x509.Certificate
}

// challenge makes the one-time challenge of a step, for the subject that the device is to ask for.
func (x *exchange) challenge(ctx context.Context, phase string, a asked) (subject []byte, secret string, err error) {
	e := x.endpoint
	if subject, err = e.subjectOf(values{who: a.who, message: a.stated}); err != nil {
		return nil, "", err
	}
	secret = x.h.scepChallenge(e.Name, phase, a.who.Device, a.once)
	return subject, secret, x.h.gateway.IssueChallenge(ctx, gateway.Secret(secret), gateway.IssuedChallenge{
		Endpoint: e.Config.SCEP.Endpoint, Device: a.who.Device, Subject: pkix.FormatName(subject), Uses: 1,
		NotAfter: x.h.now().Add(time.Duration(e.Config.Within)), By: "endpoint " + e.Name,
	})
}

// enrollmentProfile answers phase 2.
func (x *exchange) enrollmentProfile(ctx context.Context, id *gateway.Identity, a asked) ([]byte, error) {
	if a.who.Inventory == nil {
		return nil, gateway.Errorf(gateway.NotAuthorized, "the device is not known", "no stage has found the device in the inventory: what its message states is not enough")
	}
	subject, secret, err := x.challenge(ctx, "device", a)
	if err != nil {
		return nil, err
	}
	profile, err := x.endpoint.enrollmentProfile(subject, secret)
	if err == nil && *x.endpoint.Config.Sign {
		profile, err = sign(profile, id)
	}
	return profile, err
}

// finalProfile answers phase 3: encrypted to the certificate that asks, and signed.
func (x *exchange) finalProfile(ctx context.Context, id *gateway.Identity, a asked) ([]byte, error) {
	if err := ownDevice(a.who, a.signer); err != nil {
		return nil, err
	}
	if _, ok := a.signer.PublicKey.(*rsa.PublicKey); !ok {
		return nil, gateway.Errorf(gateway.BadAlgorithm, "the profile cannot be encrypted to this certificate: its key is not RSA", "a key of type %T", a.signer.PublicKey)
	}
	subject, secret, err := x.challenge(ctx, "identity", a)
	if err != nil {
		return nil, err
	}
	e := x.endpoint
	scep, err := e.scepPayload("identity.scep", e.final.uuid, e.Config.SCEP.KeyUsage, subject, secret)
	if err != nil {
		return nil, err
	}
	filled, err := e.final.fill(values{a.who, a.stated, map[string]string{"url": e.Config.SCEP.URL, "challenge": secret, "uuid": e.final.uuid}}, scep)
	if err != nil {
		return nil, err
	}
	sealed, err := sealedFor(filled, a.signer)
	if err != nil {
		return nil, err
	}
	return sign(sealed, id)
}

// ownDevice refuses whom the pipeline let pass by anything but the certificate of ours that signed, and whose device the
// inventory does not have: the message's UDID would then be compared with nothing.
func ownDevice(who *gateway.Recognised, signer *x509.Certificate) error {
	switch {
	case who.Certificate == nil || string(who.Certificate.DER) != string(signer.Raw):
		return gateway.Errorf(gateway.NotAuthorized, "the certificate is not the device's", "the stages allowed it by something else than the certificate that signed: use `own-certificate`")
	case who.Inventory == nil:
		return gateway.Errorf(gateway.NotAuthorized, "the device is not known", "%v", errors.New("no stage has compared the UDID with the inventory: add `inventory`"))
	}
	return nil
}
