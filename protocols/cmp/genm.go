package cmp

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// Informer is what general messages ask of the domain. What it returns is never changed.
type Informer interface {
	// ProfilesOf returns the profiles that an endpoint offers, its own first.
	ProfilesOf(endpoint string) []*gateway.Profile
	// AuthorityOf returns the CA that certifies for a profile. The error is a *gateway.Error.
	AuthorityOf(ctx context.Context, p *gateway.Profile) (*gateway.Authority, error)
	// CRL returns a CRL of a backend, by one of the names in Authority.CRLs. The error wraps gateway.ErrNotFound when there is
	// none, else it is a *gateway.Error.
	CRL(ctx context.Context, backend, name string) (der []byte, info gateway.CRLInfo, err error)
}

// maxGeneral is how many elements of a genm are answered.
const maxGeneral = 16

// general is one genm under way.
type general struct {
	x        *exchange
	profiles []*gateway.Profile // the endpoint's
	unknown  []asn1.ObjectIdentifier
	links    map[*gateway.Authority][]*x509.Certificate // what crosses found
}

// question is one element of a genm, with the profile that certProfile names for it.
type question struct {
	cmpmsg.InfoTypeAndValue
	profile *gateway.Profile
}

// inform answers genm (RFC 9810 section 5.3.19). Nothing is stored, so whoever can protect a message may ask: with a secret of
// the endpoint's, or with any key whose certificate is in extraCerts, since all that is told is public. Protection has been
// verified when this is called, and the answer has the same kind.
func (x *exchange) inform(b *cmpmsg.General) *refusal {
	x.Request.Operation = gateway.Query
	late, ref := x.checkTransaction()
	if ref != nil {
		return ref
	}
	if late != nil {
		return late
	}
	if n := len(b.Info); n > maxGeneral {
		return refused(gateway.Unsupported, fmt.Sprintf("the genm has %d elements: ask for %d at most", n, maxGeneral), nil)
	}
	names, ref := x.profileNames(len(b.Info), "there are elements in the genm")
	if ref != nil {
		return ref
	}
	g := &general{x: x, profiles: x.h.gateway.ProfilesOf(x.endpoint.Name), links: map[*gateway.Authority][]*x509.Certificate{}}
	if len(g.profiles) == 0 {
		return refused(gateway.Internal, "", fmt.Errorf("the endpoint %q has no profile", x.endpoint.Name))
	}
	answers, ref := g.answerAll(b.Info, names)
	if ref != nil {
		return ref
	}
	p, err := x.h.parts()
	if err != nil {
		return refused(gateway.Internal, "", err)
	}
	ref = x.send(p, &cmpmsg.General{Kind: cmpmsg.TypeGenP, Info: answers}, nil, nil)
	if ref != nil && errors.Is(ref.Err.Err, cms.ErrLimit) {
		return tooLarge(ref.Err.Err)
	}
	if ref == nil {
		x.Log.Info("general message", "id", x.Request.ID, "endpoint", x.endpoint.Name, "asked", asked(b.Info), "source", x.Request.Source)
	}
	return ref
}

// asked names the elements of a genm, for the log.
func asked(info []cmpmsg.InfoTypeAndValue) string {
	var names []string
	for _, v := range info {
		name := cmpmsg.InfoTypeName(v.Type)
		if name == "" {
			name = "others"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// answerAll answers element by element, in order. What is not known here is listed at the end (RFC 9810 section 5.3.19.7).
func (g *general) answerAll(info []cmpmsg.InfoTypeAndValue, names []string) ([]cmpmsg.InfoTypeAndValue, *refusal) {
	everything := len(info) == 0
	if everything {
		// RFC 9810 appendix F: "the empty set indicates that the CA may send any/all information that it wishes"; appendix D.5.
		for _, t := range []asn1.ObjectIdentifier{
			cmpmsg.OIDCACerts, cmpmsg.OIDSignKeyPairTypes, cmpmsg.OIDEncKeyPairTypes, cmpmsg.OIDPreferredSymmAlg, cmpmsg.OIDRootCACert, cmpmsg.OIDCertReqTemplate,
		} {
			info = append(info, cmpmsg.InfoTypeAndValue{Type: t})
		}
	}
	var answers []cmpmsg.InfoTypeAndValue
	for i, q := range info {
		p := g.profiles[0]
		if i < len(names) && names[i] != "" {
			named := slices.IndexFunc(g.profiles, func(p *gateway.Profile) bool { return p.Name == names[i] })
			if named < 0 {
				return nil, refused(gateway.BadTemplate, "no such profile here", fmt.Errorf("the profile %q was asked for", names[i]))
			}
			p = g.profiles[named]
		}
		a, ref := g.answer(&question{q, p})
		switch {
		case ref != nil:
			return nil, ref
		case a == nil:
			if !slices.ContainsFunc(g.unknown, q.Type.Equal) {
				g.unknown = append(g.unknown, q.Type)
			}
		case a.Value != nil || !everything:
			answers = append(answers, *a)
		}
	}
	if len(g.unknown) > 0 && !everything {
		value, err := cmpmsg.MarshalOIDs(g.unknown...)
		if err != nil {
			return nil, refused(gateway.Internal, "", err)
		}
		answers = append(answers, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDUnsupportedOIDs, Value: value})
	}
	return answers, nil
}

// informed is how one infoType is answered. A nil value without a refusal is an absent infoValue.
type informed struct {
	ask      asn1.ObjectIdentifier
	reply    asn1.ObjectIdentifier
	valued   bool // a value may come with the question
	required bool // it has to
	value    func(*general, *question) ([]byte, *refusal)
}

// infoTypes are those that are known (RFC 9810 section 5.3.19). The ones with nothing to say for an endpoint are answered with
// an absent infoValue where the grammar has one, else as if they were unknown.
var infoTypes = []informed{
	{cmpmsg.OIDCAProtEncCert, cmpmsg.OIDCAProtEncCert, false, false, func(*general, *question) ([]byte, *refusal) { return nil, nil }},
	{cmpmsg.OIDSignKeyPairTypes, cmpmsg.OIDSignKeyPairTypes, false, false, (*general).signKeyPairTypes},
	{cmpmsg.OIDEncKeyPairTypes, cmpmsg.OIDEncKeyPairTypes, false, false, (*general).encKeyPairTypes},
	{cmpmsg.OIDPreferredSymmAlg, cmpmsg.OIDPreferredSymmAlg, false, false, (*general).preferredSymmAlg},
	{cmpmsg.OIDCurrentCRL, cmpmsg.OIDCurrentCRL, false, false, (*general).currentCRL},
	{cmpmsg.OIDKeyPairParamReq, cmpmsg.OIDKeyPairParamRep, true, true, (*general).keyPairParam},
	{cmpmsg.OIDSuppLangTags, cmpmsg.OIDSuppLangTags, true, true, (*general).suppLangTags},
	{cmpmsg.OIDCACerts, cmpmsg.OIDCACerts, false, false, (*general).caCerts},
	{cmpmsg.OIDRootCACert, cmpmsg.OIDRootCAKeyUpdate, true, false, (*general).rootUpdate},
	{cmpmsg.OIDCertReqTemplate, cmpmsg.OIDCertReqTemplate, false, false, (*general).certReqTemplate},
	{cmpmsg.OIDCRLStatusList, cmpmsg.OIDCRLs, true, true, (*general).newCRLs},
}

// answer answers one element, nil when there is nothing to answer it with. Whether a value comes with the question is as the
// grammar says (RFC 9810 sections 5.3.19.1 to 5.3.19.17).
func (g *general) answer(q *question) (*cmpmsg.InfoTypeAndValue, *refusal) {
	i := slices.IndexFunc(infoTypes, func(t informed) bool { return t.ask.Equal(q.Type) })
	if i < 0 {
		return nil, nil
	}
	t := &infoTypes[i]
	switch name := cmpmsg.InfoTypeName(q.Type); {
	case q.Value != nil && !t.valued:
		return nil, refused(gateway.Unsupported, name+" is asked for without a value", nil)
	case q.Value == nil && t.required:
		return nil, refused(gateway.Unsupported, name+" is asked for with a value", nil)
	}
	value, ref := t.value(g, q)
	if ref == unanswered {
		return nil, nil
	}
	if ref != nil {
		return nil, ref
	}
	return &cmpmsg.InfoTypeAndValue{Type: t.reply, Value: value}, nil
}

// unanswered stands for a question that has no answer here, and whose grammar has no absent one.
var unanswered = &refusal{}

// made turns what an encoder returns into the value of an answer.
func made(der []byte, err error) ([]byte, *refusal) {
	if err != nil {
		if errors.Is(err, cms.ErrLimit) {
			return nil, tooLarge(err)
		}
		return nil, refused(gateway.Internal, "", err)
	}
	return der, nil
}

func tooLarge(err error) *refusal {
	return refused(gateway.Unsupported, "the answer would be too large for a message: ask for less at once; CRLs are to be had over HTTP, too", err)
}

// unparsed refuses a value that does not parse.
func unparsed(q *question, err error) *refusal {
	return refused(gateway.Malformed, "the value of "+cmpmsg.InfoTypeName(q.Type)+" does not parse: "+err.Error(), err)
}

// authority is the CA of the profile that an element is about.
func (g *general) authority(p *gateway.Profile) (*gateway.Authority, *refusal) {
	ca, err := g.x.h.gateway.AuthorityOf(g.x.R.Context(), p)
	if err != nil {
		return nil, &refusal{Refusal: wire.Refusal{Err: gateway.AsError(err)}}
	}
	return ca, nil
}

// caCerts are the certificates of the profile's CA, issuing certificate and root, then those of a rollover (RFC 9810 section
// 5.3.19.14).
func (g *general) caCerts(q *question) ([]byte, *refusal) {
	ca, ref := g.authority(q.profile)
	if ref != nil {
		return nil, ref
	}
	return made(cmpmsg.MarshalSequences(rawOf(ca.Certificates())...))
}

func rawOf(certs []*x509.Certificate) [][]byte {
	list := distinct(certs)
	return list[:min(len(list), maxCACerts)]
}

// maxCACerts bounds caCerts: what clients take, ours among them.
const maxCACerts = 64

// suppLangTags chooses among the languages of the client: the texts here are English (RFC 9810 section 5.3.19.13).
func (g *general) suppLangTags(q *question) ([]byte, *refusal) {
	tags, err := cmpmsg.ParseTexts(q.Value)
	if err != nil {
		return nil, unparsed(q, err)
	}
	for _, tag := range tags {
		if isEnglish(tag) {
			return made(cmpmsg.MarshalTexts(tag))
		}
	}
	return nil, refused(gateway.Unsupported, "the texts of this server are in English (en)", nil)
}

// isEnglish reports whether a language tag is of English (RFC 5646 section 2.1.1: in letters of either case).
func isEnglish(tag string) bool {
	language, _, _ := strings.Cut(tag, "-")
	return strings.EqualFold(language, "en")
}
